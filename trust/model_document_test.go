package trust_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/tuf"
)

// A document is a file as the oracle reads it.
type document struct {
	Version int64                  `json:"version"`
	Expires time.Time              `json:"expires"`
	Keys    map[string]keyDocument `json:"keys"`
	Roles   map[string]role        `json:"roles"`
	Meta    map[string]struct {
		Hashes map[string][]byte `json:"hashes"`
	} `json:"meta"`
	Targets map[string]struct {
		Hashes map[string][]byte `json:"hashes"`
	} `json:"targets"`
	Delegations struct {
		Keys  map[string]keyDocument `json:"keys"`
		Roles []role                 `json:"roles"`
	} `json:"delegations"`

	sum [32]byte // of what it means
}

type keyDocument struct {
	Type  string `json:"keytype"`
	Value struct {
		Public []byte `json:"public"`
	} `json:"keyval"`
}

type role struct {
	Name      string   `json:"name"`
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
	Paths     []string `json:"paths"`
}

// identity names a key by its material.
func identity(k tuf.PublicKey) string { return identityOf(string(k.Type), k.Bytes) }

func identityOf(kind string, public []byte) string {
	if strings.HasSuffix(kind, "x509") {
		if b, _ := pem.Decode(public); b != nil {
			if c, err := x509.ParseCertificate(b.Bytes); err == nil {
				public = c.RawSubjectPublicKeyInfo
			}
		}
	}
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// identities are the keys of a role, sorted.
func (r role) identities(keys map[string]keyDocument) []string {
	var ids []string
	for _, id := range r.KeyIDs {
		ids = append(ids, identityOf(keys[id].Type, keys[id].Value.Public))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// meaning is the hash of what a payload says, however it is written.
func meaning(payload []byte) [32]byte {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return [32]byte{}
	}
	out, _ := json.Marshal(v) // what was decoded can be encoded
	return sha256.Sum256(out)
}

func readDocument(raw []byte) *document {
	var file struct {
		Signed json.RawMessage `json:"signed"`
	}
	d := &document{}
	if json.Unmarshal(raw, &file) != nil || json.Unmarshal(file.Signed, d) != nil {
		return nil
	}
	d.sum = meaning(file.Signed)
	return d
}
