package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// This file puts many keys into a Dir in one step: a backup that is restored
// is there as a whole, or not at all.

// File returns the file of a key as Replace and ReplaceAll would write it, and
// its block. The errors are those of Export.
func (d *Dir) File(ctx context.Context, info Info) ([]byte, *Block, error) {
	if err := d.usable(ctx); err != nil {
		return nil, nil, err
	}
	b, err := d.read(info.ID)
	if err != nil {
		return nil, nil, err
	}
	return b.File(), b, nil
}

// File returns the block as a key file: without its path header.
func (b *Block) File() []byte { return b.encode(b.Info, "") }

// ReplaceAll is Replace for many blocks, all of which become visible in the same
// moment, for every program: whoever looks before, or is stopped before, finds
// the directory as it was. Each block names its id, role and GUN. What else is
// in the directory stays.
//
// The directory itself is exchanged for another one. Where the system cannot do
// that in one step, it takes two; who is killed between them finds the old
// directory restored by the next OpenDir.
func (d *Dir) ReplaceAll(ctx context.Context, blocks []*Block) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	files := map[string][]byte{}
	for _, b := range blocks {
		info, err := d.replaceable(b.Info, b)
		if err != nil {
			return err
		}
		files[filepath.Base(d.file(info.ID))] = b.encode(info, "")
	}
	if err := exchange(d.path, files, d.testOnlyFault); err != nil {
		return fmt.Errorf("replace %s: %w", d.path, err)
	}
	return nil
}

// besides returns the names that stand beside a directory while it is
// exchanged: for the new one, and for the old one where that takes two steps.
func besides(path string) (fresh, old string) {
	parent, base := filepath.Split(path)
	return filepath.Join(parent, "."+base+"-new"), filepath.Join(parent, "."+base+"-old")
}

// exchange puts files into the directory at path, in one step.
func exchange(path string, files map[string][]byte, fault func(step string) error) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // the directory may be on a stick, behind a link
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	fresh, old := besides(path)
	// What is left of an earlier exchange was never in use, or is in use now
	// under its right name.
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(old)); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	gone := ""
	defer func() {
		if err != nil && gone == "" {
			_ = os.RemoveAll(fresh) // the first error is the one that counts
		}
	}()
	if err := carry(path, fresh); err != nil {
		return err
	}
	for name, raw := range files {
		if err := replaceFile(filepath.Join(fresh, name), raw, fault); err != nil {
			return err
		}
	}
	if err := syncDir(fresh); err != nil {
		return err
	}
	if fault != nil {
		if err := fault("exchange"); err != nil {
			return err
		}
	}
	if gone, err = takePlace(fresh, path, old); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil || gone == "" {
		return err
	}
	// Another program may have made a key meanwhile.
	if err := carry(gone, path); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// takePlace makes fresh the directory at path, and returns where what was there
// is now; empty if there was nothing, or if it did not come to that.
func takePlace(fresh, path, old string) (gone string, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", os.Rename(fresh, path)
	}
	err = swapDirs(fresh, path)
	if err == nil {
		return fresh, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return "", err
	}
	if err := os.Rename(path, old); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", errors.Join(err, os.Rename(old, path))
	}
	return old, nil
}

// unfinished returns where the directory of keys is when an exchange in two
// steps was stopped between them, which it ends, unless that is only looked at.
func unfinished(path string, lookOnly bool) string {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	_, old := besides(path)
	if st, err := os.Lstat(old); err != nil || !st.IsDir() {
		return path
	}
	if lookOnly || os.Rename(old, path) != nil {
		return old
	}
	return path
}

// carry has everything that is in one directory in the other one, too, where
// that has nothing of the name. The files are the same ones, where the system
// lets a file have two names. What replaceFile left behind does not count.
func carry(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		here, there := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if strings.HasPrefix(e.Name(), ".new-") {
			continue
		}
		_, err := os.Lstat(there)
		if err == nil && !e.IsDir() {
			continue
		}
		switch {
		case e.IsDir():
			if errors.Is(err, fs.ErrNotExist) {
				err = os.Mkdir(there, 0o700)
			}
			if err == nil {
				err = carry(here, there)
			}
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(here); err == nil {
				err = os.Symlink(target, there)
			}
		case e.Type().IsRegular():
			if err = os.Link(here, there); err != nil {
				err = copyFile(here, there)
			}
		default:
			err = nil // pipes and the like are nobody's key
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file that is as private as the old one.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
