package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// serveKey answers with the public key with which the server signs a role:
// the one that the current root names, if the signer holds it, or else the
// key that is pending for the next root (notary-protocol 3.4).
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request, route api.Route) error {
	state, err := s.begun(r.Context(), route.GUN)
	if err != nil {
		return err
	}
	var key tuf.PublicKey
	held := false
	if state != nil {
		if key, held, err = s.activeKey(r.Context(), state, route.Role); err != nil {
			return err
		}
	}
	if !held {
		if key, err = s.pendingKey(r.Context(), route.GUN, route.Role); err != nil {
			return err
		}
	}
	return writeKey(w, key)
}

// serveRotate answers with a key that was never used. Repeating the request
// gives the same one until it is used, so that nobody can make the signer
// create keys without bound (attacks.md S7).
func (s *Server) serveRotate(w http.ResponseWriter, r *http.Request, route api.Route, by Grant) error {
	if _, err := s.begun(r.Context(), route.GUN); err != nil {
		return err
	}
	key, err := s.pendingKey(r.Context(), route.GUN, route.Role)
	if err != nil {
		return err
	}
	if err := s.c.Store.Record(r.Context(), storage.AuditRecord{
		At: s.c.Now(), Act: storage.Rotate, Repository: route.GUN, Actor: actor(r, by.Who), Role: route.Role, Key: key.CanonicalID(),
	}); err != nil {
		return err
	}
	s.c.Log.InfoContext(r.Context(), "key offered for rotation", "gun", route.GUN, "role", route.Role, "key", key.CanonicalID(), "by", by.Who)
	return writeKey(w, key)
}

// begun returns the current state of gun; nil if there is none, and there may
// be one. Where only an operator can have it begin anew, nobody is given a key
// for it: the operator's step would make it worthless.
func (s *Server) begun(ctx context.Context, gun tuf.GUN) (*storage.State, error) {
	state, err := s.c.Store.Current(ctx, gun)
	if err == nil {
		return state, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("read state of %s: %w", gun, err)
	}
	err = s.c.Keys.MayBegin(ctx, gun)
	if restored := new(api.RestoredError); errors.As(err, &restored) {
		return nil, needsOperator(gun, restored)
	}
	return nil, err
}

func (s *Server) pendingKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	key, err := s.c.Keys.CreateKey(ctx, s.c.KeyType, role, gun)
	if err != nil {
		return tuf.PublicKey{}, fmt.Errorf("create %s key for %s: %w", role, gun, err)
	}
	return key, nil
}

// activeKey returns the first key of a role in the root of state that the
// signer holds.
func (s *Server) activeKey(ctx context.Context, state *storage.State, role tuf.RoleName) (tuf.PublicKey, bool, error) {
	gun := state.GUN
	entry, ok := state.Roles[tuf.RoleRoot]
	if !ok {
		return tuf.PublicKey{}, false, nil
	}
	root, err := s.blob(ctx, state, tuf.RoleRoot, entry.SHA256)
	if err != nil {
		return tuf.PublicKey{}, false, err
	}
	past, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Version: entry.Version, Raw: root.raw}}, s.options(s.c.Now()))
	if err != nil {
		return tuf.PublicKey{}, false, fmt.Errorf("recall root: %w", err)
	}
	def, _ := past.Role(role)
	for _, k := range def.Keys {
		held, err := s.holds(ctx, state, gun, role, k.CanonicalID())
		if err != nil {
			return tuf.PublicKey{}, false, fmt.Errorf("ask the signer for key %s: %w", k.CanonicalID(), err)
		}
		if held {
			return k.PublicKey, true, nil
		}
	}
	return tuf.PublicKey{}, false, nil
}

func writeKey(w http.ResponseWriter, key tuf.PublicKey) error {
	body, err := api.EncodeKey(key)
	if err != nil {
		return err
	}
	return writeText(w, body)
}

// serveDelete ends a repository. To delete what is not there is success, so
// that a deletion whose answer was lost can be repeated.
func (s *Server) serveDelete(w http.ResponseWriter, r *http.Request, gun tuf.GUN, by Grant) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.c.Limits.Publish)
	defer cancel()
	unlock, err := s.publishing.lock(ctx, gun)
	if err != nil {
		return err
	}
	defer unlock()
	if s.c.Forget != nil {
		// What the signer did not forget would keep a new repository of that
		// name from being published: with the signer away nothing is deleted.
		if err := s.c.Keys.Ping(ctx); err != nil {
			return fmt.Errorf("delete %s: %w", gun, err)
		}
	}
	for forgotten := false; ; forgotten = true {
		there, err := s.end(ctx, gun, actor(r, by.Who))
		switch {
		case err != nil:
			return err
		case s.c.Forget == nil && there:
			s.c.Log.WarnContext(ctx, "repository deleted; the signer remembers it until an operator has it forgotten", "gun", gun)
		}
		// What was begun by way of another instance, and is there only since
		// the signer forgot its keys, ends as well.
		if s.c.Forget == nil || forgotten && !there {
			break
		}
		if err := s.c.Forget(ctx, gun); err != nil {
			return fmt.Errorf("have the signer forget %s: %w", gun, err)
		}
	}
	w.Header().Set("Content-Length", "0")
	return nil
}

// end deletes what is published of gun now, and reports whether there was
// something.
func (s *Server) end(ctx context.Context, gun tuf.GUN, by storage.Actor) (bool, error) {
	for try := 0; ; try++ {
		state, err := s.c.Store.Current(ctx, gun)
		if errors.Is(err, storage.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read state of %s: %w", gun, err)
		}
		err = s.c.Store.Delete(ctx, state, s.c.Now(), by)
		if err == nil {
			s.heads.drop(gun, state.Seq+1)
			s.c.Log.InfoContext(ctx, "repository deleted", "gun", gun, "version", state.Roles[tuf.RoleTimestamp].Version, "by", by.Subject, "from", by.From)
			return true, nil
		}
		if !errors.Is(err, storage.ErrConflict) && !errors.Is(err, storage.ErrNotFound) || try == conflicts {
			return false, err
		}
	}
}
