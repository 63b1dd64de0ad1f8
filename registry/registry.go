// Package registry names, finds, pushes and pulls images.
//
// ParseRef turns what a user wrote into a Ref, ParseImage names a place on
// this machine (the engine, an OCI layout, a docker archive), and a Client
// moves content between the two: Resolve, Push, Pull.
//
// What it promises: the digest and the size in a Descriptor are computed here
// from the bytes that were moved, never copied from what a registry said; and
// content that does not have the digest it was asked for by is refused with
// ErrDigest and leaves nothing behind under its final name.
//
// What it refuses: plain http to anything but a loopback registry, credentials
// to a host that the registry of the image does not vouch for, redirects of
// anything that is not addressed by its digest, and answers without end.
//
// The package knows nothing of signatures and trust. It prints nothing and
// reads no environment.
//
// Read on: ref.go, image.go, push.go, pull.go; then transport.go (what may be
// contacted), fetch.go (what may be read), layout.go, archive.go, engine.go,
// and credentials.go.
package registry

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"time"
)

// HubName is the host in the names of the hub: `alpine` is
// iechor.io/library/alpine. IndexHubName in a reference is the same host.
const (
	HubName      = "iechor.io"
	IndexHubName = "index.iechor.io"
)

// HubHost is the host that is contacted for repositories of the hub. Names,
// trust data and credentials never see it: it is known in this package only
// (design-amendments.md 24).
const HubHost = "index.docker.io"

// HubCredentials is the name under which credentials of the hub are kept
// (spec/cli.md 2.3).
const HubCredentials = "https://index.iechor.io/v1/"

// A Descriptor identifies content in a registry. Digest and Size, in bytes,
// were computed by this package from the content itself, and MediaType was
// read from it.
type Descriptor struct {
	Digest    Digest
	Size      int64
	MediaType string
}

// Index reports whether the content is a multi-platform index.
func (d Descriptor) Index() bool { return indexTypes[d.MediaType] }

// Progress is one report about work under way.
type Progress struct {
	What   string // the short digest of a layer, or empty for a line about the whole
	Status string // "Pushing", "Pushed", "Layer already exists", "Downloading", "Pull complete", or the engine's own words
	Done   int64  // bytes so far
	Total  int64  // bytes in all, or 0 if that is not known
}

// PushOptions are the choices in a push.
type PushOptions struct {
	// Progress, if not nil, is called as the work goes on, one call at a
	// time. Status words that come from an engine hold printable characters
	// only.
	Progress func(Progress)
}

// PullOptions are the choices in a pull.
type PullOptions struct {
	// Platform says which image of a multi-platform index is wanted. The
	// engine takes its own platform when it is zero; a docker archive, which
	// holds one platform, refuses with ErrPlatform; a layout takes the index
	// whole and refuses a Platform.
	Platform Platform
	Progress func(Progress) // as in PushOptions
}

// Config says how a Client reaches registries and the engine. The zero value
// works: anonymous, system CAs, no proxy, no engine.
type Config struct {
	UserAgent   string       // for example "iEchor-Client/1.0 (linux)"
	Credentials *Credentials // nil: anonymous everywhere
	TLSDir      string       // ~/.iechor/tls; see package certs
	Engine      EngineConfig // see FindEngine

	// Proxy chooses a proxy for a request to a registry, for example
	// http.ProxyFromEnvironment. Nil: none.
	Proxy func(*http.Request) (*url.URL, error)

	// Hub replaces HubHost when not empty.
	Hub string

	// TokenHosts are further hosts, beyond the domain of the registry itself,
	// to which a registry may send us with our credentials for a token.
	TokenHosts []string

	// Stall is how long a transfer may go without a minimum of progress, and
	// the limit for any request that is not about a layer. 0: one minute.
	Stall time.Duration

	testOnlySystem func() (*x509.CertPool, error) // replaces x509.SystemCertPool
}
