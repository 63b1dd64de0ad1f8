package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func response(e *Error) *http.Response {
	w := httptest.NewRecorder()
	WriteError(w, e)
	return w.Result()
}

// The bodies are those of the stock server, byte for byte.
func TestWriteError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    *Error
		status int
		body   string
	}{
		{NewError(MetadataNotFound, nil), 404, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist."}]}`},
		{NewError(MetadataNotFound, Empty{}), 404, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":{}}]}`},
		{NewError(Version, Empty{}), 400, `{"errors":[{"code":"VERSION","message":"A newer version of metadata is already available.","detail":{}}]}`},
		{NewError(InvalidRole, "bogus"), 400, `{"errors":[{"code":"INVALID_ROLE","message":"The role you are attempting to operate on is invalid.","detail":"bogus"}]}`},
		{NewError(MalformedJSON, nil), 400, `{"errors":[{"code":"MALFORMED_JSON","message":"JSON sent by the client could not be parsed by the server"}]}`},
		{NewError(NoFilename, nil), 400, `{"errors":[{"code":"NO_FILENAME","message":"No file/role name provided."}]}`},
		{NewError(MalformedUpload, nil), 400, `{"errors":[{"code":"MALFORMED_UPLOAD","message":"The body of your request is malformed."}]}`},
		{NewError(InvalidUpdate, &Invalid{Fault: BadRoot, Msg: "Root modifications must increment the version. Current 1, new 5"}), 400, `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrBadRoot","Error":{"Msg":"Root modifications must increment the version. Current 1, new 5"}}}]}`},
		{NewError(InvalidUpdate, &Invalid{Fault: BadHierarchy, Missing: "snapshot", Msg: "m"}), 400, `{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrBadHierarchy","Error":{"Missing":"snapshot","Msg":"m"}}}]}`},
		{NewError(InvalidGUN, "Require GUNs with prefix: [a/ b/]"), 400, `{"errors":[{"code":"INVALID_GUN","message":"The server does not support actions on images of this name.","detail":"Require GUNs with prefix: [a/ b/]"}]}`},
		{NewError(TooLarge, nil), 413, `{"errors":[{"code":"TOO_LARGE","message":"The upload is larger than the server accepts."}]}`},
		{NewError(Unknown, nil), 500, `{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}`},
	} {
		r := response(c.err)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != c.status || string(body) != c.body+"\n" {
			t.Errorf("WriteError(%v) = %d %s, want %d %s", c.err, r.StatusCode, body, c.status, c.body)
		}
		if got := r.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("WriteError(%v) has the content type %q", c.err, got)
		}
	}
}

func TestErrorBodyIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é<\x01", 2000)
	for _, e := range []*Error{
		NewError(InvalidUpdate, &Invalid{Fault: BadTargets, Msg: long}),
		NewError(InvalidRole, long),
		NewError(Unauthorized, []string{long}),
		{Status: 400, Code: InvalidUpdate, Message: long},
		NewError(Unknown, func() {}), // cannot be encoded
	} {
		r := response(e)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > MaxErrorBody || !json.Valid(body) {
			t.Errorf("WriteError(%s, long detail) wrote %d bytes: %s", e.Code, len(body), body)
		}
		if !strings.Contains(string(body), string(e.Code)) {
			t.Errorf("WriteError(%s) lost the code: %s", e.Code, body)
		}
	}
	r := response(NewError(InvalidUpdate, &Invalid{Fault: BadTargets, Msg: long}))
	var v *Invalid
	if e := ReadError(r); !errors.As(e, &v) || v.Fault != BadTargets || !strings.HasPrefix(v.Msg, "é<") || !strings.HasSuffix(v.Msg, "…") {
		t.Errorf("a cut message reads as %v, want the fault and the beginning of the text", e)
	}
}

func TestReadError(t *testing.T) {
	t.Parallel()
	want := NewError(InvalidUpdate, &Invalid{Fault: BadHierarchy, Missing: "snapshot", Msg: "no key"})
	if d := cmp.Diff(want, ReadError(response(want))); d != "" {
		t.Errorf("ReadError (-want +got):\n%s", d)
	}
	denied := NewError(Unauthorized, nil)
	denied.Challenge = `Bearer realm="https://auth.example/token"`
	if d := cmp.Diff(denied, ReadError(response(denied))); d != "" {
		t.Errorf("ReadError (-want +got):\n%s", d)
	}
	for name, body := range map[string]io.Reader{
		"empty": strings.NewReader(""), "html": strings.NewReader("<html>"), "null": strings.NewReader("null"),
		"no code": strings.NewReader(`{"errors":[{}]}`), "none": strings.NewReader(`{"errors":[]}`),
		"broken":  iotest.ErrReader(errors.New("reset")),
		"endless": io.MultiReader(strings.NewReader(`{"errors":[{"code":"VERSION","message":"`), strings.NewReader(strings.Repeat("x", 1<<20))),
	} {
		counted := &countingReader{r: body}
		got := ReadError(&http.Response{StatusCode: 502, Body: io.NopCloser(counted)})
		if d := cmp.Diff(&Error{Status: 502}, got); d != "" {
			t.Errorf("ReadError(%s) (-want +got):\n%s", name, d)
		}
		if counted.n > MaxErrorBody {
			t.Errorf("ReadError(%s) read %d bytes, want at most %d", name, counted.n, MaxErrorBody)
		}
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// The id of a request is taken from what a server says of its own failure, if
// it can be shown to people as it is.
func TestRequestID(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status       int
		detail, want string
	}{
		{500, `{"Request":"0123456789abcdef"}`, "0123456789abcdef"},
		{503, `{"Request":"a-b_c.D"}`, "a-b_c.D"},
		{404, `{"Request":"0123456789abcdef"}`, ""},
		{500, `{"Request":"a\u001b[31m"}`, ""},
		{500, `{"Request":"a b"}`, ""},
		{500, `{"Request":"` + strings.Repeat("a", 65) + `"}`, ""},
		{500, `{"Request":7}`, ""},
		{500, `["x"]`, ""},
	} {
		r := &http.Response{StatusCode: tt.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"UNKNOWN","message":"m","detail":` + tt.detail + `}]}`))}
		if got := ReadError(r).RequestID(); got != tt.want {
			t.Errorf("RequestID of %d %s = %q, want %q", tt.status, tt.detail, got, tt.want)
		}
	}
}
