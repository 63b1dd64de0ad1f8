package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/iechor/trust/tuf"
)

// migrate brings the layout of Notary before 0.4 (root_keys, tuf_keys) into
// that of today (notary-protocol 6.1). Each key is written and synced in its
// new place before the old file goes. What is no key, is broken, or is there
// already with other content, stays where it is and is reported.
func migrate(dir string) []Problem {
	var problems []Problem
	for _, name := range legacyDirs {
		root := filepath.Join(dir, name)
		if st, err := os.Lstat(root); err != nil || !st.IsDir() {
			continue
		}
		var dirs []string
		files := 0
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.IsDir() {
				dirs = append(dirs, path)
				return nil
			}
			if files++; files > maxFiles {
				return broken("more than %d files", maxFiles)
			}
			if !e.Type().IsRegular() || !strings.HasSuffix(path, ".key") {
				return nil
			}
			if err := migrateFile(dir, path); err != nil {
				problems = append(problems, Problem{Path: path, Err: err})
			}
			return nil
		})
		if err != nil {
			problems = append(problems, Problem{Path: root, Err: err})
		}
		// Deepest first; those with something left in them refuse to go.
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i])
		}
	}
	return problems
}

// migrateFile moves one key.
func migrateFile(dir, path string) error {
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	named, ok := legacyPath(strings.TrimSuffix(filepath.ToSlash(rel), ".key"))
	if !ok {
		return broken("its name has no key id")
	}
	b, mode, err := readBlock(path)
	if err != nil {
		return err
	}
	if err := checkMode(path, mode); err != nil {
		return err
	}
	// The headers, where there are any, are younger than the name.
	info := Info{ID: named.ID, Role: b.Info.Role, GUN: b.Info.GUN}
	if info.Role == "" {
		info.Role = named.Role
	}
	if info.GUN == "" {
		info.GUN = named.GUN
	}
	if info, err = info.Clean(); err != nil {
		return err
	}
	if !b.Encrypted() {
		if err := plainID(b, info.ID); err != nil {
			return err
		}
	}
	raw := b.encode(info, "")
	defer clear(raw)
	to := filepath.Join(dir, string(info.ID)+".key")
	switch old, _, err := readBlock(to); {
	case err == nil:
		// A run that was interrupted here has left the same block.
		if string(old.encode(old.Info, "")) != string(b.encode(old.Info, "")) {
			return fmt.Errorf("%w, as %s", ErrExists, to)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		if err := replaceFile(to, raw, nil); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// plainID makes sure that an unencrypted block is the key id.
func plainID(b *Block, id tuf.CanonicalID) error {
	key, err := b.Key(nil)
	if err != nil {
		return err
	}
	defer Wipe(key)
	pub, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	if got := pub.CanonicalID(); got != id {
		return broken("it holds another key, %s", got)
	}
	return nil
}
