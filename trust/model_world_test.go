package trust_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// A world is everything of one run: two trust servers on one store, a signer,
// the machines of publishers and consumers, and whatever lies between them.
// Nothing in it happens by itself: there is one thread, and every choice comes
// from the seed.
type world struct {
	t      testing.TB
	dir    string
	now    time.Time // true time, which never goes back
	oracle *oracle

	store     *storage.SQL
	stores    int // files that were made for store
	writes    int // into it
	backup    *backup
	signer    *signingService
	instances []*instance
	machines  []*machine
	owners    *vault // the keys of the owners, on both of their machines
	others    *vault // the key of a collaborator
	thief     *thief

	delayed []letter  // requests that are still under way
	calm    bool      // nothing fails
	via     *instance // uploads go to it, although it is answering a reader
	depth   int       // of steps within steps
	about   tuf.GUN   // what the outermost of them is about
	step    int
	value   int // the last value that was given to a tag
	trace   []string
	failure violation
}

// A violation is what must not be. Two of one kind have the same cause, as far
// as one can tell.
type violation struct{ kind, what string }

func newWorld(t testing.TB, dir string) *world {
	w := &world{t: t, dir: dir, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), calm: true}
	w.oracle = newOracle(w)
	w.owners, w.others = newVault(w), newVault(w)
	w.thief = &thief{w: w, has: map[tuf.RoleName]tuf.Signer{}}
	w.openStore(filepath.Join(dir, "store0.db"))
	w.signer = &signingService{w: w, made: map[tuf.CanonicalID]int{}, copies: map[tuf.CanonicalID]tuf.Signer{}, forgotten: map[tuf.GUN]int{}}
	w.signer.restart()
	for i := range 2 {
		n := &instance{w: w, id: i}
		n.restart()
		w.instances = append(w.instances, n)
	}
	for _, name := range []string{"ann", "ann2", "bob", "carl", "dora", "emil"} {
		m := &machine{w: w, name: name, pinned: name == "dora" || name == "emil"}
		switch name {
		case "ann", "ann2":
			m.keys = w.owners
		case "bob":
			m.keys = w.others
		}
		m.renew()
		w.machines = append(w.machines, m)
	}
	return w
}

func (w *world) close() {
	w.signer.db.Close()
	w.store.Database().Close()
}

// fail notes the first violation.
func (w *world) fail(format string, a ...any) {
	if w.failure.kind == "" {
		w.failure = violation{format, fmt.Sprintf("step %d: %s", w.step, fmt.Sprintf(format, a...))}
	}
}

func (w *world) note(format string, a ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%4d %*s%s", w.step, 2*w.depth, "", fmt.Sprintf(format, a...)))
}

// must is for what no run may meet: a broken world, not a broken product.
func (w *world) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("step %d: %v", w.step, err))
	}
}

func (w *world) open(path string) *database.DB {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(MEMORY)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate")
	w.must(err)
	return database.New(db, database.SQLite)
}

func (w *world) openStore(path string) {
	store, err := storage.Open(context.Background(), w.open(path))
	w.must(err)
	w.store = store
	w.stores++
	w.writes++
}

// A backup is a copy of the store, with what it published.
type backup struct {
	path   string
	states map[tuf.GUN]*published // nil: nothing was published
}

// save makes a backup.
func (w *world) save() {
	w.oracle.look()
	b := &backup{path: filepath.Join(w.dir, fmt.Sprintf("backup%d.db", w.step)), states: map[tuf.GUN]*published{}}
	_ = os.Remove(b.path) // of an earlier step of that number, in a run within a run
	copyFile(w, filepath.Join(w.dir, fmt.Sprintf("store%d.db", w.stores-1)), b.path)
	for _, gun := range guns {
		b.states[gun] = w.oracle.repos[gun].now
	}
	w.backup = b
}

func copyFile(w *world, from, to string) {
	raw, err := os.ReadFile(from)
	w.must(err)
	w.must(os.WriteFile(to, raw, 0o600))
}

// restore puts the backup in the store's place, as an operator does: nothing
// runs meanwhile, and the signer is told that it is meant so.
func (w *world) restore() {
	w.must(w.store.Database().Close())
	path := filepath.Join(w.dir, fmt.Sprintf("store%d.db", w.stores))
	copyFile(w, w.backup.path, path)
	w.openStore(path)
	for _, n := range w.instances {
		n.restart()
	}
	for _, gun := range guns {
		if state := w.backup.states[gun]; state != nil {
			// A refusal says that there is nothing to lower.
			to := state.docs[tuf.RoleTimestamp].Version
			if err := w.signer.service.LowerFloor(context.Background(), gun, to); err != nil && !errors.Is(err, signer.ErrRefused) {
				w.must(err)
			}
			w.oracle.lowered(gun, to)
		}
	}
}

// A fault says where in a step something goes wrong.
type fault struct {
	at     int // the call that is hit, counted from 1; 0: none
	kind   string
	rnd    *mathrand.Rand // for a step within the step
	commit bool           // of a server: the next commit is hit
}

// An instance is one trust server.
type instance struct {
	*server.Server
	w     *world
	id    int
	skew  time.Duration
	store *gate

	fault fault
	calls int
	dead  bool // it has crashed, and does nothing until it is restarted
	busy  int  // requests under way

	followed  time.Time         // by its own clock, when it last followed the others
	excused   bool              // the store was away when it last tried
	meanwhile func()            // happens once, after it has read what is current
	knows     map[tuf.GUN]int64 // the commit of each repository that it must know of
}

func (n *instance) clock() time.Time { return n.w.now.Add(n.skew) }

// restart is a new process: nothing is in its memory.
func (n *instance) restart() {
	n.dead, n.fault, n.calls, n.followed, n.excused, n.knows, n.meanwhile = false, fault{}, 0, time.Time{}, false, map[tuf.GUN]int64{}, nil
	n.store = &gate{Store: n.w.store, n: n}
	var err error
	n.Server, err = server.New(server.Config{
		Store: n.store, Keys: gateOfKeys{n}, Auth: server.NoAuth{}, Now: n.clock, Idle: -1, Forget: gateOfKeys{n}.Forget,
		Lifetimes: server.Lifetimes{Snapshot: 8 * day},
	})
	n.w.must(err)
}

var (
	errDead   = errors.New("the process has died")
	errBroken = errors.New("injected")
)

// call is one thing that an instance does to the store or the signer: work,
// with what the step's fault makes of it.
func call[T any](n *instance, work func() (T, error)) (T, error) {
	var none T
	if n.dead {
		return none, errDead
	}
	n.calls++
	kind := n.fault.kind
	if n.fault.at != n.calls || n.w.calm {
		return work()
	}
	switch kind {
	case "crash before":
		n.dead = true
		return none, errDead
	case "fail before":
		return none, errBroken
	case "away":
		return none, fmt.Errorf("%w: %w", storage.ErrUnavailable, errBroken)
	case "within":
		n.w.within(n.fault.rnd)
	}
	v, err := work()
	switch {
	case err != nil:
	case kind == "crash after":
		n.dead = true
		return none, errDead
	case kind == "fail after":
		return none, errBroken
	}
	return v, err
}

var serverFaults = []string{"crash before", "crash after", "fail before", "fail after", "away", "within", "within", "within"}

// A gate is the way to the store. Blobs are not counted: in which order they
// are read is not determined.
type gate struct {
	storage.Store
	n *instance
}

func (g *gate) Current(ctx context.Context, gun tuf.GUN) (*storage.State, error) {
	state, err := call(g.n, func() (*storage.State, error) { return g.Store.Current(ctx, gun) })
	if do := g.n.meanwhile; do != nil {
		g.n.meanwhile = nil
		do()
	}
	return state, err
}

func (g *gate) Commit(ctx context.Context, gun tuf.GUN, base *storage.State, files []storage.NewFile, drop []tuf.RoleName, now time.Time, by *storage.Actor) (*storage.State, error) {
	if g.n.fault.commit {
		g.n.fault.at, g.n.fault.commit = g.n.calls+1, false
	}
	state, err := call(g.n, func() (*storage.State, error) {
		g.n.w.writes++
		state, err := g.Store.Commit(ctx, gun, base, files, drop, now, by)
		if err == nil {
			g.n.w.oracle.store(gun)
		}
		return state, err
	})
	if err == nil {
		g.n.knows[gun] = state.Seq
	}
	return state, err
}

func (g *gate) Delete(ctx context.Context, base *storage.State, now time.Time, by storage.Actor) error {
	_, err := call(g.n, func() (struct{}, error) {
		g.n.w.writes++
		return struct{}{}, g.Store.Delete(ctx, base, now, by)
	})
	if err == nil {
		g.n.knows[base.GUN] = base.Seq + 1
	}
	return err
}

func (g *gate) Record(ctx context.Context, r storage.AuditRecord) error {
	_, err := call(g.n, func() (struct{}, error) { return struct{}{}, g.Store.Record(ctx, r) })
	return err
}

func (g *gate) Heads(ctx context.Context, after int64, limit int) ([]storage.Head, error) {
	return call(g.n, func() ([]storage.Head, error) { return g.Store.Heads(ctx, after, limit) })
}

func (g *gate) Blob(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sum [32]byte) ([]byte, time.Time, error) {
	if g.n.dead {
		return nil, time.Time{}, errDead
	}
	return g.Store.Blob(ctx, gun, role, sum)
}

// A gateOfKeys is the way to the signer.
type gateOfKeys struct{ n *instance }

func (g gateOfKeys) CreateKey(ctx context.Context, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	return call(g.n, func() (tuf.PublicKey, error) { return g.n.w.signer.create(ctx, t, role, gun) })
}

func (g gateOfKeys) Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	return call(g.n, func() (bool, error) {
		if err := g.n.w.signer.reachable(); err != nil {
			return false, err
		}
		return g.n.w.signer.service.Holds(ctx, gun, role, id)
	})
}

func (g gateOfKeys) MayBegin(ctx context.Context, gun tuf.GUN) error {
	_, err := call(g.n, func() (struct{}, error) {
		if err := g.n.w.signer.reachable(); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, g.n.w.signer.service.MayBegin(ctx, gun)
	})
	return err
}

func (g gateOfKeys) Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	return call(g.n, func() (tuf.Signature, error) { return g.n.w.signer.sign(ctx, r) })
}

func (g gateOfKeys) SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error) {
	both, err := call(g.n, func() ([2]tuf.Signature, error) { return g.n.w.signer.signBoth(ctx, r, next) })
	return both[0], both[1], err
}

func (g gateOfKeys) Forget(ctx context.Context, gun tuf.GUN) error {
	_, err := call(g.n, func() (struct{}, error) { return struct{}{}, g.n.w.signer.forget(ctx, gun) })
	return err
}

func (g gateOfKeys) Ping(ctx context.Context) error { return g.n.w.signer.reachable() }

// A signingService is the signer, with a witness of what it signs.
type signingService struct {
	w         *world
	db        *database.DB
	table     *signer.Table
	service   *signer.Service
	skew      time.Duration
	away      bool
	crash     int // the signature at which it dies, counted from 1; 0: never
	after     bool
	made      map[tuf.CanonicalID]int // the incarnation in which a key was made
	forgotten map[tuf.GUN]int
	asked     int                            // for keys
	copies    map[tuf.CanonicalID]tuf.Signer // of four keys in five, which a thief has, too
}

func (v *signingService) clock() time.Time { return v.w.now.Add(v.skew) }

// restart is a new process on the same database.
func (v *signingService) restart() {
	if v.db == nil {
		v.db = v.w.open(filepath.Join(v.w.dir, "signer.db"))
	}
	sum := sha256.Sum256([]byte("key-encryption key"))
	local, err := signer.NewLocal(sum[:])
	v.w.must(err)
	kek, err := signer.NewKEK(signer.KEKConfig{Current: local})
	v.w.must(err)
	v.table, err = signer.OpenTable(context.Background(), v.db, kek)
	v.w.must(err)
	v.service, err = signer.New(signer.Config{Table: v.table, Now: v.clock, Limits: signer.Limits{KeysPerDay: 1000}})
	v.w.must(err)
	v.crash = 0
}

func (v *signingService) reachable() error {
	if v.away && !v.w.calm {
		return api.ErrUnavailable
	}
	return nil
}

func (v *signingService) create(ctx context.Context, t tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	if err := v.reachable(); err != nil {
		return tuf.PublicKey{}, err
	}
	if v.asked++; v.asked%5 != 0 {
		v.bring(ctx, role, gun)
	}
	key, err := v.service.CreateKey(ctx, t, role, gun)
	if err == nil {
		v.w.oracle.know(key)
		if _, ok := v.made[key.CanonicalID()]; !ok {
			v.made[key.CanonicalID()] = v.forgotten[gun]
		}
	}
	return key, err
}

// bring imports a key that was made elsewhere, unless one is pending: the next
// one that is asked for.
func (v *signingService) bring(ctx context.Context, role tuf.RoleName, gun tuf.GUN) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	v.w.must(err)
	s, err := tuf.NewSigner(private)
	v.w.must(err)
	if _, err := v.table.Import(ctx, private, role, gun, false, v.clock()); err == nil {
		v.copies[s.PublicKey().CanonicalID()] = s
	}
}

func (v *signingService) sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	return signing(v, func() (tuf.Signature, error) {
		sig, err := v.service.Sign(ctx, r)
		if err == nil {
			v.w.oracle.witness(r, v.made[r.Key])
		}
		return sig, err
	})
}

func (v *signingService) signBoth(ctx context.Context, r api.SignRequest, next api.Successor) ([2]tuf.Signature, error) {
	return signing(v, func() (both [2]tuf.Signature, err error) {
		if both[0], both[1], err = v.service.SignBoth(ctx, r, next); err != nil {
			return both, err
		}
		v.w.oracle.witness(r, v.made[r.Key])
		made, err := tuf.Envelope(r.Payload, both[0])
		v.w.must(err)
		r.Role, r.Key, r.Snapshot = tuf.RoleTimestamp, next.Key, made
		r.Payload = tuf.TimestampPayload(next.Version, next.Expires, made)
		v.w.oracle.witness(r, v.made[r.Key])
		return both, nil
	})
}

// signing has the signer sign, unless it crashes before or after that.
func signing[T any](v *signingService, sign func() (T, error)) (T, error) {
	var none T
	if err := v.reachable(); err != nil {
		return none, err
	}
	dies := false
	if v.crash > 0 && !v.w.calm {
		v.crash--
		dies = v.crash == 0
	}
	if dies && !v.after {
		v.restart()
		return none, api.ErrUnavailable
	}
	sig, err := sign()
	if dies {
		v.restart()
		return none, api.ErrUnavailable
	}
	return sig, err
}

func (v *signingService) forget(ctx context.Context, gun tuf.GUN) error {
	if err := v.reachable(); err != nil {
		return err
	}
	err := v.service.Forget(ctx, gun)
	if err == nil {
		v.forgotten[gun]++
	}
	return err
}
