package registry

import (
	"context"
	"crypto/tls"
)

// A Client talks to registries and to the engine. It is safe for concurrent
// use; a push and a pull into one layout directory at the same time are not.
type Client struct{ config Config }

// New returns a client. It contacts nobody.
func New(c Config) *Client { return &Client{config: c} }

// Resolve asks the registry which content ref names, by its digest or its
// tag. It reads the manifest and computes the descriptor from its bytes.
// Errors: ErrNotFound, ErrUnauthorized, ErrUnreachable, ErrRefused,
// ErrUnsupported, ErrDigest.
func (c *Client) Resolve(ctx context.Context, ref Ref) (Descriptor, error) { panic("pending") }

// Push uploads the image from to the repository and tag of to, an index with
// all its children, and returns the descriptor of what is now in the registry
// under that tag, computed here. A to without a tag is pushed by digest only
// (layouts and archives). The engine pushes its own image, named to; then the
// manifest is read back and compared with what the engine says it pushed.
// Further errors: ErrNoImage, ErrAmbiguous, ErrNoEngine, ErrEngine, ErrReference (push of a digest reference).
func (c *Client) Push(ctx context.Context, from Image, to Ref, o PushOptions) (Descriptor, error) {
	panic("pending")
}

// Pull fetches exactly the content want from the repository of from, and puts
// it into to. Of from.Tag only the name is used: the engine's image, the
// layout's entry or the archive's image gets it afterwards, if there is one.
// want.Digest must be set; want.Size and want.MediaType are compared when set.
// After an error nothing new is visible in to. Further errors: ErrPlatform,
// ErrNoEngine, ErrEngine.
func (c *Client) Pull(ctx context.Context, from Ref, want Descriptor, to Image, o PullOptions) error {
	panic("pending")
}

// Local describes an image in the engine.
type Local struct {
	ID      string   // the engine's own name for it
	Digests []Digest // the digests under which it is known in the repository asked for
}

// Inspect asks the engine for ref. Errors: ErrNoImage, ErrNoEngine, ErrEngine.
func (c *Client) Inspect(ctx context.Context, ref Ref) (Local, error) { panic("pending") }

// Tag gives the engine's image from (usually a reference with a digest) the
// name to. Errors: as Inspect.
func (c *Client) Tag(ctx context.Context, from, to Ref) error { panic("pending") }

// Login checks credentials against the registry host, without storing them.
// Errors: ErrUnauthorized, ErrUnreachable, ErrRefused.
func (c *Client) Login(ctx context.Context, host string, cred Credential) error { panic("pending") }

// EngineConfig says where to look for the engine.
type EngineConfig struct {
	Hosts   []string // unix://PATH, npipe://PATH, tcp://HOST:PORT or https://HOST:PORT; the first that answers is used
	CertDir string   // ca.pem, cert.pem, key.pem: tcp is then TLS
}

// FindEngine returns where the environment says the engine is: IECHOR_HOST,
// else DOCKER_HOST (each with _TLS_VERIFY and _CERT_PATH), else the usual
// sockets, Podman's included. home is the user's home directory.
func FindEngine(getenv func(string) string, home string) EngineConfig { panic("pending") }

// A Credential is what a registry or trust server wants to see. The zero
// value means that there is none.
type Credential struct {
	Username, Password string
	IdentityToken      string // instead of a password, to be exchanged for tokens
	RegistryToken      string // sent as it is
}

// Credentials finds, keeps and drops credentials: those in the iEchor
// configuration, else those in Docker's (spec/cli.md 2.3). Safe for concurrent use.
type Credentials struct{ config CredentialsConfig }

// CredentialsConfig says where credentials are.
type CredentialsConfig struct {
	Dir       string // ~/.iechor: config.json is read and written there
	DockerDir string // ~/.docker or $DOCKER_CONFIG: read only; empty: not used
	Path      string // where credential helpers are looked for, as $PATH; empty: the process's own
}

// NewCredentials reads nothing yet: files are read at each call.
func NewCredentials(c CredentialsConfig) *Credentials { return &Credentials{config: c} }

// Lookup returns the credentials for the registry host of an image (Ref.Host:
// also for its trust server). None is the zero Credential and no error. An
// unreadable file or a failing helper matches ErrCredentials.
func (c *Credentials) Lookup(ctx context.Context, host string) (Credential, error) { panic("pending") }

// Store keeps cred for host, in the helper if one is configured, else in
// config.json, with mode 0600; other members of the file are preserved.
func (c *Credentials) Store(ctx context.Context, host string, cred Credential) error {
	panic("pending")
}

// Erase forgets the credentials for host. That there were none is no error.
func (c *Credentials) Erase(ctx context.Context, host string) error { panic("pending") }

// TLSConfig returns the TLS configuration for host (with its port, if any):
// the system's CAs, every *.crt in dir/HOST, and the client certificates in
// its pairs NAME.cert and NAME.key (spec/cli.md 3.2). Half a pair is an error.
// An empty dir, or no directory for this host, adds nothing.
func TLSConfig(dir, host string) (*tls.Config, error) { panic("pending") }

// TLSHostDir returns the directory that TLSConfig reads, for messages.
func TLSHostDir(dir, host string) string { panic("pending") }

var indexTypes = map[string]bool{}
