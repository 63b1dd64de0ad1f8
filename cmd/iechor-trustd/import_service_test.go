package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// copyService runs "import service" at that time.
func copyService(t testing.TB, now time.Time, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e, env: func(string) string { return "" }, now: func() time.Time { return now }}
	status = a.run(t.Context(), append([]string{"import"}, args...))
	return status, o.String(), e.String()
}

// The golden deployment runs in one sandbox, and is copied into another: its
// readers notice nothing, nobody publishes there, and nothing in it is signed.
func TestImportService(t *testing.T) {
	t.Parallel()
	from := newHome(t)
	if status, out, errs := importing(t, oldPassphrase, "--server-db", oldServer, "--signer-db", oldSigner, "--dir", from); status != 0 {
		t.Fatalf("import = %d %q %q", status, out, errs)
	}
	service := startHome(t, from, afterTheMove)
	to := newHome(t)
	var clock atomic.Int64 // what the time is at the copy's server
	clock.Store(afterTheMove().UnixNano())
	now := func() time.Time { return time.Unix(0, clock.Load()).UTC() }
	mirror := startHome(t, to, now) // running, as it would be
	args := func(more ...string) []string {
		return append([]string{"service", service.Trust, "--tls-dir", filepath.Join(from, "config", "tls"), "--dir", to}, more...)
	}

	status, out, errs := copyService(t, now(), args("--changefeed")...)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "7 repositories copied, 0 brought up to date, 0 unchanged\nthe first timestamp expires on 2026-1") {
		t.Fatalf("import = %d %q %q", status, out, errs)
	}
	guns, err := service.Store.GUNs(t.Context(), "", 0)
	if err != nil || len(guns) != 7 {
		t.Fatal(guns, err)
	}
	for _, gun := range guns {
		same(t, service.Store, mirror.Store, gun)
	}
	reader := oldRepository(t, mirror, to, now)
	if _, err := reader.Update(t.Context()); err != nil {
		t.Error(err)
	}
	var clean bytes.Buffer
	checking := &app{out: &clean, err: &clean, env: func(string) string { return "" }, now: now}
	if status := checking.run(t.Context(), []string{"check", "--dir", to}); status != 0 {
		t.Errorf("check = %d %s", status, clean.String())
	}

	// Nobody publishes to the copy, and no key is made or offered for it.
	before, err := mirror.Store.Current(t.Context(), oldApp)
	if err != nil {
		t.Fatal(err)
	}
	_, err = reader.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		return []tuf.Change{tuf.RemoveTarget{Role: tuf.RoleTargets, Name: "no"}, tuf.Resign{Role: tuf.RoleTargets}}, nil
	})
	var refused *trust.ServerRefusal
	if !errors.As(err, &refused) || refused.Err.Code != api.ReadOnly || refused.Err.Status != http.StatusMethodNotAllowed {
		t.Errorf("Publish to the copy = %v, want a refusal", err)
	}
	if _, err := reader.Rotate(t.Context(), trust.Rotation{Role: tuf.RoleTimestamp, Server: true}); !errors.As(err, &refused) || refused.Err.Code != api.ReadOnly {
		t.Errorf("Rotate of the copy = %v, want a refusal", err)
	}

	// What is new there comes with the next run, which leaves the rest alone.
	addTag(t, oldRepository(t, service, from, afterTheMove), "new")
	status, out, errs = copyService(t, now(), args("--gun", string(oldApp), "--changefeed")...)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "0 repositories copied, 1 brought up to date, 6 unchanged\n") {
		t.Fatalf("import = %d %q %q", status, out, errs)
	}
	hasTag(t, reader, "new")

	// When its time is over it is served as it is, and clients refuse it.
	clock.Store(afterTheMove().AddDate(0, 6, 0).UnixNano())
	if _, err := reader.Update(t.Context()); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("Update of a copy that has expired = %v, want ErrExpired", err)
	}
	after, err := mirror.Store.Current(t.Context(), oldApp)
	if err != nil || after.Roles[tuf.RoleTimestamp].Version != before.Roles[tuf.RoleTimestamp].Version+1 {
		t.Errorf("the copy's timestamp is at version %d, %v: it was signed here", after.Roles[tuf.RoleTimestamp].Version, err)
	}

	// Administration knows that nobody signs it here.
	admin := func(args ...string) (int, string) {
		var out bytes.Buffer
		a := &app{out: &out, err: &out, env: func(string) string { return "" }, now: now}
		return a.run(t.Context(), append(append([]string{"admin"}, args...), "--dir", to)), out.String()
	}
	if status, out := admin("expiring", string(oldApp)); status != exitFound || !strings.Contains(out, `"iechor-trustd import service `+service.Trust+`" copies what is newer there`) ||
		strings.Contains(out, "iechor trust ") {
		t.Errorf("admin expiring of a copy that has expired = %d\n%s", status, out)
	}
	clock.Store(afterTheMove().UnixNano())
	if status, out := admin("expiring", string(oldApp)); status != 0 || strings.Contains(out, "iechor trust ") {
		t.Errorf("admin expiring of a copy = %d\n%s", status, out)
	}
	if status, out := admin("keys", string(oldApp)); status != 0 || !strings.Contains(out, "at "+service.Trust+"\n") {
		t.Errorf("admin keys of a copy = %d\n%s", status, out)
	}
	clock.Store(afterTheMove().AddDate(0, 6, 0).UnixNano())

	// The owner takes it over.
	status, out, errs = copyService(t, now(), "release", string(oldApp), "--dir", to)
	if status != 0 || errs != "" || !strings.Contains(out, "can be published to here now") {
		t.Fatalf("release = %d %q %q", status, out, errs)
	}
	owner := oldRepository(t, mirror, to, now)
	if _, err := owner.Update(t.Context()); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("Update before the move = %v, want ErrExpired", err)
	}
	if _, err := owner.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
	addTag(t, owner, "newer")
	if _, err := reader.Update(t.Context()); err != nil {
		t.Errorf("a reader after the move: %v", err)
	}
	hasTag(t, reader, "newer")
	hasTag(t, owner, "new")
	if status, _, errs := copyService(t, now(), args("--gun", string(oldApp))...); status != exitFailed || !strings.Contains(errs, "1 repository was not copied") {
		t.Errorf("import over a repository that lives here = %d %q", status, errs)
	}
}

// same compares every current file and every root of two stores.
func same(t *testing.T, a, b interface {
	Current(ctx context.Context, gun tuf.GUN) (*storage.State, error)
	Version(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version int64) ([]byte, time.Time, error)
}, gun tuf.GUN) {
	t.Helper()
	want, err := a.Current(t.Context(), gun)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Current(t.Context(), gun)
	if err != nil {
		t.Fatal(err)
	}
	for role, e := range want.Roles {
		// What nothing leads to any more is not copied.
		if g, ok := got.Roles[role]; g.SHA256 != e.SHA256 && (ok || !role.Delegation()) {
			t.Errorf("%s of %s was copied as another file", role, gun)
		}
	}
	for v := int64(1); v <= want.Roles[tuf.RoleRoot].Version; v++ {
		w, _, err := a.Version(t.Context(), gun, tuf.RoleRoot, v)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		g, _, err2 := b.Version(t.Context(), gun, tuf.RoleRoot, v)
		if err != nil || err2 != nil || !bytes.Equal(w, g) {
			t.Errorf("root version %d of %s was not copied: %v, %v", v, gun, err, err2)
		}
	}
}

// A service that lies is not copied, and the rest is.
func TestImportServiceRefuses(t *testing.T) {
	t.Parallel()
	from := newHome(t)
	if status, out, errs := importing(t, oldPassphrase, "--server-db", oldServer, "--signer-db", oldSigner, "--dir", from); status != 0 {
		t.Fatalf("import = %d %q %q", status, out, errs)
	}
	service := startHome(t, from, afterTheMove)
	to := newHome(t)
	list := filepath.Join(t.TempDir(), "list")
	write(t, list, "# ours\nacme.example/team/rotated  # with a long chain\n\n"+string(oldApp)+"\nacme.example/team/none\n")
	other := strings.Repeat("ab", 32)
	status, out, errs := copyService(t, afterTheMove(), "service", service.Trust, "--tls-dir", filepath.Join(from, "config", "tls"), "--dir", to,
		"--list", list, "--root-key", string(oldApp)+"="+other, "--jobs", "1")
	if status != exitFailed || !strings.Contains(errs, "2 repositories were not copied") || !strings.Contains(out, "1 repositories copied") {
		t.Errorf("import = %d %q %q", status, out, errs)
	}
	for _, want := range []string{string(oldApp) + ": root of " + string(oldApp), "acme.example/team/none: "} {
		if !strings.Contains(out, want) {
			t.Errorf("import says\n%s, want %q in it", out, want)
		}
	}
	store, done, err := (&app{env: os.Getenv}).openStore(t.Context(), "sqlite:"+filepath.Join(to, "server", "server.db"), storage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := store.Current(t.Context(), oldApp); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a repository with another root was copied: %v", err)
	}
}

func TestImportServiceUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"service"}, "name one service"},
		{[]string{"service", "https://a.example"}, "name either --config FILE or --dir DIR"},
		{[]string{"service", "https://a.example", "--dir", "x"}, "say what to copy"},
		{[]string{"service", "https://a.example", "--dir", "x", "--gun", "../no"}, "is no name of a repository"},
		{[]string{"service", "http://a.example", "--dir", "x", "--gun", "a.example/b"}, "https"},
		{[]string{"service", "https://a.example", "--dir", "x", "--gun", "a.example/b", "--jobs", "0"}, "--jobs must be 1 to 32"},
		{[]string{"service", "https://a.example", "--dir", "x", "--gun", "a.example/b", "--user", "u"}, "belong together"},
		{[]string{"service", "https://a.example", "--dir", "x", "--gun", "a.example/b", "--root-key", "a"}, "PATTERN=ID"},
		{[]string{"release"}, "name one repository"},
	} {
		if status, out, errs := copyService(t, afterTheMove(), tt.args...); status != exitUsage || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("import %q = %d %q %q, want %q", tt.args, status, out, errs, tt.want)
		}
	}
}
