package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/iechor/trust/tuf"
)

// An inspectPrinter writes inspections, one after the other. Rows are written
// as they come: a repository may have very many.
type inspectPrinter interface {
	print(*inspection) error
	end() error
}

func (o *inspectOptions) printer(out *bufio.Writer) inspectPrinter {
	switch {
	case o.pretty:
		return &prettyInspect{out: out}
	case o.format != nil:
		return &formattedInspect{out, o.format}
	}
	return &jsonInspect{out: out, full: o.full}
}

// A holder is a signer or an administrator, with their keys.
type holder struct {
	Name string
	Keys []heldKey
}

type heldKey struct {
	ID    string
	KeyID tuf.CanonicalID `json:",omitempty"` // if ID is that of a certificate
}

// A roleState is what a role of the repository is like.
type roleState struct {
	Name      tuf.RoleName
	Version   int64     `json:",omitempty"` // 0: it has published nothing
	Expires   time.Time `json:",omitzero"`
	Threshold int
	Keys      []tuf.CanonicalID
	Paths     []string `json:",omitempty"`
	Problem   string   `json:",omitempty"` // why it does not count
}

// A signedTag is a row with those who signed it.
type signedTag struct {
	SignedTag string
	Digest    string
	Signers   []string
}

func (s *inspection) signedTag(r row) signedTag {
	t := signedTag{r.tag, hex.EncodeToString(r.digest[:]), s.signers(r)}
	if len(t.Signers) == 0 {
		t.Signers = nobodyElse
	}
	return t
}

// nobodyElse stands for the signers of what the repository's key alone signed.
var nobodyElse = []string{repoAdmin}

// An inspected is an inspection as --json and --format show it.
type inspected struct {
	Name               string
	SignedTags         []signedTag
	Signers            []holder
	AdministrativeKeys []holder
	Server             string
	Cached             bool
	Roles              []roleState
	PrivateKeys        []privateKey
}

// delegations returns all delegations, those above before those below.
func delegations(set *tuf.Set) []tuf.Delegation {
	queue := set.Delegations(tuf.RoleTargets)
	for n := 0; n < len(queue); n++ {
		queue = append(queue, set.Delegations(queue[n].Name)...)
	}
	return queue
}

// signerKeys lists the signers by name, descending: as the stock program does.
func (s *inspection) signerKeys() []holder {
	signers := []holder{}
	for _, d := range delegations(s.set) {
		if d.Name == tuf.RoleReleases {
			continue
		}
		h := holder{Name: signerName(d.Name), Keys: []heldKey{}}
		for _, k := range d.Keys {
			h.Keys = append(h.Keys, heldKey{ID: string(k.CanonicalID())})
		}
		signers = append(signers, h)
	}
	slices.SortFunc(signers, func(a, b holder) int { return strings.Compare(b.Name, a.Name) })
	return signers
}

// administrators lists the keys of root and targets. A root key goes by the id
// of its certificate; with full, the id of its key file is beside it.
func (s *inspection) administrators(full bool) []holder {
	root, repository := holder{Name: "Root", Keys: []heldKey{}}, holder{Name: "Repository", Keys: []heldKey{}}
	role, _ := s.set.Role(tuf.RoleRoot) // every Set has these two
	for _, k := range role.Keys {
		h := heldKey{ID: string(k.ID)}
		if full {
			h.KeyID = k.CanonicalID()
		}
		root.Keys = append(root.Keys, h)
	}
	role, _ = s.set.Role(tuf.RoleTargets)
	for _, k := range role.Keys {
		repository.Keys = append(repository.Keys, heldKey{ID: string(k.CanonicalID())})
	}
	return []holder{root, repository}
}

// roleStates describes all roles, the top-level ones first.
func roleStates(set *tuf.Set) []roleState {
	names := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp}
	var below []tuf.RoleName
	for _, d := range delegations(set) {
		below = append(below, d.Name)
	}
	sortRoles(below)
	problems := map[tuf.RoleName]string{}
	for _, u := range set.Unusable() {
		problems[u.Role] = u.Err.Err.Error()
	}
	var states []roleState
	for _, name := range append(names, below...) {
		role, _ := set.Role(name) // it was just listed
		state := roleState{Name: name, Threshold: role.Threshold, Keys: []tuf.CanonicalID{}, Paths: role.Paths, Problem: problems[name]}
		for _, k := range role.Keys {
			state.Keys = append(state.Keys, k.CanonicalID())
		}
		if info, ok := set.Info(name); ok {
			state.Version, state.Expires = info.Version, info.Expires
		}
		if state.Problem == "" && len(role.Keys) < role.Threshold {
			state.Problem = fmt.Sprintf("has %d of the %d keys that must sign", len(role.Keys), role.Threshold)
		}
		states = append(states, state)
	}
	return states
}

func sortRoles(roles []tuf.RoleName) { slices.Sort(roles) }

// sortedRows sorts by tag, as people count, and leaves out what is there twice.
func sortedRows(rows []row) []row {
	slices.SortStableFunc(rows, func(a, b row) int { return compareTags(a.tag, b.tag) })
	return slices.Compact(rows)
}

// jsonInspect writes the array of spec/cli.md 7.5.
type jsonInspect struct {
	out   *bufio.Writer
	full  bool
	begun bool
}

func (p *jsonInspect) print(s *inspection) error {
	if p.begun {
		p.out.WriteString(",\n    {")
	} else {
		p.out.WriteString("[\n    {")
	}
	p.begun = true
	fmt.Fprintf(p.out, "\n        \"Name\": %s,\n        \"SignedTags\": [", quote(s.name))
	var digest [64]byte
	for n, r := range s.rows {
		if n > 0 {
			p.out.WriteByte(',')
		}
		hex.Encode(digest[:], r.digest[:])
		p.out.WriteString("\n            {\n                \"SignedTag\": ")
		p.out.Write(quote(r.tag))
		p.out.WriteString(",\n                \"Digest\": \"")
		p.out.Write(digest[:])
		p.out.WriteString("\",\n                \"Signers\": [")
		signers := s.signers(r)
		if len(signers) == 0 {
			signers = nobodyElse
		}
		for n, name := range signers {
			if n > 0 {
				p.out.WriteByte(',')
			}
			p.out.WriteString("\n                    ")
			p.out.Write(quote(name))
		}
		p.out.WriteString("\n                ]\n            }")
	}
	if len(s.rows) > 0 {
		p.out.WriteString("\n        ")
	}
	p.out.WriteString("],")
	rest, err := json.MarshalIndent(p.rest(s), "    ", "    ")
	if err != nil {
		return err
	}
	_, err = p.out.Write(escape(rest[1:])) // after its brace, to go on in ours
	return err
}

// rest is everything but the rows.
func (p *jsonInspect) rest(s *inspection) any {
	type stock struct{ Signers, AdministrativeKeys []holder }
	keys := stock{s.signerKeys(), s.administrators(p.full)}
	if !p.full {
		return keys
	}
	return struct {
		stock
		Server string
		Cached bool
		Roles  []roleState

		PrivateKeys []privateKey `json:",omitempty"`
	}{keys, s.server, s.stale, roleStates(s.set), s.private}
}

func (p *jsonInspect) end() error {
	if !p.begun {
		_, err := p.out.WriteString("[]\n")
		return err
	}
	_, err := p.out.WriteString("\n]\n")
	return err
}

// quote writes a JSON string that draws nothing on a terminal.
func quote(s string) []byte {
	raw, _ := json.Marshal(s) // a string
	return escape(raw)
}

// escape writes, in a JSON text, what printable would replace as \u escapes:
// it stays what it is.
func escape(raw []byte) []byte {
	if !bytes.ContainsFunc(raw, unsafe) {
		return raw
	}
	var b bytes.Buffer
	for _, c := range string(raw) {
		if unsafe(c) {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.Bytes()
}

// unsafe reports whether c may not go to a terminal; a line break may.
func unsafe(c rune) bool { return c >= 0x7f && printable(string(c)) != string(c) }

// formattedInspect applies a template to each image.
type formattedInspect struct {
	out      *bufio.Writer
	template *template.Template
}

func parseFormat(text string) (*template.Template, error) {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			raw, err := json.Marshal(v)
			return string(escape(raw)), err
		},
		"join": strings.Join,
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	// A wrong member is an error before any work, not in the middle of it.
	sample := inspected{
		SignedTags: []signedTag{{Signers: []string{""}}}, Signers: []holder{{Keys: []heldKey{{}}}},
		AdministrativeKeys: []holder{{Keys: []heldKey{{}}}}, Roles: []roleState{{Keys: []tuf.CanonicalID{""}}}, PrivateKeys: []privateKey{{}},
	}
	return t, t.Execute(io.Discard, sample)
}

func (p *formattedInspect) print(s *inspection) error {
	v := inspected{
		Name: s.name, SignedTags: []signedTag{}, Signers: s.signerKeys(), AdministrativeKeys: s.administrators(true),
		Server: s.server, Cached: s.stale, Roles: roleStates(s.set), PrivateKeys: s.private,
	}
	for _, r := range s.rows {
		t := s.signedTag(r)
		t.SignedTag = printable(t.SignedTag)
		v.SignedTags = append(v.SignedTags, t)
	}
	if err := p.template.Execute(p.out, v); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	return p.out.WriteByte('\n')
}

func (p *formattedInspect) end() error { return nil }

// prettyInspect writes tables for people.
type prettyInspect struct {
	out  *bufio.Writer
	more bool
}

func (p *prettyInspect) print(s *inspection) error {
	if p.more {
		p.out.WriteString("\n\n")
	}
	p.more = true
	if len(s.rows) == 0 {
		fmt.Fprintf(p.out, "\nNo signatures for %s\n\n", s.name)
	} else {
		fmt.Fprintf(p.out, "\nSignatures for %s\n\n", s.name)
		p.tags(s)
	}
	if signers := s.signerKeys(); len(signers) > 0 {
		fmt.Fprintf(p.out, "\nList of signers and their keys for %s\n\n", s.name)
		slices.Reverse(signers)
		t := newTable(p.out, "SIGNER", "KEYS")
		for _, h := range signers {
			var ids []string
			for _, k := range h.Keys {
				ids = append(ids, k.ID[:12])
			}
			slices.Sort(ids)
			t.line(printable(h.Name), strings.Join(ids, ", "))
		}
		t.end()
	}
	fmt.Fprintf(p.out, "\nAdministrative keys for %s\n\n", s.name)
	admins := s.administrators(true)
	fmt.Fprintf(p.out, "  Repository Key:\t%s\n", joinIDs(admins[1].Keys, func(k heldKey) string { return k.ID }))
	fmt.Fprintf(p.out, "  Root Key:\t%s\n", joinIDs(admins[0].Keys, func(k heldKey) string { return k.ID }))
	fmt.Fprintf(p.out, "  Root Key File:\t%s\n", joinIDs(admins[0].Keys, func(k heldKey) string { return string(k.KeyID) }))
	fmt.Fprintf(p.out, "\nRoles of %s\n\n", s.name)
	states, headers := roleStates(s.set), []string{"ROLE", "VERSION", "EXPIRES", "KEYS"}
	if slices.ContainsFunc(states, func(r roleState) bool { return r.Problem != "" }) {
		headers = append(headers, "PROBLEM")
	}
	t := newTable(p.out, headers...)
	for _, r := range states {
		version, expires := "-", "-"
		if r.Version > 0 {
			version, expires = fmt.Sprint(r.Version), day(r.Expires)
		}
		t.line(string(r.Name), version, expires, fmt.Sprintf("%d of %d", r.Threshold, len(r.Keys)), printable(r.Problem))
	}
	t.end()
	if len(s.private) == 0 {
		return nil
	}
	fmt.Fprintf(p.out, "\nPrivate keys on this machine for %s\n\n", s.name)
	t = newTable(p.out, "KEY", "LOCATION")
	for _, k := range s.private {
		t.line(string(k.ID[:12]), printable(k.Location))
	}
	t.end()
	return nil
}

// tags writes the rows without a table's memory of them all.
func (p *prettyInspect) tags(s *inspection) {
	const header = "SIGNED TAG"
	width := len(header)
	for _, r := range s.rows {
		width = max(width, len([]rune(r.tag)))
	}
	fmt.Fprintf(p.out, "%-*s   %-64s   %s\n", width, header, "DIGEST", "SIGNERS")
	for _, r := range s.rows {
		names := strings.Join(s.signers(r), ", ")
		if names == "" {
			names = "(" + repoAdmin + ")"
		}
		fmt.Fprintf(p.out, "%-*s   %x   %s\n", width, printable(r.tag), r.digest, names)
	}
}

func (p *prettyInspect) end() error { return nil }

func joinIDs(keys []heldKey, id func(heldKey) string) string {
	var ids []string
	for _, k := range keys {
		ids = append(ids, id(k))
	}
	slices.Sort(ids)
	return strings.Join(ids, ", ")
}

// day writes a time for people who plan.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// A table is columns at least ten wide, three apart (spec/cli.md 7.5).
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, headers ...string) table {
	t := table{tabwriter.NewWriter(out, 10, 1, 3, ' ', 0)}
	t.line(headers...)
	return t
}

// line adds a row. Cells hold nothing that draws on a screen.
func (t table) line(cells ...string) {
	for len(cells) > 0 && cells[len(cells)-1] == "" && len(cells) > 2 {
		cells = cells[:len(cells)-1]
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// end writes the table. Its errors are those of out, which keeps them.
func (t table) end() { _ = t.w.Flush() }
