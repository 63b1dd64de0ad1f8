package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
)

// Everything in a layout is reached through an os.Root, so that no name and
// no link leads out of the directory (attacks.md N2).

const (
	layoutFile    = "oci-layout"
	layoutVersion = `{"imageLayoutVersion":"1.0.0"}`
	indexFile     = "index.json"
	blobDir       = "blobs/sha256"

	refName   = "org.opencontainers.image.ref.name"
	imageName = "io.containerd.image.name"
)

func blobPath(d Digest) string { return path.Join(blobDir, d.Hex()) }

// A layout is an open OCI layout directory.
type layout struct {
	path string
	root *os.Root
}

// openLayout opens the layout as a source, and finds the image that is chosen.
func openLayout(ctx context.Context, from Image) (source, *manifest, error) {
	root, err := os.OpenRoot(from.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: %w", from, ErrNoImage)
	}
	if err != nil {
		return nil, nil, err
	}
	l := &layout{path: from.Path, root: root}
	entry, err := l.find(from)
	if err == nil {
		var m *manifest
		if m, err = l.manifest(ctx, entry); err == nil {
			return l, m, nil
		}
	}
	_ = root.Close() // the first error counts
	return nil, nil, err
}

func (l *layout) find(from Image) (content, error) {
	index, err := l.index()
	if err != nil {
		return content{}, err
	}
	if index == nil {
		return content{}, fmt.Errorf("%s: %w", from, ErrNoImage)
	}
	return index.find(from, func(a map[string]string) string { return a[refName] })
}

// A layoutIndex is index.json. Entries and members that we do not know are
// kept as they are.
type layoutIndex struct {
	members map[string]json.RawMessage
	raw     []json.RawMessage
	entries []wireDescriptor // as raw
}

// index reads index.json; nil if this is an empty directory.
func (l *layout) index() (*layoutIndex, error) {
	marker, err := l.read(layoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, l.mustBeEmpty()
	}
	if err != nil {
		return nil, err
	}
	var version struct {
		ImageLayoutVersion string `json:"imageLayoutVersion"`
	}
	if json.Unmarshal(marker, &version) != nil || version.ImageLayoutVersion != "1.0.0" {
		return nil, fmt.Errorf("%w: %s is not an OCI layout of version 1.0.0", ErrUnsupported, l.path)
	}
	raw, err := l.read(indexFile)
	if err != nil {
		return nil, err
	}
	return parseLayoutIndex(raw, l.path)
}

func parseLayoutIndex(raw []byte, place string) (*layoutIndex, error) {
	x := &layoutIndex{}
	broken := fmt.Errorf("%w: %s in %s is broken", ErrUnsupported, indexFile, place)
	if json.Unmarshal(raw, &x.members) != nil || x.members == nil {
		return nil, broken
	}
	if list := x.members["manifests"]; list != nil && json.Unmarshal(list, &x.raw) != nil {
		return nil, broken
	}
	x.entries = make([]wireDescriptor, len(x.raw))
	for i, r := range x.raw {
		if json.Unmarshal(r, &x.entries[i]) != nil {
			return nil, broken
		}
	}
	return x, nil
}

// find returns the entry that from.Select names, by the name that nameOf takes
// from the annotations or by digest; or the only one.
func (x *layoutIndex) find(from Image, nameOf func(map[string]string) string) (content, error) {
	found := map[Digest]content{}
	var choices []string
	for i := range x.entries {
		e := &x.entries[i]
		c, err := e.content("manifest")
		if err != nil {
			return content{}, err
		}
		name := nameOf(e.Annotations)
		if from.Select == "" || from.Select == name || from.Select == c.Digest.String() {
			found[c.Digest] = c
		}
		choice := "@" + c.Digest.String()
		if name != "" {
			choice = ":" + clean(name)
		}
		if !slices.Contains(choices, choice) {
			choices = append(choices, choice)
		}
	}
	switch len(found) {
	case 0:
		return content{}, fmt.Errorf("%s: %w", from, ErrNoImage)
	case 1:
		for _, c := range found {
			return c, nil
		}
	}
	from.Select = ""
	return content{}, &AmbiguousError{Place: from.String(), Choices: choices}
}

func (l *layout) mustBeEmpty() error {
	entries, err := fs.ReadDir(l.root.FS(), ".")
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%w: %s is neither empty nor an OCI layout", ErrUnsupported, l.path)
	}
	return err
}

func (l *layout) read(name string) ([]byte, error) {
	f, err := l.regular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, maxManifest, name)
}

// regular opens a file that is one: no link, no pipe.
func (l *layout) regular(name string) (*os.File, error) {
	info, err := l.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s in %s is not a file", ErrUnsupported, name, l.path)
	}
	if err != nil {
		return nil, err
	}
	return l.root.Open(name)
}

func (l *layout) manifest(_ context.Context, c content) (*manifest, error) {
	raw, err := l.read(blobPath(c.Digest))
	if err != nil {
		return nil, l.missing(c, err)
	}
	return checkManifest(raw, c)
}

func (l *layout) open(_ context.Context, c content) (io.ReadCloser, error) {
	f, err := l.regular(blobPath(c.Digest))
	if err != nil {
		return nil, l.missing(c, err)
	}
	return verified(f, c, local), nil
}

func (l *layout) missing(c content, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %s in %s: %w", c.what, c.Digest, l.path, ErrNoImage)
	}
	return err
}

func (l *layout) Close() error { return l.root.Close() }

// pullIntoLayout writes all that top stands for, and index.json last.
func (s *session) pullIntoLayout(ctx context.Context, top *manifest, dir, name string, tell func(Progress)) (err error) {
	w, err := newLayoutWriter(dir)
	if err != nil {
		return err
	}
	defer func() { err = w.end(err) }()
	fetch := func(ctx context.Context, list []content) error {
		return inParallel(ctx, list, func(ctx context.Context, c content) error {
			have, err := w.have(c)
			if err != nil {
				return err
			}
			if have {
				tell(Progress{What: c.Digest.Short(), Status: "Already exists", Done: c.Size, Total: c.Size})
				return nil
			}
			body, err := s.download(ctx, c, tell)
			if err != nil {
				return err
			}
			defer body.Close()
			if err := w.write(c.Digest, body); err != nil {
				return err
			}
			tell(Progress{What: c.Digest.Short(), Status: "Pull complete", Done: c.Size, Total: c.Size})
			return nil
		})
	}
	put := func(m *manifest) error { return w.write(m.Digest, bytes.NewReader(m.raw)) }
	if err := walk(ctx, s, top, put, fetch); err != nil {
		return err
	}
	return w.commit(top.Descriptor, name)
}

// A layoutWriter adds to a layout, and takes everything back if it does not
// come to an end.
type layoutWriter struct {
	layout
	index   *layoutIndex
	above   []string // directories made down to path, and
	created []string // those made below it; outermost first

	mu    sync.Mutex
	added []string // files made; by mu
}

func newLayoutWriter(dir string) (*layoutWriter, error) {
	w := &layoutWriter{}
	w.path = dir
	var err error
	if w.above, err = makeDirs(dir); err != nil {
		return nil, err
	}
	if w.root, err = os.OpenRoot(dir); err != nil {
		removeDirs(w.above)
		return nil, err
	}
	if w.index, err = w.layout.index(); err != nil {
		return nil, w.end(err)
	}
	for _, d := range []string{"blobs", blobDir} {
		switch err := w.root.Mkdir(d, 0o777); {
		case err == nil:
			w.created = append(w.created, d)
		case !errors.Is(err, fs.ErrExist):
			return nil, w.end(err)
		}
	}
	return w, nil
}

// have reports whether the layout holds c already, sound.
func (w *layoutWriter) have(c content) (bool, error) {
	f, err := w.regular(blobPath(c.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return err == nil && n == c.Size && Digest(h.Sum(nil)) == c.Digest, err
}

// write puts a blob under its final name once body came to a good end.
func (w *layoutWriter) write(d Digest, body io.Reader) error {
	_, err := w.root.Lstat(blobPath(d))
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := w.replace(blobPath(d), body); err != nil {
		return err
	}
	if fresh {
		w.mu.Lock()
		w.added = append(w.added, blobPath(d))
		w.mu.Unlock()
	}
	return nil
}

// replace writes a file as: temporary, sync, rename.
func (w *layoutWriter) replace(name string, body io.Reader) (err error) {
	temporary := path.Join(path.Dir(name), ".part-"+rand.Text())
	f, err := w.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return local(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()                // it may be closed already
			_ = w.root.Remove(temporary) // the first error counts
		}
	}()
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return local(err)
	}
	if err := f.Close(); err != nil {
		return local(err)
	}
	return local(w.root.Rename(temporary, name))
}

// commit makes the image visible: it writes index.json, where an entry of the
// same name is replaced.
func (w *layoutWriter) commit(d Descriptor, name string) error {
	if w.index == nil {
		w.index = &layoutIndex{members: map[string]json.RawMessage{
			"schemaVersion": json.RawMessage(`2`),
			"mediaType":     json.RawMessage(`"` + ociIndex + `"`),
		}}
		if err := w.replace(layoutFile, bytes.NewReader([]byte(layoutVersion))); err != nil {
			return err
		}
		w.added = append(w.added, layoutFile)
	}
	raw, err := w.index.with(d, map[string]string{refName: name})
	if err != nil {
		return err
	}
	return w.replace(indexFile, bytes.NewReader(raw))
}

// with returns index.json with one more entry. Entries of the same name lose
// it to the new one, and go; so does a nameless entry for the same content.
func (x *layoutIndex) with(d Descriptor, annotations map[string]string) ([]byte, error) {
	entry := struct {
		MediaType   string            `json:"mediaType"`
		Digest      Digest            `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	name := annotations[refName]
	if name != "" {
		entry.Annotations = annotations
	}
	var list []any
	for i, e := range x.entries {
		if old := e.Annotations[refName]; old != name || old == "" && e.Digest != d.Digest.String() {
			list = append(list, x.raw[i])
		}
	}
	members := map[string]any{"manifests": append(list, entry)}
	for k, v := range x.members {
		if k != "manifests" {
			members[k] = v
		}
	}
	return json.Marshal(members)
}

// end closes the layout. After an error it takes back what was added.
func (w *layoutWriter) end(err error) error {
	if err != nil {
		for _, name := range w.added {
			_ = w.root.Remove(name) // the first error counts, here and below
		}
		for _, dir := range slices.Backward(w.created) {
			_ = w.root.Remove(dir) // fails if somebody else put something there
		}
	}
	if closed := w.root.Close(); err == nil {
		err = closed
	}
	if err != nil {
		removeDirs(w.above)
	}
	return err
}

// makeDirs makes dir and what is missing above it, and returns what it made,
// outermost first; after an error nothing of that is left.
func makeDirs(dir string) (made []string, err error) {
	var missing []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		_, err := os.Stat(at)
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break // a real obstacle shows below
		}
		missing = append(missing, at)
	}
	for _, at := range slices.Backward(missing) {
		switch err := os.Mkdir(at, 0o777); {
		case err == nil:
			made = append(made, at)
		case !errors.Is(err, fs.ErrExist):
			removeDirs(made)
			return nil, err
		}
	}
	return made, nil
}

func removeDirs(made []string) {
	for _, dir := range slices.Backward(made) {
		_ = os.Remove(dir) // fails if somebody else put something there
	}
}
