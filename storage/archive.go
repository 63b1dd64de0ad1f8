package storage

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// An Archive is a [Store] that also shows what is no longer current, and who
// did what: for those who administer it. What was deleted is there for as
// long as [Config] says.
type Archive interface {
	Store

	// Repositories returns what is known of repositories whose names come
	// after that one (empty: all) in byte order, deleted ones included.
	// At most limit; 0 means 1000, the most.
	Repositories(ctx context.Context, after tuf.GUN, limit int) ([]Repository, error)

	// Incarnations returns those of one name, oldest first, numbered from 1.
	// ErrNotFound: nothing was ever published under it.
	Incarnations(ctx context.Context, gun tuf.GUN) ([]Incarnation, error)

	// Kept returns the files of an incarnation that are still there, ordered
	// by role and version, after that one (the zero Kept: all). At most limit;
	// 0 means 1000, the most.
	Kept(ctx context.Context, i Incarnation, after Kept, limit int) ([]Kept, error)

	// Raw returns the bytes of a kept file. ErrNotFound: it was pruned since.
	Raw(ctx context.Context, i Incarnation, k Kept) ([]byte, error)

	// Restore takes back the end of a repository under whose name nothing was
	// published since: it is as it was, with a new Seq, and a record in the
	// changefeed. ErrConflict: it is published. ErrNotFound: it never was, or
	// not all of its files are kept any more.
	Restore(ctx context.Context, gun tuf.GUN, now time.Time, by Actor) (*State, error)

	// Audit returns a part of the audit trail.
	Audit(ctx context.Context, q AuditQuery) ([]AuditRecord, error)
}

// A Repository is a name under which something was published.
type Repository struct {
	GUN     tuf.GUN
	Seq     int64 // of the last commit or deletion
	Deleted bool
	Seen    time.Time // see [Store.Seen]; the zero time if that is not known
}

// An Incarnation is the life of a repository from its first commit to its
// deletion.
type Incarnation struct {
	GUN    tuf.GUN
	Number int
	First  int64 // the Seq of its first commit
	Last   int64 // the Seq of its deletion, or of the last commit if it lives
	Began  time.Time
	Ended  time.Time // the zero time: it lives
	By     Act       // how it ended: Deleted or Reset

	repository int64
}

// Lives reports whether it is the current one.
func (i Incarnation) Lives() bool { return i.Ended.IsZero() }

// A Kept describes a file that is kept. Final says that it is current, or was
// when its incarnation ended; of roots only the newest is.
type Kept struct {
	Entry
	Retired time.Time // when another took its place; the zero time: it is current
	Final   bool

	incarnation int64
}

// Repositories implements [Archive].
func (s *SQL) Repositories(ctx context.Context, after tuf.GUN, limit int) ([]Repository, error) {
	all, err := list(ctx, s.db, "SELECT gun, seq, deleted, seen FROM repositories WHERE gun > ? ORDER BY gun LIMIT ?", []any{string(after), bounded(limit)},
		func(scan func(...any) error) (Repository, error) {
			var r Repository
			var deleted int
			var seen int64
			err := scan(&r.GUN, &r.Seq, &deleted, &seen)
			r.Deleted = deleted != 0
			if seen > 0 {
				r.Seen = moment(seen)
			}
			return r, err
		})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return all, nil
}

// Incarnations implements [Archive].
func (s *SQL) Incarnations(ctx context.Context, gun tuf.GUN) ([]Incarnation, error) {
	if !gun.Valid() {
		return nil, fmt.Errorf("read incarnations of %q: %w", gun, ErrNotFound)
	}
	var all []Incarnation
	err := s.db.View(ctx, func(t *database.Tx) error {
		all = nil
		now := Incarnation{GUN: gun}
		var deleted int
		err := t.QueryRow(ctx, "SELECT id, incarnation, seq, deleted FROM repositories WHERE gun = ?", string(gun)).
			Scan(&now.repository, &now.First, &now.Last, &deleted)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		if all, err = ended(ctx, t, now); err != nil || deleted != 0 {
			return err
		}
		if now.Began, err = began(ctx, t, now.repository, now.First); err != nil {
			return err
		}
		now.Number = len(all) + 1
		all = append(all, now)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read incarnations of %s: %w", gun, err)
	}
	return all, nil
}

// ended returns the incarnations of a repository that were ended.
func ended(ctx context.Context, t *database.Tx, of Incarnation) ([]Incarnation, error) {
	rows, err := t.Query(ctx, "SELECT incarnation, seq, began, ended, act FROM endings WHERE repository = ? ORDER BY incarnation", of.repository)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Incarnation
	for rows.Next() {
		i := Incarnation{GUN: of.GUN, Number: len(all) + 1, repository: of.repository}
		var began, ended int64
		if err := rows.Scan(&i.First, &i.Last, &began, &ended, &i.By); err != nil {
			return nil, err
		}
		i.Began, i.Ended = moment(began), moment(ended)
		all = append(all, i)
	}
	return all, rows.Err()
}

// began is when the incarnation that began with that commit did: when the
// oldest of its files was committed. Its roots are all kept while it lives.
func began(ctx context.Context, t *database.Tx, repository, first int64) (time.Time, error) {
	var created sql.NullInt64
	err := t.QueryRow(ctx, "SELECT MIN(created) FROM files WHERE repository = ? AND incarnation >= ?", repository, first).Scan(&created)
	return moment(created.Int64), err
}

// within is the condition that a file is of an incarnation, by its repository
// and the numbers of the incarnation's first commit and of its last.
const within = "f.repository = ? AND f.incarnation BETWEEN ? AND ?"

// Kept implements [Archive].
func (s *SQL) Kept(ctx context.Context, i Incarnation, after Kept, limit int) ([]Kept, error) {
	kept, err := list(ctx, s.db, `SELECT f.role, f.incarnation, f.version, f.digest, f.created, f.expires,
		CASE WHEN f.retired = 0 AND f.role <> 'root' THEN COALESCE(`+since+`, 0) ELSE f.retired END, f.ending, b.length,
		(SELECT MAX(o.version) FROM files o WHERE o.repository = f.repository AND o.incarnation = f.incarnation AND o.role = f.role)
		FROM files f JOIN blobs b ON b.digest = f.digest WHERE `+within+`
		AND (f.role > ? OR f.role = ? AND (f.version > ? OR f.version = ? AND f.incarnation > ?))
		ORDER BY f.role, f.version, f.incarnation LIMIT ?`,
		[]any{i.repository, i.First, i.Last, string(after.Role), string(after.Role), after.Version, after.Version, after.incarnation, bounded(limit)},
		func(scan func(...any) error) (Kept, error) {
			var k Kept
			var digest []byte
			var created, expires, retired, ending, newest int64
			err := scan(&k.Role, &k.incarnation, &k.Version, &digest, &created, &expires, &retired, &ending, &k.Length, &newest)
			if err == nil && len(digest) != len(k.SHA256) {
				err = fmt.Errorf("%s: %w: hash of %d bytes", k.Role, ErrCorrupt, len(digest))
			}
			if err != nil {
				return Kept{}, err
			}
			k.SHA256 = [32]byte(digest)
			k.Created, k.Expires = moment(created), moment(expires)
			if retired > 0 {
				k.Retired = moment(retired)
			}
			k.Final = (retired == 0 || ending > 0) && k.Version == newest
			return k, nil
		})
	if err != nil {
		return nil, fmt.Errorf("list files of %s: %w", i.GUN, err)
	}
	return kept, nil
}

// Raw implements [Archive].
func (s *SQL) Raw(ctx context.Context, i Incarnation, k Kept) ([]byte, error) {
	raw, _, err := s.read(ctx, "SELECT f.digest, f.created FROM files f WHERE "+within+" AND f.role = ? AND f.digest = ? LIMIT 1",
		i.repository, i.First, i.Last, string(k.Role), k.SHA256[:])
	if err != nil {
		return nil, fmt.Errorf("read %s version %d of %s, incarnation %d: %w", k.Role, k.Version, i.GUN, i.Number, err)
	}
	return raw, nil
}

// end notes in the transaction of a deletion what it ended.
func (r revision) end(ctx context.Context, t *database.Tx, base *State, act Act, now time.Time) error {
	since, err := began(ctx, t, r.id, base.Incarnation)
	if err != nil {
		return fmt.Errorf("look for the beginning: %w", err)
	}
	result, err := t.Exec(ctx, "UPDATE files SET retired = ?, ending = ? WHERE repository = ? AND retired = 0", now.UnixMicro(), r.seq, r.id)
	if err != nil {
		return fmt.Errorf("retire files: %w", err)
	}
	files, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("retire files: %w", err)
	}
	_, err = t.Exec(ctx, "INSERT INTO endings (repository, incarnation, seq, began, ended, act, files) VALUES (?, ?, ?, ?, ?, ?, ?)",
		r.id, base.Incarnation, r.seq, since.UnixMicro(), now.UnixMicro(), string(act), files)
	if err != nil {
		return fmt.Errorf("note the end: %w", err)
	}
	return nil
}

// Restore implements [Archive].
func (s *SQL) Restore(ctx context.Context, gun tuf.GUN, now time.Time, by Actor) (*State, error) {
	if !gun.Valid() {
		return nil, fmt.Errorf("restore %q: %w", gun, ErrNotFound)
	}
	var state *State
	err := s.inTurn(ctx, func(t *database.Tx) error {
		r, err := revive(ctx, t, gun, now)
		if err != nil {
			return err
		}
		if state, err = current(ctx, t, gun); err != nil {
			return err
		}
		e, ok := state.Roles[tuf.RoleTimestamp]
		if !ok {
			return fmt.Errorf("%w: it had no timestamp", ErrNotFound)
		}
		if err := announce(ctx, t, gun, e.Version, e.SHA256[:], now); err != nil {
			return err
		}
		return record(ctx, t, AuditRecord{At: now, Act: Restore, Repository: gun, Actor: by, Seq: r.seq, Incarnation: state.Incarnation,
			Version: e.Version, Files: state.files()})
	})
	if errors.Is(err, database.ErrUncertain) {
		// If it is published, as that incarnation, it happened. If not, it may
		// still.
		if now, look := s.Current(ctx, gun); look == nil && now.Incarnation == state.Incarnation {
			return now, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", gun, err)
	}
	return state, nil
}

// revive makes the files current again that a deletion ended, if all of them
// are there and nothing came after.
func revive(ctx context.Context, t *database.Tx, gun tuf.GUN, now time.Time) (r revision, err error) {
	var deletion, files, have int64
	var deleted int
	err = t.QueryRow(ctx, "SELECT id, seq, deleted FROM repositories WHERE gun = ?", string(gun)).Scan(&r.id, &deletion, &deleted)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return r, ErrNotFound
	case err != nil:
		return r, fmt.Errorf("read repository: %w", err)
	case deleted == 0:
		return r, fmt.Errorf("%w: it is published", ErrConflict)
	}
	if r.seq, _, err = count(ctx, t, 1, 0); err != nil {
		return r, err
	}
	err = t.QueryRow(ctx, "SELECT files FROM endings WHERE repository = ? AND seq = ?", r.id, deletion).Scan(&files)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("read its end: %w", err)
	}
	if err := t.QueryRow(ctx, "SELECT COUNT(*) FROM files WHERE repository = ? AND ending = ?", r.id, deletion).Scan(&have); err != nil {
		return r, fmt.Errorf("count its files: %w", err)
	}
	if have != files {
		return r, fmt.Errorf("%w: only %d of the %d files that were current are still kept", ErrNotFound, have, files)
	}
	if err := one(t.Exec(ctx, "UPDATE repositories SET seq = ?, deleted = 0, seen = ? WHERE id = ? AND seq = ? AND deleted = 1",
		r.seq, micros(now), r.id, deletion)); err != nil {
		return r, fmt.Errorf("advance repository: %w", err)
	}
	for _, statement := range []string{
		`INSERT INTO roles (repository, role, incarnation, version, highest)
			SELECT repository, role, incarnation, MAX(version), MAX(version) FROM files WHERE repository = ? AND ending = ? GROUP BY repository, role, incarnation`,
		"UPDATE files SET retired = 0, ending = 0, packed = 0 WHERE repository = ? AND ending = ?",
		"DELETE FROM endings WHERE repository = ? AND seq = ?",
	} {
		if _, err := t.Exec(ctx, statement, r.id, deletion); err != nil {
			return r, fmt.Errorf("make its files current: %w", err)
		}
	}
	return r, nil
}

// files names the current files of s that clients signed.
func (s *State) files() []FileRecord {
	var all []FileRecord
	for role, e := range s.Roles {
		if role != tuf.RoleTimestamp && role != tuf.RoleSnapshot {
			all = append(all, FileRecord{role, e.Version, hex.EncodeToString(e.SHA256[:])})
		}
	}
	return byRole(all)
}
