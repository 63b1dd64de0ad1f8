package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestSignRequestJSON(t *testing.T) {
	t.Parallel()
	want := SignRequest{
		GUN: "registry.example/app", Role: tuf.RoleTimestamp, Key: "ab",
		Payload: []byte("p"), Timestamp: []byte("t"), BaseSnapshot: []byte("b"), Snapshot: []byte("s"),
	}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"gun":"registry.example/app","role":"timestamp","key":"ab","payload":"cA==","timestamp":"dA==","base_snapshot":"Yg==","snapshot":"cw=="}`
	if string(raw) != text {
		t.Errorf("Marshal = %s, want %s", raw, text)
	}
	var got SignRequest
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("round trip (-want +got):\n%s", d)
	}
}

func TestSigningErrors(t *testing.T) {
	t.Parallel()
	var floor *FloorError
	err := fmt.Errorf("sign: %w", &FloorError{Role: tuf.RoleSnapshot, Floor: 7})
	if !errors.As(err, &floor) || floor.Floor != 7 {
		t.Errorf("errors.As(%v) found %+v, want a floor of 7", err, floor)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{floor, "the signer has already signed the snapshot up to version 7"},
		{&RestoredError{Role: tuf.RoleTimestamp, Confirmed: 9, Base: 4}, "the timestamp was published up to version 9, and the server presents version 4: an operator must say whether a backup was restored"},
		{&RestoredError{Role: tuf.RoleTimestamp, Confirmed: 9}, "the timestamp was published up to version 9, and the server presents none: an operator must say whether a backup was restored"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%T says %q, want %q", c.err, got, c.want)
		}
	}
}
