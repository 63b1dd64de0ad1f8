package main

import (
	"bufio"
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/signer/signertest"
	"github.com/iechor/trust/tuf"
)

// withVault returns a Vault, and what a signer's configuration says of it.
func withVault(t testing.TB, s *site) (*signertest.Vault, string) {
	t.Helper()
	v := signertest.NewVault(t, "iechor")
	write(t, s.file("vault-ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw})))
	write(t, s.file("signer/token"), v.Token+"\n")
	return v, "\nvault: {address: " + v.URL + ", ca: DIR/vault-ca.crt, token: file:DIR/signer/token}"
}

// Keys move from a file to Vault while two signers run, and publishers go on
// all the time; the rewrap is killed again and again on its way. Afterwards the
// file is not needed, and the log has everything.
func TestRewrapWhileSigning(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vault, more := withVault(t, s)
	const old, next = "\nkey-encryption-key: file:DIR/signer/kek", "\nkey-encryption-key: vault:transit/iechor"
	const alsoOld, alsoNext = "\nold-key-encryption-keys: [file:DIR/signer/kek]", "\nold-key-encryption-keys: [vault:transit/iechor]"
	startTwo := func(more string) (two [2]*process) {
		s.configureSigner(t, more)
		for i := range two {
			two[i] = start(t, "signer", "--config", s.file("signer.yaml"))
		}
		return two
	}
	rewrap := func() (int, string, string) {
		return runProcess(t, nil, "signer", "rewrap", "--config", s.file("signer.yaml"))
	}

	before := startTwo(old)
	s.signerAt.lead(before[0].addr)
	second := newRelay(t)
	second.lead(before[1].addr)
	servers := [2]*process{s.startServer(t), start(t, "server", "--config", s.file("server.yaml"), "--signer-url", "https://"+second.l.Addr().String())}
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), servers[0], "first"); err != nil {
		t.Fatal(err)
	}
	client := s.dial(t, s.ca, s.caller)
	for i := range 250 { // more than one step
		if _, err := client.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, tuf.GUN(fmt.Sprintf("registry.example/app%d", i))); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	acknowledged := make(chan string, 100_000)
	var publishing sync.WaitGroup
	for i := range servers {
		publishing.Go(func() {
			mine := p.clone()
			for n := 0; ctx.Err() == nil; n++ {
				tag := fmt.Sprintf("%d-%d", i, n)
				if err := mine.publish(t.Context(), servers[i], tag); err == nil {
					acknowledged <- tag
				} // else a signer is being replaced, and the server says 5xx
			}
		})
	}
	tags := []string{"first"}
	// goOn waits until publishers have got something through from now on.
	goOn := func() {
		t.Helper()
		for len(acknowledged) > 0 {
			tags = append(tags, <-acknowledged)
		}
		for range 3 { // the first may be from before
			select {
			case tag := <-acknowledged:
				tags = append(tags, tag)
			case <-time.After(patience):
				t.Fatal("nothing is published any more")
			}
		}
	}
	replace := func(was [2]*process, more string) [2]*process {
		t.Helper()
		now := startTwo(more)
		s.signerAt.lead(now[0].addr)
		second.lead(now[1].addr)
		for _, one := range was {
			one.stop()
		}
		goOn()
		return now
	}

	s.configureSigner(t, more+next+alsoOld)
	status, out, errs := rewrap()
	sentence(t, "rewrap beside signers that lack the new key", status, out, errs, "does not know the new key-encryption key")
	learned := replace(before, more+old+alsoNext)
	s.configureSigner(t, more+next+alsoOld)
	status, out, errs = rewrap()
	if status != exitFailed || out != "" || !strings.Contains(errs, "still wraps new keys under a former key-encryption key: start it with the new one") {
		t.Errorf("rewrap beside signers that wrap under the former key = %d %q %q", status, out, errs)
	}
	goOn() // they read what was moved
	changed := replace(learned, more+next+alsoOld)
	vault.Rotate("iechor")
	for range 4 { // killed on its way, each time to yet another data key
		c := program(t, nil, "signer", "rewrap", "--new-data-key", "--config", s.file("signer.yaml"))
		said, err := c.StderrPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || !strings.Contains(line, " keys moved") {
			t.Errorf("rewrap says %q, %v", line, err)
		}
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	}
	status, out, errs = rewrap()
	if status != 0 || !strings.Contains(out, "all are under vault:transit/iechor now\nnot needed any more: ") {
		t.Errorf("rewrap = %d %q %q", status, out, errs)
	}
	vault.Withdraw("iechor")
	goOn()
	if err := os.Remove(s.file("signer/kek")); err != nil {
		t.Fatal(err)
	}
	last := replace(changed, more+next)
	cancel()
	publishing.Wait()
	close(acknowledged)
	for tag := range acknowledged {
		tags = append(tags, tag)
	}
	p.has(servers[0], tags...)
	p.has(servers[1], tags...)
	for i := range 250 {
		key, err := client.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
		if err != nil || key.Bytes == nil {
			t.Fatal(err)
		}
	}
	status, out, errs = runProcess(t, nil, "audit", "--config", s.file("signer.yaml"), "--verify")
	if status != 0 || !strings.HasPrefix(out, "entries 1 to ") || errs != "" {
		t.Errorf("audit --verify = %d %q %q", status, out, errs)
	}
	for i := range servers {
		servers[i].stop()
		last[i].stop()
		if log := last[i].log.String(); strings.Contains(log, vault.Token) {
			t.Error("the log has Vault's token")
		}
	}
}

// While Vault is sealed a signer that runs goes on; one that is started signs as
// soon as Vault is unsealed, and says until then what is the matter.
func TestSealedVault(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vault, more := withVault(t, s)
	s.configureSigner(t, more+"\nkey-encryption-key: vault:transit/iechor")
	one := s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	vault.Set(func(v *signertest.Vault) { v.Sealed = true })
	if err := p.publish(t.Context(), server, "2"); err != nil {
		t.Errorf("publish while Vault is sealed: %v", err)
	}
	one.kill()
	one = s.startSigner(t)
	if err := p.publish(t.Context(), server, "3"); refusedBy(err) < 500 {
		t.Errorf("publish by a signer that was started while Vault is sealed = %v, want 5xx", err)
	}
	one.logs("Vault is sealed (503): have it unsealed")
	status, out, errs := runProcess(t, nil, "signer", "rewrap", "--config", s.file("signer.yaml"))
	sentence(t, "rewrap while Vault is sealed", status, out, errs, "key-encryption key cannot be used now: vault:transit/iechor: Vault is sealed (503): have it unsealed")
	vault.Set(func(v *signertest.Vault) { v.Sealed = false })
	err := p.publish(t.Context(), server, "3")
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); { // it is not asked for two seconds
		err = p.publish(t.Context(), server, "3")
	}
	if err != nil {
		t.Fatalf("publish after Vault was unsealed: %v", err)
	}
	p.has(server, "1", "2", "3")
	if strings.Contains(one.log.String(), vault.Token) {
		t.Error("the log has Vault's token")
	}
	one.stop()
	server.stop()
}
