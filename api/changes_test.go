package api

import (
	"encoding/json"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseChangeQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]ChangeQuery{
		"records=3":                    {0, 3, false},
		"records=0":                    {0, 100, false},
		"records=2&change_id=7":        {7, 2, false},
		"records=-2":                   {0, 2, true},
		"records=-2&change_id=4":       {4, 2, true},
		"records=2&change_id=-1":       {0, 2, true},
		"records=-2147483648":          {0, MaxChanges, true},
		"records=2147483647&change_id": {0, MaxChanges, false},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseChangeQuery(v)
		if err != nil || got != want {
			t.Errorf("ParseChangeQuery(%s) = %+v, %v; want %+v", query, got, err, want)
		}
		if again, err := ParseChangeQuery(got.Values()); err != nil || again != got {
			t.Errorf("ParseChangeQuery(%v) = %+v, %v; want %+v", got.Values(), again, err, got)
		}
	}
	for query, detail := range map[string]any{
		"":                      `invalid records parameter: strconv.ParseInt: parsing "": invalid syntax`,
		"records=x":             `invalid records parameter: strconv.ParseInt: parsing "x": invalid syntax`,
		"records=2147483648":    `invalid records parameter: strconv.ParseInt: parsing "2147483648": value out of range`,
		"records=1&change_id=a": Empty{},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseChangeQuery(v)
		var e *Error
		if !errors.As(err, &e) || e.Code != InvalidParameters || e.Status != 400 {
			t.Errorf("ParseChangeQuery(%s) = %v, want INVALID_PARAMETERS", query, err)
			continue
		}
		if d := cmp.Diff(detail, e.Detail); d != "" {
			t.Errorf("ParseChangeQuery(%s) detail (-want +got):\n%s", query, d)
		}
	}
}

func TestEncodeChanges(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 10, 36, 14, 421903000, time.UTC)
	got, err := EncodeChanges([]ChangeRecord{{"1", at, "a/b", 1, "8e65", CategoryUpdate}})
	want := `{"count":1,"records":[{"ID":"1","CreatedAt":"2026-11-22T10:36:14.421903Z","GUN":"a/b","Version":1,"SHA256":"8e65","Category":"update"}]}`
	if err != nil || string(got) != want {
		t.Errorf("EncodeChanges = %s, %v; want %s", got, err, want)
	}
	if got, err := EncodeChanges(nil); err != nil || string(got) != `{"count":0,"records":[]}` {
		t.Errorf("EncodeChanges(nil) = %s, %v", got, err)
	}
	var list ChangeList
	if err := json.Unmarshal(got, &list); err != nil || list.Count != 1 || !list.Records[0].CreatedAt.Equal(at) {
		t.Errorf("Unmarshal(%s) = %+v, %v", got, list, err)
	}
}

func TestDecodeChanges(t *testing.T) {
	t.Parallel()
	want := []ChangeRecord{
		{"7", time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), "a.example/b", 3, "ab", CategoryUpdate},
		{"8", time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC), "a.example/b", 0, "", CategoryDeletion},
	}
	raw, err := EncodeChanges(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeChanges(raw)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("DecodeChanges = %v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "[]", `{"records":1}`, `{"records":[{"ID":"x","GUN":"a.example/b"}]}`, `{"records":[{"ID":"1","GUN":"../a"}]}`, `{"records":[{"ID":"1","GUN":"a\nb"}]}`} {
		if got, err := DecodeChanges([]byte(bad)); err == nil {
			t.Errorf("DecodeChanges(%s) = %v", bad, got)
		}
	}
}
