package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// A backupState is what this machine remembers of backups that were verified,
// in a file that the stock programs do not know. Only the reminder needs it:
// without it, every key counts as one without a backup.
type backupState struct {
	Keys map[tuf.CanonicalID]backedUp `json:"keys"`
}

// backedUp says when a key was last seen in a backup, and as which file: after
// a change of its passphrase, the backup wants the old one.
type backedUp struct {
	SHA256   string    `json:"sha256"`
	Verified time.Time `json:"verified"`
}

const maxBackupState = 8 << 20

func (d *desk) backupStateFile() string { return filepath.Join(d.dir, "trust", "backup.json") }

// backupState reads what is remembered. What cannot be read is forgotten.
func (d *desk) backupState() backupState {
	s := backupState{}
	if f, err := os.Open(d.backupStateFile()); err == nil {
		defer f.Close()
		if raw, err := io.ReadAll(io.LimitReader(f, maxBackupState)); err == nil {
			_ = json.Unmarshal(raw, &s) // as good as none
		}
	}
	if s.Keys == nil {
		s.Keys = map[tuf.CanonicalID]backedUp{}
	}
	return s
}

// noteVerified remembers that a backup with these keys was read.
func (d *desk) noteVerified(ctx context.Context, blocks []*keys.Block) error {
	here, err := d.sums(ctx)
	if err != nil {
		return err
	}
	sums := map[tuf.CanonicalID]string{}
	for _, b := range blocks {
		if sum := sumOf(b.File()); here[b.Info.ID] == sum {
			sums[b.Info.ID] = sum
		}
	}
	return d.remember(here, sums)
}

// noteShares remembers that there are shares of a key, whatever its
// passphrase.
func (d *desk) noteShares(ctx context.Context, info keys.Info) error {
	here, err := d.sums(ctx)
	if err != nil || here[info.ID] == "" {
		return err
	}
	return d.remember(here, map[tuf.CanonicalID]string{info.ID: here[info.ID]})
}

// remember adds to what is remembered of keys that are here.
func (d *desk) remember(here, sums map[tuf.CanonicalID]string) error {
	s := d.backupState()
	for id := range s.Keys {
		if here[id] == "" {
			delete(s.Keys, id)
		}
	}
	for id, sum := range sums {
		s.Keys[id] = backedUp{sum, d.now().UTC().Truncate(time.Second)}
	}
	if len(s.Keys) == 0 {
		return nil
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writePrivately(d.backupStateFile(), append(raw, '\n'))
}

// sums are those of the key files here.
func (d *desk) sums(ctx context.Context) (map[tuf.CanonicalID]string, error) {
	infos, err := d.dirKeys.List(ctx)
	if err != nil {
		return nil, err
	}
	sums := map[tuf.CanonicalID]string{}
	for _, k := range infos {
		if raw, _, err := d.dirKeys.File(ctx, k); err == nil {
			sums[k.ID] = sumOf(raw)
		} else if !errors.Is(err, tuf.ErrNoKey) {
			sums[k.ID] = "unreadable"
		}
	}
	return sums, nil
}

func sumOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// remindOfBackup warns about keys that are in no backup, as far as is known.
func (d *desk) remindOfBackup(ctx context.Context) error {
	infos, err := d.dirKeys.List(ctx)
	if err != nil {
		return err
	}
	sums, err := d.sums(ctx)
	if err != nil {
		return err
	}
	known := d.backupState().Keys
	var open []keys.Info
	for _, k := range infos {
		if known[k.ID].SHA256 != sums[k.ID] {
			open = append(open, k)
		}
	}
	if len(open) == 0 {
		return nil
	}
	what := "in no backup that was verified on this machine"
	if len(known) > 0 {
		what = "made or changed since a backup was last verified"
	}
	d.warn("%s; to back them up: iechor trust backup create FILE, then iechor trust backup verify FILE", whichKeys(open, what))
	return nil
}
