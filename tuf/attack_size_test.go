package tuf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// attacks.md D7, L2: whoever signs targets can list very many delegations,
// keys and paths. The time that this takes others grows with the size of the
// file, and not with its square: here, that would be a hundred times as long.
func TestAttackManyNames(t *testing.T) {
	t.Parallel()
	ids := func(n int, seed uint64) (keys tuftest.Object, list []any) {
		keys = tuftest.Object{}
		for i := range n {
			k := tuf.PublicKey{Type: tuf.Ed25519, Bytes: make([]byte, 32)}
			binary.BigEndian.PutUint64(k.Bytes, seed)
			binary.BigEndian.PutUint64(k.Bytes[8:], uint64(i))
			keys[string(k.ID())] = tuftest.KeyObject(k)
			list = append(list, string(k.ID()))
		}
		return keys, list
	}
	paths := func(n int) (list []any) {
		for i := range n {
			list = append(list, fmt.Sprintf("%x", i*7919))
		}
		return list
	}
	alice := signer(t, tuftest.New(t, gun, tuftest.Delegation(tuf.RoleReleases, "")), tuf.RoleReleases)
	for name, make := range map[string]func(round uint64) tuftest.Object{
		"delegations": func(uint64) tuftest.Object {
			var roles []any
			for i := range 60_000 {
				roles = append(roles, tuftest.Object{"keyids": []any{}, "name": fmt.Sprintf("targets/a%d", i), "threshold": 1})
			}
			return tuftest.Object{"keys": tuftest.Object{}, "roles": roles}
		},
		"keys": func(round uint64) tuftest.Object {
			keys, list := ids(20_000, round)
			id := string(alice.PublicKey().ID())
			keys[id] = tuftest.KeyObject(alice.PublicKey())
			return tuftest.Object{"keys": keys, "roles": []any{
				tuftest.Object{"keyids": append(list, id), "name": "targets/releases", "threshold": 1, "paths": []any{""}},
			}}
		},
		"paths": func(uint64) tuftest.Object {
			id := string(alice.PublicKey().ID())
			return tuftest.Object{"keys": tuftest.Object{id: tuftest.KeyObject(alice.PublicKey())}, "roles": []any{
				tuftest.Object{"keyids": []any{id}, "name": "targets/releases", "threshold": 1, "paths": paths(80_000)},
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := tuftest.New(t, gun, tuftest.Delegation(tuf.RoleReleases, ""), tuftest.Changes(tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "x")}))
			var past *tuf.Past
			for round := range uint64(2) {
				targets := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) { p["delegations"] = make(round) }).Current[tuf.RoleTargets]
				releases := tuftest.Reseal(t, repo.Files().Current[tuf.RoleReleases], func(p tuftest.Object) {
					p["delegations"] = tuftest.Object{"keys": tuftest.Object{}, "roles": []any{
						tuftest.Object{"keyids": []any{}, "name": "targets/releases/x", "threshold": 1, "paths": paths(80_000)},
					}}
				}, alice)
				files := repo.Swap(t, map[tuf.RoleName][]byte{
					tuf.RoleTargets: targets, tuf.RoleReleases: releases, "targets/releases/x": repo.Files().Current[tuf.RoleReleases],
				})
				// To read the files is the measure, whatever machine this is.
				start := time.Now()
				for role, raw := range map[tuf.RoleName][]byte{tuf.RoleTargets: targets, tuf.RoleReleases: releases} {
					if _, err := tuf.NewFile(role, raw); err != nil {
						t.Fatal(err)
					}
				}
				read := time.Since(start)
				start = time.Now()
				s, err := tuftest.Walk(past, files, repo.Now())
				if err != nil {
					t.Fatal(err)
				}
				if d := time.Since(start); d > 40*read {
					t.Errorf("round %d took %s, and to read the files %s", round, d, read)
				}
				past = s.Past()
				for range 2 {
					repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets}, tuf.Resign{Role: tuf.RoleReleases})
				}
			}
		})
	}
}

// attacks.md L2: a state that grows bit by bit, so that each update fetches
// little, is refused by whoever has followed it, too.
func TestAttackGrowingState(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	size := 0
	for _, f := range past.Files() {
		size += len(f.Raw)
	}
	repo.Publish(t, tuf.Resign{Role: tuf.RoleReleases})
	o := tuf.Options{Now: repo.Now(), Limits: tuf.Limits{Total: int64(size + 1000)}}
	if _, _, err := tuftest.WalkWith(past, repo.Files(), o); err != nil {
		t.Errorf("a state within the limit: %v", err)
	}
	targets, _ := repo.Set(t).File(tuf.RoleTargets)
	o.Limits.Total = int64(size - len(past.Root().Raw) - len(targets.Raw)/2)
	for _, p := range []*tuf.Past{nil, past} {
		if _, _, err := tuftest.WalkWith(p, repo.Files(), o); !errors.Is(err, tuf.ErrLimit) {
			t.Errorf("a state beyond the limit, with something kept %t: %v, want ErrLimit", p != nil, err)
		}
	}
}
