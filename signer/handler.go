package signer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// Bounds of one call.
const (
	maxBody    = maxRequest/3*4 + 64<<10 // bytes of a request: its files in base64, and names
	maxAnswer  = 256 << 10               // bytes of an answer that a client reads
	callLimit  = 30 * time.Second        // from the first byte of a request to the last of its answer
	idleLimit  = 2 * time.Minute
	headLimit  = 10 * time.Second
	drainLimit = 10 * time.Second
)

func checkIdentity(name string) error {
	if name == "" || strings.ContainsAny(name, " \t\r\n") {
		return fmt.Errorf("%q is not an identity of a client", name)
	}
	if digits, ok := strings.CutPrefix(name, "sha256:"); ok && !tuf.CanonicalID(digits).Valid() {
		return fmt.Errorf("%q is not an identity: after sha256: stand 64 lowercase hexadecimal digits", name)
	}
	return nil
}

// A caller is who calls, and what they may do.
type caller struct {
	name string
	may  Rights
}

// A call is one of the things that can be asked over the network.
type call struct {
	method string
	may    func(Rights) bool
	do     func(s *Service, ctx context.Context, by caller, body []byte) (any, error)
}

func calls() map[string]call {
	return map[string]call{
		pathCreate: {http.MethodPost, func(r Rights) bool { return r.Create }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[keyQuestion](body)
			if err != nil {
				return nil, err
			}
			if err := allow(s.meters.keys, s.meters.repositoryKeys, by.name, q.GUN, s.now()); err != nil {
				return nil, err
			}
			key, err := s.createKey(ctx, by.name, q.Type, q.Role, q.GUN)
			return keyAnswer{key}, err
		}},
		pathHolds: {http.MethodPost, func(r Rights) bool { return r.Sign || r.Create || r.Operate }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[holdsQuestion](body)
			if err != nil {
				return nil, err
			}
			held, err := s.Holds(ctx, q.GUN, q.Role, q.Key)
			return holdsAnswer{held}, err
		}},
		pathBegin: {http.MethodPost, func(r Rights) bool { return r.Create }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[gunQuestion](body)
			if err != nil {
				return nil, err
			}
			return struct{}{}, s.MayBegin(ctx, q.GUN)
		}},
		pathSign: {http.MethodPost, func(r Rights) bool { return r.Sign }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[api.SignRequest](body)
			if err != nil {
				return nil, err
			}
			if err := allow(s.meters.signatures, s.meters.repositorySignatures, by.name, q.GUN, s.now()); err != nil {
				return nil, err
			}
			a, err := s.sign(ctx, by.name, q, nil)
			return answerOf(a), err
		}},
		pathBoth: {http.MethodPost, func(r Rights) bool { return r.Sign }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[bothQuestion](body)
			if err != nil {
				return nil, err
			}
			for range 2 { // signatures
				if err := allow(s.meters.signatures, s.meters.repositorySignatures, by.name, q.GUN, s.now()); err != nil {
					return nil, err
				}
			}
			a, err := s.sign(ctx, by.name, q.SignRequest, &q.Next)
			if err != nil {
				return nil, err
			}
			return bothAnswer{answerOf(a), answerOf(*a.next)}, nil
		}},
		pathForget: {http.MethodPost, func(r Rights) bool { return r.Forget }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[gunQuestion](body)
			if err != nil {
				return nil, err
			}
			return struct{}{}, s.forget(ctx, by.name, q.GUN)
		}},
		pathRecall: {http.MethodPost, func(r Rights) bool { return r.Operate }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[gunQuestion](body)
			if err != nil {
				return nil, err
			}
			return struct{}{}, s.recall(ctx, by.name, q.GUN)
		}},
		pathLower: {http.MethodPost, func(r Rights) bool { return r.Operate }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[lowerQuestion](body)
			if err != nil {
				return nil, err
			}
			return struct{}{}, s.lowerFloor(ctx, by.name, q.GUN, q.Timestamp)
		}},
		pathFloors: {http.MethodPost, func(r Rights) bool { return r.Operate || r.Sign }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			q, err := decode[gunQuestion](body)
			if err != nil {
				return nil, err
			}
			floors, err := s.Floors(ctx, q.GUN)
			return floorsAnswer{floors}, err
		}},
		pathPing: {http.MethodGet, func(Rights) bool { return true }, func(s *Service, ctx context.Context, by caller, body []byte) (any, error) {
			return pingAnswer{by.may.words()}, s.Ping(ctx)
		}},
	}
}

// Handler serves the calls of [Client] to listed identities, with the rights
// that each has. It must be served over TLS that verifies client certificates,
// or over a Unix socket: see [Service.Serve]. The log gets a line a request:
// who asked what, and how it ended.
func (s *Service) Handler() http.Handler {
	table := calls()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		ctx, id := traces.Receive(r.Context(), r.Header)
		w.Header().Set(traces.IDHeader, id)
		who, may, refused := s.rights(r)
		path := r.URL.Path
		if _, known := table[path]; !known {
			path = "unknown"
		}
		parent := ""
		if refused == nil { // nobody else begins what is sent to the collector
			parent = r.Header.Get(traces.ParentHeader)
		}
		ctx, span := s.traces.Begin(ctx, traces.Server, path, parent)
		r = r.WithContext(ctx)
		status := s.answer(w, r, table, who, may, refused)
		span.Text("iechor.identity", who)
		span.Text("iechor.request", id)
		span.Status(status)
		span.End(nil)
		level := slog.LevelInfo
		if status == http.StatusForbidden || status >= 500 {
			level = slog.LevelWarn
		}
		s.counters.observe(path, status, time.Since(begin))
		s.log.Log(r.Context(), level, "request", "identity", who, "remote", r.RemoteAddr, "path", path, "status", status, "duration", time.Since(begin))
	})
}

func (s *Service) answer(w http.ResponseWriter, r *http.Request, table map[string]call, who string, may Rights, refused error) (status int) {
	if refused != nil {
		if who != "" {
			s.sound(r.Context(), AuditEntry{Event: AuditDenied, Identity: who, Detail: refused.Error()})
		}
		message := "this client is " + errNotListed.Error()
		if refused != errNotListed {
			message = "the certificate of this client shows several identities: " + refused.Error()
		}
		return write(w, http.StatusForbidden, wireError{Code: codeDenied, Message: message})
	}
	c, ok := table[r.URL.Path]
	if !ok || r.URL.RawQuery != "" {
		return write(w, http.StatusNotFound, wireError{Code: codeRefused, Message: "the signer has no such call"})
	}
	if r.Method != c.method {
		w.Header().Set("Allow", c.method)
		return write(w, http.StatusMethodNotAllowed, wireError{Code: codeRefused, Message: "the signer has no such call"})
	}
	if !c.may(may) {
		s.sound(r.Context(), AuditEntry{Event: AuditDenied, Identity: who, Detail: "has not the right to " + strings.TrimPrefix(r.URL.Path, "/v1/")})
		return write(w, http.StatusForbidden, wireError{Code: codeDenied, Message: "this client has not the right to do that"})
	}
	ctx, cancel := context.WithTimeout(r.Context(), callLimit)
	defer cancel()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return write(w, http.StatusRequestEntityTooLarge, wireError{Code: codeRefused, Message: "the request is too large"})
	}
	if err != nil {
		return write(w, http.StatusBadRequest, wireError{Code: codeRefused, Message: "the request was cut off"})
	}
	out, err := c.do(s, ctx, caller{who, may}, body)
	if err != nil {
		status, e := wireErrorOf(err)
		if e.Code == codeSlow {
			w.Header().Set("Retry-After", strconv.FormatInt((e.After+999)/1000, 10))
			s.log.WarnContext(ctx, "asked too often", "identity", who, "path", r.URL.Path, "after", time.Duration(e.After)*time.Millisecond)
		}
		if status >= 500 {
			s.log.ErrorContext(ctx, "request not answered", "path", r.URL.Path, "err", err)
		}
		return write(w, status, e)
	}
	return write(w, http.StatusOK, out)
}

func write(w http.ResponseWriter, status int, v any) int {
	raw, err := json.Marshal(v)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // the caller is gone if this fails; what was signed it can ask for again
	return status
}

// ServerTLS returns the TLS configuration to serve with: version 1.3, and
// nothing for clients without a certificate that clients' authorities issued.
func ServerTLS(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool) (*tls.Config, error) {
	if certificate == nil {
		return nil, errors.New("the signer needs a certificate")
	}
	if clients == nil || clients.Equal(x509.NewCertPool()) {
		// crypto/tls would take the system's authorities instead.
		return nil, errors.New("the signer needs the authorities that issue its clients' certificates")
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: certificate,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      clients,
		NextProtos:     []string{"h2", "http/1.1"},
	}, nil
}

// Serve serves on l until ctx ends, then lets running calls finish and returns
// nil. It closes l. Without c, see [ServerTLS], l must be a Unix socket.
func (s *Service) Serve(ctx context.Context, l net.Listener, c *tls.Config) error {
	switch {
	case c == nil && l.Addr().Network() != "unix":
		_ = l.Close() // nothing was accepted on it
		return errors.New("the signer serves without TLS on a Unix socket only")
	case c != nil && (c.ClientAuth != tls.RequireAndVerifyClientCert || c.ClientCAs == nil):
		_ = l.Close()
		return errors.New("the signer serves only clients with verified certificates")
	case c != nil:
		l = tls.NewListener(l, c)
	}
	h := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headLimit,
		ReadTimeout:       callLimit,
		WriteTimeout:      2 * callLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the signer: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	err := h.Shutdown(drain)
	<-done // http.ErrServerClosed
	if err != nil {
		return fmt.Errorf("stop the signer: %w", err)
	}
	return nil
}
