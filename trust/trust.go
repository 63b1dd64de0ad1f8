// Package trust is the client of a trust server: it keeps a verified copy of a
// repository's metadata, resolves tags in it, and publishes changes to it.
//
// [Open] a [Repository] with a [Config]; [Repository.Resolve] answers "which
// digest is this tag", [Repository.Publish] changes the answer, and
// [Repository.Update] is what both begin with. [HTTP] is the real [Remote],
// [Dir] the folder that is shared with the notary and docker programs.
//
// What the package promises: nothing is resolved and nothing is published
// except on top of metadata that package tuf verified; what a machine has once
// trusted is the floor of what it trusts next, across processes; a copy at
// hand stands in for the server only when the server cannot be reached, and
// the caller is told; every answer of a server is bounded in size and time. It
// never falls back to anything unsigned.
//
// Read errors.go, then update.go for the way in and publish.go for the way
// out; dir.go and path.go are the folder, state.go what we remember beside it,
// http.go, tls.go and auth.go the wire, stage.go the change files, init.go,
// forge.go, rotate.go and root.go the keys, renew.go the expiry, accept.go the way
// to a new root on purpose, notice.go what speaks for it.
package trust

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// A Remote is a trust server as this package sees it. [HTTP] is the real one.
// All methods are safe for concurrent use and honour ctx.
//
// Errors a caller can tell apart: [ErrNotSigned], [ErrUnreachable],
// [ErrUnauthorized], [ErrNotTrustServer], [ErrRedirect], [ErrTLS], the error
// of ctx, and for Upload [ErrConflict] and [*ServerRefusal].
type Remote interface {
	// Fetch returns the file that w describes, unverified, at most
	// w.MaxLength+1 bytes of it: a longer file is cut there, so that it is
	// refused by [tuf.Update.Add]. The error matches ErrNotSigned when the
	// server works and has no such file.
	Fetch(ctx context.Context, gun tuf.GUN, w tuf.Want) ([]byte, error)
	// Upload publishes all files or none. The error matches ErrConflict when
	// the server has moved on. After an error that matches ErrUnreachable the
	// files may have been published.
	Upload(ctx context.Context, gun tuf.GUN, files []tuf.File) error
	// Key returns the public key that the server uses, or would use, for
	// role: snapshot or timestamp. It needs the right to push.
	Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error)
	// RotateKey returns a fresh key of the server for role. It comes into use
	// with the root that names it.
	RotateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error)
	// Delete removes everything the server has for gun. It is no error if
	// there was nothing.
	Delete(ctx context.Context, gun tuf.GUN) error
	// Host names the server for people and for the memory of this machine:
	// host and port, and the path below them if there is one.
	Host() string
}

// An OfflinePolicy says whether the copy at hand may stand in for a server
// that cannot be reached.
type OfflinePolicy int

// The policies. The zero value is what the stock programs do.
const (
	OfflineAllow  OfflinePolicy = iota // serve unexpired cached data, with a [*Stale] error
	OfflineRefuse                      // never
)

// Config is what a Repository works with. Remote and Dir are required.
type Config struct {
	Remote Remote
	Dir    *Dir

	// Pin decides which root may speak for a repository. nil is
	// [tuf.FirstUse]. See [Pinning] for the configuration file's form.
	Pin tuf.Pin
	// Met, if set, is called when an update has trusted the root of a
	// repository of which this machine had nothing: on first use, unless the
	// pin vouches for the root (attacks.md R12).
	Met func(set *tuf.Set)
	// Keys are the private keys at hand. They are not closed here.
	Keys keys.Ring
	// Now is the clock; nil means [time.Now]. It is read once per operation.
	Now func() time.Time
	// Limits bound what is read. Zero fields mean [tuf.DefaultLimits].
	Limits tuf.Limits
	// Lifetimes of what is signed here; see [tuf.SignOptions].
	Lifetimes map[tuf.RoleName]time.Duration

	// Offline says what happens when the server cannot be reached.
	Offline OfflinePolicy
	// AllowExpiredCache extends OfflineAllow to cached data that has expired.
	// Downloaded data may never be expired.
	AllowExpiredCache bool
	// MaxAge refuses, with [ErrFrozen], a timestamp that the server has kept
	// unchanged for longer, as far as this machine has seen. Zero: no limit
	// but the timestamp's own expiry (attacks.md F15).
	MaxAge time.Duration

	// Deadline bounds what one update may take altogether, however many files
	// it fetches; 10 minutes if zero. The server then counts as unreachable
	// (attacks.md L6).
	Deadline time.Duration

	// Sleep waits between attempts to publish; nil waits for real. It returns
	// early with the error of ctx.
	Sleep func(ctx context.Context, d time.Duration) error
}

// A Repository is the trust data of one GUN, on the server and on this
// machine. It has no state of its own beside the Config and is safe for
// concurrent use as far as the Config's parts are.
type Repository struct {
	gun      tuf.GUN
	c        Config
	lapsed   bool // see AllowLapsed
	orphaned bool // see AllowOrphaned
}

// Open returns the repository. It does no work. gun must be valid
// ([tuf.GUN.Valid]); every method refuses another one with an error that
// matches [ErrName].
func Open(gun tuf.GUN, c Config) *Repository {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Minute
	}
	return &Repository{gun: gun, c: c}
}

// GUN returns the repository's name.
func (r *Repository) GUN() tuf.GUN { return r.gun }

// options are what package tuf verifies with, at the time of this operation.
func (r *Repository) options(now time.Time) tuf.Options {
	return tuf.Options{Pin: r.pin(), Now: now, Limits: r.c.Limits, Lapsed: r.lapsed, Orphaned: r.orphaned}
}

// AllowLapsed returns the repository as its owner may see it, who has let
// root, its certificates, snapshot, targets or delegations expire and is about
// to sign them again ([tuf.Options.Lapsed]): root and targets are then part of
// every publication. Nobody else must build on what it shows.
func (r *Repository) AllowLapsed() *Repository {
	c := *r
	c.lapsed = true
	return &c
}

func (r *Repository) signOptions(now time.Time) tuf.SignOptions {
	return tuf.SignOptions{Now: now, Lifetimes: r.c.Lifetimes}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff is how long to wait before attempt n (1 is the first repetition):
// about 0.1, 0.2, 0.4, 0.8 s, half of it random, so that publishers who
// collided do not collide again.
func backoff(n int) time.Duration {
	d := 100 * time.Millisecond << min(n-1, 6)
	return d/2 + rand.N(d)
}
