package tuf

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// Verified remembers which signatures were found valid, for those who meet the
// same files again and again, such as a server that looks at what it has
// published before each publish. Only the computation is spared: whether the
// key counts, and for what, is judged anew each time. It holds a bounded
// number, about a megabyte at most.
//
// The zero Verified is ready, nil is one that remembers nothing. It is safe
// for concurrent use.
type Verified struct {
	mu sync.Mutex
	// Those met since recent was begun, and those met before: what was not met
	// for a generation is forgotten. Guarded by mu.
	recent, older map[[32]byte]CanonicalID
}

// generation is how many signatures of each kind are remembered.
const generation = 4096

// Verify is [PublicKey.Verify].
func (m *Verified) Verify(k PublicKey, message []byte, s Signature) error {
	_, err := m.verify(k, message, s)
	return err
}

// Made notes a signature that the caller has made itself with the private half
// of k.
func (m *Verified) Made(k PublicKey, message []byte, s Signature) {
	if m != nil {
		m.put(nameOf(k, message, s), k.material())
	}
}

// verify is [PublicKey.Verify], and returns the material of the key.
func (m *Verified) verify(k PublicKey, message []byte, s Signature) (CanonicalID, error) {
	var of [32]byte
	if m != nil {
		of = nameOf(k, message, s)
		if material, ok := m.get(of); ok {
			return material, nil
		}
	}
	pub, err := k.Public()
	if err == nil {
		err = k.verify(pub, message, s)
	}
	if err != nil {
		return "", err // a failure is computed again: what is hostile takes no room
	}
	material := k.materialOf(pub)
	if m != nil {
		m.put(of, material)
	}
	return material, nil
}

// nameOf is a hash of everything that the verdict depends on, each part with
// its length before it.
func nameOf(k PublicKey, message []byte, s Signature) (sum [32]byte) {
	h := sha256.New()
	for _, part := range [...][]byte{[]byte(k.Type), k.Bytes, []byte(s.Method), s.Value, message} {
		writePart(h, part)
	}
	h.Sum(sum[:0])
	return sum
}

func writePart(h hash.Hash, part []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(part)))
	h.Write(n[:])
	h.Write(part)
}

func (m *Verified) get(of [32]byte) (CanonicalID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	material, ok := m.recent[of]
	if !ok {
		if material, ok = m.older[of]; ok {
			m.keep(of, material)
		}
	}
	return material, ok
}

func (m *Verified) put(of [32]byte, material CanonicalID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(of, material)
}

// keep remembers one in the recent generation. m.mu must be held.
func (m *Verified) keep(of [32]byte, material CanonicalID) {
	if m.recent == nil || len(m.recent) >= generation {
		m.recent, m.older = make(map[[32]byte]CanonicalID), m.recent
	}
	m.recent[of] = material
}
