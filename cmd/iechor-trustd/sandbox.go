package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/sandbox"
)

type sandboxOptions struct {
	dir, registry, trust, auth string
	tour, exit                 bool
}

func newSandboxCmd(a *app) *cobra.Command {
	var o sandboxOptions
	c := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a registry, a trust server and a signer to try it all out",
		Long: `Example: iechor-trustd sandbox --tour

Runs a registry, a trust server and its signer on this machine, prints the lines
that point the client at them, and stays until Ctrl-C. With --tour it first plays
five scenes: a signed push, a verified pull, and three attacks.

Without --dir everything is in a temporary folder and gone at the end. With
--dir keys, trust data and images stay, and the next start serves the same.
The folder holds env (to be sourced), ca.crt (for other clients), hello.tar and
other.tar (images, so that no engine is needed).

Nobody has to log in, unless --auth says how: "token", by the tokens of a token
service such as registries have, or "htpasswd", by passwords. Then there are
three users, with passwords that are printed: alice may pull and push, bob may
pull, and carol may do everything.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.auth != sandbox.NoLogin && o.tour {
				return usage("--tour and --auth do not go together: nobody logs in in the tour")
			}
			return a.sandbox(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.dir, "dir", "", "keep everything in this folder")
	c.Flags().StringVar(&o.registry, "registry-addr", "127.0.0.1:5000", "address of the registry")
	c.Flags().StringVar(&o.trust, "trust-addr", "127.0.0.1:4443", "address of the trust server")
	c.Flags().StringVar(&o.auth, "auth", "", "have users log in: token or htpasswd")
	c.Flags().BoolVar(&o.tour, "tour", false, "play the tour first")
	c.Flags().BoolVar(&o.exit, "exit", false, "end after the start, or after the tour")
	return c
}

func (a *app) sandbox(ctx context.Context, o sandboxOptions) (err error) {
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := sandbox.Start(ctx, sandbox.Config{
		Dir: o.dir, RegistryAddr: o.registry, TrustAddr: o.trust, Auth: o.auth, Log: log, Now: a.now,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	client, cerr := findClient(ctx, a, s.Dir)
	if ctx.Err() != nil {
		return nil
	}
	if o.tour {
		if cerr != nil {
			return cerr
		}
		if err := a.tour(ctx, s, client); err != nil {
			return err
		}
	}
	if o.exit {
		return nil
	}
	a.introduce(s, client)
	<-ctx.Done()
	return nil
}

// introduce prints the lines to paste.
func (a *app) introduce(s *sandbox.Sandbox, client string) {
	exports := sandbox.Exports(s.Env())
	if client == "" {
		fmt.Fprintln(a.out, "# the client was not found: put iechor into the PATH to go on")
	} else {
		exports += fmt.Sprintf("export PATH=\"%s%c$PATH\"\n", filepath.Dir(client), os.PathListSeparator)
	}
	fmt.Fprintf(a.out, "\nThe sandbox is running: registry %s, trust server %s, folder %s\n", s.Registry, s.Trust, s.Dir)
	fmt.Fprintf(a.out, "In another terminal, paste:\n\n%s\n", exports)
	if len(s.Logins) > 0 {
		fmt.Fprintln(a.out, "Users, who log in at the registry and so at the trust server:")
		fmt.Fprintln(a.out)
		for _, l := range s.Logins {
			fmt.Fprintf(a.out, "  %-6s password %s   may %s\n", l.User, l.Password, l.May)
		}
		fmt.Fprintf(a.out, "\n  iechor login --username alice %s\n\n", s.Registry)
	}
	fmt.Fprintf(a.out, `Then try, in this order:

  iechor push --from docker-archive:%[2]s %[1]s/tour:1
  iechor pull --to docker-archive:pulled.tar %[1]s/tour:1
  iechor push --disable-content-trust --from docker-archive:%[3]s %[1]s/tour:1
  iechor pull --to docker-archive:pulled.tar %[1]s/tour:1
  iechor pull --to docker-archive:pulled.tar %[1]s/tour:unsigned

`, s.Registry, filepath.Join(s.Dir, "hello.tar"), filepath.Join(s.Dir, "other.tar"))
	fmt.Fprintln(a.out, "Ctrl-C ends it.")
}

// findClient returns the client program: the one beside this program, else
// one built from the source tree that we stand in, else the one in the PATH.
func findClient(ctx context.Context, a *app, dir string) (string, error) {
	name := "iechor"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), name); executable(beside) {
			return beside, nil
		}
	}
	const client = "github.com/iechor/trust/cmd/iechor"
	if exec.CommandContext(ctx, "go", "list", client).Run() == nil {
		out := filepath.Join(dir, "bin", name)
		fmt.Fprintln(a.err, "building the client …")
		build := exec.CommandContext(ctx, "go", "build", "-o", out, client)
		if text, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the client: %w\n%s", err, strings.TrimSpace(string(text)))
		}
		return out, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", errors.New("the client iechor was found neither beside this program nor in the PATH, and this is no source tree to build it from")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (runtime.GOOS == "windows" || info.Mode()&0o111 != 0)
}
