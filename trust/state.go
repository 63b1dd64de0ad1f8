package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/iechor/trust/tuf"
)

// stateDir is where we keep what the stock programs have no place for. They
// look only into private/ and tuf/.
const stateDir = "state"

func stateBase(gun tuf.GUN) string {
	sum := sha256.Sum256([]byte(gun))
	return stateDir + "/" + hex.EncodeToString(sum[:])
}
func stateName(gun tuf.GUN) string { return stateBase(gun) + ".json" }
func lockName(gun tuf.GUN) string  { return stateBase(gun) + ".lock" }

// A memory is what this machine remembers of a repository beside its files. It
// explains and restricts; nothing is trusted because of it. Where the stock
// programs did the work there is none, and the zero value stands for it.
type memory struct {
	GUN    tuf.GUN `json:"gun"`
	Server string  `json:"server"` // whom the files came from (attacks.md N6)
	// Checked is when the server last gave us a timestamp that verified: the
	// age of the copy, and the earliest time that the clock may show (F14).
	Checked time.Time `json:"checked"`
	// Timestamp is the SHA-256 of that timestamp, and Since is when we first
	// saw it (F15).
	Timestamp string    `json:"timestamp"`
	Since     time.Time `json:"since"`
	// Met is when we first trusted a root of the repository.
	Met time.Time `json:"met,omitzero"`
	// Backup is the SHA-256 of the root that came from a backup, until the
	// server was met: whoever published it, it is no repository that is being
	// made here.
	Backup string `json:"backup,omitempty"`
}

const (
	// maxState bounds the state file.
	maxState = 64 << 10
	// stateEvery is how often Checked is written when nothing else changes.
	stateEvery = time.Minute
	// clockSlack is how far the clock may go back without being refused.
	// Timestamps live for about a day, so it does not prolong a freeze by
	// more than one life, and it covers a wrong time zone.
	clockSlack = 24 * time.Hour
)

// recollect reads what we remember of gun. A state file that cannot be
// understood is as good as none: it only restricts, and the root and the
// versions, which protect, are elsewhere.
func (d *Dir) recollect(gun tuf.GUN) (memory, error) {
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, err
	}
	defer root.Close()
	raw, err := readFile(root, stateName(gun), maxState)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tuf.ErrLimit) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, err
	}
	var m memory
	if json.Unmarshal(raw, &m) != nil || m.GUN != gun {
		return memory{}, nil
	}
	return m, nil
}

// memorise stores m, unless what is stored was checked later.
func (d *Dir) memorise(m memory) error {
	root, err := d.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := d.lock(root, m.GUN)
	if err != nil {
		return err
	}
	defer unlock()
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return d.write(root, stateName(m.GUN), append(raw, '\n'))
}

// fetched returns when the timestamp of gun was last written, by whichever
// program.
func (d *Dir) fetched(gun tuf.GUN) time.Time {
	root, err := d.open(false)
	if err != nil {
		return time.Time{}
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(pathOf(gun, tuf.RoleTimestamp)))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
