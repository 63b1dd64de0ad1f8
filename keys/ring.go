package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/iechor/trust/tuf"
)

// A Ring searches stores in order. It implements tuf.Ring.
type Ring []Store

var _ tuf.Ring = Ring(nil)

// A Located key is one together with the store that has it.
type Located struct {
	Info
	Store Store
}

// Signer opens the key in the first store that has it and returns a signer
// that speaks as exactly key, certificate included. If that store cannot open
// it, that is the error: a locked token is not a missing key. The error
// matches tuf.ErrNoKey if all stores work and none has it.
func (r Ring) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	id := key.CanonicalID()
	for _, s := range r {
		signer, err := s.Open(ctx, id)
		if errors.Is(err, tuf.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, err // a StoreError already says which key, and where
		}
		return tuf.As(key, signer)
	}
	return nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
}

// Find returns what is known of a key and the first store that has it, without
// unlocking anything. The error matches tuf.ErrNoKey if all stores work and
// none has it.
func (r Ring) Find(ctx context.Context, id tuf.CanonicalID) (Info, Store, error) {
	for _, s := range r {
		info, err := find(ctx, s, id)
		if errors.Is(err, tuf.ErrNoKey) {
			continue
		}
		if err != nil {
			return Info{}, nil, err
		}
		return info, s, nil
	}
	return Info{}, nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
}

// find looks a key up in one store.
func find(ctx context.Context, s Store, id tuf.CanonicalID) (Info, error) {
	if f, ok := s.(Finder); ok {
		return f.Find(ctx, id)
	}
	infos, err := s.List(ctx)
	if err != nil {
		return Info{}, err
	}
	for _, info := range infos {
		if info.ID == id {
			return info, nil
		}
	}
	return Info{}, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
}

// Has reports whether a store has the key, without unlocking anything. The
// error says that a store could not look.
func (r Ring) Has(ctx context.Context, id tuf.CanonicalID) (bool, error) {
	_, _, err := r.Find(ctx, id)
	if errors.Is(err, tuf.ErrNoKey) {
		return false, nil
	}
	return err == nil, err
}

// List describes the keys of all stores, root keys first, and those of earlier
// stores before the same keys in later ones. Together with an error it returns
// what the other stores have.
func (r Ring) List(ctx context.Context) ([]Located, error) {
	var out []Located
	var errs []error
	for _, s := range r {
		infos, err := s.List(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("list the keys in %s: %w", s.Name(), err))
		}
		for _, info := range infos {
			out = append(out, Located{info, s})
		}
	}
	slices.SortStableFunc(out, func(a, b Located) int { return compareInfos(a.Info, b.Info) })
	return out, errors.Join(errs...)
}

// New makes a key in the first store that can and is no [Token]: nobody has a
// copy of what a token makes, and so it is asked for by name. A key that
// another store has cannot come out.
func (r Ring) New(ctx context.Context, a Algorithm, info Info) (*Pending, error) {
	for _, s := range r {
		if _, token := s.(Token); token {
			continue
		}
		if g, ok := s.(Generator); ok {
			return g.New(ctx, a, info)
		}
	}
	return nil, fmt.Errorf("%w: no key store here can make keys", errors.ErrUnsupported)
}

// Close closes all stores.
func (r Ring) Close() error {
	var errs []error
	for _, s := range r {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
