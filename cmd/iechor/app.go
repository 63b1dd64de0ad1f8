package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/keys/pkcs11"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// An app is everything that a command may touch: streams, environment, home
// directory and clock. One app runs one command.
type app struct {
	in       io.Reader
	out, err io.Writer
	bars     bool // err is a terminal, so that bars can be drawn on it
	getenv   func(string) string
	home     string // of the user; empty if there is none
	now      func() time.Time
	secrets  secretStore // of the system; nil: none

	configDir string // flag --config
	lookOnly  bool   // nothing on this machine is changed, and nobody is asked

	testOnlyIterations int // of the key derivation; 0: as it should be
	testOnlyBackupCost int // of a backup's passphrase; 0: as it should be
}

// execute runs the command line.
func (a *app) execute(ctx context.Context, args []string) error {
	root := newRootCmd(a)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// newRootCmd builds the tree of commands.
func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "iechor",
		Short: "Push and pull container images that somebody vouches for",
		Example: `  export IECHOR_CONTENT_TRUST=1
  iechor push registry.example.com/app:1.2
  iechor pull registry.example.com/app:1.2`,
		Long: `Push signs the tags that it pushes, and pull gets only what the owner of a tag
says that it is now. Both do so while content trust is on: set
IECHOR_CONTENT_TRUST=1, or give --disable-content-trust=false.

Variables:
  IECHOR_CONTENT_TRUST                        1 switches content trust on, 0 off
  IECHOR_CONTENT_TRUST_SERVER                 https address of the trust server
  IECHOR_CONTENT_TRUST_OFFLINE                refuse: never use cached trust data
  IECHOR_CONTENT_TRUST_ROOT_PASSPHRASE        passphrase of root keys
  IECHOR_CONTENT_TRUST_REPOSITORY_PASSPHRASE  passphrase of all other keys
  IECHOR_CONTENT_TRUST_BACKUP_PASSPHRASE      passphrase of backups
  IECHOR_CONFIG                               directory of configuration and keys
  IECHOR_HOST                                 address of the engine

Exit status: 0 done, 1 could not, 2 wrong usage, 3 refused as not trustworthy,
130 interrupted.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usage(cmd, fmt.Sprintf("unknown command %q", args[0]), nearestHint(args[0], commandNames(cmd))...)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.err) // nobody asked for it: it is no result
			return cmd.Help()
		},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.CompletionOptions.DisableDefaultCmd = true // there is our own
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err.Error()) })
	root.SetHelpTemplate(helpTemplate)
	root.PersistentFlags().StringVar(&a.configDir, "config", "", "`directory` of configuration and keys (default ~/.iechor)")
	root.AddCommand(newPushCmd(a), newPullCmd(a), newTrustCmd(a), newLoginCmd(a), newLogoutCmd(a), newCompletionCmd(a), newVersionCmd(a))
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" {
			cmd.Example = "  iechor help push"
		}
	}
	a.addCompletions(root)
	return root
}

// helpTemplate starts with the example: it is what most readers came for.
const helpTemplate = `{{if .HasExample}}Example:
{{.Example}}

{{end}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}Usage:
  {{if .Runnable}}{{.UseLine}}{{end}}{{if .HasAvailableSubCommands}} COMMAND

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
`

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// exactArgs wants n arguments, and says which.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usage(cmd, fmt.Sprintf("%s takes %s, and got %d arguments", cmd.CommandPath(), what, len(args)))
	}
}

// A usageError says that the command line makes no sense. Nothing has been
// done yet.
type usageError struct {
	reason string
	hints  []string
}

func (e *usageError) Error() string { return e.reason }

// usage returns a usageError. Without hints, the hint is where help is.
func usage(cmd *cobra.Command, reason string, hints ...string) error {
	if len(hints) == 0 {
		hints = []string{fmt.Sprintf("see \"%s --help\"", cmd.CommandPath())}
	}
	return &usageError{reason, hints}
}

// dir returns the configuration directory: flag over environment over home
// (spec/cli.md 2.1).
func (a *app) dir() (string, error) {
	for _, d := range []string{a.configDir, a.getenv("IECHOR_CONFIG")} {
		if d != "" {
			return filepath.Abs(d)
		}
	}
	if a.home == "" {
		return "", &usageError{"there is no home directory to keep keys in", []string{"set HOME, or name a directory with --config"}}
	}
	return filepath.Join(a.home, ".iechor"), nil
}

// warn tells the user what should be looked at, and goes on. It says it in one
// line that no terminal obeys, whatever the arguments hold.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.err, "iechor: warning: "+oneLine(fmt.Sprintf(format, args...)))
}

// A desk is what a command that works with images has on it: the
// configuration, who to talk to, and whom to ask. Close it.
type desk struct {
	*app
	dir         string
	config      config
	images      *registry.Client
	credentials *registry.Credentials
	terminal    *terminal.Terminal
	passphrases *passphrases
	keys        keys.Ring // tokens first
	dirKeys     *keys.Dir
	tokens      []device
	libraries   []*pkcs11.Library

	place        piv.Place // of new keys on YubiKeys
	yubiKeysOpen *piv.Shared
	token        string // flag --token
	onTokenOnly  bool   // flag --on-token-only
	lockedToo    bool   // tokens whose PIN is locked will do
}

// desk opens nothing that asks the user or the network.
func (a *app) desk() (*desk, error) {
	dir, err := a.dir()
	if err != nil {
		return nil, err
	}
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	d := &desk{
		app: a, dir: dir, config: c,
		credentials: registry.NewCredentials(registry.CredentialsConfig{
			Dir: dir, DockerDir: a.dockerDir(), Path: a.getenv("PATH"),
		}),
		terminal: terminal.New(terminal.Config{Input: a.in, Messages: a.err}),
	}
	d.images = registry.New(registry.Config{
		UserAgent:   fmt.Sprintf("iEchor-Client/%s (%s)", version(), runtime.GOOS),
		Credentials: d.credentials,
		TLSDir:      filepath.Join(dir, "tls"),
		Engine:      registry.FindEngine(a.getenv, a.home),
		Proxy:       http.ProxyFromEnvironment,
		TokenHosts:  c.loginServers,
	})
	d.passphrases = &passphrases{
		terminal: d.terminal, getenv: a.getenv, warn: a.warn,
		memory: remembered{filepath.Join(dir, "trust", "remembered"), a.secrets},
	}
	d.dirKeys, err = keys.OpenDir(keys.Config{
		Path:        filepath.Join(dir, "trust", "private"),
		Passphrases: d.passphrases,
		Iterations:  a.testOnlyIterations,
		LookOnly:    a.lookOnly,
	})
	if err != nil {
		return nil, errors.Join(err, d.terminal.Close())
	}
	d.openTokens()
	d.keys = append(d.keys, d.dirKeys)
	return d, nil
}

// quietly returns a copy of a whose results go nowhere, for --quiet.
func quietly(a *app) *app {
	q := *a
	q.out = io.Discard
	return &q
}

// looking returns a copy of a whose desk changes nothing and asks nobody.
func looking(a *app) *app {
	l := *a
	l.lookOnly = true
	return &l
}

// dockerDir is where Docker keeps its configuration, for credentials.
func (a *app) dockerDir() string {
	if d := a.getenv("DOCKER_CONFIG"); d != "" {
		return d
	}
	if a.home == "" {
		return ""
	}
	return filepath.Join(a.home, ".docker")
}

// Close wipes the keys that were unlocked and gives the terminal back.
func (d *desk) Close() error {
	err := d.keys.Close()
	for _, l := range d.libraries {
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, d.terminal.Close())
}

// A repository is the trust data of one image name, together with what
// messages about it need to know.
type repository struct {
	*trust.Repository
	remote *trust.HTTP
	server string // host of the trust server
	folder string // where this machine's copy is

	missing func(error) error // says of a missing key which tokens may have it
}

// repository opens the trust data of ref. Nothing is contacted yet.
func (d *desk) repository(ref registry.Ref) (*repository, error) {
	address, _, err := d.trustServer(ref)
	if err != nil {
		return nil, err
	}
	offline, err := d.offline()
	if err != nil {
		return nil, err
	}
	pin, err := d.pin()
	if err != nil {
		return nil, err
	}
	remote, err := trust.NewHTTP(trust.HTTPConfig{
		Base:        address,
		TLSDir:      filepath.Join(d.dir, "tls"),
		Credentials: d.login,
		Realms:      d.config.loginServers,
		Version:     version(),
	})
	if err != nil {
		return nil, fmt.Errorf("error establishing connection to trust repository: %w", err)
	}
	gun := tuf.GUN(ref.Repository)
	local := trust.NewDir(filepath.Join(d.dir, "trust"))
	return &repository{
		Repository: trust.Open(gun, trust.Config{
			Remote: remote, Dir: local, Pin: pin, Met: d.met(pin), Keys: d.keys, Now: d.now,
			Offline: offline, AllowExpiredCache: d.config.allowExpired, MaxAge: d.config.maxAge,
		}),
		remote: remote, server: remote.Host(), missing: d.missing,
		folder: local.Folder(gun),
	}, nil
}

// login finds the credentials for a trust server: those of the registry.
func (d *desk) login(ctx context.Context, host string) (trust.Credential, error) {
	c, err := d.credentials.Lookup(ctx, host)
	return trust.Credential{User: c.Username, Password: c.Password, Token: c.IdentityToken}, err
}

// about wraps an error of work on this repository with the names that a
// message needs.
func (r *repository) about(err error) error {
	if err == nil {
		return nil
	}
	return &repositoryError{gun: string(r.GUN()), server: r.server, folder: r.folder, err: r.missing(err)}
}

// A repositoryError says which repository an error is about.
type repositoryError struct {
	gun, server, folder string
	err                 error
}

func (e *repositoryError) Error() string { return fmt.Sprintf("%s at %s: %v", e.gun, e.server, e.err) }
func (e *repositoryError) Unwrap() error { return e.err }

// printable makes a text from outside safe to show, in one line.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029' || c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069' {
			return '\ufffd'
		}
		return c
	}, s)
}
