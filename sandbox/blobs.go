package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobFiles keeps blobs as files dir/ALGORITHM/HEX. It serves what is in them
// without looking, as a registry whose storage was tampered with does: to
// notice is the client's part.
type blobFiles struct{ dir string }

func (b blobFiles) file(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm, h.Hex) }

// Stat implements [registry.BlobStatHandler].
func (b blobFiles) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.file(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Get implements [registry.BlobHandler].
func (b blobFiles) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(b.file(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return f, err
}

// Put implements [registry.BlobPutHandler]. The caller's reader fails if the
// content does not have the hash.
func (b blobFiles) Put(_ context.Context, _ string, h v1.Hash, r io.ReadCloser) error {
	path := b.file(h)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replaceFile(path, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// Delete implements [registry.BlobDeleteHandler].
func (b blobFiles) Delete(_ context.Context, _ string, h v1.Hash) error {
	err := os.Remove(b.file(h))
	if errors.Is(err, fs.ErrNotExist) {
		return registry.ErrNotFound
	}
	return err
}
