package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/iechor/trust/certs"
)

// A folder with CAs adds to those of the system, which are read only if the
// folder's are not enough, and neither makes up for a wrong name.
func TestPrivateAndSystemCAs(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := newSample(t)
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)})
	for _, c := range []struct {
		name            string
		private, system []byte
		wrongName       bool
		works           bool
		loads           int64
	}{
		{name: "private", private: reg.ca, system: other, works: true},
		{name: "system", private: other, system: reg.ca, works: true, loads: 1},
		{name: "neither", private: other, system: other, loads: 1},
		{name: "private with another name", private: reg.ca, system: other, wrongName: true, loads: 1},
		{name: "system with another name", private: other, system: reg.ca, wrongName: true, loads: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := reg.host
			if c.wrongName {
				host = strings.Replace(host, "127.0.0.1", "localhost", 1)
			}
			var loads atomic.Int64
			client := reg.client(func(o *Config) {
				write(t, filepath.Join(certs.Dir(o.TLSDir, host), "ca.crt"), c.private)
				o.testOnlySystem = func() (*x509.CertPool, error) {
					loads.Add(1)
					pool := x509.NewCertPool()
					if !pool.AppendCertsFromPEM(c.system) {
						t.Error("no CA in the system's pool")
					}
					return pool, nil
				}
			})
			if c.works {
				// A push has bodies of every kind.
				got, err := client.Push(t.Context(), s.image("multi"), mustRef(t, host+"/"+c.name+":1"), PushOptions{})
				if err != nil || got != s.index {
					t.Errorf("Push = %v, %v; want %v", got, err, s.index)
				}
			} else if err := ask(t, client, host); certificateTrouble(err, "here") == "" {
				t.Errorf("RoundTrip = %v, want the certificate refused", err)
			}
			// Who pushes opens one session or several.
			if got := loads.Load(); c.loads == 0 && got > 0 || c.loads > 0 && got == 0 {
				t.Errorf("the system's CAs were read %d times", got)
			}
		})
	}
}

// ask makes one request to a registry by https. What has to do with a session
// is left out: on this machine it tries http as well if https is slow.
func ask(t *testing.T, c *Client, host string) error {
	t.Helper()
	reg, err := c.registryOf(host)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.guard(reg, Credential{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.base.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.RoundTrip(req)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

// selfSigned returns the certificate of a CA that nobody uses.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
