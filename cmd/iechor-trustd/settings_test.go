package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// loadServer loads a server's configuration from a file with the text, from
// variables and from flags.
func loadServer(t testing.TB, text string, env map[string]string, args ...string) (*serverConfig, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.yaml")
	write(t, file, text)
	c := defaultServerConfig()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(flags, c)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c, load(c, file, func(name string) string { return env[name] }, flags)
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	const file = "storage: sqlite:of-the-file\nsigner: {url: 'unix:/of-the-file', ca: of-the-file}\nlog-level: warn\n"
	env := map[string]string{"IECHOR_TRUSTD_SIGNER_URL": "unix:/of-the-variable", "IECHOR_TRUSTD_LOG_LEVEL": "error", "IECHOR_TRUSTD_STORAGE": ""}
	c, err := loadServer(t, file, env, "--log-level", "debug", "--plaintext", "--prefixes", "a/, b/c/")
	if err != nil {
		t.Fatal(err)
	}
	want := defaultServerConfig()
	want.Storage = "sqlite:of-the-file" // an empty variable is none
	want.Signer = signerAddress{URL: "unix:/of-the-variable", CA: "of-the-file"}
	want.LogLevel = "debug"
	want.Plaintext = true
	want.Prefixes = []string{"a/", "b/c/"}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("configuration (-want +got):\n%s", d)
	}
}

// Every setting can be given in each of the three ways, under these names.
func TestEverySettingHasItsNames(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func() any{
		"server": func() any { return defaultServerConfig() },
		"signer": func() any { return defaultSignerConfig() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var names []string
			for i, s := range settings(reflect.ValueOf(config()).Elem()) {
				names = append(names, strings.Join(s.path, ".")+" --"+s.flag()+" "+s.variable())
				text := "word"
				switch {
				case s.value.Kind() == reflect.Bool:
					text = "true"
				case s.value.Kind() == reflect.Int64:
					text = "7"
					if s.value.Type() == reflect.TypeFor[duration]() {
						text = "7m"
					}
				}
				file := filepath.Join(t.TempDir(), "config.yaml")
				value := text
				if s.value.Kind() == reflect.Slice {
					value = "[" + text + "]"
				}
				for _, key := range slices.Backward(s.path) {
					value = "{" + key + ": " + value + "}"
				}
				write(t, file, value)
				var got []any
				for way := range 3 {
					c := config()
					flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
					addFlags(flags, c)
					env, from := "", ""
					switch way {
					case 0:
						from = file
					case 1:
						env = text
					case 2:
						if err := flags.Parse([]string{"--" + s.flag() + "=" + text}); err != nil {
							t.Fatal(err)
						}
					}
					if err := load(c, from, func(name string) string {
						if name == s.variable() {
							return env
						}
						return ""
					}, flags); err != nil {
						t.Errorf("way %d of %s: %v", way, s.flag(), err)
					}
					if reflect.DeepEqual(c, config()) {
						t.Errorf("way %d of %s changes nothing", way, s.flag())
					}
					got = append(got, settings(reflect.ValueOf(c).Elem())[i].value.Interface())
				}
				if !reflect.DeepEqual(got[0], got[1]) || !reflect.DeepEqual(got[1], got[2]) {
					t.Errorf("%s is %v from file, variable and flag, want the same", s.flag(), got)
				}
				if s.usage == "" {
					t.Errorf("%s is not explained", s.flag())
				}
			}
			golden(t, "settings_"+name+".golden", strings.Join(names, "\n")+"\n")
		})
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		write(t, file, got)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func TestStrictFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"# nothing\n", ""},
		{"storage:\n", ""},
		{"listen: 8080", ""},
		{"lisen: x", `line 1: unknown key "lisen", did you mean "listen"?`},
		{"listen: x\ntls:\n  certifcate: y", `line 3: unknown key "tls.certifcate", did you mean "tls.certificate"?`},
		{"signer: &a {url: x}\ntls: *a", `line 1: unknown key "tls.url", did you mean "tls.key"?`},
		{"<<: {listen: x}", `line 1: unknown key "<<"`},
		{"listen: x\nlisten: y", "line 2: listen stands in line 1 already"},
		{"signer: {url: x, url: y}", "line 1: signer.url stands in line 1 already"},
		{"listen: [x]", "line 1: listen: a single value belongs here"},
		{"tls: yes", "line 1: tls: keys and values belong here"},
		{"prefixes: a/", "line 1: prefixes: a list belongs here"},
		{"prefixes: [{a: b}]", "line 1: prefixes: a list of plain values belongs here"},
		{"- listen", "line 1: keys and values belong here"},
		{"plaintext: yes", `line 1: plaintext: "yes" is neither true nor false`},
		{"\nversion-step: -1", `line 2: version-step: "-1" is not a whole number`},
		{"lifetime: {timestamp: 3}", `line 1: lifetime.timestamp: "3" is not a duration such as 90s, 36h or 14d`},
		{"? [a]\n: b", "line 1: a key must be a word"},
		{"listen: x\n---\nlisten: y", "more than one YAML document"},
		{"listen: \"x", "yaml: "},
		{"#" + strings.Repeat("x", maxConfig), "is larger than"},
	} {
		_, err := loadServer(t, tt.text, nil)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("file %q: %v", tt.text, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("file %.60q: %v, want %q", tt.text, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "\n"):
			t.Errorf("file %q: %q is more than one line", tt.text, err)
		}
	}
	if _, err := loadServer(t, "", map[string]string{"IECHOR_TRUSTD_PLAINTEXT": "1"}); err == nil || err.Error() != `IECHOR_TRUSTD_PLAINTEXT: "1" is neither true nor false` {
		t.Errorf("variable = %v", err)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want time.Duration
		back string
	}{
		{"0s", 0, "0s"}, {"90s", 90 * time.Second, "1m30s"}, {"36h", 36 * time.Hour, "36h"}, {"48h", 48 * time.Hour, "2d"},
		{"14d", 14 * 24 * time.Hour, "14d"}, {"5m", 5 * time.Minute, "5m"}, {"36500d", 36500 * 24 * time.Hour, "36500d"},
	} {
		var d duration
		if err := d.UnmarshalText([]byte(tt.text)); err != nil || time.Duration(d) != tt.want || d.String() != tt.back {
			t.Errorf("%q = %v %v, %v, want %v %v", tt.text, time.Duration(d), d, err, tt.want, tt.back)
		}
	}
	for _, bad := range []string{"", "5", "d", "-1d", "-5m", "1.5d", "1d12h", "36501d", "2147483647d", "99999999h", "x"} {
		d := duration(1)
		if err := d.UnmarshalText([]byte(bad)); err == nil || d != 1 {
			t.Errorf("%q = %v, %v, want an error", bad, d, err)
		}
	}
}

// The examples are whole: every key stands in them, with its default, and they
// can be decoded.
func TestExamples(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		config, preset any
		free           []string // what has no default that would make sense
	}{
		"server.yaml": {defaultServerConfig(), defaultServerConfig(), []string{"tls", "authentication", "access", "token", "htpasswd", "client-ca", "storage", "signer"}},
		"signer.yaml": {defaultSignerConfig(), defaultSignerConfig(), []string{"tls", "client-ca", "storage", "key-encryption-key", "identities"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(filepath.Join("..", "..", "doc", name))
			if err != nil {
				t.Fatal(err)
			}
			if err := parseConfig(raw, tt.config); err != nil {
				t.Fatal(err)
			}
			var tree map[string]any
			if err := yaml.Unmarshal(raw, &tree); err != nil {
				t.Fatal(err)
			}
			want := settings(reflect.ValueOf(tt.preset).Elem())
			for i, s := range settings(reflect.ValueOf(tt.config).Elem()) {
				var at any = tree
				for _, key := range s.path {
					m, _ := at.(map[string]any)
					var ok bool
					if at, ok = m[key]; !ok {
						t.Errorf("%s is not in the example", strings.Join(s.path, "."))
						break
					}
				}
				got, preset := fmt.Sprint(s.value.Interface()), fmt.Sprint(want[i].value.Interface())
				if free := slices.Contains(tt.free, s.path[0]); !free && got != preset || free && got == "" {
					t.Errorf("%s is %q in the example, and %q by default", strings.Join(s.path, "."), got, preset)
				}
			}
			if c, ok := tt.config.(*signerConfig); ok {
				if _, err := rights(c.Identities); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// runApp calls the program within this process.
func runApp(t testing.TB, env map[string]string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	a := &app{out: &out, err: &err, env: func(name string) string { return env[name] }, now: time.Now}
	status = a.run(t.Context(), args)
	return status, out.String(), err.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args string
		want string
	}{
		{"serve", `unknown command "serve"`},
		{"server extra", `unexpected argument "extra"`},
		{"version extra", `unexpected argument "extra"`},
		{"server --nonsense", "unknown flag: --nonsense"},
		{"server --config", "flag needs an argument: --config"},
		{"server --plaintext=maybe", `--plaintext: "maybe" is neither true nor false`},
		{"server --lifetime-timestamp 3", `--lifetime-timestamp: "3" is not a duration`},
		{"sandbox --tour --auth token", "--tour and --auth do not go together"},
		{"check", "name either --config FILE or --dir DIR"},
		{"check --config x --dir y", "name either --config FILE or --dir DIR"},
		{"check --listen x", "unknown flag: --listen"},
		{"floor", `--gun must name a repository, such as registry.example/app; it is ""`},
		{"floor --gun registry.example/app --lower-to -1", "--lower-to must be the version of a timestamp"},
	} {
		status, out, err := runApp(t, nil, strings.Fields(tt.args)...)
		if status != exitUsage || out != "" || !strings.HasPrefix(err, "iechor-trustd: "+tt.want) || !strings.Contains(err, "\nhint: ") {
			t.Errorf("iechor-trustd %s = %d %q %q, want %d and %q", tt.args, status, out, err, exitUsage, tt.want)
		}
	}
	status, out, err := runApp(t, nil, "server", "--config", filepath.Join(t.TempDir(), "none.yaml"))
	if status != exitFailed || out != "" || !strings.Contains(err, "none.yaml: no such file") || strings.Contains(err, "hint:") {
		t.Errorf("server without its file = %d %q %q", status, out, err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	a := &app{out: io.Discard, err: io.Discard, env: func(string) string { return "" }, now: time.Now}
	var names [][]string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		names = append(names, strings.Fields(c.CommandPath())[1:])
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.command())
	if len(names) < 6 {
		t.Fatalf("commands %v, want at least six", names)
	}
	for _, name := range names {
		status, out, err := runApp(t, nil, append(name, "--help")...)
		want := strings.Join(append([]string{"Example: iechor-trustd"}, name...), " ")
		if status != 0 || err != "" || !strings.HasPrefix(out, want) {
			t.Errorf("%v --help = %d %q %q, want it to begin with %q", name, status, out, err, want)
		}
	}
	_, out, _ := runApp(t, nil, "server", "--help")
	for _, line := range []string{"(default 127.0.0.1:4443)", "(default 30d)", "(default 1)"} {
		if !strings.Contains(out, line) {
			t.Errorf("server --help lacks %q:\n%s", line, out)
		}
	}
	if status, out, err := runApp(t, nil, "version"); status != 0 || !strings.HasPrefix(out, "iechor-trustd ") || err != "" {
		t.Errorf("version = %d %q %q", status, out, err)
	}
}
