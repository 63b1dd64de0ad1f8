package notary

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/iechor/trust/database"
)

// A table of the stock programs, as far as it is read.
type table struct {
	name    string
	columns []column
}

type column struct {
	name string
	is   affinity
}

type affinity int

const (
	integer affinity = iota
	characters
	octets
)

func (a affinity) String() string { return [...]string{"INTEGER", "TEXT", "BLOB"}[a] }

var tables = []table{
	{"tuf_files", []column{
		{"id", integer}, {"created_at", characters}, {"deleted_at", characters}, {"gun", characters}, {"role", characters},
		{"version", integer}, {"data", octets}, {"sha256", characters},
	}},
	{"changefeed", []column{{"id", integer}}},
	{"private_keys", []column{
		{"id", integer}, {"created_at", characters}, {"deleted_at", characters}, {"key_id", characters}, {"algorithm", characters},
		{"passphrase_alias", characters}, {"public", octets}, {"private", octets}, {"gun", characters}, {"role", characters}, {"last_used", characters},
	}},
}

// What is written in one transaction: so many rows or bytes.
const (
	batch      = 500
	batchBytes = 16 << 20
)

// Load reads the SQL that pg_dump (with or without --inserts), mysqldump or
// mariadb-dump wrote of a server's or a signer's database, or of both, into
// db, an empty SQLite database, and returns how many rows it took. The dump is
// read as a stream. Errors match [ErrDump] where it is at fault; what is in db
// then is of no use.
func Load(ctx context.Context, dump io.Reader, db *database.DB) (rows int, err error) {
	w := &writer{ctx: ctx, db: db}
	if err := w.prepare(); err != nil {
		return 0, err
	}
	p := newParser(dump, w.take)
	if err := p.run(); err != nil {
		return 0, err
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	if !p.any {
		return 0, fmt.Errorf("%w: it has none of the tables of notary-server and notary-signer", ErrDump)
	}
	return w.rows, nil
}

// A writer keeps rows in a database.
type writer struct {
	ctx     context.Context
	db      *database.DB
	pending []pendingRow
	bytes   int // in pending
	rows    int
}

type pendingRow struct {
	table *table
	args  []any
}

func (w *writer) prepare() error {
	return w.db.Update(w.ctx, func(t *database.Tx) error {
		for _, table := range tables {
			var list []string
			for _, c := range table.columns {
				list = append(list, c.name+" "+c.is.String())
			}
			if _, err := t.Exec(w.ctx, "CREATE TABLE "+table.name+" ("+strings.Join(list, ", ")+")"); err != nil {
				return fmt.Errorf("prepare for the dump: %w", err)
			}
		}
		for _, index := range []string{"CREATE INDEX tuf_files_gun ON tuf_files (gun)", "CREATE UNIQUE INDEX tuf_files_id ON tuf_files (id)"} {
			if _, err := t.Exec(w.ctx, index); err != nil {
				return fmt.Errorf("prepare for the dump: %w", err)
			}
		}
		return nil
	})
}

// take keeps one row, which has about so many bytes.
func (w *writer) take(t *table, args []any, bytes int) error {
	w.pending, w.bytes, w.rows = append(w.pending, pendingRow{t, args}), w.bytes+bytes, w.rows+1
	if len(w.pending) < batch && w.bytes < batchBytes {
		return nil
	}
	return w.flush()
}

// flush writes the rows that were taken.
func (w *writer) flush() error {
	err := w.db.Update(w.ctx, func(t *database.Tx) error {
		for _, r := range w.pending {
			if _, err := t.Exec(w.ctx, "INSERT INTO "+r.table.name+" VALUES (?"+strings.Repeat(", ?", len(r.args)-1)+")", r.args...); err != nil {
				return err
			}
		}
		return nil
	})
	if database.IsUnique(err) {
		return fmt.Errorf("%w: two rows have one number", ErrDump)
	}
	if err != nil {
		return fmt.Errorf("keep the rows of the dump: %w", err)
	}
	w.pending, w.bytes = w.pending[:0], 0
	return nil
}

// A parser hands the rows of a dump on.
type parser struct {
	l       *lexer
	columns map[string][]string // of tables that were created in the dump, in order
	any     bool                // there was one of our tables
	take    func(t *table, args []any, bytes int) error
}

func newParser(dump io.Reader, take func(*table, []any, int) error) *parser {
	return &parser{l: newLexer(dump), columns: map[string][]string{}, take: take}
}

// run reads statement after statement.
func (p *parser) run() error {
	for {
		t, err := p.l.next()
		if err != nil {
			return err
		}
		switch {
		case t.kind == end:
			return nil
		case t.keyword("create"):
			err = p.create()
		case t.keyword("insert"):
			err = p.insert()
		case t.keyword("copy"):
			err = p.copy()
		case t.is(';'):
		default:
			err = p.rest()
		}
		if err != nil {
			return err
		}
	}
}

// rest passes over the rest of a statement.
func (p *parser) rest() error {
	for {
		t, err := p.l.next()
		if err != nil || t.is(';') {
			return err
		}
		if t.kind == end {
			return p.l.errorf("the dump is cut off")
		}
	}
}

// tableName reads the name of a table, without the schema before it.
func (p *parser) tableName() (string, error) {
	t, err := p.l.next()
	if err != nil {
		return "", err
	}
	name := string(t.text)
	if t.kind != word {
		return "", p.l.errorf("no name of a table")
	}
	// Quoted parts come apart: "public"."tuf_files".
	for p.l.ahead(".") {
		_, _ = p.l.r.Discard(1) // it was just seen
		if t, err = p.l.next(); err != nil {
			return "", err
		}
		name = string(t.text)
	}
	return strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "\"`"), nil
}

func known(name string) *table {
	if i := slices.IndexFunc(tables, func(t table) bool { return t.name == name }); i >= 0 {
		return &tables[i]
	}
	return nil
}

// create notes the order of the columns of one of our tables.
func (p *parser) create() error {
	t, err := p.l.next()
	if err != nil {
		return err
	}
	if !t.keyword("table") {
		return p.restUnless(t)
	}
	name, err := p.tableName()
	if err != nil {
		return err
	}
	if strings.EqualFold(name, "if") { // IF NOT EXISTS
		for range 2 {
			if _, err := p.l.next(); err != nil {
				return err
			}
		}
		if name, err = p.tableName(); err != nil {
			return err
		}
	}
	if known(name) == nil {
		return p.rest()
	}
	p.any = true
	var list []string
	depth, first := 0, false
	for {
		t, err := p.l.next()
		if err != nil {
			return err
		}
		switch {
		case t.kind == end:
			return p.l.errorf("the dump is cut off")
		case t.is(';'):
			p.columns[name] = list
			return nil
		case t.is('('):
			depth++
			first = depth == 1
			continue
		case t.is(')'):
			depth--
		case t.is(','):
			first = depth == 1
			continue
		case t.kind == word && depth == 1 && first && !constraint(t):
			list = append(list, string(t.text))
		}
		first = false
	}
}

// constraint reports whether a line of CREATE TABLE that begins so is about
// something else than a column.
func constraint(t token) bool {
	return slices.ContainsFunc([]string{"primary", "unique", "key", "index", "constraint", "foreign", "check", "fulltext"}, t.keyword)
}

// restUnless passes over the rest of a statement, unless t ended it.
func (p *parser) restUnless(t token) error {
	if t.is(';') || t.kind == end {
		return nil
	}
	return p.rest()
}

// names reads a list of columns up to its closing parenthesis.
func (p *parser) names() ([]string, error) {
	var list []string
	for {
		t, err := p.l.next()
		switch {
		case err != nil:
			return nil, err
		case t.kind == word:
			list = append(list, string(t.text))
		case t.is(')'):
			return list, nil
		case !t.is(','):
			return nil, p.l.errorf("no list of columns")
		}
	}
}

// insert reads INSERT [IGNORE] INTO name [(columns)] VALUES (…), (…);
func (p *parser) insert() error {
	t, err := p.l.next()
	for err == nil && !t.keyword("into") {
		if t.kind != word {
			return p.l.errorf("INSERT without INTO")
		}
		t, err = p.l.next()
	}
	if err != nil {
		return err
	}
	name, err := p.tableName()
	if err != nil {
		return err
	}
	table := known(name)
	if table == nil {
		return p.rest()
	}
	p.any = true
	list := p.columns[name]
	for {
		if t, err = p.l.next(); err != nil {
			return err
		}
		if t.is('(') {
			if list, err = p.names(); err != nil {
				return err
			}
			continue
		}
		if t.keyword("values") || t.keyword("value") {
			break
		}
		return p.l.errorf("INSERT INTO %s without VALUES", name)
	}
	if len(list) == 0 {
		return p.l.errorf("the columns of %s are not known: the dump needs its CREATE TABLE, or the names in each INSERT", name)
	}
	for {
		if t, err = p.l.next(); err != nil {
			return err
		}
		switch {
		case t.is('('):
			values, err := p.values()
			if err != nil {
				return err
			}
			if err := p.row(table, list, values); err != nil {
				return err
			}
		case t.is(','):
		case t.is(';'):
			return nil
		case t.keyword("on"): // ON CONFLICT DO NOTHING
			return p.rest()
		case t.kind == end:
			return p.l.errorf("the dump is cut off")
		default:
			return p.l.errorf("no row where one is expected")
		}
	}
}

// values reads the values of one row; nil stands for NULL.
func (p *parser) values() ([][]byte, error) {
	var row [][]byte
	for expected := true; ; {
		t, err := p.l.next()
		switch {
		case err != nil:
			return nil, err
		case t.is(','):
			expected = true
			continue
		case t.is(')'):
			return row, nil
		case t.kind == end:
			return nil, p.l.errorf("the dump is cut off")
		case t.kind == punct || !expected:
			return nil, p.l.errorf("no value where one is expected")
		case t.keyword("null"):
			row = append(row, nil)
		default:
			row = append(row, t.text)
		}
		expected = false
	}
}

// copy reads COPY name (columns) FROM stdin; and the lines behind it.
func (p *parser) copy() error {
	name, err := p.tableName()
	if err != nil {
		return err
	}
	t, err := p.l.next()
	if err != nil {
		return err
	}
	list := p.columns[name]
	if t.is('(') {
		if list, err = p.names(); err != nil {
			return err
		}
	}
	if err := p.rest(); err != nil {
		return err
	}
	if _, err := p.l.lineRest(); err != nil { // behind the semicolon
		return p.l.cut(err)
	}
	table := known(name)
	p.any = p.any || table != nil
	for {
		line, err := p.l.lineRest()
		if err != nil {
			return p.l.cut(err)
		}
		if string(line) == `\.` {
			return nil
		}
		if table == nil {
			continue
		}
		var values [][]byte
		for field := range bytes.SplitSeq(line, []byte("\t")) {
			values = append(values, uncopied(field))
		}
		if err := p.row(table, list, values); err != nil {
			return err
		}
	}
}

// uncopied undoes the escapes of PostgreSQL's COPY; \N is nil.
func uncopied(field []byte) []byte {
	if string(field) == `\N` {
		return nil
	}
	out := make([]byte, 0, len(field))
	for i := 0; i < len(field); i++ {
		c := field[i]
		if c == '\\' && i+1 < len(field) {
			i++
			switch c = field[i]; c {
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'v':
				c = '\v'
			}
		}
		out = append(out, c)
	}
	return out
}

// row hands one row of one of our tables on.
func (p *parser) row(t *table, names []string, values [][]byte) error {
	if len(names) != len(values) {
		return p.l.errorf("a row of %s has %d values for %d columns", t.name, len(values), len(names))
	}
	var args []any
	size := 0
	for _, c := range t.columns {
		i := slices.Index(names, c.name)
		if i < 0 {
			return p.l.errorf("%s has no column %s", t.name, c.name)
		}
		v, err := p.value(c, values[i])
		if err != nil {
			return err
		}
		args, size = append(args, v), size+len(values[i])
	}
	return p.take(t, args, size)
}

func (p *parser) value(c column, v []byte) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch c.is {
	case integer:
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return nil, p.l.errorf("%.40q is no number for %s", v, c.name)
		}
		return n, nil
	case octets:
		if p.l.backslash { // MySQL's strings are bytes already
			return v, nil
		}
		b, err := bytea(v)
		if err != nil {
			return nil, p.l.errorf("%s: %w", c.name, err)
		}
		return b, nil
	}
	return string(v), nil
}

// bytea reads PostgreSQL's two ways to write bytes.
func bytea(v []byte) ([]byte, error) {
	if digits, ok := bytes.CutPrefix(v, []byte(`\x`)); ok {
		b := make([]byte, hex.DecodedLen(len(digits)))
		if _, err := hex.Decode(b, digits); err != nil {
			return nil, fmt.Errorf("not hexadecimal: %w", err)
		}
		return b, nil
	}
	out := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		switch {
		case v[i] != '\\':
			out = append(out, v[i])
		case i+1 < len(v) && v[i+1] == '\\':
			out, i = append(out, '\\'), i+1
		default:
			n, err := strconv.ParseUint(string(v[i+1:min(i+4, len(v))]), 8, 8)
			if err != nil || i+4 > len(v) {
				return nil, errors.New("not PostgreSQL's form of bytes")
			}
			out, i = append(out, byte(n)), i+3
		}
	}
	return out, nil
}
