package keys

import (
	"context"
	"crypto"
	"fmt"
	"sync"

	"github.com/iechor/trust/tuf"
)

// Memory is a Store that forgets everything at its end: for tests, the sandbox
// and keys that come from elsewhere.
type Memory struct {
	mu     sync.Mutex // guards the fields below
	closed bool
	keys   map[tuf.CanonicalID]*held
	loose  []*held
}

var (
	_ Store     = (*Memory)(nil)
	_ Generator = (*Memory)(nil)
	_ Importer  = (*Memory)(nil)
	_ Remover   = (*Memory)(nil)
)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{keys: make(map[tuf.CanonicalID]*held)} }

// Name returns "memory".
func (m *Memory) Name() string { return "memory" }

// lock takes the lock if the store can be used; the caller unlocks m.mu
// exactly if the error is nil.
func (m *Memory) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return ErrClosed
	}
	return nil
}

// List describes all keys.
func (m *Memory) List(ctx context.Context) ([]Info, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var infos []Info
	for _, h := range m.keys {
		infos = append(infos, h.info)
	}
	Sort(infos)
	return infos, nil
}

// Find describes one key. The error matches tuf.ErrNoKey if it is not there.
func (m *Memory) Find(ctx context.Context, id tuf.CanonicalID) (Info, error) {
	if err := m.lock(ctx); err != nil {
		return Info{}, err
	}
	defer m.mu.Unlock()
	h := m.keys[id]
	if h == nil {
		return Info{}, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	return h.info, nil
}

// Open returns the signer for a key. It never asks.
func (m *Memory) Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	h := m.keys[id]
	if h == nil {
		return nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	return h, nil
}

// Close wipes all keys. It always returns nil.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, h := range m.keys {
		h.wipe()
	}
	for _, h := range m.loose {
		h.wipe()
	}
	m.keys, m.loose = nil, nil
	return nil
}

// New makes a key.
func (m *Memory) New(ctx context.Context, a Algorithm, info Info) (*Pending, error) {
	info, err := info.Clean()
	if err != nil {
		return nil, err
	}
	key, err := MakeKey(a)
	if err != nil {
		return nil, err
	}
	h, err := hold(info, key)
	if err != nil {
		return nil, err
	}
	if err := m.lock(ctx); err != nil {
		h.wipe()
		return nil, err
	}
	defer m.mu.Unlock()
	m.loose = append(m.loose, h)
	return NewPending(h.info, h, func(ctx context.Context) error {
		if err := m.lock(ctx); err != nil {
			return err
		}
		defer m.mu.Unlock()
		return m.add(h)
	}), nil
}

// add stores h unless it is there. The caller holds the lock.
func (m *Memory) add(h *held) error {
	if old := m.keys[h.info.ID]; old != nil {
		if old.info.Role != h.info.Role {
			return &StoreError{Store: m.Name(), Key: old.info, Err: &ExistsError{ID: h.info.ID, Role: old.info.Role}}
		}
		return nil
	}
	m.keys[h.info.ID] = h
	return nil
}

// Import stores a key.
func (m *Memory) Import(ctx context.Context, info Info, key crypto.Signer) (Info, error) {
	info, err := info.Clean()
	if err != nil {
		return Info{}, err
	}
	h, err := hold(info, key)
	if err != nil {
		return Info{}, err
	}
	if err := m.lock(ctx); err != nil {
		return Info{}, err
	}
	defer m.mu.Unlock()
	return h.info, m.add(h)
}

// Remove forgets a key and wipes it.
func (m *Memory) Remove(ctx context.Context, id tuf.CanonicalID) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	h := m.keys[id]
	if h == nil {
		return fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	h.wipe()
	delete(m.keys, id)
	return nil
}
