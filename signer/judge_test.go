package signer

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// The rules about versions, one by one.
func TestJudge(t *testing.T) {
	t.Parallel()
	meta := func(version int64) tuf.Meta { return tuf.Meta{Version: version, Canonical: []byte{byte(version)}} }
	onBase := func(timestamp, snapshot int64) *base { return &base{meta(timestamp), meta(snapshot)} }
	newSnapshot := func(version int64, b *base) *claim {
		return &claim{SignRequest: api.SignRequest{GUN: app, Role: tuf.RoleSnapshot}, payload: meta(version), base: b}
	}
	newTimestamp := func(version, names int64, b *base) *claim {
		s := meta(names)
		return &claim{SignRequest: api.SignRequest{GUN: app, Role: tuf.RoleTimestamp}, payload: meta(version), base: b, snapshot: &s}
	}
	// In order: timestamp signed, snapshot signed, timestamp confirmed, snapshot confirmed, snapshot named.
	own := floors{10, 20, 9, 19, 20}
	ownAsBase := &own
	const ts, sn = tuf.RoleTimestamp, tuf.RoleSnapshot

	for _, c := range []struct {
		what   string
		claim  *claim
		own    floors
		prover *floors
		want   floors // unless wantErr
		err    error
	}{
		{"first snapshot", newSnapshot(1, nil), floors{}, nil, floors{snapshotSigned: 1}, nil},
		{"first timestamp", newTimestamp(1, 1, nil), floors{0, 1, 0, 0, 0}, nil, floors{1, 1, 0, 0, 1}, nil},
		{"next snapshot", newSnapshot(21, onBase(10, 20)), own, ownAsBase, floors{10, 21, 10, 20, 20}, nil},
		{"next timestamp", newTimestamp(11, 21, onBase(10, 20)), own, ownAsBase, floors{11, 20, 10, 20, 21}, nil},
		{"renewal", newTimestamp(11, 20, onBase(10, 20)), own, ownAsBase, floors{11, 20, 10, 20, 20}, nil},
		{"the newest was never published", newTimestamp(11, 20, onBase(9, 19)), own, ownAsBase, floors{11, 20, 9, 19, 20}, nil},

		{"timestamp at the floor", newTimestamp(10, 20, onBase(9, 19)), own, ownAsBase, floors{}, &api.FloorError{Role: ts, Floor: 10}},
		{"snapshot at the floor", newSnapshot(20, onBase(9, 19)), own, ownAsBase, floors{}, &api.FloorError{Role: sn, Floor: 20}},
		{"timestamp at the base, above the floor", newTimestamp(15, 25, onBase(15, 25)), own, ownAsBase, floors{}, &api.FloorError{Role: ts, Floor: 15}},
		{"snapshot at the base, above the floor", newSnapshot(25, onBase(15, 25)), own, ownAsBase, floors{}, &api.FloorError{Role: sn, Floor: 25}},
		{"snapshot at one that a client signed", newSnapshot(20, onBase(9, 19)), floors{10, 0, 9, 19, 20}, ownAsBase, floors{}, &api.FloorError{Role: sn, Floor: 20}},
		{"names less than the base", newTimestamp(16, 24, onBase(15, 25)), own, ownAsBase, floors{}, &api.FloorError{Role: sn, Floor: 24}},
		{"names less than before", newTimestamp(11, 19, onBase(9, 19)), own, ownAsBase, floors{}, &api.FloorError{Role: sn, Floor: 19}},
		{"names less than nothing", newTimestamp(11, 19, onBase(9, 0)), floors{10, 20, 0, 0, 20}, nil, floors{}, &api.FloorError{Role: sn, Floor: 19}},

		{"base timestamp gone back", newTimestamp(11, 21, onBase(8, 20)), own, ownAsBase, floors{}, &api.RestoredError{Role: ts, Confirmed: 9, Base: 8}},
		{"base snapshot gone back", newTimestamp(11, 21, onBase(10, 18)), own, ownAsBase, floors{}, &api.RestoredError{Role: sn, Confirmed: 19, Base: 18}},
		{"base gone", newSnapshot(21, nil), own, nil, floors{}, &api.RestoredError{Role: ts, Confirmed: 9}},
		{"base timestamp gone back in the prover's incarnation", newTimestamp(1, 21, onBase(8, 20)), floors{}, ownAsBase, floors{}, &api.RestoredError{Role: ts, Confirmed: 9, Base: 8}},
		{"base snapshot gone back in the prover's incarnation", newTimestamp(11, 21, onBase(10, 18)), floors{}, ownAsBase, floors{}, &api.RestoredError{Role: sn, Confirmed: 19, Base: 18}},
		{"base of an earlier incarnation", newTimestamp(11, 21, onBase(10, 20)), floors{}, ownAsBase, floors{11, 0, 10, 20, 21}, nil},

		{"foreign base", newTimestamp(8, 4, onBase(7, 4)), floors{}, nil, floors{8, 0, 0, 0, 4}, nil},
		{"foreign base far ahead", newTimestamp(maxJump+2, 4, onBase(maxJump+1, 4)), floors{}, nil, floors{}, refuse("version 1000002 is more than 1000000 above the last one")},
		{"foreign base with a snapshot far ahead", newTimestamp(8, maxJump+1, onBase(7, maxJump+1)), floors{}, nil, floors{}, refuse("snapshot version 1000001 is more than 1000000 above the last one")},
		{"foreign base beside a confirmed one", newTimestamp(11, 21, onBase(10, 20)), own, nil, floors{}, refuse("the current timestamp is not signed by a key that this signer made for registry.example/app")},
	} {
		got, err := judge(c.claim, c.own, c.prover)
		if d := cmp.Diff(c.err, err); d != "" {
			t.Errorf("%s: error (-want +got):\n%s", c.what, d)
			continue
		}
		if c.err != nil {
			c.want = c.own // a refusal changes nothing
		}
		if got != c.want {
			t.Errorf("%s: floors = %+v, want %+v", c.what, got, c.want)
		}
	}
}
