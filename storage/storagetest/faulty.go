package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// ErrInjected is what a [Faulty] store returns when a [Fault] does not say
// otherwise.
var ErrInjected = errors.New("injected fault")

// A Fault says which call fails, and how.
type Fault struct {
	// Method is the name of a method of [storage.Store], such as "Commit".
	// Empty means all methods that change something: Commit, Delete, Record, Seen, Prune.
	Method string
	// Call is the number of the matching call that fails, counted from 1 since
	// the fault was injected. 0 means every matching call.
	Call int
	// After lets the call do its work before it fails: the answer is lost. A
	// call that fails by itself returns its own error.
	After bool
	// Err is what the call returns; nil stands for ErrInjected.
	Err error
}

// Faulty is a [storage.Store] that fails where it is told to, before or after
// it has done its work. It is safe for concurrent use.
type Faulty struct {
	store storage.Store

	mu     sync.Mutex
	faults []*pending // under mu
	calls  map[string]int
}

type pending struct {
	Fault
	seen int
}

var _ storage.Store = (*Faulty)(nil)

// NewFaulty wraps s. Until a fault is injected it behaves like s.
func NewFaulty(s storage.Store) *Faulty { return &Faulty{store: s, calls: map[string]int{}} }

// Inject adds a fault. It panics if there is no method of that name, because
// such a fault would never happen.
func (f *Faulty) Inject(fault Fault) {
	switch fault.Method {
	case "", "Current", "Commit", "Blob", "Version", "Delete", "Record", "Changes", "Heads", "Expiring", "Forecast", "Seen", "Prune", "GUNs", "Ping":
	default:
		panic("storagetest: a Store has no method " + fault.Method)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &pending{Fault: fault})
}

// Heal removes all faults.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Calls returns how often a method was called, be it with success or not.
func (f *Faulty) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// strike counts the call and returns the errors to fail with before and after
// the work.
func (f *Faulty) strike(method string, writes bool) (before, after error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	for _, p := range f.faults {
		if p.Method != method && (p.Method != "" || !writes) {
			continue
		}
		p.seen++
		if p.Call != 0 && p.Call != p.seen {
			continue
		}
		err := p.Err
		if err == nil {
			err = fmt.Errorf("%s: %w", method, ErrInjected)
		}
		switch {
		case p.After && after == nil:
			after = err
		case !p.After && before == nil:
			before = err
		}
	}
	return before, after
}

// call does work between the faults of a method.
func call[T any](f *Faulty, method string, writes bool, work func() (T, error)) (T, error) {
	var none T
	before, after := f.strike(method, writes)
	if before != nil {
		return none, before
	}
	v, err := work()
	if err != nil {
		return none, err
	}
	if after != nil {
		return none, after
	}
	return v, nil
}

type content struct {
	raw     []byte
	created time.Time
}

// Current implements [storage.Store].
func (f *Faulty) Current(ctx context.Context, gun tuf.GUN) (*storage.State, error) {
	return call(f, "Current", false, func() (*storage.State, error) { return f.store.Current(ctx, gun) })
}

// Commit implements [storage.Store].
func (f *Faulty) Commit(ctx context.Context, gun tuf.GUN, base *storage.State, files []storage.NewFile, drop []tuf.RoleName, now time.Time, by *storage.Actor) (*storage.State, error) {
	return call(f, "Commit", true, func() (*storage.State, error) { return f.store.Commit(ctx, gun, base, files, drop, now, by) })
}

// Blob implements [storage.Store].
func (f *Faulty) Blob(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sha256 [32]byte) ([]byte, time.Time, error) {
	c, err := call(f, "Blob", false, func() (c content, err error) {
		c.raw, c.created, err = f.store.Blob(ctx, gun, role, sha256)
		return c, err
	})
	return c.raw, c.created, err
}

// Version implements [storage.Store].
func (f *Faulty) Version(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version int64) ([]byte, time.Time, error) {
	c, err := call(f, "Version", false, func() (c content, err error) {
		c.raw, c.created, err = f.store.Version(ctx, gun, role, version)
		return c, err
	})
	return c.raw, c.created, err
}

// Delete implements [storage.Store].
func (f *Faulty) Delete(ctx context.Context, base *storage.State, now time.Time, by storage.Actor) error {
	_, err := call(f, "Delete", true, func() (struct{}, error) { return struct{}{}, f.store.Delete(ctx, base, now, by) })
	return err
}

// Record implements [storage.Store].
func (f *Faulty) Record(ctx context.Context, r storage.AuditRecord) error {
	_, err := call(f, "Record", true, func() (struct{}, error) { return struct{}{}, f.store.Record(ctx, r) })
	return err
}

// Changes implements [storage.Store].
func (f *Faulty) Changes(ctx context.Context, q storage.ChangeQuery) ([]storage.Change, error) {
	return call(f, "Changes", false, func() ([]storage.Change, error) { return f.store.Changes(ctx, q) })
}

// Heads implements [storage.Store].
func (f *Faulty) Heads(ctx context.Context, after int64, limit int) ([]storage.Head, error) {
	return call(f, "Heads", false, func() ([]storage.Head, error) { return f.store.Heads(ctx, after, limit) })
}

// Forecast implements [storage.Store].
func (f *Faulty) Forecast(ctx context.Context, now, since time.Time) ([]storage.Forecast, error) {
	return call(f, "Forecast", false, func() ([]storage.Forecast, error) { return f.store.Forecast(ctx, now, since) })
}

// Expiring implements [storage.Store].
func (f *Faulty) Expiring(ctx context.Context, before, since time.Time, limit int) ([]tuf.GUN, error) {
	return call(f, "Expiring", false, func() ([]tuf.GUN, error) { return f.store.Expiring(ctx, before, since, limit) })
}

// Seen implements [storage.Store].
func (f *Faulty) Seen(ctx context.Context, guns []tuf.GUN, at time.Time) error {
	_, err := call(f, "Seen", true, func() (struct{}, error) { return struct{}{}, f.store.Seen(ctx, guns, at) })
	return err
}

// Prune implements [storage.Store].
func (f *Faulty) Prune(ctx context.Context, now time.Time) error {
	_, err := call(f, "Prune", true, func() (struct{}, error) { return struct{}{}, f.store.Prune(ctx, now) })
	return err
}

// GUNs implements [storage.Store].
func (f *Faulty) GUNs(ctx context.Context, after tuf.GUN, limit int) ([]tuf.GUN, error) {
	return call(f, "GUNs", false, func() ([]tuf.GUN, error) { return f.store.GUNs(ctx, after, limit) })
}

// Ping implements [storage.Store].
func (f *Faulty) Ping(ctx context.Context) error {
	_, err := call(f, "Ping", false, func() (struct{}, error) { return struct{}{}, f.store.Ping(ctx) })
	return err
}
