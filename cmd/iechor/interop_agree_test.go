package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// agree compares what the three programs say about repositories and the trust
// directory: "agree NAME…". What "docker trust inspect" and ours print must be
// the same JSON, but for the order of what has none; what notary lists, as
// tags, delegations, staged changes and keys, must be what ours lists. Keys are
// those of $TRUSTDIR. While something is staged docker is left out: it drops what
// is staged whenever it looks at a repository.
func agree(ts *testscript.TestScript, _ bool, args []string) {
	same := func(what string, stock, ours any) {
		if diff := cmp.Diff(stock, ours); diff != "" {
			ts.Fatalf("%s (-stock +ours):\n%s", what, diff)
		}
	}
	for _, name := range args {
		staged := stagedBy(ts, "iechor", "trust", "status", name)
		same("staged changes of "+name, stagedBy(ts, "notary", "status", name), staged)
		ours := inspectedBy(ts, "iechor", name)
		if len(staged) == 0 {
			same("trust inspect "+name, inspectedBy(ts, "docker", name), ours)
		}

		var tags []string
		for _, t := range ours.SignedTags {
			tags = append(tags, t.SignedTag+" "+t.Digest)
		}
		var stock []string
		for _, role := range []string{"targets/releases", "targets"} {
			listed := tableOf(ts, "notary", "list", name, "-r", role)
			for _, row := range listed {
				if line := row["NAME"] + " " + row["DIGEST"]; row["ROLE"] == role && !slices.Contains(stock, line) {
					stock = append(stock, line)
				}
			}
		}
		slices.Sort(stock)
		slices.Sort(tags)
		same("tags of "+name, stock, tags)

		same("delegations of "+name,
			delegationsOf(tableOf(ts, "notary", "delegation", "list", name)),
			delegationsOf(tableOf(ts, "iechor", "trust", "delegation", "list", name)))
	}
	same("keys", keyRows(tableOf(ts, "notary", "key", "list")), keyRows(tableOf(ts, "iechor", "trust", "key", "list")))
}

// inspectedBy returns what a program's "trust inspect" prints, in an order that
// does not depend on the program.
func inspectedBy(ts *testscript.TestScript, program, name string) (i struct {
	Name                        string
	SignedTags                  []signedTag
	Signers, AdministrativeKeys []holder
}) {
	ts.Check(ts.Exec(program, "trust", "inspect", name))
	var list []json.RawMessage
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &list))
	if len(list) != 1 {
		ts.Fatalf("%s inspects %d repositories", program, len(list))
	}
	d := json.NewDecoder(strings.NewReader(string(list[0])))
	d.DisallowUnknownFields()
	ts.Check(d.Decode(&i))
	slices.SortFunc(i.SignedTags, func(a, b signedTag) int { return strings.Compare(a.SignedTag+a.Digest, b.SignedTag+b.Digest) })
	for _, t := range i.SignedTags {
		slices.Sort(t.Signers)
	}
	for _, holders := range [][]holder{i.Signers, i.AdministrativeKeys} {
		slices.SortFunc(holders, func(a, b holder) int { return strings.Compare(a.Name, b.Name) })
		for _, h := range holders {
			slices.SortFunc(h.Keys, func(a, b heldKey) int { return strings.Compare(a.ID, b.ID) })
		}
	}
	return i
}

var cell = regexp.MustCompile(`\S+( \S+)*`)

// tableOf runs a program and returns the rows of the table that it prints, by
// the headers of the columns.
func tableOf(ts *testscript.TestScript, program string, args ...string) (rows []map[string]string) {
	ts.Check(ts.Exec(program, args...))
	return rowsOf(ts.ReadFile("stdout"))
}

func rowsOf(text string) (rows []map[string]string) {
	lines := strings.Split(text, "\n")
	dashes := slices.IndexFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "-") && strings.Trim(line, "- ") == ""
	})
	if dashes < 1 {
		return nil // an empty table has a sentence in its place
	}
	header := lines[dashes-1]
	starts := cell.FindAllStringIndex(header, -1)
	for _, line := range lines[dashes+1:] {
		if strings.TrimSpace(line) == "" {
			break
		}
		row := map[string]string{}
		for n, s := range starts {
			end := len(line)
			if n+1 < len(starts) {
				end = min(end, starts[n+1][0])
			}
			row[header[s[0]:s[1]]] = strings.TrimSpace(line[min(s[0], end):end])
		}
		rows = append(rows, row)
	}
	return rows
}

// A listedDelegation is what both programs say of a delegation.
type listedDelegation struct {
	Paths, Keys []string
	Threshold   string
}

func delegationsOf(rows []map[string]string) map[string]listedDelegation {
	all := map[string]listedDelegation{}
	name := ""
	for _, row := range rows {
		if row["ROLE"] != "" {
			name = row["ROLE"]
		}
		d := all[name]
		d.Threshold += row["THRESHOLD"]
		for list, column := range map[*[]string]string{&d.Paths: "PATHS", &d.Keys: "KEY IDS"} {
			for cell := range strings.SplitSeq(row[column], ",") {
				if cell != "" {
					*list = append(*list, cell)
				}
			}
			slices.Sort(*list)
		}
		all[name] = d
	}
	return all
}

func keyRows(rows []map[string]string) (keys []string) {
	for _, row := range rows {
		keys = append(keys, fmt.Sprint(row["ROLE"], " ", row["GUN"], " ", row["KEY ID"]))
	}
	slices.Sort(keys)
	return keys
}

// stagedBy returns the staged changes that a program shows.
func stagedBy(ts *testscript.TestScript, program string, args ...string) (staged []string) {
	for _, row := range tableOf(ts, program, args...) {
		if row["ACTION"] != "" {
			staged = append(staged, fmt.Sprint(row["#"], " ", row["ACTION"], " ", row["SCOPE"], " ", row["TYPE"], " ", row["PATH"]))
		}
	}
	return staged
}
