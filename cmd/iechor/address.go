package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
)

const serverVariable = "IECHOR_CONTENT_TRUST_SERVER"

// hubTrustServer is the trust server of the hub, whose name is not that of
// its registry (spec/cli.md 1.5).
const hubTrustServer = "https://notary.iechor.io"

// trustServer returns the URL of the trust server for ref (spec/cli.md 3.1),
// and what names it: the variable, else the table in the configuration, else
// the hub's own, else the host of the registry.
func (d *desk) trustServer(ref registry.Ref) (address, origin string, err error) {
	if v := d.getenv(serverVariable); v != "" {
		return v, serverVariable, checkServer(v, serverVariable)
	}
	if v, entry, ok := d.config.server(ref.Repository); ok {
		return v, fmt.Sprintf("%q under content-trust.servers in %s", entry, d.config.path), nil // checked when it was read
	}
	if ref.Hub() {
		return hubTrustServer, "the hub's own", nil
	}
	return "https://" + ref.Host(), "the host of the registry", nil
}

// A serverAddressError says that no trust server can have that address.
type serverAddressError struct {
	address string
	source  string // where it was written
	example string // another address that may have been meant; or empty
}

func (e *serverAddressError) Error() string {
	return fmt.Sprintf("error establishing connection to trust repository: %v, got %s", trust.ErrAddress, printable(e.address))
}

func (e *serverAddressError) Is(target error) bool { return target == trust.ErrAddress }

// checkServer refuses what is no https URL. Even a server on this machine has
// to speak TLS; what its certificate is worth is decided elsewhere.
func checkServer(address, source string) error {
	u, err := url.Parse(address)
	if err == nil && u.Scheme == "https" && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		return nil
	}
	e := &serverAddressError{address: address, source: source}
	switch {
	case err == nil && u.User != nil:
		e.address = u.Redacted() // a password has no business on a screen
		e.example = "https://" + u.Host
	case err == nil && u.Host != "" && u.Scheme == "http":
		e.example = "https://" + u.Host + u.Path
	case !strings.Contains(address, "://") && address != "" && !strings.ContainsAny(address, " \t\r\n"):
		e.example = "https://" + address
	}
	return e
}
