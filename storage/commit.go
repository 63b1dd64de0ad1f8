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
		timestamp := slices.IndexFunc(ready, func(f packed) bool { return f.Role == tuf.RoleTimestamp })
		r, err := advanceAs(ctx, t, gun, base, now, timestamp >= 0)
		if err != nil {
			return err
		}
		for _, role := range drop {
			if err := r.drop(ctx, t, role, now); err != nil {
				return fmt.Errorf("drop %s: %w", role, err)
			}
		}
		if err := r.put(ctx, t, ready, now, now); err != nil {
			return err
		}
		if timestamp >= 0 {
			if err := tell(ctx, t, r.change, gun, ready[timestamp].Version, ready[timestamp].digest[:], now); err != nil {
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

// A revision is a repository in the transaction that moves it on, and the
// number of its record in the changefeed, if it was given one.
type revision struct{ id, seq, change int64 }

// advance compares base with the current state, and gives the repository its
// next seq. The row of counters that this changes puts all commits in one
// order, in which their numbers become visible.
func advance(ctx context.Context, t *database.Tx, gun tuf.GUN, base *State, now time.Time) (revision, error) {
	return advanceAs(ctx, t, gun, base, now, false)
}

// advanceAs is advance, and counts a record of the changefeed as well if that
// is asked for.
func advanceAs(ctx context.Context, t *database.Tx, gun tuf.GUN, base *State, now time.Time, change bool) (revision, error) {
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
	changes := 0
	if change {
		changes = 1
	}
	if r.seq, r.change, err = count(ctx, t, 1, changes); err != nil {
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

// count takes next numbers, of commits or deletions and of records in the
// changefeed, and returns the last of each.
func count(ctx context.Context, t *database.Tx, seqs, changes int) (seq, change int64, err error) {
	if _, err = t.Exec(ctx, "UPDATE counters SET seq = seq + ?, change_id = change_id + ? WHERE id = 1", seqs, changes); err != nil {
		return 0, 0, fmt.Errorf("count: %w", err)
	}
	if err = t.QueryRow(ctx, "SELECT seq, change_id FROM counters WHERE id = 1").Scan(&seq, &change); err != nil {
		return 0, 0, fmt.Errorf("count: %w", err)
	}
	return seq, change, nil
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

// put makes files of different roles, which came at created, the current ones
// of their roles.
func (r revision) put(ctx context.Context, t *database.Tx, files []packed, created, now time.Time) error {
	have, err := r.roles(ctx, t)
	if err != nil {
		return err
	}
	for _, f := range files {
		if highest := have[f.Role].highest; f.Version <= highest {
			return fmt.Errorf("store %s: %w", f.Role, &VersionError{Role: f.Role, Offered: f.Version, Have: highest})
		}
	}
	if err := putBlobs(ctx, t, files); err != nil {
		return fmt.Errorf("store content: %w", err)
	}
	var rows []any
	for _, f := range files {
		is, known := have[f.Role]
		if !known {
			is.incarnation = r.seq
		}
		// Every root stays part of the chain that readers walk.
		if known && f.Role != tuf.RoleRoot {
			if _, err := t.Exec(ctx, retireFile, now.UnixMicro(), r.id, is.incarnation, string(f.Role), is.version); err != nil {
				return fmt.Errorf("retire %s: %w", f.Role, err)
			}
		}
		rows = append(rows, r.id, is.incarnation, string(f.Role), f.Version, f.digest[:], created.UnixMicro(), f.Expires.UnixMicro())
	}
	_, err = t.Exec(ctx, "INSERT INTO files (repository, incarnation, role, version, digest, created, expires, retired, packed) VALUES "+
		database.List(len(files), "(?, ?, ?, ?, ?, ?, ?, 0, 0)"), rows...)
	if err != nil {
		return fmt.Errorf("store files: %w", err)
	}
	for _, f := range files {
		if _, known := have[f.Role]; known {
			_, err = t.Exec(ctx, "UPDATE roles SET version = ?, highest = ? WHERE repository = ? AND role = ?", f.Version, f.Version, r.id, string(f.Role))
		} else {
			_, err = t.Exec(ctx, "INSERT INTO roles (repository, role, incarnation, version, highest) VALUES (?, ?, ?, ?, ?)",
				r.id, string(f.Role), r.seq, f.Version, f.Version)
		}
		if err != nil {
			return fmt.Errorf("store %s: %w", f.Role, err)
		}
	}
	return nil
}

// A standing is what is known of a role.
type standing struct{ incarnation, version, highest int64 }

func (r revision) roles(ctx context.Context, t *database.Tx) (map[tuf.RoleName]standing, error) {
	rows, err := t.Query(ctx, "SELECT role, incarnation, version, highest FROM roles WHERE repository = ?", r.id)
	if err != nil {
		return nil, fmt.Errorf("read roles: %w", err)
	}
	defer rows.Close()
	all := map[tuf.RoleName]standing{}
	for rows.Next() {
		var role tuf.RoleName
		var is standing
		if err := rows.Scan(&role, &is.incarnation, &is.version, &is.highest); err != nil {
			return nil, fmt.Errorf("read roles: %w", err)
		}
		all[role] = is
	}
	return all, rows.Err()
}

// small is up to what size contents are stored together, in bytes: together
// they must fit into what a server takes as one statement.
const small = 16 << 10

// putBlobs stores the bytes of files, unless they are there.
func putBlobs(ctx context.Context, t *database.Tx, files []packed) error {
	var digests []any
	for _, f := range files {
		digests = append(digests, f.digest[:])
	}
	there, err := digestsIn(ctx, t, digests)
	if err != nil {
		return err
	}
	var together []any
	n := 0
	for _, f := range files {
		if there[f.digest] {
			continue
		}
		there[f.digest] = true
		row := []any{f.digest[:], len(f.Raw), f.data}
		if len(f.data) <= small {
			together, n = append(together, row...), n+1
			continue
		}
		if _, err := t.Exec(ctx, insertBlobs+blobRow, row...); err != nil {
			return err
		}
	}
	if n > 0 {
		_, err = t.Exec(ctx, insertBlobs+database.List(n, blobRow), together...)
	}
	return err
}

const (
	insertBlobs = "INSERT INTO blobs (digest, length, base, height, data) VALUES "
	blobRow     = "(?, ?, NULL, 0, ?)"
)

func digestsIn(ctx context.Context, t *database.Tx, digests []any) (map[[32]byte]bool, error) {
	rows, err := t.Query(ctx, "SELECT digest FROM blobs WHERE digest IN ("+database.List(len(digests), "?")+")", digests...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := map[[32]byte]bool{}
	for rows.Next() {
		var digest []byte
		if err := rows.Scan(&digest); err != nil {
			return nil, err
		}
		if len(digest) == 32 {
			there[[32]byte(digest)] = true
		}
	}
	return there, rows.Err()
}

// announce makes a record in the changefeed; without a digest it says that
// the repository was deleted.
func announce(ctx context.Context, t *database.Tx, gun tuf.GUN, version int64, digest []byte, now time.Time) error {
	_, id, err := count(ctx, t, 0, 1)
	if err != nil {
		return err
	}
	return tell(ctx, t, id, gun, version, digest, now)
}

// tell makes the record that has been counted.
func tell(ctx context.Context, t *database.Tx, id int64, gun tuf.GUN, version int64, digest []byte, now time.Time) error {
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
