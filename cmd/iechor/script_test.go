package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/sandbox"
)

// TestScripts runs the stories in testdata. Each has a sandbox of its own, and
// stands before it: $REGISTRY and $TRUST can be made to misbehave by the
// commands registry and trustserver.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, scripts("testdata"))
}

// scripts are the stories in dir.
func scripts(dir string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			s, err := sandbox.Start(context.Background(), sandbox.Config{})
			if err != nil {
				return err
			}
			w := newWorld(s)
			e.Defer(w.close)
			e.Values[worldKey{}] = w
			for name, value := range map[string]string{
				"HOME": filepath.Join(e.WorkDir, "home"), "STATUS": filepath.Join(e.WorkDir, "status"),
				"REGISTRY": w.registryHost(), "TRUST": w.trust.URL, "TRUSTHOST": strings.TrimPrefix(w.trust.URL, "https://"),
				switchVariable: "1", serverVariable: w.trust.URL,
				"KEYS": keyFiles(), "ROOTVAR": rootPassphraseVariable, "REPOVAR": repositoryPassphraseVariable,
				"IECHOR_HOST": "unix://" + filepath.Join(e.WorkDir, "no-engine.sock"),
			} {
				e.Setenv(name, value)
			}
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "layout": layout, "index": index, "trustserver": trustServer, "registry": registryMode,
			"alter": alter, "passphrases": passphrasesByVariable, "requests": requests, "engine": engine,
			"interrupt": interrupt, "config": configure, "keep": keep, "certificate": serverCertificate, "users": withUsers,
			"leaks": leaks,
		},
	}
}

// keyFiles is where key files made by others are.
func keyFiles() string {
	dir, err := filepath.Abs(filepath.Join("..", "..", "keys", "testdata"))
	if err != nil {
		panic(err)
	}
	return dir
}

type worldKey struct{}

// A world is what one script talks to.
type world struct {
	sandbox  *sandbox.Sandbox
	registry *httptest.Server
	trust    *httptest.Server

	transports []*http.Transport // to the sandbox

	mu         sync.Mutex
	trustMode  string
	timestamps [][]byte      // every one that was served
	asked      []string      // requests to the trust server
	login      string        // user:password that the registry wants
	bent       bool          // the registry changes a byte of every manifest
	hang       chan struct{} // the next upload waits for ever; closed when it does
	hung       chan struct{} // the same; not by mu, since only the script looks at it
}

func newWorld(s *sandbox.Sandbox) *world {
	w := &world{sandbox: s}
	registryURL := &url.URL{Scheme: "http", Host: s.Registry}
	forward := httputil.NewSingleHostReverseProxy(registryURL)
	forward.ErrorLog = quietLog()
	forward.Transport = w.transport()
	w.registry = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		want, bent, hang := w.login, w.bent, w.hang
		if hang != nil && r.Method == http.MethodPost {
			w.hang = nil
			close(hang)
		}
		w.mu.Unlock()
		if hang != nil && r.Method == http.MethodPost {
			<-r.Context().Done()
			return
		}
		if user, password, _ := r.BasicAuth(); want != "" && user+":"+password != want {
			rw.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		if bent && strings.Contains(r.URL.Path, "/manifests/") {
			record := httptest.NewRecorder()
			forward.ServeHTTP(record, r)
			rw.Header().Set("Content-Type", record.Header().Get("Content-Type"))
			rw.WriteHeader(record.Code)
			_, _ = rw.Write(bytes.Replace(record.Body.Bytes(), []byte(`"size":`), []byte(`"size" :`), 1))
			return
		}
		forward.ServeHTTP(rw, r)
	}))
	trustURL, err := url.Parse(s.Trust)
	if err != nil {
		panic(err)
	}
	behind := httputil.NewSingleHostReverseProxy(trustURL)
	behind.Transport = w.transport()
	behind.ModifyResponse = w.keep
	behind.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) }
	w.trust = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.serveTrust(rw, r, behind) }))
	w.trust.Config.ErrorLog = quietLog()
	return w
}

// transport returns one that lives as long as w.
func (w *world) transport() *http.Transport {
	t := &http.Transport{TLSClientConfig: insecure()}
	w.transports = append(w.transports, t)
	return t
}

func (w *world) close() {
	w.registry.Close()
	w.trust.Close()
	for _, t := range w.transports {
		t.CloseIdleConnections() // nobody waits for them then
	}
	if err := w.sandbox.Close(); err != nil {
		panic(err)
	}
}

// registryHost is loopback, so that plain http is allowed.
func (w *world) registryHost() string { return strings.TrimPrefix(w.registry.URL, "http://") }

// keep remembers the timestamps that pass.
func (w *world) keep(r *http.Response) error {
	if r.StatusCode != http.StatusOK || !strings.HasSuffix(r.Request.URL.Path, "/timestamp.json") {
		return nil
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	if r.Header.Get("Content-Encoding") == "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timestamps = append(w.timestamps, raw)
	}
	return nil
}

func (w *world) serveTrust(rw http.ResponseWriter, r *http.Request, behind http.Handler) {
	w.mu.Lock()
	mode := w.trustMode
	w.asked = append(w.asked, r.Method+" "+r.URL.Path)
	var first []byte
	if len(w.timestamps) > 0 {
		first = w.timestamps[0]
	}
	w.mu.Unlock()
	r.Header.Del("Accept-Encoding")
	file := func(name string) bool { return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+name) }
	switch mode {
	case "", "ok":
		behind.ServeHTTP(rw, r)
	case "down":
		panic(http.ErrAbortHandler) // the connection breaks
	case "401", "403", "404", "410", "500", "503":
		var code int
		fmt.Sscan(mode, &code)
		if code == http.StatusUnauthorized {
			rw.Header().Set("WWW-Authenticate", `Basic realm="trust"`)
		}
		body := `{"errors":[{"code":"UNKNOWN","message":"no"}]}`
		if code == http.StatusNotFound {
			body = `{"errors":[{"code":"METADATA_NOT_FOUND","message":"no","detail":null}]}`
		}
		http.Error(rw, body, code)
	case "redirect":
		http.Redirect(rw, r, "https://elsewhere.example.com/", http.StatusFound)
	case "garbage":
		fmt.Fprint(rw, "<html>welcome</html>")
	case "old": // the first timestamp again, with all that it names
		if file("timestamp.json") {
			_, _ = rw.Write(first)
			return
		}
		behind.ServeHTTP(rw, r)
	case "forged timestamp":
		record := httptest.NewRecorder()
		behind.ServeHTTP(record, r)
		raw := record.Body.Bytes()
		if file("timestamp.json") {
			raw = bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":9`), 1)
		}
		rw.WriteHeader(record.Code)
		_, _ = rw.Write(raw)
	case "forged targets":
		record := httptest.NewRecorder()
		behind.ServeHTTP(record, r)
		raw := record.Body.Bytes()
		if strings.Contains(r.URL.Path, "/targets.") {
			raw = bytes.Replace(raw, []byte(`"length":`), []byte(`"length":1`), 1)
		}
		rw.WriteHeader(record.Code)
		_, _ = rw.Write(raw)
	case "forged root":
		record := httptest.NewRecorder()
		behind.ServeHTTP(record, r)
		raw := record.Body.Bytes()
		if file("root.json") {
			raw = bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":2`), 1)
		}
		rw.WriteHeader(record.Code)
		_, _ = rw.Write(raw)
	case "lies": // whoever publishes is told that it is done
		if r.Method == http.MethodPost {
			return
		}
		behind.ServeHTTP(rw, r)
	case "no upload of demo/b":
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/demo/b/") {
			http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusForbidden)
			return
		}
		behind.ServeHTTP(rw, r)
	case "no upload": // whoever may push is told so, and then is refused
		if r.Method == http.MethodPost {
			http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusForbidden)
			return
		}
		behind.ServeHTTP(rw, r)
	default: // "no push": reading alone is allowed
		if r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, ".key") {
			http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusForbidden)
			return
		}
		behind.ServeHTTP(rw, r)
	}
}

func theWorld(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// trustServer sets how the trust server behaves: "trustserver down". With
// "delete NAME" it forgets a repository, as an administrator would have it.
func trustServer(ts *testscript.TestScript, _ bool, args []string) {
	w := theWorld(ts)
	if len(args) == 2 && args[0] == "delete" {
		req, err := http.NewRequest(http.MethodDelete, w.sandbox.Trust+"/v2/"+args[1]+"/_trust/tuf/", nil)
		ts.Check(err)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: insecure(), DisableKeepAlives: true}}
		resp, err := c.Do(req)
		ts.Check(err)
		ts.Check(resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("delete: status %d", resp.StatusCode)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trustMode = strings.Join(args, " ")
}

// requests compares how often the trust server was asked since the last time:
// "requests 1".
func requests(ts *testscript.TestScript, _ bool, args []string) {
	w := theWorld(ts)
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := fmt.Sprint(len(w.asked)); len(args) == 1 && got != args[0] {
		ts.Fatalf("%s requests to the trust server, want %s:\n%s", got, args[0], strings.Join(w.asked, "\n"))
	}
	w.asked = nil
}

// registryMode says which login the registry wants, "registry login
// USER:PASSWORD", or whether it changes manifests on their way: "registry
// bent", "registry straight". The next upload hangs after "registry hang", and
// "registry hung" waits until it does.
func registryMode(ts *testscript.TestScript, _ bool, args []string) {
	w := theWorld(ts)
	if args[0] == "hung" {
		<-w.hung
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch args[0] {
	case "hang":
		w.hang = make(chan struct{})
		w.hung = w.hang
	case "login":
		w.login = args[1]
	default:
		w.bent = args[0] == "bent"
	}
}

// alter changes the last byte of a blob in the registry's storage, and changes
// it back the second time: "alter DIGESTFILE".
func alter(ts *testscript.TestScript, _ bool, args []string) {
	file := theWorld(ts).sandbox.Blob(strings.TrimSpace(ts.ReadFile(args[0])))
	raw, err := os.ReadFile(file)
	ts.Check(err)
	raw[len(raw)-1] ^= 1
	ts.Check(os.Chmod(file, 0o600))
	ts.Check(os.WriteFile(file, raw, 0o600))
}

// status compares the exit status of the last iechor.
func status(ts *testscript.TestScript, _ bool, args []string) {
	if got := ts.ReadFile("status"); got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// passphrasesByVariable answers all prompts by the variables.
func passphrasesByVariable(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(rootPassphraseVariable, "rootpass1")
	ts.Setenv(repositoryPassphraseVariable, "repopass1")
}

// layout writes an OCI layout with images of a text each, and beside it
// DIR.TAG.digest, .layer and .config with their digests: "layout DIR TAG=TEXT…".
func layout(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	l := newLayout(ts, dir)
	for _, arg := range args[1:] {
		tag, text, _ := strings.Cut(arg, "=")
		m := l.image(text+ts.MkAbs("."), "linux", "amd64")
		l.add(m, tag)
		l.note(dir, tag, m)
	}
	l.finish()
}

// index writes an OCI layout with an index of two platforms: "index DIR TAG".
func index(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	l := newLayout(ts, dir)
	var children []map[string]any
	for _, arch := range []string{"amd64", "arm64"} {
		m := l.image(arch+ts.MkAbs("."), "linux", arch)
		m["platform"] = map[string]any{"os": "linux", "architecture": arch}
		children = append(children, m)
		l.note(dir, arch, m)
	}
	m := l.json("application/vnd.oci.image.index.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children,
	})
	l.add(m, args[1])
	l.note(dir, args[1], m)
	l.finish()
}

type layoutWriter struct {
	ts     *testscript.TestScript
	dir    string
	top    []map[string]any
	pieces map[string]string // manifest digest to "layer config"
}

func newLayout(ts *testscript.TestScript, dir string) *layoutWriter {
	ts.Check(os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	return &layoutWriter{ts: ts, dir: dir, pieces: map[string]string{}}
}

func (l *layoutWriter) blob(mediaType string, raw []byte) map[string]any {
	sum := fmt.Sprintf("%x", sha256.Sum256(raw))
	l.ts.Check(os.WriteFile(filepath.Join(l.dir, "blobs", "sha256", sum), raw, 0o644))
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(raw)}
}

func (l *layoutWriter) json(mediaType string, v any) map[string]any {
	raw, err := json.Marshal(v)
	l.ts.Check(err)
	return l.blob(mediaType, raw)
}

func (l *layoutWriter) image(text, system, arch string) map[string]any {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	l.ts.Check(w.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))}))
	_, err := io.WriteString(w, text)
	l.ts.Check(err)
	l.ts.Check(w.Close())
	layer := l.blob("application/vnd.oci.image.layer.v1.tar", b.Bytes())
	config := l.json("application/vnd.oci.image.config.v1+json", map[string]any{
		"os": system, "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
	})
	m := l.json("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer},
	})
	l.pieces[m["digest"].(string)] = layer["digest"].(string) + " " + config["digest"].(string)
	return m
}

func (l *layoutWriter) add(m map[string]any, tag string) {
	top := map[string]any{"annotations": map[string]any{"org.opencontainers.image.ref.name": tag}}
	for k, v := range m {
		top[k] = v
	}
	l.top = append(l.top, top)
}

// note leaves the digests where scripts find them.
func (l *layoutWriter) note(dir, tag string, m map[string]any) {
	digest := m["digest"].(string)
	layer, config, _ := strings.Cut(l.pieces[digest], " ")
	for what, d := range map[string]string{"digest": digest, "layer": layer, "config": config} {
		l.ts.Check(os.WriteFile(dir+"."+tag+"."+what, []byte(d+"\n"), 0o644))
	}
	l.ts.Setenv("DIGEST_"+tag, digest)
}

func (l *layoutWriter) finish() {
	l.ts.Check(os.WriteFile(filepath.Join(l.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": l.top})
	l.ts.Check(err)
	l.ts.Check(os.WriteFile(filepath.Join(l.dir, "index.json"), raw, 0o644))
}

// configure writes a file, with variables, as the configuration of a home
// directory: "config HOME FILE".
func configure(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.MkAbs(args[0]), ".iechor")
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, "config.json"), []byte(os.Expand(ts.ReadFile(args[1]), ts.Getenv)), 0o600))
}

// serverCertificate writes the certificate of the trust server, which is its own
// authority, to a file: "certificate FILE".
func serverCertificate(ts *testscript.TestScript, _ bool, args []string) {
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: theWorld(ts).trust.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), raw, 0o600))
}

// engine starts an engine that has no image at all.
func engine(ts *testscript.TestScript, _ bool, _ []string) {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Api-Version", "1.44")
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			fmt.Fprint(rw, "OK")
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusNotFound)
		fmt.Fprint(rw, `{"message":"No such image"}`)
	}))
	ts.Defer(s.Close)
	ts.Setenv("IECHOR_HOST", "tcp://"+strings.TrimPrefix(s.URL, "http://"))
}
