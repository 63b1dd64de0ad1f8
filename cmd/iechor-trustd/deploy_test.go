package main

import (
	"os"
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

// The units call commands that exist, with flags that exist.
func TestUnits(t *testing.T) {
	t.Parallel()
	units, err := filepath.Glob(filepath.Join("..", "..", "deploy", "*.service"))
	if err != nil || len(units) != 2 {
		t.Fatalf("units %v, %v", units, err)
	}
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
				a := &app{env: func(string) string { return "" }}
				c, rest, err := a.command().Find(words[1:])
				if err != nil || words[0] != "/usr/bin/iechor-trustd" || c.ParseFlags(rest) != nil || c.Flags().NArg() > 0 {
					t.Errorf("%s: %q is not a command: %v", name, value, err)
				}
			}
		}
		if calls != 2 {
			t.Errorf("%s has %d calls", name, calls)
		}
	}
}
