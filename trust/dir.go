package trust

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// A Dir is the trust directory, by default ~/.iechor/trust: verified metadata
// and change files, in the layout that the notary and docker programs share
// (notary-protocol 6), and beside them, in state/, what only we remember.
//
// Files are 0600 and folders 0700 from the first byte. Every file is replaced
// as a whole: written beside, synced, renamed. A crash at any point leaves a
// directory that can be used. Nothing outside of the directory is ever opened,
// also not through a link.
//
// A Dir is safe for concurrent use, also by several processes.
type Dir struct {
	path string

	// testOnlyWrite, if set, is called before each change of a file, and its
	// error stops the work as a crash would.
	testOnlyWrite func(name string) error
}

// NewDir returns the directory at path. It does not touch the disk: folders
// are made when something is saved.
func NewDir(path string) *Dir { return &Dir{path: path} }

// Path returns the directory's path.
func (d *Dir) Path() string { return d.path }

// Folder returns the path of the folder with the metadata and the change files
// of gun, whether it is there or not. On Windows it is not always what its name
// suggests: a colon is no part of a name there.
func (d *Dir) Folder(gun tuf.GUN) string { return d.file(gunDir(gun)) }

// maxFiles bounds how many files of one repository are read.
const maxFiles = 10000

// open opens the directory. The error matches fs.ErrNotExist if it is not
// there and create is false.
func (d *Dir) open(create bool) (*os.Root, error) {
	if create {
		if err := os.MkdirAll(d.path, 0o700); err != nil {
			return nil, err
		}
	}
	return os.OpenRoot(d.path)
}

// file returns a file's path for people.
func (d *Dir) file(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

func check(gun tuf.GUN) error {
	if !gun.Valid() {
		return fmt.Errorf("%w: %q", ErrName, string(gun))
	}
	return nil
}

// Load returns the files of gun that are at hand, root first, as they are;
// none if there is nothing. It looks into none of them, and leaves their
// Version 0: that is the work of [tuf.Recall], to which they go next. Files that
// cannot be read are left out if they can be had again; if the root is
// unreadable, or missing where other files are there, the error is a
// [*Damaged] (attacks.md F7).
func (d *Dir) Load(gun tuf.GUN, l tuf.Limits) ([]tuf.File, error) {
	if err := check(gun); err != nil {
		return nil, err
	}
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return d.load(root, gun, l)
}

func (d *Dir) load(root *os.Root, gun tuf.GUN, l tuf.Limits) ([]tuf.File, error) {
	var files []tuf.File
	folder := gunDir(gun) + "/" + metadataDir
	rootPath := pathOf(gun, tuf.RoleRoot)
	seen := 0
	err := fs.WalkDir(root.FS(), folder, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxFiles {
			return fmt.Errorf("%s: %w: more than %d files", d.file(folder), tuf.ErrLimit, maxFiles)
		}
		role, ok := roleAt(gun, folder, name)
		if !ok || e.IsDir() {
			return nil
		}
		if !e.Type().IsRegular() {
			if role == tuf.RoleRoot {
				return &Damaged{gun, d.file(name), errors.New("is not a regular file")}
			}
			return nil
		}
		raw, err := readFile(root, name, fileLimit(l, role))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced or forgotten meanwhile
		}
		if err != nil {
			if role == tuf.RoleRoot || !errors.Is(err, tuf.ErrLimit) {
				return &Damaged{gun, d.file(name), err}
			}
			return nil
		}
		files = append(files, tuf.File{Role: role, Raw: raw})
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b tuf.File) int {
		return cmp.Or(rank(a.Role)-rank(b.Role), strings.Compare(string(a.Role), string(b.Role)))
	})
	if len(files) > 0 && files[0].Role != tuf.RoleRoot {
		return nil, &Damaged{gun, d.file(rootPath), errMissing}
	}
	return files, nil
}

// rank puts the root before everything else, and parents before children.
func rank(r tuf.RoleName) int {
	switch r {
	case tuf.RoleRoot:
		return 0
	case tuf.RoleTimestamp:
		return 1
	case tuf.RoleSnapshot:
		return 2
	}
	return 3 + strings.Count(string(r), "/")
}

// roleAt is the inverse of pathOf for one GUN.
func roleAt(gun tuf.GUN, folder, name string) (tuf.RoleName, bool) {
	rel, ok := strings.CutPrefix(name, folder+"/")
	if !ok {
		return "", false
	}
	rel, ok = strings.CutSuffix(rel, ".json")
	if !ok {
		return "", false
	}
	role := tuf.RoleName(rel)
	if strings.Contains(rel, "%") {
		role = tuf.RoleName(unescape(rel))
	}
	return role, role.Valid() && pathOf(gun, role) == name
}

// unescape undoes %XX. Malformed escapes stay, and then match no path.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.WriteByte(c[0])
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// fileLimit is the most that is read of a cached file of role.
func fileLimit(l tuf.Limits, role tuf.RoleName) int64 {
	d := tuf.DefaultLimits()
	switch role {
	case tuf.RoleRoot:
		return cmp.Or(l.Root, d.Root)
	case tuf.RoleTimestamp:
		return cmp.Or(l.Timestamp, d.Timestamp)
	case tuf.RoleSnapshot:
		return cmp.Or(l.Snapshot, d.Snapshot)
	}
	return cmp.Or(l.Targets, d.Targets)
}

// readFile reads a regular file of at most limit bytes. The error matches
// [tuf.ErrLimit] if it is longer.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%w of %d bytes", tuf.ErrLimit, limit)
	}
	return raw, err
}

// save stores verified files of gun, which is what changed on top of base (nil:
// of nothing): the root first, then the others in the order given.
//
// It never goes back. Under the lock, everything is compared with what is at
// hand by then. If that is another root than base's, or a higher version of one
// of these files, another process was faster; the error is then errMoved, and
// nothing is written.
//
// Versions at hand count only as far as [tuf.Recall] finds their signatures
// good, so that a damaged file does not block its own repair. With set,
// the state that the update led to, what is at hand of delegations that are
// gone is removed: it would only pile up until it is too much to be read
// (attacks.md F8).
func (d *Dir) save(gun tuf.GUN, base *tuf.Past, files []tuf.File, o tuf.Options, set *tuf.Set) error {
	root, err := d.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := d.lock(root, gun)
	if err != nil {
		return err
	}
	defer unlock()
	have, err := d.load(root, gun, o.Limits)
	if err != nil {
		return err
	}
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b tuf.File) int { return min(rank(a.Role), 1) - min(rank(b.Role), 1) })
	if err := moved(gun, base, have, files, o); err != nil {
		return err
	}
	for _, f := range files {
		if slices.ContainsFunc(have, func(h tuf.File) bool { return h.Role == f.Role && bytes.Equal(h.Raw, f.Raw) }) {
			continue
		}
		if err := d.write(root, pathOf(gun, f.Role), f.Raw); err != nil {
			return fmt.Errorf("save %s of %s: %w", f.Role, gun, err)
		}
	}
	for _, f := range have {
		if set == nil || !set.Gone(f.Role) {
			continue
		}
		if err := d.clear(root, pathOf(gun, f.Role), gunDir(gun)+"/"+metadataDir); err != nil {
			return fmt.Errorf("remove %s of %s, which is no longer delegated: %w", f.Role, gun, err)
		}
	}
	return nil
}

// clear removes a file, and the folders up to top that are empty then.
func (d *Dir) clear(root *os.Root, name, top string) error {
	if err := d.before(name + " (remove)"); err != nil {
		return err
	}
	if err := root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for folder := path.Dir(name); folder != top; folder = path.Dir(folder) {
		if root.Remove(filepath.FromSlash(folder)) != nil {
			break // not empty
		}
	}
	return nil
}

// moved says whether another process came between: what is at hand now is
// compared with what was at hand, and where it differs, with what is to be
// saved. Undisturbed, versions may also go down: that is how a new root cures
// a fast-forward (attacks.md F12).
func moved(gun tuf.GUN, base *tuf.Past, have, files []tuf.File, o tuf.Options) error {
	if base == nil {
		if len(have) == 0 {
			return nil
		}
		return errMoved
	}
	same := func(a, b tuf.File) bool { return a.Role == b.Role && bytes.Equal(a.Raw, b.Raw) }
	if slices.EqualFunc(byRole(base.Files()), byRole(have), same) {
		return nil
	}
	if len(have) == 0 || !same(base.Root(), have[0]) {
		return errMoved
	}
	past, err := tuf.Recall(gun, have, o)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Version < past.Floor(f.Role) {
			return errMoved
		}
	}
	return nil
}

func byRole(files []tuf.File) []tuf.File {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b tuf.File) int { return strings.Compare(string(a.Role), string(b.Role)) })
	return files
}

// Forget removes the metadata of gun and what we remember of it, in one step:
// the next update trusts its root anew. Change files and keys stay. It is no
// error if there was nothing.
func (d *Dir) Forget(gun tuf.GUN) error { return d.remove(gun, metadataDir) }

// Drop is Forget, and removes the change files too.
func (d *Dir) Drop(gun tuf.GUN) error { return d.remove(gun, metadataDir, changelistDir) }

func (d *Dir) remove(gun tuf.GUN, folders ...string) error {
	if err := check(gun); err != nil {
		return err
	}
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := d.lock(root, gun)
	if err != nil {
		return err
	}
	defer unlock()
	base := gunDir(gun)
	for _, folder := range folders {
		// "%" is in no GUN, so the new name is nobody's. The rename is what
		// makes the removal a single step.
		gone := base + "/" + temporary()
		if err := d.before(base + "/" + folder); err != nil {
			return err
		}
		err := root.Rename(filepath.FromSlash(base+"/"+folder), filepath.FromSlash(gone))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("forget %s: %w", gun, err)
		}
		if err := root.RemoveAll(filepath.FromSlash(gone)); err != nil {
			return fmt.Errorf("forget %s: %w", gun, err)
		}
	}
	err = root.Remove(filepath.FromSlash(stateName(gun)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", gun, err)
	}
	for p := base; p != "tuf"; p = path.Dir(p) {
		if root.Remove(filepath.FromSlash(p)) != nil {
			break // not empty: another repository lives below or beside it
		}
	}
	return nil
}

func (d *Dir) before(name string) error {
	if d.testOnlyWrite == nil {
		return nil
	}
	return d.testOnlyWrite(name)
}

// temporary returns a new name that no role, GUN or change file can have.
func temporary() string {
	return "%tmp-" + strings.ToLower(rand.Text()[:12])
}

// write replaces the file name with raw: a new file beside it, synced, renamed
// over it, and the folder synced.
func (d *Dir) write(root *os.Root, name string, raw []byte) (err error) {
	folder := filepath.FromSlash(path.Dir(name))
	if err := d.before(name); err != nil {
		return err
	}
	if err := root.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	temp := filepath.Join(folder, temporary())
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temp) // it is only litter; the first error is what matters
		}
	}()
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = d.before(name + " (rename)")
	}
	if err == nil {
		err = root.Rename(temp, filepath.FromSlash(name))
	}
	if err != nil {
		return err
	}
	return syncDir(root, folder)
}

// syncDir makes a rename durable, where the system has a way to.
func syncDir(root *os.Root, folder string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := root.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
