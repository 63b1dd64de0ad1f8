package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// A docker archive is written as the engines write it today: an OCI layout
// with a manifest.json beside it, so that the manifest, and with it the
// digest, survives. It is read in this form, and in the older one without a
// layout, where the manifest has to be made anew.

const (
	dockerIndex = "manifest.json"
	maxEntries  = 65536 // in one archive
)

// An archiveEntry is one line of manifest.json.
type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// An archive is an open docker archive.
type archive struct {
	path  string
	file  *os.File
	files map[string]section
}

type section struct{ at, size int64 }

// openArchive opens an archive as a source, and finds the image chosen.
func openArchive(ctx context.Context, from Image) (source, *manifest, error) {
	a, err := scanArchive(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	src, m, err := a.find(ctx, from)
	if err != nil {
		_ = a.Close() // the first error counts
		return nil, nil, err
	}
	return src, m, nil
}

// scanArchive opens an archive and finds out what files it has.
func scanArchive(ctx context.Context, from Image) (*archive, error) {
	info, err := os.Stat(from.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", from, ErrNoImage)
	}
	if err == nil && !info.Mode().IsRegular() { // to open a pipe is to wait for its other end
		err = fmt.Errorf("%w: %s is not a file", ErrUnsupported, from.Path)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(from.Path)
	if err != nil {
		return nil, err
	}
	a := &archive{path: from.Path, file: f}
	if err := a.scan(ctx); err != nil {
		_ = f.Close() // the first error counts
		return nil, err
	}
	return a, nil
}

func (a *archive) find(ctx context.Context, from Image) (source, *manifest, error) {
	index, err := a.index()
	if err != nil {
		return nil, nil, err
	}
	if index == nil {
		return a.findOld(from)
	}
	entry, err := index.find(from, archiveName)
	if err != nil {
		return nil, nil, err
	}
	m, err := a.manifest(ctx, entry)
	return a, m, err
}

// index reads index.json; nil if this is an archive of the older form.
func (a *archive) index() (*layoutIndex, error) {
	if _, ok := a.files[indexFile]; !ok {
		return nil, nil
	}
	raw, err := a.read(indexFile)
	if err != nil {
		return nil, err
	}
	return parseLayoutIndex(raw, a.path)
}

// names returns the full names with tag under which find knows the images.
func (a *archive) names() ([]string, error) {
	index, err := a.index()
	if err != nil {
		return nil, err
	}
	var names []string
	if index != nil {
		for i := range index.entries {
			names = append(names, archiveName(index.entries[i].Annotations))
		}
		return names, nil
	}
	entries, err := a.oldEntries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for _, t := range e.RepoTags {
			names = append(names, archiveName(map[string]string{refName: t}))
		}
	}
	return names, nil
}

// archiveName returns the full name of an entry, as ParseImage makes it.
func archiveName(annotations map[string]string) string {
	for _, n := range []string{annotations[imageName], annotations[refName]} {
		if ref, err := ParseRef(strings.TrimPrefix(n, "docker.io/")); err == nil {
			return ref.WithDefaultTag().String()
		}
	}
	return ""
}

// scan lists the files in the tar, without reading them.
func (a *archive) scan(ctx context.Context) error {
	a.files = map[string]section{}
	links := map[string]bool{} // and devices
	r := tar.NewReader(a.file)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF && n > 0 {
			return ctx.Err()
		}
		if err != nil || n > maxEntries || ctx.Err() != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("%w: %s is not a docker archive (an uncompressed tar)", ErrUnsupported, a.path))
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		key := path.Clean(h.Name)
		if _, twice := a.files[key]; twice || links[key] {
			return fmt.Errorf("%w: %s holds %q twice", ErrUnsupported, a.path, clean(h.Name))
		}
		if h.Typeflag != tar.TypeReg {
			links[key] = true
			continue
		}
		a.files[key] = section{at, h.Size}
	}
}

func (a *archive) section(name string) (*io.SectionReader, error) {
	s, ok := a.files[name]
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", name, a.path, ErrNoImage)
	}
	return io.NewSectionReader(a.file, s.at, s.size), nil
}

func (a *archive) read(name string) ([]byte, error) {
	s, err := a.section(name)
	if err != nil {
		return nil, err
	}
	return readAll(s, maxManifest, name)
}

func (a *archive) manifest(_ context.Context, c content) (*manifest, error) {
	raw, err := a.read(blobPath(c.Digest))
	if err != nil {
		return nil, err
	}
	return checkManifest(raw, c)
}

func (a *archive) open(_ context.Context, c content) (io.ReadCloser, error) {
	s, err := a.section(blobPath(c.Digest))
	if err != nil {
		return nil, err
	}
	return verified(io.NopCloser(s), c, local), nil
}

func (a *archive) Close() error { return a.file.Close() }

// oldEntries reads manifest.json.
func (a *archive) oldEntries() ([]archiveEntry, error) {
	raw, err := a.read(dockerIndex)
	if err != nil {
		return nil, fmt.Errorf("%w: %s has neither %s nor %s", ErrUnsupported, a.path, indexFile, dockerIndex)
	}
	var entries []archiveEntry
	if json.Unmarshal(raw, &entries) != nil || len(entries) > maxChildren {
		return nil, fmt.Errorf("%w: %s in %s is broken", ErrUnsupported, dockerIndex, a.path)
	}
	for _, e := range entries { // go-containerregistry reads it whole, however large
		if config, ok := a.files[path.Clean(e.Config)]; !ok || config.size > maxManifest {
			return nil, fmt.Errorf("%w: the config %q in %s is missing, or larger than %d bytes", ErrUnsupported, clean(e.Config), a.path, maxManifest)
		}
	}
	return entries, nil
}

// findOld finds the image in the form without a layout.
func (a *archive) findOld(from Image) (source, *manifest, error) {
	entries, err := a.oldEntries()
	if err != nil {
		return nil, nil, err
	}
	var choices []string
	chosen := ""
	for _, e := range entries {
		for _, t := range e.RepoTags {
			full := archiveName(map[string]string{refName: t})
			choices = append(choices, ":"+clean(full))
			if full == from.Select {
				chosen = t
			}
		}
	}
	switch {
	case from.Select != "" && chosen == "", len(entries) == 0:
		return nil, nil, fmt.Errorf("%s: %w", from, ErrNoImage)
	case from.Select == "" && len(entries) > 1:
		return nil, nil, &AmbiguousError{Place: from.String(), Choices: choices}
	}
	return a.convert(chosen)
}

// convert makes the manifest that an old archive does not have.
func (a *archive) convert(tag string) (source, *manifest, error) {
	var chosen *name.Tag
	if tag != "" {
		t, err := name.NewTag(tag)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: name %q in %s", ErrUnsupported, clean(tag), a.path)
		}
		chosen = &t
	}
	broken := func(err error) error {
		return fmt.Errorf("%w: %s: %s", ErrUnsupported, a.path, clean(err.Error()))
	}
	image, err := tarball.Image(func() (io.ReadCloser, error) {
		info, err := a.file.Stat()
		if err != nil {
			return nil, err
		}
		return io.NopCloser(io.NewSectionReader(a.file, 0, info.Size())), nil
	}, chosen)
	if err != nil {
		return nil, nil, broken(err)
	}
	raw, err := image.RawManifest()
	if err != nil {
		return nil, nil, broken(err)
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, nil, err
	}
	return &oldArchive{archive: a, image: image, top: m}, m, nil
}

// An oldArchive serves an image whose layers are compressed on the way.
type oldArchive struct {
	*archive
	image v1.Image
	top   *manifest
}

func (o *oldArchive) manifest(_ context.Context, c content) (*manifest, error) {
	return checkManifest(o.top.raw, c)
}

func (o *oldArchive) open(_ context.Context, c content) (io.ReadCloser, error) {
	if c.Digest == o.top.config.Digest {
		raw, err := o.image.RawConfigFile()
		return verified(io.NopCloser(bytes.NewReader(raw)), c, local), local(err)
	}
	layer, err := o.image.LayerByDigest(v1.Hash{Algorithm: "sha256", Hex: c.Digest.Hex()})
	if err != nil {
		return nil, local(err)
	}
	body, err := layer.Compressed()
	if err != nil {
		return nil, local(err)
	}
	return verified(body, c, local), nil
}

// pullIntoArchive writes an archive with one image as: temporary, sync,
// rename. What was at the final name, a link included, is replaced.
func (s *session) pullIntoArchive(ctx context.Context, top *manifest, file, name string, tell func(Progress)) (err error) {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return fmt.Errorf("%w: docker-archive:%s is a directory, not a file", ErrReference, file)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // it may be closed already
			_ = os.Remove(f.Name()) // the first error counts
		}
	}()
	if err := s.writeArchive(ctx, f, top, name, tell); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

func (s *session) writeArchive(ctx context.Context, f io.Writer, top *manifest, name string, tell func(Progress)) error {
	t := tar.NewWriter(f)
	put := func(name string, size int64, body io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Format: tar.FormatPAX}); err != nil {
			return local(err)
		}
		_, err := io.Copy(t, body)
		return err
	}
	putBytes := func(name string, raw []byte) error { return put(name, int64(len(raw)), bytes.NewReader(raw)) }

	entry := archiveEntry{Config: blobPath(top.config.Digest)}
	for _, l := range top.layers {
		entry.Layers = append(entry.Layers, blobPath(l.Digest))
	}
	index := layoutIndex{members: map[string]json.RawMessage{"schemaVersion": json.RawMessage(`2`)}}
	annotations := map[string]string{}
	if ref, err := ParseRef(name); name != "" && err == nil {
		annotations[imageName] = ref.String()
		annotations[refName] = ref.Tag
		entry.RepoTags = []string{ref.Familiar()}
	}
	rawIndex, err := index.with(top.Descriptor, annotations)
	if err != nil {
		return err
	}
	rawEntry, err := json.Marshal([]archiveEntry{entry})
	if err != nil {
		return err
	}
	if err := putBytes(layoutFile, []byte(layoutVersion)); err != nil {
		return err
	}
	for _, c := range top.blobs() {
		body, err := s.download(ctx, c, tell)
		if err != nil {
			return err
		}
		err = put(blobPath(c.Digest), c.Size, body)
		_ = body.Close() // it was read to its end, or the first error counts
		if err != nil {
			return err
		}
		tell(Progress{What: c.Digest.Short(), Status: "Pull complete", Done: c.Size, Total: c.Size})
	}
	for _, file := range []struct {
		name string
		raw  []byte
	}{{blobPath(top.Digest), top.raw}, {indexFile, rawIndex}, {dockerIndex, rawEntry}} {
		if err := putBytes(file.name, file.raw); err != nil {
			return err
		}
	}
	return t.Close()
}
