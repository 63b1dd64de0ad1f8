package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
)

// errSpeaksTLS has no class of its own: what the request over TLS came to is
// what the user should hear.
var errSpeaksTLS = errors.New("it speaks TLS, so it is not spoken to without")

// speaksPlain allows plain http to a host of this machine only if it does not
// speak TLS at all. go-containerregistry tries http as soon as https is slow;
// how fast a machine is must not decide whether it is spoken to openly. The
// answer is found once for each host. Nothing is sent but the beginning of a
// TLS handshake.
func (g *guard) speaksPlain(ctx context.Context, host string) error {
	g.mu.Lock()
	known, ok := g.plain[host]
	g.mu.Unlock()
	if ok {
		return known
	}
	err := probePlain(ctx, host)
	var open *net.OpError
	if ctx.Err() != nil || errors.As(err, &open) && open.Op == "dial" {
		return err // this says nothing about the host
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.plain == nil {
		g.plain = make(map[string]error)
	}
	g.plain[host] = err
	return err
}

// probePlain returns nil if whoever listens at host answers a TLS handshake
// with something else.
func probePlain(ctx context.Context, host string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	// Whether the certificate is good does not matter here: nobody will be
	// talked to over this connection.
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
	var other tls.RecordHeaderError
	if errors.As(err, &other) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errSpeaksTLS
}
