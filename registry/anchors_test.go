package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
				write(t, filepath.Join(TLSHostDir(o.TLSDir, host), "ca.crt"), c.private)
				o.testOnlySystem = func() (*x509.CertPool, error) {
					loads.Add(1)
					pool := x509.NewCertPool()
					if !pool.AppendCertsFromPEM(c.system) {
						t.Error("no CA in the system's pool")
					}
					return pool, nil
				}
			})
			// A push has bodies of every kind.
			got, err := client.Push(t.Context(), s.image("multi"), mustRef(t, host+"/"+strings.ReplaceAll(c.name, " ", "-")+":1"), PushOptions{})
			var gone *UnreachableError
			switch {
			case c.works && (err != nil || got != s.index):
				t.Errorf("Push = %v, %v; want %v", got, err, s.index)
			case !c.works && (!errors.As(err, &gone) || gone.TLSDir == ""):
				t.Errorf("Push = %v, want an UnreachableError with TLSDir", err)
			}
			// Who pushes opens one session or several.
			if got := loads.Load(); c.loads == 0 && got > 0 || c.loads > 0 && got == 0 {
				t.Errorf("the system's CAs were read %d times", got)
			}
		})
	}
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
