package trust

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// two returns the owner of a repository, and another signer on another
// machine: both of them must sign targets/releases.
func two(t *testing.T, s *server) (alice, bob *client) {
	t.Helper()
	alice, bob = newClient(t, s), newClient(t, s)
	if _, err := alice.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	alice.publish(t, "1")
	edit := tuf.EditDelegation{Role: tuf.RoleReleases, AddPaths: []string{""}, Threshold: 2}
	for _, c := range []*client{alice, bob} {
		k, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: "signer"})
		if err != nil {
			t.Fatal(err)
		}
		edit.AddKeys = append(edit.AddKeys, k.PublicKey())
	}
	if _, err := alice.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) { return []tuf.Change{edit}, nil }); err != nil {
		t.Fatal(err)
	}
	return alice, bob
}

func released(tag string) Plan {
	return func(*tuf.Set) ([]tuf.Change, error) {
		x := target(tag)
		x.Role = tuf.RoleReleases
		return []tuf.Change{tuf.AddTarget{Target: x}}, nil
	}
}

// passed is a proposal as it arrives at the next signer.
func passed(t *testing.T, p Proposal) Proposal {
	t.Helper()
	raw, err := p.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ReadProposal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestProposal(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	alice, bob := two(t, s)
	_, err := alice.Publish(t.Context(), released("2"))
	wantErr(t, "Publish by one of two", err, tuf.ErrNoKey)

	p, err := alice.Propose(t.Context(), released("2"))
	if err != nil || len(p.Files) != 1 {
		t.Fatalf("Propose = %+v, %v", p, err)
	}
	p = passed(t, p)
	_, err = alice.PublishProposal(t.Context(), p)
	wantErr(t, "PublishProposal with one signature", err, tuf.ErrNoKey)
	looked, err := bob.Review(t.Context(), p)
	if err != nil || len(looked[0].Put) != 1 || looked[0].Put[0].Name != "2" || len(looked[0].Lacks) != 1 {
		t.Fatalf("Review = %+v, %v", looked, err)
	}
	if _, err := bob.Cosign(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	// The answer is lost: it is found out that the upload arrived.
	s.set(func() {
		s.after = func(string) error { s.after = nil; return &Unreachable{Host: s.host, Err: errors.New("lost")} }
	})
	done, err := bob.PublishProposal(t.Context(), passed(t, p))
	if err != nil || !slices.Contains(done.Files, tuf.RoleReleases) {
		t.Fatalf("PublishProposal = %+v, %v", done, err)
	}
	set, err := newClient(t, s).Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Lookup("2", tuf.RoleReleases); err != nil {
		t.Errorf("a consumer does not get it: %v", err)
	}
	_, err = bob.PublishProposal(t.Context(), p)
	wantErr(t, "PublishProposal again", err, tuf.ErrStale)
}

// Two proposals on one state: the second is void when the first is published.
func TestStaleProposal(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	alice, bob := two(t, s)
	first, err := alice.Propose(t.Context(), released("2"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := bob.Propose(t.Context(), released("3"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.Cosign(t.Context(), &first); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Cosign(t.Context(), &second); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.PublishProposal(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	_, err = alice.PublishProposal(t.Context(), second)
	wantErr(t, "the second", err, tuf.ErrStale)
	_, err = bob.Review(t.Context(), second)
	wantErr(t, "a look at the second", err, tuf.ErrStale)

	// What is published elsewhere does not matter.
	third, err := bob.Propose(t.Context(), released("3"))
	if err != nil {
		t.Fatal(err)
	}
	alice.publish(t, "4")
	if _, err := alice.Cosign(t.Context(), &third); err != nil {
		t.Errorf("after another role was published: %v", err)
	}
	if _, err := alice.PublishProposal(t.Context(), third); err != nil {
		t.Error(err)
	}
}

func TestReadProposal(t *testing.T) {
	t.Parallel()
	const good = `{"proposal":1,"gun":"registry.example/team/app","files":[{"role":"targets","base":"00","file":"e30="}]}`
	if _, err := ReadProposal([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another version":   {`"proposal":1`, `"proposal":2`},
		"no repository":     {"registry.example/team/app", "../x"},
		"an unknown role":   {`"targets"`, `"Targets"`},
		"a bad base":        {`"00"`, `"0"`},
		"more":              {`"proposal":1`, `"proposal":1,"more":1`},
		"a member twice":    {`"proposal":1`, `"proposal":1,"proposal":1`},
		"no files":          {`{"role":"targets","base":"00","file":"e30="}`, ``},
		"a file of no kind": {`"e30="`, `"?"`},
		"data behind it":    {`]}`, `]} {}`},
	} {
		_, err := ReadProposal([]byte(strings.Replace(good, change[0], change[1], 1)))
		if !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("%s = %v, want %v", name, err, tuf.ErrMalformed)
		}
	}
	c := newClient(t, newServer(newClock()))
	_, err := c.Review(t.Context(), Proposal{GUN: "registry.example/other"})
	wantErr(t, "Review of another repository", err, ErrOtherRepository)
}

func FuzzReadProposal(f *testing.F) {
	f.Add([]byte(`{"proposal":1,"gun":"a/b","files":[{"role":"targets","base":"00","file":"e30="}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ReadProposal(raw)
		if err != nil {
			if !errors.Is(err, tuf.ErrMalformed) {
				t.Errorf("%v is not about the proposal", err)
			}
			oneLine(t, raw, err)
			return
		}
		passed(t, p)
	})
}
