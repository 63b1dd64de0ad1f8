// Package signer is the isolated signing service: it holds the keys that sign
// snapshots and timestamps, and judges what it is asked to sign. The trust
// server never sees a private key, and a trust server that was broken into
// cannot have signed what the rules below exclude.
//
// [OpenTable] opens the home of keys and ledger, [New] makes the service, and
// [Service.Serve] offers it over mutual TLS. [Dial] returns a [Client] with
// the same methods as the service in process.
//
// What is signed. A payload must be a snapshot or timestamp in canonical form
// without anything that is not understood, of the repository and role that
// the key was made for, alive, and within a bounded life. A timestamp must
// name, by its checksums, a snapshot that comes with the request.
//
// Which versions. A request brings the published state that it builds on, the
// base: the current timestamp and the snapshot which that names. The ledger
// remembers for each repository what was signed and what is known to have been
// published (confirmed), for both roles, and the highest snapshot that a
// timestamp named. From this follow the rules, all of them in judge.go:
//
//   - The same payload gets the same signature again, so a lost answer is
//     asked for again, and a crash after the ledger was written does no harm.
//   - Otherwise the version must be above all signed ones and above the base's.
//     Gaps are allowed: a signature that was lost, or whose commit was lost to
//     another server, burns its version and nothing else. The refusal is an
//     *[api.FloorError] and says what to sign above.
//   - A base proves itself by the signature of a timestamp key that was made
//     here for the repository, be it one that was rotated out since: floors
//     belong to the repository, not to the key. A proven base confirms its
//     versions; a proven base is also enough to mend a ledger that is itself
//     older than the world, after a restored backup of this table.
//   - A base below the confirmed versions, or none, means that the server lost
//     its memory or is made to go back: *[api.RestoredError], until an operator
//     under another identity lowers the floor ([Service.LowerFloor]). What was
//     signed stays signed; only what was confirmed is lowered.
//   - A base that no key made here has signed is accepted while nothing is
//     confirmed: a repository that comes from another signer. It proves nothing
//     and can only raise what is required.
//   - The snapshot that a timestamp names is at least as new as the base's and
//     as any named before, so old content does not get a new date (attacks.md
//     F17). Of the base's own version only the same content will do. This holds
//     for snapshots that clients sign just as well, whose signature cannot be
//     judged here. One that was signed here for another repository is refused, unless it was
//     signed for this one as well.
//   - Deleting a repository starts a new incarnation, whose ledger begins at
//     nothing: version 1 returns, under keys that never signed before. Keys of
//     an earlier incarnation keep their own floors; they are not handed out,
//     and not held in the sense of [Service.Holds], for what comes after.
//     They can still sign above those floors: the server's identity must not
//     be able to destroy a key that a published root names (G3).
//
// How keys are kept. Private halves are in the table encrypted, under a [Local]
// key-encryption key, or under a data key that a [KeyEncryption] wraps, such as
// a [Vault]. [Table.Rewrap] moves them to another one while services run. Or they
// are made on a token, and stay there: see [TokenKeys].
//
// What is written down. Every signature and everything else that changes what
// can be signed stands in an audit log, durably before the signature leaves.
// Services that share a table share the log. [ReadAudit] and [VerifyAudit] take
// the database and no key.
//
// What the rules do not reach: the targets files. A server that signs
// snapshots through this signer can have a new snapshot name an old targets
// file; consumers that have seen the newer one refuse it. Nor a repository of
// which only the first publication was ever signed: whether that was published
// is not known here, so another first one may follow, above its versions.
//
// Who may do what. [Rights] keep what a server needs apart from what ends or
// lowers what the ledger demands of it: those are an operator's, who is another
// identity.
//
// Read claim.go for what a request must be in itself, judge.go for the rules,
// batch.go for how what comes at once is signed together, table.go and
// ledger.go for what is kept, kek.go, datakey.go, rewrap.go and
// tokenkeys.go for how, audit.go and auditread.go for the log, rights.go,
// handler.go, limits.go and client.go for the wire, monitor.go and metrics.go
// for who watches.
package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// Limits bound what is signed and made. Zero fields mean the defaults.
type Limits struct {
	Timestamp  time.Duration // how far ahead a timestamp may expire; 14 days
	Snapshot   time.Duration // likewise for snapshots; 400 days
	KeysPerDay int           // keys made for one role of one repository within 24 hours; 100
}

func (l Limits) of(role tuf.RoleName) time.Duration {
	if role == tuf.RoleTimestamp {
		return l.Timestamp
	}
	return l.Snapshot
}

// Config is what a Service needs.
type Config struct {
	Table  *Table
	Limits Limits
	Rates  Rates
	// Identities lists who may call over the network, and what they may do.
	// Everyone else is refused. An identity is "sha256:" and the lowercase hex
	// SHA-256 of the client certificate's SubjectPublicKeyInfo, or a DNS name
	// or URI of the certificate, or, only if it has neither, its common name;
	// and "unix" for whoever can open the Unix socket that is served on.
	Identities map[string]Rights
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: no log
	// Metrics adds to the page of metrics; nil: nothing.
	Metrics func(*metrics.Page)
	Traces  *traces.Tracer // nil: none
}

// inProcess is who calls a Service's own methods.
const inProcess = "in-process"

// A Service signs. Its methods trust their caller; [Service.Handler] is for
// callers that must show who they are. It is safe for concurrent use.
type Service struct {
	table      *Table
	limits     Limits
	meters     meters
	identities map[string]Rights
	now        func() time.Time
	log        *slog.Logger
	draining   atomic.Bool
	ready      readiness
	counters   counters
	metrics    func(*metrics.Page) // nil: nothing to add
	traces     *traces.Tracer      // nil: none

	testOnlySigned func() error // runs between the ledger and the answer
}

// New makes a Service.
func New(c Config) (*Service, error) {
	if c.Table == nil {
		return nil, errors.New("the signer needs a key table")
	}
	if c.Limits.Timestamp < 0 || c.Limits.Snapshot < 0 || c.Limits.KeysPerDay < 0 {
		return nil, errors.New("limits of the signer cannot be negative")
	}
	if c.Rates.Signatures < 0 || c.Rates.RepositorySignatures < 0 || c.Rates.Keys < 0 || c.Rates.RepositoryKeys < 0 {
		return nil, errors.New("rates of the signer cannot be negative")
	}
	s := &Service{table: c.Table, limits: c.Limits, meters: newMeters(c.Rates), identities: map[string]Rights{}, now: c.Now, log: c.Log,
		counters: newCounters(), metrics: c.Metrics, traces: c.Traces}
	if s.limits.Timestamp == 0 {
		s.limits.Timestamp = 14 * 24 * time.Hour
	}
	if s.limits.Snapshot == 0 {
		s.limits.Snapshot = 400 * 24 * time.Hour
	}
	if s.limits.KeysPerDay == 0 {
		s.limits.KeysPerDay = 100
	}
	for name, rights := range c.Identities {
		if err := checkIdentity(name); err != nil {
			return nil, err
		}
		if err := rights.Check(); err != nil {
			return nil, fmt.Errorf("identity %s: %w", name, err)
		}
		s.identities[name] = rights
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = slog.New(traces.Handler(s.log.Handler()))
	return s, nil
}

// ErrRefused matches every refusal that no retry and no other version helps
// against: the request breaks a rule. It arrives as a *[Refusal].
var ErrRefused = errors.New("refused by the signer")

// A Refusal says which rule a request breaks. It matches [ErrRefused], and
// [api.ErrClock] where the reason may be a wrong clock.
type Refusal struct {
	Reason string
	Clock  bool
}

func (e *Refusal) Error() string   { return "refused by the signer: " + e.Reason }
func (e *Refusal) Is(t error) bool { return t == ErrRefused || e.Clock && t == api.ErrClock }

func refuse(format string, a ...any) error { return &Refusal{Reason: fmt.Sprintf(format, a...)} }

// CreateKey returns the public half of the pending key of the given type for a
// role of a repository, making one if there is none: asked twice, also of two
// instances at once, it answers the same. The first signature ends that: the
// key is then in use. The error matches [ErrRefused] for roles and types that
// are not made here, and when too many keys were made within a day.
func (s *Service) CreateKey(ctx context.Context, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	return s.createKey(ctx, inProcess, t, role, gun)
}

func (s *Service) createKey(ctx context.Context, who string, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	if err := checkName(gun, role); err != nil {
		return tuf.PublicKey{}, err
	}
	key, made, err := s.table.create(ctx, who, t, role, gun, s.limits.KeysPerDay, s.now())
	if err != nil {
		return tuf.PublicKey{}, fmt.Errorf("create %s key of %s: %w", role, gun, err)
	}
	if made {
		s.counters.made.Add()
		s.log.InfoContext(ctx, "key created", "identity", who, "gun", gun, "role", role, "key", key.CanonicalID())
	}
	return key, nil
}

// MayBegin returns nil if the rules allow gun to be published where the server
// has nothing of it, and else the *[api.RestoredError] with which Sign would
// refuse that: the repository was deleted, or lost, and no operator has had it
// forgotten. It saves a publisher from making what could not be signed.
func (s *Service) MayBegin(ctx context.Context, gun tuf.GUN) error {
	if !gun.Valid() {
		return refuse("%q is not the name of a repository", gun)
	}
	if err := s.table.mayBegin(ctx, gun); err != nil {
		return fmt.Errorf("begin %s: %w", gun, err)
	}
	return nil
}

// Holds reports whether key id was made here for this role and repository as
// it is now. Keys of a repository that was deleted since do not count. False
// with a nil error is certain; an error says that the table could not be read.
func (s *Service) Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	if checkName(gun, role) != nil || !id.Valid() {
		return false, nil
	}
	held, err := s.table.holds(ctx, gun, role, id)
	if err != nil {
		return false, fmt.Errorf("look for %s key %s: %w", role, id.Short(), err)
	}
	return held, nil
}

// Sign signs the payload of r, if the rules in the package comment allow it.
// When it returns the ledger is durable. Beside errors of the database it
// returns *[api.FloorError], *[api.RestoredError], a *[Refusal], or one that
// matches tuf.ErrNoKey when the key was not made here for that repository and
// role.
func (s *Service) Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	a, err := s.sign(ctx, inProcess, r, nil)
	return a.sig, err
}

// SignBoth signs the snapshot that r asks for, and the timestamp over it that
// next describes, as two calls of Sign would; but both or neither, and at the
// price of one. The error matches [errors.ErrUnsupported] where that is not
// possible, which is where a key is on a token: then nothing was signed.
func (s *Service) SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error) {
	a, err := s.sign(ctx, inProcess, r, &next)
	if err != nil {
		return snapshot, timestamp, err
	}
	return a.sig, a.next.sig, nil
}

// sign signs what r asks for and, if next is not nil, what that describes.
func (s *Service) sign(ctx context.Context, who string, r api.SignRequest, next *api.Successor) (signed, error) {
	asked := r // what an error is about
	fail := func(err error) (signed, error) {
		s.alarm(ctx, who, asked, err)
		return signed{}, fmt.Errorf("sign %s of %s: %w", asked.Role, r.GUN, err)
	}
	now := s.now()
	c, err := read(r, s.limits, now)
	if err != nil {
		return fail(err)
	}
	var then func([]byte) (*claim, error)
	if next != nil {
		if r.Role != tuf.RoleSnapshot {
			return fail(refuse("a %s is not followed by a timestamp", r.Role))
		}
		then = func(snapshot []byte) (*claim, error) {
			f := c.follow(*next, snapshot)
			asked = f.SignRequest
			return f, f.readPayload(s.limits, now)
		}
	}
	a, err := s.table.sign(ctx, who, c, then, now)
	var restored *api.RestoredError
	if errors.As(err, &restored) {
		// Returned as well: the caller cannot do anything about it, people can.
		s.log.WarnContext(ctx, "published state has gone back", "gun", r.GUN, "role", restored.Role, "confirmed", restored.Confirmed, "base", restored.Base)
	}
	if err != nil {
		return fail(err)
	}
	if s.testOnlySigned != nil {
		if err := s.testOnlySigned(); err != nil {
			return fail(err)
		}
	}
	s.counters.signed.Add(string(r.Role))
	s.log.InfoContext(ctx, "signed", "identity", who, "gun", r.GUN, "role", r.Role, "version", c.payload.Version, "key", r.Key, "again", a.again)
	if next != nil {
		s.counters.signed.Add(string(tuf.RoleTimestamp))
		s.log.InfoContext(ctx, "signed", "identity", who, "gun", r.GUN, "role", tuf.RoleTimestamp, "version", next.Version, "key", next.Key, "again", a.next.again)
	}
	return a, nil
}

// Forget is called after a repository was deleted: its pending keys are
// dropped, and keys that signed are never handed out again, nor held, for a
// repository of the same name. To call it again does no harm until a key was
// created for the new one.
func (s *Service) Forget(ctx context.Context, gun tuf.GUN) error {
	return s.forget(ctx, inProcess, gun)
}

func (s *Service) forget(ctx context.Context, who string, gun tuf.GUN) error {
	if !gun.Valid() {
		return refuse("%q is not the name of a repository", gun)
	}
	if err := s.table.forget(ctx, who, gun, s.now()); err != nil {
		return fmt.Errorf("forget %s: %w", gun, err)
	}
	s.log.InfoContext(ctx, "repository forgotten", "identity", who, "gun", gun)
	return nil
}

// LowerFloor is the operator's answer to an *[api.RestoredError]: from now on
// a published timestamp of the given version, 0 for none at all, may be built
// on. Versions that were signed are not signed a second time all the same.
func (s *Service) LowerFloor(ctx context.Context, gun tuf.GUN, timestamp int64) error {
	return s.lowerFloor(ctx, inProcess, gun, timestamp)
}

func (s *Service) lowerFloor(ctx context.Context, who string, gun tuf.GUN, timestamp int64) error {
	if !gun.Valid() {
		return refuse("%q is not the name of a repository", gun)
	}
	if timestamp < 0 {
		return refuse("%d is not a version", timestamp)
	}
	if err := s.table.lower(ctx, who, gun, timestamp, s.now()); err != nil {
		return fmt.Errorf("lower the floor of %s: %w", gun, err)
	}
	s.log.WarnContext(ctx, "floor lowered by an operator", "identity", who, "gun", gun, "timestamp", timestamp)
	return nil
}

// Floors returns what the ledger remembers of gun, oldest incarnation first.
func (s *Service) Floors(ctx context.Context, gun tuf.GUN) ([]Floor, error) {
	if !gun.Valid() {
		return nil, refuse("%q is not the name of a repository", gun)
	}
	return s.table.Floors(ctx, gun)
}

// Ping reports by a nil error that the service can work.
func (s *Service) Ping(ctx context.Context) error { return s.table.Ping(ctx) }

// May returns what the caller may do: in process, everything.
func (s *Service) May(ctx context.Context) (Rights, error) {
	return Rights{Sign: true, Create: true, Forget: true, Operate: true}, s.Ping(ctx)
}
