package traces

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzHeaders: whatever a request says of itself, its id is a short plain word
// in every log and header; and a collector's address has no secret in it.
func FuzzHeaders(f *testing.F) {
	f.Add("abc-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "https://collector.example:4318")
	f.Add("\x1b[31m\n", "00-00000000000000000000000000000000-0000000000000000-zz", "http://u:p@h/")
	f.Add(strings.Repeat("x", 65), "ff-x", "://")
	f.Fuzz(func(t *testing.T, id, parent, endpoint string) {
		ctx, got := Receive(t.Context(), http.Header{IDHeader: {id}, ParentHeader: {parent}})
		if !plain(got) || ID(ctx) != got || plain(id) && got != id {
			t.Errorf("a request that calls itself %q is called %q", id, got)
		}
		on := http.Header{}
		Forward(ctx, on)
		if len(on) != 1 || on.Get(IDHeader) != got {
			t.Errorf("%q goes on as %q", id, on)
		}
		var s Span
		if !s.below(parent) && (s.trace != [16]byte{} || s.sampled) {
			t.Errorf("%q is refused, and leaves %x", parent, s.trace)
		}
		if out := s.parent(); len(out) != len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") || strings.Trim(out, "0123456789abcdef-") != "" {
			t.Errorf("below %q it goes on as %q", parent, out)
		}
		if _, err := New(Config{Endpoint: endpoint}); err == nil && (!strings.HasPrefix(strings.ToLower(endpoint), "http") || strings.Contains(endpoint, "?x") || strings.HasPrefix(endpoint, "https://u:p@")) {
			t.Errorf("%q is accepted as the address of a collector", endpoint)
		}
	})
}

// Found by FuzzHeaders: of a header whose parts have the wrong lengths nothing
// is kept, so that a new trace hangs below nobody's.
func TestParentOfWrongLengths(t *testing.T) {
	t.Parallel()
	var s Span
	if s.below("00-4b929d0577b34da6a3ce929d0e0e4736-02b7-0aa18ba900f0671ab") || s.trace != [16]byte{} || s.above != [8]byte{} {
		t.Errorf("below = %+v", s)
	}
}
