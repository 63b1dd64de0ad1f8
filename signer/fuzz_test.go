package signer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// overSocket is a request of the client on the Unix socket.
func overSocket(method, path string, body []byte) *http.Request {
	r := httptest.NewRequest(method, "/", bytes.NewReader(body))
	r.URL.Path = path
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Net: "unix"}))
}

// FuzzRequest: whatever a server asks of the signer, what comes out is a
// signature of a snapshot or a timestamp of the key's own repository, with a
// version above all that it signed before; and a refusal leaves the ledger as
// it was.
func FuzzRequest(f *testing.F) {
	w := newWorld(f)
	s := newServer(f, w, w, app)
	s.publish(f, "one")
	service := w.service(f, w.table, map[string]Rights{"unix": {Sign: true}})
	handler := service.Handler()
	paths := []string{pathSign, pathHolds, pathFloors, pathPing, pathCreate, pathForget, pathRecall, pathLower, pathBoth}
	// Keys and signatures are others in each process: words stand for them.
	text := base64.StdEncoding.EncodeToString
	sum256, sum512 := sha256.Sum256(s.snapshot), sha512.Sum512(s.snapshot)
	words := []string{
		"{snapshot key}", string(s.snapshotKey.CanonicalID()), "{timestamp key}", string(s.timestampKey.CanonicalID()),
		"{timestamp}", text(s.timestamp), "{snapshot}", text(s.snapshot), "{sha256}", text(sum256[:]), "{sha512}", text(sum512[:]),
	}
	fill := strings.NewReplacer(words...)
	reversed := slices.Clone(words)
	slices.Reverse(reversed)
	blank := strings.NewReplacer(reversed...)
	add := func(path string, v any, payload []byte) {
		raw, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(slices.Index(paths, path)), blank.Replace(string(raw)), blank.Replace(string(payload)))
	}
	next, again := s.snapshotRequest(f, 2, "two"), s.timestampRequest(f, 2, s.snapshot)
	both := bothQuestion{next, api.Successor{Key: s.timestampKey.CanonicalID(), Version: 2, Expires: w.clock().Add(time.Hour)}}
	both.Payload = nil
	add(pathBoth, both, next.Payload)
	for _, q := range []*api.SignRequest{&next, &again} {
		payload := q.Payload
		q.Payload = nil
		add(pathSign, q, payload)
		q.Role = tuf.RoleTargets
		add(pathSign, q, payload)
	}
	add(pathHolds, holdsQuestion{app, tuf.RoleTimestamp, s.timestampKey.CanonicalID()}, nil)
	add(pathFloors, gunQuestion{app}, nil)
	add(pathForget, gunQuestion{app}, nil)
	add(pathCreate, keyQuestion{tuf.ECDSA, tuf.RoleRoot, app}, nil)
	f.Fuzz(func(t *testing.T, n byte, question, payload string) {
		payload = fill.Replace(payload)
		body := []byte(strings.Replace(fill.Replace(question), `"payload":null`, `"payload":"`+text([]byte(payload))+`"`, 1))
		path := paths[int(n)%len(paths)]
		method := http.MethodPost
		if path == pathPing {
			method = http.MethodGet
		}
		before, err := w.Floors(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, overSocket(method, path, body))
		after, err := w.Floors(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		var e wireError
		switch {
		case rec.Code == http.StatusOK:
		case rec.Code < 400 || rec.Code >= 500 || json.Unmarshal(rec.Body.Bytes(), &e) != nil || e.Code == "" || strings.ContainsFunc(e.Message, unicode.IsControl):
			t.Errorf("%s %q is answered with %d %s", path, body, rec.Code, rec.Body)
		}
		if rec.Code != http.StatusOK || path != pathSign && path != pathBoth {
			if !slices.Equal(before, after) {
				t.Errorf("%s %q moved the floors from %v to %v", path, body, before, after)
			}
		}
		if rec.Code != http.StatusOK {
			return
		}
		switch path {
		case pathCreate, pathForget, pathRecall, pathLower:
			t.Errorf("%s is granted without the right to it", path)
		case pathSign:
			q, err := decode[api.SignRequest](body)
			if err != nil {
				t.Fatalf("%q is answered, and cannot be read: %v", body, err)
			}
			var a signAnswer
			if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			m, err := tuf.Payload(q.Role, q.Payload)
			if err != nil || q.GUN != app || q.Role != tuf.RoleSnapshot && q.Role != tuf.RoleTimestamp || m.Expires.After(w.clock().Add(5*366*24*time.Hour)) {
				t.Errorf("signed the %s of %s: %s (%v)", q.Role, q.GUN, q.Payload, err)
			}
			if err := a.Key.Verify(q.Payload, tuf.Signature{Method: a.Method, Value: a.Sig}); err != nil || a.Key.CanonicalID() != q.Key {
				t.Errorf("the signature of %s is not one of its key: %v", q.Payload, err)
			}
		case pathBoth:
			q, err := decode[bothQuestion](body)
			if err != nil {
				t.Fatalf("%q is answered, and cannot be read: %v", body, err)
			}
			var a bothAnswer
			if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			snapshot, err := a.Snapshot.of(nil, q.Key, q.Payload)
			if err != nil || q.GUN != app || q.Role != tuf.RoleSnapshot {
				t.Fatalf("signed the %s of %s: %s (%v)", q.Role, q.GUN, q.Payload, err)
			}
			payload := tuf.TimestampPayload(q.Next.Version, q.Next.Expires, envelope(t, q.Payload, snapshot))
			if _, err := a.Timestamp.of(nil, q.Next.Key, payload); err != nil || q.Next.Expires.After(w.clock().Add(14*24*time.Hour)) {
				t.Errorf("signed the timestamp %s: %v", payload, err)
			}
		}
	})
}

// answering is the other end of a connection, which says what it likes.
type answering struct {
	status int
	header http.Header
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

// FuzzAnswer: a server believes of its signer's answer only what it can check,
// and the signer of Vault's nothing that has not the right form.
func FuzzAnswer(f *testing.F) {
	w := newWorld(f)
	s := newServer(f, w, w, app)
	r := s.snapshotRequest(f, 1, "one")
	sig, err := w.Sign(f.Context(), r)
	if err != nil {
		f.Fatal(err)
	}
	// They are others in each process: words stand for them.
	value, public := base64.StdEncoding.EncodeToString(sig.Value), base64.StdEncoding.EncodeToString(s.snapshotKey.Bytes)
	fill, blank := strings.NewReplacer("{sig}", value, "{public}", public), strings.NewReplacer(value, "{sig}", public, "{public}")
	add := func(status int, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(status, blank.Replace(string(raw)), "")
	}
	add(200, signAnswer{s.snapshotKey, sig.Method, sig.Value})
	add(200, signAnswer{s.timestampKey, sig.Method, sig.Value})
	add(200, bothAnswer{signAnswer{s.snapshotKey, sig.Method, sig.Value}, signAnswer{s.timestampKey, sig.Method, sig.Value}})
	add(200, keyAnswer{s.snapshotKey})
	add(200, holdsAnswer{true})
	for status, e := range map[int]wireError{
		409: {Code: codeFloor, Role: tuf.RoleSnapshot, Floor: 1<<63 - 1}, 429: {Code: codeSlow, After: -1 << 63}, 422: {Code: codeRefused, Message: "no"},
		404: {Code: codeNoKey}, 403: {Code: codeDenied}, 503: {Code: codeBroken}, 412: {Code: codeRestored, Base: -1},
	} {
		add(status, e)
	}
	add(200, object{"data": object{"ciphertext": "vault:v1:AAAA", "plaintext": base64.StdEncoding.EncodeToString([]byte("plain"))}})
	add(404, object{"errors": []string{"\x1b[31m\n"}})
	f.Add(307, "", "https://elsewhere.example/\x1b")
	f.Fuzz(func(t *testing.T, status int, text, location string) {
		body := []byte(fill.Replace(text))
		if status < 200 || status > 599 || status >= 500 && len(body)%2 == 0 || status == http.StatusTooManyRequests {
			return // a pause, to try again
		}
		a := answering{status, http.Header{"Location": {location}}, body}
		c := &Client{base: "https://signer.example", http: &http.Client{Transport: a, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
		if got, err := c.Sign(t.Context(), r); err == nil && s.snapshotKey.Verify(r.Payload, got) != nil {
			t.Errorf("the signature %+v was believed", got)
		}
		next := api.Successor{Key: s.timestampKey.CanonicalID(), Version: 1, Expires: w.clock()}
		if got, _, err := c.SignBoth(t.Context(), r, next); err == nil {
			t.Errorf("the timestamp over a snapshot with %+v was believed, which nobody has signed", got)
		}
		if key, err := c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleSnapshot, app); err == nil {
			if _, err := key.Public(); err != nil {
				t.Errorf("the key %+v was believed: %v", key, err)
			}
		}
		if held, err := c.Holds(t.Context(), app, tuf.RoleSnapshot, s.snapshotKey.CanonicalID()); held && (err != nil || status != http.StatusOK) {
			t.Errorf("Holds = %v, %v by status %d", held, err, status)
		}
		if status >= 500 || status == http.StatusPreconditionFailed || status == 472 || status == 473 {
			return // Vault is asked again, after a pause
		}
		v, err := NewVault(VaultConfig{Address: "https://vault.example", Mount: "transit", Key: "iechor", Roots: x509.NewCertPool(), Timeout: time.Minute,
			Token: func() (string, error) { return "the-token", nil }})
		if err != nil {
			t.Fatal(err)
		}
		v.http = c.http
		for _, call := range []func() ([]byte, error){
			func() ([]byte, error) { return v.Wrap(t.Context(), []byte("plain")) },
			func() ([]byte, error) { return v.Unwrap(t.Context(), []byte("vault:v1:AAAA")) },
		} {
			if out, err := call(); err != nil && (out != nil || strings.ContainsFunc(err.Error(), unicode.IsControl) || strings.Contains(err.Error(), "the-token")) {
				t.Errorf("Vault's answer %d %q becomes %q, %q", status, body, out, err)
			}
		}
		if out, err := v.Wrap(t.Context(), []byte("plain")); err == nil && !vaultCiphertext.Match(out) {
			t.Errorf("Wrap = %q", out)
		}
	})
}

// FuzzExport: of an export of the audit log no byte that matters can be
// changed; and anchors and key-encryption keys come back as they were written.
func FuzzExport(f *testing.F) {
	w := newWorld(f)
	s := newServer(f, w, w, app)
	s.publish(f, "one")
	var honest bytes.Buffer
	if err := ExportAudit(f.Context(), w.table.db, nil, &honest); err != nil {
		f.Fatal(err)
	}
	report, err := VerifyExports([]io.Reader{bytes.NewReader(honest.Bytes())})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, 0, []byte(report.Last.String()))
	f.Add(30, 12, []byte(strings.Repeat("ab", 32)))
	f.Add(honest.Len()/2, 1, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"))
	f.Add(honest.Len()-2, 2, []byte("\n\x1b"))
	f.Fuzz(func(t *testing.T, at, n int, raw []byte) {
		at = min(max(at, 0), honest.Len())
		n = min(max(n, 0), honest.Len()-at)
		edited := slices.Concat(honest.Bytes()[:at], raw, honest.Bytes()[at+n:])
		got, err := VerifyExports([]io.Reader{bytes.NewReader(edited)}, report.Last)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(c rune) bool { return c != '\n' && unicode.IsControl(c) }) {
				t.Errorf("VerifyExports = %q", err)
			}
		} else if got != report {
			t.Errorf("another log holds: %+v, want %+v\n%s", got, report, edited)
		}
		if m, err := ParseAuditAnchor(string(raw)); err == nil {
			if again, err := ParseAuditAnchor(m.String()); err != nil || again != m {
				t.Errorf("anchor %q became %v (%v)", raw, again, err)
			}
		}
		if key, err := ParseKEK(string(raw)); err != nil {
			if len(raw) > 8 && strings.Contains(err.Error(), string(raw)) {
				t.Errorf("ParseKEK = %q", err)
			}
		} else if again, err := ParseKEK(base64.StdEncoding.EncodeToString(key)); len(key) != 32 || err != nil || !bytes.Equal(again, key) {
			t.Errorf("ParseKEK(%q) = %x (%v)", raw, key, err)
		}
	})
}
