package database

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

func (s *statements) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.m))
}

// A statement is kept after its first transaction, and used by the next.
func TestStatementsAreKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	if got := d.statements.texts(); len(got) > 0 {
		t.Errorf("migrations are kept: %q", got)
	}
	for i := range 3 {
		if err := increment(ctx, d); err != nil {
			t.Fatalf("Update = %v", err)
		}
		want := []string{"SELECT n FROM counter WHERE id = ?", "UPDATE counter SET n = ? WHERE id = ?"}
		if got := d.statements.texts(); !slices.Equal(got, want) {
			t.Errorf("after %d updates the statements %q are kept, want %q", i+1, got, want)
		}
	}
	missed := -1
	if err := d.View(ctx, func(tx *Tx) error {
		var n int
		err := tx.QueryRow(ctx, "SELECT n FROM counter WHERE id = ?", 1).Scan(&n)
		missed = len(tx.missed)
		return err
	}); err != nil || missed != 0 {
		t.Errorf("View = %v, and %d statements were not found", err, missed)
	}
	if n := count(t, d); n != 3 {
		t.Errorf("n = %d, want 3", n)
	}
	// What a transaction makes of what it read says nothing about its statements.
	none := errors.New("there is none")
	if err := d.View(ctx, func(tx *Tx) error {
		var n int
		return errors.Join(none, tx.QueryRow(ctx, "SELECT n FROM counter WHERE id = 7 - ?", 6).Scan(&n))
	}); !errors.Is(err, none) || d.statements.get("SELECT n FROM counter WHERE id = 7 - ?") == nil {
		t.Errorf("View = %v, and its statement is kept: %q", err, d.statements.texts())
	}
	// A statement that fails does so each time.
	for range 2 {
		err := d.Update(ctx, func(tx *Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO counter VALUES (1, 5)")
			return err
		})
		if !IsUnique(err) {
			t.Errorf("Update = %v, want a unique violation", err)
		}
	}
	// One that was kept can fail, and works again.
	put := func(id, n int) error {
		return d.Update(ctx, func(tx *Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO counter VALUES (?, ?)", id, n)
			return err
		})
	}
	for _, c := range []struct {
		id, n  int
		unique bool
	}{{2, 20, false}, {2, 21, true}, {3, 20, true}, {3, 30, false}} {
		if err := put(c.id, c.n); IsUnique(err) != c.unique || !c.unique && err != nil {
			t.Errorf("put(%d, %d) = %v", c.id, c.n, err)
		}
	}
}

// With one connection only, nothing waits for a second one.
func TestStatementsWithOneConnection(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	d := open(t, temp(t), pragmas)
	d.SQL().SetMaxOpenConns(1)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				if err := increment(ctx, d); err != nil {
					t.Errorf("Update = %v", err)
				}
				if err := d.View(ctx, func(tx *Tx) error {
					_, err := tx.Exec(ctx, fmt.Sprintf("SELECT %d", i))
					return err
				}); err != nil {
					t.Errorf("View = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, d); n != 80 {
		t.Errorf("n = %d, want 80", n)
	}
}

// The tables may change under a statement that is kept.
func TestStatementsAfterAnotherMigration(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := temp(t)
	d, other := open(t, path, pragmas), open(t, path, pragmas)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	for i := range 4 {
		if err := increment(ctx, d); err != nil {
			t.Fatalf("Update = %v", err)
		}
		if err := other.Migrate(ctx, fmt.Sprint("other", i), files("0001_a.sql",
			fmt.Sprintf("CREATE INDEX i%d ON counter (n, id);\nALTER TABLE counter ADD COLUMN c%d INTEGER;\n", i, i))); err != nil {
			t.Fatalf("Migrate = %v", err)
		}
	}
	if n := count(t, d); n != 4 {
		t.Errorf("n = %d, want 4", n)
	}
}

// There is a bound, beyond which statements work as well.
func TestStatementsAreBounded(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	for range 2 {
		for i := range maxStatements + 20 {
			var got int
			if err := d.View(ctx, func(tx *Tx) error {
				return tx.QueryRow(ctx, fmt.Sprintf("SELECT ? + %d", i), 1).Scan(&got)
			}); err != nil || got != i+1 {
				t.Fatalf("View = %d, %v; want %d", got, err, i+1)
			}
		}
	}
	if got := len(d.statements.texts()); got != maxStatements {
		t.Errorf("%d statements are kept, want %d", got, maxStatements)
	}
}

// Close ends what is kept, also while transactions run, and keeps nothing more.
func TestStatementsClose(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	if err := increment(ctx, d); err != nil {
		t.Fatalf("Update = %v", err)
	}
	kept := d.statements.get("SELECT n FROM counter WHERE id = ?")
	inside, closed := make(chan struct{}), make(chan error)
	go func() {
		<-inside
		closed <- d.Close()
	}()
	err := d.View(ctx, func(tx *Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT n FROM counter WHERE id = ?", 1).Scan(&n); err != nil {
			return err
		}
		close(inside)
		return errors.Join(<-closed, tx.QueryRow(ctx, "SELECT 1").Scan(&n))
	})
	// The transaction may end well or badly, but it ends.
	t.Logf("View = %v", err)
	if _, err := kept.ExecContext(ctx, 1); err == nil {
		t.Error("a statement outlived Close")
	}
	d.statements.prepare(ctx, []string{"SELECT 2"})
	if got := d.statements.texts(); len(got) > 0 {
		t.Errorf("kept after Close: %q", got)
	}
}

// Whoever gives up in the middle of a statement leaves nothing behind.
func TestStatementsAfterCancel(t *testing.T) {
	t.Parallel()
	d := open(t, temp(t), pragmas)
	if err := d.Migrate(t.Context(), "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	const long = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < ?) SELECT x FROM r"
	read := func(ctx context.Context, n, rows int, then func()) error {
		return d.View(ctx, func(tx *Tx) error {
			r, err := tx.Query(ctx, long, n)
			if err != nil {
				return err
			}
			defer r.Close()
			for range rows {
				r.Next()
			}
			then()
			return r.Err()
		})
	}
	for range 3 {
		if err := read(t.Context(), 10, 5, func() {}); err != nil {
			t.Errorf("View, left early = %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_ = read(ctx, 1<<40, 5, cancel) // it may have ended before it noticed
		if err := read(t.Context(), 10, 11, func() {}); err != nil {
			t.Errorf("View after that = %v", err)
		}
		if err := increment(t.Context(), d); err != nil {
			t.Errorf("Update after that = %v", err)
		}
	}
}
