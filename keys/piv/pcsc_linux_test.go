//go:build piv && cgo

package piv

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/keys/piv/pivtest"
	"github.com/iechor/trust/tuf"
)

// The tests here talk to emulated cards through the real pcscd. libpcsclite
// remembers where that is, so one serves the whole process: its two readers
// have a card each, which the tests take in turns.

var wipe = flag.String("wipe-token", "", "serial number of a real token that the tests may wipe")

// A stack is a daemon with two cards.
type stack struct {
	daemon *pivtest.Daemon
	free   chan *seat
}

// A seat is a reader with its card.
type seat struct {
	name   string // that only this reader's contains
	reader *pivtest.Reader
	card   *pivtest.Card
}

var theStack = sync.OnceValues(func() (*stack, error) {
	d, err := pivtest.Start()
	if err != nil {
		return nil, err
	}
	if err := os.Setenv(pivtest.SocketVariable, d.Socket); err != nil {
		return nil, err
	}
	s := &stack{daemon: d, free: make(chan *seat, len(d.Readers))}
	for i, r := range d.Readers {
		c := pivtest.New(uint32(1000001+i), pivtest.Firmware57)
		r.Insert(c)
		s.free <- &seat{fmt.Sprintf("CCID 00 %02d", i), r, c}
	}
	return s, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if *wipe == "" && pivtest.Missing() == "" {
		if s, err := theStack(); err == nil {
			_ = s.daemon.Stop() // it ends with us in any case
		}
	}
	os.Exit(code)
}

// take returns a reader whose card is in its factory state, until the test
// ends.
func take(t *testing.T, v Version) *seat {
	t.Helper()
	pivtest.Peer(t)
	s, err := theStack()
	if err != nil {
		t.Fatal(err)
	}
	seat := <-s.free
	t.Cleanup(func() { s.free <- seat })
	seat.card.Reset(pivtest.Version{byte(v.Major), byte(v.Minor), byte(v.Patch)})
	return seat
}

// openCard returns a store over an emulated card that is set up.
func openCard(t *testing.T, v Version, c Config) (*Store, *seat) {
	t.Helper()
	seat := take(t, v)
	c.Reader = seat.name
	if c.PINs == nil {
		c.PINs = fixedPIN(testPIN)
	}
	setup(t, pcsc{}, seat.name)
	s := Open(c)
	t.Cleanup(func() { _ = s.Close() })
	return s, seat
}

func TestCard(t *testing.T) {
	t.Parallel()
	for _, v := range firmwares {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			keystest.Run(t, func(t *testing.T) keys.Store {
				s, _ := openCard(t, v, Config{})
				return s
			})
		})
	}
}

// TestToken runs the same on a real token, which it wipes again and again:
//
//	go test -tags piv ./keys/piv -run '^TestToken$' -parallel 1 -wipe-token SERIAL
func TestToken(t *testing.T) {
	if *wipe == "" {
		t.Skip("no real token: -wipe-token SERIAL names one whose keys may be destroyed")
	}
	one := make(chan struct{}, 1)
	keystest.Run(t, func(t *testing.T) keys.Store {
		one <- struct{}{}
		t.Cleanup(func() { <-one })
		c, err := find(context.Background(), pcsc{}, Config{Serial: *wipe, Shared: new(Shared)})
		if err != nil {
			t.Fatalf("token %s: %v", *wipe, err)
		}
		if err := errors.Join(c.(*pcscCard).c.Reset(), c.close()); err != nil {
			t.Fatalf("reset token %s: %v", *wipe, err)
		}
		s := Open(Config{Serial: *wipe, PINs: fixedPIN(testPIN), Place: &Place{Policy: Policy{PINOnce, TouchNever}}})
		err = s.Setup(context.Background(), Secrets{OldPIN: FactoryPIN, PIN: testPIN, OldPUK: FactoryPUK, PUK: testPUK})
		if err != nil {
			t.Fatalf("Setup: %v", err)
		}
		return s
	})
}

// TestService has the real service say what is wrong.
func TestService(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, seat := openCard(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "root").ID

	other := Open(Config{Reader: seat.name, PINs: fixedPIN(testPIN)})
	defer other.Close()
	wantErr(t, "a card that somebody else has open", sign(other, id), keys.ErrTokenBusy)

	seat.card.OnTouch(func(byte) bool { return false })
	wantErr(t, "not touched", sign(s, id), ErrNotTouched)

	seat.card.OnTouch(func(byte) bool { seat.reader.Unplug(); return true })
	wantErr(t, "pulled out during a signature", sign(s, id), keys.ErrTokenGone)
	wantErr(t, "and after it", sign(s, id), keys.ErrTokenGone)
	seat.card.OnTouch(nil)
	seat.reader.Pull()
	again := Open(Config{Reader: seat.name, PINs: fixedPIN(testPIN)})
	defer again.Close()
	_, err := again.Look(ctx)
	wantErr(t, "an empty reader", err, keys.ErrTokenAbsent)
	if found, err := Present(seat.name); err != nil || len(found) != 0 {
		t.Errorf("Present in an empty reader = %v, %v", found, err)
	}
	seat.reader.Insert(seat.card)
	if err := sign(again, id); err != nil {
		t.Errorf("put back in: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	for _, v := range firmwares {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s, seat := openCard(t, v, Config{PINs: &answers{t: t, pins: []string{"000000", testPIN}}})
			st, err := s.Inspect(ctx)
			if err != nil || st.FactoryManagementKey || st.Token.Serial != seat.card.Serial() || st.Token.Tries != 3 {
				t.Errorf("Inspect = %+v, %v", st, err)
			}
			put(t, s, "root")
			wantErr(t, "ChangePIN with a wrong one", s.ChangePIN(ctx, []byte("000000"), []byte("294857")), keys.ErrPIN)
			wantErr(t, "and again", s.ChangePIN(ctx, []byte("000000"), []byte("294857")), keys.ErrPIN)
			wantErr(t, "and once more", s.ChangePIN(ctx, []byte("000000"), []byte("294857")), keys.ErrPINLocked)
		})
	}
}

// TestBlocked: a blocked PIN, and the way out.
func TestBlocked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, seat := openCard(t, Version{4, 3, 5}, Config{})
	id := put(t, s, "alice").ID
	_ = s.Close()
	s = Open(Config{Reader: seat.name, PINs: fixedPIN("000000")})
	t.Cleanup(func() { _ = s.Close() })
	wantErr(t, "three wrong PINs", sign(s, id), keys.ErrPINLocked)
	if token, err := s.Look(ctx); err != nil || !token.Locked {
		t.Errorf("Look = %+v, %v, want a locked token", token, err)
	}
	wantErr(t, "a wrong PUK", s.Unblock(ctx, []byte("00000000"), []byte("294857")), ErrPUK)
	if err := s.Unblock(ctx, []byte(testPUK), []byte("294857")); err != nil {
		t.Fatal(err)
	}
	if err := sign(s, id); err != nil {
		t.Errorf("after Unblock: %v", err)
	}
}

func TestAttest(t *testing.T) {
	t.Parallel()
	for _, v := range firmwares {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s, seat := openCard(t, v, Config{Place: &Place{Policy: Policy{PINAlways, TouchCached}}})
			signer, err := s.GenerateOnToken(ctx, keys.P256, keys.Info{Role: "root"})
			if err != nil {
				t.Fatal(err)
			}
			id := signer.PublicKey().CanonicalID()
			chain, err := s.Attest(ctx, id)
			if err != nil {
				t.Fatalf("Attest: %v", err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(seat.card.Root())
			a, err := Verify(chain, roots)
			want := Attestation{id, a.Serial, v, Policy{PINAlways, TouchCached}, Signature, "Test PIV Root CA"}
			if err != nil || a != want || fmt.Sprint(a.Serial) != seat.card.Serial() {
				t.Errorf("Verify = %+v, %v, want %+v", a, err, want)
			}
			_, err = s.Attest(ctx, put(t, s, "alice").ID)
			wantErr(t, "Attest of a key that came from elsewhere", err, ErrAttestation)
		})
	}
}

// TestRSA: keys of other kinds that can be imported.
func TestRSA(t *testing.T) {
	t.Parallel()
	s, _ := openCard(t, Version{5, 4, 3}, Config{})
	for bits, ok := range map[int]bool{2048: true, 3072: false} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Import(context.Background(), keys.Info{Role: "alice"}, key)
		if !ok {
			wantErr(t, "Import of RSA with 3072 bits", err, tuf.ErrKey)
			continue
		}
		if err != nil {
			t.Fatalf("Import of RSA: %v", err)
		}
		if err := sign(s, info.ID); err != nil {
			t.Error(err)
		}
	}
}

// peer returns how to call a program with the emulated cards, or skips.
func peer(t *testing.T, name, pkg string) func(args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), pkg) {
			t.Fatalf("no %s here, and IECHOR_REQUIRE asks for %s", name, pkg)
		}
		t.Skipf("no %s here: apt-get install %s", name, pkg)
	}
	return func(args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
}

// TestPeers: Yubico's and OpenSC's programs see what we put on a token, and we
// use what they put there. Debian's are too old for AES management keys.
func TestPeers(t *testing.T) {
	t.Parallel()
	s, seat := openCard(t, Version{5, 4, 3}, Config{Place: &Place{Policy: Policy{PINOnce, TouchNever}}})
	tool := peer(t, "yubico-piv-tool", "yubico-piv-tool")
	pkcs11 := peer(t, "pkcs11-tool", "opensc")
	root := put(t, s, "root")
	_ = s.Close()
	take(t, Version{5, 4, 3}) // modules look into all readers, and number them

	status := tool("-r", seat.name, "-a", "status")
	for _, want := range []string{"Serial Number:\t" + seat.card.Serial(), "Slot 9c", "CN=root", "PIN tries left:\t3"} {
		if !strings.Contains(status, want) {
			t.Errorf("yubico-piv-tool -a status does not say %q:\n%s", want, status)
		}
	}
	slot := strings.TrimPrefix(seat.name, "CCID 00 0")
	for _, module := range [][]string{{"--module", ykcs11(t)}, nil} {
		out := pkcs11(append(module, "--slot-index", slot, "-O")...)
		if !strings.Contains(out, "CN=root") {
			t.Errorf("pkcs11-tool %v -O does not show our key:\n%s", module, out)
		}
	}

	s = Open(Config{Reader: seat.name, PINs: fixedPIN(testPIN), AllowFactory: true})
	t.Cleanup(func() { _ = s.Close() })
	if err := sign(s, root.ID); err != nil {
		t.Errorf("after others have looked: %v", err)
	}
}

// TestForeignKey: a key that yubico-piv-tool made signs.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	tool := peer(t, "yubico-piv-tool", "yubico-piv-tool")
	for _, v := range []Version{{4, 3, 5}, {5, 4, 3}} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			seat := take(t, v)
			tool("-r", seat.name, "-a", "generate", "-s", "9a", "-A", "ECCP256", "-o", filepath.Join(t.TempDir(), "pub.pem"))
			tool("-r", seat.name, "-a", "change-pin", "-P", FactoryPIN, "-N", testPIN)
			s := Open(Config{Reader: seat.name, PINs: fixedPIN(testPIN)})
			t.Cleanup(func() { _ = s.Close() })
			infos, err := s.List(context.Background())
			if err != nil || len(infos) != 1 || infos[0].Role != "" {
				t.Fatalf("List = %v, %v, want one key without a role", infos, err)
			}
			if err := sign(s, infos[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// ykcs11 finds Yubico's PKCS#11 module.
func ykcs11(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/libykcs11.so*")
	if err != nil || len(found) == 0 {
		if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "ykcs11") {
			t.Fatal("no libykcs11 here, and IECHOR_REQUIRE asks for ykcs11")
		}
		t.Skip("no libykcs11 here: apt-get install ykcs11")
	}
	return found[0]
}
