package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/iechor/trust/certs"
)

// A Client talks to registries and to the engine. It is safe for concurrent
// use; two pulls into one layout directory at the same time are not.
type Client struct {
	config Config
	engine *engine
}

// New returns a client. It contacts nobody.
func New(c Config) *Client {
	if c.Stall <= 0 {
		c.Stall = time.Minute
	}
	if c.Hub == "" {
		c.Hub = HubHost
	}
	return &Client{config: c, engine: newEngine(c.Engine, c.UserAgent)}
}

// A session is an authenticated conversation about one repository.
type session struct {
	ref  Ref             // without tag and digest
	repo name.Repository // what go-containerregistry calls it
	auth http.RoundTripper
	http *http.Client
	base certs.Transport
	tls  string // directory for private CAs, for messages
}

// open starts a session. actions is "pull" or "pull,push".
func (c *Client) open(ctx context.Context, ref Ref, actions string) (*session, error) {
	cred, err := c.credential(ctx, ref.Host())
	if err != nil {
		return nil, err
	}
	reg, err := c.registryOf(ref.Host())
	if err != nil {
		return nil, err
	}
	s := &session{
		ref:  Ref{Repository: ref.Repository},
		repo: reg.Repo(ref.Path()),
		tls:  certs.Dir(c.config.TLSDir, reg.RegistryStr()),
	}
	guard, err := c.guard(reg, cred)
	if err != nil {
		return nil, err
	}
	s.base = guard.base
	s.auth, err = transport.NewWithContext(ctx, reg, authenticator(cred), guard, []string{s.repo.Scope(actions)})
	if err != nil {
		guard.base.CloseIdleConnections()
		return nil, s.explain(err, "")
	}
	s.http = &http.Client{Transport: s.auth} // redirects are judged by guard
	return s, nil
}

// registryOf returns the registry that is contacted for host.
func (c *Client) registryOf(host string) (name.Registry, error) {
	if host == HubName {
		host = c.config.Hub
	}
	reg, err := name.NewRegistry(host)
	if err != nil {
		return name.Registry{}, fmt.Errorf("%w: host %q", ErrReference, host)
	}
	return reg, nil
}

// credential finds the credentials for requests to the registry of host.
// Docker's own login at the hub counts only where the hub is Docker's: it
// goes to no host of another name.
func (c *Client) credential(ctx context.Context, host string) (Credential, error) {
	if c.config.Credentials == nil {
		return Credential{}, nil
	}
	cred, err := c.config.Credentials.Lookup(ctx, host)
	if err != nil || cred != (Credential{}) || host != HubName || c.config.Hub != HubHost {
		return cred, err
	}
	return c.config.Credentials.lookup(ctx, "https://"+HubHost+"/v1/")
}

func authenticator(c Credential) authn.Authenticator {
	if c == (Credential{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username:      c.Username,
		Password:      c.Password,
		IdentityToken: c.IdentityToken,
		RegistryToken: c.RegistryToken,
	})
}

// Login checks credentials against the registry host, without storing them.
// Errors: ErrUnauthorized, ErrUnreachable, ErrRefused.
func (c *Client) Login(ctx context.Context, host string, cred Credential) error {
	reg, err := c.registryOf(host)
	if err != nil {
		return err
	}
	s := &session{ref: Ref{Repository: host}, tls: certs.Dir(c.config.TLSDir, reg.RegistryStr())}
	guard, err := c.guard(reg, cred)
	if err != nil {
		return err
	}
	defer guard.base.CloseIdleConnections()
	s.auth, err = transport.NewWithContext(ctx, reg, authenticator(cred), guard, nil)
	if err != nil {
		return s.explain(err, "")
	}
	s.http = &http.Client{Transport: s.auth}
	resp, err := s.get(ctx, "https://"+reg.RegistryStr()+"/v2/", "")
	if err != nil {
		return s.explain(err, "")
	}
	return resp.Body.Close()
}

// get makes a request and returns a response with status 200, whose body the
// caller closes.
func (s *session) get(ctx context.Context, address, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // the status says it all
		return nil, &statusError{resp.StatusCode}
	}
	return resp, nil
}

type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.status) }

// explain turns what go-containerregistry and net/http say into the errors of
// this package. what names the object, if there was one.
func (s *session) explain(err error, what string) error {
	if err == nil {
		return nil
	}
	if what == "" {
		what = s.ref.String()
	}
	var (
		refused *RefusedError
		digest  *DigestError
		status  *statusError
		answer  *transport.Error
	)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &digest):
		return digest
	case errors.Is(err, ErrUnsupported), errors.Is(err, errLocal):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !isTimeout(err):
		return fmt.Errorf("%s: %w", what, err)
	case errors.As(err, &answer):
		status = &statusError{answer.StatusCode}
	}
	if status == nil && !errors.As(err, &status) {
		return &UnreachableError{Host: s.host(), Err: err, TLSDir: certificateTrouble(err, s.tls)}
	}
	switch status.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s: %w (status %d)", what, ErrUnauthorized, status.status)
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return &UnreachableError{Host: s.host(), Status: status.status, Err: status}
}

func (s *session) host() string { return s.ref.Host() }

// isTimeout tells a deadline of the network from one of the caller.
func isTimeout(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Timeout() || errors.Is(err, errStalled)
}

// errLocal marks failures of this machine's disk, which say nothing about the
// registry.
var errLocal = errors.New("local")

type localError struct{ error }

func (e localError) Is(target error) bool { return target == errLocal }
func (e localError) Unwrap() error        { return e.error }

func local(err error) error {
	if err == nil {
		return nil
	}
	return localError{err}
}

// readAll reads at most limit bytes, and calls more an error.
func readAll(r io.Reader, limit int64, what string) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrUnsupported, what, limit)
	}
	return raw, nil
}
