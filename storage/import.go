package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// An OldFile is a version of a file that another server has kept.
type OldFile struct {
	Role    tuf.RoleName
	Version int64
	Created time.Time // when that server stored it
	Expires time.Time // as its content says
	// Raw reads the bytes. It may be called more than once.
	Raw func(ctx context.Context) ([]byte, error)
}

// A Source is what [SQL.Import] takes from another server.
type Source struct {
	Files []OldFile // those of one role in rising order of versions
	// Drop are delegations that are no longer there, or begin anew with Files.
	Drop []tuf.RoleName
	// Mirror is the address of that server, if the repository is to be a copy
	// to which nobody publishes here (see [State.Mirror]).
	Mirror string
}

// maxMirror bounds the address of a service, in bytes.
const maxMirror = 255

// Import makes a repository of what another server has kept, or adds to a copy
// (base, else nil) what is new there, all or nothing: of each role the highest
// version becomes current, and the others are history that was superseded just
// now, so that it is kept for as long as what is superseded here. It makes one
// record in the changefeed, for the current timestamp, if there is one, and one
// of by in the audit trail.
//
// ErrConflict: base is not the current state; a [*VersionError] if it is, but a
// version is not above the role's floor. An error of Raw is returned as it is.
func (s *SQL) Import(ctx context.Context, gun tuf.GUN, base *State, from Source, now time.Time, by Actor) (*State, error) {
	if len(from.Mirror) > maxMirror {
		return nil, fmt.Errorf("import %s: the address of the service has more than %d bytes", gun, maxMirror)
	}
	var state *State
	err := s.inTurn(ctx, func(t *database.Tx) error {
		r, err := advance(ctx, t, gun, base, now)
		if err != nil {
			return err
		}
		if from.Mirror != "" {
			if err := one(t.Exec(ctx, "UPDATE repositories SET mirror = ? WHERE id = ?", from.Mirror, r.id)); err != nil {
				return err
			}
		}
		for _, role := range from.Drop {
			if err := drop(ctx, t, r.id, role, now); err != nil {
				return err
			}
		}
		var timestamp *packed
		for _, old := range from.Files {
			raw, err := old.Raw(ctx)
			if err != nil {
				return err
			}
			f := packed{NewFile: NewFile{tuf.File{Role: old.Role, Version: old.Version, Raw: raw}, old.Expires}, digest: sha256.Sum256(raw), data: s.codec.pack(raw)}
			if err := sound(gun, base, []NewFile{f.NewFile}, from.Drop); err != nil {
				return err
			}
			if err := r.put(ctx, t, gun, []packed{f}, old.Created, now); err != nil {
				return fmt.Errorf("version %d: %w", old.Version, err)
			}
			if old.Role == tuf.RoleTimestamp {
				timestamp = &f
			}
		}
		if timestamp != nil {
			if err := announce(ctx, t, gun, timestamp.Version, timestamp.digest[:], now); err != nil {
				return err
			}
		}
		if state, err = current(ctx, t, gun); err != nil {
			return err
		}
		if base != nil && slices.Equal(base.files(), state.files()) {
			return nil // the other server has renewed what it signs; see [Publish]
		}
		return record(ctx, t, AuditRecord{At: now, Act: Imported, Repository: gun, Actor: by, Seq: state.Seq, Incarnation: state.Incarnation,
			Version: state.Roles[tuf.RoleTimestamp].Version, Files: state.files()})
	})
	switch {
	case database.IsUnique(err):
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	case errors.Is(err, database.ErrUncertain):
		err = fmt.Errorf("%w: run the import again, it goes on where it stopped", err)
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", gun, err)
	}
	return state, nil
}

// Release makes a copy an ordinary repository, which its owner can publish to.
// ErrConflict: base is not its current state.
func (s *SQL) Release(ctx context.Context, base *State, now time.Time, by Actor) error {
	err := s.inTurn(ctx, func(t *database.Tx) error {
		r, err := advance(ctx, t, base.GUN, base, now)
		if err != nil {
			return err
		}
		if err := one(t.Exec(ctx, "UPDATE repositories SET mirror = NULL WHERE id = ? AND seq = ?", r.id, r.seq)); err != nil {
			return err
		}
		return record(ctx, t, AuditRecord{At: now, Act: Released, Repository: base.GUN, Actor: by, Seq: r.seq, Incarnation: base.Incarnation,
			Version: base.Roles[tuf.RoleTimestamp].Version})
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", base.GUN, err)
	}
	return nil
}

// StartChangesAfter makes the changefeed go on above id, unless it is there
// already: readers that follow the feed of another server then miss nothing of
// this one.
func (s *SQL) StartChangesAfter(ctx context.Context, id int64) error {
	err := s.inTurn(ctx, func(t *database.Tx) error {
		_, err := t.Exec(ctx, "UPDATE counters SET change_id = ? WHERE id = 1 AND change_id < ?", id, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("raise the number of changes: %w", err)
	}
	return nil
}
