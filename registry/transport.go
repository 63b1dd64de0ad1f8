package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/iechor/trust/certs"
)

const (
	maxManifest = 4 << 20 // bytes; also any other answer that is not a layer
	minRate     = 1024    // bytes a second that a transfer must make on average
)

// A guard is the lowest RoundTripper: every request passes it, those that
// go-containerregistry makes on its own included. It decides what may be
// contacted, bounds what comes back, and ends what makes no progress.
type guard struct {
	base     certs.Transport
	registry string // host:port that the user named
	agent    string
	secret   bool // there are credentials to protect
	vouched  []string
	stall    time.Duration

	mu     sync.Mutex       // guards the rest
	plain  map[string]error // by host: why it is not spoken to without TLS, nil if it may be
	realms map[string]bool  // hosts that hand out tokens for registry
	broken error            // the registry speaks TLS, with a certificate that does not hold
}

func (c *Client) guard(reg name.Registry, cred Credential) (*guard, error) {
	found, err := certs.Read(certs.Dir(c.config.TLSDir, reg.RegistryStr()))
	if err != nil {
		return nil, fmt.Errorf("certificates for %s: %w", reg.RegistryStr(), err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: found.Pairs}
	build := func(config *tls.Config) *http.Transport {
		return &http.Transport{
			Proxy:                  c.config.Proxy,
			DialContext:            (&net.Dialer{Timeout: min(30*time.Second, c.config.Stall)}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    min(10*time.Second, c.config.Stall),
			ResponseHeaderTimeout:  5 * c.config.Stall,
			IdleConnTimeout:        10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // a length is the length of the content; no bombs (attacks.md L7)
		}
	}
	return &guard{
		base:     certs.NewTransport(config, found.Authorities, c.config.testOnlySystem, build),
		registry: reg.RegistryStr(),
		agent:    c.config.UserAgent,
		secret:   cred != Credential{},
		vouched:  c.config.TokenHosts,
		stall:    c.config.Stall,
		realms:   map[string]bool{},
	}, nil
}

// RoundTrip does what the type says. attacks.md L2, L3, L6, L10, P9.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.mayContact(req); err != nil {
		return nil, err
	}
	if req.URL.Scheme == "http" {
		if err := g.brokenTLS(); err != nil {
			return nil, err // who speaks TLS badly is not spoken to without it
		}
		if err := g.speaksPlain(req.Context(), canonicalHost(req.URL)); err != nil {
			return nil, err
		}
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", g.agent)
	if !g.sameHost(req.URL.Host) && !g.realm(req.URL.Host) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	resp, err := g.watched(req)
	if err != nil {
		g.noteTLS(err)
		return nil, err
	}
	if err := g.judge(req, resp); err != nil {
		_ = resp.Body.Close() // the answer is refused
		return nil, err
	}
	return resp, nil
}

func (g *guard) brokenTLS() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

func (g *guard) noteTLS(err error) {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.broken = err
	}
}

// mayContact refuses requests that must not be made at all.
func (g *guard) mayContact(req *http.Request) error {
	host := req.URL.Host
	refuse := func(reason string) error {
		return &RefusedError{Host: g.registry, To: host, Reason: reason}
	}
	switch {
	case req.URL.Scheme == "http" && !(Loopback(host) && Loopback(g.registry)):
		return refuse("plain http is only for a registry on this machine")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return refuse("not an https address")
	case g.sameHost(host), g.realm(host):
		return nil
	case req.Response == nil:
		return refuse("another host than the registry's")
	case !Loopback(g.registry) && inside(host):
		return refuse("an address of this machine or its link")
	}
	return nil // a redirect that judge has let pass
}

// inside reports whether host is an address that no remote registry has
// business with.
func inside(host string) bool {
	h := (&url.URL{Host: host}).Hostname()
	ip := net.ParseIP(h)
	return Loopback(h) || ip != nil && (ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

// judge refuses answers that would lead go-containerregistry or net/http
// astray, and learns where tokens come from.
func (g *guard) judge(req *http.Request, resp *http.Response) error {
	if !g.sameHost(req.URL.Host) {
		// Only the registry itself may start an authentication.
		resp.Header.Del("WWW-Authenticate")
	}
	for _, challenge := range resp.Header.Values("WWW-Authenticate") {
		if err := g.learnRealm(challenge); err != nil {
			return err
		}
	}
	if resp.StatusCode/100 != 3 || resp.Header.Get("Location") == "" {
		return nil
	}
	to, err := req.URL.Parse(resp.Header.Get("Location"))
	if err != nil {
		return &RefusedError{Host: g.registry, To: "elsewhere", Reason: "not an address"}
	}
	if canonicalHost(to) == canonicalHost(req.URL) || verifiable(first(req)) {
		return nil
	}
	return &RefusedError{Host: req.URL.Host, To: to.Host, Reason: "only content that is checked against its digest may come from another host"}
}

// first returns the request at the start of a chain of redirects.
func first(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

// Patterns are made when they are first needed, as most runs of the program do
// without.
var (
	byDigest   = pattern(`^/v2/.+/(blobs|manifests)/sha256:[a-f0-9]{64}$`)
	bearer     = pattern(`(?i)\bbearer\s`)
	realmParam = pattern(`(?i)\brealm\s*=\s*(?:"([^"]*)"|([^",\s]+))`)
)

func pattern(s string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(s) })
}

// verifiable reports whether the answer to req is checked against a digest,
// so that it does not matter who gives it.
func verifiable(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Method == http.MethodHead) && byDigest().MatchString(req.URL.Path)
}

// learnRealm remembers the token server that the registry names, if our
// credentials may go there. One that is not remembered is never contacted.
func (g *guard) learnRealm(challenge string) error {
	if !bearer().MatchString(challenge) {
		return nil
	}
	for _, m := range realmParam().FindAllStringSubmatch(challenge, -1) {
		u, err := url.Parse(m[1] + m[2])
		if err != nil || u.Host == "" {
			continue
		}
		if !g.vouchedFor(u.Host) && (g.secret || inside(u.Host)) {
			return &RefusedError{Host: g.registry, To: u.Host, Reason: "credentials go to the registry's own domain only; add the host to the token hosts if it is right"}
		}
		g.mu.Lock()
		g.realms[canonicalHost(u)] = true
		g.mu.Unlock()
	}
	return nil
}

// vouchedFor reports whether host may see the credentials for the registry:
// the same name, one below it, or a sister in the same domain, as in
// registry.example.com and auth.example.com.
func (g *guard) vouchedFor(host string) bool {
	for _, v := range g.vouched {
		if strings.EqualFold(v, host) {
			return true
		}
	}
	if Loopback(g.registry) && Loopback(host) {
		return true
	}
	name, own := bareHost(host), bareHost(g.registry)
	if name == own || strings.HasSuffix(name, "."+own) {
		return true
	}
	if net.ParseIP(own) != nil || net.ParseIP(name) != nil {
		return false
	}
	_, domain, _ := strings.Cut(own, ".")
	return !public(domain) && (name == domain || strings.HasSuffix(name, "."+domain))
}

// public reports whether strangers can register names below domain: a top
// level domain, or the like of co.uk.
func public(domain string) bool {
	labels := strings.Split(domain, ".")
	return len(labels) < 2 || len(labels) == 2 && len(labels[1]) == 2 && len(labels[0]) <= 3
}

func bareHost(host string) string {
	return strings.ToLower((&url.URL{Host: host}).Hostname())
}

func (g *guard) sameHost(host string) bool {
	return canonicalHost(&url.URL{Scheme: "https", Host: host}) == canonicalHost(&url.URL{Scheme: "https", Host: g.registry})
}

func (g *guard) realm(host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.realms[canonicalHost(&url.URL{Scheme: "https", Host: host})]
}

func canonicalHost(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[bool]string{true: "80", false: "443"}[u.Scheme == "http"]
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

var errStalled = errors.New("no progress")

// watched does the request under a watch: a layer must keep a minimum rate,
// everything else must be over within one stall.
func (g *guard) watched(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{
		cancel: cancel,
		stall:  g.stall,
		layer:  strings.Contains(first(req).URL.Path, "/blobs/"),
		quiet:  req.Method == http.MethodPut, // it asks to store what was sent before
	}
	w.timer = time.AfterFunc(g.stall, w.tick)
	if req.Body != nil && req.Body != http.NoBody {
		watched := func(body io.ReadCloser) io.ReadCloser { return &watchedBody{ReadCloser: body, watch: w, left: -1} }
		req.Body = watched(req.Body)
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				if err != nil {
					return nil, err
				}
				return watched(body), nil
			}
		}
	}
	resp, err := g.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		w.stop()
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = fmt.Errorf("%w for %v", errStalled, g.stall)
		}
		return nil, err
	}
	body := &watchedBody{ReadCloser: resp.Body, watch: w, ctx: ctx, left: maxManifest + 1}
	if w.layer && resp.StatusCode == http.StatusOK {
		body.left = -1 // the reader of the layer knows its size
	}
	resp.Body = body
	return resp, nil
}

// A watch cancels a request that stands still.
type watch struct {
	cancel context.CancelCauseFunc
	stall  time.Duration
	layer  bool
	moved  atomic.Int64 // bytes since the last tick
	idle   int          // ticks without a body to move; tick only

	mu    sync.Mutex // guards timer and ended
	timer *time.Timer
	ended bool
	quiet bool // a layer is sent, and its storing awaited; by mu
}

func (w *watch) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	least := max(1, int64(w.stall.Seconds()*minRate))
	if !w.layer || !w.quiet && w.moved.Swap(0) < least || w.idle > 5 {
		w.ended = true
		w.cancel(errStalled)
		return
	}
	if w.quiet {
		w.idle++
	}
	w.timer.Reset(w.stall)
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// A watchedBody counts and bounds what passes.
type watchedBody struct {
	io.ReadCloser
	watch *watch
	ctx   context.Context // of an answer; nil in a request
	left  int64           // bytes until the body is too long; negative: no bound
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.watch.moved.Add(int64(n))
	if b.ctx == nil {
		b.watch.mu.Lock()
		b.watch.quiet = err != nil
		b.watch.mu.Unlock()
		return n, err
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left <= 0 {
			return 0, fmt.Errorf("%w: an answer is larger than %d bytes", ErrUnsupported, maxManifest)
		}
	}
	// An answer that we gave up can still come to what looks like its end.
	if err != nil && b.ctx.Err() != nil {
		if err = context.Cause(b.ctx); errors.Is(err, errStalled) {
			err = fmt.Errorf("%w for %v", errStalled, b.watch.stall)
		}
		return 0, err
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if b.ctx != nil {
		b.watch.stop()
	}
	return b.ReadCloser.Close()
}
