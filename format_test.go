package trust

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// shown returns the lines of doc/format.md that stand in fenced blocks and
// begin with a word and two spaces at least, by block and word.
func shown(t *testing.T, doc string) []map[string]string {
	t.Helper()
	line := regexp.MustCompile(`^([a-z]+) {2,}(.*)$`)
	var blocks []map[string]string
	inside := false
	for _, l := range strings.Split(doc, "\n") {
		if strings.HasPrefix(l, "```") {
			if inside = !inside; inside {
				blocks = append(blocks, map[string]string{})
			}
			continue
		}
		if m := line.FindStringSubmatch(l); inside && m != nil {
			blocks[len(blocks)-1][m[1]] = m[2]
		}
	}
	return blocks
}

// TestFormatExamples runs the examples of doc/format.md.
func TestFormatExamples(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("doc/format.md")
	if err != nil {
		t.Fatal(err)
	}
	var plain, signed bool
	for _, b := range shown(t, string(raw)) {
		switch {
		case b["given"] != "":
			plain = true
			got, err := tuf.Canonical([]byte(b["given"]))
			if err != nil || string(got) != b["canonical"] {
				t.Errorf("Canonical(%s) = %s, %v; the document says %s", b["given"], got, err, b["canonical"])
			}
			file, err := tuf.Envelope(got)
			if want := `{"signed":` + b["file"] + `,"signatures":[]}`; err != nil || string(file) != want {
				t.Errorf("Envelope(%s) = %s, %v; the document says %s", got, file, err, want)
			}
		case b["key"] != "":
			signed = true
			var k tuf.PublicKey
			if err := json.Unmarshal([]byte(b["key"]), &k); err != nil || string(k.ID()) != b["id"] || string(k.CanonicalID()) != b["id"] {
				t.Errorf("the key's ids are %s and %s, %v; the document says %s", k.ID(), k.CanonicalID(), err, b["id"])
			}
			m, err := tuf.VerifyFile([]byte(b["file"]), tuf.NewRole(tuf.RoleTimestamp, 1, k), tuf.Options{})
			if err != nil {
				t.Fatalf("VerifyFile: %v", err)
			}
			if !strings.HasPrefix(b["file"], `{"signed":`+string(m.Canonical)+`,"signatures":`) {
				t.Errorf("what is signed is %s", m.Canonical)
			}
		}
	}
	if !plain || !signed {
		t.Error("doc/format.md lacks an example")
	}
}

// TestFormatNumbers compares the limits, lives, paths and codes in
// doc/format.md with those of the code.
func TestFormatNumbers(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("doc/format.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(raw)), " ")
	size := func(n int64) string {
		if n >= 1<<20 {
			return fmt.Sprintf("%d MiB", n>>20)
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	days := func(d time.Duration) string { return fmt.Sprintf("%d days", d/(24*time.Hour)) }
	l, up := tuf.DefaultLimits(), api.DefaultLimits()
	want := []string{
		fmt.Sprintf("| root, timestamp, snapshot, targets or delegation | %s, %s, %s, %s |", size(l.Root), size(l.Timestamp), size(l.Snapshot), size(l.Targets)),
		fmt.Sprintf("| all files of one walk, fetched or kept | %s |", size(l.Total)),
		fmt.Sprintf("| delegations visited in one walk | %d |", l.Roles),
		fmt.Sprintf("| root versions followed in one walk | %d |", l.Rotations),
		fmt.Sprintf("| signatures of one file; JSON levels; certificates of a key | %d;", l.Signatures),
		fmt.Sprintf("| body of a key endpoint; of an error | %s; %d |", size(api.MaxKeyBody), api.MaxErrorBody),
		fmt.Sprintf("| upload, its parts, the name of a part | %s, %d,", size(up.Request), up.Parts),
		"| root | the owner | " + days(tuf.RootLifetime) + " |",
		"| targets, delegations | publishers | " + days(tuf.TargetsLifetime) + " |",
		fmt.Sprintf("0 means %d, at most %d are given", api.DefaultChanges, api.MaxChanges),
	}
	for _, r := range []api.Route{
		{Kind: api.Ping}, {Kind: api.Repository}, {Kind: api.FileCurrent, Role: "ROLE"}, {Kind: api.Key, Role: "ROLE"},
		{Kind: api.Changefeed}, {Kind: api.AllChanges}, {Kind: api.Health}, {Kind: api.Metrics},
	} {
		r.GUN = "GUN"
		want = append(want, r.Path()+"`")
	}
	for _, c := range []api.Code{
		api.MetadataNotFound, api.InvalidGUN, api.MalformedUpload, api.NoFilename, api.InvalidRole, api.MalformedJSON,
		api.TooLarge, api.InvalidUpdate, api.Version, api.Updating, api.InvalidParameters, api.Unauthorized, api.Unknown,
	} {
		want = append(want, fmt.Sprintf("| `%s` | %d |", c, api.NewError(c, nil).Status))
	}
	for _, f := range []api.Fault{api.BadValidation, api.BadHierarchy, api.BadRoot, api.BadTargets, api.BadSnapshot} {
		want = append(want, "`"+string(f)+"`")
	}
	paths, err := os.ReadFile("signer/wire.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`= "(/v1/[a-z-]+)"`).FindAllStringSubmatch(string(paths), -1)
	if len(calls) < 4 {
		t.Errorf("signer/wire.go has %d calls", len(calls))
	}
	for _, m := range calls {
		want = append(want, m[1]+"` |")
	}
	for _, w := range want {
		if !strings.Contains(doc, w) {
			t.Errorf("doc/format.md does not say %q", w)
		}
	}
}
