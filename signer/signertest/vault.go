// Package signertest has what tests of a signer need from the world around it:
// [Vault] is a server that behaves like the transit engine of HashiCorp Vault
// and OpenBao.
package signertest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A Vault is a server with one transit engine. It checks requests as the real
// one does, and answers in its words. It is safe for concurrent use.
type Vault struct {
	*httptest.Server
	t testing.TB

	mu        sync.Mutex
	Token     string                 // guarded by mu; the one token with the policy of a signer
	Namespace string                 // guarded by mu; of the engine
	Sealed    bool                   // guarded by mu
	Limited   int                    // guarded by mu: so many requests are refused by a rate limit quota
	Instead   http.HandlerFunc       // guarded by mu: answers instead, if set
	keys      map[string]*transitKey // guarded by mu
	asked     map[string]int         // guarded by mu; by operation
}

type transitKey struct {
	versions []cipher.AEAD // of version 1 and on
	oldest   int           // min_decryption_version
}

// NewVault starts a server, over TLS, with the transit key of that name.
func NewVault(t testing.TB, key string) *Vault {
	t.Helper()
	v := &Vault{t: t, Token: "hvs.signer-" + rand.Text(), keys: map[string]*transitKey{}, asked: map[string]int{}}
	v.Server = httptest.NewUnstartedServer(http.HandlerFunc(v.serve))
	v.Server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it are part of the tests
	v.Server.StartTLS()
	t.Cleanup(v.Server.Close)
	v.Rotate(key)
	return v
}

// Set changes the server.
func (v *Vault) Set(change func(*Vault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

// Rotate adds a version to a key, or makes it.
func (v *Vault) Rotate(key string) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	block, err := aes.NewCipher(raw)
	if err != nil {
		v.t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		v.t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[key] == nil {
		v.keys[key] = &transitKey{oldest: 1}
	}
	v.keys[key].versions = append(v.keys[key].versions, aead)
}

// Withdraw sets min_decryption_version to the newest version of a key.
func (v *Vault) Withdraw(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[key].oldest = len(v.keys[key].versions)
}

// Asked returns how often an operation, encrypt or decrypt, succeeded.
func (v *Vault) Asked(operation string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked[operation]
}

func (v *Vault) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.Instead != nil {
		v.Instead(w, r)
		return
	}
	data, status, said := v.answer(w, r)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	var body any = map[string]any{"errors": []string{said}}
	if status == http.StatusOK {
		sum := sha256.Sum256([]byte(fmt.Sprint(v.asked)))
		body = map[string]any{"request_id": fmt.Sprintf("%x", sum[:8]), "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": nil, "warnings": nil, "auth": nil}
	}
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

func (v *Vault) answer(w http.ResponseWriter, r *http.Request) (data map[string]any, status int, said string) {
	path, _ := strings.CutPrefix(r.URL.Path, "/v1/")
	// Where the real server takes an odd request the fake one fails the test.
	if r.Header.Get("X-Vault-Request") != "true" || r.Method != http.MethodPost || r.URL.RawQuery != "" {
		v.t.Errorf("request to Vault: %s %s, %v", r.Method, r.URL, r.Header)
	}
	if v.Sealed {
		return nil, http.StatusServiceUnavailable, "Vault is sealed"
	}
	if v.Limited > 0 {
		v.Limited--
		w.Header().Set("X-Ratelimit-Limit", "1")
		return nil, http.StatusTooManyRequests, fmt.Sprintf("request path %q: rate limit quota exceeded", path)
	}
	engine, rest, _ := strings.Cut(path, "/")
	operation, name, _ := strings.Cut(rest, "/")
	if engine != "transit" || operation != "encrypt" && operation != "decrypt" || r.Header.Get("X-Vault-Namespace") != v.Namespace {
		return nil, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path)
	}
	key := v.keys[name]
	// To encrypt under a key that is not there is to create it, which this
	// policy does not let.
	if r.Header.Get("X-Vault-Token") != v.Token || key == nil && operation == "encrypt" {
		return nil, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n"
	}
	if key == nil {
		return nil, http.StatusBadRequest, "encryption key not found"
	}
	var q struct {
		Plaintext  *string `json:"plaintext"`
		Ciphertext string  `json:"ciphertext"`
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(raw, &q) != nil {
		return nil, http.StatusBadRequest, "error parsing JSON"
	}
	v.asked[operation]++
	if operation == "encrypt" {
		if q.Plaintext == nil {
			return nil, http.StatusBadRequest, "missing plaintext input to encrypt"
		}
		plain, err := base64.StdEncoding.DecodeString(*q.Plaintext)
		if err != nil {
			return nil, http.StatusBadRequest, "failed to base64-decode plaintext"
		}
		n := len(key.versions)
		sealed := key.versions[n-1].Seal(nil, nil, plain, nil)
		return map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", n, base64.StdEncoding.EncodeToString(sealed)), "key_version": n}, http.StatusOK, ""
	}
	text, ok := strings.CutPrefix(q.Ciphertext, "vault:v")
	if !ok {
		return nil, http.StatusBadRequest, "invalid ciphertext: no prefix"
	}
	digits, text, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(digits)
	sealed, derr := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil || n > len(key.versions):
		return nil, http.StatusBadRequest, "invalid ciphertext: version is too new"
	case n < key.oldest:
		return nil, http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)"
	case derr != nil:
		return nil, http.StatusBadRequest, "invalid ciphertext: could not decode base64"
	}
	plain, err := key.versions[n-1].Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, http.StatusBadRequest, "cipher: message authentication failed"
	}
	return map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}, http.StatusOK, ""
}
