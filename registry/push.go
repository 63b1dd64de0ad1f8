package registry

import (
	"context"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Push uploads the image from to the repository and tag of to, an index with
// all its children, and returns the descriptor of what is now in the registry
// under that tag, computed here from the bytes. A to without a tag is pushed
// by digest only, which the engine cannot do. The engine pushes its own image,
// named to; then the manifest is read back from the registry by its digest and
// compared with what the engine says it pushed.
//
// Further errors, beside those of Resolve: ErrReference (to has a digest),
// ErrNoImage, ErrAmbiguous, ErrNoEngine, ErrEngine.
func (c *Client) Push(ctx context.Context, from Image, to Ref, o PushOptions) (Descriptor, error) {
	if err := pushable(to); err != nil {
		return Descriptor{}, err
	}
	tell := oneAtATime(o.Progress)
	if from.Kind == Engine {
		return c.pushFromEngine(ctx, to.WithDefaultTag(), tell)
	}
	src, top, err := openSource(ctx, from)
	if err != nil {
		return Descriptor{}, err
	}
	defer src.Close()
	s, err := c.open(ctx, to, "pull,push")
	if err != nil {
		return Descriptor{}, err
	}
	defer s.Close()
	return s.push(ctx, src, top, to.Tag, tell)
}

// openSource opens a layout or an archive and finds the image in it.
func openSource(ctx context.Context, from Image) (source, *manifest, error) {
	if from.Kind == Layout {
		return openLayout(ctx, from)
	}
	return openArchive(ctx, from)
}

func (s *session) push(ctx context.Context, src source, top *manifest, tag string, tell func(Progress)) (Descriptor, error) {
	pusher, err := remote.NewPusher(remote.WithTransport(s.auth), remote.WithContext(ctx), remote.WithNondistributable,
		remote.WithRetryPredicate(func(error) bool { return false })) // a caller who wants it again says so
	if err != nil {
		return Descriptor{}, s.explain(err, "")
	}
	upload := func(ctx context.Context, list []content) error {
		return inParallel(ctx, list, func(ctx context.Context, b content) error {
			l := &upload{ctx: ctx, from: src, content: b, tell: tell}
			if err := pusher.Upload(ctx, s.repo, l); err != nil {
				return l.explain(s, err)
			}
			status := "Pushed"
			if !l.opened {
				status = "Layer already exists"
			}
			tell(Progress{What: b.Digest.Short(), Status: status, Done: b.Size, Total: b.Size})
			return nil
		})
	}
	put := func(m *manifest) error {
		err := pusher.Put(ctx, s.repo.Digest(m.Digest.String()), taggable{m})
		return s.explain(err, s.ref.WithDigest(m.Digest).String())
	}
	if err := walk(ctx, src, top, put, upload); err != nil {
		return Descriptor{}, err
	}
	if tag != "" {
		if err := pusher.Put(ctx, s.repo.Tag(tag), taggable{top}); err != nil {
			return Descriptor{}, s.explain(err, s.ref.String()+":"+tag)
		}
	}
	return top.Descriptor, nil
}

// taggable shows a manifest to go-containerregistry, byte for byte.
type taggable struct{ m *manifest }

func (t taggable) RawManifest() ([]byte, error)        { return t.m.raw, nil }
func (t taggable) MediaType() (types.MediaType, error) { return types.MediaType(t.m.MediaType), nil }

// An upload shows one blob to go-containerregistry.
type upload struct {
	content
	ctx  context.Context
	from source
	tell func(Progress)

	opened bool  // the registry did not have it
	err    error // what the source said
}

func (u *upload) Digest() (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: u.content.Digest.Hex()}, nil
}
func (u *upload) DiffID() (v1.Hash, error) { return u.Digest() } // never asked for in an upload
func (u *upload) Size() (int64, error)     { return u.content.Size, nil }
func (u *upload) MediaType() (types.MediaType, error) {
	return types.MediaType(u.content.MediaType), nil
}
func (u *upload) Uncompressed() (io.ReadCloser, error) { return u.Compressed() }

func (u *upload) Compressed() (io.ReadCloser, error) {
	u.opened = true
	body, err := u.from.open(u.ctx, u.content)
	if err != nil {
		u.err = err
		return nil, err
	}
	return &counted{ReadCloser: body, tell: u.tell, err: &u.err,
		at: Progress{What: u.content.Digest.Short(), Status: "Pushing", Total: u.content.Size}}, nil
}

// explain prefers what the source said: net/http wraps it beyond recognition.
func (u *upload) explain(s *session, err error) error {
	if u.err != nil {
		return u.err
	}
	return s.explain(err, fmt.Sprintf("%s %s of %s", u.what, u.content.Digest, s.ref))
}

// counted reports what is read, in steps.
type counted struct {
	io.ReadCloser
	tell func(Progress)
	at   Progress
	last int64
	err  *error // where to leave what went wrong; or nil
}

const progressStep = 256 << 10 // bytes between two reports

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.at.Done += int64(n)
	if c.at.Done-c.last >= progressStep || c.at.Done == c.at.Total && n > 0 {
		c.last = c.at.Done
		c.tell(c.at)
	}
	if err != nil && err != io.EOF && c.err != nil {
		*c.err = err
	}
	return n, err
}

// oneAtATime makes calls from several transfers one after the other.
func oneAtATime(f func(Progress)) func(Progress) {
	if f == nil {
		return func(Progress) {}
	}
	var mu sync.Mutex
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		f(p)
	}
}

const transfers = 3 // at the same time

// inParallel calls do for each content, a few at a time, and waits for all.
// The first error cancels the rest and is returned.
func inParallel(ctx context.Context, list []content, do func(context.Context, content) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, transfers)
	for _, c := range list {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(ctx, c); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
