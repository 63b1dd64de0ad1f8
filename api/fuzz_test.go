package api

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

// A server's time that is none is not repeated as it stands, nor at length.
func TestChangesErrorIsOneLine(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"\x7f", strings.Repeat("2026-", 10_000)} {
		_, err := DecodeChanges([]byte(`{"records":[{"CreatedAt":"` + at + `"}]}`))
		if err == nil || !strings.Contains(err.Error(), "parsing time") || strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 1000 {
			t.Errorf("DecodeChanges with the time %.30q = %.1000q, want a short line", at, err)
		}
	}
}

// What a client is answered, it understands in bounded form, and can say
// again; and a query for changes has bounds.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"count":1,"records":[{"ID":"7","CreatedAt":"2026-11-28T12:00:00Z","GUN":"a/b","Version":3,"SHA256":"ab","Category":"update"}]}`), "change_id=7&records=-5")
	f.Add([]byte("{\"records\":[{\"CreatedAt\":\"\x7f\"}]}"), "")
	f.Add([]byte(`{"errors":[{"code":"INVALID_UPDATE","message":"m","detail":{"Name":"ErrBadTargets","Error":{"Msg":"x"}}}]}`), "change_id=x&records=0")
	f.Add([]byte(`{"errors":[{"code":"`+strings.Repeat("<", 900)+`"}]}`), "")
	f.Add([]byte(`{"errors":[{"code":"VERSION","message":"m","detail":{}}]}`), "records=99999999999999999999&change_id=-1")
	f.Add([]byte(`{"keytype":"ecdsa","keyval":{"public":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgl3rzMPMEKhS1k/AX16MM4PdidpjJr+z4pj0Td+30QnpbOIARgpyR1PiFztU8BZlqG3cUazvFclr2q/xHvfrqw==","private":null}}`), "")
	f.Fuzz(func(t *testing.T, body []byte, query string) {
		oneLine := func(err error) {
			t.Helper()
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("%q answers %q", body, err)
			}
		}
		if changes, err := DecodeChanges(body); err != nil {
			oneLine(err)
		} else {
			raw, err := EncodeChanges(changes)
			if err != nil {
				t.Fatalf("EncodeChanges(%+v): %v", changes, err)
			}
			again, err := DecodeChanges(raw)
			if err != nil || !cmp.Equal(changes, again) {
				t.Errorf("%s became %s (%v)", body, raw, err)
			}
		}
		if k, err := DecodeKey(body); err != nil {
			if oneLine(err); !errors.Is(err, tuf.ErrMalformed) && !errors.Is(err, tuf.ErrKey) {
				t.Errorf("DecodeKey(%q) = %v", body, err)
			}
		} else {
			raw, err := EncodeKey(k)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := DecodeKey(raw); err != nil || !again.Equal(k) {
				t.Errorf("key %s became %s (%v)", body, raw, err)
			}
		}
		e := ReadError(&http.Response{StatusCode: http.StatusBadRequest, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body)))})
		if b := e.body(); len(b) > MaxErrorBody {
			t.Errorf("the error of %q is written in %d bytes", body, len(b))
		}

		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		q, err := ParseChangeQuery(values)
		if err != nil {
			if refused := new(Error); !errors.As(err, &refused) || refused.Status/100 != 4 {
				t.Errorf("ParseChangeQuery(%q) = %v", query, err)
			}
			return
		}
		if again, err := ParseChangeQuery(q.Values()); q.Limit < 0 || q.Limit > MaxChanges || err != nil || again != q {
			t.Errorf("ParseChangeQuery(%q) = %+v, and its values give %+v, %v", query, q, again, err)
		}
	})
}
