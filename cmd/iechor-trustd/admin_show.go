package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/server"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

type showOptions struct {
	incarnation int // 0: the newest
	json, tags  bool
	export      string
}

func newAdminShowCmd(a *app) *cobra.Command {
	var o showOptions
	c := &cobra.Command{
		Use:   "show REPOSITORY",
		Short: "Show a repository, also one that was deleted or reset",
		Long: `Example: iechor-trustd admin show registry.example/app --config /etc/iechor-trustd/server.yaml

Shows the roles of a repository with their keys, versions and expiry, its tags,
its incarnations, and who published last. Everything is verified first, as a
client that knows nothing of the repository would.

A deletion or a reset ends an incarnation. --incarnation N shows one that ended,
as long as its files are kept, verified as of its end. --json prints it as JSON,
with all tags: from that the owner of a repository that was reset signs its tags
again. --export DIR puts the same and every file that is kept into a new folder.`,
		Args: cobra.ArbitraryArgs,
	}
	c.Flags().IntVar(&o.incarnation, "incarnation", 0, "the number of the incarnation to show (default: the newest)")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON, with all tags")
	c.Flags().BoolVar(&o.tags, "tags", false, "list the tags")
	c.Flags().StringVar(&o.export, "export", "", "put everything that is kept into this new folder")
	return a.adminCommand(c, true, func(ctx context.Context, s *admin, args []string) error {
		gun, err := oneRepository(args)
		if err != nil {
			return err
		}
		return s.show(ctx, gun, o)
	})
}

// A shown is what "admin show" prints: one incarnation of a repository.
type shown struct {
	Repository   tuf.GUN        `json:"repository"`
	Incarnation  int            `json:"incarnation"`
	State        string         `json:"state"`    // published or ended
	Verified     bool           `json:"verified"` // false: clients would refuse it, and no tags are listed
	Problems     []string       `json:"problems,omitempty"`
	Roles        []*shownRole   `json:"roles"`
	Tags         []shownTag     `json:"tags"`
	Incarnations []shownPast    `json:"incarnations"`
	History      []shownHistory `json:"history"`
}

type shownRole struct {
	Role      tuf.RoleName `json:"role"`
	Version   int64        `json:"version"`
	Expires   time.Time    `json:"expires"`
	Committed time.Time    `json:"committed"`
	SHA256    string       `json:"sha256"`
	Length    int64        `json:"length"`
	Threshold int          `json:"threshold,omitempty"`
	Signers   []tuf.KeyID  `json:"signers,omitempty"`
	Keys      []shownKey   `json:"keys,omitempty"`
	Paths     []string     `json:"paths,omitempty"`
}

type shownKey struct {
	ID        tuf.KeyID       `json:"id"`
	Canonical tuf.CanonicalID `json:"canonical"` // the id of the bare key, under which the signer and key stores have it
	Type      tuf.KeyType     `json:"type"`
	Expires   *time.Time      `json:"expires,omitempty"` // of its certificate
	Held      *bool           `json:"held,omitempty"`    // by the signer; absent where it is no key of the server, or was not asked
}

type shownTag struct {
	Name   string            `json:"name"`
	Role   tuf.RoleName      `json:"role"`
	Length int64             `json:"length"`
	Hashes map[string]string `json:"hashes"` // hex
	Custom json.RawMessage   `json:"custom,omitempty"`
}

type shownPast struct {
	Number int         `json:"number"`
	Began  time.Time   `json:"began"`
	Ended  *time.Time  `json:"ended,omitempty"`
	By     storage.Act `json:"by,omitempty"` // delete or reset
}

// shownHistory is a record of the audit trail.
type shownHistory struct {
	ID int64 `json:"id"`
	storage.AuditRecord
}

// held reports whether the signer is known to hold a key of the role.
func (v *shown) held(role tuf.RoleName) bool {
	return slices.ContainsFunc(v.Roles, func(r *shownRole) bool {
		return r.Role == role && slices.ContainsFunc(r.Keys, func(k shownKey) bool { return k.Held != nil && *k.Held })
	})
}

func (s *admin) show(ctx context.Context, gun tuf.GUN, o showOptions) error {
	all, err := s.incarnations(ctx, gun)
	if err != nil {
		return err
	}
	if o.incarnation == 0 {
		o.incarnation = len(all)
	}
	if o.incarnation < 1 || o.incarnation > len(all) {
		return fmt.Errorf("%s has %s, and no number %d", gun, plural(len(all), "incarnation"), o.incarnation)
	}
	chosen := all[o.incarnation-1]
	v, err := s.view(ctx, chosen)
	if err != nil {
		return err
	}
	for _, i := range all {
		p := shownPast{Number: i.Number, Began: i.Began, By: i.By}
		if !i.Lives() {
			p.Ended = &i.Ended
		}
		v.Incarnations = append(v.Incarnations, p)
	}
	records, err := s.store.Audit(ctx, storage.AuditQuery{GUN: gun, Limit: historyKept, Backwards: true})
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(records) {
		v.History = append(v.History, shownHistory{r.Link.ID, r})
	}
	if o.export != "" {
		if err := s.export(ctx, chosen, v, o.export); err != nil {
			return fmt.Errorf("export %s: %w", gun, err)
		}
	}
	if o.json {
		e := json.NewEncoder(s.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return s.printShown(v, o.tags)
}

const (
	historyKept  = 1000 // records of the trail in the JSON form
	historyShown = 10   // and for people
)

// view verifies an incarnation and describes what it is, or was at its end.
func (s *admin) view(ctx context.Context, i storage.Incarnation) (*shown, error) {
	v := &shown{Repository: i.GUN, Incarnation: i.Number, State: publishedState, Roles: []*shownRole{}, Tags: []shownTag{}}
	at := s.now()
	if !i.Lives() {
		v.State, at = endedState, i.Ended
	}
	final, files, err := s.final(ctx, i)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		v.Problems = append(v.Problems, "none of its files is kept any more")
		return v, nil
	}
	set := readFiles(i.GUN, files, at, func(text string) { v.Problems = append(v.Problems, text) })
	for _, k := range final {
		v.Roles = append(v.Roles, &shownRole{Role: k.Role, Version: k.Version, Expires: k.Expires, Committed: k.Created,
			SHA256: hex.EncodeToString(k.SHA256[:]), Length: k.Length})
	}
	slices.SortFunc(v.Roles, func(a, b *shownRole) int {
		return cmp.Or(rank(a.Role)-rank(b.Role), strings.Compare(string(a.Role), string(b.Role)))
	})
	if set == nil {
		return v, nil
	}
	v.Verified = true
	for _, u := range set.Unusable() {
		v.Problems = append(v.Problems, fmt.Sprintf("%s does not count: %v", u.Role, u.Err.Err))
	}
	for _, r := range v.Roles {
		if err := s.describe(ctx, i, set, r); err != nil {
			return nil, err
		}
		if !r.Role.HoldsTargets() {
			continue
		}
		for target := range set.Targets(r.Role) {
			v.Tags = append(v.Tags, shownTag{target.Name, target.Role, target.Length, hashes(target), target.Custom})
		}
	}
	slices.SortFunc(v.Tags, func(a, b shownTag) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Role), string(b.Role)))
	})
	return v, nil
}

// readFiles verifies the files of a repository as of that time.
func readFiles(gun tuf.GUN, files map[tuf.RoleName][]byte, at time.Time, report func(string)) *tuf.Set {
	return server.Inspect(gun, files, at, func(role tuf.RoleName, err error) {
		if role != "" {
			err = fmt.Errorf("%s: %w", role, err)
		}
		report(err.Error())
	})
}

// final reads the files that are current, or were at the end of i, and still
// kept.
func (s *admin) final(ctx context.Context, i storage.Incarnation) ([]storage.Kept, map[tuf.RoleName][]byte, error) {
	var all []storage.Kept
	files := map[tuf.RoleName][]byte{}
	err := s.eachKept(ctx, i, func(k storage.Kept, raw []byte) error {
		all, files[k.Role] = append(all, k), raw
		return nil
	}, func(k storage.Kept) bool { return k.Final })
	return all, files, err
}

// eachKept calls fn for the kept files of i that are wanted.
func (s *admin) eachKept(ctx context.Context, i storage.Incarnation, fn func(storage.Kept, []byte) error, wanted func(storage.Kept) bool) error {
	var after storage.Kept
	for {
		page, err := s.store.Kept(ctx, i, after, 0)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, k := range page {
			after = k
			if !wanted(k) {
				continue
			}
			raw, err := s.store.Raw(ctx, i, k)
			if errors.Is(err, storage.ErrNotFound) {
				continue // pruned at this moment
			}
			if err == nil {
				err = fn(k, raw)
			}
			if err != nil {
				return err
			}
		}
	}
}

// describe adds what a verified state says of a role.
func (s *admin) describe(ctx context.Context, i storage.Incarnation, set *tuf.Set, r *shownRole) error {
	role, ok := set.Role(r.Role)
	if !ok {
		return nil // a file that nothing refers to
	}
	r.Threshold = role.Threshold
	if info, ok := set.Info(r.Role); ok {
		r.Signers = info.Signers
	}
	if r.Role.Delegation() {
		r.Paths = set.Paths(r.Role)
	}
	for _, k := range role.Keys {
		key := shownKey{ID: k.ID, Canonical: k.CanonicalID(), Type: k.Type}
		if certificates, err := k.Certificates(); err == nil && len(certificates) > 0 {
			key.Expires = &certificates[0].NotAfter
		}
		if s.keys != nil && (r.Role == tuf.RoleSnapshot || r.Role == tuf.RoleTimestamp) {
			var err error
			if key.Held, err = s.holds(ctx, i.GUN, r.Role, key.Canonical); err != nil {
				return err
			}
		}
		r.Keys = append(r.Keys, key)
	}
	return nil
}

// rank is the order in which roles are shown.
func rank(r tuf.RoleName) int {
	return slices.Index([]tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, r}, r)
}

func hashes(t tuf.Target) map[string]string {
	all := map[string]string{}
	for algorithm, sum := range t.Hashes {
		all[algorithm] = hex.EncodeToString(sum)
	}
	return all
}

func (s *admin) printShown(v *shown, tags bool) error {
	fmt.Fprintf(s.out, "%s: %s, incarnation %d of %d\n", v.Repository, v.State, v.Incarnation, len(v.Incarnations))
	for _, p := range v.Incarnations {
		switch {
		case p.Ended == nil:
			fmt.Fprintf(s.out, "  %d: since %s\n", p.Number, date(p.Began))
		default:
			fmt.Fprintf(s.out, "  %d: from %s to %s, ended by %s\n", p.Number, date(p.Began), date(*p.Ended), p.By)
		}
	}
	for _, p := range v.Problems {
		fmt.Fprintf(s.out, "problem: %s\n", printable(p))
	}
	if len(v.Roles) > 0 {
		fmt.Fprintln(s.out)
	}
	t := s.table()
	if len(v.Roles) > 0 {
		fmt.Fprintln(t, "ROLE\tVERSION\tCOMMITTED\tEXPIRES\tSIGNED BY\tKEYS")
	}
	for _, r := range v.Roles {
		signed := "-"
		if r.Threshold > 0 {
			signed = fmt.Sprintf("%d, needs %d", len(r.Signers), r.Threshold)
		}
		for n, k := range r.Keys {
			if n == 0 {
				fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", r.Role, r.Version, date(r.Committed), date(r.Expires), signed, k)
			} else {
				fmt.Fprintf(t, "\t\t\t\t\t%s\n", k)
			}
		}
		if len(r.Keys) == 0 {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t-\n", r.Role, r.Version, date(r.Committed), date(r.Expires), signed)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if v.Verified && !tags {
		fmt.Fprintf(s.out, "\n%s; --tags lists them\n", plural(len(v.Tags), "tag"))
	}
	if v.Verified && tags {
		fmt.Fprintf(s.out, "\n%s:\n", plural(len(v.Tags), "tag"))
		for _, tag := range v.Tags {
			fmt.Fprintf(t, "  %s\tsha256:%s\t%d\t%s\n", printable(tag.Name), tag.Hashes["sha256"], tag.Length, tag.Role)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(v.History) > 0 {
		fmt.Fprintf(s.out, "\nnewest entries of the audit trail:\n")
		for _, h := range v.History[max(0, len(v.History)-historyShown):] {
			fmt.Fprintf(t, "  %s\n", auditLine(h.AuditRecord, false))
		}
	}
	return t.Flush()
}

// String is how people see a key.
func (k shownKey) String() string {
	text := fmt.Sprintf("%s %s", k.Type, k.ID)
	if k.Expires != nil {
		text += ", certificate until " + date(*k.Expires)
	}
	switch {
	case k.Held == nil:
	case *k.Held:
		text += ", held by the signer"
	default:
		text += ", not held by the signer"
	}
	return printable(text)
}

// export puts the files that are kept of i, and v, into a new folder, whole or
// not at all.
func (s *admin) export(ctx context.Context, i storage.Incarnation, v *shown, dir string) (err error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already: name a new folder", dir)
	}
	made, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".export")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(made) // half an export is none
		}
	}()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(made, "show.json"), append(raw, '\n')); err != nil {
		return err
	}
	again := map[string]int{} // a delegation that came back has had a version twice
	err = s.eachKept(ctx, i, func(k storage.Kept, raw []byte) error {
		name := exportName(k.Version, k.Role)
		if again[name]++; again[name] > 1 {
			name = fmt.Sprintf("%s.%d", name, again[name])
		}
		return writeSynced(filepath.Join(made, name+".json"), raw)
	}, func(storage.Kept) bool { return true })
	if err != nil {
		return err
	}
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	return os.Rename(made, dir)
}

// exportName is what the file of a role is called in an export, without .json. A
// name that would be too long for a file ends in a hash of the role's.
func exportName(version int64, role tuf.RoleName) string {
	name := fmt.Sprintf("%d.%s", version, url.PathEscape(string(role)))
	if len(name) > maxExportName {
		name = fmt.Sprintf("%s~%x", name[:maxExportName-65], sha256.Sum256([]byte(role)))
	}
	return name
}

// maxExportName leaves room for what is put behind a name, in bytes.
const maxExportName = 240

func writeSynced(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Sync(), f.Close())
}
