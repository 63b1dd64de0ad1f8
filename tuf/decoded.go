package tuf

// Decoded remembers the files that were decoded, for who meets the same ones
// several times in one task, such as a server that adds an upload to what is
// published and looks at the result as a client would. It holds all of them
// until the task is done and it is forgotten itself: many times their bytes, so
// what nobody has signed should not wait in it. Whether signatures are valid it
// does not know.
//
// The zero Decoded is ready, nil is one that remembers nothing. It is not safe
// for concurrent use.
type Decoded struct{ m map[decodedKey]document }

type decodedKey struct {
	role RoleName
	sum  [32]byte
}

// get returns what raw, whose hash is sum, was decoded to, if by o it would be
// decoded to that again; else nil. It is the caller's.
func (m *Decoded) get(o Options, role RoleName, raw []byte, sum [32]byte) *document {
	if m == nil {
		return nil
	}
	d, ok := m.m[decodedKey{role, sum}]
	if !ok || d.dialect != o.Dialect || o.strictEnvelope && d.beside || len(d.sigs) > o.Limits.Signatures {
		return nil
	}
	d.Raw, d.known = raw, o.Verified
	return &d
}

// put remembers d, of which nothing is verified yet.
func (m *Decoded) put(d *document) {
	if m == nil || d.dialect != (Notary{}) { // other dialects may not be comparable
		return
	}
	if m.m == nil {
		m.m = map[decodedKey]document{}
	}
	m.m[decodedKey{d.Role, d.sum}] = *d
}
