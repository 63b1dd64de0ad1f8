package trust

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iechor/trust/tuf"
)

// Errors in this package are sentences: one line that a terminal does not obey.
func oneLine(t *testing.T, what any, err error) {
	t.Helper()
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q is answered with %q", what, err)
	}
}

// A time that is none can be long, and the library repeats it with characters
// that a terminal obeys.
func TestTimeThatIsNoneIsOneLine(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"\x7f", strings.Repeat("2026-", 1000)} {
		_, notice := ReadNotice([]byte(`{"signed":{"made":"` + at + `"},"signatures":[]}`))
		_, list := ReadTagList([]byte(`{"made":"` + at + `"}`))
		d := NewDir(filepath.Join(t.TempDir(), "trust"))
		file := d.file(decisionsName(app))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(`{"made":[{"at":"`+at+`"}]}`), 0o600)); err != nil {
			t.Fatal(err)
		}
		_, decided := d.decided(app)
		for what, err := range map[string]error{"a notice": notice, "a list of tags": list, "decisions": decided} {
			if err == nil || !strings.Contains(err.Error(), "parsing time") || len(err.Error()) > 1000 {
				t.Errorf("%s of %.30q: %.300v, want a short error about the time", what, at, err)
				continue
			}
			oneLine(t, what, err)
		}
	}
}

// FuzzStaged: a staged change means one thing, which survives being staged
// again, or it is not understood.
func FuzzStaged(f *testing.F) {
	files, err := filepath.Glob("testdata/stock/*/changelist/*.change")
	more, _ := filepath.Glob("testdata/unpublished/changelist/*.change")
	if files = append(files, more...); err != nil || len(files) == 0 {
		f.Fatalf("no change files: %v", err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	for _, s := range []string{
		`{"action":"update","role":"targets/*","type":"delegation","path":"","data":"eyJyZW1vdmVfa2V5cyI6WyJhIl19"}`,
		`{"action":"update","role":"targets/a","type":"witness","path":"","data":null}`,
		`{"action":"delete","role":"targets","type":"target","path":"../x","data":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s Staged
		s.read(raw)
		if s.Change == nil {
			return
		}
		parts, err := filesOf(s.Change)
		if err != nil {
			t.Fatalf("%+v cannot be staged: %v", s.Change, err)
		}
		var all []tuf.Change
		for _, p := range parts {
			again := p.change()
			if again == nil {
				t.Fatalf("%+v is staged as %+v, which is not understood", s.Change, p)
			}
			all = append(all, again)
		}
		got := all[0]
		if len(all) == 2 { // keys, then paths
			e, more := all[0].(tuf.EditDelegation), all[1].(tuf.EditDelegation)
			e.AddPaths = more.AddPaths
			got = e
		}
		want := s.Change
		if e, ok := want.(tuf.EditDelegation); ok && len(e.AddKeys) > 0 {
			if g := got.(tuf.EditDelegation); e.Threshold == 0 && g.Threshold == 1 {
				e.Threshold = 1 // as the stock programs write it
				want = e
			}
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s staged again (-want +got):\n%s", raw, diff)
		}
	})
}

// FuzzMemory: what this machine wrote down, and somebody changed since, is
// understood as it was written, or stands for nothing; where it denies a root,
// it is an error that names the file.
func FuzzMemory(f *testing.F) {
	id := tuf.CanonicalID(strings.Repeat("ab", 32))
	f.Add([]byte(`{"gun":"registry.example/team/app","server":"trust.example","checked":"2026-11-22T12:00:00Z","timestamp":"ab","since":"2026-11-22T12:00:00Z"}`))
	f.Add([]byte(`{"gun":"registry.example/team/app","denied":["` + string(id) + `"],"made":[{"at":"2026-11-22T12:00:00Z","old":["` + string(id) + `"],"new":null}]}`))
	f.Add([]byte(`{"what":"rotate","of":"` + string(id) + `","new":"` + string(id) + `"}`))
	f.Add([]byte(`{"gun":"registry.example/team/app","denied":["x"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := NewDir(filepath.Join(t.TempDir(), "trust"))
		intent := Intent{What: "rotate", Of: id}
		for _, name := range []string{stateName(app), decisionsName(app), intent.name()} {
			file := d.file(name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, raw, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		m, err := d.recollect(app)
		if err != nil || m.GUN != "" && m.GUN != app {
			t.Errorf("recollect of %q = %+v, %v", raw, m, err)
		}
		if y := m.Checked.Year() + m.Since.Year() + m.Met.Year(); m.GUN == app && y < 3*9000 && m.Checked.Year() > 0 && len(raw) < maxState/8 { // escapes make it longer
			if err := d.memorise(m); err == nil {
				if again, err := d.recollect(app); err != nil || !cmp.Equal(m, again, cmpopts.EquateApproxTime(0)) {
					t.Errorf("recollect = %+v, %v, want %+v", again, err, m)
				}
			}
		}
		all, err := d.decided(app)
		var broken *DecisionsError
		if err != nil && (!errors.As(err, &broken) || broken.File == "") {
			t.Errorf("decided of %q = %v", raw, err)
		} else if err != nil {
			oneLine(t, raw, err)
		}
		for _, id := range all.Denied {
			if !id.Valid() || err != nil {
				t.Errorf("decided of %q denies %q (%v)", raw, id, err)
			}
		}
		i, err := d.Intent(intent.What, intent.Of)
		if err != nil || i.New != "" && !i.New.Valid() || i.What != intent.What || i.Of != intent.Of {
			t.Errorf("Intent of %q = %+v, %v", raw, i, err)
		}
	})
}

// FuzzPathOf: every role of every repository has a file of its own within the
// folder of trust data, on every system, and its name says whose it is.
func FuzzPathOf(f *testing.F) {
	for _, s := range []string{"a/b", "registry.example:5000/team/app", "tuf/metadata", "x/con", "a/changelist", "a.b/CON.x"} {
		f.Add(s, "targets/releases", "targets/x/y")
		f.Add(s, "targets/con", "targets/metadata")
	}
	f.Fuzz(func(t *testing.T, name, one, other string) {
		gun, role := tuf.GUN(name), tuf.RoleName(one)
		if !gun.Valid() || !role.Valid() {
			return
		}
		for _, system := range []string{"linux", "windows", "darwin"} {
			path := pathOn(system, gun, role)
			if !fs.ValidPath(path) || !strings.HasPrefix(path, "tuf/") || strings.ContainsAny(path, "\\\x00") || system == "windows" && strings.ContainsAny(path, `:*?"<>|`) {
				t.Errorf("the file of %s of %s on %s is %q", role, gun, system, path)
			}
			if o := tuf.RoleName(other); o.Valid() && o != role && strings.EqualFold(pathOn(system, gun, o), path) && !strings.EqualFold(one, other) {
				t.Errorf("%s and %s have one file on %s: %s", role, o, system, path)
			}
			if g := tuf.GUN(other); g.Valid() && g != gun && pathOn(system, g, role) == path {
				t.Errorf("%s and %s have one file on %s: %s", gun, g, system, path)
			}
		}
		folder := gunDir(gun) + "/" + metadataDir
		if got, ok := roleAt(gun, folder, pathOf(gun, role)); !ok || got != role {
			t.Errorf("the file %q is that of %q, %v; want %q", pathOf(gun, role), got, ok, role)
		}
	})
}

// saying is the other end of every connection. It answers its host's requests
// with what it was given, and writes down whom a login is shown.
type saying struct {
	answer http.Response
	body   []byte
	host   string
	shown  map[string]bool
}

func (s *saying) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	if r.Header.Get("Authorization") != "" {
		s.shown[r.URL.Host] = true
	}
	a := s.answer
	if r.URL.Host != s.host { // a login server: it takes what comes
		a = http.Response{StatusCode: http.StatusOK, Header: http.Header{}}
	}
	a.Request, a.Proto, a.ProtoMajor, a.ProtoMinor = r, "HTTP/1.1", 1, 1
	a.Body = io.NopCloser(bytes.NewReader(s.body))
	return &a, nil
}

// FuzzFetch: whatever a server answers, it is metadata of bounded size or an
// error that can be told; and a login goes to its own domain only.
func FuzzFetch(f *testing.F) {
	f.Add(200, `{"signed":{}}`, "", "")
	f.Add(401, `{"errors":[{"code":"UNAUTHORIZED","message":"\u001b[31m"}]}`, `Bearer realm="https://auth.corp.example/token",service="x",scope="y"`, "")
	f.Add(401, `{"token":"x"}`, `Bearer realm="https://evil.example/token"`, "")
	f.Add(401, `{"access_token":"x\n"}`, `Basic realm="x"`, "")
	f.Add(404, `{"errors":[{"code":"METADATA_NOT_FOUND"}]}`, "", "")
	f.Add(302, "", "", "https://evil.example/\x1b")
	f.Add(410, "\x00", "", "")
	f.Add(401, `{"errors":[{"code":"UNAUTHORIZED"}]}`, `Bearer realm="https://a%C2%92%ff.corp.example/token"`, "") // found: the host was named as it is decoded
	f.Fuzz(func(t *testing.T, status int, body, challenge, location string) {
		if status < 200 || status > 999 {
			return // net/http refuses it
		}
		h, err := NewHTTP(HTTPConfig{Base: "https://trust.corp.example", Version: "1", Credentials: alice})
		if err != nil {
			t.Fatal(err)
		}
		s := &saying{http.Response{StatusCode: status, Header: http.Header{"Www-Authenticate": {challenge}, "Location": {location}}}, []byte(body), "trust.corp.example", map[string]bool{}}
		client := &http.Client{Transport: s, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		h.clients[s.host] = client
		if c := parseChallenges([]string{challenge}); c != nil {
			if realm, err := url.Parse(c.params["realm"]); err == nil {
				h.clients[realm.Host] = client
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		raw, err := h.Fetch(ctx, app, tuf.Want{Role: tuf.RoleTimestamp, MaxLength: 100})
		if err != nil {
			var redirect *RedirectError
			var realm *RealmError
			var refusal *ServerRefusal
			var not *NotSigned
			if !errors.Is(err, ErrNotTrustServer) && !errors.Is(err, ErrUnauthorized) && !errors.As(err, &redirect) && !errors.As(err, &realm) && !errors.As(err, &refusal) && !errors.As(err, &not) {
				t.Errorf("Fetch = %v, of no known kind", err)
			}
			oneLine(t, []any{status, body, challenge, location}, err)
		} else if len(raw) > 101 || !strings.HasPrefix(strings.TrimLeft(string(raw), " \t\r\n"), "{") || status != http.StatusOK && len(s.shown) == 0 {
			t.Errorf("Fetch = %q by status %d", raw, status)
		}
		for host := range s.shown {
			name := (&url.URL{Host: host}).Hostname()
			if name = strings.ToLower(name); !strings.HasSuffix("."+name, ".corp.example") && !strings.HasSuffix("."+name, ".registry.example") {
				t.Errorf("the login was shown to %q, by the challenge %q", host, challenge)
			}
		}
	})
}

// FuzzPinning: a bundle of authorities has certificates and nothing else, and
// a pattern that is accepted is a name or the beginning of one.
func FuzzPinning(f *testing.F) {
	authority := newCA(f, "authority").pem()
	f.Add("registry.example/*", authority)
	f.Add("*", append(bytes.Clone(authority), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...))
	f.Add("registry.example/a**", []byte("-----BEGIN CERTIFICATE-----\nx: y\n\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, pattern string, bundle []byte) {
		pin, err := Pinning{CA: map[string]string{pattern: "ca.crt"}}.Pin(func(string) ([]byte, error) { return bundle, nil })
		if err != nil {
			oneLine(t, pattern, err)
			return
		}
		if pin == nil || bytes.Count(bundle, []byte("-----BEGIN CERTIFICATE-----")) == 0 {
			t.Errorf("Pin of %q with %q = %v", pattern, bundle, pin)
		}
		if name := strings.TrimSuffix(strings.TrimSuffix(pattern, "*"), "/"); name != "" && !tuf.GUN(name).Valid() {
			t.Errorf("the pattern %q is accepted", pattern)
		}
	})
}
