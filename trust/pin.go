package trust

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// ErrPinning says that the configuration of pins is not usable.
var ErrPinning = errors.New("invalid trust pinning")

// Pinning is the block "trust-pinning" of the configuration file (cli.md 10):
// which roots may speak for which repositories. Patterns are GUNs, or
// beginnings of GUNs followed by "*"; an exact one wins, then the longest, and
// for one pattern cert-ids over root-keys over ca.
type Pinning struct {
	// RootKeys are ids of root key files. An owner has the same one for all
	// repositories.
	RootKeys map[string][]tuf.CanonicalID `json:"root-keys,omitempty"`
	// CertIDs are ids of root keys as they stand in metadata: of one
	// repository's certificate. No wildcards.
	CertIDs map[string][]tuf.KeyID `json:"cert-ids,omitempty"`
	// CA are files with PEM certificates of authorities.
	CA map[string]string `json:"ca,omitempty"`
	// FirstUse says what happens where nothing matches: "allow", which is the
	// default, or "refuse".
	FirstUse string `json:"first-use,omitempty"`
	// DeniedRoots are ids of root key files that are never accepted, whatever
	// else is said (attacks.md R13).
	DeniedRoots []tuf.CanonicalID `json:"denied-roots,omitempty"`
}

// Pin returns what the block says. read reads a file that CA names. The error
// matches [ErrPinning] and names the entry, or is that of read.
func (p Pinning) Pin(read func(path string) ([]byte, error)) (tuf.Pin, error) {
	out := tuf.Pins{Denied: p.DeniedRoots}
	bad := func(entry, format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrPinning, printable(entry), fmt.Sprintf(format, a...))
	}
	switch p.FirstUse {
	case "", "allow":
	case "refuse":
		out.Otherwise = tuf.NoFirstUse{}
	default:
		return nil, bad("first-use", "%q is neither allow nor refuse", p.FirstUse)
	}
	for _, id := range p.DeniedRoots {
		if !id.Valid() {
			return nil, bad("denied-roots", "%q is not a key id", id)
		}
	}
	// Rules of equal length are taken in this order.
	for _, gun := range slices.Sorted(maps.Keys(p.CertIDs)) {
		ids := p.CertIDs[gun]
		switch {
		case strings.Contains(gun, "*"):
			return nil, bad("cert-ids: "+gun, "wildcards are not possible here")
		case !tuf.GUN(gun).Valid():
			return nil, bad("cert-ids: "+gun, "not a repository name")
		case len(ids) == 0:
			return nil, bad("cert-ids: "+gun, "no ids")
		}
		for _, id := range ids {
			if !tuf.CanonicalID(id).Valid() {
				return nil, bad("cert-ids: "+gun, "%q is not a key id", id)
			}
		}
		out.Rules = append(out.Rules, tuf.PinRule{Pattern: gun, Pin: tuf.KeyPin{Certificates: ids}})
	}
	for _, pattern := range slices.Sorted(maps.Keys(p.RootKeys)) {
		ids := p.RootKeys[pattern]
		switch {
		case !validPattern(pattern):
			return nil, bad("root-keys: "+pattern, "not a repository name, with or without * at the end")
		case len(ids) == 0:
			return nil, bad("root-keys: "+pattern, "no ids")
		}
		for _, id := range ids {
			if !id.Valid() {
				return nil, bad("root-keys: "+pattern, "%q is not a key id", id)
			}
		}
		out.Rules = append(out.Rules, tuf.PinRule{Pattern: pattern, Pin: tuf.KeyPin{Keys: ids}})
	}
	for _, pattern := range slices.Sorted(maps.Keys(p.CA)) {
		if !validPattern(pattern) {
			return nil, bad("ca: "+pattern, "not a repository name, with or without * at the end")
		}
		bundle, err := read(p.CA[pattern])
		if err != nil {
			return nil, err
		}
		pool, err := authorities(bundle)
		if err != nil {
			return nil, bad("ca: "+pattern, "%s: %v", p.CA[pattern], err)
		}
		out.Rules = append(out.Rules, tuf.PinRule{Pattern: pattern, Pin: tuf.CAPin{Authorities: pool}})
	}
	return out, nil
}

func validPattern(p string) bool {
	prefix, wild := strings.CutSuffix(p, "*")
	if !wild {
		return tuf.GUN(p).Valid()
	}
	return prefix == "" || tuf.GUN(strings.TrimSuffix(prefix, "/")).Valid()
}

// authorities reads a PEM bundle of certificates, at least one and nothing
// else.
func authorities(bundle []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for rest := bundle; ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a PEM block of type %q", b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(c)
	}
	if n == 0 {
		return nil, errors.New("has no certificate")
	}
	return pool, nil
}
