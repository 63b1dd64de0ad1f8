package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/iechor/trust/tuf"
)

// decisions are what the people of this machine have decided about the roots
// of one repository. They outlive what is remembered of the repository itself:
// a root that was given up stays denied, whoever offers it again
// (attacks.md R13).
type decisions struct {
	GUN    tuf.GUN           `json:"gun"`
	Denied []tuf.CanonicalID `json:"denied"` // root keys that were given up
	Made   []Decision        `json:"made"`   // the oldest first
}

// A Decision says which root took the place of which.
type Decision struct {
	At  time.Time   `json:"at"`
	Old []tuf.KeyID `json:"old"` // keys of the root that is denied since
	New []tuf.KeyID `json:"new"` // none: it was given up, and none accepted yet
	// Notice is the SHA-256 of the notice that spoke for it, in hex, if one did.
	Notice string `json:"notice,omitempty"`
}

const (
	maxDecisions    = 256 << 10 // bytes of the file
	keptDecisions   = 100       // of Made
	mostDeniedHere  = 1000      // of Denied
	decisionsSuffix = ".roots.json"
)

func decisionsName(gun tuf.GUN) string { return stateBase(gun) + decisionsSuffix }

// DecisionsError says that what was decided about roots cannot be read, so
// that no root can be trusted before File is restored, or removed on purpose.
type DecisionsError struct {
	File string
	Err  error
}

func (e *DecisionsError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }
func (e *DecisionsError) Unwrap() error { return e.Err }

// decided reads the decisions about gun. Other than the rest of what we
// remember, a file that cannot be understood is an error: to go on without it
// would be to trust what was given up.
func (d *Dir) decided(gun tuf.GUN) (decisions, error) {
	none := decisions{GUN: gun}
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	defer root.Close()
	name := decisionsName(gun)
	raw, err := readFile(root, name, maxDecisions)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	var out decisions
	if err == nil {
		err = strict(raw, &out)
	}
	if err == nil && out.GUN != gun {
		err = fmt.Errorf("it is about %q", string(out.GUN))
	}
	if err == nil && slices.ContainsFunc(out.Denied, func(id tuf.CanonicalID) bool { return !id.Valid() }) {
		err = errors.New("it denies something that is no key id")
	}
	if err != nil {
		return none, &DecisionsError{d.file(name), err}
	}
	return out, nil
}

// decide adds a decision, and keys to be denied from now on.
func (d *Dir) decide(gun tuf.GUN, denied []tuf.CanonicalID, made Decision) error {
	root, err := d.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := d.lock(root, gun)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := d.decided(gun)
	if err != nil {
		return err
	}
	before := len(all.Denied)
	for _, id := range denied {
		if !slices.Contains(all.Denied, id) {
			all.Denied = append(all.Denied, id)
		}
	}
	if len(all.Denied) > mostDeniedHere {
		return fmt.Errorf("%s: %w: more than %d root keys", d.file(decisionsName(gun)), tuf.ErrLimit, mostDeniedHere)
	}
	if n := len(all.Made); n > 0 && len(all.Denied) == before && slices.Equal(all.Made[n-1].Old, made.Old) && slices.Equal(all.Made[n-1].New, made.New) {
		return nil // said already, and interrupted afterwards
	}
	all.Made = append(all.Made, made)
	all.Made = all.Made[max(0, len(all.Made)-keptDecisions):]
	raw, err := json.Marshal(all)
	// What is denied counts; who decided it long ago may be forgotten.
	for err == nil && len(raw) >= maxDecisions && len(all.Made) > 0 {
		all.Made = all.Made[1:]
		raw, err = json.Marshal(all)
	}
	if err == nil && len(raw) >= maxDecisions {
		err = fmt.Errorf("%s: %w: more than %d bytes", d.file(decisionsName(gun)), tuf.ErrLimit, maxDecisions)
	}
	if err != nil {
		return err
	}
	return d.write(root, decisionsName(gun), append(raw, '\n'))
}

// Decisions returns what was decided here about the roots of the repository,
// the oldest first, and the file that remembers it.
func (r *Repository) Decisions() (made []Decision, file string, err error) {
	if err := check(r.gun); err != nil {
		return nil, "", err
	}
	all, err := r.c.Dir.decided(r.gun)
	return all.Made, r.c.Dir.file(decisionsName(r.gun)), err
}

// A guardedPin is the Config's pin, and denies what was given up here.
type guardedPin struct {
	pin  tuf.Pin
	read func() (decisions, error)
}

func (r *Repository) pin() tuf.Pin {
	p := guardedPin{pin: r.c.Pin, read: sync.OnceValues(func() (decisions, error) { return r.c.Dir.decided(r.gun) })}
	if p.pin == nil {
		p.pin = tuf.FirstUse{}
	}
	return p
}

// Trusted implements [tuf.Pin].
func (p guardedPin) Trusted(gun tuf.GUN, keys []tuf.PublicKey, first bool, now time.Time) ([]tuf.PublicKey, error) {
	if _, err := p.read(); err != nil {
		return nil, err
	}
	allowed := slices.DeleteFunc(slices.Clone(keys), p.Denies)
	if len(allowed) == 0 {
		return nil, &tuf.RootRefusal{Reason: tuf.Denied}
	}
	return p.pin.Trusted(gun, allowed, first, now)
}

// Denies implements [tuf.Denier].
func (p guardedPin) Denies(k tuf.PublicKey) bool {
	if d, ok := p.pin.(tuf.Denier); ok && d.Denies(k) {
		return true
	}
	all, err := p.read()
	return err != nil || slices.Contains(all.Denied, k.CanonicalID())
}
