package signer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// A Client calls a signer in another process. Its errors are those of
// [Service]; anything else, such as a broken connection, says that the outcome
// is not known, and the same call can be made again. It is safe for concurrent
// use.
type Client struct {
	// Verified is told of the signatures of answers, for the caller who looks
	// at them again; nil: nobody is. It must be set before the first call.
	Verified *tuf.Verified

	base string
	http *http.Client
}

// Dial makes a client for the signer at base, "https://HOST[:PORT]" or
// "unix:PATH". It does not connect yet. For an https base, c is asked for each
// connection: for a client certificate and the authorities that issued the
// signer's. A Unix socket is used without TLS, and c must be nil.
func Dial(base string, c func() *tls.Config) (*Client, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second} // with the handshake of TLS
	t := &http.Transport{
		// No proxy: what the environment says is not for this connection.
		DialContext:            dialer.DialContext,
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        idleLimit / 2, // below the server's, so that it is not the one to close
		MaxResponseHeaderBytes: 16 << 10,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		// All calls share one connection. One whose other end is gone without a
		// word must not be believed in for minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: silence},
	}
	client := &Client{http: &http.Client{
		Transport:     t,
		Timeout:       2 * callLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, ok := strings.CutPrefix(base, "unix:"); ok {
		if c != nil {
			return nil, errors.New("a signer on a Unix socket is called without TLS")
		}
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q is not the absolute path of a socket", path)
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		client.base = "http://signer"
		return client, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the address of a signer: https://HOST:PORT or unix:PATH", base)
	}
	if c == nil {
		return nil, errNoCertificate
	}
	if _, err := clientTLS(c(), u.Hostname()); err != nil {
		return nil, err
	}
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		config, err := clientTLS(c(), u.Hostname())
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, addr)
	}
	client.base = "https://" + u.Host
	return client, nil
}

var errNoCertificate = errors.New("a signer is called with a client certificate")

// clientTLS returns c as it is used for a connection to host.
func clientTLS(c *tls.Config, host string) (*tls.Config, error) {
	switch {
	case c == nil || len(c.Certificates) == 0 && c.GetClientCertificate == nil:
		return nil, errNoCertificate
	case c.InsecureSkipVerify:
		return nil, errors.New("a signer is not called without verifying its certificate")
	}
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS13)
	c.NextProtos = []string{"h2", "http/1.1"}
	if c.ServerName == "" {
		c.ServerName = host
	}
	return c, nil
}

// Close ends idle connections. The next call makes a new one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CreateKey is [Service.CreateKey].
func (c *Client) CreateKey(ctx context.Context, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	var a keyAnswer
	if err := c.call(ctx, http.MethodPost, pathCreate, keyQuestion{t, role, gun}, &a); err != nil {
		return tuf.PublicKey{}, fmt.Errorf("create %s key of %s: %w", role, gun, err)
	}
	if _, err := a.Key.Public(); err != nil || a.Key.Type != t {
		return tuf.PublicKey{}, fmt.Errorf("create %s key of %s: the signer answered with a key of type %q that cannot be used", role, gun, a.Key.Type)
	}
	return a.Key, nil
}

// MayBegin is [Service.MayBegin].
func (c *Client) MayBegin(ctx context.Context, gun tuf.GUN) error {
	if err := c.call(ctx, http.MethodPost, pathBegin, gunQuestion{gun}, new(struct{})); err != nil {
		return fmt.Errorf("ask whether %s may begin: %w", gun, err)
	}
	return nil
}

// Holds is [Service.Holds].
func (c *Client) Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	var a holdsAnswer
	if err := c.call(ctx, http.MethodPost, pathHolds, holdsQuestion{gun, role, id}, &a); err != nil {
		return false, fmt.Errorf("look for %s key %s: %w", role, id.Short(), err)
	}
	return a.Held, nil
}

// Sign is [Service.Sign]. The signature was verified with the key that r
// names.
func (c *Client) Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	fail := func(err error) (tuf.Signature, error) {
		return tuf.Signature{}, fmt.Errorf("sign %s of %s: %w", r.Role, r.GUN, err)
	}
	var a signAnswer
	if err := c.call(ctx, http.MethodPost, pathSign, r, &a); err != nil {
		return fail(err)
	}
	sig, err := a.of(c.Verified, r.Key, r.Payload)
	if err != nil {
		return fail(err)
	}
	return sig, nil
}

// of returns the signature, if it is one of payload by key.
func (a signAnswer) of(v *tuf.Verified, key tuf.CanonicalID, payload []byte) (tuf.Signature, error) {
	if a.Key.CanonicalID() != key {
		return tuf.Signature{}, errors.New("the signer answered with a signature of another key")
	}
	sig := tuf.Signature{KeyID: a.Key.ID(), Method: a.Method, Value: a.Sig}
	if err := v.Verify(a.Key, payload, sig); err != nil {
		return tuf.Signature{}, fmt.Errorf("the signer's answer: %w", err)
	}
	return sig, nil
}

// SignBoth is [Service.SignBoth]. The error matches [errors.ErrUnsupported],
// too, where the signer is of an earlier version. The signatures were verified
// with the keys that r and next name.
func (c *Client) SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error) {
	var a bothAnswer
	if err = c.call(ctx, http.MethodPost, pathBoth, bothQuestion{r, next}, &a); err == nil {
		snapshot, err = a.Snapshot.of(c.Verified, r.Key, r.Payload)
	}
	var made []byte
	if err == nil {
		made, err = tuf.Envelope(r.Payload, snapshot)
	}
	if err == nil {
		timestamp, err = a.Timestamp.of(c.Verified, next.Key, tuf.TimestampPayload(next.Version, next.Expires, made))
	}
	if err != nil {
		return tuf.Signature{}, tuf.Signature{}, fmt.Errorf("sign snapshot and timestamp of %s: %w", r.GUN, err)
	}
	return snapshot, timestamp, nil
}

// Forget is [Service.Forget].
func (c *Client) Forget(ctx context.Context, gun tuf.GUN) error {
	if err := c.call(ctx, http.MethodPost, pathForget, gunQuestion{gun}, new(struct{})); err != nil {
		return fmt.Errorf("forget %s: %w", gun, err)
	}
	return nil
}

// LowerFloor is [Service.LowerFloor].
func (c *Client) LowerFloor(ctx context.Context, gun tuf.GUN, timestamp int64) error {
	if err := c.call(ctx, http.MethodPost, pathLower, lowerQuestion{gun, timestamp}, new(struct{})); err != nil {
		return fmt.Errorf("lower the floor of %s: %w", gun, err)
	}
	return nil
}

// Floors is [Service.Floors].
func (c *Client) Floors(ctx context.Context, gun tuf.GUN) ([]Floor, error) {
	var a floorsAnswer
	if err := c.call(ctx, http.MethodPost, pathFloors, gunQuestion{gun}, &a); err != nil {
		return nil, fmt.Errorf("floors of %s: %w", gun, err)
	}
	return a.Floors, nil
}

// Ping is [Service.Ping].
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.May(ctx)
	return err
}

// May returns the rights that the signer gives this client.
func (c *Client) May(ctx context.Context) (Rights, error) {
	var a pingAnswer
	if err := c.call(ctx, http.MethodGet, pathPing, nil, &a); err != nil {
		return Rights{}, fmt.Errorf("ping the signer: %w", err)
	}
	var may Rights
	for _, word := range a.Rights {
		if right := may.of(word); right != nil { // a later signer may know more
			*right = true
		}
	}
	return may, nil
}

// Bounds of waiting for a signer that says it is asked too often.
const (
	slowTries = 4
	slowLimit = 5 * time.Second
)

// call asks once more, a few times, when the signer asks for a short pause.
func (c *Client) call(ctx context.Context, method, path string, question, answer any) error {
	for try := 1; ; try++ {
		err := c.once(ctx, method, path, question, answer)
		var slow *api.SlowDownError
		if !errors.As(err, &slow) || try == slowTries || slow.After > slowLimit {
			return err
		}
		pause := time.NewTimer(slow.After + rand.N(slow.After+time.Millisecond)) // not in step with other callers
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// silence is how long a connection may be silent before it is asked whether
// anybody is there, and how long the answer may take.
const silence = 5 * time.Second

// away returns err, why there is no answer, as [api.ErrUnavailable], unless
// waiting does not help: TLS says no, or the caller has left.
func away(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case ctx.Err() != nil,
		errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"),
		errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.RecordHeaderError)):
		return err
	}
	return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
}

func (c *Client) once(ctx context.Context, method, path string, question, answer any) (err error) {
	ctx, span := traces.Start(ctx, traces.Client, "signer "+path)
	defer func() { span.End(err) }()
	var body io.Reader
	if question != nil {
		raw, err := json.Marshal(question)
		if err != nil {
			return err
		}
		if len(raw) > maxBody {
			return refuse("the request is too large")
		}
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	traces.Forward(ctx, r.Header)
	resp, err := c.http.Do(r)
	if err != nil {
		return away(ctx, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return away(ctx, err)
	}
	if len(raw) > maxAnswer {
		return errors.New("the signer's answer is too large")
	}
	if resp.StatusCode != http.StatusOK {
		var e wireError
		if json.Unmarshal(raw, &e) != nil {
			e = wireError{}
		}
		return e.err(resp.StatusCode)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return errors.New("the signer's answer is not the JSON that was expected")
	}
	return nil
}
