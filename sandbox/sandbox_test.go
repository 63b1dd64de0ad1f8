package sandbox

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func start(t *testing.T, dir string) *Sandbox {
	t.Helper()
	s, err := Start(context.Background(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStartAnswersAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	for _, f := range []string{"ca.crt", "env", "hello.tar", "other.tar", "signer/kek"} {
		if _, err := os.Stat(filepath.Join(s.Dir, f)); err != nil {
			t.Errorf("after the start: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("after Close the folder is still there: %v", err)
	}
	if _, err := http.Get("http://" + s.Registry + "/v2/"); err == nil {
		t.Error("after Close the registry still answers")
	}
}

// Images, also indexes, are there again at the next start.
func TestRestartServesTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir)
	index, err := random.Index(100, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(s.Registry + "/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	want, _ := index.Digest()
	ca, _ := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	defer s.Close()
	ref, _ = name.ParseReference(s.Registry + "/multi:1")
	got, err := remote.Head(ref)
	if err != nil || got.Digest != want {
		t.Errorf("after a restart multi:1 is %v, %v; want %v", got, err, want)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "ca.crt")); string(again) != string(ca) {
		t.Error("a restart made another certificate authority")
	}
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	defer s.Close()
	ref, _ = name.ParseReference(s.Registry + "/multi:1")
	if _, err := remote.Head(ref); err == nil {
		t.Error("a deleted tag is there again after a restart")
	}
}

// A blob that was changed in the storage is served as it is: the registry does
// not do the client's work.
func TestBlobsAreServedAsStored(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	defer s.Close()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := name.ParseReference(s.Registry + "/one:1")
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	if err := os.WriteFile(s.Blob(digest.String()), []byte("altered"), 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + s.Registry + "/v2/one/blobs/" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != "altered" {
		t.Errorf("the altered blob is served as %q with %s", got, resp.Status)
	}
}

func TestStartRefusesOtherAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{RegistryAddr: "0.0.0.0:0"}, {TrustAddr: "192.0.2.1:0"}, {TrustAddr: "4443"}} {
		c.Dir = t.TempDir()
		s, err := Start(context.Background(), c)
		if err == nil {
			s.Close()
			t.Errorf("Start(%+v) listens", c)
		} else if !strings.Contains(err.Error(), "-addr") {
			t.Errorf("Start(%+v) = %v, which does not name the flag", c, err)
		}
	}
}

func TestExports(t *testing.T) {
	t.Parallel()
	got := Exports([]string{"A=1", "B=/a b/it's"})
	if want := "export A=1\nexport B='/a b/it'\\''s'\n"; got != want {
		t.Errorf("Exports = %q, want %q", got, want)
	}
}

// A sandbox with users asks who somebody is, at the registry and at the trust
// server, and knows them again after a restart.
func TestUsersLogIn(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{Auth: Tokens}, {Auth: Tokens, RSATokens: true}, {Auth: Passwords}} {
		c.Dir = t.TempDir()
		s, err := Start(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Logins
		for _, u := range []struct {
			login authn.Authenticator
			pull  bool
			push  bool
		}{
			{authn.Anonymous, false, false},
			{&authn.Basic{Username: "alice", Password: "wrong"}, false, false},
			{&authn.Basic{Username: "alice", Password: before[0].Password}, true, true},
			{&authn.Basic{Username: "bob", Password: before[1].Password}, true, false},
		} {
			ref, err := name.ParseReference(s.Registry + "/app:1")
			if err != nil {
				t.Fatal(err)
			}
			image, err := random.Image(100, 1)
			if err != nil {
				t.Fatal(err)
			}
			options := []remote.Option{remote.WithAuth(u.login), remote.WithTransport(insecure(t))}
			if err := remote.Write(ref, image, options...); (err == nil) != u.push {
				t.Errorf("%+v: %+v pushes: %v", c, u.login, err)
			}
			if _, err := remote.Head(ref, options...); (err == nil) != u.pull {
				t.Errorf("%+v: %+v pulls: %v", c, u.login, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Start(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.Logins, before) || len(before) != 3 {
			t.Errorf("%+v: users are %v after a restart, and were %v", c, s.Logins, before)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Start(context.Background(), Config{Auth: "ldap"}); err == nil || !strings.Contains(err.Error(), `"ldap" is no way to log in: choose token or htpasswd`) {
		t.Errorf("Start = %v", err)
	}
}

// insecure returns a transport that checks no certificates.
func insecure(t *testing.T) *http.Transport {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}
