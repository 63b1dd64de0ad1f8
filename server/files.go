package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// A file is a stored file with the header fields of its answers. It is never
// changed; the slices are shared by all answers.
type file struct {
	raw      []byte
	sum      [32]byte
	created  time.Time
	length   []string
	etag     []string
	modified []string

	zip       sync.Once
	zipped    []byte // set by zip; nil if that saves nothing
	zipLength []string
	zipETag   []string
}

// zipAbove is the size from which on an answer is compressed for those who
// ask for it, in bytes.
const zipAbove = 1024

func newFile(raw []byte, created time.Time) *file {
	f := &file{raw: raw, sum: sha256.Sum256(raw), created: created}
	f.length = []string{strconv.Itoa(len(raw))}
	f.etag = []string{`"` + hex.EncodeToString(f.sum[:]) + `"`}
	f.modified = []string{created.UTC().Format(http.TimeFormat)}
	return f
}

// size is what f takes in memory, in bytes, compressed form included.
func (f *file) size() int64 { return int64(len(f.raw))*3/2 + 1024 }

func (f *file) compress() {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(f.raw) // a buffer takes everything
	_ = w.Close()
	if b.Len() < len(f.raw) {
		f.zipped = bytes.Clone(b.Bytes())
		f.zipLength = []string{strconv.Itoa(b.Len())}
		f.zipETag = []string{`"` + hex.EncodeToString(f.sum[:]) + `-gzip"`}
	}
}

// blob returns the file of state's repository and role with that hash, from
// memory or from the store. The error matches [storage.ErrNotFound] or says
// what is wrong with the store.
func (s *Server) blob(ctx context.Context, state *storage.State, role tuf.RoleName, sum [32]byte) (*file, error) {
	key := blobKey{state.GUN, state.Incarnation, role, sum}
	if f, ok := s.blobs.get(key); ok {
		s.counters.cache.Add("hit")
		return f, nil
	}
	s.counters.cache.Add("miss")
	raw, created, err := s.c.Store.Blob(ctx, state.GUN, role, sum)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", role, state.GUN, err)
	}
	f := newFile(raw, created)
	if f.sum != sum {
		return nil, fmt.Errorf("read %s of %s: %w", role, state.GUN, storage.ErrCorrupt)
	}
	s.blobs.put(key, f)
	return f, nil
}

// notFound turns "not there" into the refusal that clients understand as
// such, and leaves "could not look" alone.
func notFound(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return api.NewError(api.MetadataNotFound, api.Empty{})
	}
	return err
}

func (s *Server) serveCurrent(w http.ResponseWriter, r *http.Request, route api.Route, by Grant, now time.Time) error {
	ctx := r.Context()
	h, err := s.heads.getAt(ctx, route.GUN, wantsFresh(r, by), now)
	if err != nil {
		return notFound(err)
	}
	h.look()
	if now.After(h.until) && h.state.Mirror == "" && (route.Role == tuf.RoleTimestamp || route.Role == tuf.RoleSnapshot) {
		// Renewal ahead of time has not happened (attacks.md S8).
		if h, err = s.renewExpired(ctx, h); err != nil {
			return err
		}
	}
	var f *file
	switch route.Role {
	case tuf.RoleTimestamp:
		f = h.timestamp
	case tuf.RoleSnapshot:
		f = h.snapshot
	default:
		sum, listed := h.sums[route.Role]
		if !listed {
			return api.NewError(api.MetadataNotFound, api.Empty{})
		}
		if f, err = s.blob(ctx, h.state, route.Role, sum); err != nil {
			return notFound(err)
		}
	}
	write(w, r, f, s.current.to(by), false)
	return nil
}

func (s *Server) serveByHash(w http.ResponseWriter, r *http.Request, route api.Route, by Grant, now time.Time) error {
	// Through the head, so that nothing is served of a repository that was
	// deleted.
	h, err := s.heads.getAt(r.Context(), route.GUN, false, now)
	if err != nil {
		return notFound(err)
	}
	f, err := s.blob(r.Context(), h.state, route.Role, route.SHA256)
	if errors.Is(err, storage.ErrNotFound) {
		// Another instance may have deleted and published anew a moment ago.
		if h, err = s.heads.get(r.Context(), route.GUN, true); err == nil {
			f, err = s.blob(r.Context(), h.state, route.Role, route.SHA256)
		}
	}
	if err != nil {
		return notFound(err)
	}
	write(w, r, f, s.consistent.to(by), true)
	return nil
}

func (s *Server) serveByVersion(w http.ResponseWriter, r *http.Request, route api.Route, by Grant) error {
	raw, created, err := s.c.Store.Version(r.Context(), route.GUN, route.Role, route.Version)
	if err != nil {
		return notFound(err)
	}
	write(w, r, newFile(raw, created), s.consistent.to(by), true)
	return nil
}

// wantsFresh reports whether a request is answered from the store, because it
// asks for that or comes from a publisher.
func wantsFresh(r *http.Request, by Grant) bool {
	if by.Publisher {
		return true
	}
	for _, v := range r.Header["Cache-Control"] {
		if strings.Contains(v, "no-cache") {
			return true
		}
	}
	return false
}

// write answers with a file. immutable says that the address will never name
// other bytes.
func write(w http.ResponseWriter, r *http.Request, f *file, cache []string, immutable bool) {
	h := w.Header()
	h["Cache-Control"] = cache
	if len(cache) == 1 && cache[0] == uncached {
		h["Pragma"] = noCache
	}
	h["Last-Modified"] = f.modified
	body, length, etag := f.raw, f.length, f.etag
	if len(f.raw) > zipAbove {
		h["Vary"] = varyEncoding
		if acceptsGzip(r) {
			f.zip.Do(f.compress)
			if f.zipped != nil {
				body, length, etag = f.zipped, f.zipLength, f.zipETag
				h["Content-Encoding"] = gzipped
			}
		}
	}
	h["Etag"] = etag
	if f.matches(r, immutable) {
		delete(h, "Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Type"] = textPlain
	h["Content-Length"] = length
	_, _ = w.Write(body) // the peer is gone if this fails
}

const uncached = "max-age=0, no-cache, no-store"

var (
	varyEncoding = []string{"Accept-Encoding"}
	gzipped      = []string{"gzip"}
	noCache      = []string{"no-cache"}
)

// An aging is the Cache-Control field of a kind of files.
type aging struct {
	public  []string // of what everybody may read
	private []string // of the rest, which shared caches must not give to others (attacks.md S10)
}

// newAging is of files that caches may keep for age.
func newAging(age time.Duration, more string) aging {
	if age < time.Second {
		return aging{[]string{uncached}, []string{uncached}}
	}
	n := strconv.FormatInt(int64(age/time.Second), 10)
	return aging{[]string{"public, max-age=" + n + ", s-maxage=" + n + more}, []string{"private, max-age=" + n + more}}
}

func (a aging) to(by Grant) []string {
	if by.Who == "" {
		return a.public
	}
	return a.private
}

// matches reports whether the requester has f already. The date decides only
// where the address never changes its meaning: two versions of a current file
// may be of the same second (RFC 9110 8.8.2.2), and whoever has the first one
// would be kept from the second for ever.
func (f *file) matches(r *http.Request, immutable bool) bool {
	if tags := r.Header["If-None-Match"]; tags != nil {
		sum := f.etag[0][1 : len(f.etag[0])-1]
		for _, list := range tags {
			for tag := range strings.SplitSeq(list, ",") {
				tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
				if tag == "*" || tag == f.etag[0] || len(tag) == len(sum)+7 && tag[1:len(sum)+1] == sum && tag[len(sum)+1:] == `-gzip"` {
					return true
				}
			}
		}
		return false
	}
	if since := r.Header["If-Modified-Since"]; immutable && len(since) == 1 {
		t, err := http.ParseTime(since[0])
		return err == nil && !f.created.Truncate(time.Second).After(t)
	}
	return false
}

// acceptsGzip reports whether the requester understands gzip.
func acceptsGzip(r *http.Request) bool {
	for _, list := range r.Header["Accept-Encoding"] {
		for coding := range strings.SplitSeq(list, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			if strings.TrimSpace(name) == "gzip" {
				q, ok := strings.CutPrefix(strings.TrimSpace(weight), "q=")
				return !ok || strings.Trim(q, "0.") != ""
			}
		}
	}
	return false
}
