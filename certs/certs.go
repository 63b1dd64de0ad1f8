// Package certs is the folder of certificates, tls below the configuration
// directory, in which every host has a folder of its own: the authorities that
// it is checked with beside the system's, and the certificates that it is
// shown.
//
// [Dir] names a host's folder, [Read] reads it, and [NewTransport] makes a
// connection of what was found. Registries and trust servers share the folder
// and its rules (spec/cli.md 3.2).
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// maxFile bounds a certificate or key file, in bytes.
const maxFile = 1 << 20

// Dir returns the folder of a host (with its port, if any) below folder; ""
// if there can be none. On Windows, whose file names cannot hold a colon, the
// colon before the port is left out.
func Dir(folder, host string) string {
	if folder == "" || host == "" || strings.ContainsAny(host, `/\`) || strings.Trim(host, ".") == "" {
		return ""
	}
	if runtime.GOOS == "windows" {
		host = strings.ReplaceAll(host, ":", "")
	}
	return filepath.Join(folder, host)
}

// A Folder is what stands in the folder of one host.
type Folder struct {
	Authorities [][]byte          // every *.crt, in PEM form
	Pairs       []tls.Certificate // every pair NAME.cert, NAME.key
}

// Read reads the folder of a host. None, or none at all, adds nothing. Half a
// pair, and a *.crt without a certificate, is an error that names the file.
func Read(dir string) (Folder, error) {
	var f Folder
	if dir == "" {
		return f, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	have := make(map[string]bool, len(entries))
	for _, e := range entries {
		have[e.Name()] = !e.IsDir()
	}
	for _, e := range entries {
		name := e.Name()
		base, path := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Join(dir, name)
		if e.IsDir() {
			continue
		}
		switch filepath.Ext(name) {
		case ".crt":
			pem, err := readBounded(path)
			if err != nil {
				return f, err
			}
			if !x509.NewCertPool().AppendCertsFromPEM(pem) {
				return f, fmt.Errorf("%s has no certificate", path)
			}
			f.Authorities = append(f.Authorities, pem)
		case ".cert":
			if !have[base+".key"] {
				return f, fmt.Errorf("missing key %s for client certificate %s", base+".key", path)
			}
			pair, err := readPair(path, filepath.Join(dir, base+".key"))
			if err != nil {
				return f, err
			}
			f.Pairs = append(f.Pairs, pair)
		case ".key":
			if !have[base+".cert"] {
				return f, fmt.Errorf("missing client certificate %s for key %s", base+".cert", path)
			}
		}
	}
	return f, nil
}

func readPair(cert, key string) (tls.Certificate, error) {
	c, err := readBounded(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := readBounded(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("client certificate %s: %w", cert, err)
	}
	return pair, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s is larger than a certificate can be", path)
	}
	return raw, err
}
