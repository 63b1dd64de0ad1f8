package storage

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
)

// What every request needs does not read more because a repository has a long
// history, or because there are many repositories: each table is entered by
// all columns that are known.
func TestPlans(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	raw, err := sql.Open("sqlite", database.SQLiteDSN(filepath.Join(t.TempDir(), "x.db")))
	if err != nil {
		t.Fatal(err)
	}
	db := database.New(raw, database.SQLite)
	t.Cleanup(func() { _ = db.Close() }) // nothing is read from it later
	if _, err := Open(ctx, db); err != nil {
		t.Fatal(err)
	}
	for statement, want := range map[string][]string{
		selectCurrent: {"r gun=?", "c repository=?", "f repository=? AND incarnation=? AND role=? AND version=?", "b digest=?"},
		selectBlob:    {"r gun=?", "f repository=? AND role=? AND digest=?"},
		selectVersion: {"r gun=?", "f repository=? AND role=? AND version=?"},
		selectStandings + "IN (?, ?) LEFT JOIN roles c ON c.repository = r.id WHERE k.id = 1": {"k rowid=?", "a id=?", "audit", "r gun=?", "c repository=?", "changes id=?"},
		retireRole:     {"files repository=? AND role=?"},
		retireOld:      {"files repository=?", "c repository=? AND role=?"},
		selectOld:      {"r seq>? AND seq<?", "c repository=?", "f repository=? AND incarnation=? AND role=? AND version<?", "n repository=? AND incarnation=? AND role=? AND version>?"},
		selectExpiring: {"f role=? AND retired=? AND expires<?", "c repository=? AND role=?", "r id=?"},
		selectStill:    {"r gun=?", "c repository=? AND role=?", "f repository=? AND incarnation=? AND role=? AND version=?"},
	} {
		args := slices.Repeat([]any{1}, strings.Count(statement, "?"))
		rows, err := db.SQL().QueryContext(ctx, "EXPLAIN QUERY PLAN "+statement, args...)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		var got []string
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			if words := strings.Fields(step); words[0] == "SEARCH" {
				_, by, _ := strings.Cut(step, "(") // nothing: the end of an index
				by, _, _ = strings.Cut(by, ")")
				got = append(got, strings.TrimSpace(words[1]+" "+by))
			} else if words[0] == "SCAN" {
				t.Errorf("%s\nreads a whole table: %s", statement, step)
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\nwanted steps (-), had (+):\n%s", statement, diff)
		}
	}
}

// PostgreSQL plans for tables of which it does not know yet how large they
// become, and keeps to that while the connection lasts: no index may look as
// good as the one that finds a single row.
func TestPlansOfPostgreSQL(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := databasetest.Open(t, databasetest.PostgreSQL(t))
	if _, err := Open(ctx, db); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{selectStill, selectCurrent} {
		var plan []string
		err := db.View(ctx, func(t *database.Tx) error {
			plan = nil
			rows, err := t.Query(ctx, "EXPLAIN "+statement, "registry.example.com/app")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var line string
				if err := rows.Scan(&line); err != nil {
					return err
				}
				plan = append(plan, line)
			}
			return rows.Err()
		})
		if err != nil {
			t.Fatalf("EXPLAIN %s = %v", statement, err)
		}
		// The lines of a plan are indented; what an index is entered with is below it.
		at := slices.IndexFunc(plan, func(line string) bool { return strings.Contains(line, " on files f ") })
		if at < 0 || at+1 == len(plan) || !strings.Contains(plan[at+1], "repository = ") || !strings.Contains(plan[at+1], "role") || !strings.Contains(plan[at+1], "version = ") {
			t.Errorf("%s\nfiles are not found one by one:\n%s", statement, strings.Join(plan, "\n"))
		}
	}
}
