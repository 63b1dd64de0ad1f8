// Package client does with our client library what four commands of the stock
// notary program do. It is a package of its own so that the program made of it
// loads what a client needs, and not the services and databases of bench.
package client

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The verbs are those of the stock notary program, but for Publish, which is
// the first two in one, as our client does it.
const (
	Init    = "init"    // GUN
	Add     = "addhash" // GUN TAG SIZE SHA256
	Publish = "publish" // GUN TAG SIZE SHA256
	List    = "list"    // GUN
	Lookup  = "lookup"  // GUN TAG
)

// Run does what args say: a verb, flags of a [Place], and what the verb takes.
func Run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("which of init, addhash, publish, list, lookup? bench itself calls this")
	}
	var at Place
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&at.URL, "s", "", "URL of the trust server")
	f.StringVar(&at.TLS, "tls", "", "folder of certificates by host")
	f.StringVar(&at.Home, "d", "", "trust directory")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	gun := tuf.GUN(f.Arg(0))
	switch verb := args[0]; {
	case verb == Init && f.NArg() == 1:
		return at.init(ctx, gun)
	case (verb == Add || verb == Publish) && f.NArg() == 4:
		return at.add(ctx, verb == Publish, gun, f.Arg(1), f.Arg(2), f.Arg(3))
	case verb == List && f.NArg() == 1:
		return at.list(ctx, gun, out)
	case verb == Lookup && f.NArg() == 2:
		return at.lookup(ctx, gun, f.Arg(1), out)
	}
	return errors.New("wrong arguments; bench itself calls this")
}

// A Place is where the client works: the server's URL, the folder of
// certificates by host, and the trust directory.
type Place struct{ URL, TLS, Home string }

// Argv returns the arguments of [Run] that do this here.
func (p Place) Argv(verb string, args ...string) []string {
	return append([]string{verb, "-s", p.URL, "-tls", p.TLS, "-d", p.Home}, args...)
}

// StockRounds is how many PBKDF2 rounds protect the key files that the stock
// programs write. Ours are measured with as many, and what they take by
// default stands in a row of its own.
const StockRounds = 2048

type passphrase string

func (p passphrase) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	return []byte(p), nil
}
func (p passphrase) NewPassphrase(context.Context, keys.Info) ([]byte, error) { return []byte(p), nil }

// Passphrase answers every question; it protects nothing.
const Passphrase passphrase = "passphrase"

// Open opens a repository. The caller closes the keys.
func (p Place) Open(gun tuf.GUN) (*trust.Repository, keys.Ring, error) {
	remote, err := trust.NewHTTP(trust.HTTPConfig{Base: p.URL, TLSDir: p.TLS})
	if err != nil {
		return nil, nil, err
	}
	dir, err := keys.OpenDir(keys.Config{Path: filepath.Join(p.Home, "private"), Passphrases: Passphrase, Iterations: StockRounds})
	if err != nil {
		return nil, nil, err
	}
	ring := keys.Ring{dir}
	return trust.Open(gun, trust.Config{Remote: remote, Dir: trust.NewDir(p.Home), Keys: ring}), ring, nil
}

func (p Place) init(ctx context.Context, gun tuf.GUN) error {
	repo, ring, err := p.Open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	_, err = repo.Init(ctx, trust.InitOptions{})
	return err
}

// add publishes a tag: staged first, in a repository that was initialised, or,
// if first, all in one.
func (p Place) add(ctx context.Context, first bool, gun tuf.GUN, tag, size, sum string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	digest, err := hex.DecodeString(sum)
	if err != nil {
		return err
	}
	repo, ring, err := p.Open(gun)
	if err != nil {
		return err
	}
	defer ring.Close() // wipes
	change := AddTag(tag, n, digest)
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

// AddTag is the change that adds a tag: the length and SHA-256 of a manifest.
func AddTag(tag string, size int64, digest []byte) tuf.Change {
	return tuf.AddTarget{Target: tuf.Target{Name: tag, Role: tuf.RoleTargets, FileMeta: tuf.FileMeta{
		Length: size, Hashes: map[string][]byte{"sha256": digest},
	}}}
}

func (p Place) list(ctx context.Context, gun tuf.GUN, out io.Writer) error {
	repo, ring, err := p.Open(gun)
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

func (p Place) lookup(ctx context.Context, gun tuf.GUN, tag string, out io.Writer) error {
	repo, ring, err := p.Open(gun)
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
