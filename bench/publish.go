package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

const (
	publishers = 8
	// eachTime is how often each repository is published to in one measurement.
	eachTime = 3
)

// A shelf is a repository with what its owner will upload next. Uploads are
// signed before they are measured, so that what is measured is the services.
type shelf struct {
	gun     tuf.GUN
	ring    keys.Ring
	root    tuf.File
	targets tuf.File // the newest that was signed
	tags    int
	next    []upload
}

type upload struct {
	kind string
	body []byte
}

// sign puts one more upload on the shelf: one more tag, signed by the owner,
// who leaves the snapshot to the server.
func (h *shelf) sign(ctx context.Context) error {
	now := time.Now()
	past, err := tuf.Recall(h.gun, []tuf.File{h.root, h.targets}, tuf.Options{Now: now})
	if err != nil {
		return err
	}
	h.tags++
	tag := "pushed-" + strconv.Itoa(h.tags)
	sum := sha256.Sum256([]byte(tag))
	draft := past.Draft()
	if err := draft.Apply(client.AddTag(tag, size, sum[:])); err != nil {
		return err
	}
	files, err := draft.Sign(ctx, h.ring, tuf.SignOptions{Now: now})
	if err != nil {
		return err
	}
	if len(files) != 1 || files[0].Role != tuf.RoleTargets {
		return fmt.Errorf("a tag in %s was signed into %d files, not into targets alone", h.gun, len(files))
	}
	h.targets = files[0]
	var body bytes.Buffer
	kind, err := api.WriteFiles(&body, files)
	if err != nil {
		return err
	}
	h.next = append(h.next, upload{kind, body.Bytes()})
	return nil
}

// newShelf publishes a repository of so many tags.
func (s *stage) newShelf(ctx context.Context, p *peer, gun tuf.GUN, tags int) (*shelf, error) {
	at := client.Place{URL: p.url(), TLS: s.tls, Home: s.home(p, "shelves")}
	set, err := plantRepository(ctx, at, gun, tags)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", gun, err)
	}
	_, ring, err := at.Open(gun) // bench ends with the keys
	if err != nil {
		return nil, err
	}
	h := &shelf{gun: gun, ring: ring}
	for _, f := range set.Files() {
		switch f.Role {
		case tuf.RoleRoot:
			h.root = f
		case tuf.RoleTargets:
			h.targets = f
		}
	}
	return h, nil
}

// fill fills the shelves of p with so many uploads each.
func (s *stage) fill(ctx context.Context, p *peer, uploads int) error {
	for i := len(p.shelves); i < s.o.repositories/50; i++ {
		if i == 0 {
			s.say(fmt.Sprintf("making %d repositories (%s)", s.o.repositories/50, p.name))
		}
		h, err := s.newShelf(ctx, p, tuf.GUN("bench.example/shelf/"+strconv.Itoa(i)), 1)
		if err != nil {
			return err
		}
		p.shelves = append(p.shelves, h)
	}
	for _, h := range p.shelves {
		for len(h.next) < uploads {
			if err := h.sign(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// A poster sends uploads, and reads what came of them.
type poster struct{ client http.Client }

func newPoster(p *peer) (*poster, error) {
	conf, err := clientTLS(p.ca)
	if err != nil {
		return nil, err
	}
	return &poster{http.Client{Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: publishers}}}, nil
}

// post sends the next upload of h to addr until it is acknowledged: the stock
// server ends itself under this load, and is started again.
func (c *poster) post(ctx context.Context, addr string, h *shelf) error {
	u := h.next[0]
	h.next = h.next[1:]
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		lost, err := c.once(ctx, addr, h.gun, u)
		var refused *api.Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &refused) && refused.Code == api.Version && wait > 10*time.Millisecond:
			return nil // it had arrived before the server ended
		case !lost:
			return fmt.Errorf("publish to %s: %w", h.gun, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// once sends an upload. lost says that there was no answer, or none that says
// anything of the upload.
func (c *poster) once(ctx context.Context, addr string, gun tuf.GUN, u upload) (lost bool, err error) {
	url := "https://" + addr + api.Route{Kind: api.Repository, GUN: gun}.Path()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(u.body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", u.kind)
	resp, err := c.client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		_, err := io.Copy(io.Discard, resp.Body)
		return true, err
	}
	return resp.StatusCode >= http.StatusInternalServerError, api.ReadError(resp)
}

// get fetches the timestamp of gun, as a publisher does if sure.
func (c *poster) get(ctx context.Context, addr string, gun tuf.GUN, sure bool) ([]byte, error) {
	url := "https://" + addr + api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}.Path()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if sure {
		req.Header.Set("Cache-Control", "no-cache")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, api.ReadError(resp)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// sustained measures publishes of eight publishers at a time, each to
// repositories of its own: all through one server, or through two.
func sustained(two bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		c, addrs, err := s.posting(ctx, p, eachTime, two)
		if err != nil {
			return sample{}, err
		}
		defer c.client.CloseIdleConnections()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var all sync.WaitGroup
		before, known := p.cpu()
		began := time.Now()
		for i := range publishers {
			all.Go(func() {
				for range eachTime {
					for n := i; n < len(p.shelves); n += publishers {
						if err := c.post(ctx, addrs[i%len(addrs)], p.shelves[n]); err != nil {
							cancel(err)
							return
						}
					}
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		if err := context.Cause(ctx); err != nil {
			return sample{}, err
		}
		n := eachTime * len(p.shelves)
		got := sample{value: float64(n) / took.Seconds()}
		if spent := p.spent(before, known); spent > 0 {
			got.cpu = spent / time.Duration(n)
		}
		return got, nil
	}
}

// posting has uploads ready for each repository, so many, and returns what
// sends them, and the servers to which it does.
func (s *stage) posting(ctx context.Context, p *peer, each int, two bool) (*poster, []string, error) {
	if err := s.fill(ctx, p, each); err != nil {
		return nil, nil, err
	}
	addrs, err := s.servers(p, two)
	if err != nil {
		return nil, nil, err
	}
	c, err := newPoster(p)
	return c, addrs, err
}

// servers returns where one or two servers of p listen.
func (s *stage) servers(p *peer, two bool) ([]string, error) {
	if !two {
		return []string{p.addr}, nil
	}
	q, err := s.another(p)
	if err != nil {
		return nil, err
	}
	return []string{p.addr, q.addr}, nil
}

// visible measures how long a publish that one server has acknowledged is not
// seen through the other one: by its publisher, or by everybody.
func visible(everybody bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		const times = 5
		c, addrs, err := s.posting(ctx, p, times, true)
		if err != nil {
			return sample{}, err
		}
		defer c.client.CloseIdleConnections()
		var lags []float64
		for i := range times {
			h := p.shelves[i%len(p.shelves)]
			before, err := c.get(ctx, addrs[1], h.gun, true)
			if err != nil {
				return sample{}, err
			}
			if err := c.post(ctx, addrs[0], h); err != nil {
				return sample{}, err
			}
			acknowledged := time.Now()
			for {
				now, err := c.get(ctx, addrs[1], h.gun, !everybody)
				if err != nil {
					return sample{}, err
				}
				if !bytes.Equal(now, before) {
					break
				}
			}
			lags = append(lags, time.Since(acknowledged).Seconds())
		}
		return sample{value: median(lags)}, nil
	}
}

// growth measures by how much the database grows when a tag is pushed to a
// large repository, at once, or when our server has tidied up, which it does
// to what is older than an hour.
func growth(tidy bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		g := &p.grown
		if g.pushes == 0 {
			if err := s.grow(ctx, p, g); err != nil {
				return sample{}, err
			}
		}
		after := g.after
		if tidy && !p.stock {
			if err := s.tidy(ctx, p, time.Now().Add(2*time.Hour)); err != nil {
				return sample{}, err
			}
			var err error
			if after, err = p.db.Size(p.storage); err != nil {
				return sample{}, err
			}
		}
		return sample{value: max(0, float64(after-g.before)) / float64(g.pushes)}, nil
	}
}

// A grown database is what is known of its sizes in bytes.
type grown struct {
	pushes        int
	before, after int64
}

func (s *stage) grow(ctx context.Context, p *peer, g *grown) error {
	s.say(fmt.Sprintf("pushing %d times to %d tags (%s)", s.o.pushes, 2*s.o.tags, p.name))
	h, err := s.newShelf(ctx, p, "bench.example/grown", 2*s.o.tags)
	if err != nil {
		return err
	}
	c, err := newPoster(p)
	if err != nil {
		return err
	}
	defer c.client.CloseIdleConnections()
	if g.before, err = p.db.Size(p.storage); err != nil {
		return err
	}
	for range s.o.pushes {
		if err := h.sign(ctx); err != nil {
			return err
		}
		if err := c.post(ctx, p.addr, h); err != nil {
			return err
		}
	}
	g.pushes = s.o.pushes
	g.after, err = p.db.Size(p.storage)
	return err
}

// tidy does what our server does every hour, as of then.
func (s *stage) tidy(ctx context.Context, p *peer, then time.Time) error {
	a, err := drivers.Parse(p.storage, func(string) string { return "" })
	if err != nil {
		return err
	}
	return a.Migrate(ctx, func(ctx context.Context, db *database.DB) error {
		store, err := storage.Open(ctx, db)
		if err != nil {
			return err
		}
		return store.Prune(ctx, then)
	})
}
