package registry

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

func TestParseRef(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("ab", 32)
	digest, err := ParseDigest("sha256:" + hex)
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]struct {
		ref                  Ref
		familiar, host, path string
	}{
		"alpine":                               {Ref{Repository: "iechor.io/library/alpine"}, "alpine", "iechor.io", "library/alpine"},
		"alpine:3":                             {Ref{Repository: "iechor.io/library/alpine", Tag: "3"}, "alpine:3", "iechor.io", "library/alpine"},
		"iechor.io/alpine":                     {Ref{Repository: "iechor.io/library/alpine"}, "alpine", "iechor.io", "library/alpine"},
		"index.iechor.io/library/alpine":       {Ref{Repository: "iechor.io/library/alpine"}, "alpine", "iechor.io", "library/alpine"},
		"user/app:1":                           {Ref{Repository: "iechor.io/user/app", Tag: "1"}, "user/app:1", "iechor.io", "user/app"},
		"library/a/b":                          {Ref{Repository: "iechor.io/library/a/b"}, "library/a/b", "iechor.io", "library/a/b"},
		"docker.io/library/alpine":             {Ref{Repository: "docker.io/library/alpine"}, "docker.io/library/alpine", "docker.io", "library/alpine"},
		"localhost/app":                        {Ref{Repository: "localhost/app"}, "localhost/app", "localhost", "app"},
		"localhost:5000/team/app:1":            {Ref{Repository: "localhost:5000/team/app", Tag: "1"}, "localhost:5000/team/app:1", "localhost:5000", "team/app"},
		"[::1]:5000/app":                       {Ref{Repository: "[::1]:5000/app"}, "[::1]:5000/app", "[::1]:5000", "app"},
		"registry.example/app@sha256:" + hex:   {Ref{Repository: "registry.example/app", Digest: digest}, "registry.example/app@sha256:" + hex, "registry.example", "app"},
		"registry.example/app:1@sha256:" + hex: {Ref{Repository: "registry.example/app", Tag: "1", Digest: digest}, "registry.example/app:1@sha256:" + hex, "registry.example", "app"},
	} {
		got, err := ParseRef(s)
		if err != nil || got != want.ref || got.Familiar() != want.familiar || got.Host() != want.host || got.Path() != want.path {
			t.Errorf("ParseRef(%q) = %+v, %v (familiar %s, host %s, path %s); want %+v", s, got, err, got.Familiar(), got.Host(), got.Path(), want)
		}
		if again, err := ParseRef(got.String()); err != nil || again != got {
			t.Errorf("ParseRef(%q.String()) = %+v, %v; want the same", s, again, err)
		}
		if again, err := ParseRef(got.Familiar()); err != nil || again != got {
			t.Errorf("ParseRef(%q.Familiar()) = %+v, %v; want the same", s, again, err)
		}
	}
	for _, s := range []string{
		"", " ", ":", "@", "Upper", "a//b", "/a", "a/", "registry.example/", "registry.example/App", "a:b:c", "a b", "../a", "registry.example/../a",
		"a@sha256:abc", "a@sha512:" + strings.Repeat("ab", 64), "a@sha256:" + strings.Repeat("AB", 32), "a@sha256:" + strings.Repeat("0", 64),
		hex, "a:" + strings.Repeat("x", 129), strings.Repeat("a", 2000), "https://registry.example/app", "a\x00b",
	} {
		if got, err := ParseRef(s); !errors.Is(err, ErrReference) {
			t.Errorf("ParseRef(%q) = %+v, %v; want ErrReference", s, got, err)
		}
	}
}

// Found by FuzzImage: what a refused name consists of does not reach a
// terminal.
func TestReferenceErrorIsOneLine(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"A\x00", "registry.example/A\x1b[31m", "a\nb"} {
		if _, err := ParseRef(s); !errors.Is(err, ErrReference) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("ParseRef(%q) = %q", s, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"alpine", "user/app:1", "localhost:5000/app", "a@sha256:" + strings.Repeat("ab", 32), "docker.io/x", "[::1]/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			oneLine(t, s, err)
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Errorf("ParseRef(%q) = %+v, and its String gives %+v, %v", s, r, again, err)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("ab", 32) + `","size":1}}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseManifest(raw)
		if err != nil {
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("parseManifest(%q) = %v, want ErrUnsupported", raw, err)
			}
			oneLine(t, raw, err)
			return
		}
		if m.Digest != DigestOf(raw) || m.Size != int64(len(raw)) || m.Index() == !m.config.Digest.IsZero() {
			t.Errorf("parseManifest(%q) = %+v", raw, m)
		}
	})
}

func TestRefParts(t *testing.T) {
	t.Parallel()
	r := mustRef(t, "registry.example/app")
	if got := r.WithDefaultTag().String(); got != "registry.example/app:latest" {
		t.Errorf("WithDefaultTag = %s", got)
	}
	tagged, err := r.WithTag("1")
	if err != nil || tagged.WithDefaultTag() != tagged {
		t.Errorf("WithTag(1) = %v, %v", tagged, err)
	}
	if _, err := r.WithTag("a/b"); !errors.Is(err, ErrReference) {
		t.Errorf("WithTag(a/b) = %v, want ErrReference", err)
	}
	d := DigestOf([]byte("x"))
	if got := tagged.WithDigest(d); got != (Ref{Repository: r.Repository, Digest: d}) || got.WithDefaultTag() != got {
		t.Errorf("WithDigest = %+v", got)
	}
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:5000": true, "127.9.9.9:1": true, "[::1]:5000": true, "::1": true,
		"registry.example": false, "localhost.example": false, "127.0.0.1.example": false, "10.0.0.1": false, "": false,
	} {
		if got := Loopback(host); got != want {
			t.Errorf("Loopback(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestParseImage(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("ab", 32)
	for s, want := range map[string]Image{
		"engine":                               {},
		"oci:dir":                              {Kind: Layout, Path: "dir"},
		"oci:/a/b:1.2":                         {Kind: Layout, Path: "/a/b", Select: "1.2"},
		"oci:a:b/c":                            {Kind: Layout, Path: "a:b/c"},
		"oci:dir@sha256:" + hex:                {Kind: Layout, Path: "dir", Select: "sha256:" + hex},
		"docker-archive:x.tar":                 {Kind: Archive, Path: "x.tar"},
		"docker-archive:x.tar:alpine":          {Kind: Archive, Path: "x.tar", Select: "iechor.io/library/alpine:latest"},
		"docker-archive:x.tar:localhost:1/a:2": {Kind: Archive, Path: "x.tar", Select: "localhost:1/a:2"},
	} {
		got, err := ParseImage(s)
		if err != nil || got != want {
			t.Errorf("ParseImage(%q) = %+v, %v; want %+v", s, got, err, want)
		}
		if again, err := ParseImage(got.String()); err != nil || again != got {
			t.Errorf("ParseImage(%q.String()) = %+v, %v; want the same", s, again, err)
		}
	}
	for _, s := range []string{"", "oci", "oci:", "oci::1", "oci:a:", "oci:a@sha256:1", "docker-archive:", "docker-archive::a",
		"docker-archive:a:", "docker-archive:a:B", "docker-archive:a:b@sha256:" + hex, "dir:x", "/a/b", "oci:a\x00"} {
		if got, err := ParseImage(s); !errors.Is(err, ErrReference) {
			t.Errorf("ParseImage(%q) = %+v, %v; want ErrReference", s, got, err)
		}
	}
	for s, want := range map[string]Platform{"linux/amd64": {"linux", "amd64", ""}, "linux/arm/v7": {"linux", "arm", "v7"}} {
		if got, err := ParsePlatform(s); err != nil || got != want || got.String() != s {
			t.Errorf("ParsePlatform(%q) = %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d", "a b/c"} {
		if _, err := ParsePlatform(s); !errors.Is(err, ErrReference) {
			t.Errorf("ParsePlatform(%q) = %v, want ErrReference", s, err)
		}
	}
}

// What is a tag or the name of a helper, written out, is what the
// specification's patterns match.
func TestNamesMatchTheirPatterns(t *testing.T) {
	t.Parallel()
	tag := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	helper := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	id := regexp.MustCompile(`^[a-f0-9]{64}$`)
	hex64 := strings.Repeat("0123456789abcdef", 4)
	names := []string{"", "a\n", "\n", "a/b", "ä", "a\x80", hex64, hex64 + "0", hex64[1:], strings.ToUpper(hex64), hex64[1:] + "\n", hex64[1:] + "g"}
	for c := range 256 {
		names = append(names, string([]byte{byte(c)}), string([]byte{'a', byte(c)}), string([]byte{byte(c), 'a'}))
	}
	for n := 62; n < 131; n++ {
		names = append(names, strings.Repeat("a", n), strings.Repeat("a", n)+"\n")
	}
	for _, s := range names {
		if got, want := validTag(s), tag.MatchString(s); got != want {
			t.Errorf("validTag(%q) = %t, want %t", s, got, want)
		}
		if got, want := validHelper(s), helper.MatchString(s); got != want {
			t.Errorf("validHelper(%q) = %t, want %t", s, got, want)
		}
		_, err := ParseRef(s)
		if got, want := err != nil && strings.Contains(err.Error(), "is an image ID"), id.MatchString(s); got != want {
			t.Errorf("ParseRef(%q) = %v, want it taken for an image ID: %t", s, err, want)
		}
	}
}
