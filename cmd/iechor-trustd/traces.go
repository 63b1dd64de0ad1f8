package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"os"
	"strings"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/traces"
)

// tracesSettings say where traces of requests are sent.
type tracesSettings struct {
	Endpoint string `yaml:"endpoint" usage:"OpenTelemetry collector that traces are sent to, http(s)://HOST:4318; empty: none are made"`
	CA       string `yaml:"ca" usage:"file with the CA certificates that vouch for the collector, PEM"`
	Headers  string `yaml:"headers" usage:"file:PATH or env:NAME of header lines for the collector, such as Authorization: Bearer …"`
	OneIn    int64  `yaml:"one-in" usage:"of how many requests one is traced"`
}

// open makes what traces the requests of a service; nil if none are to be.
func (c tracesSettings) open(service string, env func(string) string, log *slog.Logger) (*traces.Tracer, error) {
	if c.Endpoint == "" {
		if c.CA != "" || c.Headers != "" {
			return nil, errors.New("traces.ca and traces.headers are of no use without traces.endpoint")
		}
		return nil, nil
	}
	if c.OneIn < 1 {
		return nil, errors.New("traces.one-in must be 1, which is every request, or more")
	}
	name, _ := os.Hostname() // for people; "" if there is none
	config := traces.Config{Endpoint: c.Endpoint, OneIn: c.OneIn, Service: service, Version: version(), Instance: name, Log: log}
	var err error
	if c.CA != "" {
		if config.Roots, err = certPool(c.CA); err != nil {
			return nil, fmt.Errorf("traces.ca: %w", err)
		}
	}
	if c.Headers != "" {
		read, err := reference("traces.headers", c.Headers, env)
		if err != nil {
			return nil, err
		}
		config.Header = func() (http.Header, error) {
			text, err := read()
			if err != nil {
				return nil, err
			}
			return headerLines(text)
		}
		if _, err := config.Header(); err != nil { // now rather than with the first request
			return nil, err
		}
	}
	t, err := traces.New(config)
	if err != nil {
		return nil, fmt.Errorf("traces.endpoint: %w", err)
	}
	return t, nil
}

// headerLines reads lines such as "Authorization: Bearer x". Errors do not show
// them: they are secrets.
func headerLines(text string) (http.Header, error) {
	text = strings.TrimRight(text, "\r\n") + "\r\n\r\n"
	h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(text))).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) || len(h) == 0 {
		return nil, errors.New(`traces.headers must hold lines such as "Authorization: Bearer TOKEN"`)
	}
	return http.Header(h), nil
}

// traceDatabase makes spans of the transactions of what is traced.
func traceDatabase(db *database.DB) {
	db.Around = func(ctx context.Context, what string) (context.Context, func(error)) {
		ctx, span := traces.Start(ctx, traces.Client, "database "+what)
		span.Text("db.system.name", db.Dialect().String())
		return ctx, span.End
	}
}
