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
	raw     []byte
	sum     [32]byte
	created int64 // in Unix seconds, which is all that readers are told
	fields  [fields]string
	zip     *zipped // nil: compression is not worth it
}

// The header fields of a file.
const (
	fieldETag = iota
	fieldModified
	fieldLength
	fields
)

// A zipped file is the compressed form of one, made when somebody asks for it.
type zipped struct {
	once   sync.Once
	body   []byte // set by once; nil if that saves nothing
	etag   []string
	length []string
}

// zipAbove is the size from which on an answer is compressed for those who
// ask for it, in bytes.
const zipAbove = 1024

func newFile(raw []byte, created time.Time) *file {
	f := &file{raw: raw, sum: sha256.Sum256(raw), created: created.Unix()}
	var buf [128]byte
	b := append(buf[:0], '"')
	b = append(hex.AppendEncode(b, f.sum[:]), '"')
	etag := len(b)
	b = created.UTC().AppendFormat(b, http.TimeFormat)
	modified := len(b)
	all := string(strconv.AppendInt(b, int64(len(raw)), 10)) // one allocation for all
	f.fields = [fields]string{all[:etag], all[etag:modified], all[modified:]}
	if len(raw) > zipAbove {
		f.zip = new(zipped)
	}
	return f
}

// field is a header field of f as a header holds it.
func (f *file) field(n int) []string { return f.fields[n : n+1 : n+1] }

// size is what f takes in a cache, in bytes, compressed form included.
func (f *file) size() int64 {
	n := int64(len(f.raw)) + 512
	if f.zip != nil {
		n += int64(len(f.raw))/2 + 256
	}
	return n
}

func (z *zipped) fill(f *file) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(f.raw) // a buffer takes everything
	_ = w.Close()
	if b.Len() < len(f.raw) {
		z.body = bytes.Clone(b.Bytes())
		z.length = []string{strconv.Itoa(b.Len())}
		z.etag = []string{`"` + hex.EncodeToString(f.sum[:]) + `-gzip"`}
	}
}

// blob returns the file of state's repository and role with that hash, as
// [Server.file] does.
func (s *Server) blob(ctx context.Context, state *storage.State, role tuf.RoleName, sum [32]byte) (*file, error) {
	return s.file(ctx, blobKey{state.GUN, state.Incarnation, role, sum})
}

// file returns a file from memory or from the store, and keeps it. The error
// matches [storage.ErrNotFound] or says what is wrong with the store.
func (s *Server) file(ctx context.Context, key blobKey) (*file, error) {
	if f, ok := s.blobs.get(key); ok {
		s.counters.cache.Add("hit")
		return f, nil
	}
	s.counters.cache.Add("miss")
	f, err := s.stored(ctx, key)
	if err != nil {
		return nil, err
	}
	s.blobs.put(key, f)
	return f, nil
}

// stored is file from the store.
func (s *Server) stored(ctx context.Context, key blobKey) (*file, error) {
	raw, created, err := s.c.Store.Blob(ctx, key.gun, key.role, key.sum)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", key.role, key.gun, err)
	}
	f := newFile(raw, created)
	if f.sum != key.sum {
		return nil, fmt.Errorf("read %s of %s: %w", key.role, key.gun, storage.ErrCorrupt)
	}
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
	if now.After(h.until) && h.mirror == "" && (route.Role == tuf.RoleTimestamp || route.Role == tuf.RoleSnapshot) {
		// Renewal ahead of time has not happened (attacks.md S8).
		if h, err = s.renewExpired(ctx, h); err != nil {
			return err
		}
	}
	f := h.timestamp
	if route.Role != tuf.RoleTimestamp {
		sum, ok := h.sum(route.Role)
		if !ok {
			return api.NewError(api.MetadataNotFound, api.Empty{})
		}
		if f, err = s.file(ctx, h.key(route.Role, sum)); err != nil {
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
	f, err := s.file(r.Context(), h.key(route.Role, route.SHA256))
	if errors.Is(err, storage.ErrNotFound) {
		// Another instance may have deleted and published anew a moment ago.
		if h, err = s.heads.get(r.Context(), route.GUN, true); err == nil {
			f, err = s.file(r.Context(), h.key(route.Role, route.SHA256))
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
	h["Last-Modified"] = f.field(fieldModified)
	body, length, etag := f.raw, f.field(fieldLength), f.field(fieldETag)
	if f.zip != nil {
		h["Vary"] = varyEncoding
		if acceptsGzip(r) {
			f.zip.once.Do(func() { f.zip.fill(f) })
			if f.zip.body != nil {
				body, length, etag = f.zip.body, f.zip.length, f.zip.etag
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
		etag := f.fields[fieldETag]
		sum := etag[1 : len(etag)-1]
		for _, list := range tags {
			for tag := range strings.SplitSeq(list, ",") {
				tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
				if tag == "*" || tag == etag || len(tag) == len(sum)+7 && tag[1:len(sum)+1] == sum && tag[len(sum)+1:] == `-gzip"` {
					return true
				}
			}
		}
		return false
	}
	if since := r.Header["If-Modified-Since"]; immutable && len(since) == 1 {
		t, err := http.ParseTime(since[0])
		return err == nil && f.created <= t.Unix()
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
