package tuftest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
)

// An Object is a JSON object as package encoding/json decodes it, numbers as
// json.Number.
type Object = map[string]any

// Payload returns what is signed in a file.
func Payload(t testing.TB, raw []byte) Object {
	t.Helper()
	var file struct{ Signed Object }
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	return file.Signed
}

// At returns the object at a path of member names and panics, failing the
// test, when there is none.
func At(o Object, path ...string) Object {
	for _, name := range path {
		o = o[name].(Object)
	}
	return o
}

// Seal returns a file of a payload, signed by the given keys over its
// canonical form. Nothing is checked: this is how bad files are made.
func Seal(t testing.TB, payload any, signers ...tuf.Signer) []byte {
	t.Helper()
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	return SealText(t, text, signers...)
}

// SealText is Seal for a payload that is JSON text already.
func SealText(t testing.TB, text []byte, signers ...tuf.Signer) []byte {
	t.Helper()
	canonical, err := tuf.Canonical(text)
	if err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	var sigs []tuf.Signature
	for _, s := range signers {
		sig, err := s.Sign(context.Background(), canonical)
		if err != nil {
			t.Fatalf("tuftest: %v", err)
		}
		sigs = append(sigs, sig)
	}
	raw, err := tuf.Envelope(canonical, sigs...)
	if err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	return raw
}

// Reseal returns the file with its payload edited and signed anew by exactly
// the given keys. edit may be nil.
func Reseal(t testing.TB, raw []byte, edit func(Object), signers ...tuf.Signer) []byte {
	t.Helper()
	p := Payload(t, raw)
	if edit != nil {
		edit(p)
	}
	return Seal(t, p, signers...)
}

// Signatures returns the file with its list of signatures edited, and the
// payload untouched. Entries are objects with keyid, method and sig.
func Signatures(t testing.TB, raw []byte, edit func([]Object) []Object) []byte {
	t.Helper()
	var file struct {
		Signed     json.RawMessage `json:"signed"`
		Signatures []Object        `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	file.Signatures = edit(file.Signatures)
	out, err := json.Marshal(file)
	if err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	return out
}

// Describe returns the entry of a file in a snapshot or timestamp.
func Describe(raw []byte) Object {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	return Object{"length": len(raw), "hashes": Object{
		"sha256": base64.StdEncoding.EncodeToString(s256[:]), "sha512": base64.StdEncoding.EncodeToString(s512[:]),
	}}
}

// KeyObject returns a public key as it stands in metadata.
func KeyObject(k tuf.PublicKey) Object {
	return Object{"keytype": string(k.Type), "keyval": Object{
		"private": nil, "public": base64.StdEncoding.EncodeToString(k.Bytes),
	}}
}

// Forge returns files in which the file of role is edited and signed by the
// given keys, by those of the role if there are none, and snapshot and
// timestamp follow from it, honestly signed. The edited file has the next
// version, unless edit sets it. The repository itself does not change.
func (r *Repo) Forge(t testing.TB, role tuf.RoleName, edit func(Object), signers ...tuf.Signer) Files {
	t.Helper()
	if len(signers) == 0 {
		signers = r.Signers(t, role)
	}
	raw := Reseal(t, r.Files().Current[role], func(p Object) {
		bump(p)
		if edit != nil {
			edit(p)
		}
	}, signers...)
	return r.Swap(t, map[tuf.RoleName][]byte{role: raw})
}

// Unsigned is a list of no signers for [Repo.Forge].
var Unsigned = []tuf.Signer{nobody{}}

type nobody struct{}

func (nobody) PublicKey() tuf.PublicKey { return tuf.PublicKey{Type: "none"} }
func (nobody) Sign(context.Context, []byte) (tuf.Signature, error) {
	return tuf.Signature{KeyID: "0000", Method: "none", Value: []byte("nothing")}, nil
}

// Swap returns files in which those given replace what is published, and a
// snapshot and a timestamp follow from them, honestly signed, unless they are
// among those given. The repository itself does not change.
func (r *Repo) Swap(t testing.TB, files map[tuf.RoleName][]byte) Files {
	t.Helper()
	f := r.Files()
	put := func(role tuf.RoleName, raw []byte) {
		f.Current[role] = raw
		f.Blobs[sha256.Sum256(raw)] = raw
		if role == tuf.RoleRoot {
			if file, err := tuf.NewFile(role, raw); err == nil {
				f.Roots[file.Version] = raw
			}
		}
	}
	below := false
	for role, raw := range files {
		put(role, raw)
		below = below || role != tuf.RoleSnapshot && role != tuf.RoleTimestamp
	}
	if _, given := files[tuf.RoleSnapshot]; !given && below {
		put(tuf.RoleSnapshot, Reseal(t, f.Current[tuf.RoleSnapshot], func(p Object) {
			bump(p)
			for role := range files {
				if role != tuf.RoleTimestamp {
					At(p, "meta")[string(role)] = Describe(f.Current[role])
				}
			}
		}, r.Signers(t, tuf.RoleSnapshot)...))
	}
	if _, given := files[tuf.RoleTimestamp]; !given {
		put(tuf.RoleTimestamp, Reseal(t, f.Current[tuf.RoleTimestamp], func(p Object) {
			bump(p)
			p["expires"] = r.Now().Add(24 * time.Hour).Format(time.RFC3339)
			At(p, "meta")["snapshot"] = Describe(f.Current[tuf.RoleSnapshot])
		}, r.Signers(t, tuf.RoleTimestamp)...))
	}
	return f
}

func bump(p Object) {
	v, _ := p["version"].(json.Number).Int64()
	p["version"] = v + 1
}
