package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// conflicts is how often a publish begins again because another one, or a
// renewal, was faster.
const conflicts = 16

// serveUpload is the one way in which a publisher changes a repository: all
// files of the upload become current together with the snapshot and timestamp
// that the server adds, or nothing changes.
func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request, gun tuf.GUN, by Grant) error {
	under := w // closes the connection of an endless upload
	if sw, ok := w.(*statusWriter); ok {
		under = sw.ResponseWriter
	}
	free, err := s.limits.upload()
	if err != nil {
		return err
	}
	defer free()
	body := &metered{ReadCloser: r.Body, all: &s.uploading, limit: s.c.Limits.Uploading}
	defer body.done()
	r.Body = body
	files, err := api.ReadFiles(under, r, s.c.Limits.Upload)
	switch {
	case body.full:
		return s.limits.refuse(limitUploads, time.Second)
	case err != nil:
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.c.Limits.Publish)
	defer cancel()
	if err := s.publish(ctx, gun, files, actor(r, by.Who)); err != nil {
		return explain(gun, err)
	}
	w.Header().Set("Content-Length", "0")
	return nil
}

func (s *Server) publish(ctx context.Context, gun tuf.GUN, files []tuf.File, by storage.Actor) error {
	up, err := newUpload(files)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return s.publishNothing(ctx, gun)
	}
	unlock, err := s.publishing.lock(ctx, gun)
	if err != nil {
		return err
	}
	defer unlock()
	floors := map[tuf.RoleName]int64{} // of what is built on
	var before *base                   // the last that the store was asked about
	for try := range conflicts {
		var b *base
		var err error
		if try == 0 {
			b = s.supposed(gun)
		}
		if b == nil {
			b, err = s.base(ctx, gun)
		}
		switch {
		case errors.Is(err, storage.ErrConflict):
			continue
		case err != nil:
			return &failure{api.Unknown, err} // also if it is about a stored file
		case before != nil && up.clashes(before.state, b.state):
			return versionClash()
		}
		if !b.supposed {
			before = b
		}
		c, err := s.prepare(ctx, b, up, floors)
		if s.overtaken(ctx, b, err) {
			clear(floors)
			continue
		}
		if err != nil {
			return err
		}
		c.by = &by
		state, err := s.commit(ctx, c)
		if err == nil && b.state == nil {
			err = s.takeBack(ctx, c, state)
		}
		var version *storage.VersionError
		switch {
		case errors.As(err, &version):
			if up.has(version.Role) {
				return versionClash()
			}
			floors[version.Role] = max(floors[version.Role], version.Have)
		case errors.Is(err, storage.ErrConflict):
			clear(floors)
		case err != nil:
			return &failure{api.Updating, err}
		default:
			s.counters.published.Add()
			s.c.Log.InfoContext(ctx, "published", "gun", gun, "roles", up.roles(), "version", state.Roles[tuf.RoleTimestamp].Version, "by", by.Subject)
			return nil
		}
	}
	return &failure{api.Updating, fmt.Errorf("publish %s: overtaken %d times", gun, conflicts)}
}

// publishNothing answers an upload without files, which the stock client makes
// when it has nothing staged and leaves the snapshot to the server. There is
// nothing to change, so nothing is signed either.
func (s *Server) publishNothing(ctx context.Context, gun tuf.GUN) error {
	b, err := s.base(ctx, gun)
	if err != nil {
		return &failure{api.Unknown, err}
	}
	if b.past == nil {
		return noRoot()
	}
	role, _ := b.past.Role(tuf.RoleSnapshot)
	held, err := s.holdsAny(ctx, b.state, gun, role)
	if err == nil && !held {
		err = noSnapshot()
	}
	return err
}

func noRoot() error {
	return invalid(api.BadValidation, "no pre-existing root and no root provided in update.")
}

// supposed returns what this server published last of gun, if it has not heard
// of anything since; else nil.
func (s *Server) supposed(gun tuf.GUN) *base {
	if h := s.heads.known(gun); h != nil {
		return s.recalled.last(gun, h.seq)
	}
	return nil
}

// overtaken reports whether err may be there only because b is not current any
// more: another instance has published on top of it, which the signer knows, or
// had done so before, when b was supposed. If b is still current, the signer
// knows of something that the store has lost, and an operator must act.
func (s *Server) overtaken(ctx context.Context, b *base, err error) bool {
	if restored := new(api.RestoredError); !errors.As(err, &restored) && (err == nil || !b.supposed) {
		return false
	}
	var have, is storage.State
	if b.state != nil {
		have = *b.state
	}
	now, err := s.c.Store.Current(ctx, b.gun)
	switch {
	case err == nil:
		is = *now
	case !errors.Is(err, storage.ErrNotFound):
		return b.supposed // nobody is judged by that; and if the store is away, that is what is said
	}
	return is.Seq != have.Seq || is.Roles[tuf.RoleTimestamp].SHA256 != have.Roles[tuf.RoleTimestamp].SHA256
}

// A failure is an internal error, whatever it wraps, and the code under which
// it is reported.
type failure struct {
	code api.Code
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// A base is what is published, loaded and recalled: what the next state
// builds on.
type base struct {
	gun   tuf.GUN
	state *storage.State // nil: nothing is published
	past  *tuf.Past      // nil: nothing is published
	raws  map[tuf.RoleName][]byte
	// linked is the snapshot that the current timestamp names.
	linked []byte
	// supposed says that the store was not asked whether this is current. If it
	// is not, the store refuses what is built on it; what else is refused on top
	// of it may be so because of that.
	supposed bool
}

func (b *base) floors() map[tuf.RoleName]int64 {
	if b.state == nil {
		return nil
	}
	return b.state.Floors
}

// base loads the current state of gun from the store. ErrConflict means that
// it was deleted at this very moment.
func (s *Server) base(ctx context.Context, gun tuf.GUN) (*base, error) {
	b := &base{gun: gun, raws: map[tuf.RoleName][]byte{}}
	var err error
	b.state, err = s.c.Store.Current(ctx, gun)
	if errors.Is(err, storage.ErrNotFound) {
		b.state = nil
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", gun, err)
	}
	if kept := s.recalled.of(b.state); kept != nil {
		return kept, nil
	}
	load := func(role tuf.RoleName, sum [32]byte) ([]byte, error) {
		f, err := s.blob(ctx, b.state, role, sum)
		if errors.Is(err, storage.ErrNotFound) {
			if now, again := s.c.Store.Current(ctx, gun); again == nil && now.Seq == b.state.Seq {
				return nil, fmt.Errorf("%s of %s is current and not there", role, gun)
			}
			return nil, storage.ErrConflict
		}
		if err != nil {
			return nil, err
		}
		return f.raw, nil
	}
	var files []tuf.File
	for role, e := range b.state.Roles {
		raw, err := load(role, e.SHA256)
		if err != nil {
			return nil, err
		}
		b.raws[role] = raw
		files = append(files, tuf.File{Role: role, Version: e.Version, Raw: raw})
	}
	o := s.options(s.c.Now())
	if b.past, err = tuf.Recall(gun, files, o); err != nil {
		return nil, fmt.Errorf("recall %s: %w", gun, err)
	}
	if raw, ok := b.raws[tuf.RoleTimestamp]; ok {
		meta, err := tuf.Outline(tuf.RoleTimestamp, raw, o)
		if err != nil {
			return nil, fmt.Errorf("read timestamp of %s: %w", gun, err)
		}
		if sum, ok := sum256(meta.Files[tuf.RoleSnapshot]); ok {
			if b.linked, err = load(tuf.RoleSnapshot, sum); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// A candidate is a next state, complete and verified, ready to be committed.
type candidate struct {
	*base
	set   *tuf.Set // what it is to a client; nil if one would refuse it
	files []storage.NewFile
	drop  []tuf.RoleName
	now   time.Time
	by    *storage.Actor // nil: it is the server that renews

	decoded *tuf.Decoded
}

// prepare verifies an upload on top of b and adds the files that the server
// signs. floors are versions to sign above; it learns more of them.
func (s *Server) prepare(ctx context.Context, b *base, up upload, floors map[tuf.RoleName]int64) (*candidate, error) {
	if b.past == nil && !up.has(tuf.RoleRoot) {
		return nil, noRoot()
	}
	now := s.c.Now()
	snapshot, _ := up.file(tuf.RoleSnapshot)
	d, made, err := s.sign(ctx, b, snapshot.Raw, now, floors, func() (*tuf.Draft, error) { return s.adopt(ctx, b, up, now) })
	if err != nil {
		return nil, err
	}
	has := func(role tuf.RoleName) bool {
		return up.has(role) || slices.ContainsFunc(made, func(f tuf.File) bool { return f.Role == role })
	}
	if !has(tuf.RoleSnapshot) {
		return nil, noSnapshot()
	}
	if !has(tuf.RoleTimestamp) {
		return nil, invalid(api.BadRoot, "no  timestamp keys exist on the server")
	}
	c, set, err := s.assemble(b, append(slices.Clone(up.files), made...), up.decoded, now)
	if err != nil {
		return nil, err
	}
	for _, u := range set.Unusable() {
		// What was unusable before may stay so; nobody adds to it.
		if up.has(u.Role) {
			return nil, u.Err
		}
	}
	if b.state != nil {
		for role := range b.state.Roles {
			if role.Delegation() && !delegated(d, role) {
				c.drop = append(c.drop, role)
			}
		}
	}
	return c, nil
}

func noSnapshot() *api.Error {
	return api.NewError(api.InvalidUpdate, &api.Invalid{
		Fault: api.BadHierarchy, Missing: string(tuf.RoleSnapshot),
		Msg: "no snapshot was included in update and server does not hold current snapshot key for repository",
	})
}

// delegated reports whether role is still delegated, by every role above it.
func delegated(d *tuf.Draft, role tuf.RoleName) bool {
	for ; role.Delegation(); role = role.Parent() {
		if _, ok := d.Role(role); !ok {
			return false
		}
	}
	return true
}

// adopt verifies the files of an upload one by one, as far as that goes
// without the snapshot and timestamp that are yet to be made.
func (s *Server) adopt(ctx context.Context, b *base, up upload, now time.Time) (*tuf.Draft, error) {
	o := s.options(now)
	o.Decoded = up.decoded
	d := tuf.Receive(b.gun, b.past, b.floors(), o)
	clash := false
	for _, f := range up.files {
		err := d.Adopt(f)
		if errors.Is(err, tuf.ErrRollback) {
			clash = true // reported last, as other faults say more
			continue
		}
		if _, wrong := tuf.ListedRole(err); wrong && clash {
			continue // the snapshot lists a file that was not taken
		}
		if err != nil {
			return nil, err
		}
		if b.state == nil || f.Role == tuf.RoleRoot {
			continue
		}
		// attacks.md F13: nobody can use up the version numbers.
		if have, ok := b.state.Roles[f.Role]; ok && f.Version > have.Version+s.c.Limits.Step {
			return nil, invalid(faultOf(f.Role), "%s version %d does not follow version %d", f.Role, f.Version, have.Version)
		}
	}
	if !clash {
		return d, nil
	}
	if err := up.consistent(b.gun, o); err != nil {
		return nil, err
	}
	if !up.has(tuf.RoleSnapshot) {
		if role, ok := d.Role(tuf.RoleSnapshot); ok {
			held, err := s.holdsAny(ctx, b.state, b.gun, role)
			if err != nil {
				return nil, err
			}
			if !held {
				return nil, noSnapshot()
			}
		}
	}
	return nil, versionClash()
}

func (s *Server) holdsAny(ctx context.Context, state *storage.State, gun tuf.GUN, role tuf.Role) (bool, error) {
	for _, k := range role.Keys {
		held, err := s.holds(ctx, state, gun, role.Name, k.CanonicalID())
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}

// sign has the snapshot and timestamp made for the draft that begin returns;
// uploaded is the snapshot in it that a client signed, or nil. When the signer
// has signed higher versions than anybody kept, it is asked again for versions
// above those.
func (s *Server) sign(ctx context.Context, b *base, uploaded []byte, now time.Time, floors map[tuf.RoleName]int64, begin func() (*tuf.Draft, error)) (*tuf.Draft, []tuf.File, error) {
	o := tuf.SignOptions{Now: now, Floor: floors, Lifetimes: map[tuf.RoleName]time.Duration{
		tuf.RoleSnapshot: s.c.Lifetimes.Snapshot, tuf.RoleTimestamp: s.c.Lifetimes.Timestamp,
	}}
	for try := range conflicts {
		d, err := begin() // a draft is spent once it was signed
		if err != nil {
			return nil, nil, err
		}
		made, err := d.Sign(ctx, s.newRing(ctx, d, b, uploaded, o, try == 0), o)
		var floor *api.FloorError
		switch {
		case errors.As(err, &floor):
			if floor.Floor <= floors[floor.Role] {
				return nil, nil, &failure{api.Unknown, fmt.Errorf("sign for %s: the signer refuses what it asked for: %w", b.gun, err)}
			}
			floors[floor.Role] = floor.Floor
		case errors.Is(err, tuf.ErrIncomplete):
			return nil, nil, invalid(api.BadValidation, "targets must be loaded first")
		case err != nil:
			return nil, nil, &failure{api.Unknown, fmt.Errorf("sign for %s: %w", b.gun, err)}
		default:
			return d, made, nil
		}
	}
	return nil, nil, fmt.Errorf("sign for %s: overtaken %d times", b.gun, conflicts)
}

// assemble makes a candidate of new files, after a walk over the result as a
// client would take it that holds the current state (attacks.md S2). After an
// error the candidate is there as well, for those who can live with it.
func (s *Server) assemble(b *base, files []tuf.File, decoded *tuf.Decoded, now time.Time) (*candidate, *tuf.Set, error) {
	c := &candidate{base: b, now: now, decoded: decoded}
	o := s.options(now)
	o.Decoded = decoded
	next := maps.Clone(b.raws)
	for _, f := range files {
		next[f.Role] = f.Raw
	}
	set, refused := walk(b.gun, b.past, next, o)
	c.set = set
	for _, f := range files {
		expires, err := expiry(set, f, o)
		if err != nil {
			return nil, nil, &tuf.RoleError{GUN: b.gun, Role: f.Role, Version: f.Version, Err: err}
		}
		c.files = append(c.files, storage.NewFile{File: f, Expires: expires})
	}
	return c, set, refused
}

// expiry is what f says of when it expires. It is known if set, which may be
// nil, holds that very file; to read a large one again takes as long as all
// the rest.
func expiry(set *tuf.Set, f tuf.File, o tuf.Options) (time.Time, error) {
	if set != nil {
		if have, ok := set.File(f.Role); ok && bytes.Equal(have.Raw, f.Raw) {
			info, _ := set.Info(f.Role)
			return info.Expires, nil
		}
	}
	meta, err := tuf.Outline(f.Role, f.Raw, o)
	return meta.Expires, err
}

// walk verifies files as a client would that holds past.
func walk(gun tuf.GUN, past *tuf.Past, files map[tuf.RoleName][]byte, o tuf.Options) (*tuf.Set, error) {
	u := tuf.Begin(gun, past, o)
	for w, more := u.Next(); more; w, more = u.Next() {
		raw, ok := files[w.Role]
		var err error
		if ok {
			err = u.Add(w, raw)
		} else {
			err = u.Missing(w)
		}
		if err != nil {
			return nil, err
		}
	}
	return u.Set()
}

// commit makes a candidate current, in the store and in memory. ErrConflict
// means that something else became current meanwhile. It is not given up when
// the publisher leaves, because half of the answer would be known to nobody.
func (s *Server) commit(ctx context.Context, c *candidate) (*storage.State, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	state, err := s.c.Store.Commit(ctx, c.gun, c.state, c.files, c.drop, c.now, c.by)
	if err != nil && !errors.Is(err, storage.ErrConflict) {
		var settled error
		if state, settled = s.settle(ctx, c); settled != nil {
			return nil, errors.Join(err, settled)
		}
		if state != nil {
			s.c.Log.WarnContext(ctx, "commit was reported to fail, and has happened", "gun", c.gun, "err", err)
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	for _, f := range c.files {
		n := newFile(f.Raw, state.Roles[f.Role].Created)
		if state.Roles[f.Role].SHA256 == n.sum {
			s.blobs.put(blobKey{c.gun, state.Incarnation, f.Role, n.sum}, n)
		}
	}
	if c.set != nil {
		s.recalled.keep(state, c.set)
	}
	n, err := s.newHead(ctx, state, c.decoded)
	if err != nil {
		s.c.Log.WarnContext(ctx, "state not kept in memory", "gun", c.gun, "err", err)
		s.heads.drop(c.gun, state.Seq)
		return state, nil
	}
	s.heads.committed(n)
	return state, nil
}

// takeBack deletes the first state of a repository again, with an error that
// matches ErrConflict, if its keys were forgotten between the signatures and
// the commit: somebody deleted, by way of another instance, what was not there
// yet. It could never be renewed, nor published to. (That instance deletes what
// is there when it has had the keys forgotten; what comes later is found here.)
func (s *Server) takeBack(ctx context.Context, c *candidate, state *storage.State) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	role, _ := c.set.Role(tuf.RoleTimestamp) // all that the signer has are forgotten together
	held, err := s.holdsAny(ctx, nil, c.gun, role)
	switch {
	case err != nil:
		s.c.Log.WarnContext(ctx, "published, and the signer does not say whether it still holds the keys", "gun", c.gun, "err", err)
		return nil
	case held:
		return nil
	}
	err = s.c.Store.Delete(ctx, state, s.c.Now(), *c.by)
	if err != nil && !errors.Is(err, storage.ErrConflict) && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("the keys of %s were forgotten while it was published, and it could not be taken back, so delete it: %w", c.gun, err)
	}
	s.heads.drop(c.gun, state.Seq+1)
	return fmt.Errorf("%w: the keys of %s were forgotten while it was published", storage.ErrConflict, c.gun)
}

// settle finds out what became of a commit whose answer was an error. It
// returns the state since then, or nil if the commit did not happen.
func (s *Server) settle(ctx context.Context, c *candidate) (*storage.State, error) {
	state, err := s.c.Store.Current(ctx, c.gun)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look whether it was stored: %w", err)
	}
	for _, f := range c.files {
		if f.Role != tuf.RoleTimestamp {
			continue
		}
		raw, _, err := s.c.Store.Blob(ctx, c.gun, f.Role, sha256.Sum256(f.Raw))
		if errors.Is(err, storage.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look whether it was stored: %w", err)
		}
		if bytes.Equal(raw, f.Raw) {
			return state, nil
		}
	}
	return nil, nil
}
