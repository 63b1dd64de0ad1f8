package trust

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// HTTPConfig says where a trust server is and how to talk to it. Only Base is
// required.
type HTTPConfig struct {
	// Base is the server's URL: https, or http if the host is loopback. A path
	// below which the server lives is allowed; user, query and fragment are
	// not.
	Base string
	// TLSDir has one folder for each server, named for its host, with the
	// port if the URL has one (on Windows without the colon):
	//
	//	*.crt               authorities trusted beside the system's
	//	NAME.cert NAME.key  client certificates; half a pair is an error
	//
	// If the trust server's host is loopback, and only then, and if it has no
	// *.crt there, its certificate is not checked (cli.md 3.2).
	TLSDir string
	// Credentials finds logins; nil means there are none.
	Credentials Credentials
	// Realms are further hosts, with port if any, that logins may be sent to
	// when the server asks for it. Allowed without being listed: the server's
	// own host name, that of the registry in the GUN, and hosts that share the
	// domain above one of these (notary.example.com and auth.example.com) if
	// it has at least two labels and is not one like co.uk. Credentials go
	// only to the login server that the trust server's own challenge names,
	// over https, or over http if both are loopback; they never follow a
	// redirect (attacks.md L10).
	Realms []string
	// Version is of this program, for the User-Agent header.
	Version string

	// Deadline bounds each request as a whole; 0 means 5 minutes. MinRate is
	// the least number of bytes a second, over 30 seconds, at which a body may
	// arrive; 0 means 512 (attacks.md L6).
	Deadline time.Duration
	MinRate  int64

	// testOnlyWindow replaces the 30 seconds.
	testOnlyWindow time.Duration
	// testOnlySystem replaces x509.SystemCertPool.
	testOnlySystem func() (*x509.CertPool, error)
}

// Credentials finds the login for a registry host, which is the first segment
// of the GUN: logins belong to the registry, also when the trust server is
// elsewhere (cli.md 2.3). The zero Credential means that there is none.
type Credentials func(ctx context.Context, host string) (Credential, error)

// A Credential is a user with a password, or an identity token.
type Credential struct{ User, Password, Token string }

// HTTP is the [Remote] of a trust server that speaks the Notary protocol
// (notary-protocol 3, api). It is safe for concurrent use.
//
// It makes no request that it was not asked for: how to log in is learned from
// the first refusal, and kept.
type HTTP struct {
	c        HTTPConfig
	base     *url.URL
	loopback bool

	mu      sync.Mutex
	clients map[string]*http.Client // by host
	auth    authState
}

var _ Remote = (*HTTP)(nil)

// Bounds of a connection (cli.md 3.1).
const (
	dialTimeout      = 30 * time.Second
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 60 * time.Second
	defaultDeadline  = 5 * time.Minute
	defaultMinRate   = 512
	rateWindow       = 30 * time.Second
)

// NewHTTP returns the remote. It makes no request and reads no file. The error
// matches [ErrAddress] if Base is not such a URL.
func NewHTTP(c HTTPConfig) (*HTTP, error) {
	refuse := fmt.Errorf("%w, got %s", ErrAddress, printable(c.Base))
	u, err := url.Parse(c.Base)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, refuse
	}
	if strings.Trim(u.Hostname(), ".") == "" || strings.ContainsAny(u.Host, `/\`) {
		return nil, refuse
	}
	h := &HTTP{c: c, base: u, loopback: loopback(u.Hostname()), clients: make(map[string]*http.Client)}
	if u.Scheme != "https" && !(u.Scheme == "http" && h.loopback) {
		return nil, refuse
	}
	u.Path = strings.TrimSuffix(u.EscapedPath(), "/")
	if u.Path != "" && u.Path != (&url.URL{Path: u.Path}).EscapedPath() {
		return nil, refuse
	}
	u.RawPath = ""
	if h.c.Deadline <= 0 {
		h.c.Deadline = defaultDeadline
	}
	if h.c.MinRate <= 0 {
		h.c.MinRate = defaultMinRate
	}
	if h.c.testOnlyWindow == 0 {
		h.c.testOnlyWindow = rateWindow
	}
	return h, nil
}

// loopback reports whether a host name means this machine. Only "localhost" is
// known by name: what other names resolve to, others decide.
func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// Host implements [Remote].
func (h *HTTP) Host() string { return h.base.Host + h.base.Path }

// Fetch implements [Remote].
func (h *HTTP) Fetch(ctx context.Context, gun tuf.GUN, w tuf.Want) ([]byte, error) {
	return h.fetch(ctx, gun, w, false)
}

// fetch is Fetch; with fresh, no cache on the way may answer.
func (h *HTTP) fetch(ctx context.Context, gun tuf.GUN, w tuf.Want, fresh bool) ([]byte, error) {
	route := api.Route{Kind: api.FileCurrent, GUN: gun, Role: w.Role}
	switch {
	case w.Version > 0:
		route.Kind, route.Version = api.FileByVersion, w.Version
	case len(w.SHA256) == len(route.SHA256):
		route.Kind = api.FileByHash
		copy(route.SHA256[:], w.SHA256)
	}
	raw, err := h.do(ctx, call{method: http.MethodGet, route: route, actions: actionsRead, limit: w.MaxLength + 1, fresh: fresh})
	if err != nil {
		return nil, err
	}
	if t := bytes.TrimLeft(raw, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return nil, fmt.Errorf("%w: %s answered for the %s of %s with something that is not metadata", ErrNotTrustServer, h.Host(), w.Role, gun)
	}
	return raw, nil
}

// Upload implements [Remote].
func (h *HTTP) Upload(ctx context.Context, gun tuf.GUN, files []tuf.File) error {
	var body bytes.Buffer
	contentType, err := api.WriteFiles(&body, files)
	if err != nil {
		return err
	}
	answer, err := h.do(ctx, call{
		method: http.MethodPost, route: api.Route{Kind: api.Repository, GUN: gun}, actions: actionsWrite,
		body: body.Bytes(), contentType: contentType, limit: api.MaxErrorBody,
	})
	if err = h.empty(answer, err); errors.Is(err, ErrNotTrustServer) {
		err = &Unreachable{h.base.Host, err} // whether the upload arrived is looked up
	}
	return err
}

// empty refuses a success that a trust server does not answer with: what stands
// between, such as the login page of a network, has not done anything.
func (h *HTTP) empty(answer []byte, err error) error {
	if err == nil && len(bytes.TrimSpace(answer)) > 0 {
		err = fmt.Errorf("%w: %s answered with a page and not with a result", ErrNotTrustServer, h.Host())
	}
	return err
}

// Key implements [Remote].
func (h *HTTP) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return h.key(ctx, http.MethodGet, gun, role, actionsWrite)
}

// RotateKey implements [Remote].
func (h *HTTP) RotateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return h.key(ctx, http.MethodPost, gun, role, actionsAll)
}

func (h *HTTP) key(ctx context.Context, method string, gun tuf.GUN, role tuf.RoleName, actions string) (tuf.PublicKey, error) {
	raw, err := h.do(ctx, call{
		method: method, route: api.Route{Kind: api.Key, GUN: gun, Role: role}, actions: actions, limit: api.MaxKeyBody,
	})
	if err != nil {
		return tuf.PublicKey{}, err
	}
	k, err := api.DecodeKey(raw)
	if err != nil {
		return tuf.PublicKey{}, fmt.Errorf("%w: the %s key that %s answered with: %w", ErrNotTrustServer, role, h.Host(), err)
	}
	return k, nil
}

// Delete implements [Remote].
func (h *HTTP) Delete(ctx context.Context, gun tuf.GUN) error {
	answer, err := h.do(ctx, call{
		method: http.MethodDelete, route: api.Route{Kind: api.Repository, GUN: gun}, actions: actionsAll, limit: api.MaxErrorBody,
	})
	return h.empty(answer, err)
}

// A call is one request of the protocol.
type call struct {
	method      string
	route       api.Route
	actions     string // of the token scope
	body        []byte
	contentType string
	query       url.Values
	limit       int64 // bytes read of a success
	fresh       bool  // not from a cache
}

// do makes a call, logging in if the server asks for it, and returns at most
// limit bytes of a 200 answer. Every other answer is an error.
func (h *HTTP) do(ctx context.Context, c call) ([]byte, error) {
	if c.route.Kind != api.AllChanges {
		if err := check(c.route.GUN); err != nil {
			return nil, err
		}
	}
	u := *h.base
	u.RawPath = ""
	target := u.Scheme + "://" + u.Host + u.Path + c.route.Path()
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	for again := false; ; again = true {
		authorization, err := h.authorization(ctx, c.route.GUN, c.actions)
		if err != nil {
			return nil, err
		}
		res, err := h.send(ctx, h.base, request{
			method: c.method, url: target, body: c.body, contentType: c.contentType,
			authorization: authorization, limit: c.limit, fresh: c.fresh,
		})
		if err != nil {
			return nil, err
		}
		if res.status == http.StatusOK {
			return res.body, nil
		}
		if res.status == http.StatusUnauthorized && !again && h.challenged(c.route.GUN, c.actions, authorization, res.header) {
			continue
		}
		return nil, h.refusal(c.route.GUN, res)
	}
}

// refusal says what an answer other than 200 means.
func (h *HTTP) refusal(gun tuf.GUN, res *response) error {
	e := res.refusal
	switch {
	case redirects(res):
		return &RedirectError{h.Host(), res.header.Get("Location")}
	case res.status == http.StatusNotFound && (e.Code == api.MetadataNotFound || e.Code == api.GenericNotFound),
		res.status == http.StatusGone:
		return &NotSigned{h.Host(), gun}
	case res.status == http.StatusNotFound, res.status < 400, res.status >= 600:
		return fmt.Errorf("%w: %s answered with status %d", ErrNotTrustServer, h.Host(), res.status)
	}
	return &ServerRefusal{h.Host(), e}
}

func redirects(res *response) bool {
	return res.status >= 300 && res.status < 400 && res.header.Get("Location") != ""
}

// A request is one HTTP request, to the trust server or to a login server.
type request struct {
	method, url, contentType, authorization string
	body                                    []byte
	limit                                   int64
	fresh                                   bool
}

type response struct {
	status  int
	header  http.Header
	tls     *tls.ConnectionState
	body    []byte     // of a 200
	refusal *api.Error // of anything else
}

// errSlow and errLate are why a request was given up.
var (
	errSlow = errors.New("the answer arrives too slowly")
	errLate = errors.New("the answers took too long")
)

// send makes one request to the host of base. No redirect is followed. The
// error is classified: that of ctx, [TLSError], [Unreachable], or one matching
// ErrNotTrustServer.
func (h *HTTP) send(ctx context.Context, base *url.URL, r request) (*response, error) {
	client, err := h.client(base)
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(h.c.Deadline, func() { cancel(errLate) })
	defer late.Stop()
	req, err := http.NewRequestWithContext(inner, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%w, got %s", ErrAddress, printable(r.url))
	}
	req.Header.Set("User-Agent", fmt.Sprintf("iEchor-Client/%s (%s)", h.c.Version, runtime.GOOS))
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.fresh {
		req.Header.Set("Cache-Control", "no-cache")
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	// A client that follows no redirects does what its transport does, except
	// that a Location which is no URL would count as no answer (attacks.md M5).
	res, err := client.Transport.RoundTrip(req)
	if err != nil {
		return nil, h.unreachable(ctx, inner, base, err)
	}
	defer res.Body.Close()
	out := &response{status: res.StatusCode, header: res.Header, tls: res.TLS}
	p := &pace{r: res.Body, need: max(1, h.c.MinRate*int64(h.c.testOnlyWindow)/int64(time.Second))}
	stop := p.watch(h.c.testOnlyWindow, func() { cancel(errSlow) })
	defer stop()
	if res.StatusCode != http.StatusOK {
		res.Body = io.NopCloser(p)
		out.refusal = api.ReadError(res)
		if err := inner.Err(); err != nil {
			return nil, h.unreachable(ctx, inner, base, err)
		}
		return out, nil
	}
	// The limit is on what comes out of gzip (attacks.md L2, L7).
	if out.body, err = io.ReadAll(io.LimitReader(p, r.limit)); err != nil {
		var corrupt flate.CorruptInputError
		if r.method == http.MethodGet && (errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt)) {
			// A whole answer, and not a lost one: it must not let the copy at
			// hand serve (attacks.md M5). Whether an upload arrived is another
			// question, to which the answer is looked up.
			return nil, fmt.Errorf("%w: %s answered with a body that cannot be decompressed", ErrNotTrustServer, base.Host)
		}
		return nil, h.unreachable(ctx, inner, base, err)
	}
	return out, nil
}

// unreachable classifies why there is no answer.
func (h *HTTP) unreachable(ctx, inner context.Context, base *url.URL, err error) error {
	if e := ctx.Err(); e != nil {
		return e // the caller gave up
	}
	if cause := context.Cause(inner); cause != nil {
		return &Unreachable{base.Host, fmt.Errorf("%s: %w", base.Host, cause)}
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // without the method and the URL
	}
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		alert        tls.AlertError
		authority    x509.UnknownAuthorityError
	)
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		err = http.ErrSchemeMismatch // as a client of net/http says it
	}
	if errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &authority) ||
		errors.Is(err, http.ErrSchemeMismatch) {
		return &TLSError{base.Host, h.tlsDir(base.Host), err}
	}
	return &Unreachable{base.Host, err}
}

// A pace counts what arrives, so that a server cannot hold us with a drip.
type pace struct {
	r    io.Reader
	n    atomic.Int64
	need int64 // in each window
}

func (p *pace) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n.Add(int64(n))
	return n, err
}

// watch calls slow once if a window passes with less than p.need bytes. Stop
// ends it.
func (p *pace) watch(window time.Duration, slow func()) (stop func()) {
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		t := time.NewTicker(window)
		defer t.Stop()
		for last := int64(0); ; {
			select {
			case <-done:
				return
			case <-t.C:
			}
			now := p.n.Load()
			if now-last < p.need {
				slow()
				return
			}
			last = now
		}
	})
	return func() { close(done); wait.Wait() }
}

// onlyLoopback refuses to connect a socket to another machine.
func onlyLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if !loopback(host) {
		return fmt.Errorf("localhost resolves to %s, which is not this machine", host)
	}
	return nil
}
