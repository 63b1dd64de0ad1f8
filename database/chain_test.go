package database

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// chainOf returns the log of a new database with these entries.
func chainOf(t *testing.T, entries ...string) []Link {
	t.Helper()
	ctx := t.Context()
	db := open(t, temp(t), pragmas)
	if err := db.Migrate(ctx, "log", files("0001_log.sql",
		"CREATE TABLE log (id BIGINT NOT NULL PRIMARY KEY, gun {name} NOT NULL, hash {digest} NOT NULL, entry {bytes} NOT NULL) {table};")); err != nil {
		t.Fatal(err)
	}
	c := Chain{"log"}
	for i, e := range entries {
		err := db.Update(ctx, func(x *Tx) error {
			l, err := c.Append(ctx, x, []string{"a", "b"}[i%2], []byte(e))
			if err == nil && l.ID != int64(i+1) {
				t.Errorf("entry %d got number %d", i+1, l.ID)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []Link
	err := db.View(ctx, func(x *Tx) (err error) {
		all, err = c.Read(ctx, x, ChainQuery{Limit: 100})
		if err != nil {
			return err
		}
		for _, q := range []struct {
			ChainQuery
			want []int64
		}{
			{ChainQuery{Limit: 2}, []int64{1, 2}},
			{ChainQuery{Limit: 2, From: 2}, []int64{3, 4}},
			{ChainQuery{Limit: 2, Backwards: true}, []int64{4, 3}},
			{ChainQuery{Limit: 2, From: 3, Backwards: true}, []int64{2, 1}},
			{ChainQuery{Limit: 9, GUN: "b"}, []int64{2, 4}},
		} {
			got, err := c.Read(ctx, x, q.ChainQuery)
			var ids []int64
			for _, l := range got {
				ids = append(ids, l.ID)
			}
			if err != nil || len(entries) == 4 && !slices.Equal(ids, q.want) {
				t.Errorf("Read(%+v) = %v, %v; want %v", q.ChainQuery, ids, err, q.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func follow(links []Link) error {
	var prev Link
	for _, l := range links {
		if err := l.Follows(prev); err != nil {
			return err
		}
		prev = l
	}
	return nil
}

// attacks.md T5: a log that its keeper edits is found to be edited.
func TestAttackEditedLog(t *testing.T) {
	t.Parallel()
	all := chainOf(t, `{"n":1}`, `{"n":"<2>"}`, `{"n":3}`, `{"n":4}`)
	if err := follow(all); err != nil {
		t.Fatalf("an honest log: %v", err)
	}
	other := chainOf(t, `{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`)
	for name, edit := range map[string]func([]Link) []Link{
		"changed":  func(l []Link) []Link { l[1].Entry = []byte(`{"n":2}`); return l },
		"rehashed": func(l []Link) []Link { l[1] = other[1]; return l },
		"left out": func(l []Link) []Link { return slices.Delete(l, 1, 2) },
		"left out, numbered anew": func(l []Link) []Link {
			l = slices.Delete(l, 1, 2)
			l[1].ID, l[2].ID = 2, 3
			return l
		},
		"swapped": func(l []Link) []Link { l[1].Entry, l[2].Entry = l[2].Entry, l[1].Entry; return l },
		"repeated": func(l []Link) []Link {
			return slices.Insert(l, 2, l[1])
		},
		"beginning cut off": func(l []Link) []Link { return l[1:] },
	} {
		if err := follow(edit(slices.Clone(all))); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v, want ErrBroken", name, err)
		}
	}
	// All of it written anew holds in itself, and is another log.
	if err := follow(other); err != nil || other[3].Hash == all[3].Hash {
		t.Errorf("a log written anew: %v, same end: %v", err, other[3].Hash == all[3].Hash)
	}
}

// What was exported can be verified without the database, and is bounded and
// strict.
func TestLinkLines(t *testing.T) {
	t.Parallel()
	for _, l := range chainOf(t, `{"n":1}`, `{"n":"<2>"}`) {
		line := l.Line()
		back, err := ParseLine(line)
		if err != nil || back.ID != l.ID || back.Hash != l.Hash || string(back.Entry) != string(l.Entry) {
			t.Errorf("ParseLine(%s) = %+v, %v", line, back, err)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"id":1,"hash":"00","entry":{}}`, `{"id":1,"hash":"` + strings.Repeat("0", 64) + `"}`,
		`{"id":1,"hash":"` + strings.Repeat("0", 64) + `","entry":{},"more":1}`, `{"id":1,"hash":"` + strings.Repeat("0", 64) + `","entry":{}} {}`} {
		if l, err := ParseLine([]byte(bad)); err == nil {
			t.Errorf("ParseLine(%s) = %+v, want an error", bad, l)
		}
	}
}
