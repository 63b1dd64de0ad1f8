package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// idleCost is the most memory that an idle connection may take.
const idleCost = 64 << 10

// Ten thousand connections that ask once and then stay, and some hundreds that
// never finish their question: the server's memory stays bounded, and it goes
// on publishing and answering.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	want := 10000
	if raceDetector {
		want = 500
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if most := int(min(l.Max, 1<<20)) - 1000; most < want {
		t.Logf("the limit of open files allows %d connections", most)
		want = most
	}
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	before := resident(t, server)
	config := clientTLS(t, s.ca, nil)
	config.NextProtos = []string{"http/1.1"}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	var mu sync.Mutex
	var open []net.Conn // guarded by mu
	hangUp := func() {
		for _, c := range open {
			_ = c.Close() // the server may have been first
		}
	}
	t.Cleanup(hangUp)
	const asked = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	connect := func(send string) error {
		c, err := tls.Dial("tcp", server.addr, config)
		if err != nil {
			return err
		}
		mu.Lock()
		open = append(open, c)
		mu.Unlock()
		if _, err := fmt.Fprint(c, send); err != nil || send != asked {
			return err
		}
		answer := make([]byte, 1<<10)
		if n, err := c.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("answer %q, %v", answer[:n], err)
		}
		return nil
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := i; n < want && !t.Failed(); n += 8 {
				send := asked
				if n%100 == 0 { // half a header, or half a body: of these a hundred are let in
					send = []string{"GET / HTTP/1.1\r\nHost: local", "POST /v2/registry.example/app/_trust/tuf/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x"}[n/100%2]
				}
				if err := connect(send); err != nil {
					t.Errorf("connection %d: %v", n, err)
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if err := p.publish(t.Context(), server, "second"); err != nil {
		t.Errorf("publish beside them: %v", err)
	}
	p.has(server, "first", "second")
	after := resident(t, server)
	t.Logf("measured: %d connections: %d MiB before, %d MiB with them, %.1f KiB for each", want, before>>20, after>>20, float64(after-before)/float64(want)/1024)
	if after > before+want*idleCost && !raceDetector {
		t.Errorf("%d connections take %d bytes, more than %d each", want, after-before, idleCost)
	}
	hangUp()
	server.stop()
	s.sound(t)
}

// resident returns how much memory a process has.
func resident(t *testing.T, p *process) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	var kilobytes int
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
