package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/iechor/trust/sandbox"
)

// The modes are what bench runs itself as: a server of one static file, our
// services in one process that can be profiled, and a program whose memory is
// measured.
const (
	modeStatic = "static"
	modeServe  = "serve"
	modeRun    = "run"
)

func isMode(name string) bool { return name == modeStatic || name == modeServe || name == modeRun }

func runMode(ctx context.Context, mode string, args []string, out io.Writer) error {
	if mode == modeRun && len(args) > 0 {
		return runMeasured(ctx, args, out)
	}
	f := flag.NewFlagSet(mode, flag.ContinueOnError)
	dir := f.String("d", "", "the sandbox's folder")
	addr := f.String("addr", "", "address to listen on")
	cert := f.String("cert", "", "certificate file")
	key := f.String("key", "", "file of its key")
	profile := f.String("cpuprofile", "", "file for a CPU profile")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case mode == modeStatic && f.NArg() == 1:
		return serveStatic(ctx, *addr, *cert, *key, f.Arg(0))
	case mode == modeServe && f.NArg() == 0:
		return serveProfiled(ctx, *dir, *addr, *profile)
	}
	return errors.New("wrong arguments; bench itself calls this")
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

// runMeasured runs a program and writes, as the last line of standard error,
// the most memory it had, in bytes. This process is smaller than what it
// measures: a program's peak counts from the process that starts it.
func runMeasured(ctx context.Context, argv []string, out io.Writer) error {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdout, c.Stderr = out, os.Stderr
	if err := c.Run(); err != nil {
		return err
	}
	peak, ok := peakMemory(c.ProcessState)
	if !ok {
		peak = math.NaN()
	}
	_, err := fmt.Fprintf(os.Stderr, "%f\n", peak)
	return err
}
