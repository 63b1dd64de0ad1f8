package trust

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

func TestAttackBrokenAnswers(t *testing.T) { // L1, L5
	t.Parallel()
	for name, body := range map[string]string{
		"deep":      `{"signed":` + strings.Repeat("[", 400_000),
		"long":      `{"signed":{"version":` + strings.Repeat("9", 400_000) + `}}`,
		"null":      `{"signed":null,"signatures":null}`,
		"truncated": `{"signed":{"_type":"Root"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, newServer(newClock()), func(c *Config) { c.Remote = remote(t, serve(t, status(200, body)).URL) })
			set, err := c.Update(t.Context())
			if set != nil || !errors.Is(err, tuf.ErrMalformed) {
				t.Errorf("Update = %v, %v, want ErrMalformed", set, err)
			}
			if got := metadata(t, c); len(got) > 0 {
				t.Errorf("files were left: %v", got)
			}
		})
	}
}

// M5: an answer that makes no sense is not the same as none, for which the
// copy at hand would serve.
func TestAttackSenselessAnswers(t *testing.T) {
	t.Parallel()
	var good bytes.Buffer
	z := gzip.NewWriter(&good)
	io.WriteString(z, "{}")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	zipped := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, body)
		}
	}
	sum := bytes.Clone(good.Bytes())
	sum[len(sum)-8] ^= 1
	for name, answer := range map[string]http.HandlerFunc{
		"not gzip":       zipped("this is not gzip, and never was"),
		"wrong checksum": zipped(string(sum)),
		"broken deflate": zipped(good.String()[:10] + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"status 600":     status(600, ""),
		"status 999":     status(999, `{"errors":[{"code":"UNKNOWN"}]}`),
		"status 304":     status(304, ""),
	} {
		_, err := remote(t, serve(t, answer).URL).Fetch(t.Context(), app, timestampWant)
		wantErr(t, name, err, ErrNotTrustServer)
		if errors.Is(err, ErrUnreachable) {
			t.Errorf("%s = %v, which lets cached data serve", name, err)
		}
	}
}

// M5, found by FuzzFetch: a redirect to what is no address is a redirect, and
// not a lost answer, for which the copy at hand would serve.
func TestAttackRedirectNowhere(t *testing.T) {
	t.Parallel()
	_, err := remote(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://[::")
		w.WriteHeader(http.StatusFound)
	}).URL).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch", err, ErrRedirect)
	if errors.Is(err, ErrUnreachable) {
		t.Errorf("Fetch = %v, which lets cached data serve", err)
	}
}

func TestAttackWrongKeyAnswers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", "<html>", `{"keytype":"ecdsa","keyval":{"public":"AAAA","private":null}}`, strings.Repeat("x", api.MaxKeyBody+10)} {
		_, err := remote(t, serve(t, status(200, body)).URL).Key(t.Context(), app, tuf.RoleTimestamp)
		wantErr(t, fmt.Sprintf("Key with the answer %.20q", body), err, ErrNotTrustServer)
	}
}
