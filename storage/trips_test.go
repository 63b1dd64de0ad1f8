package storage_test

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
)

// counted puts a relay before the server of a setting, and returns the setting
// of that and how many round trips there were: how often something was sent
// after an answer.
func counted(t *testing.T, setting string) (string, *atomic.Int64) {
	t.Helper()
	u, err := url.Parse(setting)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "relay") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a temporary folder
	q := u.Query()
	socket := q.Get("socket")
	here := filepath.Join(dir, filepath.Base(socket))
	q.Set("socket", here)
	if u.Scheme == "postgres" { // a folder with a socket in it
		q.Set("socket", dir)
		here, socket = filepath.Join(dir, ".s.PGSQL.5432"), filepath.Join(socket, ".s.PGSQL.5432")
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "%2F", "/")
	l, err := net.Listen("unix", here)
	if err != nil {
		t.Fatal(err)
	}
	var trips atomic.Int64
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				t.Errorf("connect to the server: %v", err)
				_ = client.Close()
				return
			}
			var asked atomic.Bool
			pass := func(to, from net.Conn, note func()) {
				defer to.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := from.Read(buf)
					note()
					if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}
			all.Go(func() {
				pass(server, client, func() {
					if !asked.Swap(true) {
						trips.Add(1)
					}
				})
			})
			all.Go(func() { pass(client, server, func() { asked.Store(false) }) })
		}
	})
	return u.String(), &trips
}

// What a transaction of commits asks the database does not depend on how many
// it has.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fresh databasetest.Fresh
		most  int64
	}{"PostgreSQL": {databasetest.PostgreSQL, 3}, "MariaDB": {databasetest.MariaDB, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			setting, trips := counted(t, c.fresh(t))
			db := databasetest.Open(t, setting)
			db.SQL().SetMaxOpenConns(1)
			s, g := gated(t, db)
			begin := commits{t, s}
			const many = 8
			bases := make([]*storage.State, many+1)
			for version := int64(1); version <= 4; version++ {
				var all []<-chan outcome
				g.shut.Store(true)
				before := trips.Load()
				for n := range bases {
					if n == 0 {
						all = append(all, begin.begin(t.Context(), repo(n), bases[n], version))
						<-g.arrived
						continue
					}
					all = append(all, begin.queued(t.Context(), repo(n), bases[n], version))
				}
				g.open <- struct{}{}
				bases[0] = begin.done(all[0], nil)
				<-g.arrived
				alone := trips.Load() - before
				g.shut.Store(false)
				g.open <- struct{}{}
				for n := 1; n <= many; n++ {
					bases[n] = begin.done(all[n], nil)
				}
				together := trips.Load() - before - alone
				if version == 4 && (alone > c.most || together > c.most || alone < c.most) { // before, statements are prepared
					t.Errorf("a commit took %d round trips, %d commits %d; want at most %d", alone, many, together, c.most)
				}
				t.Logf("version %d: a commit took %d round trips, %d commits %d", version, alone, many, together)
			}
		})
	}
}
