package main

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

// What was published through one server is served by the other one: to its
// publisher at once, that is in the first answer, and to everybody else when
// that server has heard of it, which it asks for ten times a second.
func TestPublishedThroughTheOtherServer(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		s := newSiteOn(t, fresh(t), fresh(t))
		s.startSigner(t)
		servers := []*process{s.startServer(t), s.startServer(t)}
		p := newPublisher(t, s, "registry.example/app")
		if err := p.init(t.Context(), servers[0], "first"); err != nil {
			t.Fatal(err)
		}
		for i, tag := range []string{"second", "third"} {
			at, other := servers[i%2], servers[(i+1)%2]
			before := s.everybody(t, other, p.gun) // is in that server's memory now
			if err := p.publish(t.Context(), at, tag); err != nil {
				t.Fatal(err)
			}
			acknowledged := time.Now()
			p.has(other, "first", tag)
			if t.Failed() {
				t.Fatalf("the publisher of %s does not see it at once through the other server", tag)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for s.everybody(t, other, p.gun) == before {
				if ctx.Err() != nil {
					t.Fatalf("%s was published through one server %v ago, and the other one does not serve it", tag, patience)
				}
			}
			t.Logf("measured: everybody sees %s through the other server %v after its publish", tag, time.Since(acknowledged).Round(time.Millisecond))
		}
		for _, server := range servers {
			server.stop()
		}
		s.sound(t)
	})
}

// everybody fetches the timestamp as somebody does who does not publish.
func (s *site) everybody(t testing.TB, at *process, gun tuf.GUN) string {
	t.Helper()
	url := "https://" + at.addr + api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}.Path()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %d %s, %v", url, resp.StatusCode, body, err)
	}
	return string(body)
}
