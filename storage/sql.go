package storage

import (
	"context"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// Retention when [Config] does not say otherwise.
const (
	DefaultSuperseded = 30 * 24 * time.Hour
	DefaultTimestamps = 24 * time.Hour
	DefaultDeleted    = 30 * 24 * time.Hour
	DefaultWhole      = time.Hour
)

// A Config says how long [Store.Prune] keeps what is no longer current. The
// zero value of each field stands for its default.
type Config struct {
	// Superseded is how long targets, delegations and snapshots stay readable
	// by hash and version after a newer one came. It must be at least as long
	// as caches may keep a file that points at them. Default: 30 days.
	Superseded time.Duration
	// Timestamps is the same for timestamps. Default: one day.
	Timestamps time.Duration
	// Deleted is how long the roots of a deleted repository, and the files
	// that were current, are kept in the database, so that it can be looked at
	// and restored (older files follow the rules above). Default: 30 days.
	Deleted time.Duration
	// Whole is how long superseded files can still be read without putting
	// them together from later ones. Default: one hour.
	Whole time.Duration
	// Changes is how long records of the changefeed are kept. Default: for ever.
	Changes time.Duration
}

// SQL is a [Store] in an SQL database.
type SQL struct {
	db      *database.DB
	codec   *codec
	config  Config
	commits *database.Group[*pending, *State]
	known   known
	retired atomic.Int64 // the seq up to which [SQL.retireOld] was

	remembered database.Remembered[end, tuf.GUN, repository] // what the last commits left behind
}

// Database returns the database that s was opened with.
func (s *SQL) Database() *database.DB { return s.db }

var _ Archive = (*SQL)(nil)

//go:embed migrations/*.sql
var migrations embed.FS

// Open brings the schema in db up to date and uses it, with default retention.
// The caller closes db after use.
func Open(ctx context.Context, db *database.DB) (*SQL, error) { return Config{}.Open(ctx, db) }

// Open is like [Open], with the retention of c. A negative duration is an error.
func (c Config) Open(ctx context.Context, db *database.DB) (*SQL, error) {
	for _, d := range []struct {
		field  *time.Duration
		preset time.Duration
	}{
		{&c.Superseded, DefaultSuperseded}, {&c.Timestamps, DefaultTimestamps}, {&c.Deleted, DefaultDeleted}, {&c.Whole, DefaultWhole}, {&c.Changes, 0},
	} {
		if *d.field < 0 {
			return nil, fmt.Errorf("open storage: retention of %v is negative", *d.field)
		}
		if *d.field == 0 {
			*d.field = d.preset
		}
	}
	codec, err := newCodec()
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if err := Migrate(ctx, db); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	s := &SQL{db: db, codec: codec, config: c}
	s.remembered.Same, s.remembered.Most = end.same, maxKnown
	s.commits = s.newCommits()
	return s, nil
}

// Migrate brings the tables in db up to date, as Open does.
func Migrate(ctx context.Context, db *database.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return db.Migrate(ctx, "storage", files)
}

// Ping implements [Store].
func (s *SQL) Ping(ctx context.Context) error {
	err := s.db.Look(ctx, func(t *database.Tx) error {
		var seq int64
		return t.QueryRow(ctx, "SELECT seq FROM counters WHERE id = 1").Scan(&seq)
	})
	if err != nil {
		return fmt.Errorf("ping storage: %w", err)
	}
	return nil
}

// Current implements [Store].
func (s *SQL) Current(ctx context.Context, gun tuf.GUN) (*State, error) {
	if !gun.Valid() {
		return nil, fmt.Errorf("read state of %q: %w", gun, ErrNotFound)
	}
	if state := s.known.get(gun); state != nil {
		var same bool
		err := s.db.Look(ctx, func(t *database.Tx) (err error) {
			same, err = still(ctx, t, state)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read state of %s: %w", gun, err)
		}
		if same {
			return state, nil
		}
		s.known.drop(state)
	}
	var state *State
	err := s.db.Look(ctx, func(t *database.Tx) (err error) {
		state, err = current(ctx, t, gun)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", gun, err)
	}
	return state, nil
}

// The statements that every request or publish needs. SQLite does not know how
// many rows a table has, and chooses badly between indexes: it follows the
// order of CROSS JOIN, and uses no index for a column with a plus. To the other
// dialects both mean nothing.
const (
	selectCurrent = `SELECT r.seq, r.incarnation, r.mirror, c.role, c.highest, f.version, b.length, f.digest, f.created, f.expires
		FROM repositories r CROSS JOIN roles c CROSS JOIN files f CROSS JOIN blobs b
		WHERE r.gun = ? AND r.deleted = 0 AND c.repository = r.id
		AND f.repository = c.repository AND f.incarnation = c.incarnation AND f.role = c.role AND f.version = c.version
		AND b.digest = f.digest`
	selectBlob = `SELECT f.digest, f.created FROM repositories r
		JOIN files f ON f.repository = r.id AND +f.incarnation >= r.incarnation
		WHERE r.gun = ? AND f.role = ? AND r.deleted = 0 AND f.digest = ?
		ORDER BY +f.incarnation DESC, +f.version DESC LIMIT 1`
	selectVersion = `SELECT f.digest, f.created FROM repositories r
		JOIN files f ON f.repository = r.id AND +f.incarnation >= r.incarnation
		WHERE r.gun = ? AND f.role = ? AND r.deleted = 0 AND f.version = ?
		ORDER BY +f.incarnation DESC LIMIT 1`
	retireRole = `UPDATE files SET retired = ? WHERE repository = ? AND role = ? AND +retired = 0`
	retireOld  = `UPDATE files SET retired = ? WHERE repository = ? AND +retired = 0 AND role <> 'root' AND NOT EXISTS (SELECT 1 FROM roles c
		WHERE c.repository = files.repository AND c.role = files.role AND c.incarnation = files.incarnation AND c.version = files.version)`
	// selectOld finds files of the repositories with these numbers that are not
	// current any more, and when the next version came.
	selectOld = "SELECT f.repository, f.incarnation, f.role, f.version, " + since + ` FROM repositories r CROSS JOIN roles c CROSS JOIN files f
		WHERE r.seq > ? AND r.seq <= ? AND c.repository = r.id AND c.role <> 'root'
		AND f.repository = c.repository AND f.incarnation = c.incarnation AND f.role = c.role AND f.version < c.version AND +f.retired = 0 LIMIT ?`
	since = `(SELECT n.created FROM files n WHERE n.repository = f.repository AND n.incarnation = f.incarnation AND n.role = f.role
		AND n.version > f.version ORDER BY n.version LIMIT 1)`
	selectExpiring = `SELECT r.gun, MAX(f.expires) AS latest FROM files f CROSS JOIN roles c CROSS JOIN repositories r
		WHERE f.retired = 0 AND f.role IN ('snapshot', 'timestamp') AND f.expires < ?
		AND c.repository = f.repository AND c.role = f.role AND c.incarnation = f.incarnation AND c.version = f.version
		AND r.id = f.repository AND r.seen >= ? AND r.mirror IS NULL
		GROUP BY r.gun ORDER BY latest DESC, r.gun LIMIT ?`
)

func current(ctx context.Context, t *database.Tx, gun tuf.GUN) (*State, error) {
	rows, err := t.Query(ctx, selectCurrent, string(gun))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	state := &State{GUN: gun, Roles: map[tuf.RoleName]Entry{}, Floors: map[tuf.RoleName]int64{}}
	for rows.Next() {
		var e Entry
		var floor, created, expires int64
		var digest []byte
		var mirror sql.NullString
		if err := rows.Scan(&state.Seq, &state.Incarnation, &mirror, &e.Role, &floor, &e.Version, &e.Length, &digest, &created, &expires); err != nil {
			return nil, err
		}
		if len(digest) != len(e.SHA256) {
			return nil, fmt.Errorf("%s: %w: hash of %d bytes", e.Role, ErrCorrupt, len(digest))
		}
		e.SHA256 = [32]byte(digest)
		e.Created, e.Expires = moment(created), moment(expires)
		state.Mirror = mirror.String
		state.Roles[e.Role] = e
		state.Floors[e.Role] = floor
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(state.Roles) == 0 {
		return nil, ErrNotFound
	}
	return state, nil
}

// Blob implements [Store].
func (s *SQL) Blob(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sha256 [32]byte) ([]byte, time.Time, error) {
	raw, created, err := s.file(ctx, selectBlob, gun, role, sha256[:])
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read %q of %q by hash: %w", role, gun, err)
	}
	return raw, created, nil
}

// Version implements [Store].
func (s *SQL) Version(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version int64) ([]byte, time.Time, error) {
	raw, created, err := s.file(ctx, selectVersion, gun, role, version)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read %q version %d of %q: %w", role, version, gun, err)
	}
	return raw, created, nil
}

// file reads the file that query finds by gun, role and key.
func (s *SQL) file(ctx context.Context, query string, gun tuf.GUN, role tuf.RoleName, key any) ([]byte, time.Time, error) {
	// Databases differ in what they make of names that cannot be there, such
	// as ones with a zero byte or a space at the end.
	if !gun.Valid() || !role.Valid() {
		return nil, time.Time{}, ErrNotFound
	}
	return s.read(ctx, query, string(gun), string(role), key)
}

// read reads the file whose digest and time of creation query finds.
func (s *SQL) read(ctx context.Context, query string, args ...any) ([]byte, time.Time, error) {
	var digest []byte
	var created int64
	var chain []blob
	err := s.db.View(ctx, func(t *database.Tx) (err error) {
		err = t.QueryRow(ctx, query, args...).Scan(&digest, &created)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		chain, err = readChain(ctx, t, digest)
		return err
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	raw, err := s.codec.open(chain, digest)
	if err != nil {
		return nil, time.Time{}, err
	}
	return raw, moment(created), nil
}

// Changes implements [Store].
func (s *SQL) Changes(ctx context.Context, q ChangeQuery) ([]Change, error) {
	if q.GUN != "" && !q.GUN.Valid() {
		return nil, nil
	}
	query, args := "SELECT id, gun, version, digest, created FROM changes WHERE ", []any{}
	switch {
	case q.Backwards && q.From <= 0:
		query += "id > 0"
	case q.Backwards:
		query, args = query+"id < ?", append(args, q.From)
	default:
		query, args = query+"id > ?", append(args, q.From)
	}
	if q.GUN != "" {
		query, args = query+" AND gun = ?", append(args, string(q.GUN))
	}
	if q.Backwards {
		query += " ORDER BY id DESC LIMIT ?"
	} else {
		query += " ORDER BY id LIMIT ?"
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	changes, err := list(ctx, s.db, query, append(args, bounded(q.Limit)), func(scan func(...any) error) (Change, error) {
		var c Change
		var digest []byte
		var created int64
		err := scan(&c.ID, &c.GUN, &c.Version, &digest, &created)
		c.SHA256, c.Deleted, c.At = hex.EncodeToString(digest), digest == nil, moment(created)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("read changefeed: %w", err)
	}
	if q.Backwards {
		slices.Reverse(changes)
	}
	return changes, nil
}

// Heads implements [Store].
func (s *SQL) Heads(ctx context.Context, after int64, limit int) ([]Head, error) {
	heads, err := list(ctx, s.db, "SELECT gun, seq, deleted FROM repositories WHERE seq > ? ORDER BY seq LIMIT ?", []any{after, bounded(limit)},
		func(scan func(...any) error) (Head, error) {
			var h Head
			var deleted int
			err := scan(&h.GUN, &h.Seq, &deleted)
			h.Deleted = deleted != 0
			return h, err
		})
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	return heads, nil
}

// micros is t as it is stored; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Seen implements [Store].
func (s *SQL) Seen(ctx context.Context, guns []tuf.GUN, at time.Time) error {
	err := s.db.Update(ctx, func(t *database.Tx) error {
		for _, gun := range guns {
			if _, err := t.Exec(ctx, "UPDATE repositories SET seen = ? WHERE gun = ? AND seen < ?", micros(at), string(gun), micros(at)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remember what was read: %w", err)
	}
	return nil
}

// Expiring implements [Store].
func (s *SQL) Expiring(ctx context.Context, before, since time.Time, limit int) ([]tuf.GUN, error) {
	guns, err := list(ctx, s.db, selectExpiring, []any{before.UnixMicro(), micros(since), bounded(limit)},
		func(scan func(...any) error) (tuf.GUN, error) {
			var gun tuf.GUN
			var latest int64
			err := scan(&gun, &latest)
			return gun, err
		})
	if err != nil {
		return nil, fmt.Errorf("read what expires: %w", err)
	}
	return guns, nil
}

// Forecast implements [Store].
func (s *SQL) Forecast(ctx context.Context, now, since time.Time) ([]Forecast, error) {
	at, seen := now.UnixMicro(), micros(since)
	const counts = "SUM(CASE WHEN f.expires < ? AND (c.role NOT IN ('snapshot', 'timestamp') OR r.seen >= ?) THEN 1 ELSE 0 END)"
	within := func(days int) int64 { return now.Add(time.Duration(days) * 24 * time.Hour).UnixMicro() }
	out, err := list(ctx, s.db, `SELECT CASE WHEN c.role LIKE 'targets/%' THEN 'delegation' ELSE c.role END AS kind, COUNT(*),
		COALESCE(MIN(CASE WHEN f.expires >= ? THEN f.expires END), 0), `+counts+", "+counts+", "+counts+`
		FROM roles c JOIN repositories r ON r.id = c.repository
		JOIN files f ON f.repository = c.repository AND f.incarnation = c.incarnation AND f.role = c.role AND f.version = c.version
		GROUP BY CASE WHEN c.role LIKE 'targets/%' THEN 'delegation' ELSE c.role END ORDER BY kind`,
		[]any{at, at, seen, within(30), seen, within(90), seen},
		func(scan func(...any) error) (Forecast, error) {
			var f Forecast
			var first int64
			err := scan(&f.Kind, &f.Files, &first, &f.Expired, &f.Days30, &f.Days90)
			if first > 0 {
				f.First = moment(first)
			}
			return f, err
		})
	if err != nil {
		return nil, fmt.Errorf("sum up what expires: %w", err)
	}
	return out, nil
}

// GUNs implements [Store].
func (s *SQL) GUNs(ctx context.Context, after tuf.GUN, limit int) ([]tuf.GUN, error) {
	guns, err := list(ctx, s.db, "SELECT gun FROM repositories WHERE gun > ? AND deleted = 0 ORDER BY gun LIMIT ?", []any{string(after), bounded(limit)},
		func(scan func(...any) error) (tuf.GUN, error) {
			var gun tuf.GUN
			err := scan(&gun)
			return gun, err
		})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return guns, nil
}

// list returns the rows of a query, each made by row.
func list[T any](ctx context.Context, db *database.DB, query string, args []any, row func(scan func(...any) error) (T, error)) (all []T, err error) {
	err = db.Look(ctx, func(t *database.Tx) error {
		all, err = scan(ctx, t, query, args, row)
		return err
	})
	return all, err
}

// scan is list in a transaction.
func scan[T any](ctx context.Context, t *database.Tx, query string, args []any, row func(scan func(...any) error) (T, error)) ([]T, error) {
	rows, err := t.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := row(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// maxLimit bounds every list, whatever is asked for.
const maxLimit = 1000

func bounded(limit int) int {
	if limit <= 0 || limit > maxLimit {
		return maxLimit
	}
	return limit
}

func moment(micro int64) time.Time { return time.UnixMicro(micro).UTC() }
