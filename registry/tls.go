package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// TLSConfig returns the TLS configuration for host (with its port, if any):
// the system's CAs, every *.crt in dir/HOST, and the client certificates in
// its pairs NAME.cert and NAME.key (spec/cli.md 3.2). Half a pair is an error.
// An empty dir, or no directory for this host, adds nothing.
func TLSConfig(dir, host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	path := TLSHostDir(dir, host)
	if path == "" {
		return config, nil
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read certificates for %s: %w", host, err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	for name := range names {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		switch filepath.Ext(name) {
		case ".crt":
			if err := addCA(config, filepath.Join(path, name)); err != nil {
				return nil, err
			}
		case ".cert":
			if !names[base+".key"] {
				return nil, fmt.Errorf("missing key %s.key for client certificate %s in %s", base, name, path)
			}
			pair, err := tls.LoadX509KeyPair(filepath.Join(path, name), filepath.Join(path, base+".key"))
			if err != nil {
				return nil, fmt.Errorf("read client certificate %s: %w", filepath.Join(path, name), err)
			}
			config.Certificates = append(config.Certificates, pair)
		case ".key":
			if !names[base+".cert"] {
				return nil, fmt.Errorf("missing client certificate %s.cert for key %s in %s", base, name, path)
			}
		}
	}
	return config, nil
}

func addCA(config *tls.Config, file string) error {
	if config.RootCAs == nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without CAs still has the user's own
		}
		config.RootCAs = pool
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read CA certificate: %w", err)
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("no certificate in %s", file)
	}
	return nil
}

// TLSHostDir returns the directory that TLSConfig reads, for messages; empty
// if there is none. On Windows, whose file names cannot hold a colon, the
// colon before the port is left out.
func TLSHostDir(dir, host string) string {
	if dir == "" || host == "" || strings.ContainsAny(host, `/\`) || strings.Trim(host, ".") == "" {
		return ""
	}
	if runtime.GOOS == "windows" {
		host = strings.ReplaceAll(host, ":", "")
	}
	return filepath.Join(dir, host)
}

// certificateTrouble returns dir if err is about the server's certificate.
func certificateTrouble(err error, dir string) string {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return dir
	}
	return ""
}
