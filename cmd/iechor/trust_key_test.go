package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

func TestCheckKeyName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"alice", "0", "build-server_2", strings.Repeat("a", maxKeyName), "delegation", "signer"} {
		if err := checkKeyName(good); err != nil {
			t.Errorf("checkKeyName(%.20q) = %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "Alice", "-a", "_a", "a.b", "a/b", "targets/a", "a b", "a\n", "ä", "\x1b[31m", strings.Repeat("a", maxKeyName+1),
		"root", "targets", "snapshot", "timestamp", "releases",
	} {
		err := checkKeyName(bad)
		if err == nil {
			t.Errorf("checkKeyName(%.20q) takes it", bad)
			continue
		}
		if sentence, hints, exit := explain(err); exit != exitCannot || len(hints) == 0 || strings.Contains(sentence, "\x1b") {
			t.Errorf("checkKeyName(%.20q) is explained as %q, %q, %d", bad, sentence, hints, exit)
		}
	}
}

func TestFindKey(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := keys.NewMemory()
	t.Cleanup(func() { _ = store.Close() })
	var ids []tuf.CanonicalID
	for range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		info, err := store.Import(ctx, keys.Info{Role: "alice"}, key)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	d := &desk{app: &app{}, keys: keys.Ring{store, store}} // the same key in two places is one
	for _, id := range []string{string(ids[0]), ids[0].Short(), strings.ToUpper(string(ids[0][:9])), " " + string(ids[0]) + "\n"} {
		if k, err := d.findKey(ctx, id); err != nil || k.ID != ids[0] {
			t.Errorf("findKey(%q) = %v, %v, want %s", id, k.ID, err, ids[0])
		}
	}
	for _, id := range []string{"", string(ids[0][:6]), "nonsense", string(ids[0]) + "0", strings.Repeat("0", 64), "../" + string(ids[0])} {
		if k, err := d.findKey(ctx, id); err == nil {
			t.Errorf("findKey(%q) = %s", id, k.ID)
		}
	}
}

// A key is the last one if those that are here are enough for the role, and no
// longer are without it.
func TestOnlyWith(t *testing.T) {
	t.Parallel()
	var public []tuf.PublicKey
	for range 3 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k, err := tuf.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		public = append(public, k)
	}
	id := public[0].CanonicalID()
	for _, test := range []struct {
		name      string
		threshold int
		here      []int
		want      bool
	}{
		{"the only one of 1", 1, []int{0}, true},
		{"one of 2, 1 needed", 1, []int{0, 1}, false},
		{"one of 2, 2 needed", 2, []int{0, 1}, true},
		{"one of 3, 2 needed", 2, []int{0, 1, 2}, false},
		{"too few already", 2, []int{0}, false},
		{"it is not here", 1, []int{1}, false},
	} {
		here := map[tuf.CanonicalID]bool{}
		for _, i := range test.here {
			here[public[i].CanonicalID()] = true
		}
		role := tuf.NewRole(tuf.RoleTargets, test.threshold, public...)
		if got := onlyWith(role, id, here); got != test.want {
			t.Errorf("%s: onlyWith = %v, want %v", test.name, got, test.want)
		}
	}
}

func TestShortGUN(t *testing.T) {
	t.Parallel()
	for gun, want := range map[tuf.GUN]string{
		"":                            "",
		"registry.example.com/team/a": "...try.example.com/team/a",
		"localhost:5000/app":          "localhost:5000/app",
	} {
		if got := shortGUN(gun); got != want {
			t.Errorf("shortGUN(%q) = %q, want %q", gun, got, want)
		}
	}
}
