package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/iechor/trust/tuf"
)

// A RootEdit says how the keys of a repository's root change. Every key has a
// certificate for the repository; the threshold stays. To add or remove a second
// time changes nothing.
type RootEdit struct {
	Add    []tuf.CanonicalID // root keys in the key ring
	Remove []tuf.CanonicalID // they need not be here
	Renew  []tuf.CanonicalID // keys of the root, in the key ring, that get a new certificate
	Resign []tuf.RoleName    // roles that are signed again as they are, in the same publication
}

// EditRoot publishes a root with other keys, signed by a threshold of those
// that it has now. It works on what its owners have let expire, too
// ([Repository.AllowLapsed]). Staged changes are left alone.
//
// Errors are those of [Repository.Publish]; it matches [tuf.ErrRole] if the
// keys that are left cannot meet the threshold.
func (r *Repository) EditRoot(ctx context.Context, e RootEdit) (Published, error) {
	certs := map[tuf.CanonicalID]tuf.PublicKey{} // made once, however often the plan is
	certificate := func(id tuf.CanonicalID) (tuf.PublicKey, error) {
		if k, ok := certs[id]; ok {
			return k, nil
		}
		s, err := openKey(ctx, r.c.Keys, id)
		if err != nil {
			return tuf.PublicKey{}, err
		}
		certs[id], err = r.certify(ctx, s, tuf.PublicKey{}, r.c.Now())
		return certs[id], err
	}
	plan := func(set *tuf.Set) ([]tuf.Change, error) {
		if set == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotInitialized, r.gun)
		}
		was, _ := set.Role(tuf.RoleRoot) // every Set has one
		var keys []tuf.PublicKey
		changed := false
		for _, k := range was.Keys {
			id, key := k.CanonicalID(), k.PublicKey
			made, done := certs[id]
			switch {
			case slices.Contains(e.Remove, id):
				changed = true
				continue
			case slices.Contains(e.Renew, id) && !(done && made.Equal(key)):
				var err error
				if key, err = certificate(id); err != nil {
					return nil, err
				}
				changed = true
			}
			keys = append(keys, key)
		}
		for _, id := range e.Add {
			if slices.ContainsFunc(keys, func(k tuf.PublicKey) bool { return k.CanonicalID() == id }) {
				continue
			}
			key, err := certificate(id)
			if err != nil {
				return nil, err
			}
			keys, changed = append(keys, key), true
		}
		var changes []tuf.Change
		if changed {
			changes = append(changes, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, was.Threshold, keys...)})
		}
		for _, role := range e.Resign {
			changes = append(changes, tuf.Resign{Role: role})
		}
		return changes, nil
	}
	return r.AllowLapsed().publish(ctx, job{plan: plan})
}

// An Intent is a change of root keys in many repositories that has begun and
// may have been interrupted: which key was made for it. With it, the next
// attempt goes on with the same key.
type Intent struct {
	What string          `json:"what"` // such as "rotate"
	Of   tuf.CanonicalID `json:"of"`   // the root key whose repositories it concerns
	New  tuf.CanonicalID `json:"new"`  // the key that was made
}

func (i Intent) name() string { return stateDir + "/" + i.What + "-" + string(i.Of) + ".json" }

// Intent returns what was intended and not finished; New is empty if nothing
// was. A file that cannot be understood is as good as none: a new key is made.
func (d *Dir) Intent(what string, of tuf.CanonicalID) (Intent, error) {
	i := Intent{What: what, Of: of}
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return i, err
	}
	defer root.Close()
	raw, err := readFile(root, i.name(), maxState)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, tuf.ErrLimit) {
		return i, nil
	}
	if err != nil {
		return i, err
	}
	var have Intent
	if strict(raw, &have) == nil && have.What == what && have.Of == of && have.New.Valid() {
		return have, nil
	}
	return i, nil
}

// Begin remembers i. It is called before the key is stored, so that no key is
// made twice.
func (d *Dir) Begin(i Intent) error {
	root, err := d.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	raw, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return d.write(root, i.name(), append(raw, '\n'))
}

// End forgets i, which is done.
func (d *Dir) End(i Intent) error {
	root, err := d.open(false)
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.Remove(filepath.FromSlash(i.name()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}
