package api

import (
	"encoding/json"

	"github.com/iechor/trust/tuf"
)

// MaxKeyBody bounds the body of a key endpoint in bytes (notary-protocol 7.1).
const MaxKeyBody = 256 << 10

// EncodeKey returns the body of a key endpoint. The order of the members is
// that of the stock server, public before private (notary-protocol 1.4).
func EncodeKey(k tuf.PublicKey) ([]byte, error) {
	type value struct {
		Public  []byte  `json:"public"`
		Private *string `json:"private"`
	}
	return json.Marshal(struct {
		Type  tuf.KeyType `json:"keytype"`
		Value value       `json:"keyval"`
	}{k.Type, value{Public: k.Bytes}})
}

// DecodeKey reads the body of a key endpoint. The key must be one that can
// verify signatures; the error matches [tuf.ErrMalformed] or [tuf.ErrKey].
func DecodeKey(body []byte) (tuf.PublicKey, error) {
	var k tuf.PublicKey
	if err := k.UnmarshalJSON(body); err != nil {
		return tuf.PublicKey{}, err
	}
	if _, err := k.Public(); err != nil {
		return tuf.PublicKey{}, err
	}
	return k, nil
}
