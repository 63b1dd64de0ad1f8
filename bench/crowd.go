package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// A crowd is a server of ours with very many repositories.
type crowd struct {
	*peer
	files []served
}

// memory measures how much memory a server has taken at most when all files of
// all repositories of a crowd are read.
func memory(ctx context.Context, s *stage, p *peer) (sample, error) {
	if s.crowd == nil {
		if err := s.gather(ctx, p.socket); err != nil {
			return sample{}, err
		}
	}
	conf, err := clientTLS(s.crowd.ca)
	if err != nil {
		return sample{}, err
	}
	l := &load{addrs: []string{s.crowd.addr}, tls: conf, files: s.crowd.files, all: true}
	n, _, err := l.run(ctx, s.o.duration, func() {})
	if err != nil {
		return sample{}, err
	}
	if n < int64(len(s.crowd.files)) {
		return sample{}, fmt.Errorf("only %d of %d files were asked for", n, len(s.crowd.files))
	}
	peak, err := s.crowd.processes[0].peak()
	return sample{value: peak}, err
}

// gather fills a SQLite file with repositories that differ in every byte that
// differs in life, and starts a server on it.
func (s *stage) gather(ctx context.Context, socket string) (err error) {
	s.say(fmt.Sprintf("making %d repositories", s.o.repositories))
	path := filepath.Join(s.dir, "crowd.db")
	// Nothing is lost if this is: what is measured comes later.
	raw, err := sql.Open("sqlite", strings.Replace(database.SQLiteDSN(path), "synchronous(FULL)", "synchronous(OFF)", 1))
	if err != nil {
		return err
	}
	db := database.New(raw, database.SQLite)
	defer func() {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	store, err := storage.Open(ctx, db)
	if err != nil {
		return err
	}
	p, err := s.newOurs("crowd", "SQLite")
	if err != nil {
		return err
	}
	p.storage, p.socket = "sqlite:"+path, socket
	c := &crowd{peer: p}
	ring := keys.NewMemory()
	var signers []tuf.Signer
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		one, err := keys.Generate(ctx, ring, keys.P256, keys.Info{Role: string(role), GUN: "bench.example/crowd"})
		if err != nil {
			return err
		}
		signers = append(signers, one)
	}
	for n := range s.o.repositories {
		gun := tuf.GUN("bench.example/crowd/" + strconv.Itoa(n))
		if err := c.join(ctx, store, gun, signers, keys.Ring{ring}, strconv.Itoa(n)); err != nil {
			return fmt.Errorf("make %s: %w", gun, err)
		}
	}
	closing := db
	db = nil
	if err := closing.Close(); err != nil {
		return err
	}
	if err := s.serveStore(p); err != nil {
		return err
	}
	s.crowd = c
	return s.ready(ctx, p)
}

// join stores a repository of one tag.
func (c *crowd) join(ctx context.Context, store *storage.SQL, gun tuf.GUN, signers []tuf.Signer, ring keys.Ring, tag string) error {
	now := time.Now()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return err
	}
	root, err := tuf.Certify(ctx, signers[0], gun, serial, now)
	if err != nil {
		return err
	}
	draft, err := tuf.NewDraft(gun, []tuf.Role{
		tuf.NewRole(tuf.RoleRoot, 1, root),
		tuf.NewRole(tuf.RoleTargets, 1, signers[1].PublicKey()),
		tuf.NewRole(tuf.RoleSnapshot, 1, signers[2].PublicKey()),
		tuf.NewRole(tuf.RoleTimestamp, 1, signers[3].PublicKey()),
	}, tuf.Options{Now: now})
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(digest(tag))
	if err != nil {
		return err
	}
	if err := draft.Apply(client.AddTag(tag, size, sum)); err != nil {
		return err
	}
	files, err := draft.Sign(ctx, ring, tuf.SignOptions{Now: now})
	if err != nil {
		return err
	}
	var stored []storage.NewFile
	for _, f := range files {
		stored = append(stored, storage.NewFile{File: f, Expires: now.AddDate(1, 0, 0)})
		route := api.Route{Kind: api.FileCurrent, GUN: gun, Role: f.Role}
		served := serving("", f.Raw)
		if f.Role != tuf.RoleTimestamp {
			route.Kind, route.SHA256 = api.FileByHash, served.sum
		}
		served.path = route.Path()
		c.files = append(c.files, served)
	}
	_, err = store.Commit(ctx, gun, nil, stored, nil, now, nil)
	return err
}

// peak returns the most memory that the process has had, in bytes.
func (p *process) peak() (float64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.FormatInt(p.pid.Load(), 10), "status"))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(raw), "VmHWM:")
	number, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kilobytes, err := strconv.ParseFloat(number, 64)
	return kilobytes * 1024, err
}
