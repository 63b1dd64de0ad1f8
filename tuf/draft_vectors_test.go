package tuf

import (
	"testing"
	"time"
)

// An edit of a file of the stock programs that changes nothing leaves all but
// its version and expiry as it was, in the bytes that are signed and in the
// file (amendment 15).
func TestVectorsNoOpEdit(t *testing.T) {
	t.Parallel()
	for repo, want := range vectorRepos(t) {
		s, _, err := walkVector(t, repo, want.GUN, nil, Options{Now: vectorDay})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Files() {
			if f.Role == RoleSnapshot || f.Role == RoleTimestamp {
				continue
			}
			edits := [][]Change{{Resign{f.Role}}}
			if f.Role.HoldsTargets() {
				target := Target{Name: "no-op", Role: f.Role, FileMeta: FileMeta{Length: 1, Hashes: map[string][]byte{"sha256": make([]byte, 32)}}}
				if len(s.Paths(f.Role)) > 0 {
					target.Name = s.Paths(f.Role)[0] + "no-op"
					edits = append(edits, []Change{AddTarget{target}, RemoveTarget{f.Role, target.Name}})
				}
				for got := range s.Targets(f.Role) {
					edits = append(edits, []Change{AddTarget{got}, Resign{f.Role}})
				}
			}
			if f.Role == RoleRoot {
				for name, r := range s.docs[RoleRoot].roles {
					if name != RoleRoot { // its certificate may be for a pattern
						edits = append(edits, []Change{ReplaceKeys{r}, Resign{RoleRoot}})
					}
				}
			}
			for _, edit := range edits {
				d := s.Draft()
				for _, c := range edit { // one by one: together they may come to nothing
					if err := d.Apply(c); err != nil {
						t.Fatalf("%s/%s: %v", repo, f.Role, err)
					}
				}
				file := d.files[f.Role]
				if !file.changed {
					t.Errorf("%s/%s: %#v makes nothing be signed", repo, f.Role, edit)
				}
				expires := vectorDay.Add(time.Hour)
				was := s.o.Dialect.stamp(vectorPayload(t, f), f.Version+1, expires)
				now := s.o.Dialect.stamp(file.payload, f.Version+1, expires)
				if string(appendCanonical(nil, now)) != string(appendCanonical(nil, was)) {
					t.Errorf("%s/%s: %#v makes\n%s\nof\n%s", repo, f.Role, edit, appendCanonical(nil, now), appendCanonical(nil, was))
				}
				if string(envelope(now, nil)) != string(envelope(was, nil)) {
					t.Errorf("%s/%s: the file differs", repo, f.Role)
				}
			}
		}
	}
}

// vectorPayload decodes the payload of a file on its own.
func vectorPayload(t testing.TB, f File) node {
	t.Helper()
	top, err := parseJSON(f.Raw, maxDepth)
	if err != nil {
		t.Fatal(err)
	}
	signed, _ := top.get("signed")
	return signed
}
