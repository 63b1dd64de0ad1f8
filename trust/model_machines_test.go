package trust_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A vault is a key store that tells the oracle what is signed with it.
type vault struct {
	*keys.Memory
	w        *world
	releases []tuf.PublicKey // keys of delegations
	from     int             // the first of those that are still given
}

func newVault(w *world) *vault { return &vault{Memory: keys.NewMemory(), w: w} }

func (v *vault) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	p, err := v.Memory.New(ctx, a, info)
	if err != nil {
		return nil, err
	}
	v.w.oracle.know(p.Signer().PublicKey())
	v.w.oracle.owned[identity(p.Signer().PublicKey())] = true
	return keys.NewPending(p.Info(), honest{p.Signer(), v.w.oracle}, p.Save), nil
}

func (v *vault) Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error) {
	s, err := v.Memory.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return honest{s, v.w.oracle}, nil
}

// make makes a key and stores it.
func (v *vault) make(role tuf.RoleName, gun tuf.GUN) tuf.PublicKey {
	p, err := v.New(context.Background(), keys.P256, keys.Info{Role: string(role), GUN: gun})
	v.w.must(err)
	v.w.must(p.Save(context.Background()))
	return p.Signer().PublicKey()
}

// honest is a key in the hands of its owner.
type honest struct {
	tuf.Signer
	o *oracle
}

func (h honest) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	sig, err := h.Signer.Sign(ctx, message)
	if err == nil {
		h.o.signed(identity(h.PublicKey()), message)
	}
	return sig, err
}

// A machine is a client with its folder.
type machine struct {
	w      *world
	name   string
	keys   *vault // nil: a consumer
	pinned bool
	folder string
	lives  int
	dir    *trust.Dir
	http   *trust.HTTP
	skew   time.Duration
	busy   bool
	seen   map[tuf.GUN]*view
	staged map[tuf.GUN]content // what its change files say

	// of the step
	rnd      *rand.Rand
	fault    fault
	requests int
	writes   int
	crash    int
	crashed  bool
	deed     *deed
	doubled  bool // a request of it was answered by two servers
	evil     func(path string) (int, []byte)
}

func (m *machine) clock() time.Time { return m.w.now.Add(m.skew) }

// renew makes it another machine, which has seen nothing.
func (m *machine) renew() {
	m.lives++
	m.folder = filepath.Join(m.w.dir, fmt.Sprintf("%s-%d", m.name, m.lives))
	m.seen, m.staged = map[tuf.GUN]*view{}, map[tuf.GUN]content{}
	m.restart()
}

// restart is a new process on the same folder.
func (m *machine) restart() {
	m.dir = trust.NewDir(m.folder)
	m.dir.OnWrite(func(string) error {
		m.writes++
		if m.crashed || m.crash == m.writes && !m.w.calm {
			m.crashed = true
			return errDead
		}
		return nil
	})
	h, err := trust.NewHTTP(trust.HTTPConfig{Base: "http://localhost:4443"})
	m.w.must(err)
	h.Through(wire{m})
	m.http = h
}

func (m *machine) repository(gun tuf.GUN) *trust.Repository {
	c := trust.Config{Remote: m.http, Dir: m.dir, Now: m.clock, Sleep: func(context.Context, time.Duration) error { return nil }}
	if m.keys != nil {
		c.Keys = keys.Ring{m.keys}
	}
	if m.pinned {
		c.Pin = m.w.pin()
	}
	return trust.Open(gun, c)
}

// pin admits every root key that the owners ever had: what they tell who asks.
func (w *world) pin() tuf.Pin {
	infos, err := w.owners.List(context.Background())
	w.must(err)
	var pin tuf.KeyPin
	for _, i := range infos {
		if i.Role == string(tuf.RoleRoot) {
			pin.Keys = append(pin.Keys, i.ID)
		}
	}
	return pin
}
