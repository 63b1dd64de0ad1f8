package tuf

import (
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxInteger is the largest integer that every verifier reads alike: the
// stock ones decode numbers as IEEE doubles (notary-protocol 1.2).
const maxInteger = 1 << 53

// maxDepth bounds nesting. Real metadata has nine levels.
const maxDepth = 64

// A text has at most maxValues values, and at most fewValues and one for each
// valueBytes: a value takes up to a hundred times the memory of its two bytes
// of text (attacks.md L2). The largest targets file, full of the shortest tags
// that there can be, has fewer than 800,000, one for each 21 bytes.
const (
	maxValues  = 1 << 20
	fewValues  = 16 << 10
	valueBytes = 8
)

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// A node is a decoded JSON value. Numbers and booleans keep their text.
// Members of objects are sorted by the bytes of their names, which is the
// canonical order. Nodes are never changed once made: edits copy the path
// from the root of the tree to the change and share the rest.
type node struct {
	kind  kind
	text  string   // strings (decoded), numbers, booleans
	names []string // objects
	items []node   // arrays, and the values of objects
}

func stringNode(s string) node    { return node{kind: kindString, text: s} }
func objectNode() node            { return node{kind: kindObject} }
func arrayNode(items []node) node { return node{kind: kindArray, items: items} }

// get returns a member of an object.
func (n node) get(name string) (node, bool) {
	if i, ok := slices.BinarySearch(n.names, name); ok {
		return n.items[i], true
	}
	return node{}, false
}

// with returns the object with a member set.
func (n node) with(name string, v node) node {
	i, ok := slices.BinarySearch(n.names, name)
	out := node{kind: kindObject}
	if ok {
		out.names = n.names
		out.items = slices.Clone(n.items)
		out.items[i] = v
		return out
	}
	out.names = inserted(n.names, i, name)
	out.items = inserted(n.items, i, v)
	return out
}

// inserted returns a copy of s with v at i.
func inserted[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

// without returns the object without a member.
func (n node) without(name string) node {
	i, ok := slices.BinarySearch(n.names, name)
	if !ok {
		return n
	}
	return node{
		kind:  kindObject,
		names: slices.Delete(slices.Clone(n.names), i, i+1),
		items: slices.Delete(slices.Clone(n.items), i, i+1),
	}
}

// equal reports whether both are the same value. Shared subtrees are equal
// without a look.
func (n node) equal(o node) bool {
	if len(n.items) > 0 && len(n.items) == len(o.items) && &n.items[0] == &o.items[0] &&
		n.kind == o.kind && slices.Equal(n.names, o.names) {
		return true
	}
	return n.kind == o.kind && n.text == o.text && slices.Equal(n.names, o.names) &&
		slices.EqualFunc(n.items, o.items, node.equal)
}

// parseJSON reads one JSON value strictly: valid UTF-8, no duplicate member
// names, integers only, no more than depth levels, a bounded number of values,
// nothing after the value (attacks.md K16, L5, S13). The error matches [ErrMalformed].
func parseJSON(raw []byte, depth int) (node, error) {
	n, _, err := parseSpans(raw, depth, "")
	return n, err
}

// A span is where a member's value stands in the input, and whether its bytes
// there are already its canonical form.
type span struct {
	start, end int
	canonical  bool
}

// parseSpans is parseJSON that also tells where the value of one member of
// the outermost object stands.
func parseSpans(raw []byte, depth int, member string) (node, span, error) {
	p := parser{in: string(raw), depth: depth, member: member, unfinished: unfinishedPool.Get().(*unfinished)}
	defer p.release()
	if !utf8.ValidString(p.in) {
		return node{}, span{}, malformed("not valid UTF-8")
	}
	p.space()
	n, err := p.value(0)
	if err != nil {
		return node{}, span{}, err
	}
	p.space()
	if p.at != len(p.in) {
		return node{}, span{}, malformed("data after the end of the JSON document")
	}
	return n, p.found, nil
}

type parser struct {
	in     string
	at     int
	depth  int
	member string
	found  span
	values int
	// loose counts the places where the input is not in canonical form.
	loose int
	*unfinished
}

// unfinished objects and arrays have these names and items so far, one after the
// other: how many they will be is not known.
type unfinished struct {
	names []string
	items []node
}

// Most texts are small, and read often. What one of them needed here is used
// again, up to some 100 KiB.
var unfinishedPool = sync.Pool{New: func() any { return new(unfinished) }}

const maxPooled = 1 << 10

func (u *unfinished) release() {
	if cap(u.items) > maxPooled || cap(u.names) > maxPooled {
		return
	}
	take(&u.names, 0) // of a text that was refused
	take(&u.items, 0)
	unfinishedPool.Put(u)
}

// take returns what was added to s since it had n. If it is much it is not
// copied.
func take[T any](s *[]T, n int) []T {
	added := (*s)[n:]
	if len(added) > maxPooled {
		*s = slices.Clone((*s)[:n])
		return slices.Clip(added)
	}
	taken := slices.Clone(added)
	clear(added)
	*s = (*s)[:n]
	return slices.Clip(taken)
}

func (p *parser) space() {
	start := p.at
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
			continue
		}
		break
	}
	if p.at > start {
		p.loose++
	}
}

func (p *parser) fail(what string) error {
	return malformed("%s at byte %d of the JSON text", what, p.at)
}

func (p *parser) value(level int) (node, error) {
	if level >= p.depth {
		return node{}, p.fail("too deeply nested")
	}
	if p.values++; p.values > min(maxValues, fewValues+len(p.in)/valueBytes) {
		return node{}, p.fail("more values than are read")
	}
	if p.at >= len(p.in) {
		return node{}, p.fail("unexpected end")
	}
	switch c := p.in[p.at]; {
	case c == '{':
		return p.object(level)
	case c == '[':
		return p.array(level)
	case c == '"':
		s, err := p.str()
		return stringNode(s), err
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	}
	for _, w := range [...]struct {
		text string
		kind kind
	}{{"null", kindNull}, {"true", kindBool}, {"false", kindBool}} {
		if strings.HasPrefix(p.in[p.at:], w.text) {
			p.at += len(w.text)
			if w.kind == kindNull {
				return node{}, nil
			}
			return node{kind: w.kind, text: w.text}, nil
		}
	}
	return node{}, p.fail("unexpected character")
}

func (p *parser) object(level int) (node, error) {
	n := node{kind: kindObject}
	names, items := len(p.names), len(p.items)
	p.at++
	p.space()
	sorted := true
	for first := true; ; first = false {
		if p.at >= len(p.in) {
			return n, p.fail("unexpected end")
		}
		if p.in[p.at] == '}' && first {
			p.at++
			return n, nil
		}
		if p.in[p.at] != '"' {
			return n, p.fail("expected a member name")
		}
		name, err := p.str()
		if err != nil {
			return n, err
		}
		p.space()
		if p.at >= len(p.in) || p.in[p.at] != ':' {
			return n, p.fail("expected a colon")
		}
		p.at++
		p.space()
		start, loose := p.at, p.loose
		v, err := p.value(level + 1)
		if err != nil {
			return n, err
		}
		if level == 0 && name == p.member {
			p.found = span{start, p.at, p.loose == loose}
		}
		if k := len(p.names); k > names && p.names[k-1] >= name {
			sorted = false
		}
		p.names = append(p.names, name)
		p.items = append(p.items, v)
		p.space()
		if p.at >= len(p.in) {
			return n, p.fail("unexpected end")
		}
		switch p.in[p.at] {
		case ',':
			p.at++
			p.space()
		case '}':
			p.at++
			n.names, n.items = take(&p.names, names), take(&p.items, items)
			if !sorted {
				p.loose++
				sort.Sort((*byName)(&n))
				for i := 1; i < len(n.names); i++ {
					if n.names[i] == n.names[i-1] {
						return n, malformed("duplicate member %q", n.names[i])
					}
				}
			}
			return n, nil
		default:
			return n, p.fail("expected a comma or a closing brace")
		}
	}
}

type byName node

func (b *byName) Len() int           { return len(b.names) }
func (b *byName) Less(i, j int) bool { return b.names[i] < b.names[j] }
func (b *byName) Swap(i, j int) {
	b.names[i], b.names[j] = b.names[j], b.names[i]
	b.items[i], b.items[j] = b.items[j], b.items[i]
}

func (p *parser) array(level int) (node, error) {
	n := node{kind: kindArray}
	items := len(p.items)
	p.at++
	p.space()
	for first := true; ; first = false {
		if p.at >= len(p.in) {
			return n, p.fail("unexpected end")
		}
		if p.in[p.at] == ']' && first {
			p.at++
			return n, nil
		}
		v, err := p.value(level + 1)
		if err != nil {
			return n, err
		}
		p.items = append(p.items, v)
		p.space()
		if p.at >= len(p.in) {
			return n, p.fail("unexpected end")
		}
		switch p.in[p.at] {
		case ',':
			p.at++
			p.space()
		case ']':
			p.at++
			n.items = take(&p.items, items)
			return n, nil
		default:
			return n, p.fail("expected a comma or a closing bracket")
		}
	}
}

// number reads an integer. Fractions and exponents are refused because
// verifiers disagree about them.
func (p *parser) number() (node, error) {
	start := p.at
	if p.in[p.at] == '-' {
		p.at++
	}
	digits := p.at
	var v int64
	for p.at < len(p.in) && '0' <= p.in[p.at] && p.in[p.at] <= '9' {
		if v = v*10 + int64(p.in[p.at]-'0'); v > maxInteger {
			return node{}, p.fail("an integer beyond 2^53")
		}
		p.at++
	}
	switch text := p.in[start:p.at]; {
	case p.at == digits:
		return node{}, p.fail("expected a digit")
	case p.in[digits] == '0' && p.at-digits > 1, text == "-0":
		return node{}, p.fail("an integer with a leading zero or sign")
	case p.at < len(p.in) && strings.IndexByte(".eE", p.in[p.at]) >= 0:
		return node{}, p.fail("a number that is not an integer")
	default:
		return node{kind: kindNumber, text: text}, nil
	}
}

func (p *parser) str() (string, error) {
	p.at++
	start := p.at
	for p.at < len(p.in) {
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			return p.in[start : p.at-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.fail("a control character in a string")
		}
		p.at++
	}
	return "", p.fail("unterminated string")
}

// escaped reads the rest of a string from its first escape.
func (p *parser) escaped(start int) (string, error) {
	b := []byte(p.in[start:p.at])
	for p.at < len(p.in) {
		c := p.in[p.at]
		p.at++
		switch {
		case c == '"':
			return string(b), nil
		case c < 0x20:
			return "", p.fail("a control character in a string")
		case c != '\\':
			b = append(b, c)
			continue
		}
		if p.at >= len(p.in) {
			break
		}
		c = p.in[p.at]
		p.at++
		if c != '"' && c != '\\' {
			p.loose++
		}
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, err := p.hex4()
			if err != nil {
				return "", err
			}
			if 0xd800 <= r && r < 0xe000 {
				if r >= 0xdc00 || !strings.HasPrefix(p.in[p.at:], `\u`) {
					return "", p.fail("half a surrogate pair")
				}
				p.at += 2
				low, err := p.hex4()
				if err != nil {
					return "", err
				}
				if low < 0xdc00 || low >= 0xe000 {
					return "", p.fail("half a surrogate pair")
				}
				r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
			}
			b = utf8.AppendRune(b, r)
		default:
			return "", p.fail("an unknown escape")
		}
	}
	return "", p.fail("unterminated string")
}

func (p *parser) hex4() (rune, error) {
	var r rune
	for range 4 {
		if p.at >= len(p.in) {
			return 0, p.fail("unexpected end")
		}
		switch c := p.in[p.at]; {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, p.fail("expected a hexadecimal digit")
		}
		p.at++
	}
	return r, nil
}
