package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// connections is how many clients ask at once.
const connections = 16

// A load is requests that are sent again and again over TLS connections that
// are kept, one at a time on each. The requests and what is done with the
// answers are as little work as can be, because both sides share the
// processors with it.
type load struct {
	addrs []string // host:port on loopback; connections are spread over them
	tls   *tls.Config
	files []served // asked for in turn; each connection begins at another one
	all   bool     // go on until each file was asked for, however long that takes
}

// A served file is what is asked for, and what the right answer is.
type served struct {
	path   string
	length int64
	sum    [32]byte // SHA-256
}

func serving(path string, body []byte) served {
	return served{path, int64(len(body)), sha256.Sum256(body)}
}

// run connects, calls ready, sends requests for d, or longer if all of them are
// to be sent, and returns how many were answered after that, and in what time.
// An answer other than 200 with a body of the right length is an error, and so
// is a wrong body in the first answer of each connection, which is not counted.
func (l *load) run(ctx context.Context, d time.Duration, ready func()) (answered int64, took time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := make([]*conn, connections)
	patience, share := d+20*time.Second, int64(0)
	if l.all {
		patience, share = d+startTime, int64(len(l.files)/connections+1)
	}
	for i := range conns {
		c, err := l.dial(ctx, i, time.Now().Add(patience))
		if err != nil {
			return 0, 0, err
		}
		defer c.Close()
		conns[i] = c
	}
	var n atomic.Int64
	var running sync.WaitGroup
	ready()
	began := time.Now()
	end := began.Add(d)
	for _, c := range conns {
		running.Go(func() {
			own := int64(0)
			for (own < share || time.Now().Before(end)) && ctx.Err() == nil {
				if err := c.ask(io.Discard); err != nil {
					cancel(err)
					break
				}
				own++
			}
			n.Add(own)
		})
	}
	running.Wait()
	took = time.Since(began)
	if err := context.Cause(ctx); err != nil {
		return 0, 0, err
	}
	return n.Load(), took, nil
}

// A conn is one connection.
type conn struct {
	net.Conn
	files    []served
	requests [][]byte
	next     int
	r        *bufio.Reader
}

// dial connects, asks once, and sees that the answer is the right one.
func (l *load) dial(ctx context.Context, n int, deadline time.Time) (*conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: l.tls}
	addr := l.addrs[n%len(l.addrs)]
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, files: l.files, r: bufio.NewReaderSize(nc, 16<<10), next: n * len(l.files) / connections}
	for _, f := range l.files {
		c.requests = append(c.requests, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", f.path, addr))
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	h := sha256.New()
	first := c.files[c.next]
	if err := c.ask(h); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if [32]byte(h.Sum(nil)) != first.sum {
		return nil, errors.Join(fmt.Errorf("GET %s: answered with another file", first.path), c.Close())
	}
	return c, nil
}

// ask sends the next request and writes the body of the answer to w.
func (c *conn) ask(w io.Writer) error {
	file := &c.files[c.next]
	request := c.requests[c.next]
	c.next = (c.next + 1) % len(c.files)
	if _, err := c.Write(request); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("GET %s: answered with %q", file.path, bytes.TrimSpace(line))
	}
	length := int64(-1) // chunked
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
				return err
			}
		}
	}
	switch {
	case length >= 0:
		_, err = io.CopyN(w, c.r, length)
	default:
		if length, err = io.Copy(w, httputil.NewChunkedReader(c.r)); err == nil {
			_, err = c.r.ReadSlice('\n') // no trailers: nothing but the end
		}
	}
	if err != nil {
		return err
	}
	if length != file.length {
		return fmt.Errorf("GET %s: answered with %d bytes, not %d", file.path, length, file.length)
	}
	return nil
}
