package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// A packed file is one that is ready to be written.
type packed struct {
	NewFile
	digest [32]byte
	data   []byte
}

// Commit implements [Store].
func (s *SQL) Commit(ctx context.Context, gun tuf.GUN, base *State, files []NewFile, drop []tuf.RoleName, now time.Time, by *Actor) (*State, error) {
	state, err := s.commit(ctx, gun, base, files, drop, now, by)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", gun, err)
	}
	return state, nil
}

func (s *SQL) commit(ctx context.Context, gun tuf.GUN, base *State, files []NewFile, drop []tuf.RoleName, now time.Time, by *Actor) (*State, error) {
	if err := sound(gun, base, files, drop); err != nil {
		return nil, err
	}
	// Compression takes longer than the rest; the writer's lock is not held.
	ready := make([]packed, len(files))
	for i, f := range files {
		ready[i] = packed{NewFile: f, digest: sha256.Sum256(f.Raw), data: s.codec.pack(f.Raw)}
	}
	var state *State
	err := s.inTurn(ctx, func(t *database.Tx) error {
		r, err := advance(ctx, t, gun, base, now)
		if err != nil {
			return err
		}
		for _, role := range drop {
			if err := r.drop(ctx, t, role, now); err != nil {
				return fmt.Errorf("drop %s: %w", role, err)
			}
		}
		for _, f := range ready {
			if err := r.put(ctx, t, f, now, now); err != nil {
				return fmt.Errorf("store %s: %w", f.Role, err)
			}
		}
		if i := slices.IndexFunc(ready, func(f packed) bool { return f.Role == tuf.RoleTimestamp }); i >= 0 {
			if err := announce(ctx, t, gun, ready[i].Version, ready[i].digest[:], now); err != nil {
				return err
			}
		}
		if state, err = current(ctx, t, gun); err != nil || by == nil {
			return err
		}
		return record(ctx, t, AuditRecord{At: now, Act: Publish, Repository: gun, Actor: *by, Seq: state.Seq, Incarnation: state.Incarnation,
			Version: state.Roles[tuf.RoleTimestamp].Version, Files: published(ready), Dropped: drop})
	})
	switch {
	case errors.Is(err, database.ErrUncertain):
		return s.settle(ctx, gun, ready, err)
	case database.IsUnique(err):
		// Where the isolation let two through, the index did not.
		return nil, fmt.Errorf("%w: %w", ErrConflict, err)
	case err != nil:
		return nil, err
	}
	return state, nil
}

// published names the files of a commit, without the timestamp, which says
// nothing of its own.
func published(files []packed) []FileRecord {
	var all []FileRecord
	for _, f := range files {
		if f.Role != tuf.RoleTimestamp {
			all = append(all, FileRecord{f.Role, f.Version, hex.EncodeToString(f.digest[:])})
		}
	}
	return byRole(all)
}

func byRole(all []FileRecord) []FileRecord {
	slices.SortFunc(all, func(a, b FileRecord) int { return strings.Compare(string(a.Role), string(b.Role)) })
	return all
}

// sound refuses what a caller may not ask for.
func sound(gun tuf.GUN, base *State, files []NewFile, drop []tuf.RoleName) error {
	if !gun.Valid() {
		return fmt.Errorf("%q is not a valid repository name", gun)
	}
	if base != nil && base.GUN != gun {
		return fmt.Errorf("base is a state of %s", base.GUN)
	}
	if len(files) == 0 {
		return errors.New("no files to commit")
	}
	seen := map[tuf.RoleName]bool{}
	for _, f := range files {
		switch {
		case !f.Role.Valid():
			return fmt.Errorf("%q is not a valid role name", f.Role)
		case f.Version < 1:
			return fmt.Errorf("%s version %d is below 1", f.Role, f.Version)
		case len(f.Raw) == 0:
			return fmt.Errorf("%s is empty", f.Role)
		case len(f.Raw) > maxLength:
			return fmt.Errorf("%s is longer than %d bytes", f.Role, maxLength)
		case seen[f.Role]:
			return fmt.Errorf("%s is offered twice", f.Role)
		}
		seen[f.Role] = true
	}
	for _, role := range drop {
		if !role.Delegation() {
			return fmt.Errorf("%q is not a delegation and cannot be dropped", role)
		}
	}
	return nil
}

// inTurn runs a transaction that moves repositories on. All of those change the
// one row of counters, so they wait for their turn before they look at
// anything: to be refused at the end, and to begin again, takes longer.
func (s *SQL) inTurn(ctx context.Context, fn func(*database.Tx) error) error {
	return s.db.Update(ctx, func(t *database.Tx) error {
		var err error
		switch t.Dialect() {
		case database.PostgreSQL:
			// The one statement that waits before what is visible is fixed.
			_, err = t.Exec(ctx, "LOCK TABLE counters IN SHARE ROW EXCLUSIVE MODE")
		case database.MySQL:
			err = t.QueryRow(ctx, "SELECT seq FROM counters WHERE id = 1 FOR UPDATE").Scan(new(int64))
		}
		if err != nil {
			return fmt.Errorf("wait for a turn: %w", err)
		}
		return fn(t)
	})
}

// A revision is a repository in the transaction that moves it on.
type revision struct{ id, seq int64 }

// advance compares base with the current state, and gives the repository its
// next seq. The row of counters that this changes puts all commits in one
// order, in which their numbers become visible.
func advance(ctx context.Context, t *database.Tx, gun tuf.GUN, base *State, now time.Time) (revision, error) {
	var r revision
	var have int64
	var deleted int
	err := t.QueryRow(ctx, "SELECT id, seq, deleted FROM repositories WHERE gun = ?", string(gun)).Scan(&r.id, &have, &deleted)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return revision{}, fmt.Errorf("read repository: %w", err)
	}
	switch published := known && deleted == 0; {
	case base == nil && published:
		return revision{}, fmt.Errorf("%w: it is already published", ErrConflict)
	case base != nil && !published:
		return revision{}, fmt.Errorf("%w: it is not published any more", ErrConflict)
	case base != nil && base.Seq != have:
		return revision{}, fmt.Errorf("%w: from %d to %d", ErrConflict, base.Seq, have)
	}
	if r.seq, err = count(ctx, t); err != nil {
		return revision{}, err
	}
	switch {
	case !known:
		r.id = r.seq
		_, err = t.Exec(ctx, "INSERT INTO repositories (id, gun, incarnation, seq, deleted, seen) VALUES (?, ?, ?, ?, 0, ?)", r.id, string(gun), r.seq, r.seq, micros(now))
	case base == nil:
		err = one(t.Exec(ctx, "UPDATE repositories SET seq = ?, incarnation = ?, deleted = 0, seen = ?, mirror = NULL WHERE id = ? AND seq = ? AND deleted = 1", r.seq, r.seq, micros(now), r.id, have))
	default:
		err = one(t.Exec(ctx, "UPDATE repositories SET seq = ? WHERE id = ? AND seq = ? AND deleted = 0", r.seq, r.id, have))
	}
	if err != nil {
		return revision{}, fmt.Errorf("advance repository: %w", err)
	}
	return r, nil
}

// count takes the next number of a commit or deletion.
func count(ctx context.Context, t *database.Tx) (seq int64, err error) {
	if _, err = t.Exec(ctx, "UPDATE counters SET seq = seq + 1 WHERE id = 1"); err != nil {
		return 0, fmt.Errorf("count: %w", err)
	}
	if err = t.QueryRow(ctx, "SELECT seq FROM counters WHERE id = 1").Scan(&seq); err != nil {
		return 0, fmt.Errorf("count: %w", err)
	}
	return seq, nil
}

// one turns an update that met no row, because another was faster, into
// ErrConflict.
func one(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n != 1 {
		return ErrConflict
	}
	return err
}

// drop ends a delegation. Its floor goes with it; its files stay readable.
func (r revision) drop(ctx context.Context, t *database.Tx, role tuf.RoleName, now time.Time) error {
	if _, err := t.Exec(ctx, "DELETE FROM roles WHERE repository = ? AND role = ?", r.id, string(role)); err != nil {
		return err
	}
	_, err := t.Exec(ctx, retireRole, now.UnixMicro(), r.id, string(role))
	return err
}

// put makes f, which came at created, the current file of its role.
func (r revision) put(ctx context.Context, t *database.Tx, f packed, created, now time.Time) error {
	incarnation, version, highest := r.seq, int64(0), int64(0)
	err := t.QueryRow(ctx, "SELECT incarnation, version, highest FROM roles WHERE repository = ? AND role = ?", r.id, string(f.Role)).
		Scan(&incarnation, &version, &highest)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if f.Version <= highest {
		return &VersionError{Role: f.Role, Offered: f.Version, Have: highest}
	}
	if err := putBlob(ctx, t, f); err != nil {
		return err
	}
	// Every root stays part of the chain that readers walk.
	if known && f.Role != tuf.RoleRoot {
		if _, err := t.Exec(ctx, retireFile, now.UnixMicro(), r.id, incarnation, string(f.Role), version); err != nil {
			return err
		}
	}
	if _, err := t.Exec(ctx, `INSERT INTO files (repository, incarnation, role, version, digest, created, expires, retired, packed)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)`,
		r.id, incarnation, string(f.Role), f.Version, f.digest[:], created.UnixMicro(), f.Expires.UnixMicro()); err != nil {
		return err
	}
	if known {
		_, err = t.Exec(ctx, "UPDATE roles SET version = ?, highest = ? WHERE repository = ? AND role = ?", f.Version, f.Version, r.id, string(f.Role))
	} else {
		_, err = t.Exec(ctx, "INSERT INTO roles (repository, role, incarnation, version, highest) VALUES (?, ?, ?, ?, ?)",
			r.id, string(f.Role), incarnation, f.Version, f.Version)
	}
	return err
}

// putBlob stores the bytes of f, unless they are there.
func putBlob(ctx context.Context, t *database.Tx, f packed) error {
	var length int64
	err := t.QueryRow(ctx, "SELECT length FROM blobs WHERE digest = ?", f.digest[:]).Scan(&length)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	_, err = t.Exec(ctx, "INSERT INTO blobs (digest, length, base, height, data) VALUES (?, ?, NULL, 0, ?)", f.digest[:], len(f.Raw), f.data)
	return err
}

// announce makes a record in the changefeed; without a digest it says that
// the repository was deleted.
func announce(ctx context.Context, t *database.Tx, gun tuf.GUN, version int64, digest []byte, now time.Time) error {
	if _, err := t.Exec(ctx, "UPDATE counters SET change_id = change_id + 1 WHERE id = 1"); err != nil {
		return fmt.Errorf("count change: %w", err)
	}
	var id int64
	if err := t.QueryRow(ctx, "SELECT change_id FROM counters WHERE id = 1").Scan(&id); err != nil {
		return fmt.Errorf("count change: %w", err)
	}
	if _, err := t.Exec(ctx, "INSERT INTO changes (id, gun, version, digest, created) VALUES (?, ?, ?, ?, ?)",
		id, string(gun), version, digest, now.UnixMicro()); err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	return nil
}

// settle finds out what became of a commit whose answer was lost. If all its
// files are there it happened. If not, it may still: the caller gets cause.
func (s *SQL) settle(ctx context.Context, gun tuf.GUN, files []packed, cause error) (*State, error) {
	var state *State
	err := s.db.View(ctx, func(t *database.Tx) error {
		for _, f := range files {
			var digest []byte
			var created int64
			err := t.QueryRow(ctx, selectVersion, string(gun), string(f.Role), f.Version).Scan(&digest, &created)
			if err != nil {
				return err
			}
			if !bytes.Equal(digest, f.digest[:]) {
				return ErrConflict
			}
		}
		var err error
		state, err = current(ctx, t, gun)
		return err
	})
	if err != nil {
		return nil, errors.Join(cause, fmt.Errorf("look whether it was stored: %w", err))
	}
	return state, nil
}

// Delete implements [Store].
func (s *SQL) Delete(ctx context.Context, base *State, now time.Time, by Actor) error {
	if base == nil {
		return fmt.Errorf("delete: %w", ErrNotFound)
	}
	act := Deleted
	if by.Operator {
		act = Reset
	}
	err := s.inTurn(ctx, func(t *database.Tx) error {
		state, err := current(ctx, t, base.GUN)
		if err != nil {
			return err
		}
		r, err := advance(ctx, t, base.GUN, base, now)
		if err != nil {
			return err
		}
		if err := one(t.Exec(ctx, "UPDATE repositories SET deleted = 1 WHERE id = ? AND seq = ?", r.id, r.seq)); err != nil {
			return err
		}
		if _, err := t.Exec(ctx, "DELETE FROM roles WHERE repository = ?", r.id); err != nil {
			return fmt.Errorf("drop roles: %w", err)
		}
		if err := r.end(ctx, t, state, act, now); err != nil {
			return err
		}
		if err := announce(ctx, t, base.GUN, 0, nil, now); err != nil {
			return err
		}
		return record(ctx, t, AuditRecord{At: now, Act: act, Repository: base.GUN, Actor: by, Seq: r.seq, Incarnation: state.Incarnation,
			Version: state.Roles[tuf.RoleTimestamp].Version, Files: state.files()})
	})
	if errors.Is(err, database.ErrUncertain) && s.deleted(ctx, base) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", base.GUN, err)
	}
	return nil
}

// deleted reports whether the incarnation of base has certainly ended.
func (s *SQL) deleted(ctx context.Context, base *State) bool {
	now, err := s.Current(ctx, base.GUN)
	return errors.Is(err, ErrNotFound) || err == nil && now.Incarnation != base.Incarnation
}
