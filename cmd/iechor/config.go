package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
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
//	    "first-use": "ask",
//	    "trust-pinning": {
//	      "root-keys": {"registry.example.com/team/*": ["<id of the root key file>"]},
//	      "cert-ids": {"registry.example.com/team/app": ["<id of the root certificate>"]},
//	      "ca": {"registry.example.com/*": "/etc/iechor/owners.pem"}
//	    },
//	    "denied-roots": [],
//	    "login-servers": ["login.example.net"],
//	    "tokens": [{"module": "/usr/lib/…/libsofthsm2.so", "label": "ci", "pin": "file:/run/secrets/pin"}],
//	    "backup-directory": "/media/safe/keys",
//	    "attestation-roots": "/etc/iechor/yubico.pem",
//	    "maximum-age": "36h",
//	    "allow-expired-cached-trust-data": false
//	  }
//	}
//
// doc/client-config.md explains it to users; a test compares the two.
type config struct {
	path string // of the file

	// servers has the trust server for a registry host, for the repositories
	// below a name, for all hosts of a domain ("*.example.com"), or for
	// everything ("*"). The most specific match counts.
	servers map[string]string
	// offline says whether cached data may serve when the server is down:
	// "allow", the default, or "refuse".
	offline trust.OfflinePolicy
	// pinning has "trust-pinning", "first-use" ("allow", the default, "ask" or
	// "refuse") and "denied-roots". "ask" is "refuse" to package trust, and
	// what asks stands in for the refusal (see desk.pin).
	pinning trust.Pinning
	ask     bool
	// loginServers are hosts that may be sent credentials, beside those in
	// the domain of the registry or trust server itself.
	loginServers []string
	// maxAge refuses a timestamp that the server has repeated for longer, and a
	// cached one that is older: "maximum-age", such as "36h" or "2d". 0: no
	// limit but the timestamp's own expiry (attacks.md F15).
	maxAge time.Duration
	// tokens are devices that keys live in; see tokens.go.
	tokens []tokenConfig
	// backups is where a copy of each key is kept that was made for a token:
	// "backup-directory". Empty: trust/backup in the configuration directory.
	backups string
	// attestationRoots has certificates of makers of tokens:
	// "attestation-roots". Empty: none are believed.
	attestationRoots string
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
	return s.object("", map[string]func() error{"content-trust": func() error { return c.decodeBlock(s) }}, true)
}

func (c *config) decodeBlock(s *strict) error {
	c.servers = map[string]string{}
	return s.object("content-trust", c.members(s), false)
}

// members are the readers of the block's members.
func (c *config) members(s *strict) map[string]func() error {
	return map[string]func() error{
		"servers": func() error {
			return s.table("content-trust.servers", func(key string, at int64) error { return c.decodeServer(s, key, at) })
		},
		"offline":       func() error { return c.decodeOffline(s) },
		"first-use":     func() error { return c.decodeFirstUse(s) },
		"trust-pinning": func() error { return s.object("content-trust.trust-pinning", c.pinningMembers(s), false) },
		"denied-roots": func() error {
			ids, err := keyIDs[tuf.CanonicalID](s, "content-trust.denied-roots")
			c.pinning.DeniedRoots = ids
			return err
		},
		"login-servers": func() (err error) {
			c.loginServers, err = s.texts("content-trust.login-servers", "hosts", checkHost)
			return err
		},
		"tokens":                          func() error { return c.decodeTokens(s) },
		"attestation-roots":               func() error { return s.value(&c.attestationRoots, "a file with certificates") },
		"backup-directory":                func() error { return s.value(&c.backups, "a directory") },
		"maximum-age":                     func() error { return c.decodeMaxAge(s) },
		"allow-expired-cached-trust-data": func() error { return s.value(&c.allowExpired, "true or false") },
	}
}

// pinningMembers are the readers of the members of "trust-pinning". Each entry
// is judged by package trust at once, so that an error has its place.
func (c *config) pinningMembers(s *strict) map[string]func() error {
	p := &c.pinning
	judge := func(at int64, one trust.Pinning) error {
		if _, err := one.Pin(c.readAuthority); errors.Is(err, trust.ErrPinning) {
			return s.at(at, printable(err.Error()))
		} else if err != nil {
			return s.at(at, "trust-pinning: ca: "+printable(err.Error()))
		}
		return nil
	}
	return map[string]func() error{
		"root-keys": func() error {
			p.RootKeys = map[string][]tuf.CanonicalID{}
			return s.table("content-trust.trust-pinning.root-keys", func(pattern string, at int64) (err error) {
				if p.RootKeys[pattern], err = keyIDs[tuf.CanonicalID](s, "root-keys: "+printable(pattern)); err != nil {
					return err
				}
				return judge(at, trust.Pinning{RootKeys: map[string][]tuf.CanonicalID{pattern: p.RootKeys[pattern]}})
			})
		},
		"cert-ids": func() error {
			p.CertIDs = map[string][]tuf.KeyID{}
			return s.table("content-trust.trust-pinning.cert-ids", func(gun string, at int64) (err error) {
				if p.CertIDs[gun], err = keyIDs[tuf.KeyID](s, "cert-ids: "+printable(gun)); err != nil {
					return err
				}
				return judge(at, trust.Pinning{CertIDs: map[string][]tuf.KeyID{gun: p.CertIDs[gun]}})
			})
		},
		"ca": func() error {
			p.CA = map[string]string{}
			return s.table("content-trust.trust-pinning.ca", func(pattern string, at int64) error {
				var path string
				if err := s.value(&path, "a file with certificates"); err != nil {
					return err
				}
				p.CA[pattern] = path
				return judge(at, trust.Pinning{CA: map[string]string{pattern: path}})
			})
		},
	}
}

func (c *config) decodeServer(s *strict, key string, at int64) error {
	pattern, err := serverPattern(key)
	if err != nil {
		return s.at(at, fmt.Sprintf("content-trust.servers: %q is neither a registry host nor a repository", printable(key)))
	}
	if _, twice := c.servers[pattern]; twice {
		return s.at(at, fmt.Sprintf("content-trust.servers: %q is there twice, in different words", printable(key)))
	}
	var address string
	if err := s.value(&address, "the https address of a trust server"); err != nil {
		return err
	}
	var wrong *serverAddressError
	if err := checkServer(address, key); errors.As(err, &wrong) {
		e := s.at(s.dec.InputOffset()-int64(len(address))-2, fmt.Sprintf("content-trust.servers: %v, got %s", trust.ErrAddress, printable(wrong.address)))
		if wrong.example != "" {
			e.hint = fmt.Sprintf("did you mean %q?", wrong.example)
		}
		return e
	}
	c.servers[pattern] = address
	return nil
}

func (c *config) decodeOffline(s *strict) error {
	var word string
	if err := s.word(&word, "allow", "refuse"); err != nil {
		return err
	}
	if word == "refuse" {
		c.offline = trust.OfflineRefuse
	}
	return nil
}

func (c *config) decodeFirstUse(s *strict) error {
	if err := s.word(&c.pinning.FirstUse, "allow", "ask", "refuse"); err != nil {
		return err
	}
	if c.pinning.FirstUse == "ask" {
		c.pinning.FirstUse, c.ask = "refuse", true
	}
	return nil
}

func (c *config) decodeMaxAge(s *strict) error {
	var text string
	err := s.value(&text, "a text such as 36h or 2d")
	if err != nil {
		return err
	}
	if c.maxAge, err = parseAge(text); err != nil {
		return s.fail(fmt.Sprintf("maximum-age must be a time such as 36h or 2d, and is %q", printable(text)))
	}
	return nil
}

// keyIDs reads a list of key ids.
func keyIDs[ID ~string](s *strict, name string) ([]ID, error) {
	texts, err := s.texts(name, "key ids", func(id string) error {
		if !tuf.CanonicalID(id).Valid() {
			return errors.New("is not a key id, which has 64 hex digits in lower case")
		}
		return nil
	})
	ids := make([]ID, len(texts))
	for i, text := range texts {
		ids[i] = ID(text)
	}
	return ids, err
}

// checkHost refuses what cannot be the host, with or without a port, of an
// address.
func checkHost(host string) error {
	u, err := url.Parse("https://" + host)
	if err != nil || host == "" || u.Host != host || u.Hostname() == "" || strings.Contains(host, "*") {
		return errors.New("is not a host, such as login.example.net or login.example.net:5000")
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

// serverPattern turns a key of "servers" into the beginning of repository
// names: "registry.example.com", or "registry.example.com/team", each with or
// without "/*" at its end; or into "*.example.com", or "*".
func serverPattern(name string) (string, error) {
	if name == "*" {
		return name, nil
	}
	if domain, wild := strings.CutPrefix(name, "*."); wild {
		if strings.ContainsAny(domain, "/*") || !strings.Contains(domain, ".") || checkHost(domain) != nil {
			return "", errors.New("not a domain")
		}
		return name, nil
	}
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

// server returns the trust server that the file names for a repository, and
// the entry that does.
func (c *config) server(repository string) (address, entry string, ok bool) {
	for name := repository; name != ""; {
		if s, ok := c.servers[name]; ok {
			return s, name, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	host, _, _ := strings.Cut(repository, "/")
	_, domain, _ := strings.Cut(host, ".")
	for ; domain != ""; _, domain, _ = strings.Cut(domain, ".") {
		anyPort, _, _ := strings.Cut(domain, ":")
		for _, d := range []string{domain, anyPort} {
			if s, ok := c.servers["*."+d]; ok {
				return s, "*." + d, true
			}
		}
	}
	s, ok := c.servers["*"]
	return s, "*", ok
}

// pin returns what decides about roots. Errors are a *configError, and mean
// that a file has changed since the configuration was read.
func (c *config) pin() (tuf.Pins, error) {
	pin, err := c.pinning.Pin(c.readAuthority)
	if err != nil {
		return tuf.Pins{}, &configError{path: c.path, reason: printable(err.Error())}
	}
	return pin.(tuf.Pins), nil // see trust.Pinning
}

// relative finds a file that the configuration names.
func (c *config) relative(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.path), path)
}

// readAuthority reads a file that "ca" names. Paths are relative to the
// configuration file.
func (c *config) readAuthority(path string) ([]byte, error) {
	f, err := os.Open(c.relative(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, maxConfig)
}
