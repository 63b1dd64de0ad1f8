package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// maxConfig bounds the configuration file, in bytes.
const maxConfig = 1 << 20

// config is the block "content-trust" of config.json. The rest of the file
// belongs to credentials (package registry) and to other tools. In the file:
//
//	{
//	  "auths": {}, "credsStore": "…", "credHelpers": {},
//	  "content-trust": {
//	    "servers": {"registry.example.com": "https://trust.example.com"},
//	    "offline": "refuse",
//	    "first-use": "refuse",
//	    "trust-pinning": {
//	      "root-keys": {"registry.example.com/team/*": ["<id of the root key file>"]},
//	      "cert-ids": {"registry.example.com/team/app": ["<id of the root certificate>"]},
//	      "ca": {"registry.example.com/*": "/etc/iechor/owners.pem"}
//	    },
//	    "denied-roots": [],
//	    "login-servers": ["login.example.net"],
//	    "maximum-age": "36h",
//	    "allow-expired-cached-trust-data": false
//	  }
//	}
type config struct {
	path string // of the file

	// servers has the trust server for a registry host, or for the
	// repositories below a name. The longest match counts.
	servers map[string]string
	// offline says whether cached data may serve when the server is down:
	// "allow", the default, or "refuse".
	offline trust.OfflinePolicy
	// pinning has "trust-pinning", "first-use" ("allow", the default, or
	// "refuse") and "denied-roots".
	pinning trust.Pinning
	// loginServers are hosts that may be sent credentials, beside those in
	// the domain of the registry or trust server itself.
	loginServers []string
	// maxAge refuses a timestamp that the server has repeated for longer, and a
	// cached one that is older: "maximum-age", such as "36h" or "2d". 0: no
	// limit but the timestamp's own expiry (attacks.md F15).
	maxAge time.Duration
	// allowExpired lets cached data serve although it has expired.
	allowExpired bool
}

// A configError says where the configuration file is wrong. Line and Column
// count from 1; 0 is unknown.
type configError struct {
	path         string
	line, column int
	reason       string
	hint         string
}

func (e *configError) Error() string {
	if e.line == 0 {
		return fmt.Sprintf("%s: %s", e.path, e.reason)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.path, e.line, e.column, e.reason)
}

// readConfig reads the block from config.json in dir. No file is an empty
// one. Errors are a *configError, or that of the file system.
func readConfig(dir string) (config, error) {
	c := config{path: filepath.Join(dir, "config.json")}
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	raw, err := readLimited(f, maxConfig)
	if errors.Is(err, errTooLong) {
		return c, &configError{path: c.path, reason: fmt.Sprintf("is larger than %d bytes", maxConfig)}
	}
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	return c, c.decode(raw)
}

// decode reads raw strictly where it is ours.
func (c *config) decode(raw []byte) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil // an empty file is what "touch" makes
	}
	s, err := newStrict(c.path, raw)
	if err != nil {
		return err
	}
	if err := s.object("", map[string]func() error{"content-trust": func() error { return c.decodeBlock(s) }}, true); err != nil {
		return err
	}
	_, err = c.pin()
	return err
}

func (c *config) decodeBlock(s *strict) error {
	var servers map[string]string
	var offline, maxAge string
	err := s.object("content-trust", map[string]func() error{
		"servers":   func() error { return s.value(&servers, "a table of registry hosts and trust servers") },
		"offline":   func() error { return s.word(&offline, "allow", "refuse") },
		"first-use": func() error { return s.word(&c.pinning.FirstUse, "allow", "refuse") },
		"trust-pinning": func() error {
			return s.object("content-trust.trust-pinning", map[string]func() error{
				"root-keys": func() error { return s.value(&c.pinning.RootKeys, "a table of patterns and lists of key ids") },
				"cert-ids":  func() error { return s.value(&c.pinning.CertIDs, "a table of repositories and lists of key ids") },
				"ca":        func() error { return s.value(&c.pinning.CA, "a table of patterns and files") },
			}, false)
		},
		"denied-roots":  func() error { return s.value(&c.pinning.DeniedRoots, "a list of key ids") },
		"login-servers": func() error { return s.value(&c.loginServers, "a list of hosts") },
		"maximum-age": func() (err error) {
			if err := s.value(&maxAge, "a text such as 36h or 2d"); err != nil {
				return err
			}
			if c.maxAge, err = parseAge(maxAge); err != nil {
				return s.fail(fmt.Sprintf("maximum-age must be a time such as 36h or 2d, and is %q", printable(maxAge)))
			}
			return nil
		},
		"allow-expired-cached-trust-data": func() error { return s.value(&c.allowExpired, "true or false") },
	}, false)
	if err != nil {
		return err
	}
	if offline == "refuse" {
		c.offline = trust.OfflineRefuse
	}
	c.servers = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		prefix, err := serverPrefix(name)
		if err != nil {
			return s.fail(fmt.Sprintf("content-trust.servers: %q is neither a registry host nor a repository", name))
		}
		if err := checkServer(servers[name], fmt.Sprintf("%q in %s", "servers", c.path)); err != nil {
			return err
		}
		c.servers[prefix] = servers[name]
	}
	return nil
}

// parseAge reads a time greater than zero, in the units of time.ParseDuration
// or in days.
func parseAge(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		if n > 36500 {
			err = errors.New("more than a century")
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err == nil && d <= 0 {
		err = errors.New("not a positive time")
	}
	return d, err
}

// serverPrefix turns a key of "servers" into the beginning of repository
// names: "registry.example.com", or "registry.example.com/team", each with or
// without "/*" at its end.
func serverPrefix(name string) (string, error) {
	name = strings.TrimSuffix(strings.TrimSuffix(name, "*"), "/")
	ref, err := registry.ParseRef(name + "/x")
	if err != nil || ref.Tag != "" || !ref.Digest.IsZero() || strings.Contains(name, "@") {
		return "", errors.New("not a name")
	}
	if prefix, ok := strings.CutSuffix(ref.Repository, "/x"); ok {
		return strings.TrimSuffix(prefix, "/library"), nil
	}
	return "", errors.New("not a name")
}

// server returns the trust server that the file names for a repository.
func (c *config) server(repository string) (string, bool) {
	for name := repository; name != ""; {
		if s, ok := c.servers[name]; ok {
			return s, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	return "", false
}

// pin returns what decides about roots. Paths of authorities are relative to
// the configuration file.
func (c *config) pin() (tuf.Pin, error) {
	pin, err := c.pinning.Pin(func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(c.path), path)
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, &configError{path: c.path, reason: fmt.Sprintf("trust-pinning: ca: %v", err)}
		}
		defer f.Close()
		return readLimited(f, maxConfig)
	})
	if errors.Is(err, trust.ErrPinning) {
		return nil, &configError{path: c.path, reason: printable(err.Error())}
	}
	return pin, err
}
