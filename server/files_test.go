package server

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	timestamp := current(app, tuf.RoleTimestamp)
	first := w.get(timestamp)
	etag, modified := first.Header().Get("ETag"), first.Header().Get("Last-Modified")
	if sum := sha256.Sum256(first.Body.Bytes()); etag != `"`+hex.EncodeToString(sum[:])+`"` {
		t.Errorf("ETag %s is not the hash of the file", etag)
	}
	if want := w.clock.Now().UTC().Format(http.TimeFormat); modified != want {
		t.Errorf("Last-Modified %s, want %s", modified, want)
	}
	byHash := "/v2/" + string(app) + "/_trust/tuf/timestamp." + etag[1:65] + ".json"
	byVersion := "/v2/" + string(app) + "/_trust/tuf/1.timestamp.json"
	for _, c := range []struct {
		path, field, value string
		want               int
	}{
		{timestamp, "If-None-Match", etag, 304},
		{timestamp, "If-None-Match", `"x", W/` + etag, 304},
		{timestamp, "If-None-Match", `"` + etag[1:65] + `-gzip"`, 304},
		{timestamp, "If-None-Match", "*", 304},
		{timestamp, "If-None-Match", `"x"`, 200},
		{timestamp, "If-None-Match", etag[1:65], 200},
		// Not by date: see the next publish, within the same second.
		{timestamp, "If-Modified-Since", modified, 200},
		{byHash, "If-Modified-Since", modified, 304},
		{byVersion, "If-Modified-Since", modified, 304},
		{byHash, "If-Modified-Since", "Mon, 02 Jan 2006 15:04:05 GMT", 200},
		{byHash, "If-Modified-Since", "yesterday", 200},
	} {
		r := w.get(c.path, c.field, c.value)
		if r.Code != c.want || r.Code == 304 && r.Body.Len() != 0 {
			t.Errorf("GET %s with %s: %s = %d with %d bytes, want %d", c.path, c.field, c.value, r.Code, r.Body.Len(), c.want)
		}
		if r.Code == 304 && (r.Header().Get("ETag") != etag || r.Header().Get("Cache-Control") == "") {
			t.Errorf("304 for %s has the header %v", c.path, r.Header())
		}
	}
	p.publish(t, tag("2"))
	for field, value := range map[string]string{"If-None-Match": etag, "If-Modified-Since": modified} {
		if r := w.get(timestamp, field, value); r.Code != 200 {
			t.Errorf("GET with %s of the old timestamp = %d, want 200", field, r.Code)
		}
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	var changes []tuf.Change
	for i := range 100 {
		changes = append(changes, tag(fmt.Sprint(i)))
	}
	p.init(t, changes...)
	plain := w.get(current(app, tuf.RoleTargets))
	for accept, want := range map[string]bool{
		"gzip": true, "deflate, gzip;q=0.5": true, "br": false, "gzip;q=0": false, "gzip; q=0.0": false, "": false, "x-gzip": false,
	} {
		r := w.get(current(app, tuf.RoleTargets), "Accept-Encoding", accept)
		if got := r.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: compressed %v, want %v", accept, got, want)
		}
		if r.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: Vary is %q", accept, r.Header().Get("Vary"))
		}
		if n := r.Header().Get("Content-Length"); n != fmt.Sprint(r.Body.Len()) {
			t.Errorf("Accept-Encoding %q: Content-Length %s of %d bytes", accept, n, r.Body.Len())
		}
		if !want {
			continue
		}
		if r.Header().Get("ETag") == plain.Header().Get("ETag") {
			t.Error("the compressed form has the tag of the plain one")
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := io.ReadAll(z); err != nil || !bytes.Equal(raw, plain.Body.Bytes()) {
			t.Errorf("the compressed form is of another file, %v", err)
		}
		if r := w.get(current(app, tuf.RoleTargets), "Accept-Encoding", accept, "If-None-Match", plain.Header().Get("ETag")); r.Code != 304 || r.Header().Get("Content-Encoding") != "" {
			t.Errorf("the plain tag, compressed asked for = %d %v", r.Code, r.Header())
		}
	}
	if r := w.get(current(app, tuf.RoleTimestamp), "Accept-Encoding", "gzip"); r.Header().Get("Content-Encoding") != "" {
		t.Error("a small file is compressed")
	}
}

func TestCacheControl(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		age                 MaxAge
		current, consistent string
		pragma              string
	}{
		{MaxAge{}, "public, max-age=300, s-maxage=300, must-revalidate", "public, max-age=2592000, s-maxage=2592000", ""},
		{MaxAge{time.Minute, time.Hour}, "public, max-age=60, s-maxage=60, must-revalidate", "public, max-age=3600, s-maxage=3600", ""},
		{MaxAge{-1, -1}, "max-age=0, no-cache, no-store", "max-age=0, no-cache, no-store", "no-cache"},
	} {
		w := newWorld(t, func(config *Config) { config.MaxAge = c.age })
		newPublisher(t, w, app).init(t)
		for path, want := range map[string]string{
			current(app, tuf.RoleRoot):                          c.current,
			"/v2/" + string(app) + "/_trust/tuf/1.root.json":    c.consistent,
			"/v2/" + string(app) + "/_trust/tuf/001.root.json":  c.consistent,
			"/v2/" + string(app) + "/_trust/tuf/2.root.json":    "",
			keyPath(app, tuf.RoleTimestamp):                     "",
			"/v2/" + string(app) + "/_trust/changefeed?records": "",
		} {
			r := w.get(path)
			if got := r.Header().Get("Cache-Control"); got != want {
				t.Errorf("%+v: GET %s has Cache-Control %q, want %q", c.age, path, got, want)
			}
			if got := r.Header().Get("Pragma"); want != "" && got != c.pragma {
				t.Errorf("%+v: GET %s has Pragma %q, want %q", c.age, path, got, c.pragma)
			}
		}
	}
}

// While polling works, reading the timestamp asks the store nothing.
func TestTimestampFromMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t)
	if err := w.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.get(current(app, tuf.RoleTimestamp))
	for _, method := range []string{"Current", "Blob", "Version", "Heads"} {
		w.store.Inject(storagetest.Fault{Method: method})
	}
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, tuf.RoleRoot} {
		if r := w.get(current(app, role)); r.Code != http.StatusOK {
			t.Errorf("GET %s with a dead store = %d %s", role, r.Code, r.Body)
		}
	}
}

// A load that a commit overtakes does not bring back what was before.
func TestLoadIsOvertaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	// The loader reads the state, then somebody publishes, then it goes on.
	fresh := newWorldOn(t, w.sql, w.keys.Keys, w.clock, nil)
	files := p.files(t, tag("1"))
	once := false
	fresh.Server.c.Store = meanwhile{fresh.store, func() {
		if !once {
			once = true
			if err := fresh.upload(t, app, files...); err != nil {
				t.Error(err)
			}
		}
	}}
	if err := fresh.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh.get(current(app, tuf.RoleTimestamp))
	want := fresh.state(t, app).Seq
	h, err := fresh.heads.get(t.Context(), app, false)
	if err != nil || h.seq != want {
		t.Errorf("memory has state %d, %v; want %d", h.seq, err, want)
	}
}

// Memory is bounded in repositories and in bytes, and works all the same.
func TestBoundedMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Limits.Heads = 3; c.Limits.CacheBytes = 8000 })
	var all []*publisher
	for i := range 8 {
		p := newPublisher(t, w, tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
		p.init(t, tag("1"))
		all = append(all, p)
	}
	if err := w.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, p := range all {
			p.hasTags(t, "targets", "1")
		}
	}
	if n := len(w.heads.m); n > 3 {
		t.Errorf("%d repositories in memory, want at most 3", n)
	}
	if b := w.blobs; b.small.bytes > 8000 || len(b.items) != b.small.order.Len() {
		t.Errorf("%d bytes in memory, %d and %d files", b.small.bytes, len(b.items), b.small.order.Len())
	}
	if len(w.heads.min) != 0 || len(w.publishing.held) != 0 || len(w.heads.load.calls) != 0 {
		t.Error("something of requests that are over stays in memory")
	}
}

// BenchmarkTimestamp is the hottest answer: the current timestamp.
func BenchmarkTimestamp(b *testing.B) {
	c := &clock{now: time.Now()}
	dir := b.TempDir()
	w := newWorldOn(b, openStore(b, filepath.Join(dir, "server.db")), openSigner(b, filepath.Join(dir, "signer.db"), c.Now), c, nil)
	newPublisher(b, w, app).init(b)
	if err := w.heads.poll(b.Context()); err != nil {
		b.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, current(app, tuf.RoleTimestamp), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.ServeHTTP(&nowhere{h: http.Header{}}, r)
	}
}

type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// BenchmarkPublish is one more tag, in a small repository and in one of 5,000:
// the server's part of it, and the signer's, alone.
func BenchmarkPublish(b *testing.B) {
	for _, many := range []int{10, 5000} {
		b.Run(fmt.Sprint(many), func(b *testing.B) {
			c := &clock{now: time.Now()}
			dir := b.TempDir()
			w := newWorldOn(b, openStore(b, filepath.Join(dir, "server.db")), openSigner(b, filepath.Join(dir, "signer.db"), c.Now), c, nil)
			p := newPublisher(b, w, app)
			var tags []tuf.Change
			for i := range many {
				tags = append(tags, tag(fmt.Sprint("v1.", i)))
			}
			p.init(b, tags...)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				b.StopTimer()
				n++
				moved := tuftest.Target(fmt.Sprint("v1.", n))
				moved.Name = "latest"
				files := p.files(b, tuf.AddTarget{Target: moved})
				b.StartTimer()
				if err := w.upload(b, app, files...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
