package databasetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Secured is a database server that speaks TLS, with a certificate of an
// authority of its own. The user "trust" may come in without TLS, "secure" not,
// and "known" only with a certificate of the authority.
type Secured struct {
	Address          string // host:port
	Scheme, Database string // of a storage setting
	CA, OtherCA      string // files: its authority, and one that has nothing to do with it
	Certificate, Key string // files: for a client
}

// Setting returns the storage setting of a user, with options.
func (s *Secured) Setting(user, options string) string {
	return s.Scheme + "://" + user + "@" + s.Address + "/" + s.Database + "?" + options
}

// SecuredPostgreSQL starts such a server, which ends with t.
func SecuredPostgreSQL(t testing.TB) *Secured {
	t.Helper()
	needPostgres(t)
	s, files := newSecured(t)
	files["hba"] = "local all all trust\nhost all postgres,trust 127.0.0.1/32 trust\nhostssl all secure 127.0.0.1/32 trust\n" +
		"hostssl all known 127.0.0.1/32 trust clientcert=verify-ca\n"
	port, socket := StartPostgreSQL(t, files, "hba_file=DIR/hba", "ssl=on", "ssl_ca_file=DIR/ca", "ssl_cert_file=DIR/certificate", "ssl_key_file=DIR/key",
		"fsync=off", "synchronous_commit=off")
	as := &postgres{dir: socket, port: port, super: "postgres"}
	for _, user := range []string{"trust", "secure", "known"} {
		if err := as.exec("postgres", "CREATE ROLE "+user+" LOGIN"); err != nil {
			t.Fatal(err)
		}
	}
	s.Scheme, s.Database, s.Address = "postgres", "postgres", "127.0.0.1:"+port
	return s
}

// SecuredMariaDB starts such a server, which ends with t.
func SecuredMariaDB(t testing.TB) *Secured {
	t.Helper()
	needMariaDB(t)
	s, files := newSecured(t)
	port := FreePort(t)
	m, err := newMariaDB("--bind-address=127.0.0.1", "--port="+port, "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	for name, text := range files {
		file := filepath.Join(m.dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.user.own(file); err != nil {
			t.Fatal(err)
		}
		m.args = append(m.args, map[string]string{"ca": "--ssl-ca=", "certificate": "--ssl-cert=", "key": "--ssl-key="}[name]+file)
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if err := m.exec("CREATE DATABASE secured; CREATE USER secure REQUIRE SSL; CREATE USER known REQUIRE X509; " +
		"GRANT ALL ON *.* TO secure; GRANT ALL ON *.* TO known"); err != nil {
		t.Fatal(err)
	}
	s.Scheme, s.Database, s.Address = "mysql", "secured", "127.0.0.1:"+port
	return s
}

// newSecured makes the files of a client, and those of a server: ca,
// certificate, key.
func newSecured(t testing.TB) (*Secured, map[string]string) {
	t.Helper()
	issue := func(name string, ca *x509.Certificate, by *ecdsa.PrivateKey) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		if ca == nil {
			ca, by, c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.IPAddresses = c, key, true, true, x509.KeyUsageCertSign, nil
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		if cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca, caKey, caPEM, _ := issue("authority", nil, nil)
	_, _, otherPEM, _ := issue("another authority", nil, nil)
	_, _, clientPEM, clientKeyPEM := issue("client", ca, caKey)
	_, _, serverPEM, serverKeyPEM := issue("server", ca, caKey)
	return &Secured{CA: write("ca.crt", caPEM), OtherCA: write("other.crt", otherPEM), Certificate: write("client.crt", clientPEM), Key: write("client.key", clientKeyPEM)},
		map[string]string{"ca": caPEM, "certificate": serverPEM, "key": serverKeyPEM}
}
