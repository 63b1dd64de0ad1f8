package signer

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/signer/signertest"
)

func vaultConfig(t testing.TB, server *signertest.Vault) VaultConfig {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	token := server.Token
	return VaultConfig{Address: server.URL, Mount: "transit", Key: "iechor", Roots: roots, Timeout: time.Minute, Token: func() (string, error) { return token, nil }}
}

func newVault(t testing.TB, c VaultConfig) *Vault {
	t.Helper()
	v, err := NewVault(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Wrapped under one version, unwrapped after the key was rotated, and not any
// more when the version is withdrawn.
func TestVault(t *testing.T) {
	t.Parallel()
	server := signertest.NewVault(t, "iechor")
	server.Set(func(s *signertest.Vault) { s.Namespace = "trust/prod" })
	c := vaultConfig(t, server)
	c.Namespace = "trust/prod"
	v := newVault(t, c)
	if v.ID() != "vault:trust/prod/transit/iechor" {
		t.Errorf("ID = %s", v.ID())
	}
	plain := []byte("a data key of thirty-two bytes..")
	first, err := v.Wrap(t.Context(), plain)
	if err != nil || !bytes.HasPrefix(first, []byte("vault:v1:")) || bytes.Contains(first, plain) {
		t.Fatalf("Wrap = %s, %v", first, err)
	}
	server.Rotate("iechor")
	second, err := v.Wrap(t.Context(), plain)
	if err != nil || !bytes.HasPrefix(second, []byte("vault:v2:")) {
		t.Fatalf("Wrap after rotation = %s, %v", second, err)
	}
	for _, wrapped := range [][]byte{first, second} {
		if got, err := v.Unwrap(t.Context(), wrapped); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("Unwrap(%s) = %q, %v", wrapped, got, err)
		}
	}
	changed := bytes.Clone(second)
	changed[len("vault:v2:")+3] ^= 1
	for name, wrapped := range map[string][]byte{"changed": changed, "of nobody": []byte("x"), "of a version that is not there": []byte("vault:v9:AAAA"), "empty": nil} {
		if got, err := v.Unwrap(t.Context(), wrapped); err == nil {
			t.Errorf("Unwrap(%s) = %q, want an error", name, got)
		}
	}
	server.Withdraw("iechor")
	if _, err := v.Unwrap(t.Context(), first); err == nil || !strings.Contains(err.Error(), "disallowed by policy (too old)") {
		t.Errorf("Unwrap of a withdrawn version = %v", err)
	}
}

// What can go wrong is said in a sentence, in a bounded time, and without the
// token.
func TestVaultRefusals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		server func(*signertest.Vault)
		client func(*VaultConfig)
		want   string
	}{
		"sealed":                   {server: func(s *signertest.Vault) { s.Sealed = true }, want: "Vault is sealed (503): have it unsealed"},
		"another token":            {client: func(c *VaultConfig) { c.Token = func() (string, error) { return "hvs.other", nil } }, want: "Vault denies it (403: 1 error occurred: * permission denied): the token may have expired, or its policy lacks update on transit/encrypt/iechor"},
		"no key":                   {client: func(c *VaultConfig) { c.Key = "other" }, want: "Vault denies it (403: 1 error occurred: * permission denied): the token may have expired, or its policy lacks update on transit/encrypt/other"},
		"no engine":                {client: func(c *VaultConfig) { c.Mount = "kv" }, want: `Vault has no transit engine at "kv" (404: no handler for route "kv/encrypt/iechor". route entry not found.)`},
		"no namespace":             {client: func(c *VaultConfig) { c.Namespace = "other" }, want: `Vault has no transit engine at "transit" (404: `},
		"no token":                 {client: func(c *VaultConfig) { c.Token = func() (string, error) { return "", os.ErrNotExist } }, want: "token of Vault: file does not exist"},
		"unknown authority":        {client: func(c *VaultConfig) { c.Roots = x509.NewCertPool(); c.Timeout = time.Second }, want: "reach Vault: "},
		"asked too often":          {server: func(s *signertest.Vault) { s.Limited = vaultTries }, want: `Vault is asked too often (429: request path "transit/encrypt/iechor": rate limit quota exceeded)`},
		"asked too often for long": {server: instead(http.StatusTooManyRequests, `{"errors":["later"]}`, "Retry-After", "3600"), client: func(c *VaultConfig) { c.Timeout = 30 * time.Second }, want: "Vault is asked too often (429: later)"},
		"a standby":                {server: instead(473, `{"errors":[]}`), want: "Vault cannot do it now (473: nothing more)"},
		"replication lag":          {server: instead(http.StatusPreconditionFailed, `{"errors":["required index state not present"]}`), want: "Vault cannot do it now (412: required index state not present)"},
		"broken":                   {server: instead(http.StatusInternalServerError, `{"errors":["internal error\nwith \u001b[31mcolour"]}`), want: "Vault cannot do it now (500: internal error with [31mcolour)"},
		"another program":          {server: instead(http.StatusOK, `<html>`), want: "the answer of Vault is not one of a transit engine"},
		"no data":                  {server: instead(http.StatusOK, `{"data":null}`), want: "Vault answered with something else than a ciphertext"},
		"odd ciphertext":           {server: instead(http.StatusOK, `{"data":{"ciphertext":"vault:v0:AAAA"}}`), want: "Vault answered with something else than a ciphertext"},
		"an endless answer":        {server: instead(http.StatusOK, strings.Repeat(" ", vaultAnswer+1)), want: "the answer of Vault has more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := signertest.NewVault(t, "iechor")
			c := vaultConfig(t, server)
			if tt.client != nil {
				tt.client(&c)
			}
			if tt.server != nil {
				server.Set(tt.server)
			}
			_, err := newVault(t, c).Wrap(t.Context(), []byte("plain"))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("Wrap = %v, want %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), server.Token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func instead(status int, body string, header ...string) func(*signertest.Vault) {
	return func(s *signertest.Vault) {
		s.Instead = func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body)) // the client may have enough
		}
	}
}

// What passes by itself is not noticed.
func TestVaultAgain(t *testing.T) {
	t.Parallel()
	server := signertest.NewVault(t, "iechor")
	server.Set(func(s *signertest.Vault) { s.Limited = vaultTries - 1 })
	if _, err := newVault(t, vaultConfig(t, server)).Wrap(t.Context(), []byte("plain")); err != nil {
		t.Error(err)
	}
}

// A server that redirects does not get the token sent elsewhere.
func TestAttackVaultRedirects(t *testing.T) {
	t.Parallel()
	thief := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the thief was asked, with the token %q", r.Header.Get("X-Vault-Token"))
	}))
	t.Cleanup(thief.Close)
	server := signertest.NewVault(t, "iechor")
	server.Set(instead(http.StatusTemporaryRedirect, "", "Location", thief.URL+"/v1/transit/encrypt/iechor"))
	c := vaultConfig(t, server)
	c.Roots.AddCert(thief.Certificate())
	_, err := newVault(t, c).Wrap(t.Context(), []byte("plain"))
	if err == nil || !strings.Contains(err.Error(), "where its token is not sent: configure the address of the active node") {
		t.Errorf("Wrap = %v", err)
	}
}

// A server that does not answer is given up.
func TestVaultHangs(t *testing.T) {
	t.Parallel()
	server := signertest.NewVault(t, "iechor")
	leave := make(chan struct{})
	server.Set(func(s *signertest.Vault) { s.Instead = func(http.ResponseWriter, *http.Request) { <-leave } })
	defer close(leave)
	c := vaultConfig(t, server)
	c.Timeout = 100 * time.Millisecond
	if _, err := newVault(t, c).Wrap(t.Context(), []byte("plain")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wrap = %v, want its time to be over", err)
	}
}

func TestNewVaultRefuses(t *testing.T) {
	t.Parallel()
	good := VaultConfig{Address: "https://vault.example:8200", Mount: "transit", Key: "iechor", Token: func() (string, error) { return "", nil }}
	for name, change := range map[string]func(*VaultConfig){
		"no address":          func(c *VaultConfig) { c.Address = "" },
		"without TLS":         func(c *VaultConfig) { c.Address = "http://vault.example:8200" },
		"with a path":         func(c *VaultConfig) { c.Address += "/v1" },
		"with a password":     func(c *VaultConfig) { c.Address = "https://a:b@vault.example" },
		"mount that climbs":   func(c *VaultConfig) { c.Mount = "../sys" },
		"no mount":            func(c *VaultConfig) { c.Mount = "" },
		"key with a slash":    func(c *VaultConfig) { c.Key = "a/b" },
		"key that climbs":     func(c *VaultConfig) { c.Key = ".." },
		"namespace of lines":  func(c *VaultConfig) { c.Namespace = "a\r\nX-Other: b" },
		"no token":            func(c *VaultConfig) { c.Token = nil },
		"negative time limit": func(c *VaultConfig) { c.Timeout = -1 },
	} {
		c := good
		change(&c)
		if _, err := NewVault(c); err == nil {
			t.Errorf("NewVault(%s) should be refused", name)
		}
	}
	for _, address := range []string{good.Address, "http://127.0.0.1:8100", "http://localhost:8100", "https://vault.example/"} {
		c := good
		c.Address = address
		if _, err := NewVault(c); err != nil {
			t.Errorf("NewVault(%s) = %v", address, err)
		}
	}
}

// What it costs to have the key elsewhere: nothing, while the data key is in
// memory.
func BenchmarkSign(b *testing.B) {
	server := signertest.NewVault(b, "iechor")
	for _, kind := range []string{"file", "vault"} {
		b.Run(kind, func(b *testing.B) {
			w := newWorld(b)
			if kind == "vault" {
				w.path += "-vault"
				w.table = openTable(b, w.path, w.kek(b, newVault(b, vaultConfig(b, server))))
				w.Service = w.service(b, w.table, nil)
			}
			s := newServer(b, w, w, app)
			s.publish(b, "first")
			for i := 0; b.Loop(); i++ {
				s.publish(b, fmt.Sprint(i))
			}
			b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}
