package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

// file is well formed and signed by nobody who matters.
func file(role tuf.RoleName, version int64) tuf.File {
	payload := fmt.Sprintf(`{"_type":"Targets","delegations":{"keys":{},"roles":[]},"expires":"2036-11-19T10:36:14Z","targets":{},"version":%d}`, version)
	raw := fmt.Sprintf(`{"signed":%s,"signatures":[{"keyid":"%s","method":"ecdsa","sig":"AAAA"}]}`, payload, strings.Repeat("ab", 32))
	return tuf.File{Role: role, Version: version, Raw: []byte(raw)}
}

func upload(body io.Reader, contentType string) *http.Request {
	r := httptest.NewRequest("POST", "/v2/a/_trust/tuf/", body)
	r.Header.Set("Content-Type", contentType)
	return r
}

func TestFilesRoundTrip(t *testing.T) {
	t.Parallel()
	want := []tuf.File{file("targets", 3), file("targets/a/releases", 1)}
	var b bytes.Buffer
	ct, err := WriteFiles(&b, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadFiles(httptest.NewRecorder(), upload(&b, ct), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ReadFiles(WriteFiles(files)) (-want +got):\n%s", d)
	}
}

func part(disposition, content string) string {
	return "--b\r\nContent-Disposition: " + disposition + "\r\nContent-Type: application/octet-stream\r\n\r\n" + content + "\r\n"
}

func named(role, content string) string {
	return part(`form-data; name="files"; filename="`+role+`"`, content)
}

func TestReadFilesRefuses(t *testing.T) {
	t.Parallel()
	good := string(file("targets", 3).Raw)
	for _, c := range []struct {
		name, body string
		want       Code
		status     int
	}{
		{"empty body", "", MalformedUpload, 400},
		{"wrong boundary", "--c\r\n\r\n--c--\r\n", MalformedUpload, 400},
		{"truncated part", named("targets", good)[:80], MalformedUpload, 400},
		{"no last boundary", named("targets", good), MalformedUpload, 400},
		{"broken header", "--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n", MalformedUpload, 400},
		{"no disposition", "--b\r\nX: y\r\n\r\nx\r\n--b--\r\n", NoFilename, 400},
		{"no file name", part(`form-data; name="files"`, good) + "--b--\r\n", NoFilename, 400},
		{"bad role", named("bogus", good) + "--b--\r\n", InvalidRole, 400},
		{"base role below targets", named("targets/../root", good) + "--b--\r\n", InvalidRole, 400},
		{"two suffixes", named("targets.json.json", good) + "--b--\r\n", InvalidRole, 400},
		{"huge role", named("targets/"+strings.Repeat("a", 4000), good) + "--b--\r\n", InvalidRole, 400},
		{"not JSON", named("targets", "hello") + "--b--\r\n", MalformedJSON, 400},
		{"trailing bytes", named("targets", good+"{}") + "--b--\r\n", MalformedJSON, 400},
		{"empty file", named("targets", "") + "--b--\r\n", MalformedJSON, 400},
		{"role twice", named("targets", good) + named("targets.json", good) + "--b--\r\n", MalformedUpload, 400},
		{"file too large", named("timestamp", strings.Repeat(" ", 3000)) + "--b--\r\n", TooLarge, 413},
		{"too many parts", named("targets", good) + named("targets/a", good) + named("targets/b", good) + "--b--\r\n", TooLarge, 413},
		{"request too large", named("targets", good) + named("targets/a", strings.Repeat(" ", 9000)) + "--b--\r\n", TooLarge, 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := Limits{Request: 8000, Parts: 2, Files: tuf.Limits{Timestamp: 2000}}
			for _, announced := range []bool{true, false} {
				body := io.Reader(strings.NewReader(c.body))
				if !announced {
					body = io.MultiReader(body) // hides the length
				}
				files, err := ReadFiles(httptest.NewRecorder(), upload(body, "multipart/form-data; boundary=b"), l)
				var e *Error
				if !errors.As(err, &e) || e.Code != c.want || e.Status != c.status {
					t.Errorf("ReadFiles = %v, %v; want %s", files, err, c.want)
				}
			}
		})
	}
	for _, ct := range []string{"", "application/json", "multipart/form-data"} {
		_, err := ReadFiles(httptest.NewRecorder(), upload(strings.NewReader("{}"), ct), Limits{})
		var e *Error
		if !errors.As(err, &e) || e.Code != MalformedUpload {
			t.Errorf("ReadFiles with content type %q = %v, want MALFORMED_UPLOAD", ct, err)
		}
	}
}

// TestReadFilesStopsEarly checks that an endless upload is not read to its end.
func TestReadFilesStopsEarly(t *testing.T) {
	t.Parallel()
	body := &countingReader{r: io.MultiReader(strings.NewReader(strings.TrimSuffix(named("targets", ""), "\r\n")), endless{})}
	_, err := ReadFiles(httptest.NewRecorder(), upload(body, "multipart/form-data; boundary=b"), Limits{Request: 1 << 20})
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("ReadFiles(endless) = %v, want 413", err)
	}
	if body.n > 1<<20+64<<10 {
		t.Errorf("ReadFiles read %d bytes of an endless upload", body.n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func FuzzReadFiles(f *testing.F) {
	good := string(file("targets", 3).Raw)
	f.Add(named("targets", good) + "--b--\r\n")
	f.Add(named("targets/a.json", good) + named("root", "{}") + "--b--")
	f.Add("--b\r\nContent-Disposition: form-data; filename*=utf-8''targets\r\n\r\n" + good + "\r\n--b--")
	f.Fuzz(func(t *testing.T, body string) {
		files, err := ReadFiles(httptest.NewRecorder(), upload(strings.NewReader(body), "multipart/form-data; boundary=b"), Limits{})
		if err != nil {
			if e := new(Error); !errors.As(err, &e) {
				t.Errorf("ReadFiles = %v, which is no *Error", err)
			}
			return
		}
		var b bytes.Buffer
		ct, err := WriteFiles(&b, files)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadFiles(httptest.NewRecorder(), upload(&b, ct), Limits{})
		if err != nil || !cmp.Equal(files, again) {
			t.Errorf("the files of an upload do not survive another one: %v", err)
		}
	})
}

// The stock client sends an upload without files when nothing is staged and the
// server signs the snapshot.
func TestReadNoFiles(t *testing.T) {
	t.Parallel()
	var body bytes.Buffer
	contentType, err := WriteFiles(&body, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", &body)
	r.Header.Set("Content-Type", contentType)
	if files, err := ReadFiles(httptest.NewRecorder(), r, Limits{}); err != nil || len(files) != 0 {
		t.Errorf("ReadFiles(no file) = %v, %v; want nothing", files, err)
	}
}
