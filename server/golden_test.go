package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// stockTime is when the stock server gave the answers in testdata/http.
var stockTime = time.Date(2026, 11, 22, 10, 36, 35, 0, time.UTC)

// stockKeys hold the keys of the stock server's signer by their public halves.
// They cannot sign.
type stockKeys struct {
	Keys
	held map[tuf.CanonicalID]bool
}

func (k stockKeys) Holds(_ context.Context, _ tuf.GUN, _ tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	return k.held[id], nil
}

// importStock publishes everything that the stock server had, publish by
// publish, at the times of its changefeed. Repositories that are not in
// testdata get files without meaning.
func importStock(t *testing.T, store storage.Store) stockKeys {
	t.Helper()
	keys := stockKeys{held: map[tuf.CanonicalID]bool{}}
	type file struct {
		role    tuf.RoleName
		version int64
		raw     []byte
	}
	blobs := map[tuf.GUN]map[[32]byte]file{}
	dirs, err := filepath.Glob("testdata/repos/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		name, err := os.ReadFile(filepath.Join(dir, "GUN"))
		if err != nil {
			t.Fatal(err)
		}
		files := map[[32]byte]file{}
		blobs[tuf.GUN(strings.TrimSpace(string(name)))] = files
		versions := os.DirFS(filepath.Join(dir, "versions"))
		if err := fs.WalkDir(versions, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := fs.ReadFile(versions, path)
			if err != nil {
				return err
			}
			number, base, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), ".")
			v, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				return err
			}
			role := base
			if d := filepath.Dir(path); d != "." {
				role = d + "/" + base
			}
			files[sha256.Sum256(raw)] = file{tuf.RoleName(role), v, raw}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"timestamp.key", "snapshot.key"} {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue // not every repository has it
			}
			k, err := api.DecodeKey(raw)
			if err != nil {
				t.Fatal(err)
			}
			// A repository whose client signs snapshots got a key that it
			// never used.
			if !(name == "snapshot.key" && strings.Contains(dir, "local-snapshot")) {
				keys.held[k.CanonicalID()] = true
			}
		}
	}
	list, err := os.Open("testdata/changefeed.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	rows, err := csv.NewReader(list).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	states := map[tuf.GUN]*storage.State{}
	for _, row := range rows {
		at, err := time.Parse("2006-01-02 15:04:05.999999", row[1])
		if err != nil {
			t.Fatal(err)
		}
		gun := tuf.GUN(row[2])
		version, err := strconv.ParseInt(row[3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		var files []storage.NewFile
		add := func(sum []byte) (meta map[tuf.RoleName]tuf.FileMeta) {
			f, ok := blobs[gun][[32]byte(sum)]
			if !ok {
				t.Fatalf("%s: no file with the hash %x", gun, sum)
			}
			m, err := tuf.Outline(f.role, f.raw, tuf.Options{Now: at})
			if err != nil {
				t.Fatal(err)
			}
			if s := states[gun]; s == nil || s.Roles[f.role].Version < f.version {
				files = append(files, storage.NewFile{File: tuf.File{Role: f.role, Version: f.version, Raw: f.raw}, Expires: m.Expires})
			}
			return m.Files
		}
		if blobs[gun] == nil {
			raw := fmt.Appendf(nil, "%s %d", gun, version)
			files = []storage.NewFile{{File: tuf.File{Role: tuf.RoleTimestamp, Version: version, Raw: raw}, Expires: at.Add(time.Hour)}}
		} else {
			sum, err := hex.DecodeString(row[4])
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range add(sum) {
				for _, m := range add(s.SHA256()) {
					add(m.SHA256())
				}
			}
		}
		if states[gun], err = store.Commit(t.Context(), gun, states[gun], files, nil, at, nil); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

// A recorded answer of the stock server, and how it was asked for.
type recorded struct {
	method, path string
	parts        []string // of -F
	status       int
	header       http.Header
	body         string
}

func readRecorded(t *testing.T, name string) recorded {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	command, answer, _ := strings.Cut(string(raw), "\n")
	r := recorded{method: http.MethodGet}
	args := strings.Fields(command)[2:]
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-X":
			i++
			r.method = args[i]
		case args[i] == "-I":
			r.method = http.MethodHead
		case args[i] == "-F":
			i++
			r.method = http.MethodPost
			r.parts = append(r.parts, args[i])
		default:
			r.path = strings.TrimPrefix(args[i], "https://127.0.0.1:14102")
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(strings.Replace(answer, "Transfer-Encoding: chunked\r\n", "", 1))), &http.Request{Method: r.method})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && err != io.ErrUnexpectedEOF {
		t.Fatalf("%s: %v", name, err)
	}
	r.status, r.header, r.body = resp.StatusCode, resp.Header, string(body)
	return r
}

// send repeats the request of a recording.
func (r recorded) send(t *testing.T, w *world) *http.Response {
	t.Helper()
	if r.parts == nil {
		return w.do(r.method, r.path, nil).Result()
	}
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for _, p := range r.parts {
		value, name, named := strings.Cut(strings.TrimPrefix(p, "files="), ";filename=")
		content := []byte(value)
		disposition := `form-data; name="files"`
		if named {
			disposition += `; filename="` + name + `"`
			content = r.file(t, strings.TrimPrefix(value, "@"))
		}
		part, err := m.CreatePart(textproto.MIMEHeader{"Content-Disposition": {disposition}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := part.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return w.do(r.method, r.path, b.Bytes(), "Content-Type", m.FormDataContentType()).Result()
}

// file returns the content that curl was told to send. What was current then
// is the newest version.
func (r recorded) file(t *testing.T, path string) []byte {
	t.Helper()
	if path == "notjson" {
		return []byte("notjson")
	}
	if repo, role, ok := strings.Cut(path, "/current/"); ok {
		for v := 20; v > 0; v-- {
			dir, base := filepath.Split(role)
			raw, err := os.ReadFile(filepath.Join("testdata", repo, "versions", dir, fmt.Sprintf("%d.%s", v, base)))
			if err == nil {
				return raw
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var somePublicKey = regexp.MustCompile(`"public":"[^"]*"`)

// TestGolden repeats requests that were made to the stock server, and compares
// the answers byte for byte.
func TestGolden(t *testing.T) {
	t.Parallel()
	// Where we answer otherwise, on purpose.
	better := map[string]struct {
		status int
		body   string
		why    string
	}{
		"version-zero":          {404, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":{}}]}` + "\n", "no file has version 0"},
		"delegation-bad-name":   {404, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":{}}]}` + "\n", "a role that nobody lists is not found"},
		"checksum-wrongrole":    {404, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":{}}]}` + "\n", "a file has one role"},
		"post-no-snapshot":      {400, `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrBadHierarchy","Error":{"Missing":"snapshot","Msg":"no snapshot was included in update and server does not hold current snapshot key for repository"}}}]}` + "\n", "what the stock server says with a local signer"},
		"post-client-timestamp": {400, `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrValidation","Error":{"Msg":"the timestamp is signed by the server and cannot be uploaded"}}}]}` + "\n", "attacks.md S14"},
	}
	store := openStore(t, filepath.Join(t.TempDir(), "server.db"))
	stock := importStock(t, store)
	c := &clock{now: stockTime}
	stock.Keys = openSigner(t, filepath.Join(t.TempDir(), "signer.db"), c.Now)
	w := &world{sql: store, clock: c, log: &lines{}}
	var err error
	if w.Server, err = New(Config{Store: store, Keys: stock, Auth: NoAuth{}, Now: c.Now}); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("testdata/http/*.txt")
	if err != nil || len(names) < 50 {
		t.Fatalf("%d recordings, %v", len(names), err)
	}
	for _, name := range names {
		short := strings.TrimSuffix(filepath.Base(name), ".txt")
		t.Run(short, func(t *testing.T) {
			t.Parallel()
			want := readRecorded(t, name)
			got := want.send(t, w)
			body, err := io.ReadAll(got.Body)
			if err != nil {
				t.Fatal(err)
			}
			if b, ok := better[short]; ok {
				if got.StatusCode != b.status || string(body) != b.body {
					t.Errorf("%s %s = %d %s\nwant %d %s(%s)", want.method, want.path, got.StatusCode, body, b.status, b.body, b.why)
				}
				return
			}
			have := string(body)
			if strings.HasPrefix(short, "key-") && short != "key-timestamp" {
				// New keys: the form must be the same.
				have, want.body = somePublicKey.ReplaceAllString(have, "KEY"), somePublicKey.ReplaceAllString(want.body, "KEY")
			}
			if want.method == http.MethodHead {
				have = ""
			}
			if got.StatusCode != want.status || have != strings.TrimSuffix(want.body, "\n") && have != want.body {
				t.Errorf("%s %s = %d %s\nwant %d %s", want.method, want.path, got.StatusCode, have, want.status, want.body)
			}
			for _, field := range []string{"Cache-Control", "Content-Type"} {
				if g, w := got.Header.Get(field), want.header.Get(field); g != w {
					t.Errorf("%s %s has %s %q, want %q", want.method, want.path, field, g, w)
				}
			}
			if m := want.header.Get("Last-Modified"); m != "" {
				if g := got.Header.Get("Last-Modified"); g != strings.Replace(m, "+0000", "GMT", 1) {
					t.Errorf("%s %s has Last-Modified %q, want %q", want.method, want.path, g, m)
				}
			}
		})
	}
}
