package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// InitOptions say how a repository begins.
type InitOptions struct {
	// RootKey is the root key to use. Empty means the one with the lowest id
	// among the root keys in the first store that has any, and a new one if
	// there is none.
	RootKey tuf.CanonicalID
	// RootCert is a certificate for RootKey, or for the root key that the
	// ring holds for it. The zero value means a new self-signed one.
	RootCert tuf.PublicKey
	// ClientSnapshot keeps the snapshot key here instead of on the server.
	ClientSnapshot bool

	// Generator makes and stores what is missing; nil means the Config's key
	// ring. RootGenerator, if set, makes root keys: a hardware token.
	Generator, RootGenerator keys.Generator
	// Algorithm of new keys; empty means [keys.P256], which is all that the
	// stock programs make.
	Algorithm keys.Algorithm
}

// Initialized says what [Repository.Init] used and made.
type Initialized struct {
	Root    tuf.CanonicalID
	NewRoot bool
	Targets tuf.CanonicalID
}

// Init makes a repository that the server does not have yet: it chooses or
// makes the keys, signs root and targets (and a client's snapshot) and saves
// them here, as the stock notary's init does. Nothing is uploaded: the next
// [Repository.Publish] does that.
//
// All questions are asked before anything is written. Keys are stored before
// the metadata that names them. The error matches [ErrInitialized] if the
// server or this machine has the repository already.
func (r *Repository) Init(ctx context.Context, o InitOptions) (Initialized, error) {
	now := r.c.Now()
	_, err := r.base(ctx)
	if err == nil {
		return Initialized{}, fmt.Errorf("%w: %s", ErrInitialized, r.gun)
	}
	if !errors.Is(err, ErrNotInitialized) {
		return Initialized{}, err
	}
	f := r.forge(o.Generator, o.RootGenerator, o.Algorithm)
	root, made, err := r.rootKey(ctx, f, o)
	if err != nil {
		return Initialized{}, err
	}
	cert, err := r.certify(ctx, root, o.RootCert, now)
	if err != nil {
		return Initialized{}, err
	}
	targets, err := f.make(ctx, tuf.RoleTargets)
	if err != nil {
		return Initialized{}, err
	}
	var snapshot tuf.PublicKey
	if o.ClientSnapshot {
		s, err := f.make(ctx, tuf.RoleSnapshot)
		if err != nil {
			return Initialized{}, err
		}
		snapshot = s.PublicKey()
	} else if snapshot, err = r.c.Remote.Key(ctx, r.gun, tuf.RoleSnapshot); err != nil {
		return Initialized{}, err
	}
	timestamp, err := r.c.Remote.Key(ctx, r.gun, tuf.RoleTimestamp)
	if err != nil {
		return Initialized{}, err
	}
	roles := []tuf.Role{
		tuf.NewRole(tuf.RoleRoot, 1, cert),
		tuf.NewRole(tuf.RoleTargets, 1, targets.PublicKey()),
		tuf.NewRole(tuf.RoleSnapshot, 1, snapshot),
		tuf.NewRole(tuf.RoleTimestamp, 1, timestamp),
	}
	draft, err := tuf.NewDraft(r.gun, roles, r.options(now))
	if err != nil {
		return Initialized{}, err
	}
	files, err := draft.Sign(ctx, f, r.signOptions(now))
	if err != nil {
		return Initialized{}, err
	}
	if err := f.save(ctx); err != nil {
		return Initialized{}, err
	}
	if err := r.c.Dir.save(r.gun, nil, files, r.options(now), nil); err != nil {
		if errors.Is(err, errMoved) {
			err = fmt.Errorf("%w: %s", ErrInitialized, r.gun)
		}
		return Initialized{}, err
	}
	return Initialized{root.PublicKey().CanonicalID(), made, targets.PublicKey().CanonicalID()}, nil
}

// rootKey chooses the root key, or makes one.
func (r *Repository) rootKey(ctx context.Context, f *forge, o InitOptions) (s tuf.Signer, made bool, err error) {
	id := o.RootKey
	if id == "" && o.RootCert.Type != "" {
		id = o.RootCert.CanonicalID()
	}
	if id != "" {
		s, err = openKey(ctx, r.c.Keys, id)
		return s, false, err
	}
	for _, store := range r.c.Keys {
		infos, err := store.List(ctx)
		if err != nil {
			return nil, false, err
		}
		infos = slices.DeleteFunc(infos, func(i keys.Info) bool { return i.Role != string(tuf.RoleRoot) })
		if len(infos) == 0 {
			continue
		}
		first := slices.MinFunc(infos, func(a, b keys.Info) int { return cmp.Compare(a.ID, b.ID) })
		s, err = store.Open(ctx, first.ID)
		return s, false, err
	}
	s, err = f.make(ctx, tuf.RoleRoot)
	return s, true, err
}

func openKey(ctx context.Context, ring keys.Ring, id tuf.CanonicalID) (tuf.Signer, error) {
	_, store, err := ring.Find(ctx, id)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, id)
}
