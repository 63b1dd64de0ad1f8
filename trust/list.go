package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// maxFolders bounds how many folders and files List looks at.
const maxFolders = 200_000

// List returns the names of the repositories whose metadata is at hand, in
// order. It looks into no file: of some, [Dir.Load] and [tuf.Recall] may find
// out that the metadata is no good. Folders that are no repository are passed
// over, links as well. The error is that of the disk, or matches
// [tuf.ErrLimit].
func (d *Dir) List() ([]tuf.GUN, error) {
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var guns []tuf.GUN
	seen := 0
	err = fs.WalkDir(root.FS(), "tuf", func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // nothing yet, or dropped meanwhile
		case err != nil:
			return err
		}
		if seen++; seen > maxFolders {
			return fmt.Errorf("%s: %w: more than %d files", d.file("tuf"), tuf.ErrLimit, maxFolders)
		}
		if !e.IsDir() {
			return nil
		}
		folder, ok := strings.CutSuffix(name, "/"+metadataDir)
		if !ok {
			if strings.HasSuffix(name, "/"+changelistDir) {
				return fs.SkipDir
			}
			return nil
		}
		gun := tuf.GUN(unescape(strings.TrimPrefix(folder, "tuf/")))
		if gun.Valid() && gunDir(gun) == folder {
			if st, err := root.Lstat(pathOf(gun, tuf.RoleRoot)); err == nil && st.Mode().IsRegular() {
				guns = append(guns, gun)
			}
		}
		return fs.SkipDir
	})
	slices.Sort(guns)
	return guns, err
}
