package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// deployFile reads a file of the folder that operators copy from.
func deployFile(t testing.TB, name string) string {
	t.Helper()
	return readFile(t, filepath.Join("..", "..", "deploy", name))
}

// alertRules are those that are shipped.
func alertRules(t testing.TB) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(deployFile(t, "alerts.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if _, twice := all[r.Alert]; twice || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("alert %q is there twice, or lacks an expression, a severity or a summary", r.Alert)
			}
			all[r.Alert] = r.Expr
		}
	}
	return all
}

var selector = regexp.MustCompile(`\b((?:iechor|notary)_[a-z0-9_]+)(?:\{([^}]*)\})?`)

// An alert that cannot fire is a defect: each metric and each value of a label
// that a rule names is made by a running service, whose page is given.
func checkAlerts(t *testing.T, page string) {
	t.Helper()
	rules := alertRules(t)
	if len(rules) < 8 {
		t.Errorf("rules %v", rules)
	}
	for alert, expr := range rules {
		found := selector.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 {
			t.Errorf("alert %s names no metric", alert)
		}
		for _, m := range found {
			if !strings.Contains(page, "\n"+m[1]+"{") && !strings.Contains(page, "\n"+m[1]+" ") {
				t.Errorf("alert %s: nobody makes %s", alert, m[1])
			}
			for _, pair := range regexp.MustCompile(`([a-z]+)=~?"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				for value := range strings.SplitSeq(pair[2], "|") {
					if !regexp.MustCompile(`(?m)^` + m[1] + `\{.*\b` + pair[1] + `="` + value + `"`).MatchString(page) {
						t.Errorf("alert %s: %s never has %s=%q", alert, m[1], pair[1], value)
					}
				}
			}
		}
	}
}

// isCommand fails the test unless args are a command with flags that it has, and
// returns the configuration file that they name.
func isCommand(t testing.TB, name string, args []string) string {
	t.Helper()
	a := &app{env: func(string) string { return "" }}
	c, rest, err := a.command().Find(args)
	if err != nil || !c.HasParent() || c.ParseFlags(rest) != nil || c.Flags().NArg() > 0 {
		t.Fatalf("%s: %q is not a command: %v", name, args, err)
	}
	file, err := c.Flags().GetString("config")
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return file
}

// checkConfiguration fails the test unless a server or signer can start with a
// configuration where it has these files, by their paths, and variables, and
// unless it uses all of them.
func checkConfiguration(t *testing.T, name, file string, files map[string]string, variables []string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^metrics-listen: `).MatchString(files[file]) {
		t.Errorf("%s does not say metrics-listen", file)
	}
	dir := t.TempDir()
	moved, named := map[string]string{}, map[string]bool{}
	for path := range files {
		moved[path] = filepath.Join(dir, filepath.Base(path))
	}
	for path, text := range files {
		if named[path] = true; path != file && !regexp.MustCompile(regexp.QuoteMeta(path)+`\b`).MatchString(files[file]) {
			t.Errorf("%s: %s does not use %s", name, file, path)
		}
		if strings.HasSuffix(path, ".yaml") {
			for from, to := range moved {
				text = strings.ReplaceAll(text, from, to)
			}
		}
		write(t, moved[path], text)
	}
	for _, path := range regexp.MustCompile(`(?:/etc/iechor-trustd|/run/secrets)/[\w.-]+`).FindAllString(files[file], -1) {
		if !named[path] {
			t.Errorf("%s: %s names %s, which is not there", name, file, path)
		}
	}
	env := map[string]string{}
	for _, v := range variables {
		env[v] = kek("0123456789abcdef") // good for every secret
		if !strings.Contains(files[file], "env:"+v) {
			t.Errorf("%s: %s does not use the variable %s", name, file, v)
		}
	}
	if status, out, errs := runApp(t, env, "config", "check", "--config", moved[file]); status != 0 {
		t.Errorf("%s: config check = %d\n%s%s", name, status, out, errs)
	}
}

// makeCertificates makes the certificates of deploy/certificates.sh in dir.
func makeCertificates(t testing.TB, dir string, names ...string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		lacks(t, "openssl", "openssl")
		t.SkipNow()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", filepath.Join("..", "..", "deploy", "certificates.sh"), dir)
	c.Env = append(os.Environ(), names...)
	output(t, c)
}

// lacks logs that a peer is not there; it fails the test where the peer is
// required.
func lacks(t testing.TB, peer, pkg string) {
	t.Helper()
	if required(peer) {
		t.Fatalf("%s is required and not installed: apt-get install %s", peer, pkg)
	}
	t.Logf("%s is not installed: apt-get install %s", peer, pkg)
}

// The units call commands that exist, with flags that exist.
func TestUnits(t *testing.T) {
	t.Parallel()
	units, err := filepath.Glob(filepath.Join("..", "..", "deploy", "*.service"))
	if err != nil || len(units) != 2 {
		t.Fatalf("units %v, %v", units, err)
	}
	verifyUnits(t, units)
	known := []string{"Unit", "Service", "Install"}
	for _, name := range units {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSpace(line)
			key, value, ok := strings.Cut(line, "=")
			switch {
			case line == "", line[0] == '#':
			case line[0] == '[':
				if !slices.Contains(known, strings.Trim(line, "[]")) {
					t.Errorf("%s: section %s", name, line)
				}
			case !ok:
				t.Errorf("%s: line %q", name, line)
			case key == "ExecStart" || key == "ExecStartPre":
				calls++
				words := strings.Fields(value)
				if words[0] != "/usr/bin/iechor-trustd" {
					t.Errorf("%s: %s", name, line)
				}
				isCommand(t, name, words[1:])
			}
		}
		if calls != 2 {
			t.Errorf("%s has %d calls", name, calls)
		}
	}
}

// verifyUnits has systemd read them: it says nothing when it knows all settings.
func verifyUnits(t *testing.T, units []string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		lacks(t, "systemd", "systemd")
		return
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, name := range units {
		args = append(args, filepath.Join(dir, filepath.Base(name)))
		// The program is not installed, but this one is.
		write(t, args[len(args)-1], strings.ReplaceAll(readFile(t, name), "/usr/bin/iechor-trustd", "/bin/true"))
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}
