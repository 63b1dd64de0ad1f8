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

// hostTLS returns the TLS configuration for host (with its port, if any), with
// the client certificates in the pairs NAME.cert and NAME.key of dir/HOST, and
// every *.crt there in PEM form, which counts beside the system's CAs
// (spec/cli.md 3.2). Half a pair is an error. An empty dir, or no directory for
// this host, adds nothing.
func hostTLS(dir, host string) (config *tls.Config, private [][]byte, err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS12}
	path := TLSHostDir(dir, host)
	if path == "" {
		return config, nil, nil
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read certificates for %s: %w", host, err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	for name := range names {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		switch filepath.Ext(name) {
		case ".crt":
			pem, err := readCA(filepath.Join(path, name))
			if err != nil {
				return nil, nil, err
			}
			private = append(private, pem)
		case ".cert":
			if !names[base+".key"] {
				return nil, nil, fmt.Errorf("missing key %s.key for client certificate %s in %s", base, name, path)
			}
			pair, err := tls.LoadX509KeyPair(filepath.Join(path, name), filepath.Join(path, base+".key"))
			if err != nil {
				return nil, nil, fmt.Errorf("read client certificate %s: %w", filepath.Join(path, name), err)
			}
			config.Certificates = append(config.Certificates, pair)
		case ".key":
			if !names[base+".cert"] {
				return nil, nil, fmt.Errorf("missing client certificate %s.cert for key %s in %s", base, name, path)
			}
		}
	}
	return config, private, nil
}

func readCA(file string) ([]byte, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pem, nil
}

// TLSHostDir returns the directory of a host's certificates, for messages; empty
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
