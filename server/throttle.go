package server

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// A throttle counts failed logins by client: a client has burst of them, and
// gets one back every refill. It is safe for concurrent use.
type throttle struct {
	mu      sync.Mutex
	clients map[netip.Prefix]time.Time // guarded by mu: when a client will have all of its tries back
}

const (
	burst      = 20
	refill     = 6 * time.Second
	maxClients = 50_000
)

func newThrottle() *throttle { return &throttle{clients: map[netip.Prefix]time.Time{}} }

// blocked returns how long a client has to wait for its next try.
func (t *throttle) blocked(c netip.Prefix, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole, known := t.clients[c]
	if !known {
		return 0
	}
	return max(0, whole.Sub(now)-(burst-1)*refill)
}

// failed counts a failure of a client.
func (t *throttle) failed(c netip.Prefix, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole, known := t.clients[c]
	if !known && len(t.clients) >= maxClients {
		for other, at := range t.clients {
			if !at.After(now) {
				delete(t.clients, other)
			}
		}
		if len(t.clients) >= maxClients {
			// So many at once are one attacker with many addresses. What is
			// forgotten of them is bounded by the turns at hashing.
			clear(t.clients)
		}
	}
	if whole.Before(now) {
		whole = now
	}
	t.clients[c] = whole.Add(refill)
}

// client returns where a request is from: the nearest address that is not one
// of the proxies, which are believed about whom they forward. Of IPv6 it is the
// network of 64 bits, because one machine has all of that.
func client(r *http.Request, proxies []netip.Prefix) netip.Prefix {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{} // a Unix socket: all of them together
	}
	addr := at.Addr()
	var hops []string
	for _, field := range r.Header["X-Forwarded-For"] {
		hops = append(hops, strings.Split(field, ",")...)
	}
	for len(hops) > 0 && among(addr, proxies) {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[len(hops)-1]))
		if err != nil {
			break
		}
		addr, hops = next, hops[:len(hops)-1]
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits) // a length that an address has
	return network
}

func among(addr netip.Addr, all []netip.Prefix) bool {
	for _, p := range all {
		if p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}
