package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The modes are what bench runs itself as: the four commands of the stock
// notary program, done with our client library, the first two of them in one,
// as our client does it, a server of one static file, our services in one process that can be profiled, and a program whose
// memory is measured.
const (
	modeInit    = "init"
	modeAdd     = "addhash"
	modePublish = "publish"
	modeList    = "list"
	modeLookup  = "lookup"
	modeStatic  = "static"
	modeServe   = "serve"
	modeRun     = "run"
)

func isMode(name string) bool {
	switch name {
	case modeInit, modeAdd, modePublish, modeList, modeLookup, modeStatic, modeServe, modeRun:
		return true
	}
	return false
}

func runMode(ctx context.Context, mode string, args []string, out io.Writer) error {
	if mode == modeRun && len(args) > 0 {
		return runMeasured(ctx, args, out)
	}
	f := flag.NewFlagSet(mode, flag.ContinueOnError)
	var c place
	f.StringVar(&c.url, "s", "", "URL of the trust server")
	f.StringVar(&c.tls, "tls", "", "folder of certificates by host")
	f.StringVar(&c.home, "d", "", "trust directory, or the sandbox's folder")
	addr := f.String("addr", "", "address to listen on")
	cert := f.String("cert", "", "certificate file")
	key := f.String("key", "", "file of its key")
	profile := f.String("cpuprofile", "", "file for a CPU profile")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case mode == modeInit && f.NArg() == 1:
		return c.init(ctx, tuf.GUN(f.Arg(0)))
	case (mode == modeAdd || mode == modePublish) && f.NArg() == 4:
		return c.add(ctx, mode == modePublish, tuf.GUN(f.Arg(0)), f.Arg(1), f.Arg(2), f.Arg(3))
	case mode == modeList && f.NArg() == 1:
		return c.list(ctx, tuf.GUN(f.Arg(0)), out)
	case mode == modeLookup && f.NArg() == 2:
		return c.lookup(ctx, tuf.GUN(f.Arg(0)), f.Arg(1), out)
	case mode == modeStatic && f.NArg() == 1:
		return serveStatic(ctx, *addr, *cert, *key, f.Arg(0))
	case mode == modeServe && f.NArg() == 0:
		return serveProfiled(ctx, c.home, *addr, *profile)
	}
	return errors.New("wrong arguments; bench itself calls this")
}

// A place is where our client works: a server and a trust directory.
type place struct{ url, tls, home string }

// stockRounds is how many PBKDF2 rounds protect the key files that the stock
// programs write. Ours are measured with as many, and what they take by
// default stands in a row of its own.
const stockRounds = 2048

// passphrase answers every question; it protects nothing.
type passphrase string

func (p passphrase) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	return []byte(p), nil
}
func (p passphrase) NewPassphrase(context.Context, keys.Info) ([]byte, error) { return []byte(p), nil }

const thePassphrase passphrase = "passphrase"

// open opens a repository. The caller closes the keys.
func (c place) open(gun tuf.GUN) (*trust.Repository, keys.Ring, error) {
	remote, err := trust.NewHTTP(trust.HTTPConfig{Base: c.url, TLSDir: c.tls})
	if err != nil {
		return nil, nil, err
	}
	dir, err := keys.OpenDir(keys.Config{Path: filepath.Join(c.home, "private"), Passphrases: thePassphrase, Iterations: stockRounds})
	if err != nil {
		return nil, nil, err
	}
	ring := keys.Ring{dir}
	return trust.Open(gun, trust.Config{Remote: remote, Dir: trust.NewDir(c.home), Keys: ring}), ring, nil
}

func (c place) init(ctx context.Context, gun tuf.GUN) error {
	repo, ring, err := c.open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	_, err = repo.Init(ctx, trust.InitOptions{})
	return err
}

// add publishes a tag: staged first, in a repository that was initialised, or,
// if first, all in one.
func (c place) add(ctx context.Context, first bool, gun tuf.GUN, tag, size, sum string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	digest, err := hex.DecodeString(sum)
	if err != nil {
		return err
	}
	repo, ring, err := c.open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	change := addTag(tag, n, digest)
	if first {
		if _, err := repo.Init(ctx, trust.InitOptions{}); err != nil {
			return err
		}
		_, err := repo.Publish(ctx, func(*tuf.Set) ([]tuf.Change, error) { return []tuf.Change{change}, nil })
		return err
	}
	if err := repo.Stage(change); err != nil {
		return err
	}
	_, err = repo.PublishStaged(ctx)
	return err
}

func addTag(tag string, size int64, digest []byte) tuf.Change {
	return tuf.AddTarget{Target: tuf.Target{Name: tag, Role: tuf.RoleTargets, FileMeta: tuf.FileMeta{
		Length: size, Hashes: map[string][]byte{"sha256": digest},
	}}}
}

func (c place) list(ctx context.Context, gun tuf.GUN, out io.Writer) error {
	repo, ring, err := c.open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	set, err := repo.Update(ctx)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(out)
	w := tabwriter.NewWriter(b, 0, 0, 4, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tSIZE (BYTES)\tROLE")
	for _, role := range set.Roles() {
		if !role.HoldsTargets() {
			continue
		}
		for t := range set.Targets(role) {
			fmt.Fprintf(w, "%s\t%x\t%d\t%s\n", t.Name, t.SHA256(), t.Length, role)
		}
	}
	return errors.Join(w.Flush(), b.Flush())
}

func (c place) lookup(ctx context.Context, gun tuf.GUN, tag string, out io.Writer) error {
	repo, ring, err := c.open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	t, err := repo.Resolve(ctx, tag)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s sha256:%x %d\n", t.Name, t.SHA256(), t.Length)
	return err
}

// serveStatic answers every request with one file: the same library and TLS as
// our server, and no work.
func serveStatic(ctx context.Context, addr, cert, key, file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	kind, length := []string{"text/plain; charset=utf-8"}, []string{strconv.Itoa(len(body))}
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"], w.Header()["Content-Length"] = kind, length
			_, _ = w.Write(body) // the peer is gone if this fails
		}),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() }) // Serve returns
	defer stop()
	if err := h.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveProfiled runs our services in this process until ctx ends, and then
// writes the profile.
func serveProfiled(ctx context.Context, dir, addr, file string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	s, err := sandbox.Start(ctx, sandbox.Config{Dir: dir, TrustAddr: addr, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(err, s.Close())
	}
	<-ctx.Done()
	pprof.StopCPUProfile()
	return s.Close()
}
