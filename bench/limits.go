package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// static measures a server that does nothing but answer with our timestamp's
// bytes: what is left of the processors beside HTTP, TLS and the load.
func static(ctx context.Context, s *stage, p *peer) (sample, error) {
	if s.static == nil {
		if err := s.startStatic(ctx, p.seed.files[tuf.RoleTimestamp].Raw); err != nil {
			return sample{}, err
		}
	}
	n, took, err := s.static.run(ctx, s.o.duration, func() {})
	if err != nil {
		return sample{}, err
	}
	return sample{value: float64(n) / took.Seconds()}, nil
}

func (s *stage) startStatic(ctx context.Context, body []byte) error {
	file := filepath.Join(s.dir, "static")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	service, err := start(s.ctx, &s.running, file+".log", s.env, modeStatic, s.self, modeStatic,
		"-addr", strings.Replace(addr, "localhost", "127.0.0.1", 1), "-cert", s.certs.cert, "-key", s.certs.key, file)
	if err != nil {
		return err
	}
	conf, err := clientTLS(s.certs.ca)
	if err != nil {
		return err
	}
	if err := service.until(ctx, func(ctx context.Context) error {
		d := tls.Dialer{Config: conf}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		return err
	}
	s.static = &load{addrs: []string{addr}, tls: conf, files: []served{serving("/", body)}}
	return nil
}

// signature measures the signature that every publication costs at least.
func signature(context.Context, *stage, *peer) (sample, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sample{}, err
	}
	sum := sha256.Sum256([]byte("bench"))
	const n = 500
	began := time.Now()
	for range n {
		if _, err := ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			return sample{}, err
		}
	}
	return sample{value: time.Since(began).Seconds() / n}, nil
}

// fsync measures what a database's acknowledgement costs at least, where our
// server's lies.
func fsync(ctx context.Context, s *stage, _ *peer) (_ sample, err error) {
	f, err := os.CreateTemp(s.dir, "fsync-")
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 4096)
	var each []float64
	for range 20 {
		if ctx.Err() != nil {
			return sample{}, ctx.Err()
		}
		if _, err := f.Write(page); err != nil {
			return sample{}, err
		}
		began := time.Now()
		if err := f.Sync(); err != nil {
			return sample{}, err
		}
		each = append(each, time.Since(began).Seconds())
	}
	return sample{value: median(each)}, nil
}

// derive measures opening a key file of so many PBKDF2 rounds; 0 is our
// default.
func derive(rounds int) measurement {
	return func(context.Context, *stage, *peer) (sample, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return sample{}, err
		}
		file, err := keys.Seal(key, keys.Info{Role: string(tuf.RoleRoot)}, []byte(client.Passphrase), rounds)
		if err != nil {
			return sample{}, err
		}
		blocks, err := keys.Parse(file)
		if err != nil {
			return sample{}, err
		}
		began := time.Now()
		if _, err := blocks[0].Key([]byte(client.Passphrase)); err != nil {
			return sample{}, err
		}
		return sample{value: time.Since(began).Seconds()}, nil
	}
}
