package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Resolve asks the registry which content ref names, by its digest or else
// its tag. It reads the manifest and computes the descriptor from its bytes.
// Errors: ErrNotFound, ErrUnauthorized, ErrUnreachable, ErrRefused,
// ErrUnsupported, ErrDigest.
func (c *Client) Resolve(ctx context.Context, ref Ref) (Descriptor, error) {
	s, err := c.open(ctx, ref, "pull")
	if err != nil {
		return Descriptor{}, err
	}
	defer s.Close()
	m, err := s.resolve(ctx, ref)
	if err != nil {
		return Descriptor{}, err
	}
	return m.Descriptor, nil
}

func (s *session) resolve(ctx context.Context, ref Ref) (*manifest, error) {
	ref = ref.WithDefaultTag()
	if !ref.Digest.IsZero() {
		return s.fetchManifest(ctx, ref.Digest.String(), content{Descriptor: Descriptor{Digest: ref.Digest}, what: "manifest"})
	}
	return s.fetchManifest(ctx, ref.Tag, content{})
}

// fetchManifest reads the manifest under a tag or digest, and compares it with
// want as far as want says anything.
func (s *session) fetchManifest(ctx context.Context, identifier string, want content) (*manifest, error) {
	what := s.ref.String() + ":" + identifier
	if !want.Digest.IsZero() {
		what = s.ref.WithDigest(want.Digest).String()
	}
	resp, err := s.get(ctx, "https://"+s.repo.RegistryStr()+"/v2/"+s.repo.RepositoryStr()+"/manifests/"+identifier, accepted)
	if err != nil {
		return nil, s.explain(err, what)
	}
	defer resp.Body.Close()
	limit := int64(maxManifest)
	if want.Size > 0 {
		limit = min(limit, want.Size)
	}
	raw, err := readAll(resp.Body, limit, "manifest of "+what)
	if errors.Is(err, ErrUnsupported) && want.Size > 0 && want.Size < maxManifest {
		return nil, &DigestError{What: "manifest", Digest: want.Digest} // longer than the one asked for
	}
	if err != nil {
		return nil, s.explain(err, what)
	}
	return checkManifest(raw, want)
}

// checkManifest parses raw after comparing it with want: nothing is parsed
// that is not what was asked for.
func checkManifest(raw []byte, want content) (*manifest, error) {
	if !want.Digest.IsZero() && DigestOf(raw) != want.Digest || want.Size > 0 && int64(len(raw)) != want.Size {
		return nil, &DigestError{What: "manifest", Digest: want.Digest}
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	if want.MediaType != "" && indexTypes[want.MediaType] != m.Index() {
		return nil, &DigestError{What: "manifest", Digest: want.Digest} // attacks.md M13
	}
	return m, nil
}

// manifest and open make a session a source of contents.
func (s *session) manifest(ctx context.Context, c content) (*manifest, error) {
	return s.fetchManifest(ctx, c.Digest.String(), c)
}

func (s *session) open(ctx context.Context, c content) (io.ReadCloser, error) {
	what := fmt.Sprintf("%s %s of %s", c.what, c.Digest, s.ref)
	resp, err := s.get(ctx, "https://"+s.repo.RegistryStr()+"/v2/"+s.repo.RepositoryStr()+"/blobs/"+c.Digest.String(), "")
	if err != nil {
		return nil, s.explain(err, what)
	}
	explain := func(err error) error { return s.explain(err, what) }
	return verified(resp.Body, c, explain), nil
}

func (s *session) Close() error {
	s.base.CloseIdleConnections()
	return nil
}

// A source serves the contents of one image: a session, a layout, an archive.
// What it serves is compared with the digest and size asked for: manifests
// before they are returned, others at their end, as the error of the last Read.
type source interface {
	manifest(context.Context, content) (*manifest, error)
	open(context.Context, content) (io.ReadCloser, error)
	Close() error
}

// A verifier passes on exactly the content it is for, or ends in a
// DigestError. It reads one byte beyond the size at most.
type verifier struct {
	body    io.ReadCloser
	want    content
	left    int64
	hash    hash.Hash
	explain func(error) error
}

func verified(body io.ReadCloser, want content, explain func(error) error) io.ReadCloser {
	return &verifier{body: body, want: want, left: want.Size, hash: sha256.New(), explain: explain}
}

func (v *verifier) Read(p []byte) (int, error) {
	if int64(len(p))-1 > v.left { // a manifest can claim any size, the largest number included
		p = p[:v.left+1]
	}
	n, err := v.body.Read(p)
	if int64(n) > v.left {
		return 0, &DigestError{What: v.want.what, Digest: v.want.Digest}
	}
	v.left -= int64(n)
	v.hash.Write(p[:n])
	if err == io.EOF {
		if v.left != 0 || Digest(v.hash.Sum(nil)) != v.want.Digest {
			return 0, &DigestError{What: v.want.what, Digest: v.want.Digest}
		}
		return n, io.EOF
	}
	if err != nil {
		return 0, v.explain(err)
	}
	return n, nil
}

func (v *verifier) Close() error { return v.body.Close() }

// walk visits everything below top: the blobs of an image before its
// manifest, children before their index, each digest once. visit gets the
// parsed manifest; blob gets the rest.
func walk(ctx context.Context, from source, top *manifest, visit func(*manifest) error, blobs func(context.Context, []content) error) error {
	w := walker{from: from, visit: visit, blobs: blobs, seen: map[Digest]bool{}}
	return w.walk(ctx, top, 0)
}

type walker struct {
	from  source
	visit func(*manifest) error
	blobs func(context.Context, []content) error
	seen  map[Digest]bool
}

func (w *walker) walk(ctx context.Context, m *manifest, depth int) error {
	if w.seen[m.Digest] {
		return nil
	}
	w.seen[m.Digest] = true
	if depth > maxDepth || len(w.seen) > maxManifests {
		return fmt.Errorf("%w: index with more than %d manifests or %d levels", ErrUnsupported, maxManifests, maxDepth)
	}
	if err := w.blobs(ctx, m.blobs()); err != nil {
		return err
	}
	for _, c := range m.children {
		if w.seen[c.Digest] {
			continue
		}
		child, err := w.from.manifest(ctx, c)
		if err != nil {
			return err
		}
		if err := w.walk(ctx, child, depth+1); err != nil {
			return err
		}
	}
	return w.visit(m)
}
