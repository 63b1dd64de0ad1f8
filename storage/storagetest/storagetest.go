// Package storagetest says what every [storage.Store] must do, as tests, and
// has a store that fails on demand.
//
// [Run] is the suite; [Check] verifies what must hold at any moment; [Faulty]
// makes calls fail before or after they have done their work.
package storagetest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// Run tests the store that open returns: a new and empty one for each call,
// with default retention. The store is usable until the test that opened it
// ends, and open sees to its end.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s storage.Store)
	}{
		{"Empty", testEmpty},
		{"FirstCommit", testFirstCommit},
		{"PartialCommit", testPartialCommit},
		{"Refused", testRefused},
		{"AllOrNothing", testAllOrNothing},
		{"AttackRollback", testAttackRollback},
		{"AttackStaleBase", testAttackStaleBase},
		{"AttackInterleave", testAttackInterleave},
		{"ManyRepositories", testManyRepositories},
		{"ManyPublishers", testManyPublishers},
		{"History", testHistory},
		{"AttackOtherRole", testAttackOtherRole},
		{"SharedContent", testSharedContent},
		{"Drop", testDrop},
		{"Delete", testDelete},
		{"AttackDeleteAndRecreate", testAttackDeleteAndRecreate},
		{"AttackInjection", testAttackInjection},
		{"LongNames", testLongNames},
		{"CaseMatters", testCaseMatters},
		{"Changefeed", testChangefeed},
		{"ChangefeedOrder", testChangefeedOrder},
		{"Heads", testHeads},
		{"Expiring", testExpiring},
		{"Forecast", testForecast},
		{"GUNs", testGUNs},
		{"PruneKeeps", testPruneKeeps},
		{"PruneForgets", testPruneForgets},
		{"PruneDeleted", testPruneDeleted},
		{"PrunePacks", testPrunePacks},
		{"PruneWhileCommitting", testPruneWhileCommitting},
		{"Audit", testAudit},
		{"AuditConcurrent", testAuditConcurrent},
		{"Restore", testRestore},
		{"Repositories", testRepositories},
		{"Cancelled", testCancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			test.run(t, s)
			if !t.Failed() {
				Check(t, s)
			}
		})
	}
}

// Check verifies what must always hold while nobody writes: every current file
// is there by hash and by version and is what its entry says, floors are not
// below versions, and changefeed, heads and repository names are in order.
func Check(t testing.TB, s storage.Store) {
	t.Helper()
	ctx := context.Background()
	var after tuf.GUN
	heads := map[tuf.GUN]storage.Head{}
	for seq := int64(0); ; {
		page, err := s.Heads(ctx, seq, 0)
		if err != nil {
			t.Fatalf("check: Heads(%d) = %v", seq, err)
		}
		if len(page) == 0 {
			break
		}
		for _, h := range page {
			if _, twice := heads[h.GUN]; h.Seq <= seq || twice {
				t.Errorf("check: Heads has %+v after %d, or twice", h, seq)
			}
			heads[h.GUN], seq = h, h.Seq
		}
	}
	alive := 0
	for {
		guns, err := s.GUNs(ctx, after, 10)
		if err != nil {
			t.Fatalf("check: GUNs(%q) = %v", after, err)
		}
		if len(guns) == 0 {
			break
		}
		for _, gun := range guns {
			if gun <= after {
				t.Errorf("check: GUNs has %s after %s", gun, after)
			}
			after = gun
			alive++
			checkRepository(t, s, gun, heads[gun])
		}
	}
	for gun, h := range heads {
		if !h.Deleted {
			alive--
			continue
		}
		if _, err := s.Current(ctx, gun); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("check: Current(%s) = %v, and its head is deleted", gun, err)
		}
	}
	if alive != 0 {
		t.Errorf("check: GUNs has %d repositories more than Heads", alive)
	}
	for id := int64(0); ; {
		changes, err := s.Changes(ctx, storage.ChangeQuery{From: id})
		if err != nil {
			t.Fatalf("check: Changes(%d) = %v", id, err)
		}
		if len(changes) == 0 {
			break
		}
		for _, c := range changes {
			if c.ID <= id || c.Deleted != (c.SHA256 == "") || c.Deleted != (c.Version == 0) {
				t.Errorf("check: change %+v after %d", c, id)
			}
			id = c.ID
		}
	}
}

func checkRepository(t testing.TB, s storage.Store, gun tuf.GUN, head storage.Head) {
	t.Helper()
	ctx := context.Background()
	state, err := s.Current(ctx, gun)
	if err != nil {
		t.Errorf("check: Current(%s) = %v", gun, err)
		return
	}
	if state.GUN != gun || state.Seq != head.Seq || state.Incarnation > state.Seq || head.Deleted {
		t.Errorf("check: state of %s is of %s, %d since %d; its head is %+v", gun, state.GUN, state.Seq, state.Incarnation, head)
	}
	for role, e := range state.Roles {
		if e.Role != role || state.Floors[role] < e.Version {
			t.Errorf("check: %s has %s at %d with floor %d", gun, role, e.Version, state.Floors[role])
		}
		raw, created, err := s.Blob(ctx, gun, role, e.SHA256)
		if err != nil || sha256.Sum256(raw) != e.SHA256 || int64(len(raw)) != e.Length {
			t.Errorf("check: %s of %s by hash: %d bytes, %v; want %d bytes", role, gun, len(raw), err, e.Length)
		}
		if !created.Equal(e.Created) {
			t.Errorf("check: %s of %s was created at %v by hash, at %v by state", role, gun, created, e.Created)
		}
		raw, _, err = s.Version(ctx, gun, role, e.Version)
		if err != nil || sha256.Sum256(raw) != e.SHA256 {
			t.Errorf("check: %s version %d of %s: %d bytes, %v", role, e.Version, gun, len(raw), err)
		}
	}
}

// Start is the time at which the suite begins.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

const app tuf.GUN = "registry.example/app"

// File makes a file whose content names everything given, and n, so that other
// arguments give other bytes. It expires three days after [Start].
func File(gun tuf.GUN, role tuf.RoleName, version int64, n int) storage.NewFile {
	raw := fmt.Appendf(nil, `{"gun":%q,"role":%q,"version":%d,"n":%d}`, gun, role, version, n)
	return storage.NewFile{File: tuf.File{Role: role, Version: version, Raw: raw}, Expires: Start.Add(72 * time.Hour)}
}

// Files makes a file of each of the four top-level roles.
func Files(gun tuf.GUN, version int64, n int) []storage.NewFile {
	var files []storage.NewFile
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		files = append(files, File(gun, role, version, n))
	}
	return files
}

// Listing makes a targets file of that many tags, in the size and with the
// kind of content that a real one has. The version and the tag it touches are
// all that differs between two with the same seed and number of tags.
func Listing(tags int, version int64, seed uint64) storage.NewFile {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	b.WriteString(`{"signed":{"_type":"Targets","delegations":{"keys":{},"roles":[]},"expires":"2029-03-01T12:00:00Z","targets":{`)
	var digest [32]byte
	for i := range tags {
		for j := 0; j < len(digest); j += 8 {
			n := r.Uint64()
			if int64(i) == version%int64(tags) { // the tag that this version moved
				n += uint64(version)
			}
			for k := range 8 {
				digest[j+k] = byte(n >> (8 * k))
			}
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"v%d.%d":{"hashes":{"sha256":"%s"},"length":%d}`, i/100, i%100, base64.StdEncoding.EncodeToString(digest[:]), 500+i%977)
	}
	sig := sha256.Sum256(fmt.Appendf(nil, "%d %d", seed, version))
	fmt.Fprintf(&b, `},"version":%d},"signatures":[{"keyid":"%x","method":"ecdsa","sig":"%s"}]}`, version, sig[:], base64.StdEncoding.EncodeToString(append(sig[:], sig[:]...)))
	return storage.NewFile{File: tuf.File{Role: tuf.RoleTargets, Version: version, Raw: []byte(b.String())}, Expires: Start.Add(72 * time.Hour)}
}

func hash(f storage.NewFile) [32]byte { return sha256.Sum256(f.Raw) }

func hexHash(f storage.NewFile) string {
	h := hash(f)
	return hex.EncodeToString(h[:])
}

// commit commits what must succeed.
func commit(t *testing.T, s storage.Store, gun tuf.GUN, base *storage.State, now time.Time, files ...storage.NewFile) *storage.State {
	t.Helper()
	state, err := s.Commit(t.Context(), gun, base, files, nil, now, nil)
	if err != nil {
		t.Fatalf("Commit(%s) = %v", gun, err)
	}
	unchanged(t, s, gun, state)
	return state
}

// unchanged fails the test if the state of gun is not want (nil: none).
func unchanged(t *testing.T, s storage.Store, gun tuf.GUN, want *storage.State) {
	t.Helper()
	got, err := s.Current(t.Context(), gun)
	if want == nil && errors.Is(err, storage.ErrNotFound) {
		return
	}
	if err != nil {
		t.Fatalf("Current(%s) = %v", gun, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("state of %s (-want +got):\n%s", gun, d)
	}
}

// readable fails the test unless f can be read by hash and by version.
func readable(t *testing.T, s storage.Store, gun tuf.GUN, f storage.NewFile, created time.Time) {
	t.Helper()
	for how, read := range reads(t, s, gun, f) {
		raw, at, err := read()
		if err != nil || string(raw) != string(f.Raw) || !at.Equal(created) {
			t.Errorf("%s version %d of %s by %s: %d bytes of %v, %v; want %d bytes of %v", f.Role, f.Version, gun, how, len(raw), at, err, len(f.Raw), created)
		}
	}
}

// gone fails the test unless f is found neither by hash nor by version.
func gone(t *testing.T, s storage.Store, gun tuf.GUN, f storage.NewFile) {
	t.Helper()
	for how, read := range reads(t, s, gun, f) {
		if raw, _, err := read(); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s version %d of %s by %s: %d bytes, %v; want ErrNotFound", f.Role, f.Version, gun, how, len(raw), err)
		}
	}
}

func reads(t *testing.T, s storage.Store, gun tuf.GUN, f storage.NewFile) map[string]func() ([]byte, time.Time, error) {
	return map[string]func() ([]byte, time.Time, error){
		"hash":    func() ([]byte, time.Time, error) { return s.Blob(t.Context(), gun, f.Role, hash(f)) },
		"version": func() ([]byte, time.Time, error) { return s.Version(t.Context(), gun, f.Role, f.Version) },
	}
}
