package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

const (
	// batch is how many rows one transaction of the pruner touches, so that
	// publishers wait for a moment only.
	batch = 100
	// smallest is the length below which a blob is not worth a delta.
	smallest = 2048
)

// Prune implements [Store].
func (s *SQL) Prune(ctx context.Context, now time.Time) error {
	for _, step := range []struct {
		what string
		do   func(context.Context, time.Time) (more bool, err error)
	}{
		{"files that became old", s.retireOld},
		{"old files", s.pruneFiles},
		{"old changes", s.pruneChanges},
		{"superseded files", s.packFiles},
	} {
		for more := true; more; {
			var err error
			if more, err = step.do(ctx, now); err != nil {
				return fmt.Errorf("prune %s: %w", step.what, err)
			}
		}
	}
	return nil
}

// A row names a row of the table files.
type row struct {
	repository, incarnation int64
	role                    string
	version                 int64
	digest                  []byte
}

func rows(ctx context.Context, t *database.Tx, query string, args ...any) ([]row, error) {
	return scan(ctx, t, query, args, func(into func(...any) error) (r row, err error) {
		err = into(&r.repository, &r.incarnation, &r.role, &r.version, &r.digest)
		return r, err
	})
}

// What retireOld takes at once: repositories, and files.
const (
	oldRepositories = 100
	oldFiles        = 10_000
)

// retireOld writes down since when files are old that commits have replaced. A
// commit does not: it would change all the indexes by which old files are found,
// and there are three files in it. It goes through the repositories in the order
// of their numbers, all at first, and from then on those that have a new one.
func (s *SQL) retireOld(ctx context.Context, _ time.Time) (more bool, err error) {
	type old struct {
		row
		since int64
	}
	var found []old
	from, to := s.retired.Load(), int64(0)
	err = s.db.View(ctx, func(t *database.Tx) error {
		found = nil
		var page sql.NullInt64
		err := t.QueryRow(ctx, "SELECT seq, (SELECT MAX(seq) FROM (SELECT seq FROM repositories WHERE seq > ? ORDER BY seq LIMIT ?) AS page) FROM counters WHERE id = 1",
			from, oldRepositories).Scan(&to, &page)
		switch {
		case err != nil:
			return err
		case to < from: // the database was restored from a backup
			to = 0
			return nil
		case !page.Valid:
			to = from
			return nil
		}
		to = page.Int64
		found, err = scan(ctx, t, selectOld, []any{from, to, oldFiles}, func(into func(...any) error) (o old, err error) {
			err = into(&o.repository, &o.incarnation, &o.role, &o.version, &o.since)
			return o, err
		})
		return err
	})
	if err != nil {
		return false, err
	}
	for some := range slices.Chunk(found, batch) {
		if err := s.db.Update(ctx, func(t *database.Tx) error {
			for _, o := range some {
				if _, err := t.Exec(ctx, "UPDATE files SET retired = ? WHERE repository = ? AND incarnation = ? AND role = ? AND version = ? AND retired = 0",
					max(o.since, 1), o.repository, o.incarnation, o.role, o.version); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return false, err
		}
	}
	if len(found) == oldFiles {
		return true, nil
	}
	s.retired.Store(to)
	return to != from, nil
}

// pruneFiles removes files that were retired long enough ago. What is current
// is not retired, and a root only where its repository is deleted.
func (s *SQL) pruneFiles(ctx context.Context, now time.Time) (more bool, err error) {
	for _, kind := range []struct {
		where string
		keep  time.Duration
	}{
		{"role = 'timestamp' AND ending = 0", s.config.Timestamps},
		{"role = 'root' AND ending = 0", s.config.Deleted},                                             // deleted by an older program
		{"role NOT IN ('timestamp', 'root') AND packed IN (0, 1) AND ending = 0", s.config.Superseded}, // packed: for the index
		{"ending > 0", s.config.Deleted},
	} {
		n := 0
		err := s.db.Update(ctx, func(t *database.Tx) error {
			// Oldest first, so that what hangs on a blob goes before it.
			old, err := rows(ctx, t, "SELECT repository, incarnation, role, version, digest FROM files WHERE "+kind.where+
				" AND retired > 0 AND retired < ? ORDER BY retired, version LIMIT ?", now.Add(-kind.keep).UnixMicro(), batch)
			if err != nil {
				return err
			}
			n = len(old)
			for _, r := range old {
				if _, err := t.Exec(ctx, "DELETE FROM files WHERE repository = ? AND incarnation = ? AND role = ? AND version = ?",
					r.repository, r.incarnation, r.role, r.version); err != nil {
					return err
				}
				if err := release(ctx, t, r.digest); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		more = more || n == batch
	}
	return more, nil
}

// release removes the blob if nothing needs it any more, and then the one it
// hung on, and so on.
func release(ctx context.Context, t *database.Tx, digest []byte) error {
	for digest != nil {
		var needed int
		if err := t.QueryRow(ctx, `SELECT CASE WHEN EXISTS (SELECT 1 FROM files WHERE digest = ?) OR EXISTS (SELECT 1 FROM blobs WHERE base = ?)
			THEN 1 ELSE 0 END`, digest, digest).Scan(&needed); err != nil {
			return err
		}
		if needed != 0 {
			return nil
		}
		var base []byte
		err := t.QueryRow(ctx, "SELECT base FROM blobs WHERE digest = ?", digest).Scan(&base)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // went with a file that hung on it
		}
		if err != nil {
			return err
		}
		if _, err := t.Exec(ctx, "DELETE FROM blobs WHERE digest = ?", digest); err != nil {
			return err
		}
		digest = base
	}
	return nil
}

func (s *SQL) pruneChanges(ctx context.Context, now time.Time) (more bool, err error) {
	if s.config.Changes == 0 {
		return false, nil
	}
	err = s.db.Update(ctx, func(t *database.Tx) error {
		// Ids are found by key from the lowest on: clocks of several servers
		// differ a little, the order of ids does not.
		var last sql.NullInt64
		var n int
		if err := t.QueryRow(ctx, `SELECT MAX(id), COUNT(*) FROM (SELECT id, created FROM changes ORDER BY id LIMIT ?) AS oldest WHERE created < ?`,
			batch, now.Add(-s.config.Changes).UnixMicro()).Scan(&last, &n); err != nil {
			return err
		}
		more = n == batch
		if n == 0 {
			return nil
		}
		_, err := t.Exec(ctx, "DELETE FROM changes WHERE id <= ?", last.Int64)
		return err
	})
	return more, err
}

// packFiles turns blobs that were superseded a while ago into deltas to their
// successors: two versions of targets differ in a few lines. What is asked for
// most, the current file, always stays whole, and what is pruned first, the
// oldest, is what others do not hang on.
func (s *SQL) packFiles(ctx context.Context, now time.Time) (more bool, err error) {
	var old []row
	err = s.db.View(ctx, func(t *database.Tx) (err error) {
		old, err = rows(ctx, t, `SELECT repository, incarnation, role, version, digest FROM files
			WHERE packed = 0 AND retired > 0 AND retired < ? ORDER BY retired, version LIMIT ?`,
			now.Add(-s.config.Whole).UnixMicro(), batch)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, r := range old {
		if err := s.packFile(ctx, r); err != nil {
			return false, fmt.Errorf("pack %s version %d: %w", r.role, r.version, err)
		}
	}
	return len(old) == batch, nil
}

// packFile replaces the blob of r by a delta if that is smaller, and marks r
// as done. The work is done outside of the transaction that writes.
func (s *SQL) packFile(ctx context.Context, r row) error {
	delta, next, err := s.delta(ctx, r)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(t *database.Tx) error {
		if delta != nil {
			if err := hang(ctx, t, r.digest, next, delta); err != nil {
				return err
			}
		}
		_, err := t.Exec(ctx, "UPDATE files SET packed = 1 WHERE repository = ? AND incarnation = ? AND role = ? AND version = ?",
			r.repository, r.incarnation, r.role, r.version)
		return err
	})
}

// delta returns the blob of r as a delta to that of its successor, or nil if
// it should stay as it is.
func (s *SQL) delta(ctx context.Context, r row) (data, next []byte, err error) {
	if r.role == string(tuf.RoleRoot) {
		return nil, nil, nil
	}
	var blobs [2]blob
	err = s.db.View(ctx, func(t *database.Tx) error {
		next = nil
		err := t.QueryRow(ctx, `SELECT digest FROM files WHERE repository = ? AND incarnation = ? AND role = ? AND version > ?
			ORDER BY version LIMIT 1`, r.repository, r.incarnation, r.role, r.version).Scan(&next)
		if err != nil {
			return err
		}
		for i, digest := range [][]byte{r.digest, next} {
			if blobs[i], err = readBlob(ctx, t, digest); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil // no successor, or pruned meanwhile
	}
	if err != nil {
		return nil, nil, err
	}
	if !hangable(blobs[0], blobs[1]) || blobs[0].length < smallest || [32]byte(r.digest) == [32]byte(next) {
		return nil, nil, nil
	}
	raw, err := s.codec.open(blobs[:1], r.digest)
	if err != nil {
		return nil, nil, err
	}
	base, err := s.codec.open(blobs[1:], next)
	if err != nil {
		return nil, nil, err
	}
	if data, err = packDelta(raw, base); err != nil {
		return nil, nil, err
	}
	// What is written here replaces the only copy.
	if back, err := unpackDelta(data, base, blobs[0].length); err != nil || string(back) != string(raw) {
		return nil, nil, errors.Join(errors.New("delta does not give back what was put in"), err)
	}
	if len(data) >= len(blobs[0].data) {
		return nil, nil, nil
	}
	return data, next, nil
}

// hangable reports whether b may become a delta to base. Only whole blobs may,
// and only to whole ones, so there are no rings; heights rise along a chain,
// so it is never longer than maxHeight.
func hangable(b, base blob) bool {
	return b.base == nil && base.base == nil && b.height < maxHeight
}

// hang makes the blob digest a delta to base, if that is still possible.
func hang(ctx context.Context, t *database.Tx, digest, base, delta []byte) error {
	b, err := readBlob(ctx, t, digest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	to, err := readBlob(ctx, t, base)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !hangable(b, to) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := t.Exec(ctx, "UPDATE blobs SET base = ?, data = ? WHERE digest = ?", base, delta, digest); err != nil {
		return err
	}
	_, err = t.Exec(ctx, "UPDATE blobs SET height = ? WHERE digest = ?", max(to.height, b.height+1), base)
	return err
}
