package keys

import (
	"crypto/aes"
	"crypto/des"
	"crypto/md5"
	"encoding/hex"
	"encoding/pem"
	"strings"

	"github.com/iechor/trust/tuf"
)

// The encryption of PEM itself (RFC 1421), which openssl used for "RSA PRIVATE
// KEY" and "EC PRIVATE KEY". It is read and never written: its key derivation
// is one round of MD5.
var dekCiphers = map[string]blockCipher{
	"DES-CBC":      {des.NewCipher, 8, 8},
	"DES-EDE3-CBC": {des.NewTripleDESCipher, 24, 8},
	"AES-128-CBC":  {aes.NewCipher, 16, 16},
	"AES-192-CBC":  {aes.NewCipher, 24, 16},
	"AES-256-CBC":  {aes.NewCipher, 32, 16},
}

const (
	headerProcType = "Proc-Type"
	headerDEKInfo  = "DEK-Info"
)

// parseDEK reads the parameters of a legacy encrypted block. It returns nil,
// nil if the block is not encrypted in this way.
func parseDEK(b *pem.Block) (*sealed, error) {
	dek, ok := b.Headers[headerDEKInfo]
	if !ok {
		if strings.Contains(b.Headers[headerProcType], "ENCRYPTED") {
			return nil, broken("the block is encrypted, and has no %s header", headerDEKInfo)
		}
		return nil, nil
	}
	name, ivHex, _ := strings.Cut(dek, ",")
	c, ok := dekCiphers[strings.ToUpper(strings.TrimSpace(name))]
	if !ok {
		return nil, broken("cipher %q is not supported", name)
	}
	iv, err := hex.DecodeString(strings.TrimSpace(ivHex))
	if err != nil || len(iv) != c.ivBytes {
		return nil, broken("the IV in the %s header is malformed", headerDEKInfo)
	}
	if len(b.Bytes) == 0 || len(b.Bytes)%c.ivBytes != 0 {
		return nil, broken("the encrypted data is cut off")
	}
	s := &sealed{cipher: c, iv: iv, data: b.Bytes, cost: 2}
	s.derive = func(pass []byte) ([]byte, error) { return bytesToKey(pass, iv[:8], c.keyBytes), nil }
	return s, nil
}

// bytesToKey is openssl's EVP_BytesToKey with MD5 and one round.
func bytesToKey(pass, salt []byte, n int) []byte {
	var key, last []byte
	for len(key) < n {
		h := md5.New()
		h.Write(last)
		h.Write(pass)
		h.Write(salt)
		last = h.Sum(nil)
		key = append(key, last...)
	}
	clear(last)
	clear(key[n:])
	return key[:n]
}

// legacyPath reads what Notary before 0.4 said in the name of a key file,
// relative to the directory of keys and without ".key": root_keys/<id>_root,
// tuf_keys/<gun>/<id>_<role>. Its role or GUN is empty if the name has none;
// ok is false if there is no id in it.
func legacyPath(path string) (info Info, ok bool) {
	segs := strings.Split(path, "/")
	for i, seg := range segs {
		id, role, _ := strings.Cut(seg, "_")
		if !tuf.CanonicalID(id).Valid() {
			continue
		}
		if rest := segs[i+1:]; len(rest) > 0 {
			// The role was a path: <id>_targets/releases.
			if role == "" {
				return Info{}, false
			}
			role += "/" + strings.Join(rest, "/")
		}
		info = Info{ID: tuf.CanonicalID(id), Role: role}
		if i > 0 && segs[0] == legacyDirs[1] {
			info.GUN = tuf.GUN(strings.Join(segs[1:i], "/"))
		}
		return info, true
	}
	return Info{}, false
}

// legacyDirs are the directories of the old layout, inside of that of today.
var legacyDirs = [2]string{"root_keys", "tuf_keys"}
