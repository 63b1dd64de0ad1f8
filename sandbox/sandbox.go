// Package sandbox runs a registry, a trust server and its signer in one
// process, on this machine only, for newcomers and for tests.
//
// [Start] one, use the environment that [Sandbox.Env] returns, and
// [Sandbox.Close] it. Without a folder of its own nothing is left of it
// afterwards; with one, keys, trust data and images are there again at the next
// start.
//
// Nobody has to log in, unless [Config.Auth] says so, and the key that protects
// the signer's keys lies beside them: do not expose it to others. It refuses to
// listen on an address that others can reach. It is the signer's operator as
// well: a repository that is deleted may begin anew at once.
package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/iechor/trust/certs"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// A Config says where a sandbox lives. The zero value works.
type Config struct {
	Dir          string // "": a temporary folder, removed by Close
	RegistryAddr string // loopback host:port; "": 127.0.0.1 and a free port
	TrustAddr    string // likewise

	// Auth is how registry and trust server ask who somebody is: [NoLogin],
	// [Tokens], [Passwords].
	Auth string
	// RSATokens makes the token service sign with RSA (RS256), and not with
	// ECDSA (ES256).
	RSATokens bool

	Log *slog.Logger
	Now func() time.Time // nil: time.Now
}

// A Sandbox is a running registry, trust server and signer.
type Sandbox struct {
	Dir      string  // everything is in here
	Registry string  // host:port, as the beginning of image names
	Trust    string  // URL of the trust server
	Logins   []Login // who can log in; none if nobody has to

	Store  storage.Store
	Signer *signer.Service

	temporary bool
	stop      context.CancelFunc
	servers   []*http.Server
	databases []*database.DB
	running   sync.WaitGroup
}

// Start starts a sandbox and returns when all of it answers. ctx bounds the
// start only. After an error nothing is running.
func Start(ctx context.Context, c Config) (*Sandbox, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sandbox{Dir: c.Dir, temporary: c.Dir == ""}
	var err error
	if s.temporary {
		if s.Dir, err = os.MkdirTemp("", "iechor-sandbox-"); err != nil {
			return nil, err
		}
	}
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	if err := s.start(ctx, background, c); err != nil {
		_ = s.Close() // the first error is the one to report
		return nil, err
	}
	return s, nil
}

func (s *Sandbox) start(ctx, background context.Context, c Config) error {
	for _, sub := range []string{"", "config", "server", "signer", "registry"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("make the sandbox's folder: %w", err)
		}
	}
	ca, err := openAuthority(s.Dir, c.Now())
	if err != nil {
		return err
	}
	var d *door
	if c.Auth != NoLogin {
		if d, err = openDoor(s.Dir, c, ca); err != nil {
			return err
		}
		s.Logins = d.logins
	}
	trust, name, err := listen("trust server", c.TrustAddr, "--trust-addr")
	if err != nil {
		return err
	}
	s.Trust = "https://" + name
	if err := s.startRegistry(c, d); err != nil {
		return errors.Join(err, trust.Close())
	}
	if err := s.startTrust(ctx, background, c, ca, d, trust); err != nil {
		return errors.Join(err, trust.Close())
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	return s.writeFiles()
}

// answers waits until registry and trust server answer.
func (s *Sandbox) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ca, err := os.ReadFile(filepath.Join(s.Dir, "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	for _, url := range []string{"http://" + s.Registry + "/v2/", s.Trust + "/_notary_server/health"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := transport.RoundTrip(req)
		if err != nil {
			return fmt.Errorf("start the sandbox: %w", err)
		}
		_ = answer.Body.Close() // only the status counts
		if answer.StatusCode != http.StatusOK && (len(s.Logins) == 0 || answer.StatusCode != http.StatusUnauthorized) {
			return fmt.Errorf("start the sandbox: %s answers %s", url, answer.Status)
		}
	}
	return nil
}

// listen opens a loopback address.
func listen(what, addr, flag string) (net.Listener, string, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", fmt.Errorf("%s %q is not host:port", flag, addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, "", fmt.Errorf("%s %s: a sandbox asks nobody who they are, so it listens on this machine's own addresses only, such as 127.0.0.1", flag, addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, "", fmt.Errorf("start the %s (choose another address with %s): %w", what, flag, err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, "", err
	}
	name := "localhost"
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		name = "[::1]"
	}
	return l, name + ":" + port, nil
}

func (s *Sandbox) serve(h *http.Server, l net.Listener) {
	s.servers = append(s.servers, h)
	s.running.Go(func() { _ = h.Serve(l) }) // returns ErrServerClosed at Close
}

func (s *Sandbox) startRegistry(c Config, d *door) error {
	r, err := openRegistry(filepath.Join(s.Dir, "registry"))
	if err != nil {
		return err
	}
	l, name, err := listen("registry", c.RegistryAddr, "--registry-addr")
	if err != nil {
		return err
	}
	s.Registry = name
	var h http.Handler = r
	if d != nil {
		auth, err := d.authorizer(c, name, s.Trust)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		h = guard(auth, r)
	}
	s.serve(&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}, l)
	return nil
}

func (s *Sandbox) open(ctx context.Context, name string) (*database.DB, error) {
	db, err := sql.Open("sqlite", database.SQLiteDSN(filepath.Join(s.Dir, name)))
	if err != nil {
		return nil, err
	}
	d := database.New(db, database.SQLite)
	s.databases = append(s.databases, d)
	return d, db.PingContext(ctx)
}

func (s *Sandbox) startTrust(ctx, background context.Context, c Config, ca *authority, d *door, l net.Listener) error {
	keyDB, err := s.open(ctx, "signer/signer.db")
	if err != nil {
		return err
	}
	kek, err := openKEK(filepath.Join(s.Dir, "signer", "kek"))
	if err != nil {
		return err
	}
	table, err := signer.OpenTable(ctx, keyDB, kek)
	if err != nil {
		return err
	}
	if s.Signer, err = signer.New(signer.Config{Table: table, Now: c.Now, Log: c.Log}); err != nil {
		return err
	}
	db, err := s.open(ctx, "server/server.db")
	if err != nil {
		return err
	}
	store, err := storage.Open(ctx, db)
	if err != nil {
		return err
	}
	s.Store = store
	name := strings.TrimPrefix(s.Trust, "https://")
	var auth server.Authorizer = server.NoAuth{}
	if d != nil {
		if auth, err = d.authorizer(c, name, s.Trust); err != nil {
			return err
		}
	}
	srv, err := server.New(server.Config{
		Store: store, Keys: s.Signer, Auth: auth,
		// One process is all there is, so it is the operator as well.
		Forget: s.Signer.Forget,
		// Nothing stands between this server and its clients.
		MaxAge: server.MaxAge{Current: -1},
		Log:    c.Log, Now: c.Now,
	})
	if err != nil {
		return err
	}
	cert, err := ca.serve([]string{"localhost", "127.0.0.1", "::1"}, c.Now())
	if err != nil {
		return err
	}
	var handler http.Handler = srv
	if d != nil && d.tokens != nil {
		if err := writeFile(filepath.Join(s.Dir, "token-service.crt"), d.tokens.certificate, 0o644); err != nil {
			return err
		}
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == tokenPath {
				d.tokens.ServeHTTP(w, r)
				return
			}
			srv.ServeHTTP(w, r)
		})
	}
	h := server.HTTPServer(handler, c.Log)
	h.TLSConfig = &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}
	s.servers = append(s.servers, h)
	s.running.Go(func() { _ = h.ServeTLS(l, "", "") })
	s.running.Go(func() { srv.Run(background) })
	s.running.Go(func() { prune(background, table, c) })
	// The registry's token service is checked with the registry's authorities.
	return errors.Join(s.trustCA(ca.pem, name), s.trustCA(ca.pem, s.Registry))
}

// prune forgets, every hour, what the signer's ledger need not keep.
func prune(ctx context.Context, t *signer.Table, c Config) {
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hourly.C:
			if err := t.Prune(ctx, c.Now()); err != nil && ctx.Err() == nil {
				c.Log.Warn("ledger not pruned", "err", err)
			}
		}
	}
}

// trustCA lets clients that use the sandbox's configuration trust its server,
// under each name by which it may be called.
func (s *Sandbox) trustCA(ca []byte, name string) error {
	_, port, err := net.SplitHostPort(name)
	if err != nil {
		return err
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		dir := certs.Dir(filepath.Join(s.Dir, "config", "tls"), host+":"+port)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, "ca.crt"), ca, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// openKEK reads the key that protects the signer's keys, or makes one.
func openKEK(path string) (*signer.KEK, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		key := make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			return nil, err
		}
		if err := writeFile(path, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	key, err := signer.ReadKEK(path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	local, err := signer.NewLocal(key)
	if err != nil {
		return nil, err
	}
	return signer.NewKEK(signer.KEKConfig{Current: local})
}

// Env returns the variables, as NAME=VALUE, that point the client at the
// sandbox and switch content trust on.
func (s *Sandbox) Env() []string {
	return []string{
		"IECHOR_CONTENT_TRUST=1",
		"IECHOR_CONTENT_TRUST_SERVER=" + s.Trust,
		"IECHOR_CONFIG=" + filepath.Join(s.Dir, "config"),
	}
}

// Exports returns variables, given as NAME=VALUE, as lines for a shell.
func Exports(env []string) string {
	var b strings.Builder
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:-") != "" {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		fmt.Fprintf(&b, "export %s=%s\n", name, value)
	}
	return b.String()
}

// writeFiles writes what a newcomer uses: env, and two images without an
// engine.
func (s *Sandbox) writeFiles() error {
	if err := writeFile(filepath.Join(s.Dir, "env"), []byte(Exports(s.Env())), 0o644); err != nil {
		return err
	}
	if err := writeImage(filepath.Join(s.Dir, "hello.tar"), "hello:1", "Hello from a signed image.\n"); err != nil {
		return err
	}
	return writeImage(filepath.Join(s.Dir, "other.tar"), "other:1", "Not what the owner of the tag signed.\n")
}

// Blob returns the file in which the registry keeps a blob; digest is
// "sha256:" and hex digits.
func (s *Sandbox) Blob(digest string) string {
	return filepath.Join(s.Dir, "registry", "blobs", strings.Replace(digest, ":", string(filepath.Separator), 1))
}

// Close stops everything, and removes the folder if it was a temporary one.
func (s *Sandbox) Close() error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var errs []error
	for _, h := range s.servers {
		if err := h.Shutdown(ctx); err != nil {
			errs = append(errs, h.Close())
		}
	}
	s.running.Wait()
	for _, d := range s.databases {
		errs = append(errs, d.Close())
	}
	if s.temporary {
		errs = append(errs, os.RemoveAll(s.Dir))
	}
	return errors.Join(errs...)
}

// Signed returns the digest, "sha256:" and hex digits, that the trust data of
// a repository names for a tag of role targets.
func (s *Sandbox) Signed(ctx context.Context, gun, tag string) (string, error) {
	state, err := s.Store.Current(ctx, tuf.GUN(gun))
	if err != nil {
		return "", err
	}
	raw, _, err := s.Store.Blob(ctx, tuf.GUN(gun), tuf.RoleTargets, state.Roles[tuf.RoleTargets].SHA256)
	if err != nil {
		return "", err
	}
	var file struct {
		Signed struct {
			Targets map[string]struct {
				Hashes map[string][]byte `json:"hashes"`
			} `json:"targets"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return "", err
	}
	sum := file.Signed.Targets[tag].Hashes["sha256"]
	if len(sum) == 0 {
		return "", fmt.Errorf("%s:%s is not signed", gun, tag)
	}
	return "sha256:" + hex.EncodeToString(sum), nil
}
