package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// maxFile bounds a key file of a directory; the largest key that may sign, RSA
// with 16384 bits, takes 13 kB. maxImport bounds a file with several keys.
const (
	maxFile   = 64 << 10
	maxImport = 4 << 20
)

// ReadFile reads all keys in a file that someone wants to import. It refuses,
// with [ErrShared], files that group or others may read or write (not on
// Windows, where folders decide); errors of the file system are returned as
// they are; else as [Parse].
func ReadFile(path string) ([]*Block, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, mode, err := readAll(f, maxImport)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	if err := checkMode(path, mode); err != nil {
		return nil, err
	}
	return Parse(raw)
}

// maxSecret bounds the file of a passphrase or PIN, in bytes.
const maxSecret = 4096

// ReadSecret reads a file that holds a passphrase or PIN, and at most a newline
// after it. The error matches [ErrSharedSecret] if others can read or write it.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case checkMode(path, st.Mode()) != nil:
		return nil, ErrSharedSecret
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxSecret {
		clear(raw)
		return nil, fmt.Errorf("it is larger than %d bytes", maxSecret)
	}
	secret := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(secret) == 0 {
		return nil, errors.New("it is empty")
	}
	return secret, nil
}

// checkMode refuses a file whose mode opens it to others (attacks.md N5).
func checkMode(path string, mode fs.FileMode) error {
	if runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return &SharedFile{Path: path}
	}
	return nil
}

// readAll reads a regular file of at most limit bytes.
func readAll(f *os.File, limit int64) ([]byte, fs.FileMode, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, broken("%s is not a regular file", f.Name())
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(raw)) > limit {
		clear(raw)
		return nil, 0, broken("%s is larger than %d bytes", f.Name(), limit)
	}
	return raw, st.Mode(), nil
}

// errIrregular says that a name stands for something else than a file: such
// things are as good as absent, because the stock programs ignore them too.
var errIrregular = errors.New("not a regular file")

// readRegular reads the file at path, and never through a symbolic link.
func readRegular(path string) ([]byte, fs.FileMode, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, 0, err
	}
	if !before.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: %w", path, errIrregular)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	// The name may have become a link after the look at it.
	if now, err := f.Stat(); err != nil || !os.SameFile(before, now) {
		return nil, 0, fmt.Errorf("%s: %w", path, errIrregular)
	}
	return readAll(f, maxFile)
}

// readBlock reads the first key of a file. Its mode is returned also when the
// content is broken.
func readBlock(path string) (*Block, fs.FileMode, error) {
	raw, mode, err := readRegular(path)
	if err != nil {
		return nil, 0, err
	}
	defer clear(raw)
	blocks, err := Parse(raw)
	if err != nil {
		return nil, mode, fmt.Errorf("%s: %w", path, err)
	}
	return blocks[0], mode, nil
}

// replaceFile puts raw at path: whole or not at all, also when the power fails,
// and readable by its owner only from the first byte. fault is called before
// each step; its error counts as that of the step.
func replaceFile(path string, raw []byte, fault func(step string) error) (err error) {
	if fault == nil {
		fault = func(string) error { return nil }
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	// CreateTemp makes files of mode 0600. The name does not end in ".key".
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()           // closed already, or about to be removed
			_ = os.Remove(tmp.Name()) // the first error is the one that counts
		}
	}()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := tmp.Write(raw); return err }},
		{"sync", tmp.Sync},
		{"close", tmp.Close},
		{"rename", func() error { return os.Rename(tmp.Name(), path) }},
	} {
		if err := fault(step.name); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// makeDir makes dir and what is missing above it, for the owner only.
func makeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes changes of names in dir last.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
