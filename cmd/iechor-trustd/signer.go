package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/signer"
)

// signerConfig is the configuration of "iechor-trustd signer".
type signerConfig struct {
	Listen   string           `yaml:"listen" usage:"address to listen on: host:port, or unix:PATH"`
	TLS      certificateFiles `yaml:"tls"`
	ClientCA string           `yaml:"client-ca" usage:"file with the CA certificates that vouch for callers"`
	Storage  string           `yaml:"storage" usage:"where keys and ledger are kept: sqlite:FILE, postgres://… or mysql://…"`

	KeyEncryptionKey     string   `yaml:"key-encryption-key" usage:"file:PATH or env:NAME of 32 bytes, hex or base64; vault:MOUNT/KEY; or a pkcs11: URI"`
	OldKeyEncryptionKeys []string `yaml:"old-key-encryption-keys" usage:"others: former ones until all keys are wrapped anew, and coming ones"`
	KeyLife              duration `yaml:"key-life" usage:"how long a data key that Vault or a token unwrapped stays in memory"`

	KeysOnToken string `yaml:"keys-on-token" usage:"pkcs11: URI of the token on which new keys are made; empty: they are encrypted in the database"`

	Vault struct {
		Address   string   `yaml:"address" usage:"of Vault or OpenBao: https://HOST:PORT"`
		CA        string   `yaml:"ca" usage:"file with the CA certificates of Vault, PEM"`
		Namespace string   `yaml:"namespace" usage:"namespace of the transit engine"`
		Token     string   `yaml:"token" usage:"file:PATH or env:NAME of the token"`
		Timeout   duration `yaml:"timeout" usage:"time limit of one call of Vault"`
	} `yaml:"vault"`

	// Identities lists who may call, and what: sign, create, forget, operate.
	Identities map[string][]string `yaml:"identities"`

	Limit struct {
		Snapshot   duration `yaml:"snapshot" usage:"how far ahead a snapshot may expire"`
		Timestamp  duration `yaml:"timestamp" usage:"how far ahead a timestamp may expire"`
		KeysPerDay int64    `yaml:"keys-per-day" usage:"keys made a day for one role of one repository"`

		Signatures           int64 `yaml:"signatures" usage:"signatures a second for one caller"`
		RepositorySignatures int64 `yaml:"repository-signatures" usage:"signatures a second for one repository"`
		Keys                 int64 `yaml:"keys" usage:"questions for a key a second by one caller"`
		RepositoryKeys       int64 `yaml:"repository-keys" usage:"questions for a key a second for one repository"`
	} `yaml:"limit"`
	AuditRetention duration       `yaml:"audit-retention" usage:"how long entries of the audit log are kept; 0s: for ever"`
	Traces         tracesSettings `yaml:"traces"`

	MetricsListen string   `yaml:"metrics-listen" usage:"address for health and metrics alone, host:port, without TLS"`
	DrainDelay    duration `yaml:"drain-delay" usage:"how long calls are still taken after SIGTERM, while /readyz says 503"`
	LogLevel      string   `yaml:"log-level" usage:"debug, info, warn or error"`
}

func defaultSignerConfig() *signerConfig {
	c := &signerConfig{Listen: "127.0.0.1:7899", LogLevel: "info"}
	c.KeyLife, c.Vault.Timeout = duration(time.Hour), duration(10*time.Second)
	c.Limit.Snapshot, c.Limit.Timestamp, c.Limit.KeysPerDay = duration(400*24*time.Hour), duration(14*24*time.Hour), 100
	c.Limit.Signatures, c.Limit.RepositorySignatures, c.Limit.Keys, c.Limit.RepositoryKeys = 2000, 200, 100, 10
	c.Traces.OneIn = 1
	return c
}

func newSignerCmd(a *app) *cobra.Command {
	config := defaultSignerConfig()
	var file string
	c := &cobra.Command{
		Use:   "signer",
		Short: "Run the signer, which holds timestamp and snapshot keys",
		Long: `Example: iechor-trustd signer --config /etc/iechor-trustd/signer.yaml

Runs the signer until it is told to stop. Run it as another user than the
server, better on another host, where nobody but the servers can reach it. Who
may call stands in the file, under identities. Every other setting is also a
flag and a variable: tls.key, --tls-key, IECHOR_TRUSTD_TLS_KEY. Flags stand over
variables, variables over the file.

Several signers may share one database. To change the key-encryption key while
they run, see "iechor-trustd signer rewrap --help".`,
	}
	c.AddCommand(newRewrapCmd(a))
	c.Flags().StringVar(&file, "config", "", "configuration file, YAML")
	addFlags(c.Flags(), config)
	c.RunE = func(c *cobra.Command, _ []string) error {
		locked, err := signer.Harden()
		if err != nil {
			return fmt.Errorf("shut the process up against its surroundings: %w", err)
		}
		if a.env("GOMAXPROCS") == "" {
			// It signs in one transaction at a time, and waits for most of it.
			// More threads would mostly wake each other.
			runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
		}
		if err := load(config, file, a.env, c.Flags()); err != nil {
			return err
		}
		return a.signer(c.Context(), config, locked, func() (any, error) {
			again := defaultSignerConfig()
			return again, load(again, file, a.env, c.Flags())
		})
	}
	return c
}

// signer runs the signer until ctx ends. locked says whether its memory is
// kept out of swap; again reads the
// configuration anew.
func (a *app) signer(ctx context.Context, c *signerConfig, locked bool, again func() (any, error)) error {
	log, levels, err := newLogAt(a.err, c.LogLevel)
	if err != nil {
		return err
	}
	identities, err := rights(c.Identities)
	if err != nil {
		return err
	}
	t, files, err := signerTLS(c, log)
	if err != nil {
		return err
	}
	tracer, err := c.Traces.open("iechor-signer", a.env, log)
	if err != nil {
		return err
	}
	kek, closeKEK, err := custody(ctx, c, a.env, log)
	if err != nil {
		return err
	}
	defer closeKEK()
	table, closeTable, err := a.openTable(ctx, c.Storage, kek)
	if err != nil {
		return err
	}
	defer closeTable()
	traceDatabase(table.Database())
	name, _ := os.Hostname() // for people; "" if there is none
	up := &upkeep{table: table, id: rand.Text(), host: name + " " + c.Listen, retention: time.Duration(c.AuditRetention), now: a.now, log: log}
	if err := up.present(ctx); err != nil {
		return err
	}
	defer up.absent(ctx)
	s, err := signer.New(signer.Config{
		Table: table, Identities: identities, Now: a.now, Log: log, Metrics: processMetrics(table.Database(), tracer), Traces: tracer,
		Limits: signer.Limits{
			Snapshot: time.Duration(c.Limit.Snapshot), Timestamp: time.Duration(c.Limit.Timestamp), KeysPerDay: int(c.Limit.KeysPerDay),
		},
		Rates: signer.Rates{
			Signatures: int(c.Limit.Signatures), RepositorySignatures: int(c.Limit.RepositorySignatures),
			Keys: int(c.Limit.Keys), RepositoryKeys: int(c.Limit.RepositoryKeys),
		},
	})
	if err != nil {
		return err
	}
	stopMonitor, err := serveMonitor(c.MetricsListen, s.Monitor(), log)
	if err != nil {
		return err
	}
	defer stopMonitor() // last: it tells how the stop goes on
	l, err := listenSigner(c.Listen)
	if err != nil {
		return fmt.Errorf("start the signer: %w", err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log.Info("signer started", "listen", l.Addr().String(), "memory_locked", locked, "version", version())
	late, release := draining(ctx, time.Duration(c.DrainDelay), log, s.Drain)
	defer release()
	background, stop := context.WithCancel(late)
	var running sync.WaitGroup
	running.Go(func() { up.run(background) })
	running.Go(func() { tracer.Run(background) })
	running.Go(func() { a.collect(background, nil) }) // it holds little
	files = append(files, &configFile{c, again, levels, log})
	running.Go(func() { reloadOn(background, hup, files...) })
	err = s.Serve(late, l, t)
	stop()
	running.Wait()
	return err
}

// signerTLS returns what to serve with, nil for a Unix socket, and what can be
// reloaded of it.
func signerTLS(c *signerConfig, log *slog.Logger) (*tls.Config, []interface{ reload() }, error) {
	if strings.HasPrefix(c.Listen, "unix:") {
		if c.TLS != (certificateFiles{}) || c.ClientCA != "" {
			return nil, nil, errors.New("tls and client-ca are of no use on a Unix socket: leave them out")
		}
		if _, ok := c.Identities["unix"]; !ok {
			return nil, nil, errors.New(`identities lacks "unix", who calls over the Unix socket: nobody could call the signer`)
		}
		return nil, nil, nil
	}
	r, err := newReloader("tls", c.TLS, log)
	if err != nil {
		return nil, nil, err
	}
	if c.ClientCA == "" {
		return nil, nil, errors.New("client-ca is not set: without it nobody could show who they are")
	}
	clients, err := watchFile("client authorities", log, parsePool, c.ClientCA)
	if err != nil {
		return nil, nil, fmt.Errorf("client-ca: %w", err)
	}
	t, err := signer.ServerTLS(r.server, clients.get())
	if err != nil {
		return nil, nil, err
	}
	return withClients(t, t.ClientAuth, clients), []interface{ reload() }{r, clients}, nil
}

// listenSigner listens on host:port or unix:PATH. Owner and group may use the
// socket; who reaches it at all is for the mode of its folder.
func listenSigner(where string) (net.Listener, error) {
	path, ok := strings.CutPrefix(where, "unix:")
	if !ok {
		return net.Listen("tcp", where)
	}
	// A signer that was killed leaves its socket behind.
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		c, err := net.Dial("unix", path)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("another process serves on %s", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// rights reads what each identity may do.
func rights(config map[string][]string) (map[string]signer.Rights, error) {
	if len(config) == 0 {
		return nil, errors.New("identities is empty: nobody could call the signer")
	}
	out := make(map[string]signer.Rights, len(config))
	for _, name := range slices.Sorted(maps.Keys(config)) {
		r, err := signer.ParseRights(config[name])
		if err == nil {
			err = r.Check()
		}
		if err != nil {
			return nil, fmt.Errorf("identities: %s: %w", name, err)
		}
		out[name] = r
	}
	return out, nil
}
