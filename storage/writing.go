package storage

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// A standing is what is known of a role.
type standing struct{ incarnation, version, highest int64 }

// A repository is what a commit must know of one. The zero value is one that
// never was.
type repository struct {
	id, seq, incarnation int64
	deleted              bool
	mirror               string
	roles                map[tuf.RoleName]standing
}

// A standings is what a transaction that moves repositories on must know.
type standings struct {
	end
	repositories map[tuf.GUN]repository
}

// An end is what each of those transactions moves.
type end struct {
	seq, change int64         // the last numbers
	timestamp   []byte        // the hash in the last record of the changefeed; nil: of a deletion
	audit       database.Link // the last entry of the trail
}

func (e end) same(o end) bool {
	return e.seq == o.seq && e.change == o.change && bytes.Equal(e.timestamp, o.timestamp)
}

// recall returns what is remembered for a batch, if that is everything.
func (s *SQL) recall(batch []*pending, now time.Time) (at int, have standings, ok bool) {
	guns := make([]tuf.GUN, len(batch))
	for i, p := range batch {
		guns[i] = p.gun
	}
	at, have.end, have.repositories, ok = s.remembered.Of(guns, now)
	if !ok || have.timestamp == nil {
		return at, standings{}, false
	}
	for gun, r := range have.repositories {
		r.roles = maps.Clone(r.roles) // they are changed
		have.repositories[gun] = r
	}
	return at, have, true
}

// selectStandings begins with what is always there, so that there is a row
// when there is no repository.
const selectStandings = `SELECT k.seq, k.change_id, (SELECT digest FROM changes WHERE id = k.change_id), a.id, a.hash, r.gun, r.id, r.seq, r.incarnation, r.deleted, r.mirror, c.role, c.incarnation, c.version, c.highest
	FROM counters k LEFT JOIN audit a ON a.id = (SELECT MAX(id) FROM audit)
	LEFT JOIN repositories r ON r.gun `

// look reads what is to be known for a batch.
func look(ctx context.Context, t *database.Tx, batch []*pending) (standings, error) {
	guns := make([]string, len(batch))
	for i, p := range batch {
		guns[i] = string(p.gun)
	}
	in, args := database.In(t.Dialect(), guns)
	rows, err := t.Query(ctx, selectStandings+in+" LEFT JOIN roles c ON c.repository = r.id WHERE k.id = 1", args...)
	if err != nil {
		return standings{}, fmt.Errorf("read repositories: %w", err)
	}
	defer rows.Close()
	all := standings{repositories: map[tuf.GUN]repository{}}
	for rows.Next() {
		var entry, id, seq, incarnation, deleted, since, version, highest sql.NullInt64
		var gun, mirror, role sql.NullString
		var hash []byte
		if err := rows.Scan(&all.seq, &all.change, &all.timestamp, &entry, &hash, &gun, &id, &seq, &incarnation, &deleted, &mirror, &role, &since, &version, &highest); err != nil {
			return standings{}, fmt.Errorf("read repositories: %w", err)
		}
		all.audit.ID = entry.Int64
		copy(all.audit.Hash[:], hash)
		if !gun.Valid {
			continue
		}
		r, ok := all.repositories[tuf.GUN(gun.String)]
		if !ok {
			r = repository{id: id.Int64, seq: seq.Int64, incarnation: incarnation.Int64, deleted: deleted.Int64 != 0, mirror: mirror.String,
				roles: map[tuf.RoleName]standing{}}
			all.repositories[tuf.GUN(gun.String)] = r
		}
		if role.Valid {
			r.roles[tuf.RoleName(role.String)] = standing{since.Int64, version.Int64, highest.Int64}
		}
	}
	if err := rows.Err(); err != nil {
		return standings{}, fmt.Errorf("read repositories: %w", err)
	}
	return all, nil
}

// moved is nil if base is the current state of r.
func (r repository) moved(base *State) error {
	switch published := r.id != 0 && !r.deleted; {
	case base == nil && published:
		return fmt.Errorf("%w: it is already published", ErrConflict)
	case base != nil && !published:
		return fmt.Errorf("%w: it is not published any more", ErrConflict)
	case base != nil && base.Seq != r.seq:
		return fmt.Errorf("%w: from %d to %d", ErrConflict, base.Seq, r.seq)
	case base != nil && (base.Incarnation != r.incarnation || base.Roles[tuf.RoleTimestamp].Version != r.roles[tuf.RoleTimestamp].version):
		// A database that was restored from a backup numbers anew. The signer
		// does not: no version of a timestamp is signed twice.
		return fmt.Errorf("%w: it is another state of number %d", ErrConflict, r.seq)
	}
	return nil
}

// judge says whether p may be committed. What p drops is then no longer among
// the roles of r.
func (r repository) judge(p *pending) error {
	if err := r.moved(p.base); err != nil {
		return err
	}
	for _, role := range p.drop {
		delete(r.roles, role)
	}
	return above(r.roles, p.files)
}

// above is nil if the versions of files are above those of their roles.
func above(roles map[tuf.RoleName]standing, files []packed) error {
	for _, f := range files {
		if highest := roles[f.Role].highest; f.Version <= highest {
			return fmt.Errorf("store %s: %w", f.Role, &VersionError{Role: f.Role, Offered: f.Version, Have: highest})
		}
	}
	return nil
}

// same reports whether the base of p has the roles of r, which is so unless a
// caller made it by hand.
func (p *pending) same(r repository) bool {
	if p.base == nil {
		return true
	}
	n := 0
	for role, e := range p.base.Roles {
		if slices.Contains(p.drop, role) {
			continue
		}
		n++
		if is := r.roles[role]; e.Version != is.version || p.base.Floors[role] != is.highest {
			return false
		}
	}
	return n == len(r.roles)
}

// after is the state that p makes of its base.
func (p *pending) after(r repository, seq int64) *State {
	s := &State{GUN: p.gun, Seq: seq, Incarnation: seq, Roles: map[tuf.RoleName]Entry{}, Floors: map[tuf.RoleName]int64{}}
	if p.base != nil {
		s.Incarnation, s.Mirror = r.incarnation, r.mirror
		maps.Copy(s.Roles, p.base.Roles)
		maps.Copy(s.Floors, p.base.Floors)
	}
	for _, role := range p.drop {
		delete(s.Roles, role)
		delete(s.Floors, role)
	}
	for _, f := range p.files {
		s.Roles[f.Role] = Entry{Role: f.Role, Version: f.Version, Length: int64(len(f.Raw)), SHA256: f.digest,
			Created: moment(p.now.UnixMicro()), Expires: moment(f.Expires.UnixMicro())}
		s.Floors[f.Role] = f.Version
	}
	return s
}

// timestamp returns the timestamp among the files of p.
func (p *pending) timestamp() (packed, bool) {
	i := slices.IndexFunc(p.files, func(f packed) bool { return f.Role == tuf.RoleTimestamp })
	if i < 0 {
		return packed{}, false
	}
	return p.files[i], true
}

// A writing collects the rows that commits write.
type writing struct {
	repositories, advanced, files, roles, changes [][]any

	contents []packed
}

// advance adds what p writes, seq being its number, and returns what r is then.
func (w *writing) advance(ctx context.Context, t *database.Tx, p *pending, r repository, seq int64) (repository, error) {
	id, err := w.move(ctx, t, p.gun, r, seq, p.now)
	if err != nil {
		return r, fmt.Errorf("advance repository: %w", err)
	}
	for _, role := range p.drop {
		if err := drop(ctx, t, id, role, p.now); err != nil {
			return r, err
		}
	}
	if r.roles == nil {
		r.roles = map[tuf.RoleName]standing{}
	}
	w.put(revision{id: id, seq: seq}, r.roles, p.files, p.now)
	return repository{id: id, seq: seq, incarnation: p.state.Incarnation, mirror: p.state.Mirror, roles: r.roles}, nil
}

// move adds what gives a repository its next seq, and returns its id.
func (w *writing) move(ctx context.Context, t *database.Tx, gun tuf.GUN, r repository, seq int64, now time.Time) (id int64, err error) {
	switch {
	case r.id == 0:
		w.repositories = append(w.repositories, []any{seq, string(gun), seq, seq, int64(0), micros(now)})
		return seq, nil
	case r.deleted:
		return r.id, one(t.Exec(ctx, "UPDATE repositories SET seq = ?, incarnation = ?, deleted = 0, seen = ?, mirror = NULL WHERE id = ? AND seq = ? AND deleted = 1",
			seq, seq, micros(now), r.id, r.seq))
	}
	w.advanced = append(w.advanced, []any{r.id, r.seq, seq})
	return r.id, nil
}

// put adds what makes files, which came at created, the current ones of their
// roles, and notes that in have. That others have become old by that is written
// down later, see [SQL.retireOld].
func (w *writing) put(r revision, have map[tuf.RoleName]standing, files []packed, created time.Time) {
	for _, f := range files {
		is, known := have[f.Role]
		if !known {
			is.incarnation = r.seq
		}
		w.files = append(w.files, []any{r.id, is.incarnation, string(f.Role), f.Version, f.digest[:], created.UnixMicro(), f.Expires.UnixMicro(), int64(0), int64(0)})
		w.roles = append(w.roles, []any{r.id, string(f.Role), is.incarnation, f.Version, f.Version})
		have[f.Role] = standing{is.incarnation, f.Version, f.Version}
	}
	w.contents = append(w.contents, files...)
}

// write writes everything, and other rows with it.
func (w *writing) write(ctx context.Context, t *database.Tx, with ...database.Rows) error {
	blobs, err := w.blobs(ctx, t)
	if err != nil {
		return err
	}
	err = t.Write(ctx, append(with,
		database.Rows{Table: "repositories", Set: []string{"id", "gun", "incarnation", "seq", "deleted", "seen"}, Values: w.repositories},
		database.Rows{Table: "repositories", By: []string{"id", "seq"}, Set: []string{"seq"}, Values: w.advanced},
		blobs,
		database.Rows{Table: "files", Set: []string{"repository", "incarnation", "role", "version", "digest", "created", "expires", "retired", "packed"}, Values: w.files},
		database.Rows{Table: "roles", Set: []string{"repository", "role", "incarnation", "version", "highest"},
			Key: []string{"repository", "role"}, Replace: []string{"version", "highest"}, Values: w.roles},
		database.Rows{Table: "changes", Set: []string{"id", "gun", "version", "digest", "created"}, Values: w.changes},
	)...)
	if errors.Is(err, database.ErrMissed) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// small bounds the contents that are stored together, in bytes: they must fit
// into what a server takes as one statement.
const small = 256 << 10

// blobs stores contents, unless they are there, but for a last part, which is
// returned.
func (w *writing) blobs(ctx context.Context, t *database.Tx) (database.Rows, error) {
	empty := database.Rows{Table: "blobs", Set: []string{"digest", "length", "height", "data"}, Keep: true}
	rows, n := empty, 0
	seen := map[[32]byte]bool{}
	for _, f := range w.contents {
		if seen[f.digest] {
			continue
		}
		seen[f.digest] = true
		if n > 0 && n+len(f.data) > small {
			if err := t.Write(ctx, rows); err != nil {
				return empty, err
			}
			rows, n = empty, 0
		}
		rows.Values, n = append(rows.Values, []any{f.digest[:], int64(len(f.Raw)), int64(0), f.data}), n+len(f.data)
	}
	return rows, nil
}
