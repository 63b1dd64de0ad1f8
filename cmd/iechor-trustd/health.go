package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthPatience is how long "health" waits for the answer.
const healthPatience = 10 * time.Second

func newHealthCmd(a *app) *cobra.Command {
	var file string
	var ready bool
	config := defaultServerConfig()
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask a server or signer on this machine how it is",
		Long: `Example: iechor-trustd health --config /etc/iechor-trustd/server.yaml

Asks the server or signer of this configuration at its metrics-listen whether it
answers; with --ready, whether it can do its work. Status 0: yes. It is meant for
health checks of containers, which have no other program in them.`,
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := monitorOf(file, func(config any) error { return load(config, file, a.env, c.Flags()) })
			if err != nil {
				return err
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			return a.health(c.Context(), "http://"+at+path)
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file of the server or the signer, YAML")
	c.Flags().BoolVar(&ready, "ready", false, "ask whether store and signer can be used, too")
	addFlags(c.Flags(), config, "metrics-listen")
	return c
}

// monitorOf returns where a configuration has health served, for those who ask
// on the same machine.
func monitorOf(file string, load func(any) error) (string, error) {
	server, signer := defaultServerConfig(), defaultSignerConfig()
	var config any = server
	if file != "" {
		ofSigner, err := isSignerConfig(file)
		if err != nil {
			return "", err
		}
		if ofSigner {
			config = signer
		}
	}
	if err := load(config); err != nil {
		return "", err
	}
	at := server.MetricsListen + signer.MetricsListen
	if at == "" {
		return "", errors.New("metrics-listen is not set: health is asked there; set it in the file, or name it with --metrics-listen HOST:PORT")
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "", checkAddress("metrics-listen", at)
	}
	if ip := net.ParseIP(host); host == "" || ip.Equal(net.IPv4zero) {
		host = "127.0.0.1"
	} else if ip.Equal(net.IPv6zero) {
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// health asks at url, and says what the answer was if it was not well.
func (a *app) health(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// What is asked is on this machine, whatever proxies the environment names.
	r, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("nobody answers at %s: is it running, and is this its metrics-listen? %w", url, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, r.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(a.out, "well")
	return err
}
