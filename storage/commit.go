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
	// Compression takes longer than the rest; nobody waits for it.
	ready := make([]packed, len(files))
	for i, f := range files {
		ready[i] = packed{NewFile: f, digest: sha256.Sum256(f.Raw), data: s.codec.pack(f.Raw)}
	}
	p := &pending{ctx: ctx, gun: gun, base: base, files: ready, drop: drop, now: now, by: by}
	state, err := s.commits.Do(ctx, p)
	switch {
	case errors.Is(err, database.ErrUncertain):
		return s.settle(ctx, gun, ready, err)
	case database.IsUnique(err):
		// Where the isolation let two through, the index did not.
		return nil, fmt.Errorf("%w: %w", ErrConflict, err)
	case err != nil:
		return nil, err
	}
	s.known.put(state)
	return state, nil
}

// errRefused ends a transaction in which nothing is left to be done.
var errRefused = errors.New("everything was refused")

// commitTogether commits a batch of different repositories in one transaction.
// Each of them has its state or its error if that succeeds, which is judged for
// each of them alone: what is refused writes nothing and takes no number.
func (s *SQL) commitTogether(ctx context.Context, batch []*pending) error {
	now := time.Now()
	at, supposed, err := s.commitOnce(ctx, batch, now)
	if err == nil {
		return nil
	}
	if !supposed || ctx.Err() != nil || errors.Is(err, database.ErrUncertain) || errors.Is(err, database.ErrUnavailable) {
		s.remembered.Forget()
		return err
	}
	s.remembered.Wrong(at, now)
	if _, _, err = s.commitOnce(ctx, batch, now); err != nil {
		s.remembered.Forget()
	}
	return err
}

// errOutdated says that something else is current than what was remembered, or
// may be: nothing is refused because of that.
var errOutdated = errors.New("what was remembered may not be so any more")

// commitOnce is commitTogether on top of what is remembered, supposed, or what
// is there. Any error of the former may come from what is not so any more.
// What did not succeed is not forgotten yet.
func (s *SQL) commitOnce(ctx context.Context, batch []*pending, now time.Time) (at int, supposed bool, err error) {
	var have, left standings
	err = s.db.InTurn(ctx, "counters", "", func(t *database.Tx) error {
		if at, have, supposed = s.recall(batch, now); !supposed {
			var err error
			if have, err = look(ctx, t, batch); err != nil {
				return err
			}
		}
		var w writing
		var entries []database.Link
		var stale []*pending
		left = standings{end{seq: have.seq, change: have.change}, map[tuf.GUN]repository{}}
		for _, p := range batch {
			p.state, p.err = nil, nil
			r := have.repositories[p.gun]
			if p.err = r.judge(p); p.err != nil {
				if supposed {
					return errOutdated
				}
				continue
			}
			left.seq++
			if !p.same(r) {
				stale = append(stale, p)
			}
			p.state = p.after(r, left.seq)
			var err error
			if left.repositories[p.gun], err = w.advance(ctx, t, p, r, left.seq); err != nil {
				return err
			}
			if e, ok := p.timestamp(); ok {
				left.change, left.timestamp = left.change+1, e.digest[:]
				w.changes = append(w.changes, []any{left.change, string(p.gun), e.Version, e.digest[:], p.now.UnixMicro()})
			}
			if p.by == nil {
				continue
			}
			raw, err := AuditRecord{At: p.now, Act: Publish, Repository: p.gun, Actor: *p.by, Seq: left.seq, Incarnation: p.state.Incarnation,
				Version: p.state.Roles[tuf.RoleTimestamp].Version, Files: published(p.files), Dropped: p.drop}.encode()
			if err != nil {
				return err
			}
			entries = append(entries, database.Link{GUN: string(p.gun), Entry: raw})
		}
		if left.seq == have.seq {
			return errRefused
		}
		audit, last := trail.After(have.audit, entries)
		left.audit = last
		counters := database.Rows{Table: "counters", By: []string{"id", "seq", "change_id"}, Set: []string{"seq", "change_id"},
			Values: [][]any{{int64(1), have.seq, have.change, left.seq, left.change}}}
		if supposed {
			// Numbers come again after a database was restored from a backup, but
			// not a timestamp: if it is there, so is all that came before.
			counters.If, counters.IfArgs = "EXISTS (SELECT 1 FROM changes WHERE id = ? AND digest = ?)", []any{have.change, have.timestamp}
		}
		if err := w.write(ctx, t, counters, audit); err != nil {
			return err
		}
		for _, p := range stale {
			var err error
			if p.state, err = current(ctx, t, p.gun); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.remembered.Keep(at, have.end, left.end, left.repositories)
	}
	if err == errRefused {
		err = nil
	}
	return at, supposed, err
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
// one row of counters, so they take turns.
func (s *SQL) inTurn(ctx context.Context, fn func(*database.Tx) error) error {
	defer s.remembered.Forget()
	return s.db.InTurn(ctx, "counters", "", fn)
}

// A revision is a repository in the transaction that moves it on.
type revision struct{ id, seq int64 }

// advance compares base with the current state, and gives the repository its
// next seq. The row of counters that this changes puts all commits in one
// order, in which their numbers become visible.
func advance(ctx context.Context, t *database.Tx, gun tuf.GUN, base *State, now time.Time) (revision, error) {
	have, err := look(ctx, t, []*pending{{gun: gun}})
	if err != nil {
		return revision{}, err
	}
	is := have.repositories[gun]
	if err := is.moved(base); err != nil {
		return revision{}, err
	}
	r := revision{id: is.id}
	if r.seq, _, err = count(ctx, t, 1, 0); err != nil {
		return revision{}, err
	}
	var w writing
	r.id, err = w.move(ctx, t, gun, is, r.seq, now)
	if err == nil {
		err = w.write(ctx, t)
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
func drop(ctx context.Context, t *database.Tx, repository int64, role tuf.RoleName, now time.Time) error {
	if _, err := t.Exec(ctx, "DELETE FROM roles WHERE repository = ? AND role = ?", repository, string(role)); err != nil {
		return fmt.Errorf("drop %s: %w", role, err)
	}
	if _, err := t.Exec(ctx, retireRole, now.UnixMicro(), repository, string(role)); err != nil {
		return fmt.Errorf("drop %s: %w", role, err)
	}
	return nil
}

// put makes files of different roles, which came at created, the current ones
// of their roles. What they replace is old since now, not since they came.
func (r revision) put(ctx context.Context, t *database.Tx, gun tuf.GUN, files []packed, created, now time.Time) error {
	have, err := look(ctx, t, []*pending{{gun: gun}})
	if err != nil {
		return err
	}
	roles := have.repositories[gun].roles
	if err := above(roles, files); err != nil {
		return err
	}
	for _, f := range files {
		if _, known := roles[f.Role]; known && f.Role != tuf.RoleRoot {
			if _, err := t.Exec(ctx, retireRole, now.UnixMicro(), r.id, string(f.Role)); err != nil {
				return fmt.Errorf("retire %s: %w", f.Role, err)
			}
		}
	}
	var w writing
	w.put(r, roles, files, created)
	return w.write(ctx, t)
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
		if _, err := t.Exec(ctx, retireOld, now.UnixMicro(), r.id); err != nil {
			return fmt.Errorf("retire old files: %w", err)
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
