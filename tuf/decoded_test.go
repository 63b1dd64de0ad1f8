package tuf

import (
	"errors"
	"testing"
)

// A file that was decoded before is refused and verified as if it had not been.
func TestDecoded(t *testing.T) {
	t.Parallel()
	s, other := newTestSigner(t), newTestSigner(t)
	payload := []byte(`{"_type":"Timestamp","expires":"2035-01-01T00:00:00Z","meta":{"snapshot":{"hashes":{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},"length":1}},"version":1}`)
	sig, err := s.Sign(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Envelope(payload, sig)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Decoded: new(Decoded)}
	if _, err := VerifyFile(raw, NewRole(RoleTimestamp, 1, s.PublicKey()), o); err != nil {
		t.Fatal(err)
	}
	if n := len(o.Decoded.m); n != 1 {
		t.Fatalf("%d files are remembered, want 1", n)
	}
	again := append([]byte(nil), raw...)
	d, err := decode(o.filled(), RoleTimestamp, again)
	if err != nil || &d.Raw[0] != &again[0] || d.signers != nil {
		t.Errorf("decoded again: %v, of other bytes, or verified already", err)
	}
	if _, err := VerifyFile(raw, NewRole(RoleTimestamp, 1, other.PublicKey()), o); !errors.Is(err, ErrUnsigned) {
		t.Errorf("by a role of another key: %v, want ErrUnsigned", err)
	}
	if _, err := Outline(RoleSnapshot, raw, o); !errors.Is(err, ErrMalformed) {
		t.Errorf("as a snapshot: %v, want ErrMalformed", err)
	}
	small := o
	small.Limits.Timestamp = int64(len(raw)) - 1
	if _, err := Outline(RoleTimestamp, raw, small); !errors.Is(err, ErrLimit) {
		t.Errorf("longer than what is read: %v, want ErrLimit", err)
	}
	few := o.filled()
	few.Limits.Signatures = 0
	if _, err := decode(few, RoleTimestamp, raw); !errors.Is(err, ErrMalformed) {
		t.Errorf("with more signatures than are read: %v, want ErrMalformed", err)
	}

	// attacks.md S1: what a server refuses of an upload.
	beside := append(raw[:len(raw)-1:len(raw)-1], `,"more":1}`...)
	if _, err := Outline(RoleTimestamp, beside, o); err != nil {
		t.Fatal(err)
	}
	strict := o.filled()
	strict.strictEnvelope = true
	if _, err := decode(strict, RoleTimestamp, beside); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a member beside the payload: %v, want ErrMalformed", err)
	}
}
