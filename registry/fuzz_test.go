package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"
)

func oneLine(t *testing.T, what any, err error) {
	t.Helper()
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q is answered with %q", what, err)
	}
}

// FuzzCredentials: a configuration that somebody else wrote is read or refused
// without a word of its secrets, and a login that is kept in it takes nothing
// else away.
func FuzzCredentials(f *testing.F) {
	auth := base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	for _, s := range []string{
		`{"auths":{"registry.example":{"auth":"` + auth + `"}},"HttpHeaders":{"x":"y"}}`,
		`{"auths":{"https://registry.example/v1/":{"username":"a","password":"b","identitytoken":"c"}},"detachKeys":"ctrl-e"}`,
		`{"credsStore":"../../bin/sh","credHelpers":{"registry.example":"\u001b[31m"}}`, `{"auths":null,"AUTHS":{"registry.example":{"auth":"OnNlY3JldA=="}}}`, ` `,
		`null`, // found: a login could not be kept in it
		`{"auth\u017f":{"other.example":{"auth":"` + auth + `"}},"a":[[[]]]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.json")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c := NewCredentials(CredentialsConfig{Dir: dir, Path: dir})
		if cred, err := c.Lookup(t.Context(), "registry.example"); err != nil {
			if oneLine(t, raw, err); cred != (Credential{}) {
				t.Errorf("Lookup = %v, %v", cred, err)
			}
		}
		before, err := readConfig(file)
		if err != nil {
			if err := c.Store(t.Context(), "other.example", Credential{Username: "bob", Password: "x:y"}); err == nil {
				t.Errorf("a login is kept in %q", raw)
			}
			if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, raw) {
				t.Errorf("%q became %q (%v)", raw, now, err)
			}
			return
		}
		want := Credential{Username: "bob", Password: "x:y"}
		if before.helper("other.example") != "" || c.Store(t.Context(), "other.example", want) != nil {
			return
		}
		got, err := c.Lookup(t.Context(), "other.example")
		if err != nil || got != want {
			t.Errorf("Lookup of what was stored in %q = %+v, %v", raw, got, err)
		}
		after, err := readConfig(file)
		if err != nil {
			t.Fatalf("%q cannot be read after a login: %v", raw, err)
		}
		for name := range before.members {
			if _, ok := after.members[name]; !ok && !strings.EqualFold(name, "auths") {
				t.Errorf("%q lost %q by a login", raw, name)
			}
		}
		for host, a := range before.Auths {
			if registryName(host) != "other.example" && after.Auths[host] != a {
				t.Errorf("%q lost the login of %q", raw, host)
			}
		}
	})
}

// FuzzArchive: of an archive from anywhere comes an image whose manifest is
// the one of its digest, or a refusal; and it stays as it is.
func FuzzArchive(f *testing.F) {
	s := newSample(f)
	reg := newRegistry(f)
	if _, err := reg.client().Push(f.Context(), s.image("single"), reg.ref("app:1"), PushOptions{}); err != nil {
		f.Fatal(err)
	}
	made := filepath.Join(f.TempDir(), "new.tar")
	if err := reg.client().Pull(f.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Archive, Path: made}, PullOptions{}); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{made, oldArchiveFile(f, "alpine:3").Path} {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		from := Image{Kind: Archive, Path: filepath.Join(dir, "a.tar")}
		if err := os.WriteFile(from.Path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := scanArchive(t.Context(), from); err != nil {
			oneLine(t, raw, err)
		} else {
			if _, err := a.names(); err != nil {
				oneLine(t, raw, err)
			}
			_ = a.Close() // it was only read
		}
		src, m, err := openArchive(t.Context(), from)
		if err != nil {
			oneLine(t, raw, err)
		} else {
			if m.Digest != DigestOf(m.raw) || m.Size != int64(len(m.raw)) {
				t.Errorf("the manifest %s is %q", m.Digest, m.raw)
			}
			if !m.Index() && m.config.Size <= maxManifest {
				if body, err := src.open(t.Context(), m.config); err == nil {
					config, err := io.ReadAll(body)
					if err == nil && (DigestOf(config) != m.config.Digest || int64(len(config)) != m.config.Size) {
						t.Errorf("the config %s is %q", m.config.Digest, config)
					}
					_ = body.Close() // it was only read
				}
			}
			_ = src.Close() // it was only read
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("beside the archive are %v (%v)", entries, err)
		}
	})
}

// FuzzStream: what an engine says while it works is shown as text, and its
// last word is a success or one sentence.
func FuzzStream(f *testing.F) {
	f.Add(`{"id":"abc","status":"Pushing","progressDetail":{"current":1,"total":2}}` + "\r\n" + `{"aux":{"Digest":"sha256:` + strings.Repeat("ab", 32) + `"}}`)
	f.Add(`{"status":"\u001b[2J\n"}{"errorDetail":{"message":"denied:\u0000 x"},"error":"denied"}`)
	f.Add(`{"error":"manifest verification failed for digest sha256:` + strings.Repeat("0", 64) + `"}[]`)
	ref, err := ParseRef("registry.example/app:1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, said string) {
		err := stream(context.Background(), io.NopCloser(strings.NewReader(said)), ref, func(p Progress) {
			if len(p.What)+len(p.Status) > 2000 || strings.ContainsFunc(p.What+p.Status, unicode.IsControl) {
				t.Errorf("%q shows %+v", said, p)
			}
		}, func(raw json.RawMessage) {
			if !json.Valid(raw) {
				t.Errorf("%q has the part %q", said, raw)
			}
		})
		if err != nil && strings.ContainsFunc(err.Error(), func(c rune) bool { return c != '\n' && unicode.IsControl(c) }) {
			t.Errorf("%q is answered with %q", said, err)
		}
	})
}

// FuzzRegistry: whatever a registry answers, a tag is resolved to the digest
// of what it sent, a list has tags, and a refusal is one sentence.
func FuzzRegistry(f *testing.F) {
	manifest := `{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("ab", 32) + `","size":1},"layers":[]}`
	f.Add(byte(0), manifest, "application/vnd.oci.image.manifest.v1+json", DigestOf([]byte(manifest)).String(), "")
	f.Add(byte(0), manifest, "application/vnd.docker.distribution.manifest.v2+json", "sha256:"+strings.Repeat("ab", 32), "")
	f.Add(byte(0), `{"name":"app","tags":["1","../x","\u001b"]}`, "application/json", "", `</v2/app/tags/list?n=1&last=x>; rel="next"`)
	f.Add(byte(1), `{"errors":[{"code":"DENIED","message":"\u001b[31m\n"}]}`, "application/json", "", "")
	f.Add(byte(2), "", "", "", `Bearer realm="https://evil.example/token",service="x"`)
	f.Add(byte(3), "", "", "", `https://evil.example/`)
	for _, link := range []string{`Bearer realm="https://a%C2%92%ff.example/token"`, `https://a%C2%92%ff.example/`, `<https://a%C2%92%ff.example/>; rel="next"`} {
		for n := range byte(4) {
			f.Add(n, `{"name":"app","tags":["1"]}`, "application/json", "", link) // found: the host was named as it is decoded
		}
	}
	statuses := []int{200, 403, 401, 307, 404, 400}
	reg := newPlainRegistry(f)
	client := reg.client()
	ref := reg.ref("app:1")
	var mu sync.Mutex
	var answer func(w http.ResponseWriter)
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		answer(w)
		return true
	})
	f.Fuzz(func(t *testing.T, n byte, body, mediaType, digest, link string) {
		mu.Lock()
		answer = func(w http.ResponseWriter) {
			h := w.Header()
			for name, value := range map[string]string{"Content-Type": mediaType, "Docker-Content-Digest": digest, "Link": link, "Location": link, "WWW-Authenticate": link} {
				if value != "" {
					h.Set(name, value)
				}
			}
			w.WriteHeader(statuses[int(n)%len(statuses)])
			_, _ = io.WriteString(w, body) // the client may have enough
		}
		mu.Unlock()
		what := []any{n, body, mediaType, digest, link}
		if d, err := client.Resolve(t.Context(), ref); err != nil {
			oneLine(t, what, err)
		} else if d.Digest != DigestOf([]byte(body)) || d.Size != int64(len(body)) {
			t.Errorf("Resolve = %+v, by %q", d, what)
		}
		tags, err := client.List(t.Context(), ref)
		if err != nil {
			oneLine(t, what, err)
		}
		for _, tag := range tags {
			if !validTag(tag) {
				t.Errorf("List = %q, by %q", tags, what)
			}
		}
	})
}

// FuzzImage: a place of an image, a platform and an engine's address come back
// as they were written, or are refused in one line.
func FuzzImage(f *testing.F) {
	for _, s := range []string{"oci:dir:1", "oci:dir@sha256:" + strings.Repeat("ab", 32), "docker-archive:a.tar:alpine:3", "engine", "linux/arm/v7", "docker-archive:", "oci:\x00", "linux//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if i, err := ParseImage(s); err != nil {
			oneLine(t, s, err)
		} else if again, err := ParseImage(i.String()); err != nil || again != i {
			t.Errorf("ParseImage(%q) = %+v, and its String gives %+v, %v", s, i, again, err)
		}
		if p, err := ParsePlatform(s); err != nil {
			oneLine(t, s, err)
		} else if again, err := ParsePlatform(p.String()); err != nil || again != p {
			t.Errorf("ParsePlatform(%q) = %+v, and its String gives %+v, %v", s, p, again, err)
		}
	})
}
