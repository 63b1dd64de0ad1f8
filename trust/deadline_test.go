package trust

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
)

// A remote that never answers.
type silent struct{ Remote }

func (silent) Host() string { return "trust.example" }

func (silent) Fetch(ctx context.Context, _ tuf.GUN, _ tuf.Want) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// However many answers a server draws out, the update ends, and the server
// counts as one that cannot be reached.
func TestUpdateDeadline(t *testing.T) {
	t.Parallel()
	r := Open("registry.example/app", Config{Remote: silent{}, Dir: NewDir(t.TempDir()), Deadline: time.Millisecond})
	for name, ask := range map[string]func(context.Context) (*tuf.Set, error){"Update": r.Update, "Look": r.Look, "Afresh": r.Afresh} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := ask(ctx); !errors.Is(err, ErrUnreachable) || !errors.Is(err, errLate) {
			t.Errorf("%s = %v, want ErrUnreachable for being late", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Update(ctx); errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Update that the caller ended = %v, want the error of its context", err)
	}
}
