package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// serverConfig is the configuration of "iechor-trustd server".
type serverConfig struct {
	Listen    string           `yaml:"listen" usage:"address to listen on, host:port"`
	TLS       certificateFiles `yaml:"tls"`
	Plaintext bool             `yaml:"plaintext" usage:"serve without TLS, behind something that adds it"`
	Auth      authSettings     `yaml:",inline"`
	Storage   string           `yaml:"storage" usage:"where trust data is kept: sqlite:FILE, postgres://… or mysql://…"`
	Signer    signerAddress    `yaml:"signer"`
	Prefixes  []string         `yaml:"prefixes" usage:"serve only repositories whose names begin so; each ends in a slash"`
	MaxAge    struct {
		Current    duration `yaml:"current" usage:"how long caches may keep current files (0s: not at all)"`
		Consistent duration `yaml:"consistent" usage:"how long caches may keep files addressed by hash or version (0s: not at all)"`
	} `yaml:"max-age"`
	Lifetime struct {
		Snapshot  duration `yaml:"snapshot" usage:"life of the snapshots that the server signs"`
		Timestamp duration `yaml:"timestamp" usage:"life of timestamps"`
	} `yaml:"lifetime"`
	Retention   retention `yaml:"retention"`
	Idle        duration  `yaml:"idle" usage:"repositories unread for so long are renewed at their next read, not ahead of time (0s: always ahead)"`
	KeyType     string    `yaml:"key-type" usage:"of new snapshot and timestamp keys: ecdsa or ed25519"`
	VersionStep int64     `yaml:"version-step" usage:"largest step between the versions of consecutive files"`
	Limit       struct {
		Requests          int64 `yaml:"requests" usage:"requests a second of one client (0: no limit)"`
		Changes           int64 `yaml:"changes" usage:"uploads, deletions and questions for keys a second of one client (0: no limit)"`
		RepositoryChanges int64 `yaml:"repository-changes" usage:"the same for one repository, by all clients together (0: no limit)"`
		Uploads           int64 `yaml:"uploads" usage:"uploads that may be under way at once"`
		Cache             int64 `yaml:"cache" usage:"MiB of memory for files that are asked for (timestamps, and files above 64 KiB, are not counted)"`
	} `yaml:"limit"`
	Traces tracesSettings `yaml:"traces"`

	MetricsListen string   `yaml:"metrics-listen" usage:"address for health and metrics alone, host:port, without TLS"`
	DrainDelay    duration `yaml:"drain-delay" usage:"how long requests are still taken after SIGTERM, while /readyz says 503"`
	LogLevel      string   `yaml:"log-level" usage:"debug, info, warn or error"`
}

// retention says how long the store keeps what is no longer current.
type retention struct {
	Superseded duration `yaml:"superseded" usage:"how long targets, delegations and snapshots are kept after a newer one came"`
	Timestamps duration `yaml:"timestamps" usage:"how long timestamps are kept after a newer one came"`
	Deleted    duration `yaml:"deleted" usage:"how long a deleted or reset repository can be looked at and restored"`
	Changes    duration `yaml:"changes" usage:"how long records of the changefeed are kept (0s: for ever)"`
}

// config is r as the store takes it.
func (r retention) config() (storage.Config, error) {
	for _, s := range settings(reflect.ValueOf(&r).Elem()) {
		if s.value.Int() == 0 && s.flag() != "changes" {
			return storage.Config{}, fmt.Errorf("retention.%s must be longer than 0s: readers hold files that point at what was superseded, and deletions can be taken back only while it is kept", s.flag())
		}
	}
	return storage.Config{Superseded: time.Duration(r.Superseded), Timestamps: time.Duration(r.Timestamps),
		Deleted: time.Duration(r.Deleted), Changes: time.Duration(r.Changes)}, nil
}

const maxCache = 1 << 20 // MiB

// limits are those of the configuration as the server takes them.
func (c *serverConfig) limits() (server.Limits, server.Rates, error) {
	if c.Limit.Uploads < 1 {
		return server.Limits{}, server.Rates{}, errors.New("limit.uploads must be 1 or more: nothing could be published")
	}
	if c.Limit.Cache < 1 || c.Limit.Cache > maxCache {
		return server.Limits{}, server.Rates{}, fmt.Errorf("limit.cache must be 1 to %d MiB", maxCache)
	}
	return server.Limits{Step: c.VersionStep, Uploads: int(c.Limit.Uploads), CacheBytes: c.Limit.Cache << 20},
		server.Rates{Requests: int(c.Limit.Requests), Changes: int(c.Limit.Changes), RepositoryChanges: int(c.Limit.RepositoryChanges)}, nil
}

// signerAddress says how a server reaches its signer.
type signerAddress struct {
	URL         string `yaml:"url" usage:"the signer: https://HOST:PORT, or unix:PATH"`
	CA          string `yaml:"ca" usage:"file with the CA certificates that vouch for the signer"`
	Certificate string `yaml:"certificate" usage:"file with the certificate that this server shows the signer"`
	Key         string `yaml:"key" usage:"file with that certificate's private key"`
}

func defaultServerConfig() *serverConfig {
	c := &serverConfig{Listen: "127.0.0.1:4443", KeyType: string(tuf.ECDSA), VersionStep: 1, LogLevel: "info", Auth: defaultAuthSettings()}
	c.MaxAge.Current, c.MaxAge.Consistent = duration(5*time.Minute), duration(30*24*time.Hour)
	c.Lifetime.Snapshot, c.Lifetime.Timestamp = duration(365*24*time.Hour), duration(3*24*time.Hour)
	c.Retention.Superseded, c.Retention.Timestamps = duration(storage.DefaultSuperseded), duration(storage.DefaultTimestamps)
	c.Retention.Deleted = duration(storage.DefaultDeleted)
	c.Idle = duration(60 * 24 * time.Hour)
	c.Limit.Requests, c.Limit.Changes, c.Limit.RepositoryChanges, c.Limit.Uploads = 2000, 200, 50, 100
	c.Limit.Cache = 4
	c.Traces.OneIn = 1
	return c
}

func newServerCmd(a *app) *cobra.Command {
	config := defaultServerConfig()
	var file string
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the trust server",
		Long: `Example: iechor-trustd server --config /etc/iechor-trustd/server.yaml

Runs the trust server until it is told to stop. Every setting of the file is
also a flag and a variable: signer.url, --signer-url, IECHOR_TRUSTD_SIGNER_URL.
Flags stand over variables, variables over the file.`,
	}
	c.Flags().StringVar(&file, "config", "", "configuration file, YAML")
	addFlags(c.Flags(), config)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := load(config, file, a.env, c.Flags()); err != nil {
			return err
		}
		return a.server(c.Context(), config, func() (any, error) {
			again := defaultServerConfig()
			return again, load(again, file, a.env, c.Flags())
		})
	}
	return c
}

// server runs the trust server until ctx ends. again reads the configuration
// anew.
func (a *app) server(ctx context.Context, c *serverConfig, again func() (any, error)) error {
	log, levels, err := newLogAt(a.err, c.LogLevel)
	if err != nil {
		return err
	}
	auth, err := c.Auth.open(log, a.now)
	if err != nil {
		return err
	}
	t, certificates, err := serverTLS(c, log)
	if err != nil {
		return err
	}
	if t, err = auth.askClients(t); err != nil {
		return err
	}
	keys, ofSigner, err := dialSigner(c.Signer, log)
	if err != nil {
		return err
	}
	defer keys.Close()
	proxies, err := c.Auth.proxies()
	if err != nil {
		return err
	}
	tracer, err := c.Traces.open("iechor-trust-server", a.env, log)
	if err != nil {
		return err
	}
	limits, rates, err := c.limits()
	if err != nil {
		return err
	}
	kept, err := c.Retention.config()
	if err != nil {
		return err
	}
	store, closeStore, err := a.openStore(ctx, c.Storage, kept)
	if err != nil {
		return err
	}
	defer closeStore()
	traceDatabase(store.Database())
	keys.Verified = new(tuf.Verified)
	s, err := server.New(server.Config{
		Store: store, Keys: keys, Verified: keys.Verified, Auth: auth, Prefixes: c.Prefixes,
		MaxAge:    server.MaxAge{Current: orNever(c.MaxAge.Current), Consistent: orNever(c.MaxAge.Consistent)},
		Lifetimes: server.Lifetimes{Snapshot: time.Duration(c.Lifetime.Snapshot), Timestamp: time.Duration(c.Lifetime.Timestamp)},
		Idle:      orNever(c.Idle),
		Metrics:   processMetrics(store.Database(), tracer),
		NoMetrics: c.MetricsListen != "",
		KeyType:   tuf.KeyType(c.KeyType), Limits: limits, Rates: rates, Proxies: proxies, Traces: tracer, Log: log, Now: a.now,
	})
	if err != nil {
		return err
	}
	stopMonitor, err := serveMonitor(c.MetricsListen, s.Monitor(), log)
	if err != nil {
		return err
	}
	defer stopMonitor() // last: it tells how the stop goes on
	h := server.HTTPServer(s, log)
	h.TLSConfig = t
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("start the trust server: %w", err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log.Info("trust server started", "listen", l.Addr().String(), "tls", !c.Plaintext, "authentication", c.Auth.Authentication, "version", version())
	late, release := draining(ctx, time.Duration(c.DrainDelay), log, s.Drain)
	defer release()
	background, stop := context.WithCancel(late)
	var running sync.WaitGroup
	running.Go(func() { s.Run(background) }) // renews and prunes
	running.Go(func() { tracer.Run(background) })
	running.Go(func() { a.collect(background, s.Published) })
	files := append(slices.Concat(auth.files, certificates, ofSigner), &configFile{c, again, levels, log})
	running.Go(func() { reloadOn(background, hup, files...) })
	running.Go(func() {
		if err := keys.Ping(background); err != nil && background.Err() == nil {
			log.Warn("signer does not answer", "err", err)
		}
	})
	err = serveUntil(late, h, l, log)
	stop()
	running.Wait()
	return err
}

// serverTLS returns what to serve TLS with, nil where plaintext is spelled out,
// and what can be reloaded of it.
func serverTLS(c *serverConfig, log *slog.Logger) (*tls.Config, []interface{ reload() }, error) {
	switch {
	case c.Plaintext && c.TLS != certificateFiles{}:
		return nil, nil, errors.New("both plaintext and tls are configured: choose one")
	case c.Plaintext:
		return nil, nil, nil
	}
	r, err := newReloader("tls", c.TLS, log)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (\"plaintext: true\" serves without TLS, behind something that adds it)", err)
	}
	return &tls.Config{GetCertificate: r.server, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, []interface{ reload() }{r}, nil
}

// orNever turns a configured 0 into "not at all".
func orNever(d duration) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}

// dialSigner returns a client of the signer, and what can be reloaded of it.
func dialSigner(c signerAddress, log *slog.Logger) (*signer.Client, []interface{ reload() }, error) {
	if c.URL == "" {
		return nil, nil, errors.New("signer.url is not set: the server signs nothing by itself")
	}
	if strings.HasPrefix(c.URL, "unix:") {
		if c.CA != "" || c.Certificate != "" || c.Key != "" {
			return nil, nil, errors.New("signer.ca, certificate and key are of no use with a Unix socket: leave them out")
		}
		client, err := signer.Dial(c.URL, nil)
		return client, nil, err
	}
	if c.CA == "" {
		return nil, nil, errors.New("signer.ca is not set: without it the signer could be anybody")
	}
	authorities, err := watchFile("signer's authorities", log, parsePool, c.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("signer.ca: %w", err)
	}
	r, err := newReloader("signer", certificateFiles{c.Certificate, c.Key}, log)
	if err != nil {
		return nil, nil, err
	}
	client, err := signer.Dial(c.URL, func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authorities.get(), GetClientCertificate: r.client}
	})
	if err != nil {
		return nil, nil, err
	}
	return client, []interface{ reload() }{r, authorities, idle{client}}, nil
}

// idle are the connections of a client that are not used at the moment. To
// reload them ends them, so that the next ones are made with what files say now.
type idle struct{ *signer.Client }

func (i idle) reload() { i.Close() }

func newLog(w io.Writer, level string) (*slog.Logger, error) {
	log, _, err := newLogAt(w, level)
	return log, err
}

// newLogAt also returns the level, which can be changed.
func newLogAt(w io.Writer, level string) (*slog.Logger, *slog.LevelVar, error) {
	l, err := parseLevel(level)
	if err != nil {
		return nil, nil, err
	}
	at := new(slog.LevelVar)
	at.Set(l)
	return slog.New(slog.NewJSONHandler(logWriter{w}, &slog.HandlerOptions{Level: at})), at, nil
}

func parseLevel(text string) (l slog.Level, err error) {
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return l, fmt.Errorf("log-level %q: choose debug, info, warn or error", text)
	}
	return l, nil
}
