package tuf

import "slices"

// Canonical returns the canonical form of a JSON text, over which keys sign
// (notary-protocol 1.2): members sorted by the bytes of their names, no white
// space, only '"' and '\' escaped, integers only. The text is read strictly;
// the error matches [ErrMalformed].
func Canonical(raw []byte) ([]byte, error) {
	n, err := parseJSON(raw, maxDepth)
	if err != nil {
		return nil, err
	}
	return appendCanonical(nil, n), nil
}

func appendCanonical(b []byte, n node) []byte { return appendNode(b, n, appendCanonicalString) }

// appendFileForm appends the form that travels: the canonical one with '<',
// '>', '&', U+2028, U+2029 and control characters written as \u escapes
// (notary-protocol 1.1).
func appendFileForm(b []byte, n node) []byte { return appendNode(b, n, appendFileString) }

func appendNode(b []byte, n node, str func([]byte, string) []byte) []byte {
	switch n.kind {
	case kindNull:
		return append(b, "null"...)
	case kindBool, kindNumber:
		return append(b, n.text...)
	case kindString:
		return str(b, n.text)
	case kindArray:
		b = append(b, '[')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendNode(b, v, str)
		}
		return append(b, ']')
	default:
		b = append(b, '{')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(str(b, n.names[i]), ':')
			b = appendNode(b, v, str)
		}
		return append(b, '}')
	}
}

func appendCanonicalString(b []byte, s string) []byte {
	b = append(slices.Grow(b, len(s)+2), '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func appendFileString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(slices.Grow(b, len(s)+2), '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == '<' || c == '>' || c == '&':
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c == 0xe2 && i+2 < len(s) && s[i+1] == 0x80 && s[i+2]&^1 == 0xa8: // U+2028, U+2029
			b = append(b, '\\', 'u', '2', '0', '2', digits[s[i+2]&15])
			i += 2
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
