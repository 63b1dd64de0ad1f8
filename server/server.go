// Package server is the trust server's HTTP handler: it verifies what
// publishers upload, adds the snapshot and the timestamp that the signer
// signs, commits all of it or nothing, and serves it.
//
// Make a [Server] with [New], serve it with [HTTPServer], and call
// [Server.Run] beside it, which follows what other instances commit and renews
// what is about to expire. [Check] verifies a whole store.
//
// What the package promises: nothing is committed that a client which holds
// the current state would not accept; the timestamp is served from memory, and
// nothing that is served is older than the last commit that this instance
// made or has heard of; the server holds no private key. What it refuses, it
// refuses with the bodies of Notary 0.7 (notary-protocol 3).
//
// Read server.go (routes), publish.go (the one write path) with recalled.go, then
// files.go with heads.go (reads), renew.go, errors.go, check.go.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// Keys makes and uses the keys that the server signs with. The server never
// sees a private key; a client of the signer is the real one.
type Keys interface {
	// CreateKey returns the pending (never used) key of gun, role and type,
	// and makes one if there is none.
	CreateKey(ctx context.Context, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error)
	// MayBegin returns an [*api.RestoredError] if the signer remembers gun, and
	// would refuse to have it begin from nothing.
	MayBegin(ctx context.Context, gun tuf.GUN) error
	// Holds is false only if the signer works and does not hold the key.
	Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error)
	// Sign returns a signature of the payload. Errors: [*api.FloorError],
	// [*api.RestoredError], tuf.ErrNoKey; others mean unreachable or refused.
	Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error)
	// SignBoth is Sign for a snapshot, and for the timestamp that follows it:
	// both or neither. An error that matches errors.ErrUnsupported says that
	// each has to be asked for by itself.
	SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error)
	Ping(ctx context.Context) error
}

// MaxAge says how long shared caches may keep files. Zero fields mean the
// defaults, 5 minutes and 30 days; negative ones mean not at all.
type MaxAge struct {
	Current    time.Duration // files by role name alone
	Consistent time.Duration // files by hash or version, which never change
}

// Lifetimes of what the server signs. Zero fields mean a year for snapshots
// and 3 days for timestamps.
type Lifetimes struct{ Snapshot, Timestamp time.Duration }

// Limits bound what one request, and the server's memory, may take. Zero
// fields mean the defaults.
type Limits struct {
	Upload api.Limits
	Walk   tuf.Limits

	// Step is the largest step between the versions of two consecutive files
	// of a role that clients sign; the default is 1 (attacks.md F13). A role's
	// first file may have any version.
	Step int64

	// Uploading is how many bytes all uploads that are being read or verified
	// may take together; twice the largest one. Beyond it they are answered
	// with 429.
	Uploading int64

	Uploads int // how many uploads may be under way at once; 100. Others are answered with 429

	CacheBytes int64         // small files kept in memory, beside the timestamps; 4 MiB
	LargeBytes int64         // files above 64 KiB kept in memory; 256 MiB
	Heads      int           // repositories kept in memory, with their timestamps; 50,000
	Publish    time.Duration // one upload, from its last byte to the answer; 50 s, while clients wait for 60
}

// A Config says what a server is made of.
type Config struct {
	Store storage.Store
	Keys  Keys
	// Verified is where Keys notes that its signatures are valid; nil: nowhere.
	Verified *tuf.Verified

	// Forget has the signer forget a repository that was deleted, so that it can
	// begin anew. Nil, as it must be where the signer is apart: that is for an
	// operator, and until then nothing is signed under that name (attacks.md
	// G3).
	Forget func(ctx context.Context, gun tuf.GUN) error

	// Auth decides who may do what. It must be set: NoAuth{} spells out that
	// everybody may do everything.
	Auth Authorizer

	// Prefixes, if any, are the beginnings of the repository names that this
	// server is for. Each ends in a slash.
	Prefixes []string

	MaxAge    MaxAge
	Lifetimes Lifetimes

	// Idle is how long a repository may go unread before it is no longer
	// renewed ahead of time, but at its next read. Zero: 60 days; negative:
	// every repository is renewed always.
	Idle time.Duration

	KeyType tuf.KeyType // of new snapshot and timestamp keys; ecdsa if empty
	Limits  Limits
	Rates   Rates

	// Proxies are the networks of those who are believed about whom they
	// forward (X-Forwarded-For), and which trace a request belongs to.
	Proxies []netip.Prefix
	Traces  *traces.Tracer // nil: none

	// Metrics adds to the page of metrics; nil: nothing.
	Metrics func(*metrics.Page)

	// NoMetrics leaves /metrics out: they are served by [Server.Monitor].
	NoMetrics bool

	Log *slog.Logger     // nil: no log
	Now func() time.Time // nil: time.Now
}

// A Server is the handler of a trust server. It is safe for concurrent use.
type Server struct {
	c           Config
	current     aging // of current files
	consistent  aging // of files that never change
	heads       *heads
	blobs       *cache
	held        held
	recalled    recalled
	apart       atomic.Int64 // until when the signer is not asked for both at once, in Unix seconds
	uploading   atomic.Int64 // bytes of uploads in memory
	limits      limiters
	publishing  locks  // by GUN: this instance's publishers take turns
	renewing    flight // by GUN
	health      health
	draining    atomic.Bool
	metrics     *stock
	counters    counters
	forecasts   forecasts
	unrenewed   backoff
	told        telling
	loggedTrail atomic.Int64 // the last entry of the audit trail that was logged
}

// New makes a Server. It refuses a configuration that lacks a part or that
// contradicts itself; it does not touch the store or the signer.
func New(c Config) (*Server, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("server without a store")
	case c.Keys == nil:
		return nil, errors.New("server without a signer")
	case c.Auth == nil:
		return nil, errors.New("server without an authorizer: say NoAuth to let everybody do everything")
	}
	for _, p := range c.Prefixes {
		if !strings.HasSuffix(p, "/") || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "..") || path.Clean(p)+"/" != p {
			return nil, fmt.Errorf("invalid GUN prefix %s", p)
		}
	}
	switch c.KeyType {
	case "":
		c.KeyType = tuf.ECDSA
	case tuf.ECDSA, tuf.Ed25519:
	default:
		return nil, fmt.Errorf("the signer does not make keys of type %q", c.KeyType)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Verified == nil {
		c.Verified = new(tuf.Verified)
	}
	orDefault(&c.MaxAge.Current, 5*time.Minute)
	orDefault(&c.MaxAge.Consistent, 30*24*time.Hour)
	orDefault(&c.Lifetimes.Snapshot, 365*24*time.Hour)
	orDefault(&c.Lifetimes.Timestamp, 3*24*time.Hour)
	orDefault(&c.Idle, 60*24*time.Hour)
	orDefault(&c.Limits.Step, 1)
	orDefault(&c.Limits.CacheBytes, 4<<20)
	orDefault(&c.Limits.LargeBytes, 256<<20)
	orDefault(&c.Limits.Heads, 50_000)
	orDefault(&c.Limits.Publish, 50*time.Second)
	if c.Lifetimes.Snapshot < time.Minute || c.Lifetimes.Timestamp < time.Minute {
		return nil, errors.New("snapshots and timestamps must live for a minute at least")
	}
	c.Limits.Upload = c.Limits.Upload.WithDefaults()
	orDefault(&c.Limits.Uploading, 2*c.Limits.Upload.Request)
	orDefault(&c.Limits.Uploads, 100)
	if c.Limits.Uploads < 0 || c.Rates.Requests < 0 || c.Rates.Changes < 0 || c.Rates.RepositoryChanges < 0 {
		return nil, errors.New("limits cannot be negative")
	}
	c.Log = slog.New(traces.Handler(c.Log.Handler()))
	s := &Server{
		c:          c,
		current:    newAging(c.MaxAge.Current, ", must-revalidate"),
		consistent: newAging(c.MaxAge.Consistent, ""),
		blobs:      newCache(c.Limits.CacheBytes, c.Limits.LargeBytes),
		metrics:    new(stock),
		counters:   newCounters(),
	}
	s.limits = newLimiters(c.Rates, c.Limits.Uploads, s.counters.limited)
	s.heads = newHeads(s)
	return s, nil
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// options are how the server verifies: nothing is pinned, because the root's
// certificates say for which repository they are, and the stored root is the
// trusted one.
func (s *Server) options(now time.Time) tuf.Options {
	return tuf.Options{Pin: tuf.FirstUse{}, Now: now, Limits: s.c.Limits.Walk, Verified: s.c.Verified}
}

// readLimit is how long a reader waits for a database that is silent. It ends
// what waits there, too.
const readLimit = 20 * time.Second

// ServeHTTP answers one request. The order is: parse, prefix, authorisation,
// work.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, id := traces.Receive(r.Context(), r.Header)
	w.Header()[traces.IDHeader] = []string{id}
	if !slices.Contains(methods[:], r.Method) {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	escaped := r.URL.EscapedPath()
	route, err := api.ParsePath(escaped)
	if errors.Is(err, api.ErrNotClean) {
		to := api.Clean(escaped)
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	op := operationOf(r.Method, route.Kind)
	if op == opMetrics && s.c.NoMetrics {
		op = opNothing
	}
	now := s.c.Now()
	ctx, span := s.begin(ctx, r, route, op)
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		limited, cancel := context.WithTimeout(ctx, readLimit)
		defer cancel()
		ctx = limited
	}
	r = r.WithContext(ctx)
	sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	if err := s.serve(sw, r, route, op, now); err != nil {
		s.refuse(sw, r, route.GUN, err)
	}
	span.Status(sw.status)
	span.End(nil)
	took := s.c.Now().Sub(now)
	s.observe(op, r.Method, sw.status, took)
	if s.c.Log.Enabled(ctx, slog.LevelDebug) {
		s.c.Log.DebugContext(ctx, "request", "operation", op.String(), "method", r.Method, "gun", route.GUN, "status", sw.status, "duration", took, "remote", r.RemoteAddr)
	}
}

// begin begins the span of a request. Only proxies are believed about which
// trace it belongs to: others could have everything of theirs sent, or spoil
// the traces of others.
func (s *Server) begin(ctx context.Context, r *http.Request, route api.Route, op operation) (context.Context, *traces.Span) {
	if s.c.Traces == nil {
		return ctx, nil
	}
	parent := ""
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && among(at.Addr(), s.c.Proxies) {
		parent = r.Header.Get(traces.ParentHeader)
	}
	ctx, span := s.c.Traces.Begin(ctx, traces.Server, op.String(), parent)
	span.Text("http.request.method", r.Method)
	span.Text("iechor.request", traces.ID(ctx))
	if route.GUN != "" {
		span.Text("iechor.gun", string(route.GUN))
	}
	return ctx, span
}

// serve answers the request, which came at now, or returns why it is refused;
// then nothing has been written.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, route api.Route, op operation, now time.Time) error {
	if route.GUN != "" && !s.ours(route.GUN) {
		if op == opUpload {
			return api.NewError(api.InvalidGUN, fmt.Sprintf("Require GUNs with prefix: %v", s.c.Prefixes))
		}
		return api.NewError(api.MetadataNotFound, nil)
	}
	var by Grant
	if a, open := op.access(route.GUN); !open {
		granted, err := s.c.Auth.Authorize(r, a)
		// Who is refused is counted as well, by address.
		if slow := s.limits.take(op, granted.Who, func() netip.Prefix { return client(r, s.c.Proxies) }, route.GUN, now); slow != nil {
			return slow
		}
		if err != nil {
			return err
		}
		by = granted
	}
	if op.changes() {
		if err := s.writable(r.Context(), route.GUN); err != nil {
			return err
		}
	}
	switch op {
	case opCurrent:
		return s.serveCurrent(w, r, route, by, now)
	case opByHash:
		return s.serveByHash(w, r, route, by, now)
	case opByVersion:
		return s.serveByVersion(w, r, route, by)
	case opNever:
		return api.NewError(api.MetadataNotFound, api.Empty{})
	case opUpload:
		return s.serveUpload(w, r, route.GUN, by)
	case opDelete:
		return s.serveDelete(w, r, route.GUN, by)
	case opKey:
		return s.serveKey(w, r, route)
	case opRotate:
		return s.serveRotate(w, r, route, by)
	case opChanges, opAllChanges:
		return s.serveChanges(w, r, route.GUN)
	case opPing:
		return writeText(w, []byte("{}"))
	case opHealth:
		s.serveHealth(w, r)
		return nil
	case opLive:
		answerFaults(w, nil)
		return nil
	case opReady:
		s.serveReady(w, r)
		return nil
	case opMetrics:
		s.serveMetrics(w, s.forecast(r.Context()))
		return nil
	}
	return api.NewError(api.MetadataNotFound, nil)
}

// writable refuses what would change a copy of another service's repository.
func (s *Server) writable(ctx context.Context, gun tuf.GUN) error {
	var mirror string
	if h := s.heads.known(gun); h != nil {
		mirror = h.mirror
	} else {
		state, err := s.c.Store.Current(ctx, gun)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read state of %s: %w", gun, err)
		}
		mirror = state.Mirror
	}
	if mirror != "" {
		return api.NewError(api.ReadOnly, "it belongs to "+mirror)
	}
	return nil
}

func (s *Server) ours(gun tuf.GUN) bool {
	return len(s.c.Prefixes) == 0 || slices.ContainsFunc(s.c.Prefixes, func(p string) bool { return strings.HasPrefix(string(gun), p) })
}

// An operation is what a request does.
type operation int

const (
	opUpload operation = iota
	opCurrent
	opByHash
	opByVersion
	opNever
	opKey
	opRotate
	opDelete
	opChanges
	opAllChanges
	opPing
	opHealth
	opMetrics
	opLive
	opReady
	opNothing
	operations // how many there are
)

// String is the label in metrics.
func (op operation) String() string {
	return [operations]string{
		"UpdateTUF", "GetRole", "GetRoleByHash", "GetRoleByVersion", "GetRoleNever", "GetKey", "RotateKey", "DeleteTUF",
		"Changefeed", "ChangefeedAll", "Ping", "Health", "Metrics", "Live", "Ready", "NotFound",
	}[op]
}

func operationOf(method string, k api.Kind) operation {
	switch method {
	case http.MethodGet:
		switch k {
		case api.FileCurrent:
			return opCurrent
		case api.FileByHash:
			return opByHash
		case api.FileByVersion:
			return opByVersion
		case api.FileNever:
			return opNever
		case api.Key:
			return opKey
		case api.Changefeed:
			return opChanges
		case api.AllChanges:
			return opAllChanges
		case api.Ping:
			return opPing
		case api.Health:
			return opHealth
		case api.Metrics:
			return opMetrics
		case api.Live:
			return opLive
		case api.Ready:
			return opReady
		}
	case http.MethodPost:
		switch k {
		case api.Repository:
			return opUpload
		case api.Key:
			return opRotate
		}
	case http.MethodDelete:
		if k == api.Repository {
			return opDelete
		}
	}
	return opNothing
}

// access is what a request must be allowed to do; open means that everybody
// may (notary-protocol 3).
func (op operation) access(gun tuf.GUN) (a Access, open bool) {
	switch op {
	case opHealth, opMetrics, opLive, opReady:
		return Access{}, true
	case opUpload, opKey:
		return Access{Type: "repository", Name: string(gun), Actions: pushPull}, false
	case opCurrent, opByHash, opByVersion, opNever, opChanges:
		return Access{Type: "repository", Name: string(gun), Actions: pull}, false
	case opDelete, opRotate:
		return Access{Type: "repository", Name: string(gun), Actions: everything}, false
	}
	return Access{Type: "registry", Name: "catalog", Actions: everything}, false
}

var (
	pushPull   = []string{"push", "pull"}
	pull       = []string{"pull"}
	everything = []string{"*"}
)

// writeText answers 200 with a body in the content type of the stock server.
func writeText(w http.ResponseWriter, body []byte) error {
	h := w.Header()
	h["Content-Type"] = textPlain
	h.Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body) // the peer is gone if this fails
	return nil
}

var textPlain = []string{"text/plain; charset=utf-8"}

// HTTPServer returns a server for h with limits that a slow or hostile peer
// cannot stretch (attacks.md L6): 10 seconds for the header, which has at most
// 64 KiB, 2 minutes for the whole request, 2 minutes for the answer. The
// caller sets Addr and TLSConfig and runs it.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute,
		WriteTimeout:      4 * time.Minute, // counts from the end of the header: an upload and its answer
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	if log != nil {
		s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	}
	return s
}
