package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// refused uploads files that must not get in: the answer is as wanted, nothing
// has changed, and the next honest publish works.
func refused(t *testing.T, p *publisher, want string, files ...tuf.File) *api.Error {
	t.Helper()
	before := p.w.state(t, p.gun)
	served := p.w.get(current(p.gun, tuf.RoleTimestamp)).Body.String()
	err := p.w.upload(t, p.gun, files...)
	if refusal(err) != want {
		t.Errorf("upload = %v, want %s", err, want)
	}
	after := p.w.state(t, p.gun)
	if (before == nil) != (after == nil) || before != nil && before.Seq != after.Seq {
		t.Error("the attack has changed what is published")
	}
	if now := p.w.get(current(p.gun, tuf.RoleTimestamp)).Body.String(); now != served {
		t.Error("the attack has changed what is served")
	}
	if before != nil {
		p.publish(t, tag(fmt.Sprintf("honest %d", before.Seq)))
	}
	return err
}

func victim(t *testing.T) *publisher {
	t.Helper()
	p := newPublisher(t, newWorld(t, nil), app)
	p.init(t, tag("1.0"), p.delegate("targets/releases", "alice"))
	p.publish(t, tagIn("targets/releases", "2.0"))
	return p
}

func (p *publisher) targetsKey() tuf.Signer { return tuftest.Key(string(p.gun) + " targets") }

// S1: members beside signed and signatures broke a collection for good.
func TestAttackExtraMembers(t *testing.T) {
	t.Parallel()
	p := victim(t)
	f := fileOf(t, p.files(t, tag("evil")), tuf.RoleTargets)
	f.Raw = append(bytes.TrimSuffix(f.Raw, []byte("}")), `,"extra":1}`...)
	refused(t, p, "INVALID_UPDATE ErrBadTargets", f)
}

// S13: bytes after the document.
func TestAttackTrailingBytes(t *testing.T) {
	t.Parallel()
	p := victim(t)
	f := fileOf(t, p.files(t, tag("evil")), tuf.RoleTargets)
	f.Raw = append(f.Raw, "{}"...)
	refused(t, p, "MALFORMED_JSON", f)
}

// S14: the timestamp is the server's, whoever signed it.
func TestAttackClientTimestamp(t *testing.T) {
	t.Parallel()
	p := victim(t)
	timestamp, _ := p.set(t).File(tuf.RoleTimestamp)
	refused(t, p, "INVALID_UPDATE ErrValidation", timestamp)
	refused(t, p, "INVALID_UPDATE ErrValidation", append(p.files(t, tag("x")), timestamp)...)
}

// S14: a snapshot that the client has no key for.
func TestAttackClientSnapshot(t *testing.T) {
	t.Parallel()
	p := victim(t)
	snapshot, _ := p.set(t).File(tuf.RoleSnapshot)
	evil := edited(t, snapshot, func(o tuftest.Object) { o["version"] = number(snapshot.Version + 1) }, p.targetsKey())
	refused(t, p, "INVALID_UPDATE ErrBadSnapshot", evil)
}

// S2: uploads that are well signed, each file by itself, and that no client
// would accept.
func TestAttackBadResult(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want string
		make func(t *testing.T, p *publisher) []tuf.File
	}{
		"expired targets": {"INVALID_UPDATE ErrBadTargets", func(t *testing.T, p *publisher) []tuf.File {
			f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
			return []tuf.File{edited(t, f, func(o tuftest.Object) { o["expires"] = p.w.clock.Now().Add(-time.Second).Format(time.RFC3339) }, p.targetsKey())}
		}},
		"missing parent": {"INVALID_UPDATE ErrBadTargets", func(t *testing.T, p *publisher) []tuf.File {
			f, _ := p.set(t).File("targets/releases")
			f.Role = "targets/other/child"
			return []tuf.File{f}
		}},
		"below threshold": {"INVALID_UPDATE ErrBadTargets", func(t *testing.T, p *publisher) []tuf.File {
			f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
			return []tuf.File{edited(t, f, nil, tuftest.Key("mallory"))}
		}},
		"new targets key, old targets file": {"INVALID_UPDATE ErrBadTargets", func(t *testing.T, p *publisher) []tuf.File {
			p.ring.Add(tuftest.Key("new targets"))
			files := p.clone().files(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, tuftest.Key("new targets").PublicKey())})
			return []tuf.File{fileOf(t, files, tuf.RoleRoot)}
		}},
		"wrong type": {"MALFORMED_JSON", func(t *testing.T, p *publisher) []tuf.File {
			f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
			return []tuf.File{edited(t, f, func(o tuftest.Object) { o["_type"] = "Snapshot" }, p.targetsKey())}
		}},
		"root by strangers": {"INVALID_UPDATE ErrBadRoot", func(t *testing.T, p *publisher) []tuf.File {
			q := newPublisher(t, p.w, p.gun)
			q.ring = tuftest.NewRing(tuftest.RootKey(t, p.gun, "mallory", p.w.clock.Now()))
			root, _ := p.set(t).File(tuf.RoleRoot)
			var by tuf.Signer
			for _, s := range q.ring {
				by = s
			}
			id := string(by.PublicKey().ID())
			return []tuf.File{edited(t, root, func(o tuftest.Object) {
				o["version"] = number(root.Version + 1)
				tuftest.At(o, "keys")[id] = tuftest.KeyObject(by.PublicKey())
				tuftest.At(o, "roles", "root")["keyids"] = []string{id}
			}, by)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := victim(t)
			refused(t, p, c.want, c.make(t, p)...)
		})
	}
}

// F13: a publisher uses up the version numbers.
func TestAttackVersionJump(t *testing.T) {
	t.Parallel()
	p := victim(t)
	for _, jump := range []int64{2, 100, 1 << 52} {
		f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
		have, _ := p.set(t).Info(tuf.RoleTargets)
		f = edited(t, f, func(o tuftest.Object) { o["version"] = number(have.Version + jump) }, p.targetsKey())
		refused(t, p, "INVALID_UPDATE ErrBadTargets", f)
	}
	// A gap may be configured; root never has one.
	w := newWorldOn(t, p.w.sql, p.w.keys.Keys, p.w.clock, func(c *Config) { c.Limits.Step = 5 })
	f := fileOf(t, p.files(t, tag("y")), tuf.RoleTargets)
	f = edited(t, f, func(o tuftest.Object) { o["version"] = number(f.Version + 4) }, p.targetsKey())
	if err := w.upload(t, app, f); err != nil {
		t.Errorf("a step of 5 where 5 are allowed: %v", err)
	}
}

// Rollback: what was current comes back.
func TestAttackReplay(t *testing.T) {
	t.Parallel()
	p := victim(t)
	old, _ := p.set(t).File(tuf.RoleTargets)
	p.publish(t, tag("1.1"))
	refused(t, p, "VERSION", old)
	root, _ := p.set(t).File(tuf.RoleRoot)
	refused(t, p, "VERSION", root)
}

// K1: one signature twice.
func TestAttackRepeatedSignature(t *testing.T) {
	t.Parallel()
	p := victim(t)
	f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
	f.Raw = tuftest.Signatures(t, f.Raw, func(s []tuftest.Object) []tuftest.Object { return append(s, s[0]) })
	refused(t, p, "MALFORMED_JSON", f)
}

// K2: one key under two ids fills a threshold of two.
func TestAttackKeyTwice(t *testing.T) {
	t.Parallel()
	p := victim(t)
	alice := tuftest.Key("alice").PublicKey()
	f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
	f = edited(t, f, func(o tuftest.Object) {
		d := tuftest.At(o, "delegations")
		tuftest.At(d, "keys")[strings.Repeat("ab", 32)] = tuftest.KeyObject(alice)
		role := d["roles"].([]any)[0].(tuftest.Object)
		role["threshold"] = number(2)
		role["keyids"] = []string{string(alice.ID()), strings.Repeat("ab", 32)}
	}, p.targetsKey())
	before := p.w.state(t, app)
	err := p.w.upload(t, app, f)
	if err == nil {
		// Then the role may not be satisfied by alice alone.
		if s := p.set(t); len(s.Unusable()) != 1 {
			t.Error("one key under two ids fills a threshold of two")
		}
		return
	}
	if after := p.w.state(t, app); after.Seq != before.Seq {
		t.Error("refused, and something has changed")
	}
}

// K3, K4: thresholds that cannot be.
func TestAttackThreshold(t *testing.T) {
	t.Parallel()
	for _, threshold := range []int64{0, -1, 2, 1 << 40} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			t.Parallel()
			p := victim(t)
			root, _ := p.set(t).File(tuf.RoleRoot)
			var by tuf.Signer
			for _, s := range p.ring {
				if s.PublicKey().Type.Certificate() {
					by = s
				}
			}
			f := edited(t, root, func(o tuftest.Object) {
				o["version"] = number(root.Version + 1)
				tuftest.At(o, "roles", "targets")["threshold"] = number(threshold)
			}, by)
			err := p.w.upload(t, app, f)
			if code := refusal(err); code != "MALFORMED_JSON" && code != "INVALID_UPDATE ErrBadRoot" {
				t.Errorf("root with a targets threshold of %d = %v", threshold, err)
			}
			refused(t, p, refusal(err), f)
		})
	}
}

// K7: a great many signatures cost nothing.
func TestAttackManySignatures(t *testing.T) {
	t.Parallel()
	p := victim(t)
	f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
	f.Raw = tuftest.Signatures(t, f.Raw, func(s []tuftest.Object) []tuftest.Object {
		for i := range 20_000 {
			s = append(s, tuftest.Object{"keyid": fmt.Sprintf("%064x", i), "method": "eddsa", "sig": "AAAA"})
		}
		return s
	})
	refused(t, p, "MALFORMED_JSON", f)
}

// D11: a delegation that is called like something else.
func TestAttackRoleNames(t *testing.T) {
	t.Parallel()
	p := victim(t)
	for _, name := range []string{"root", "timestamp", "releases", "targets/../root", "targets/UPPER", "targets//x", "other/x"} {
		f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
		f = edited(t, f, func(o tuftest.Object) {
			tuftest.At(o, "delegations")["roles"].([]any)[0].(tuftest.Object)["name"] = name
		}, p.targetsKey())
		err := p.w.upload(t, app, f)
		if code := refusal(err); code != "MALFORMED_JSON" && code != "INVALID_UPDATE ErrBadTargets" {
			t.Errorf("delegation named %q = %v", name, err)
		}
		refused(t, p, refusal(err), f)
	}
}

// M4: the content of a file is of another version than its envelope says
// cannot be expressed; of another role it can.
func TestAttackOtherRole(t *testing.T) {
	t.Parallel()
	p := victim(t)
	f, _ := p.set(t).File("targets/releases")
	f.Role = tuf.RoleTargets
	refused(t, p, "INVALID_UPDATE ErrBadTargets", f)
}

// Files of one repository are published to another.
func TestAttackOtherRepository(t *testing.T) {
	t.Parallel()
	p := victim(t)
	other := newPublisher(t, p.w, "registry.example/other")
	files := p.set(t).Files()
	refused(t, other, "INVALID_UPDATE ErrBadRoot", fileOf(t, files, tuf.RoleRoot), fileOf(t, files, tuf.RoleTargets))
}

// L4: uploads without end.
func TestAttackUnboundedUpload(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, newWorld(t, func(c *Config) {
		c.Limits.Upload = api.Limits{Request: 20_000, Parts: 4, Files: tuf.Limits{Targets: 5_000}}
	}), app)
	p.init(t)
	big := tuf.File{Role: tuf.RoleTargets, Raw: bytes.Repeat([]byte(" "), 5_001)}
	refused(t, p, "TOO_LARGE", big)
	huge := tuf.File{Role: tuf.RoleTargets, Raw: bytes.Repeat([]byte(" "), 30_000)}
	if err := refused(t, p, "TOO_LARGE", huge); err.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("an upload that is too large = %d, want 413", err.Status)
	}
	f := fileOf(t, p.files(t, tag("x")), tuf.RoleTargets)
	var many []tuf.File
	for i := range 5 {
		g := f
		g.Role = tuf.RoleName(fmt.Sprintf("targets/r%d", i))
		many = append(many, g)
	}
	refused(t, p, "TOO_LARGE", many...)

	// One that does not say how long it is, and never comes to its first part.
	body := &preamble{}
	r := httptest.NewRequest(http.MethodPost, repository(app), body)
	r.ContentLength = -1
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	rec := httptest.NewRecorder()
	p.w.ServeHTTP(rec, r)
	if rec.Code != http.StatusRequestEntityTooLarge || body.read > 30_000 {
		t.Errorf("an upload without end = %d, after %d bytes of it; want 413 after 20,000", rec.Code, body.read)
	}
}

// A preamble is what may stand before the first part of an upload, for 16 MiB.
type preamble struct{ read int }

func (b *preamble) Read(p []byte) (int, error) {
	if b.read > 16<<20 {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = "x\r\n"[(b.read+i)%3]
	}
	b.read += len(p)
	return len(p), nil
}

// S12: multipart bodies that are broken.
func TestAttackBrokenMultipart(t *testing.T) {
	t.Parallel()
	p := victim(t)
	var b bytes.Buffer
	ct, err := api.WriteFiles(&b, p.files(t, tag("x")))
	if err != nil {
		t.Fatal(err)
	}
	before := p.w.state(t, app).Seq
	for cut := 0; cut < b.Len()-3; cut += 7 {
		r := p.w.do(http.MethodPost, repository(app), b.Bytes()[:cut], "Content-Type", ct)
		if r.Code != http.StatusBadRequest {
			t.Fatalf("an upload cut at %d of %d bytes = %d %s", cut, b.Len(), r.Code, r.Body)
		}
	}
	if p.w.state(t, app).Seq != before {
		t.Error("a broken upload was committed")
	}
}

// N4: one repository has one name.
func TestAttackNames(t *testing.T) {
	t.Parallel()
	p := victim(t)
	for path, want := range map[string]int{
		"/v2/registry.example/app/_trust/tuf/root.json":               200,
		"/v2/registry.example%2Fapp/_trust/tuf/root.json":             404,
		"/v2/registry.example/%61pp/_trust/tuf/root.json":             404,
		"/v2/registry.example/APP/_trust/tuf/root.json":               404,
		"/v2/registry.example/app./_trust/tuf/root.json":              404,
		"/v2/registry.example/app%00/_trust/tuf/root.json":            404,
		"/v2/registry.example//app/_trust/tuf/root.json":              301,
		"/v2/registry.example/x/../app/_trust/tuf/root.json":          301,
		"/v2/registry.example/app/_trust/tuf/../../../../metrics":     301,
		"/v2/registry.example/%D0%B0pp/_trust/tuf/root.json":          404,
		"/v2/registry.example/app/_trust/_trust/tuf/root.json":        404,
		"/v2/registry.example/*/_trust/tuf/root.json":                 404,
		"/v2/registry.example/app'%20OR%201=1--/_trust/tuf/root.json": 404, // S11
	} {
		if r := p.w.get(path); r.Code != want {
			t.Errorf("GET %s = %d, want %d", path, r.Code, want)
		}
	}
	if r := p.w.get("/v2/registry.example/x/../app/_trust/tuf/root.json?q=1"); r.Header().Get("Location") != "/v2/registry.example/app/_trust/tuf/root.json?q=1" {
		t.Errorf("redirected to %q", r.Header().Get("Location"))
	}
}

// S7: rotating over and over makes one key.
func TestAttackRotationFlood(t *testing.T) {
	t.Parallel()
	p := victim(t)
	first := p.w.key(t, http.MethodPost, app, tuf.RoleTimestamp)
	for range 20 {
		if k := p.w.key(t, http.MethodPost, app, tuf.RoleTimestamp); !k.Equal(first) {
			t.Fatal("another key was made")
		}
	}
}

// S3: whatever was published, its owner can publish what replaces it. Here
// everything that the owner signed has expired.
func TestAttackNothingIsBeyondRepair(t *testing.T) {
	t.Parallel()
	p := victim(t)
	p.set(t)
	p.w.clock.pass(5 * 365 * 24 * time.Hour) // targets lived for three years
	reader := newPublisher(t, p.w, app)
	if _, err := reader.update(); err == nil {
		t.Fatal("expired targets are accepted")
	}
	// The timestamp is fresh all the same, so that readers learn what is wrong.
	r := p.w.get(current(app, tuf.RoleTimestamp))
	meta, err := tuf.Outline(tuf.RoleTimestamp, r.Body.Bytes(), tuf.Options{Now: p.w.clock.Now()})
	if err != nil || !meta.Expires.After(p.w.clock.Now()) {
		t.Fatalf("timestamp = %d, expires %v, %v", r.Code, meta.Expires, err)
	}
	d := p.past.Draft()
	files := p.finish(t, d, tuf.Resign{Role: tuf.RoleTargets}, tuf.Resign{Role: "targets/releases"})
	if err := p.w.upload(t, app, files...); err != nil {
		t.Fatalf("repair: %v", err)
	}
	reader.hasTags(t, "targets", "1.0")
	reader.hasTags(t, "targets/releases", "2.0")
}

// S10: the changefeed of all repositories is not for everybody.
func TestAttackListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Auth = onlyPull{} })
	for path, want := range map[string]int{
		"/v2/_trust/changefeed?records=1":                     401,
		"/v2/" + string(app) + "/_trust/changefeed?records=1": 200,
		current(app, tuf.RoleRoot):                            404,
		keyPath(app, tuf.RoleTimestamp):                       401,
		"/v2/":                                                401,
		"/nowhere":                                            401,
		"/_notary_server/health":                              200,
	} {
		if r := w.get(path); r.Code != want {
			t.Errorf("GET %s with pull rights = %d, want %d", path, r.Code, want)
		}
	}
	// S6: deleting is a right of its own.
	for _, method := range []string{http.MethodDelete, http.MethodPost} {
		if r := w.do(method, repository(app), nil); r.Code != 401 {
			t.Errorf("%s with pull rights = %d, want 401", method, r.Code)
		}
	}
}

// onlyPull lets everybody read single repositories.
type onlyPull struct{}

func (onlyPull) Authorize(_ *http.Request, a Access) (Grant, error) {
	if a.Type == "repository" && len(a.Actions) == 1 && a.Actions[0] == "pull" {
		return Grant{}, nil
	}
	e := api.NewError(api.Unauthorized, nil)
	e.Challenge = `Bearer realm="https://auth.example/token"`
	return Grant{}, e
}

// S3: what a publisher who signs the snapshots has put into one, and the signer
// would never sign, does not keep the owner from handing the snapshot over to
// the server, nor the server from going on.
func TestAttackOddClientSnapshot(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(tuftest.Object){
		"member":   func(p tuftest.Object) { p["x"] = "y" },
		"entry":    func(p tuftest.Object) { tuftest.At(p, "meta")["bogus"] = tuftest.Describe([]byte("x")) },
		"checksum": func(p tuftest.Object) { tuftest.At(p, "meta", "targets", "hashes")["md5"] = "AAAA" },
		"unlisted": func(p tuftest.Object) {
			m := tuftest.Describe([]byte("x"))
			m["custom"] = "y"
			tuftest.At(p, "meta")["targets/x"] = m
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t, newWorld(t, nil), app)
			files := p.first(t, true, tag("1.0"))
			for i, f := range files {
				if f.Role == tuf.RoleSnapshot {
					files[i] = edited(t, f, edit, tuftest.Key(string(p.gun)+" snapshot"))
				}
			}
			if err := p.w.upload(t, p.gun, files...); err != nil {
				t.Fatal(err)
			}
			k := p.w.key(t, http.MethodPost, p.gun, tuf.RoleSnapshot)
			p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleSnapshot, 1, k)})
			p.publish(t, tag("2.0"))
			p.hasTags(t, tuf.RoleTargets, "1.0", "2.0")
		})
	}
}

// L4: many uploads at a time, each within its own limits, take no more memory
// than one server has; small ones wait for nothing else.
func TestAttackManyUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Limits.Uploading = 1 << 20 })
	p := newPublisher(t, w, app)
	p.init(t, tag("1.0"))
	part := "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"targets\"\r\n\r\n"
	var held []*io.PipeWriter
	var answers sync.WaitGroup
	codes := make(chan int, 4)
	for range 4 {
		r, hold := io.Pipe()
		held = append(held, hold)
		answers.Go(func() {
			q := httptest.NewRequest(http.MethodPost, repository(app), r)
			q.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, q)
			_ = r.Close() // ends the writer
			codes <- rec.Code
		})
	}
	for _, hold := range held {
		// An error says that the server has stopped to read.
		_, _ = io.WriteString(hold, part+strings.Repeat(" ", 400<<10))
	}
	full := 0
	for full == 0 {
		if code := <-codes; code != http.StatusTooManyRequests {
			t.Errorf("an upload beyond the limit: %d, want 429", code)
		}
		full++
	}
	if n := w.uploading.Load(); n > 2<<20 {
		t.Errorf("%d bytes of uploads are held", n)
	}
	for _, hold := range held {
		_ = hold.Close() // a pipe closes without error
	}
	answers.Wait()
	if n := w.uploading.Load(); n != 0 {
		t.Errorf("%d bytes of uploads are held after all of them", n)
	}
	p.publish(t, tag("2.0"))
}
