package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EngineConfig says where to look for the engine.
type EngineConfig struct {
	// Hosts are unix://PATH, npipe://PATH, tcp://HOST:PORT or
	// https://HOST:PORT, in the order of trying; the first that answers is
	// used.
	Hosts []string

	// CertDir holds ca.pem, cert.pem and key.pem. When it is set, tcp means
	// TLS.
	CertDir string
}

// FindEngine returns where the environment says that the engine is:
// IECHOR_HOST, else DOCKER_HOST (each with its _TLS_VERIFY and _CERT_PATH),
// else the usual sockets of Docker and Podman. home is the user's home
// directory.
func FindEngine(getenv func(string) string, home string) EngineConfig {
	for _, vendor := range []struct{ prefix, dir string }{{"IECHOR", ".iechor"}, {"DOCKER", ".docker"}} {
		host := getenv(vendor.prefix + "_HOST")
		if host == "" {
			continue
		}
		c := EngineConfig{Hosts: []string{host}}
		if getenv(vendor.prefix+"_TLS_VERIFY") != "" {
			if c.CertDir = getenv(vendor.prefix + "_CERT_PATH"); c.CertDir == "" {
				c.CertDir = filepath.Join(home, vendor.dir)
			}
		}
		return c
	}
	if runtime.GOOS == "windows" {
		return EngineConfig{Hosts: []string{
			"npipe:////./pipe/iechor_engine", "npipe:////./pipe/docker_engine", "npipe:////./pipe/podman-machine-default",
		}}
	}
	sockets := []string{"/var/run/iechor.sock", "/var/run/docker.sock"}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, path.Join(dir, "iechor.sock"), path.Join(dir, "docker.sock"), path.Join(dir, "podman/podman.sock"))
	}
	if home != "" {
		sockets = append(sockets, path.Join(home, ".docker/run/docker.sock"),
			path.Join(home, ".local/share/containers/podman/machine/podman.sock"))
	}
	sockets = append(sockets, "/run/podman/podman.sock")
	var c EngineConfig
	for _, s := range sockets {
		c.Hosts = append(c.Hosts, "unix://"+s)
	}
	return c
}

// An engine is a connection to the local engine, found at the first call.
type engine struct {
	config EngineConfig
	agent  string

	mu      sync.Mutex // guards the rest
	http    *http.Client
	version string // of the API, as agreed
}

func newEngine(c EngineConfig, agent string) *engine { return &engine{config: c, agent: agent} }

// Versions of the Engine API that this package knows. Nothing used here has
// changed its shape between them.
const (
	oldestAPI = 24
	newestAPI = 51
)

const enginePatience = 10 * time.Second // for an answer to a ping, and to anything that takes no work

// connect finds the engine, once.
func (e *engine) connect(ctx context.Context) (*http.Client, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.http != nil {
		return e.http, e.version, nil
	}
	missing := &NoEngineError{}
	failed := func(err error) {
		if !errors.Is(missing.Err, fs.ErrPermission) { // that one can be cured, and is not that there is none
			missing.Err = err
		}
	}
	for _, host := range e.config.Hosts {
		missing.Tried = append(missing.Tried, host)
		client, err := e.client(host)
		if err != nil {
			failed(err)
			continue
		}
		version, err := e.ping(ctx, client)
		if err != nil {
			failed(err)
			client.CloseIdleConnections()
			continue
		}
		e.http, e.version = client, version
		return client, version, nil
	}
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	return nil, "", missing
}

// client returns a client whose every connection leads to host.
func (e *engine) client(host string) (*http.Client, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("%w: engine address %q", ErrReference, host)
	}
	t := &http.Transport{MaxIdleConns: 2, IdleConnTimeout: 10 * time.Second, DisableCompression: true}
	dialer := &net.Dialer{Timeout: enginePatience}
	switch u.Scheme {
	case "unix":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	case "npipe":
		t.DialContext = func(context.Context, string, string) (net.Conn, error) { return dialPipe(u.Path) }
	case "tcp", "http", "https":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", u.Host)
		}
		if u.Scheme == "https" || e.config.CertDir != "" {
			config, err := engineTLS(e.config.CertDir, u.Hostname())
			if err != nil {
				return nil, err
			}
			plain := t.DialContext
			t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := plain(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				secure := tls.Client(conn, config)
				return secure, secure.HandshakeContext(ctx)
			}
		}
	default:
		return nil, fmt.Errorf("%w: engine address %q is not unix, npipe, tcp or https", ErrReference, host)
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("an engine does not redirect")
	}}, nil
}

func engineTLS(dir, name string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if dir == "" {
		return config, nil
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s", filepath.Join(dir, "ca.pem"))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// ping asks who is there and agrees on a version of the API.
func (e *engine) ping(ctx context.Context, client *http.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 1024) // so that the connection serves again
	major, minor, _ := strings.Cut(resp.Header.Get("Api-Version"), ".")
	n, err := strconv.Atoi(minor)
	if resp.StatusCode != http.StatusOK || major != "1" || err != nil || n < oldestAPI {
		return "", fmt.Errorf("no engine that we can speak to: status %d, version %q", resp.StatusCode, clean(resp.Header.Get("Api-Version")))
	}
	return fmt.Sprintf("1.%d", min(n, newestAPI)), nil
}
