package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// Import makes a repository of the history that another server has kept, all
// or nothing: of each role the highest version becomes current, and the others
// are history that was superseded just now, so that it is kept for as long as
// what is superseded here. It makes one record in the changefeed, for the
// current timestamp, if there is one, and one of by in the audit trail.
//
// ErrConflict: gun is published here already. An error of Raw is returned as
// it is.
func (s *SQL) Import(ctx context.Context, gun tuf.GUN, files []OldFile, now time.Time, by Actor) (*State, error) {
	var state *State
	err := s.inTurn(ctx, func(t *database.Tx) error {
		r, err := advance(ctx, t, gun, nil, now)
		if err != nil {
			return err
		}
		var timestamp *packed
		for _, old := range files {
			raw, err := old.Raw(ctx)
			if err != nil {
				return err
			}
			f := packed{NewFile: NewFile{tuf.File{Role: old.Role, Version: old.Version, Raw: raw}, old.Expires}, digest: sha256.Sum256(raw), data: s.codec.pack(raw)}
			if err := sound(gun, nil, []NewFile{f.NewFile}, nil); err != nil {
				return err
			}
			if err := r.put(ctx, t, f, old.Created, now); err != nil {
				return fmt.Errorf("store %s version %d: %w", old.Role, old.Version, err)
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
