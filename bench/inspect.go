package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/certs"
)

// inspect measures "iechor trust inspect" beside "notary list", both on our
// server and on the same repository, in an empty directory or the second time:
// how long it takes, or how much memory.
func inspect(warm, memory bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (got sample, err error) {
		if s.ours.seed == nil {
			if err := s.plant(ctx, s.ours); err != nil {
				return sample{}, err
			}
		}
		home, err := os.MkdirTemp(s.dir, "inspect-")
		if err != nil {
			return sample{}, err
		}
		gun := string(s.ours.seed.large)
		argv := []string{"notary", "-s", s.ours.url(), "--tlscacert", s.ours.ca, "-d", home, client.List, gun}
		if p == s.ours {
			if argv, err = s.inspector(ctx, home, gun); err != nil {
				return sample{}, err
			}
		}
		var out, problem strings.Builder
		if warm {
			if text, err := command(ctx, s.env, argv...).CombinedOutput(); err != nil {
				return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(string(text)))
			}
		}
		if memory {
			argv = append([]string{s.self, modeRun}, argv...)
		}
		c := command(ctx, s.env, argv...)
		c.Stdout, c.Stderr = &out, &problem
		began := time.Now()
		if err := c.Run(); err != nil {
			return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(problem.String()))
		}
		got = sample{value: time.Since(began).Seconds(), cpu: c.ProcessState.UserTime() + c.ProcessState.SystemTime()}
		for _, i := range []int{0, s.o.tags - 1} {
			if !strings.Contains(out.String(), digest(tagName(i))) {
				return got, fmt.Errorf("%s does not show %s", filepath.Base(argv[0]), tagName(i))
			}
		}
		if memory {
			lines := strings.Split(strings.TrimSpace(problem.String()), "\n")
			if got.value, err = strconv.ParseFloat(lines[len(lines)-1], 64); err != nil {
				return got, err
			}
		}
		return got, os.RemoveAll(home)
	}
}

// begin measures what the program that users call takes before it does
// anything, and to end: "version", 20 times.
func begin(ctx context.Context, s *stage, p *peer) (sample, error) {
	argv := []string{"notary", "version"}
	if p == s.ours {
		if err := s.build(ctx, "cmd/iechor"); err != nil {
			return sample{}, err
		}
		argv = []string{s.program("iechor"), "version"}
	}
	const times = 20
	var cpu time.Duration
	began := time.Now()
	for range times {
		c := command(ctx, s.env, argv...)
		if text, err := c.CombinedOutput(); err != nil {
			return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(string(text)))
		}
		cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	return sample{value: time.Since(began).Seconds() / times, cpu: cpu / times}, nil
}

// inspector returns the command line of our client, for which home is a
// configuration directory.
func (s *stage) inspector(ctx context.Context, home, gun string) ([]string, error) {
	if err := s.build(ctx, "cmd/iechor"); err != nil {
		return nil, err
	}
	host, _, _ := strings.Cut(gun, "/")
	config, err := json.Marshal(map[string]any{"content-trust": map[string]any{"servers": map[string]string{host: s.ours.url()}}})
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.ours.ca)
	if err != nil {
		return nil, err
	}
	tls := certs.Dir(filepath.Join(home, "tls"), s.ours.addr)
	if err := os.MkdirAll(tls, 0o700); err != nil {
		return nil, err
	}
	for file, raw := range map[string][]byte{filepath.Join(home, "config.json"): config, filepath.Join(tls, "ca.crt"): ca} {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			return nil, err
		}
	}
	return []string{s.program("iechor"), "--config", home, "trust", "inspect", gun}, nil
}
