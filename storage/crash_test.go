package storage_test

import (
	"bufio"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// crashFile tells a copy of this program to commit into that file until it is
// killed, instead of running tests.
const crashFile = "STORAGE_TEST_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		if err := commitForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(databasetest.Main(m).Run())
}

func commitForEver(path string) error {
	ctx := context.Background()
	db, err := sql.Open("sqlite", "file:"+path+pragmas)
	if err != nil {
		return err
	}
	s, err := storage.Open(ctx, database.New(db, database.SQLite))
	if err != nil {
		return err
	}
	base, err := s.Current(ctx, app)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	for v := int64(1); ; v++ {
		if base != nil {
			v = base.Floors[tuf.RoleTimestamp] + 1
		}
		if base, err = s.Commit(ctx, app, base, crashFiles(v), nil, storagetest.Start, nil); err != nil {
			return err
		}
		fmt.Println(v) // acknowledged
		if v%5 == 0 {
			if err := s.Prune(ctx, storagetest.Start.AddDate(0, 0, 2)); err != nil {
				return err
			}
		}
	}
}

func crashFiles(v int64) []storage.NewFile {
	return []storage.NewFile{storagetest.File(app, tuf.RoleRoot, v, 0), storagetest.Listing(200, v, 3),
		storagetest.File(app, tuf.RoleSnapshot, v, 0), storagetest.File(app, tuf.RoleTimestamp, v, 0)}
}

// A process that is killed while it commits loses nothing that it has
// acknowledged, and leaves no half of a publish.
func TestCrash(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := temp(t)
	acknowledged := int64(0)
	for _, lines := range []int{1, 4, 7, 12} {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), crashFile+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		for range lines {
			if !in.Scan() {
				break
			}
			if _, err := fmt.Sscan(in.Text(), &acknowledged); err != nil {
				t.Errorf("the committing process said %q", in.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for in.Scan() { // what it said before it died
			if _, err := fmt.Sscan(in.Text(), &acknowledged); err != nil {
				break // half a line
			}
		}
		_ = cmd.Wait() // killed, as it should be
		if stderr.Len() > 0 {
			t.Fatalf("the committing process: %s", stderr.String())
		}

		s, db := openStore(t, path)
		var verdict string
		if err := db.SQL().QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			t.Fatalf("integrity of the file: %q, %v", verdict, err)
		}
		state, err := s.Current(ctx, app)
		if err != nil {
			t.Fatalf("Current = %v", err)
		}
		have := state.Roles[tuf.RoleTimestamp].Version
		if have < acknowledged || have > acknowledged+1 {
			t.Errorf("version %d is current, %d was acknowledged", have, acknowledged)
		}
		for role, e := range state.Roles {
			if e.Version != have {
				t.Errorf("%s is at version %d, the timestamp at %d", role, e.Version, have)
			}
		}
		for v := int64(1); v <= have; v++ {
			raw, _, err := s.Version(ctx, app, tuf.RoleTargets, v)
			if err != nil || string(raw) != string(crashFiles(v)[1].Raw) {
				t.Errorf("targets version %d: %d bytes, %v", v, len(raw), err)
			}
		}
		changes, err := s.Changes(ctx, storage.ChangeQuery{Limit: 1000})
		if err != nil || int64(len(changes)) != have {
			t.Errorf("changefeed has %d records, %v; want %d", len(changes), err, have)
		}
		storagetest.Check(t, s)
	}
}

// A losing driver is SQLite whose answer to COMMIT is lost, with or without
// the commit.
type losing struct {
	driver.Driver
	lose  atomic.Bool
	first atomic.Bool // lose it before it is done
	then  func()      // what happens meanwhile, once; set while nobody commits
}

// newLosing returns such a driver, and its name.
func newLosing(t *testing.T) (d *losing, name string) {
	t.Helper()
	plain, err := sql.Open("sqlite", "file:"+temp(t))
	if err != nil {
		t.Fatal(err)
	}
	d = &losing{Driver: plain.Driver()}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprintf("sqlite-losing-%p", d)
	sql.Register(name, d)
	return d, name
}

var errLost = errors.New("connection reset by peer")

func (d *losing) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &losingConn{Conn: c, d: d}, nil
}

type losingConn struct {
	driver.Conn
	d *losing
}

func (c *losingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
	if err != nil || o.ReadOnly {
		return tx, err
	}
	return &losingTx{Tx: tx, d: c.d}, nil
}

func (c *losingConn) ExecContext(ctx context.Context, q string, a []driver.NamedValue) (driver.Result, error) {
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, a)
}

func (c *losingConn) QueryContext(ctx context.Context, q string, a []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, a)
}

type losingTx struct {
	driver.Tx
	d *losing
}

func (t *losingTx) Commit() error {
	if !t.d.lose.Load() {
		return t.Tx.Commit()
	}
	if t.d.first.Load() {
		err := errors.Join(errLost, t.Rollback())
		if then := t.d.then; then != nil {
			t.d.then = nil
			t.d.lose.Store(false)
			then()
		}
		return err
	}
	return errors.Join(errLost, t.Tx.Commit())
}

// Amendment 6: when the answer to a commit is lost, it is looked up.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d, driver := newLosing(t)
	path := temp(t)
	s, err := storage.Open(ctx, openDB(t, path, driver))
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	d.lose.Store(true)
	state, err := s.Commit(ctx, app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil)
	if err != nil {
		t.Fatalf("Commit that was done, answer lost = %v, want the state", err)
	}
	d.first.Store(true)
	_, err = s.Commit(ctx, app, state, storagetest.Files(app, 2, 0), nil, storagetest.Start, nil)
	if !errors.Is(err, database.ErrUncertain) || !errors.Is(err, errLost) || errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit that was not done = %v, want ErrUncertain", err)
	}
	d.lose.Store(false)
	got, err := s.Current(ctx, app)
	if err != nil || got.Seq != state.Seq {
		t.Errorf("Current = %v, %v; want seq %d", got, err, state.Seq)
	}
	if got, err = s.Commit(ctx, app, got, storagetest.Files(app, 2, 0), nil, storagetest.Start, nil); err != nil {
		t.Fatalf("Commit again = %v", err)
	}

	// Another publisher, faster, has other files of the same versions.
	other, _ := openStore(t, path)
	d.then = func() {
		if _, err := other.Commit(ctx, app, got, storagetest.Files(app, 3, 1), nil, storagetest.Start, nil); err != nil {
			t.Errorf("Commit by the other = %v", err)
		}
	}
	d.lose.Store(true)
	if _, err := s.Commit(ctx, app, got, storagetest.Files(app, 3, 0), nil, storagetest.Start, nil); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit that was not done, and another was = %v, want ErrConflict", err)
	}

	// The end of a repository is taken back, once.
	d.lose.Store(false)
	d.first.Store(false)
	if got, err = s.Current(ctx, app); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, got, storagetest.Start, storage.Actor{}); err != nil {
		t.Fatal(err)
	}
	d.lose.Store(true)
	d.first.Store(true)
	if _, err := s.Restore(ctx, app, storagetest.Start, storage.Actor{}); !errors.Is(err, storage.ErrUncertain) {
		t.Errorf("Restore that was not done = %v, want ErrUncertain", err)
	}
	d.first.Store(false)
	if now, err := s.Restore(ctx, app, storagetest.Start, storage.Actor{}); err != nil || now.Incarnation != got.Incarnation {
		t.Errorf("Restore that was done, answer lost = %+v, %v, want the state", now, err)
	}
	storagetest.Check(t, s)
}
