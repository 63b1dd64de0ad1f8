package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What keeps a server or signer from starting is said beforehand, all of it.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	check := func(name string, status int, out ...string) {
		t.Helper()
		got, stdout, stderr := runApp(t, nil, "config", "check", "--config", s.file(name))
		if got != status || strings.Count(stdout, "\n") != len(out) || (status == 0) != (stderr == "") {
			t.Errorf("config check of %s = %d\n%s%swant %d and %d lines", name, got, stdout, stderr, status, len(out))
		}
		for _, want := range out {
			if !strings.Contains(stdout, want) {
				t.Errorf("config check of %s lacks %q:\n%s", name, want, stdout)
			}
		}
	}
	check("server.yaml", 0, "server.yaml can be the configuration of a trust server")
	check("signer.yaml", 0, "signer.yaml can be the configuration of a signer")
	if _, err := os.Stat(s.file("server/server.db")); !os.IsNotExist(err) {
		t.Errorf("the check has made a database: %v", err)
	}
	write(t, s.file("bad.yaml"), s.expand(`
listen: here
metrics-listen: there
authentication: no
plaintext: true
tls: {certificate: DIR/server.crt}
storage: oracle:x
prefixes: [a]
log-level: loud
retention: {deleted: 0s}
limit: {uploads: 0}
traces: {endpoint: "collector:4318"}
proxies: [here]
lisen: x
idle: never
idle: 3d
`))
	check("bad.yaml", exitFailed, `line 14: unknown key "lisen", did you mean "listen"?`, `line 15: idle: "never" is not a duration`, "line 16: idle stands in line 15 already",
		"limit.uploads must be 1 or more", `traces.endpoint: "collector:4318" is not the address of a collector`, `proxies: "here" is no network`, `listen: "here" is not host:port`, `metrics-listen: "there"`, "authentication must be spelled out", "both plaintext and tls", "storage: ",
		"invalid GUN prefix a", `log-level "loud"`, "retention.deleted", "signer.url is not set")
	write(t, s.file("bad.yaml"), s.expand("key-encryption-key: file:DIR/none\nlisten: unix:DIR/sock\nmetrics-listen: x\nlog-level: loud\nidentities: {a: [rule]}\n"))
	check("bad.yaml", exitFailed, "metrics-listen", "loud", `identities lacks "unix"`, `"rule" is not a right`, "storage is not set", "key-encryption-key: ")
	write(t, s.file("bad.yaml"), s.expand("authentication: certificate, token\nhtpasswd: {file: DIR/none}\nplaintext: true\nstorage: sqlite:x\nsigner: {url: unix:/x}\nlimit: {cache: 0}\n"))
	check("bad.yaml", exitFailed, "htpasswd.file is set, and authentication is certificate, token", "token.keys is not set", "client-ca is not set", "access is not set", "limit.cache must be 1 to 1048576 MiB")
	// What a storage setting names is opened, in the place where it stands.
	server, err := os.ReadFile(s.file("server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	on := func(storage string) {
		t.Helper()
		write(t, s.file("bad.yaml"), regexp.MustCompile(`(?m)^storage: .*$`).ReplaceAllLiteralString(string(server), "storage: "+s.expand(storage)))
	}
	on("postgres://u@db.example/d?tls_ca=DIR/none")
	check("bad.yaml", exitFailed, "storage: tls_ca: open "+s.file("none"))
	on("mysql://u@db.example/d?tls_certificate=DIR/server.crt&tls_key=DIR/site-ca.crt")
	check("bad.yaml", exitFailed, "storage: tls_certificate: ")
	on("postgres://u@db.example/d?tls_ca=DIR/site-ca.crt&tls_certificate=DIR/server.crt&tls_key=DIR/server.key")
	check("bad.yaml", 0, "bad.yaml can be the configuration of a trust server")
	on("oracle:x")
	check("bad.yaml", exitFailed, "storage: it must be sqlite:FILE")
	if _, stdout, _ := runApp(t, nil, "config", "check", "--config", s.file("bad.yaml")); strings.Count(stdout, "storage: ") != 1 {
		t.Errorf("config check says it twice: %s", stdout)
	}
	// A signer's key may be named by a variable alone.
	write(t, s.file("bad.yaml"), "identities: {a: [sign]}\n")
	if status, stdout, _ := runApp(t, map[string]string{"IECHOR_TRUSTD_KEY_ENCRYPTION_KEY": "env:KEY", "KEY": kek("0123456789abcdef")},
		"config", "check", "--config", s.file("bad.yaml")); status != exitFailed || strings.Contains(stdout, "identities") || strings.Contains(stdout, "key-encryption-key") {
		t.Errorf("config check of a signer's with its key in a variable = %d\n%s", status, stdout)
	}
	if status, _, stderr := runApp(t, nil, "config", "check"); status != exitUsage || !strings.Contains(stderr, "--config must name") {
		t.Errorf("config check without a file = %d %s", status, stderr)
	}
}
