package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// TestFaults has the store fail at each of its calls in turn, before and after
// it did its work, while something is published. Whatever the answer was: what
// is served verifies, and repeating the publish leads to success.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"first publish", "tag", "rotation", "client snapshot"} {
		for _, method := range []string{"Current", "Blob", "Commit"} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/after=%v", kind, method, after), func(t *testing.T) {
					t.Parallel()
					for call := 1; ; call++ {
						if !faultAt(t, kind, storagetest.Fault{Method: method, Call: call, After: after}) {
							return
						}
						if t.Failed() || call > 50 {
							t.Fatalf("at call %d", call)
						}
					}
				})
			}
		}
	}
}

// faultAt publishes with one fault, and reports whether that call was reached.
func faultAt(t *testing.T, kind string, fault storagetest.Fault) bool {
	t.Helper()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	var files []tuf.File
	switch kind {
	case "first publish":
		files = p.first(t, false, tag("new"))
	case "client snapshot":
		if err := w.upload(t, app, p.first(t, true)...); err != nil {
			t.Fatal(err)
		}
		files = p.files(t, tag("new"))
	case "rotation":
		p.init(t, tag("new"))
		files = p.files(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTimestamp, 1, w.key(t, http.MethodPost, app, tuf.RoleTimestamp))})
	default:
		p.init(t)
		files = p.files(t, tag("new"))
	}
	// A server that has just started keeps nothing in memory.
	w2 := newWorldOn(t, w.sql, w.keys.Keys, w.clock, nil)
	p.w, w = w2, w2
	calls := w.store.Calls(fault.Method)
	w.store.Inject(fault)
	err := w.upload(t, app, files...)
	reached := w.store.Calls(fault.Method)-calls >= fault.Call
	w.store.Heal()
	if err != nil {
		if err.Status != http.StatusInternalServerError {
			t.Errorf("fault at %s %d: %v, want a 500 or success", fault.Method, fault.Call, err)
		}
		if d := fmt.Sprint(err.Detail); strings.Contains(d, "injected") {
			t.Errorf("the answer tells of the inside: %s", d)
		}
	}
	if !reached {
		if err != nil {
			t.Errorf("no fault was reached, and the upload was refused: %v", err)
		}
		return false
	}
	// What the client does that got a 500: the same again, and if that is too
	// old, a look whether its change is there.
	if err != nil {
		if again := w.upload(t, app, files...); again != nil && again.Code != api.Version {
			t.Errorf("again after a fault at %s %d: %v", fault.Method, fault.Call, again)
		}
	}
	p.clone().hasTags(t, "targets", "new")
	p.publish(t, tag("next"))
	p.hasTags(t, "targets", "new", "next")
	return true
}

// A lost answer of a commit that has happened is success, not a clash.
func TestCommitAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	files := p.files(t, tag("1"))
	w.store.Inject(storagetest.Fault{Method: "Commit", Call: 1, After: true})
	if err := w.upload(t, app, files...); err != nil {
		t.Errorf("upload whose commit was reported to fail and has happened = %v, want success", err)
	}
	if !strings.Contains(w.log.String(), "commit was reported to fail, and has happened") {
		t.Error("the log says nothing of it")
	}
	p.hasTags(t, "targets", "1")
}

// A signer that fails burns versions, never a repository.
func TestSignerFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	for call := 1; call <= 2; call++ { // snapshot, timestamp
		for _, lost := range []bool{false, true} {
			name := fmt.Sprint(call, lost)
			files := p.files(t, tag(name))
			before := w.state(t, app)
			n := 0
			w.keys.onSign(func(api.SignRequest) error {
				if n++; n != call {
					return nil
				}
				if lost {
					w.keys.mu.Lock()
					w.keys.lose = 1
					w.keys.mu.Unlock()
					return nil
				}
				return errSigner
			})
			err := w.upload(t, app, files...)
			w.keys.onSign(nil)
			if err == nil || err.Status != http.StatusInternalServerError || err.Code != api.Unknown {
				t.Errorf("upload without a signer at call %d = %v, want 500 UNKNOWN", call, err)
			}
			if after := w.state(t, app); after.Seq != before.Seq {
				t.Error("something was committed without the signer")
			}
			if err := w.upload(t, app, files...); err != nil {
				t.Errorf("again: %v", err)
			}
		}
	}
	p.hasTags(t, "targets", "1 false", "1 true", "2 false", "2 true")
}

// The commit fails after the signer has signed: those versions are burnt, the
// next ones lie above.
func TestSignedAndNotCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	for range 3 {
		w.store.Inject(storagetest.Fault{Method: "Commit", Call: 1})
		files := p.files(t, tag("1"))
		if err := w.upload(t, app, files...); err == nil || err.Code != api.Updating {
			t.Fatalf("upload with a store that fails = %v, want UPDATING", err)
		}
		w.store.Heal()
		w.clock.pass(1) // other payloads
	}
	p.publish(t, tag("1"))
	p.hasTags(t, "targets", "1")
	if v := w.state(t, app).Roles[tuf.RoleTimestamp].Version; v != 5 {
		t.Errorf("timestamp version %d, want 5: 1 was published, 2 to 4 were signed", v)
	}
}

// A database that was restored from a backup is not signed on: the signer
// knows better, and the log says what to do.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	old := w.state(t, app)
	p.publish(t, tag("1"))
	p.publish(t, tag("2"))
	// The store goes back to what it was.
	dir := t.TempDir()
	store := openStore(t, dir+"/restored.db")
	var files []storage.NewFile
	for role, e := range old.Roles {
		raw, _, err := w.sql.Blob(t.Context(), app, role, e.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, storage.NewFile{File: tuf.File{Role: role, Version: e.Version, Raw: raw}, Expires: e.Expires})
	}
	if _, err := store.Commit(t.Context(), app, nil, files, nil, w.clock.Now(), nil); err != nil {
		t.Fatal(err)
	}
	back := newWorldOn(t, store, w.keys.Keys, w.clock, nil)
	q := newPublisher(t, back, app)
	q.ring = p.ring
	const want = "registry.example/app was published here up to timestamp version 2, and this server has only version 1 left: " +
		"nothing can follow until the operator of this service says whether a backup was restored"
	if err := q.try(t, tag("3")); err == nil || err.Status != http.StatusBadRequest || err.Code != api.NeedsOperator || err.Unwrap() == nil || err.Unwrap().Error() != "An error occurred during validation: "+want {
		t.Errorf("publish on a restored backup = %v, want %s with %s", err, api.NeedsOperator, want)
	}
	if !strings.Contains(back.log.String(), "level=WARN") || !strings.Contains(back.log.String(), want) {
		t.Errorf("the log does not say what happened:\n%s", back.log)
	}
	if got := back.state(t, app); got.Roles[tuf.RoleTimestamp].Version != 1 {
		t.Error("something was committed on a restored backup")
	}
}

// What cannot be read is not "not found": that would start a first publish.
func TestUnreadableIsNotMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	fresh := newWorldOn(t, w.sql, w.keys.Keys, w.clock, nil)
	for _, method := range []string{"Current", "Blob", "Version", "Changes"} {
		fresh.store.Inject(storagetest.Fault{Method: method, Err: errors.New("disk on fire")})
	}
	for _, path := range []string{
		current(app, tuf.RoleRoot), current(app, tuf.RoleTimestamp), "/v2/" + string(app) + "/_trust/tuf/1.root.json",
		keyPath(app, tuf.RoleTimestamp), "/v2/" + string(app) + "/_trust/changefeed?records=1",
	} {
		r := fresh.get(path)
		if r.Code != http.StatusInternalServerError || strings.Contains(r.Body.String(), "fire") {
			t.Errorf("GET %s with a broken store = %d %s", path, r.Code, r.Body)
		}
		var e struct {
			Errors []struct{ Detail struct{ Request string } }
		}
		decode(t, r, &e)
		if id := e.Errors[0].Detail.Request; id == "" || !strings.Contains(fresh.log.String(), id) {
			t.Errorf("GET %s: the log does not know the request id %q", path, id)
		}
	}
	if !strings.Contains(fresh.log.String(), "disk on fire") {
		t.Error("the log does not have the reason")
	}
}
