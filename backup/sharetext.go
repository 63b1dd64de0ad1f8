package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/iechor/trust/keys"
)

// The lines of a share are typed by people: five of them, each of four groups
// of four letters and a fifth that checks the others.
const (
	shareVersion = 1
	shareLines   = 5
	lineBytes    = 10
	shareBytes   = shareLines * lineBytes
	checkedBytes = 1 + 4 + 1 + 1 + 4 + valueSize // before the checksum
	lineLetters  = 20
	maxShareFile = 64 << 10
)

var shareLine = regexp.MustCompile(`^\s*([1-5])\s*[:.)]\s*([A-Za-z0-9 \t-]+)$`)

// letters has no padding, and neither has what people type.
var letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// ordinary reads the digits that base32 does not have as the letters that they
// look like.
var ordinary = strings.NewReplacer(" ", "", "\t", "", "-", "", "0", "O", "1", "I", "8", "B")

// bytes is what stands in the lines.
func (s *Share) bytes() []byte {
	raw := []byte{shareVersion}
	raw = append(raw, s.Set[:]...)
	raw = append(raw, byte(s.Threshold), byte(s.Number))
	raw = append(raw, s.Key[:]...)
	raw = append(raw, s.value[:]...)
	sum := sha256.Sum256(raw)
	return append(raw, sum[:shareBytes-checkedBytes]...)
}

// lineCheck is the fifth group of a line.
func lineCheck(n int, data []byte) string {
	sum := sha256.Sum256(append([]byte{byte(n)}, data...))
	return letters.EncodeToString(sum[:])[:4]
}

// text is the file of a share.
func (s *Share) text(info keys.Info, shares int, file []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Share %d of %d of the %s.\nAny %d of them give the key; fewer tell nothing about it.\n\n", s.Number, shares, info, s.Threshold)
	fmt.Fprintf(&b, "  key ID     %s\n  set        %X\n  threshold  %d\n  number     %d\n\n", info.ID, s.Set, s.Threshold, s.Number)
	s.writeLines(&b)
	b.WriteString(`
These five lines are the secret part. To put the key together, bring as many
shares as the threshold says, and run

  iechor trust backup combine FILE...

A share on paper is typed into a file, these five lines are enough. What stands
below is the key, sealed by the shares together: the same in all of them, so
that one share in a file or a scan is enough for it. Without iechor, see
doc/format.md in its source, "Shares of a key".

`)
	p, _ := pem.Decode(file)
	p.Headers["path"] = string(info.ID)
	b.Write(pem.EncodeToMemory(p))
	return b.String()
}

func (s *Share) writeLines(b *strings.Builder) {
	raw := s.bytes()
	for n := range shareLines {
		line := raw[n*lineBytes : (n+1)*lineBytes]
		word := letters.EncodeToString(line)
		fmt.Fprintf(b, "  %d:  %s-%s-%s-%s-%s\n", n+1, word[:4], word[4:8], word[8:12], word[12:], lineCheck(n+1, line))
	}
}

// ParseShare reads a share from a file, or what somebody has typed of it. The
// error matches [ErrNoShare], [ErrLater] or one of package keys, or is a
// [*LineError].
func ParseShare(file []byte) (*Share, error) {
	if len(file) > maxShareFile {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrNoShare, maxShareFile)
	}
	head, _, carries := bytes.Cut(file, []byte("-----BEGIN"))
	raw, err := readLines(string(head))
	if err != nil {
		return nil, err
	}
	if raw[0] != shareVersion {
		return nil, fmt.Errorf("%w: a share of format number %d", ErrLater, raw[0])
	}
	s := &Share{Set: [4]byte(raw[1:5]), Threshold: int(raw[5]), Number: int(raw[6]), Key: [4]byte(raw[7:11])}
	copy(s.value[:], raw[11:])
	switch {
	case !bytes.Equal(s.bytes(), raw):
		return nil, fmt.Errorf("%w: its lines are not those of one share", ErrNoShare)
	case s.Threshold < 2, s.Number == 0, new(big.Int).SetBytes(s.value[:]).Cmp(order) >= 0:
		return nil, fmt.Errorf("%w: its numbers cannot be", ErrNoShare)
	}
	if !carries {
		return s, nil
	}
	blocks, err := keys.Parse(file)
	if err != nil {
		return nil, err
	}
	id, _ := hex.DecodeString(string(blocks[0].Info.ID))
	if len(blocks) > 1 || !blocks[0].Encrypted() || !bytes.HasPrefix(id, s.Key[:]) {
		return nil, fmt.Errorf("%w: the key in it is not the one of the share", ErrNoShare)
	}
	p, _ := pem.Decode(file) // keys.Parse has found it
	s.sealed, s.block = p.Bytes, blocks[0]
	return s, nil
}

// readLines finds the five lines. What else is in the file does not matter.
func readLines(text string) ([]byte, error) {
	raw := make([]byte, shareBytes)
	seen := 0
	for line := range strings.Lines(text) {
		m := shareLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		n := int(m[1][0] - '0')
		word := strings.ToUpper(ordinary.Replace(m[2]))
		if n != seen+1 {
			return nil, fmt.Errorf("%w: its lines are not 1 to %d, each once", ErrNoShare, shareLines)
		}
		seen = n
		if len(word) != lineLetters {
			return nil, &LineError{n}
		}
		data, err := letters.DecodeString(word[:lineLetters-4])
		if err != nil || lineCheck(n, data) != word[lineLetters-4:] {
			return nil, &LineError{n}
		}
		copy(raw[(n-1)*lineBytes:], data)
	}
	if seen != shareLines {
		return nil, fmt.Errorf("%w: it has %d of the %d lines", ErrNoShare, seen, shareLines)
	}
	return raw, nil
}
