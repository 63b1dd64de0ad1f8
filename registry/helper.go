package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A credentialHelper is a program that keeps secrets: iechor-credential-NAME,
// else docker-credential-NAME. Secrets pass through pipes, never through
// arguments (attacks.md G4).
type credentialHelper struct {
	name string
	path string // of search
}

func (c *Credentials) helper(name string) credentialHelper {
	return credentialHelper{name: name, path: c.config.Path}
}

// What helpers say on standard output when they do not have an entry.
const helperHasNone = "credentials not found in native keychain"

const helperPatience = 2 * time.Minute // helpers may ask the user

func (h credentialHelper) get(ctx context.Context, key string) (Credential, error) {
	out, err := h.run(ctx, "get", key)
	if err != nil || out == nil {
		return Credential{}, err
	}
	var answer struct{ ServerURL, Username, Secret string }
	if json.Unmarshal(out, &answer) != nil {
		return Credential{}, h.failed("its answer cannot be read")
	}
	if answer.Username == "<token>" {
		return Credential{IdentityToken: answer.Secret}, nil
	}
	return Credential{Username: answer.Username, Password: answer.Secret}, nil
}

func (h credentialHelper) store(ctx context.Context, key string, cred Credential) error {
	entry := struct{ ServerURL, Username, Secret string }{key, cred.Username, cred.Password}
	if cred.IdentityToken != "" {
		entry.Username, entry.Secret = "<token>", cred.IdentityToken
	}
	raw, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, "store", string(raw))
	return err
}

func (h credentialHelper) erase(ctx context.Context, key string) error {
	_, err := h.run(ctx, "erase", key)
	return err
}

// run calls the helper and returns its standard output; nil if the helper has
// no such entry.
func (h credentialHelper) run(ctx context.Context, verb, input string) ([]byte, error) {
	program, err := h.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, helperPatience)
	defer cancel()
	out := &bounded{left: maxConfig}
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout = out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		said := strings.TrimSpace(out.String())
		if said == helperHasNone {
			return nil, nil
		}
		if verb == "get" || said == "" {
			said = err.Error() // what a helper printed may be a secret
		}
		return nil, h.failed(clean(said))
	}
	if out.left < 0 {
		return nil, h.failed("its answer is too long")
	}
	return out.Bytes(), nil
}

func (h credentialHelper) failed(why string) error {
	return fmt.Errorf("%w: credential helper %s: %s", ErrCredentials, clean(h.name), why)
}

// validHelper reports whether s is [A-Za-z0-9][A-Za-z0-9._-]{0,63}.
func validHelper(s string) bool { return len(s) <= 64 && validTag(s) && s[0] != '_' }

// find looks for the program in the search path only: the name comes from a
// file, and must not lead elsewhere.
func (h credentialHelper) find() (string, error) {
	if !validHelper(h.name) {
		return "", h.failed("not a name")
	}
	for _, prefix := range []string{"iechor-credential-", "docker-credential-"} {
		if h.path == "" {
			if p, err := exec.LookPath(prefix + h.name); err == nil {
				return p, nil
			}
			continue
		}
		for _, dir := range filepath.SplitList(h.path) {
			if !filepath.IsAbs(dir) {
				continue
			}
			if p, err := exec.LookPath(filepath.Join(dir, prefix+h.name)); err == nil {
				return p, nil
			}
		}
	}
	return "", h.failed("neither iechor-credential-" + h.name + " nor docker-credential-" + h.name + " is in the search path")
}

// A bounded buffer takes everything and keeps as much as it may.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left >= 0 {
		return b.Buffer.Write(p)
	}
	return len(p), nil
}
