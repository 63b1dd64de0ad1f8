package keys_test

import (
	"context"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// A down store cannot look.
type down struct{ keys.Store }

var errDown = errors.New("reader unplugged")

func (down) Name() string                                              { return "card" }
func (down) List(context.Context) ([]keys.Info, error)                 { return nil, errDown }
func (down) Open(context.Context, tuf.CanonicalID) (tuf.Signer, error) { return nil, errDown }
func (down) Close() error                                              { return errDown }

// An opaque store offers nothing but what Store demands.
type opaque struct{ keys.Store }

func TestRing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	first, second := keystest.NewDir(t), keys.NewMemory()
	r := keys.Ring{opaque{first}, second}
	inFirst, err := keys.Generate(ctx, first, "", keys.Info{Role: "targets", GUN: gun})
	if err != nil {
		t.Fatal(err)
	}
	root, err := r.New(ctx, keys.P384, keys.Info{Role: "root"})
	if err != nil || root.Save(ctx) != nil {
		t.Fatalf("New: %v", err)
	}
	if _, err := second.Open(ctx, root.Info().ID); err != nil {
		t.Errorf("the key was not made in the first store that can: %v", err)
	}

	list, err := r.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, l.Role+" in "+l.Store.Name())
	}
	if diff := cmp.Diff([]string{"root in memory", "targets in " + first.Name()}, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, p := range []tuf.PublicKey{inFirst.PublicKey(), root.Signer().PublicKey()} {
		if has, err := r.Has(ctx, p.CanonicalID()); !has || err != nil {
			t.Errorf("Has = %v, %v", has, err)
		}
		s, err := r.Signer(ctx, gun, "x", p)
		if err != nil {
			t.Fatal(err)
		}
		signs(t, s)
	}
	other := pub(t, newKeys(t)["ed25519"])
	if has, err := r.Has(ctx, other.CanonicalID()); has || err != nil {
		t.Errorf("Has of an unknown key = %v, %v", has, err)
	}
	if _, err := r.Signer(ctx, gun, "x", other); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Signer of an unknown key = %v, want ErrNoKey", err)
	}
	if _, err := (keys.Ring{opaque{first}}).New(ctx, "", keys.Info{Role: "root"}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New without a Generator = %v, want ErrUnsupported", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Has(ctx, other.CanonicalID()); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("Has after Close = %v, want ErrClosed", err)
	}
}

// TestRingCertificate: the signer speaks as the certificate that was asked
// for, though stores know bare keys only.
func TestRingCertificate(t *testing.T) {
	t.Parallel()
	m := keys.NewMemory()
	bare, err := keys.Generate(t.Context(), m, "", keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tuf.Certify(t.Context(), bare, gun, big.NewInt(7), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Ring{m}.Signer(t.Context(), gun, tuf.RoleRoot, cert)
	if err != nil {
		t.Fatal(err)
	}
	if !s.PublicKey().Equal(cert) {
		t.Errorf("the signer speaks as %s key %s", s.PublicKey().Type, s.PublicKey().ID())
	}
	signs(t, s)
}

// TestRingStoreDown: a store that cannot look is an error, not "not found",
// and does not hide the others from a list.
func TestRingStoreDown(t *testing.T) {
	t.Parallel()
	m := keys.NewMemory()
	s, err := keys.Generate(t.Context(), m, "", keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	r := keys.Ring{down{}, m}
	p := s.PublicKey()
	if _, err := r.Signer(t.Context(), gun, tuf.RoleRoot, p); !errors.Is(err, errDown) || errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Signer = %v, want the store's error", err)
	}
	if _, err := r.Has(t.Context(), p.CanonicalID()); !errors.Is(err, errDown) {
		t.Errorf("Has = %v, want the store's error", err)
	}
	if list, err := r.List(t.Context()); len(list) != 1 || !errors.Is(err, errDown) {
		t.Errorf("List = %v, %v", list, err)
	}
	if err := r.Close(); !errors.Is(err, errDown) {
		t.Errorf("Close = %v", err)
	}
}
