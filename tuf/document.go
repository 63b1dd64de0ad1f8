package tuf

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A document is one decoded metadata file.
type document struct {
	File
	sum     [32]byte // SHA-256 of Raw
	payload node     // the value of "signed"
	message []byte   // its canonical form, which the signatures cover
	sigs    []Signature
	beside  bool // the file has members beside payload and signatures
	dialect Dialect
	known   *Verified
	content

	// signers are the ids of the keys found to have signed, set by verify
	// together with role, by which they were judged.
	signers []KeyID
	role    Role
}

// content is the typed view of a payload. Which fields are set depends on the
// kind of role.
type content struct {
	version     int64
	expires     time.Time
	roles       map[RoleName]Role     // root
	delegations []Delegation          // targets and delegations, as listed
	targets     node                  // targets and delegations: an object of file metas
	meta        map[RoleName]FileMeta // snapshot, timestamp
}

// decode reads a file of a role strictly. Signatures are not verified.
func decode(o Options, role RoleName, raw []byte) (*document, error) {
	if limit := o.Limits.of(role); int64(len(raw)) > limit {
		return nil, &TooLarge{Limit: limit}
	}
	sum := sha256.Sum256(raw)
	if d := o.Decoded.get(o, role, raw, sum); d != nil {
		return d, nil
	}
	top, at, err := parseSpans(raw, maxDepth, "signed")
	if err != nil {
		return nil, err
	}
	if top.kind != kindObject {
		return nil, malformed("not a JSON object")
	}
	d := &document{sum: sum, beside: len(top.names) > 2, dialect: o.Dialect, known: o.Verified}
	var ok bool
	if d.payload, ok = top.get("signed"); !ok || d.payload.kind != kindObject {
		return nil, malformed("no signed payload")
	}
	if at.canonical {
		d.message = raw[at.start:at.end]
	} else {
		d.message = appendCanonical(nil, d.payload)
	}
	if o.strictEnvelope && d.beside {
		return nil, malformed("unexpected members beside the payload and its signatures: %s", strings.Join(top.names, ", "))
	}
	list, _ := top.get("signatures")
	if list.kind != kindArray && list.kind != kindNull {
		return nil, malformed("the signatures are not a list")
	}
	// Before anything is verified: attacks.md K7, L8.
	if len(list.items) > o.Limits.Signatures {
		return nil, malformed("%d signatures, at most %d are read", len(list.items), o.Limits.Signatures)
	}
	for _, n := range list.items {
		s, err := decodeSignature(n)
		if err != nil {
			return nil, err
		}
		// K1: a list that repeats a key is invalid as a whole.
		if slices.ContainsFunc(d.sigs, func(o Signature) bool { return o.KeyID == s.KeyID }) {
			return nil, malformed("two signatures by key %s", s.KeyID)
		}
		d.sigs = append(d.sigs, s)
	}
	if d.content, err = o.Dialect.decode(role, d.payload); err != nil {
		return nil, err
	}
	d.File = File{Role: role, Version: d.version, Raw: raw}
	o.Decoded.put(d)
	return d, nil
}

func decodeSignature(n node) (Signature, error) {
	var s Signature
	id, err := text(n, "keyid")
	if err != nil {
		return s, err
	}
	method, err := text(n, "method")
	if err != nil {
		return s, err
	}
	value, err := text(n, "sig")
	if err != nil {
		return s, err
	}
	s = Signature{KeyID: KeyID(id), Method: strings.ToLower(method)}
	if s.Value, err = base64.StdEncoding.DecodeString(value); err != nil {
		return s, malformed("a signature is not base64")
	}
	return s, nil
}

// matches is [FileMeta.Matches]. It looks at sha256 first, so that of two
// mismatches always the same one is reported.
func (m FileMeta) matches(raw []byte) error {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	known := false
	for _, h := range []struct {
		name string
		got  []byte
	}{{"sha256", s256[:]}, {"sha512", s512[:]}} {
		want, ok := m.Hashes[h.name]
		if !ok {
			continue
		}
		known = true
		if !bytes.Equal(h.got, want) {
			return &Mismatch{Algorithm: h.name, Want: want}
		}
	}
	if !known {
		return malformed("no checksum of a supported algorithm")
	}
	if m.Length != int64(len(raw)) {
		return &Mismatch{Algorithm: "length"}
	}
	return nil
}

// describe returns the FileMeta of a file: length, SHA-256 and SHA-512.
func describe(raw []byte) FileMeta {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	return FileMeta{Length: int64(len(raw)), Hashes: map[string][]byte{"sha256": s256[:], "sha512": s512[:]}}
}

// Accessors for decoding. Each refuses a member that is absent or of another
// kind with an error matching [ErrMalformed].

func member(n node, name string, k kind) (node, error) {
	v, ok := n.get(name)
	if !ok {
		return v, malformed("%q is missing", name)
	}
	if v.kind != k {
		return v, malformed("%q is not of the expected kind", name)
	}
	return v, nil
}

func text(n node, name string) (string, error) {
	v, err := member(n, name, kindString)
	return v.text, err
}

func integer(n node, name string) (int64, error) {
	v, err := member(n, name, kindNumber)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(v.text, 10, 64)
}

// list returns the elements of an array member; absent and null count as empty
// when optional.
func list(n node, name string, optional bool) ([]node, error) {
	v, ok := n.get(name)
	if optional && (!ok || v.kind == kindNull) {
		return nil, nil
	}
	v, err := member(n, name, kindArray)
	return v.items, err
}

func texts(n node, name string) ([]string, error) {
	items, err := list(n, name, true)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(items))
	for i, v := range items {
		if v.kind != kindString {
			return nil, malformed("%q holds something that is not a string", name)
		}
		out[i] = v.text
	}
	return out, nil
}

// TooLarge says that a file is larger than is read. It matches [ErrLimit].
type TooLarge struct{ Limit int64 }

func (e *TooLarge) Error() string {
	return "larger than the limit of " + strconv.FormatInt(e.Limit, 10) + " bytes"
}
func (e *TooLarge) Is(t error) bool { return t == ErrLimit }

// NewFile reads the structure and version of a metadata file strictly, as the
// Notary dialect writes it. Signatures are not looked at. The error matches
// [ErrMalformed] or [ErrLimit].
func NewFile(role RoleName, raw []byte) (File, error) {
	d, err := decode(Options{}.filled(), role, raw)
	if err != nil {
		return File{}, err
	}
	return d.File, nil
}

// envelope assembles the file of a payload and its signatures.
func envelope(payload node, sigs []Signature) []byte {
	var b bytes.Buffer
	b.WriteString(`{"signed":`)
	b.Write(appendFileForm(nil, payload))
	b.WriteString(`,"signatures":[`)
	for i, s := range sigs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"keyid":`)
		b.Write(appendFileString(nil, string(s.KeyID)))
		b.WriteString(`,"method":`)
		b.Write(appendFileString(nil, s.Method))
		b.WriteString(`,"sig":"` + base64.StdEncoding.EncodeToString(s.Value) + `"}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}
