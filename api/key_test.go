package api

import (
	"errors"
	"testing"

	"github.com/iechor/trust/tuf"
)

// stockKey is the body of a stock server's key endpoint.
const stockKey = `{"keytype":"ecdsa","keyval":{"public":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEX0mzbKj5JOipiHQvkCgSXDTLwfgF/bE9jgDKgIV64J2F1pBPMO6dlXBSK7PHcTp+ddaMcwugyAh4r4P2Cae64Q==","private":null}}`

func TestKey(t *testing.T) {
	t.Parallel()
	k, err := DecodeKey([]byte(stockKey))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := EncodeKey(k); err != nil || string(got) != stockKey {
		t.Errorf("EncodeKey = %s, %v; want %s", got, err, stockKey)
	}
	for body, want := range map[string]error{
		``:                    tuf.ErrMalformed,
		`{"keytype":"ecdsa"}`: tuf.ErrMalformed,
		stockKey + "x":        tuf.ErrMalformed,
		`{"keytype":"ecdsa","keyval":{"public":"AAAA","private":null}}`:     tuf.ErrKey,
		`{"keytype":"other","keyval":{"public":"AAAA","private":null}}`:     tuf.ErrKey,
		`{"keytype":"ed25519","keyval":{"public":"AAAA","private":"AAAA"}}`: tuf.ErrMalformed,
	} {
		if _, err := DecodeKey([]byte(body)); !errors.Is(err, want) {
			t.Errorf("DecodeKey(%s) = %v, want %v", body, err, want)
		}
	}
}
