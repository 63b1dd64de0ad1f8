package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestConfigDocument decodes the example in doc/client-config.md, which has
// every key that there is; the text speaks of every key too.
func TestConfigDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../doc/client-config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(doc), "```json\n")
	example, _, ok := strings.Cut(example, "```\n")
	if !ok {
		t.Fatal("doc/client-config.md has no example")
	}
	c := config{path: filepath.Join(t.TempDir(), "config.json")}
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.path), "owners.pem"), someAuthority(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.decode([]byte(example)); err != nil {
		t.Fatalf("the example of doc/client-config.md: %v", err)
	}
	var file struct {
		Block   map[string]json.RawMessage `json:"content-trust"`
		Pinning map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(example), &file); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file.Block["trust-pinning"], &file.Pinning); err != nil {
		t.Fatal(err)
	}
	known, pinning := keysOf(c.members(nil)), keysOf(c.pinningMembers(nil))
	if diff := cmp.Diff(known, keysOf(file.Block)); diff != "" {
		t.Errorf("the example does not hold every key (-known +example):\n%s", diff)
	}
	if diff := cmp.Diff(pinning, keysOf(file.Pinning)); diff != "" {
		t.Errorf("the example does not hold every key of trust-pinning (-known +example):\n%s", diff)
	}
	_, text, _ := strings.Cut(string(doc), "## The keys\n")
	for _, key := range slices.Concat(known, pinning) {
		if !strings.Contains(text, "| `"+key+"` |") && !strings.Contains(text, "\n- `"+key+"`:") {
			t.Errorf("doc/client-config.md does not explain %q", key)
		}
	}
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// someAuthority returns the certificate of an authority, in PEM form.
func someAuthority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

var typing = regexp.MustCompile(`exec typing (-stdin )?\S+ `)

// withoutTyping returns a story with commands as users give them, who have
// somebody at their terminal.
func withoutTyping(story []byte) string { return typing.ReplaceAllString(string(story), "exec ") }
