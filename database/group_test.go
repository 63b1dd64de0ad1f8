package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// A gathering is a group whose batches wait until they are let go.
type gathering struct {
	Group[string, string]
	batches []string
	release chan struct{}
}

func newGathering() *gathering {
	g := &gathering{release: make(chan struct{})}
	g.Group = Group[string, string]{
		Most: 3, Room: 10,
		Size: func(q string) int { return len(q) },
		Key:  func(q string) string { return q[:1] },
		Run: func(ctx context.Context, batch []string) []Answer[string] {
			g.batches = append(g.batches, strings.Join(batch, " "))
			<-g.release
			if slices.Contains(batch, "panic") {
				panic("on purpose")
			}
			var all []Answer[string]
			for _, q := range batch {
				a := Answer[string]{Value: strings.ToUpper(q)}
				if q == "bad" {
					a = Answer[string]{Err: errors.New("bad")}
				}
				all = append(all, a)
			}
			return all
		},
	}
	return g
}

// Who comes while a batch runs is in the next one: in order, not too many, not
// too large, and no key twice.
func TestGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGathering()
		answers := map[string]string{}
		var doing []chan string
		for _, q := range []string{"first", "a1", "bad", "a2", "c1", "d1", "e2345678", "f1"} {
			done := make(chan string, 1)
			doing = append(doing, done)
			go func() {
				a, err := g.Do(t.Context(), q)
				done <- fmt.Sprint(q, " ", a, " ", err)
			}()
			synctest.Wait() // it has joined, and so they do in order
		}
		close(g.release)
		for _, done := range doing {
			q, a, _ := strings.Cut(<-done, " ")
			answers[q] = a
		}
		want := []string{"first", "a1 bad c1", "a2 d1", "e2345678 f1"}
		if !slices.Equal(g.batches, want) {
			t.Errorf("batches are %q, want %q", g.batches, want)
		}
		for q, a := range answers {
			want := strings.ToUpper(q) + " <nil>"
			if q == "bad" {
				want = " bad"
			}
			if a != want {
				t.Errorf("%s got %q, want %q", q, a, want)
			}
		}
	})
}

// Who leaves before being taken is not run; who leaves later learns what
// became of it; and whoever was to lead next does.
func TestGroupLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGathering()
		run := func(ctx context.Context, q string) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := g.Do(ctx, q)
				done <- err
			}()
			synctest.Wait()
			return done
		}
		ctx, cancel := context.WithCancel(t.Context())
		taken := run(ctx, "taken")
		left := run(ctx, "left")
		stays := run(t.Context(), "stays")
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left before being taken got %v", err)
		}
		synctest.Wait()
		close(g.release)
		if err := <-taken; err != nil {
			t.Errorf("who left after being taken got %v", err)
		}
		if err := <-stays; err != nil {
			t.Errorf("who stayed got %v", err)
		}
		if want := []string{"taken", "stays"}; !slices.Equal(g.batches, want) {
			t.Errorf("batches are %q, want %q", g.batches, want)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := g.Do(ended, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("who came with an ended context got %v", err)
		}
		if _, err := g.Do(t.Context(), "y"); err != nil {
			t.Errorf("after one who came with an ended context: %v", err)
		}
	})
}

// A panic is its caller's own, an error to those of the same batch, and the end
// of nothing else.
func TestGroupPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGathering()
		first, panics, shares := make(chan any, 1), make(chan any, 1), make(chan any, 1)
		do := func(q string, done chan any) {
			go func() {
				defer func() {
					if p := recover(); p != nil {
						done <- p
					}
				}()
				_, err := g.Do(t.Context(), q)
				done <- err
			}()
			synctest.Wait()
		}
		do("first", first)
		do("panic", panics)
		do("same", shares)
		close(g.release)
		if got := <-first; got != nil {
			t.Errorf("the batch before got %v", got)
		}
		if got := <-panics; got != "on purpose" {
			t.Errorf("who led the batch got %v", got)
		}
		if err, _ := (<-shares).(error); !errors.Is(err, errNoAnswer) {
			t.Errorf("who was in the batch got %v", err)
		}
		if a, err := g.Do(t.Context(), "next"); a != "NEXT" || err != nil {
			t.Errorf("the next one got %q, %v", a, err)
		}
	})
}
