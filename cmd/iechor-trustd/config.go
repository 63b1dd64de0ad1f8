package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

func newConfigCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Look at configuration files",
		Long:  "Example: iechor-trustd config check --config /etc/iechor-trustd/server.yaml\n\nLooks at configuration files.",
		Args:  noArguments,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var file string
	check := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with a configuration, before a start",
		Long: `Example: iechor-trustd config check --config /etc/iechor-trustd/server.yaml

Checks the configuration of a server or of a signer, whose file has identities:
keys and values, certificates, rules and secrets that it names, and the
variables IECHOR_TRUSTD_… of this environment. Databases and the server's signer
are not connected to. Prints a line for each thing that is wrong, and then ends
with status 1.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usage("--config must name the file, such as /etc/iechor-trustd/server.yaml")
			}
			return a.checkConfig(c.Context(), file)
		},
	}
	check.Flags().StringVar(&file, "config", "", "configuration file, YAML")
	c.AddCommand(check)
	return c
}

// isSignerConfig says whether a configuration file is a signer's: only that has
// identities, which stand nowhere else, or a key-encryption-key.
func isSignerConfig(file string) (bool, error) {
	raw, err := readBounded(file)
	if err != nil {
		return false, fmt.Errorf("read the configuration: %w", err)
	}
	doc, err := onlyDocument(raw)
	if err != nil {
		return false, fmt.Errorf("configuration %s: %w", file, err)
	}
	if doc != nil {
		for i := 0; i+1 < len(doc.Content); i += 2 {
			if name := doc.Content[i].Value; name == "key-encryption-key" || name == "identities" {
				return true, nil
			}
		}
	}
	return false, nil
}

func (a *app) checkConfig(ctx context.Context, file string) error {
	ofSigner, err := isSignerConfig(file)
	if err != nil {
		return err
	}
	raw, err := readBounded(file)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	var wrong []error
	what := "trust server"
	if ofSigner {
		what = "signer"
		c := defaultSignerConfig()
		wrong = append([]error{parseConfig(raw, c), loadVariables(c, a.env)}, a.wrongWithSigner(ctx, c)...)
	} else {
		c := defaultServerConfig()
		wrong = append([]error{parseConfig(raw, c), loadVariables(c, a.env)}, a.wrongWithServer(c)...)
	}
	n := 0
	for _, err := range wrong {
		if err != nil {
			n += 1 + strings.Count(err.Error(), "\n")
			fmt.Fprintln(a.out, printableLines(err.Error()))
		}
	}
	if n > 0 {
		return fmt.Errorf("%s, the configuration of a %s, has %s", file, what, plural(n, "mistake"))
	}
	_, err = fmt.Fprintf(a.out, "%s can be the configuration of a %s\n", file, what)
	return err
}

// wrongWithServer returns what keeps a server from starting; nil entries are
// fine.
func (a *app) wrongWithServer(c *serverConfig) []error {
	quiet := slog.New(slog.DiscardHandler)
	_, levelErr := parseLevel(c.LogLevel)
	t, _, tlsErr := serverTLS(c, quiet)
	auth, authErr := c.Auth.open(quiet, a.now)
	if authErr == nil && tlsErr == nil {
		_, authErr = auth.askClients(t)
	}
	proxies, proxyErr := c.Auth.proxies()
	if proxyErr != nil && authErr != nil && proxyErr.Error() == authErr.Error() {
		proxyErr = nil // said already
	}
	_, tracesErr := c.Traces.open("", a.env, quiet)
	client, _, signerErr := dialSigner(c.Signer, quiet)
	if signerErr == nil {
		client.Close()
	}
	_, keptErr := c.Retention.config()
	limits, rates, limitErr := c.limits()
	// Neither store nor signer is touched by New.
	_, newErr := server.New(server.Config{
		Store: struct{ storage.Store }{}, Keys: struct{ server.Keys }{}, Auth: server.NoAuth{}, Prefixes: c.Prefixes,
		Lifetimes: server.Lifetimes{Snapshot: time.Duration(c.Lifetime.Snapshot), Timestamp: time.Duration(c.Lifetime.Timestamp)},
		KeyType:   tuf.KeyType(c.KeyType), Limits: limits, Rates: rates, Proxies: proxies,
	})
	return []error{checkAddress("listen", c.Listen), checkAddress("metrics-listen", c.MetricsListen), levelErr, tlsErr, authErr, proxyErr,
		a.checkStorage(c.Storage), signerErr, keptErr, limitErr, tracesErr, newErr}
}

// wrongWithSigner is the same for a signer. Keys in Vault or a token are
// looked at.
func (a *app) wrongWithSigner(ctx context.Context, c *signerConfig) []error {
	_, levelErr := parseLevel(c.LogLevel)
	_, rightsErr := rights(c.Identities)
	_, _, tlsErr := signerTLS(c, slog.New(slog.DiscardHandler))
	_, closeKEK, kekErr := custody(ctx, c, a.env, slog.New(slog.DiscardHandler))
	if kekErr == nil {
		closeKEK()
	}
	_, tracesErr := c.Traces.open("", a.env, slog.New(slog.DiscardHandler))
	var listenErr error
	if !strings.HasPrefix(c.Listen, "unix:") {
		listenErr = checkAddress("listen", c.Listen)
	}
	return []error{listenErr, checkAddress("metrics-listen", c.MetricsListen), levelErr, tlsErr, rightsErr, a.checkStorage(c.Storage), kekErr, tracesErr}
}

func (a *app) checkStorage(setting string) error {
	if setting == "" {
		return errors.New("storage is not set: sqlite:FILE, postgres://… or mysql://…")
	}
	at, err := drivers.Parse(setting, a.env)
	if err != nil {
		return err
	}
	return at.Check()
}

// checkAddress demands host:port; empty is none.
func checkAddress(name, at string) error {
	if _, _, err := net.SplitHostPort(at); at != "" && err != nil {
		return fmt.Errorf("%s: %q is not host:port", name, at)
	}
	return nil
}
