package trust

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// Staged is a change file (notary-protocol 6.3): a change that waits to be
// published, whoever staged it.
type Staged struct {
	Name string // of the file; names sort in the order in which they apply
	Raw  []byte // nil if the file cannot be read

	// What the file says, for people; empty if it cannot be read. Any bytes
	// may be in it.
	Action, Role, Type, Path string

	// Change is what publishing the file means, nil if that is not understood.
	Change tuf.Change
}

const (
	changeSuffix = ".change"
	maxChange    = 4 << 20 // bytes of one change file
	maxChanges   = 10000   // change files of one repository
)

// A changeFile is the content of a change file, its members in the order in
// which the stock programs write them.
type changeFile struct {
	Action string `json:"action"`
	Role   string `json:"role"`
	Type   string `json:"type"`
	Path   string `json:"path"`
	Data   []byte `json:"data"` // JSON, or null
}

type targetData struct {
	Length int64             `json:"length"`
	Hashes map[string][]byte `json:"hashes"`
	Custom json.RawMessage   `json:"custom,omitempty"`
}

type delegationData struct {
	Threshold   int               `json:"threshold,omitempty"`
	AddKeys     []stockKey        `json:"add_keys,omitempty"`
	RemoveKeys  []tuf.CanonicalID `json:"remove_keys,omitempty"`
	AddPaths    []string          `json:"add_paths,omitempty"`
	RemovePaths []string          `json:"remove_paths,omitempty"`
	ClearPaths  bool              `json:"clear_paths,omitempty"`
}

// A stockKey is written as the stock programs do, the public half first.
type stockKey struct{ tuf.PublicKey }

func (k stockKey) MarshalJSON() ([]byte, error) { return api.EncodeKey(k.PublicKey) }

func stockKeys(ks []tuf.PublicKey) (out []stockKey) {
	for _, k := range ks {
		out = append(out, stockKey{k})
	}
	return out
}

func publicKeys(ks []stockKey) (out []tuf.PublicKey) {
	for _, k := range ks {
		out = append(out, k.PublicKey)
	}
	return out
}

// Staged returns the staged changes in the order in which they apply. Files
// that cannot be read or understood are listed as such, not left out.
func (r *Repository) Staged() ([]Staged, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	root, err := r.c.Dir.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	folder := gunDir(r.gun) + "/" + changelistDir
	entries, err := fs.ReadDir(root.FS(), folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Staged
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), changeSuffix) || e.IsDir() {
			continue
		}
		if len(out) == maxChanges {
			return nil, fmt.Errorf("%s: %w: more than %d changes", r.c.Dir.file(folder), tuf.ErrLimit, maxChanges)
		}
		s := Staged{Name: e.Name()}
		if e.Type().IsRegular() {
			if raw, err := readFile(root, folder+"/"+e.Name(), maxChange); err == nil {
				s.read(raw)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Staged) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// read fills in what raw says.
func (s *Staged) read(raw []byte) {
	s.Raw = raw
	var f changeFile
	if strict(raw, &f) != nil {
		return
	}
	s.Action, s.Role, s.Type, s.Path = f.Action, f.Role, f.Type, f.Path
	s.Change = f.change()
}

// strict decodes JSON that has no member twice and none that v lacks. Its error
// is one line of bounded length, though it can repeat what stands there.
func strict(raw []byte, v any) error {
	if _, err := tuf.Canonical(raw); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		text := printable(err.Error())
		if len(text) > 300 {
			text = strings.ToValidUTF8(text[:300], "") + "…"
		}
		return errors.New(text)
	}
	return nil
}

// change says what a file means, nil if it is not understood.
func (f changeFile) change() tuf.Change {
	role := tuf.RoleName(f.Role)
	switch f.Type {
	case "target":
		return f.targetChange(role)
	case "delegation":
		if f.Path == "" {
			return f.delegationChange(role)
		}
	case "witness":
		if f.Action == "update" && f.Path == "" && role.HoldsTargets() {
			return tuf.Resign{Role: role}
		}
	}
	return nil
}

func (f changeFile) targetChange(role tuf.RoleName) tuf.Change {
	if !role.HoldsTargets() || f.Path == "" {
		return nil
	}
	switch f.Action {
	case "delete":
		return tuf.RemoveTarget{Role: role, Name: f.Path}
	case "create":
		var d targetData
		if strict(f.Data, &d) != nil || d.Length < 0 || len(d.Hashes) == 0 {
			return nil
		}
		t := tuf.Target{Name: f.Path, Role: role, FileMeta: tuf.FileMeta{Length: d.Length, Hashes: d.Hashes}}
		if len(d.Custom) > 0 && string(d.Custom) != "null" {
			custom, err := tuf.Canonical(d.Custom)
			if err != nil {
				return nil
			}
			t.Custom = custom
		}
		return tuf.AddTarget{Target: t}
	}
	return nil
}

func (f changeFile) delegationChange(role tuf.RoleName) tuf.Change {
	if f.Action == "delete" && role.Delegation() {
		return tuf.RemoveDelegation{Name: role}
	}
	var d delegationData
	if f.Action != "create" && f.Action != "update" || strict(f.Data, &d) != nil || d.Threshold < 0 {
		return nil
	}
	if under, ok := strings.CutSuffix(f.Role, "/*"); ok {
		only := delegationData{RemoveKeys: d.RemoveKeys}
		if f.Action != "update" || len(d.RemoveKeys) == 0 || !sameData(d, only) || !tuf.RoleName(under).HoldsTargets() {
			return nil
		}
		return tuf.PurgeKeys{Under: tuf.RoleName(under), Keys: d.RemoveKeys}
	}
	if !role.Delegation() {
		return nil
	}
	// To create a delegation that exists means to add to it, as with the
	// stock programs: keys and paths come in two files.
	return tuf.EditDelegation{
		Role: role, AddKeys: publicKeys(d.AddKeys), RemoveKeys: d.RemoveKeys, AddPaths: d.AddPaths, RemovePaths: d.RemovePaths,
		ClearPaths: d.ClearPaths, Threshold: d.Threshold,
	}
}

func sameData(a, b delegationData) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// filesOf writes a change as the stock programs do. The error matches
// [tuf.ErrRole] for a change that has no such form.
func filesOf(c tuf.Change) ([]changeFile, error) {
	switch c := c.(type) {
	case tuf.AddTarget:
		data, err := json.Marshal(targetData{c.Target.Length, c.Target.Hashes, c.Target.Custom})
		return []changeFile{{"create", orTargets(c.Target.Role), "target", c.Target.Name, data}}, err
	case tuf.RemoveTarget:
		return []changeFile{{"delete", orTargets(c.Role), "target", c.Name, nil}}, nil
	case tuf.RemoveDelegation:
		return []changeFile{{"delete", string(c.Name), "delegation", "", nil}}, nil
	case tuf.Resign:
		return []changeFile{{"update", string(c.Role), "witness", "", nil}}, nil
	case tuf.PurgeKeys:
		data, err := json.Marshal(delegationData{RemoveKeys: c.Keys})
		return []changeFile{{"update", orTargets(c.Under) + "/*", "delegation", "", data}}, err
	case tuf.EditDelegation:
		return delegationFiles(c)
	}
	return nil, fmt.Errorf("%w: a change of type %T cannot be staged", tuf.ErrRole, c)
}

// delegationFiles writes what only adds as creations, keys before paths, and
// everything else as one update.
func delegationFiles(c tuf.EditDelegation) ([]changeFile, error) {
	var parts []delegationData
	action := "update"
	if len(c.RemoveKeys) == 0 && len(c.RemovePaths) == 0 && !c.ClearPaths && len(c.AddKeys)+len(c.AddPaths) > 0 {
		action = "create"
		if len(c.AddKeys) > 0 {
			parts = append(parts, delegationData{Threshold: max(1, c.Threshold), AddKeys: stockKeys(c.AddKeys)})
		}
		if len(c.AddPaths) > 0 {
			parts = append(parts, delegationData{AddPaths: c.AddPaths})
		}
		if len(c.AddKeys) == 0 {
			parts[0].Threshold = c.Threshold
		}
	} else {
		parts = append(parts, delegationData{c.Threshold, stockKeys(c.AddKeys), c.RemoveKeys, c.AddPaths, c.RemovePaths, c.ClearPaths})
	}
	var files []changeFile
	for _, p := range parts {
		data, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		files = append(files, changeFile{action, string(c.Role), "delegation", "", data})
	}
	return files, nil
}

func orTargets(r tuf.RoleName) string {
	if r == "" {
		r = tuf.RoleTargets
	}
	return string(r)
}

// Stage saves changes for a later [Repository.PublishStaged], of this program
// or of a stock one, after those that are staged already. The error matches
// [tuf.ErrRole], and nothing is staged, if one of them has no change file's
// form: [tuf.ReplaceKeys].
func (r *Repository) Stage(changes ...tuf.Change) error {
	if err := check(r.gun); err != nil {
		return err
	}
	var files []changeFile
	for _, c := range changes {
		more, err := filesOf(c)
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	root, err := r.c.Dir.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := r.c.Dir.lock(root, r.gun)
	if err != nil {
		return err
	}
	defer unlock()
	staged, err := r.Staged()
	if err != nil {
		return err
	}
	at := r.c.Now().UnixNano()
	if len(staged) > 0 {
		at = max(at, instant(staged[len(staged)-1].Name)+1)
	}
	for i, f := range files {
		raw, err := json.Marshal(f)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s/%s/%020d_%s%s", gunDir(r.gun), changelistDir, at+int64(i), uuid(), changeSuffix)
		if err := r.c.Dir.write(root, name, raw); err != nil {
			return fmt.Errorf("stage a change of %s: %w", r.gun, err)
		}
	}
	return nil
}

// instant reads the nanoseconds from a change file's name; 0 if it has none.
func instant(name string) int64 {
	digits, _, _ := strings.Cut(name, "_")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > int64(1<<63-1-time.Hour) {
		return 0
	}
	return n
}

// uuid returns a random UUID (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Reset drops the staged changes of those names. One that is not there any
// more is no error.
func (r *Repository) Reset(names ...string) error {
	if err := check(r.gun); err != nil {
		return err
	}
	root, err := r.c.Dir.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range names {
		if strings.ContainsAny(name, `/\`) || !strings.HasSuffix(name, changeSuffix) {
			return fmt.Errorf("%q is not the name of a staged change", name)
		}
		path := gunDir(r.gun) + "/" + changelistDir + "/" + name
		if err := root.Remove(filepath.FromSlash(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reset a staged change of %s: %w", r.gun, err)
		}
	}
	return nil
}
