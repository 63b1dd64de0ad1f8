package signer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m).Run()) }

// worldOn is a signer on the database that a setting names.
func worldOn(t testing.TB, setting string) *world {
	t.Helper()
	w := &world{path: setting, now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), log: &records{}}
	w.table = tableOn(t, setting, testKEK(t, 1))
	w.Service = w.service(t, w.table, nil)
	return w
}

func tableOn(t testing.TB, setting string, kek *KEK) *Table {
	t.Helper()
	table, err := OpenTable(t.Context(), databasetest.Open(t, setting), kek)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// As behind a pooler that hands connections from transaction to transaction.
func TestPostgreSQLUnprepared(t *testing.T) {
	t.Parallel()
	w := worldOn(t, databasetest.PostgreSQL(t)+"&prepare=no")
	s := newServer(t, w, w, app)
	for _, content := range []string{"one", "two"} {
		s.publish(t, content)
	}
	if n := len(w.trail(t, AuditQuery{GUN: app})); n != 2+4 {
		t.Errorf("%d entries about %s, want 6", n, app)
	}
}

// What signers promise holds on every kind of database, with two of them on it
// that are asked at the same time: no version is signed twice, everything
// stands in one audit log, and a rewrap and a cut of the log meanwhile lose
// nothing.
func TestDatabases(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		w := worldOn(t, fresh(t))
		var services []*Service
		for i := range 2 {
			table := tableOn(t, w.path, testKEK(t, 1, 2))
			if err := table.Present(t.Context(), fmt.Sprint(i), "host", w.clock()); err != nil {
				t.Fatal(err)
			}
			services = append(services, w.service(t, table, nil))
		}
		const own, shared, rounds = 3, 3, 4
		all := &witness{seen: map[statement][32]byte{}}
		var group sync.WaitGroup
		for i := range own { // each of its own repository
			group.Go(func() {
				s := newServer(t, w, services[i%2], tuf.GUN(fmt.Sprintf("registry.example/own%d", i)))
				for n := range rounds {
					s.publish(t, fmt.Sprint(n))
				}
			})
		}
		first := newServer(t, w, services[0], app)
		first.publish(t, "one")
		for i := range shared { // all of one
			group.Go(func() {
				mine := *first
				mine.keys = services[i%2]
				for n := range rounds {
					next, err := mine.prepare(t, fmt.Sprint(i, "-", n))
					if errors.As(err, new(*api.FloorError)) {
						continue // overtaken
					}
					if err != nil {
						t.Errorf("Sign = %v", err)
						return
					}
					all.see(t, 0, requestOf(t, tuf.RoleSnapshot, next.snapshot))
					all.see(t, 0, requestOf(t, tuf.RoleTimestamp, next.timestamp))
				}
			})
		}
		next := tableOn(t, w.path, testKEK(t, 2, 1))
		group.Go(func() {
			var beside *InstancesError
			if _, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); !errors.As(err, &beside) || beside.Unready {
				t.Errorf("Rewrap beside services that wrap under the former key = %v, want InstancesError", err)
			}
		})
		group.Wait()
		for i, s := range services {
			if err := s.table.Absent(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil {
			t.Fatal(err)
		}
		w.table = tableOn(t, w.path, testKEK(t, 2))
		w.Service = w.service(t, w.table, nil)
		first.keys = w.Service
		first.publish(t, "under the new key alone")

		var signed, entries int
		if err := w.table.db.SQL().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM signer_statements").Scan(&signed); err != nil {
			t.Fatal(err)
		}
		for _, r := range w.trail(t, AuditQuery{}) {
			if r.Event == AuditSigned {
				entries++
			}
		}
		if signed != entries || signed < own*rounds*2 {
			t.Errorf("%d signatures and %d entries about them", signed, entries)
		}
		var export bytes.Buffer
		if err := ExportAudit(t.Context(), w.table.db, nil, &export); err != nil {
			t.Fatal(err)
		}
		end, err := w.table.AuditEnd(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.pass(time.Hour)
		if n, err := w.table.CutAudit(t.Context(), w.clock().Add(-time.Minute), w.clock()); err != nil || int64(n) != end.ID {
			t.Errorf("CutAudit = %d, %v, want %d", n, err, end.ID)
		}
		first.publish(t, "after the cut")
		w.trail(t, AuditQuery{Since: w.clock().Add(-time.Second)})
		if _, err := VerifyAudit(t.Context(), w.table.db, end); err != nil {
			t.Error(err)
		}
		if _, err := VerifyExports([]io.Reader{&export}, end); err != nil {
			t.Error(err)
		}
		if err := w.table.Prune(t.Context(), w.clock().Add(500*24*time.Hour)); err != nil {
			t.Error(err)
		}
		if err := w.lowerFloor(t.Context(), "operator", app, 1); err != nil {
			t.Error(err)
		}
		if err := w.forget(t.Context(), "operator", app); err != nil {
			t.Error(err)
		}
		if err := w.recall(t.Context(), "operator", app); err != nil {
			t.Error(err)
		}
	})
}

// How many signatures a second each kind of database bears, of one caller and
// of many.
func BenchmarkDatabases(b *testing.B) {
	for _, kind := range []struct {
		name  string
		fresh databasetest.Fresh
	}{{"SQLite", databasetest.SQLite}, {"PostgreSQL", databasetest.PostgreSQL}, {"MariaDB", databasetest.MariaDB}} {
		for _, callers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, callers), func(b *testing.B) {
				w := worldOn(b, kind.fresh(b))
				var servers []*server
				for i := range callers {
					s := newServer(b, w, w, tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
					s.publish(b, "first")
					servers = append(servers, s)
				}
				b.ResetTimer()
				work := make(chan int)
				var group sync.WaitGroup
				for _, s := range servers {
					group.Go(func() {
						for n := range work {
							s.publish(b, fmt.Sprint(n))
						}
					})
				}
				for n := range b.N {
					work <- n
				}
				close(work)
				group.Wait()
				b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
			})
		}
	}
}
