package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A publisher owns a repository and publishes to it as a client does. Its
// methods return errors, so that they may be called in any goroutine.
type publisher struct {
	t    testing.TB
	site *site
	gun  tuf.GUN
	ring tuftest.Ring
	root tuf.Signer
	past *tuf.Past
	life map[tuf.RoleName]time.Duration // of what it signs; nil: as usual
}

func newPublisher(t testing.TB, s *site, gun tuf.GUN) *publisher {
	t.Helper()
	p := &publisher{t: t, site: s, gun: gun, root: tuftest.RootKey(t, gun, string(gun)+" root", time.Now().Add(-time.Minute))}
	p.ring = tuftest.NewRing(p.root, tuftest.Key(string(gun)+" targets"))
	return p
}

// clone returns another publisher of the same repository.
func (p *publisher) clone() *publisher { c := *p; return &c }

// key asks the server for the public key of a role.
func (p *publisher) key(ctx context.Context, at *process, role tuf.RoleName) (tuf.PublicKey, error) {
	path := api.Route{Kind: api.Key, GUN: p.gun, Role: role}.Path()
	status, body, err := p.site.get(ctx, "https://"+at.addr+path)
	if err == nil && status != http.StatusOK {
		err = &api.Error{Status: status, Message: fmt.Sprintf("GET %s = %d %s", path, status, body)}
	}
	if err != nil {
		return tuf.PublicKey{}, err
	}
	return api.DecodeKey([]byte(body))
}

// init publishes the repository for the first time, with a tag.
func (p *publisher) init(ctx context.Context, at *process, tag string) error {
	roles := []tuf.Role{
		tuf.NewRole(tuf.RoleRoot, 1, p.root.PublicKey()),
		tuf.NewRole(tuf.RoleTargets, 1, tuftest.Key(string(p.gun)+" targets").PublicKey()),
	}
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		key, err := p.key(ctx, at, role)
		if err != nil {
			return err
		}
		roles = append(roles, tuf.NewRole(role, 1, key))
	}
	d, err := tuf.NewDraft(p.gun, roles, tuf.Options{Now: time.Now()})
	if err != nil {
		return err
	}
	return p.upload(ctx, at, d, tag)
}

// publish puts a tag where the repository is now, and begins again while
// others are faster.
func (p *publisher) publish(ctx context.Context, at *process, tag string) error {
	for range 100 {
		s, err := p.update(ctx, at)
		if err != nil {
			return err
		}
		err = p.upload(ctx, at, s.Draft(), tag)
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Code != api.Version {
			return err
		}
	}
	return fmt.Errorf("%s: others were faster a hundred times", tag)
}

func (p *publisher) upload(ctx context.Context, at *process, d *tuf.Draft, tag string) error {
	body, ct, err := p.body(ctx, d, tag)
	if err != nil {
		return err
	}
	path := api.Route{Kind: api.Repository, GUN: p.gun}.Path()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+at.addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", ct)
	resp, err := p.site.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusOK {
		return err // cut off, or acknowledged
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return api.ReadError(resp)
}

// body returns an upload of d with one more tag.
func (p *publisher) body(ctx context.Context, d *tuf.Draft, tag string) (body []byte, contentType string, err error) {
	if err := d.Apply(tuf.AddTarget{Target: tuftest.Target(tag)}); err != nil {
		return nil, "", err
	}
	files, err := d.Sign(ctx, p.ring, tuf.SignOptions{Now: time.Now(), Lifetimes: p.life})
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	contentType, err = api.WriteFiles(&b, files)
	return b.Bytes(), contentType, err
}

// update reads the repository as a client does that remembers what it saw.
func (p *publisher) update(ctx context.Context, at *process) (*tuf.Set, error) {
	u := tuf.Begin(p.gun, p.past, tuf.Options{Now: time.Now()})
	for want, more := u.Next(); more; want, more = u.Next() {
		route := api.Route{Kind: api.FileCurrent, GUN: p.gun, Role: want.Role}
		switch {
		case want.Version != 0:
			route.Kind, route.Version = api.FileByVersion, want.Version
		case want.SHA256 != nil:
			route.Kind, route.SHA256 = api.FileByHash, [32]byte(want.SHA256)
		}
		status, body, err := p.site.get(ctx, "https://"+at.addr+route.Path())
		switch {
		case err != nil:
		case status == http.StatusOK:
			err = u.Add(want, []byte(body))
		case status == http.StatusNotFound:
			err = u.Missing(want)
		default:
			err = &api.Error{Status: status, Message: fmt.Sprintf("GET %s = %d %s", route.Path(), status, body)}
		}
		if err != nil {
			return nil, err
		}
	}
	s, err := u.Set()
	if err == nil {
		p.past = s.Past()
	}
	return s, err
}

// has fails the test unless all tags can be read.
func (p *publisher) has(at *process, tags ...string) {
	p.t.Helper()
	s, err := p.clone().update(p.t.Context(), at)
	if err != nil {
		p.t.Errorf("update of %s: %v", p.gun, err)
		return
	}
	got := map[string]bool{}
	for target := range s.Targets(tuf.RoleTargets) {
		got[target.Name] = true
	}
	for _, tag := range tags {
		if !got[tag] {
			p.t.Errorf("%s lacks %s, which was acknowledged; it has %d tags", p.gun, tag, len(got))
		}
	}
}

// refusedBy returns the status with which a server answered, 0 if err is not
// an answer.
func refusedBy(err error) int {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}
