package keystest

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// Leaks knows private keys, and finds them where they stand unencrypted: in
// whatever form, as DER, PEM, hexadecimal, base64, base32 or decimal digits, or
// as bare bytes, also in compressed files.
//
// Let it learn the keys of a story with Learn, and ask Scan about all that the
// story wrote.
type Leaks struct {
	known map[tuf.CanonicalID]bool
	parts []part
}

// A part is how a key could be written.
type part struct {
	what string
	raw  []byte
}

// Known is how many keys have been learnt.
func (l *Leaks) Known() int { return len(l.known) }

// Add learns a key.
func (l *Leaks) Add(key crypto.Signer) error {
	public, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	id := public.CanonicalID()
	if l.known[id] {
		return nil
	}
	if l.known == nil {
		l.known = map[tuf.CanonicalID]bool{}
	}
	l.known[id] = true
	number := func(n *big.Int) {
		l.secret(id, n.Bytes())
		l.parts = append(l.parts, part{fmt.Sprintf("key %s in decimal digits", id.Short()), []byte(n.String())})
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 the number is what may leak
		number(k.D)
	case *rsa.PrivateKey:
		number(k.D)
		for _, p := range k.Primes {
			number(p)
		}
	case ed25519.PrivateKey:
		l.secret(id, k.Seed())
	default:
		return fmt.Errorf("%w: keys of type %T have no known form", tuf.ErrKey, key)
	}
	return nil
}

// secret learns the forms of secret bytes.
func (l *Leaks) secret(id tuf.CanonicalID, raw []byte) {
	add := func(what string, form []byte) {
		l.parts = append(l.parts, part{fmt.Sprintf("key %s as %s", id.Short(), what), form})
	}
	add("bytes", raw)
	back := slices.Clone(raw)
	slices.Reverse(back)
	add("bytes, the last first", back)
	lower := hex.EncodeToString(raw)
	add("hexadecimal digits", []byte(lower))
	add("hexadecimal digits", []byte(strings.ToUpper(lower)))
	// What stands before the secret shifts its letters: 3 bytes are 4 letters
	// of base64, 5 bytes 8 of base32.
	for shift := range 3 {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := e.EncodeToString(append(make([]byte, shift), raw...))
			add("base64", []byte(form[(shift*8+5)/6:len(form)-1]))
		}
	}
	for shift := range 5 {
		form := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(append(make([]byte, shift), raw...))
		add("base32", []byte(form[(shift*8+4)/5:len(form)-1]))
	}
}

// Learn learns the encrypted keys in a file that one of the passphrases opens.
// Other files teach nothing.
func (l *Leaks) Learn(raw []byte, passphrases ...string) error {
	if !bytes.Contains(raw, []byte("PRIVATE KEY-----")) {
		return nil
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return nil // what is broken teaches nothing either
	}
	for _, b := range blocks {
		for _, p := range passphrases {
			key, err := b.Key([]byte(p))
			if !b.Encrypted() || err != nil {
				continue
			}
			if err := l.Add(key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Find says which key stands in raw, and how; empty if none does.
func (l *Leaks) Find(raw []byte) string {
	if found := plainBlock(raw); found != "" {
		return found
	}
	// Line ends, also those that JSON wrote, and what groups letters, do not
	// hide anything.
	joined := raw
	for _, s := range []string{`\r`, `\n`, "\r", "\n", " ", "\t", "-", ":"} {
		joined = bytes.ReplaceAll(joined, []byte(s), nil)
	}
	for _, p := range l.parts {
		if bytes.Contains(raw, p.raw) || bytes.Contains(joined, p.raw) {
			return p.what
		}
	}
	if z, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
		const most = 64 << 20
		inside, _ := io.ReadAll(io.LimitReader(z, most)) // as far as it goes
		if found := l.Find(inside); found != "" {
			return found + ", compressed"
		}
	}
	return ""
}

// plainBlock finds any key in PEM form that is not encrypted, known or not.
func plainBlock(raw []byte) string {
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			return ""
		}
		if strings.HasSuffix(b.Type, "PRIVATE KEY") && !strings.HasPrefix(b.Type, "ENCRYPTED") && b.Headers["DEK-Info"] == "" {
			return "a key in PEM form that is not encrypted"
		}
	}
}

// Scan learns what the passphrases open in all files below dir, and returns
// what then stands unencrypted in any of them, temporary files included. Files
// that allowed names, by their path below dir, are there because the story put
// them there.
func (l *Leaks) Scan(dir string, allowed []string, passphrases ...string) ([]string, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = raw
		return l.Learn(raw, passphrases...)
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for name, raw := range files {
		if what := l.Find(raw); what != "" && !slices.Contains(allowed, name) {
			found = append(found, name+": "+what)
		}
	}
	slices.Sort(found)
	return found, nil
}
