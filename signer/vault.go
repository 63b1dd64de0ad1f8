package signer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A Vault is a key of the transit engine of HashiCorp Vault or OpenBao. It
// implements [KeyEncryption]: data keys are wrapped and unwrapped there, and
// the key never leaves it. What is asked of the server, and which answers are
// understood, stands in doc/operating.md.
//
// Its token is sent to the address that was configured and nowhere else: a
// redirect is an error.
type Vault struct {
	c    VaultConfig
	base string
	http *http.Client
}

// VaultConfig says where the key is and how to get at it.
type VaultConfig struct {
	Address   string         // https://HOST[:PORT]; http only to this machine, as an agent listens there
	Mount     string         // the path of the transit engine
	Key       string         // the name of the key
	Namespace string         // empty: none
	Roots     *x509.CertPool // nil: the system's
	// Token returns the token, each time one is needed: it may have been
	// renewed meanwhile. The result is not kept.
	Token   func() (string, error)
	Timeout time.Duration // of one call with its repetitions; 10 seconds if zero
}

const (
	vaultTimeout = 10 * time.Second
	vaultTries   = 3
	vaultAnswer  = 64 << 10 // bytes that are read of an answer
	vaultPause   = 200 * time.Millisecond
)

var (
	vaultName       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)
	vaultMount      = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}$`)
	vaultCiphertext = regexp.MustCompile(`^vault:v[1-9][0-9]{0,8}:[A-Za-z0-9+/=]+$`)
)

// NewVault makes a Vault. It does not connect yet.
func NewVault(c VaultConfig) (*Vault, error) {
	u, err := url.Parse(c.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q is not the address of a Vault server, such as https://vault.example:8200", c.Address)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return nil, fmt.Errorf("the address of the Vault server must begin with https: over %s its token and the data keys could be read", c.Address)
	case !vaultMount.MatchString(c.Mount) || len(c.Mount) > 100:
		return nil, fmt.Errorf("%q is not the path of a transit engine", c.Mount)
	case !vaultName.MatchString(c.Key):
		return nil, fmt.Errorf("%q is not the name of a transit key", c.Key)
	case strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, fmt.Errorf("%q is not a namespace", c.Namespace)
	case c.Token == nil:
		return nil, errors.New("Vault needs a token")
	case c.Timeout < 0:
		return nil, errors.New("the time limit of Vault is negative")
	}
	if c.Timeout == 0 {
		c.Timeout = vaultTimeout
	}
	return &Vault{c: c, base: u.Scheme + "://" + u.Host, http: &http.Client{
		Transport: &http.Transport{
			// No proxy: what the environment says is not for this connection.
			DialContext:            (&net.Dialer{Timeout: c.Timeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
			TLSHandshakeTimeout:    c.Timeout,
			MaxIdleConns:           2,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ID implements [KeyEncryption]. The address is no part of it: a cluster may
// move.
func (v *Vault) ID() string {
	return "vault:" + strings.TrimPrefix(strings.Trim(v.c.Namespace, "/")+"/", "/") + v.c.Mount + "/" + v.c.Key
}

// Wrap implements [KeyEncryption].
func (v *Vault) Wrap(ctx context.Context, plain []byte) ([]byte, error) {
	var answer struct {
		Ciphertext string `json:"ciphertext"`
	}
	err := v.call(ctx, "encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)}, &answer)
	if err != nil {
		return nil, err
	}
	if !vaultCiphertext.MatchString(answer.Ciphertext) {
		return nil, errors.New("Vault answered with something else than a ciphertext")
	}
	return []byte(answer.Ciphertext), nil
}

// Unwrap implements [KeyEncryption].
func (v *Vault) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	if !vaultCiphertext.Match(wrapped) {
		return nil, errors.New("what is to be unwrapped is no ciphertext of Vault's")
	}
	var answer struct {
		Plaintext []byte `json:"plaintext"` // base64
	}
	if err := v.call(ctx, "decrypt", map[string]string{"ciphertext": string(wrapped)}, &answer); err != nil {
		return nil, err
	}
	return answer.Plaintext, nil
}

// call asks the server, and asks again, within the time limit, what is likely
// to be answered the next time.
func (v *Vault) call(ctx context.Context, operation string, question map[string]string, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	defer clear(body) // G5
	ctx, cancel := context.WithTimeout(ctx, v.c.Timeout)
	defer cancel()
	for try := 1; ; try++ {
		again, err := v.once(ctx, operation, body, answer)
		if err == nil || again == 0 || try == vaultTries || ctx.Err() != nil {
			return err
		}
		wait := again*time.Duration(try) + rand.N(vaultPause)
		if end, _ := ctx.Deadline(); time.Until(end) < wait {
			return err
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// once asks once. again is a pause after which to try again, 0 if that is of no
// use.
func (v *Vault) once(ctx context.Context, operation string, body []byte, answer any) (again time.Duration, err error) {
	path := "/v1/" + v.c.Mount + "/" + operation + "/" + v.c.Key
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, v.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	token, err := v.c.Token()
	if err != nil {
		return 0, fmt.Errorf("token of Vault: %w", err)
	}
	r.Header.Set("X-Vault-Token", token)
	r.Header.Set("X-Vault-Request", "true")
	r.Header.Set("Content-Type", "application/json")
	if v.c.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", v.c.Namespace)
	}
	resp, err := v.http.Do(r)
	if err != nil {
		return vaultPause, fmt.Errorf("reach Vault: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, vaultAnswer+1))
	defer clear(raw) // G5
	switch {
	case err != nil:
		return vaultPause, fmt.Errorf("read the answer of Vault: %w", err)
	case len(raw) > vaultAnswer:
		return 0, fmt.Errorf("the answer of Vault has more than %d bytes", vaultAnswer)
	case resp.StatusCode != http.StatusOK:
		return v.refused(resp, path, raw)
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(raw, &envelope) != nil || len(envelope.Data) == 0 || json.Unmarshal(envelope.Data, answer) != nil {
		return 0, errors.New("the answer of Vault is not one of a transit engine")
	}
	return 0, nil
}

// refused explains an answer other than 200.
func (v *Vault) refused(resp *http.Response, path string, raw []byte) (again time.Duration, err error) {
	var e struct {
		Errors []string `json:"errors"`
	}
	said := "nothing more"
	if json.Unmarshal(raw, &e) == nil && len(e.Errors) > 0 {
		said = printable(strings.Join(e.Errors, "; "))
	}
	status := resp.StatusCode
	switch {
	case status >= 300 && status < 400:
		return 0, fmt.Errorf("Vault redirects to %q, where its token is not sent: configure the address of the active node, or one that forwards requests", printable(resp.Header.Get("Location")))
	case status == http.StatusForbidden:
		return 0, fmt.Errorf("Vault denies it (403: %s): the token may have expired, or its policy lacks update on %s", said, strings.TrimPrefix(path, "/v1/"))
	case status == http.StatusNotFound:
		return 0, fmt.Errorf("Vault has no transit engine at %q (404: %s)", v.c.Mount, said)
	case status == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		return 0, errors.New("Vault is sealed (503): have it unsealed")
	case status == http.StatusTooManyRequests:
		wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if err != nil || wait < 1 {
			return vaultPause, fmt.Errorf("Vault is asked too often (429: %s)", said)
		}
		return time.Duration(min(wait, 60)) * time.Second, fmt.Errorf("Vault is asked too often (429: %s)", said)
	case status >= 500 || status == http.StatusPreconditionFailed || status == 472 || status == 473: // a standby, or one that is behind
		return vaultPause, fmt.Errorf("Vault cannot do it now (%d: %s)", status, said)
	}
	return 0, fmt.Errorf("Vault refuses it (%d: %s)", status, said)
}

// printable makes text from elsewhere fit for one line of a log.
func printable(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
