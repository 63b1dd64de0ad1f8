package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
)

var parents = fstest.MapFS{"0001_parents.sql": {Data: []byte(`CREATE TABLE parents (id BIGINT NOT NULL PRIMARY KEY, name {name} NOT NULL, data {bytes} NULL) {table};
CREATE TABLE children (id BIGINT NOT NULL, name {name} NOT NULL, parent BIGINT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (id, name), FOREIGN KEY (parent) REFERENCES parents (id)) {table};
`)}}

// withParents opens a database with the tables parents and children.
func withParents(t *testing.T, fresh databasetest.Fresh) *database.DB {
	t.Helper()
	d := databasetest.Open(t, fresh(t))
	if err := d.Migrate(t.Context(), "test", parents); err != nil {
		t.Fatal(err)
	}
	return d
}

// Rows of several tables are written together, new ones and changed ones, all
// or none, whatever the database; what does not fit is an error that can be
// told apart, and the connection is as good as before.
func TestWrite(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, testWrite)
	// As on a node of a cluster: statements one by one, with many rows each.
	t.Run("MariaDB without packets", func(t *testing.T) {
		testWrite(t, func(t testing.TB) string { return databasetest.MariaDB(t) + "&target_session_attrs=any" })
	})
}

func testWrite(t *testing.T, fresh databasetest.Fresh) {
	ctx := t.Context()
	d := withParents(t, fresh)
	write := func(all ...database.Rows) error {
		return d.Update(ctx, func(x *database.Tx) error { return x.Write(ctx, all...) })
	}
	const many = 1200
	family := database.Rows{Table: "parents", Set: []string{"id", "name", "data"}}
	children := database.Rows{Table: "children", Set: []string{"id", "name", "parent", "n"}}
	moved := database.Rows{Table: "children", By: []string{"id", "name"}, Set: []string{"n", "parent"}}
	for i := range int64(many) {
		family.Values = append(family.Values, []any{i, fmt.Sprint("näme'", i), []byte{0, byte(i), '\''}})
		children.Values = append(children.Values, []any{i, "a", i, int64(1)})
		moved.Values = append(moved.Values, []any{i, "a", i * 2, int64(0)})
	}
	if err := write(); err != nil {
		t.Errorf("Write of nothing = %v", err)
	}
	if err := write(family, database.Rows{Table: "nothing"}, children); err != nil {
		t.Fatalf("Write = %v", err)
	}
	if err := write(moved); err != nil {
		t.Fatalf("Write of what is there = %v", err)
	}
	sums := func() (all []int64) {
		t.Helper()
		err := d.View(ctx, func(x *database.Tx) error {
			all = make([]int64, 4)
			return x.QueryRow(ctx, "SELECT COUNT(*), SUM(n), SUM(parent), (SELECT COUNT(*) FROM parents WHERE name = ?) FROM children", "näme'7").
				Scan(&all[0], &all[1], &all[2], &all[3])
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	want := []int64{many, many * (many - 1), 0, 1}
	if got := sums(); !slices.Equal(got, want) {
		t.Errorf("tables hold %v, want %v", got, want)
	}

	one := func(values ...any) database.Rows {
		return database.Rows{Table: "children", Set: []string{"id", "name", "parent", "n"}, Values: [][]any{values}}
	}
	kept := one(int64(1), "a", int64(0), int64(99))
	kept.Keep = true
	kept.Values = append(kept.Values, []any{int64(many), "a", int64(0), int64(5)})
	if err := write(kept); err != nil {
		t.Errorf("Write of a row that is there and one that is not = %v", err)
	}
	want[0], want[1] = want[0]+1, want[1]+5
	replaced := one(int64(1), "a", int64(0), int64(3))
	replaced.Key, replaced.Replace = []string{"id", "name"}, []string{"n"}
	replaced.Values = append(replaced.Values, []any{int64(many), "a", int64(7), int64(5)}, []any{int64(many), "b", int64(0), int64(4)})
	if err := write(replaced); err != nil {
		t.Errorf("Write of rows that are there and one that is not = %v", err)
	}
	want[0], want[1] = want[0]+1, want[1]+1+4
	only := database.Rows{Table: "children", By: []string{"id", "name"}, Set: []string{"n"}, Values: [][]any{{int64(many), "b", int64(6)}},
		If: "EXISTS (SELECT 1 FROM parents WHERE id = ? AND name = ?)", IfArgs: []any{int64(7), "näme'7"}}
	if err := write(only); err != nil {
		t.Errorf("Write of a row on a condition that holds = %v", err)
	}
	want[1] += 2
	not, two := only, only
	not.IfArgs = []any{int64(7), "näme'8"}
	two.Values = append(two.Values[:1:1], []any{int64(many), "a", int64(7)})
	gone := database.Rows{Table: "children", By: []string{"id", "name"}, Set: []string{"n"}, Values: [][]any{{int64(1), "a", int64(7)}, {int64(1), "b", int64(7)}}}
	for name, c := range map[string]struct {
		rows database.Rows
		is   func(error) bool
	}{
		"there already":  {one(int64(1), "a", int64(0), int64(0)), database.IsUnique},
		"no such parent": {one(int64(-1), "a", int64(-1), int64(0)), func(err error) bool { return err != nil && !database.IsUnique(err) }},
		"not there":      {gone, func(err error) bool { return errors.Is(err, database.ErrMissed) }},
		"not on that":    {not, func(err error) bool { return errors.Is(err, database.ErrMissed) }},
		"two on one":     {two, func(err error) bool { return err != nil && !errors.Is(err, database.ErrMissed) }},
	} {
		before := one(int64(-5), "x", int64(0), int64(0))
		if err := write(before, c.rows); !c.is(err) {
			t.Errorf("%s: Write = %v", name, err)
		}
		if got := sums(); !slices.Equal(got, want) {
			t.Errorf("%s: tables hold %v, want %v", name, got, want)
		}
	}

	names, n := []string{"näme'3", "näme'4", "näme'5", "no"}, 0
	if err := d.View(ctx, func(x *database.Tx) error {
		in, args := database.In(x.Dialect(), names)
		return x.QueryRow(ctx, "SELECT COUNT(*) FROM parents WHERE name "+in, args...).Scan(&n)
	}); err != nil || n != 3 {
		t.Errorf("%d rows are in %q, %v; want 3", n, names, err)
	}
}

// A transaction that failed, was given up or broke down leaves nothing behind
// on its connection, be it the only one.
func TestConnectionAfterFailure(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		setting := fresh(t)
		d := databasetest.Open(t, setting)
		if err := d.Migrate(t.Context(), "test", counter); err != nil {
			t.Fatal(err)
		}
		d.SQL().SetMaxOpenConns(1)
		failure := errors.New("on purpose")
		for name, fn := range map[string]func(context.Context, context.CancelFunc, *database.Tx) error{
			"own error": func(context.Context, context.CancelFunc, *database.Tx) error { return failure },
			"error swallowed": func(ctx context.Context, _ context.CancelFunc, x *database.Tx) error {
				_, _ = x.Exec(ctx, "SELECT nothing")
				return failure
			},
			"given up": func(_ context.Context, cancel context.CancelFunc, _ *database.Tx) error { cancel(); return nil },
			"panic":    func(context.Context, context.CancelFunc, *database.Tx) error { panic(failure) },
		} {
			ctx, cancel := context.WithCancel(t.Context())
			err := func() (err error) {
				defer func() {
					if v := recover(); v != nil {
						err = v.(error)
					}
				}()
				return d.Update(ctx, func(x *database.Tx) error {
					if _, err := x.Exec(ctx, "UPDATE counter SET n = 1000 WHERE id = ?", 1); err != nil {
						t.Errorf("%s: Exec = %v", name, err)
					}
					return fn(ctx, cancel, x)
				})
			}()
			cancel()
			if !errors.Is(err, failure) && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Update = %v", name, err)
			}
			if n := count(t, d); n != 0 {
				t.Errorf("%s: n is %d, want 0", name, n)
			}
		}
		if d.Dialect() == database.PostgreSQL { // of which it says so itself
			err := d.Update(t.Context(), func(x *database.Tx) error { _, _ = x.Exec(t.Context(), "SELECT nothing"); return nil })
			if err == nil || errors.Is(err, database.ErrUncertain) {
				t.Errorf("Update whose statement failed unnoticed = %v, want an error that is certain", err)
			}
		}
		if err := increment(t.Context(), d); err != nil || count(t, d) != 1 {
			t.Errorf("Update afterwards = %v", err)
		}
	})
}

// What is written together may be more than a server takes at once.
func TestWriteMuch(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		ctx := t.Context()
		d := withParents(t, fresh)
		var all []database.Rows
		const many, size = 40, 700_000
		for i := range int64(many) {
			all = append(all, database.Rows{Table: "parents", Set: []string{"id", "name", "data"}, Values: [][]any{{i, "large", bytes.Repeat([]byte{0}, size)}}},
				database.Rows{Table: "children", Set: []string{"id", "name", "parent", "n"}, Values: [][]any{{i, "a", i, int64(1)}}})
		}
		if err := d.Update(ctx, func(x *database.Tx) error { return x.Write(ctx, all...) }); err != nil {
			t.Fatalf("Write of %d bytes = %v", many*size, err)
		}
		var n, length int64
		if err := d.View(ctx, func(x *database.Tx) error {
			return x.QueryRow(ctx, "SELECT COUNT(*), SUM(LENGTH(data)) FROM children c JOIN parents p ON p.id = c.parent").Scan(&n, &length)
		}); err != nil || n != many || length != many*size {
			t.Errorf("tables hold %d rows of %d bytes, %v, want %d of %d", n, length, err, many, many*size)
		}
	})
}

// Where several statements are sent at once, none of those behind one that
// fails is run.
func TestPacketEndsWithAFailure(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := withParents(t, databasetest.MariaDB)
	if !databasetest.TakesPackets(t, d) {
		t.Fatal("a server of its own is sent one statement at a time")
	}
	parent := func(id int64) database.Rows {
		return database.Rows{Table: "parents", Set: []string{"id", "name"}, Values: [][]any{{id, "one"}}}
	}
	child := database.Rows{Table: "children", Set: []string{"id", "name", "parent", "n"}, Values: [][]any{{int64(1), "a", int64(1), int64(1)}}}
	if err := d.Update(ctx, func(x *database.Tx) error {
		if err := x.Write(ctx, parent(1)); err != nil {
			return err
		}
		if err := x.Write(ctx, parent(2), parent(1), child); !database.IsUnique(err) {
			t.Errorf("Write of a row that is there = %v", err)
		}
		return nil // which nobody does; it shows what was run
	}); err != nil {
		t.Fatal(err)
	}
	var two, children int
	if err := d.View(ctx, func(x *database.Tx) error {
		return x.QueryRow(ctx, "SELECT (SELECT COUNT(*) FROM parents WHERE id = 2), (SELECT COUNT(*) FROM children)").Scan(&two, &children)
	}); err != nil || two != 1 || children != 0 {
		t.Errorf("before the failure %d rows were written and behind it %d, %v; want 1 and 0", two, children, err)
	}
}

// A transaction in which nothing is asked is one all the same, as is one whose
// first statement fails.
func TestEmptyTransaction(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		ctx := t.Context()
		d := withParents(t, fresh)
		d.SQL().SetMaxOpenConns(1)
		if err := d.Update(ctx, func(x *database.Tx) error {
			return x.Write(ctx, database.Rows{Table: "parents", Set: []string{"id", "name"}, Values: [][]any{{int64(1), "turn"}}})
		}); err != nil {
			t.Fatal(err)
		}
		stop := errors.New("enough")
		for what, in := range map[string]func(context.Context, func(*database.Tx) error) error{
			"View": d.View, "Update": d.Update,
			"InTurn": func(ctx context.Context, fn func(*database.Tx) error) error { return d.InTurn(ctx, "parents", "", fn) },
		} {
			if err := in(ctx, func(*database.Tx) error { return nil }); err != nil {
				t.Errorf("%s of nothing = %v", what, err)
			}
			if err := in(ctx, func(*database.Tx) error { return stop }); err != stop {
				t.Errorf("%s that fails at once = %v, want its error", what, err)
			}
			if err := in(ctx, func(x *database.Tx) error {
				_, err := x.Exec(ctx, "UPDATE nothing SET id = 1")
				return err
			}); err == nil {
				t.Errorf("%s of a table that is not there succeeded", what)
			}
		}
		// Nothing is left open, and nothing that was not committed is there.
		if err := d.Update(ctx, func(x *database.Tx) error {
			_, err := x.Exec(ctx, "INSERT INTO parents (id, name) VALUES (?, ?)", int64(2), "two")
			return errors.Join(err, stop)
		}); !errors.Is(err, stop) {
			t.Errorf("Update = %v", err)
		}
		var n int
		if err := d.View(ctx, func(x *database.Tx) error { return x.QueryRow(ctx, "SELECT COUNT(*) FROM parents").Scan(&n) }); err != nil || n != 1 {
			t.Errorf("after a transaction that was given up there are %d rows, %v, want 1", n, err)
		}
	})
}

// Those who take turns are never in each other's way: none has to begin again.
func TestInTurn(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		ctx := t.Context()
		d := withParents(t, fresh)
		if err := d.Update(ctx, func(x *database.Tx) error {
			return x.Write(ctx, database.Rows{Table: "parents", Set: []string{"id", "name"}, Values: [][]any{{int64(1), "turn"}, {int64(2), "0"}}})
		}); err != nil {
			t.Fatal(err)
		}
		const each, times = 8, 20
		var all sync.WaitGroup
		for range each {
			all.Go(func() {
				for range times {
					if err := d.InTurn(ctx, "parents", "", func(x *database.Tx) error {
						var n int
						if err := x.QueryRow(ctx, "SELECT name FROM parents WHERE id = 2").Scan(&n); err != nil {
							return err
						}
						_, err := x.Exec(ctx, "UPDATE parents SET name = ? WHERE id = 2", fmt.Sprint(n+1))
						return err
					}); err != nil {
						t.Errorf("InTurn = %v", err)
						return
					}
				}
			})
		}
		all.Wait()
		var n int
		if err := d.View(ctx, func(x *database.Tx) error { return x.QueryRow(ctx, "SELECT name FROM parents WHERE id = 2").Scan(&n) }); err != nil || n != each*times {
			t.Errorf("%d transactions counted to %d, %v", each*times, n, err)
		}
		if again, failed := d.Trouble(); again != 0 || failed != 0 {
			t.Errorf("%d transactions that took turns were begun again %d times, and %d failed", each*times, again, failed)
		}
	})
}

// MariaDB has rows of a table that several values at once are found in written
// to a file first, so they are changed one by one, in one packet.
func TestWriteWithoutFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := withParents(t, databasetest.MariaDB)
	children := database.Rows{Table: "children", Set: []string{"id", "name", "parent", "n"}}
	moved := database.Rows{Table: "children", By: []string{"id", "name"}, Set: []string{"n"}}
	for i := range int64(5) {
		children.Values = append(children.Values, []any{i, "a", int64(0), int64(1)})
		moved.Values = append(moved.Values, []any{i, "a", int64(2)})
	}
	err := d.Update(ctx, func(x *database.Tx) error {
		files := func() (n int) {
			t.Helper()
			if err := x.QueryRow(ctx, "SHOW SESSION STATUS LIKE 'Created_tmp_disk_tables'").Scan(new(string), &n); err != nil {
				t.Error(err)
			}
			return n
		}
		if err := x.Write(ctx, database.Rows{Table: "parents", Set: []string{"id", "name"}, Values: [][]any{{int64(0), "p"}}}, children); err != nil {
			return err
		}
		before := files()
		err := x.Write(ctx, moved)
		if n := files() - before; n != 0 {
			t.Errorf("%d tables were written to files", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
