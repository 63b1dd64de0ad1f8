package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A Credential is what a registry or trust server wants to see. The zero
// value means that there is none.
type Credential struct {
	Username, Password string
	IdentityToken      string // instead of a password, to be exchanged for tokens
	RegistryToken      string // sent as it is
}

// String hides the secrets from logs and messages.
func (c Credential) String() string {
	if c == (Credential{}) {
		return "anonymous"
	}
	return c.Username + " (secret hidden)"
}

// GoString hides the secrets from %#v.
func (c Credential) GoString() string { return c.String() }

// CredentialsConfig says where credentials are.
type CredentialsConfig struct {
	Dir       string // ~/.iechor: config.json is read and written there
	DockerDir string // ~/.docker or $DOCKER_CONFIG: read only; empty: not used
	Path      string // where credential helpers are looked for, in the form of $PATH; empty: the process's own $PATH
}

// Credentials finds, keeps and drops credentials: those in the iEchor
// configuration, else those in Docker's (spec/cli.md 2.3). It is safe for
// concurrent use.
type Credentials struct {
	config CredentialsConfig
	write  sync.Mutex
}

// NewCredentials reads nothing yet: files are read anew at each call.
func NewCredentials(c CredentialsConfig) *Credentials { return &Credentials{config: c} }

// Lookup returns the credentials for the registry host of an image, as
// Ref.Host has it; they are also those for its trust server. None is the zero
// Credential and no error. A file or a helper that is broken matches
// ErrCredentials.
func (c *Credentials) Lookup(ctx context.Context, host string) (Credential, error) {
	return c.lookup(ctx, credentialKey(host))
}

// credentialKey returns the name under which credentials for host are kept.
func credentialKey(host string) string {
	if host == HubName || host == IndexHubName {
		return HubCredentials
	}
	return host
}

func (c *Credentials) lookup(ctx context.Context, key string) (Credential, error) {
	for _, dir := range []string{c.config.Dir, c.config.DockerDir} {
		if dir == "" {
			continue
		}
		f, err := readConfig(filepath.Join(dir, "config.json"))
		if err != nil {
			return Credential{}, err
		}
		cred, err := c.find(ctx, f, key)
		if err != nil || cred != (Credential{}) {
			return cred, err
		}
	}
	return Credential{}, nil
}

// find asks the helper that is responsible, or else the file itself.
func (c *Credentials) find(ctx context.Context, f *configFile, key string) (Credential, error) {
	if h := f.helper(key); h != "" {
		return c.helper(h).get(ctx, key)
	}
	if a, ok := f.Auths[key]; ok {
		return a.credential(key)
	}
	for k, a := range f.Auths {
		if registryName(k) == registryName(key) {
			return a.credential(k)
		}
	}
	return Credential{}, nil
}

// registryName reduces the ways in which clients have written a registry,
// such as https://registry.example.com/v1/, to its host.
func registryName(key string) string {
	if !strings.Contains(key, "://") {
		key = "https://" + key
	}
	u, err := url.Parse(key)
	if err != nil {
		return key
	}
	return strings.ToLower(u.Host)
}

// Store keeps cred for host: in the helper if one is configured, else in
// config.json. Other members of the file are preserved.
func (c *Credentials) Store(ctx context.Context, host string, cred Credential) error {
	key := credentialKey(host)
	return c.change(func(f *configFile) (bool, error) {
		if h := f.helper(key); h != "" {
			return false, c.helper(h).store(ctx, key, cred)
		}
		a := authEntry{IdentityToken: cred.IdentityToken, RegistryToken: cred.RegistryToken}
		if cred.Username != "" {
			a.Auth = base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
		}
		f.Auths[key] = a
		return true, nil
	})
}

// Erase forgets the credentials for host in the iEchor configuration. That
// there were none is no error.
func (c *Credentials) Erase(ctx context.Context, host string) error {
	key := credentialKey(host)
	return c.change(func(f *configFile) (bool, error) {
		if h := f.helper(key); h != "" {
			return false, c.helper(h).erase(ctx, key)
		}
		before := len(f.Auths)
		for k := range f.Auths {
			if k == key || registryName(k) == registryName(key) {
				delete(f.Auths, k)
			}
		}
		return len(f.Auths) != before, nil
	})
}

// change reads the file, lets edit decide, and writes it if edit says so.
func (c *Credentials) change(edit func(*configFile) (bool, error)) error {
	c.write.Lock()
	defer c.write.Unlock()
	file := filepath.Join(c.config.Dir, "config.json")
	f, err := readConfig(file)
	if err != nil {
		return err
	}
	if f.Auths == nil {
		f.Auths = map[string]authEntry{}
	}
	changed, err := edit(f)
	if err != nil || !changed {
		return err
	}
	return f.write(file)
}

// A configFile is what this package knows of config.json, and the rest.
type configFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`

	members map[string]json.RawMessage
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"` // base64 of user:password
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

const maxConfig = 1 << 20 // bytes

func readConfig(file string) (*configFile, error) {
	c := &configFile{members: map[string]json.RawMessage{}}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	defer f.Close()
	raw, err := readAll(f, maxConfig, file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return c, nil
	}
	// The parser's own words could quote a secret.
	if json.Unmarshal(raw, c) != nil || json.Unmarshal(raw, &c.members) != nil {
		return nil, fmt.Errorf("%w: %s cannot be read as a configuration", ErrCredentials, file)
	}
	if c.members == nil { // the file is "null"
		c.members = map[string]json.RawMessage{}
	}
	return c, nil
}

// helper returns the name of the helper responsible for key.
func (f *configFile) helper(key string) string {
	for k, h := range f.CredHelpers {
		if k == key || registryName(k) == registryName(key) {
			return h
		}
	}
	return f.CredsStore
}

func (a authEntry) credential(key string) (Credential, error) {
	c := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" {
		return c, nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		return Credential{}, fmt.Errorf("%w: the entry for %s in auths is not base64 of user:password", ErrCredentials, clean(key))
	}
	c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// write replaces the file as a whole, readable for its owner only. A link is
// followed, so that a file kept elsewhere stays there.
func (f *configFile) write(file string) (err error) {
	auths, err := json.Marshal(f.Auths)
	if err != nil {
		return err
	}
	// However it is spelled, a reader takes it for the same member, and a login
	// that was erased would come back.
	maps.DeleteFunc(f.members, func(name string, _ json.RawMessage) bool { return strings.EqualFold(name, "auths") })
	f.members["auths"] = auths
	raw, err := json.MarshalIndent(f.members, "", "\t")
	if err != nil {
		return err
	}
	if len(raw) >= maxConfig {
		return fmt.Errorf("%w: %s would be larger than %d bytes", ErrCredentials, file, maxConfig)
	}
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(file), ".config-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = t.Close()           // it may be closed already
			_ = os.Remove(t.Name()) // the first error counts
		}
	}()
	if _, err := t.Write(append(raw, '\n')); err != nil {
		return err
	}
	if err := t.Sync(); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return os.Rename(t.Name(), file)
}
