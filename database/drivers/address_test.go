package drivers

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iechor/trust/database"
)

func noEnv(string) string { return "" }

// usual is an address with the defaults, and with edit applied.
func usual(d database.Dialect, edit func(*Address)) *Address {
	a := &Address{Dialect: d, User: "u", Database: "d", ConnectTimeout: 5 * time.Second, StatementTimeout: 15 * time.Second,
		Pool: 20, ConnectionLife: 30 * time.Minute}
	edit(a)
	return a
}

func TestParse(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]*Address{
		"sqlite:/var/lib/x.db": {Dialect: database.SQLite, Path: "/var/lib/x.db"},
		"postgres://u@db/d":    usual(database.PostgreSQL, func(a *Address) { a.Hosts, a.TLS = []string{"db:5432"}, true }),
		"postgresql://u@a,b:7,[::2]:8/d?tls=off": usual(database.PostgreSQL, func(a *Address) {
			a.Hosts = []string{"a:5432", "b:7", "[::2]:8"}
		}),
		"mariadb://u@127.0.0.1,localhost,[::1]/d": usual(database.MySQL, func(a *Address) {
			a.Hosts = []string{"127.0.0.1:3306", "localhost:3306", "[::1]:3306"} // nothing leaves the machine
		}),
		"mysql://u@127.0.0.1,db/d":            usual(database.MySQL, func(a *Address) { a.Hosts, a.TLS = []string{"127.0.0.1:3306", "db:3306"}, true }),
		"postgres://u@localhost/d?prepare=no": usual(database.PostgreSQL, func(a *Address) { a.Hosts, a.Unprepared = []string{"localhost:5432"}, true }),
		"mysql://u@/d?socket=/run/sock&pool=7&statement_timeout=90s&connect_timeout=2s&connection_life=1h&target_session_attrs=any": usual(database.MySQL, func(a *Address) {
			a.Socket, a.Pool, a.StatementTimeout, a.ConnectTimeout, a.ConnectionLife, a.AnyServer = "/run/sock", 7, 90*time.Second, 2*time.Second, time.Hour, true
		}),
		"postgres://u%40x@localhost/d?tls=verify&tls_ca=/ca&tls_certificate=/c&tls_key=/k": usual(database.PostgreSQL, func(a *Address) {
			a.User, a.Hosts, a.TLS, a.CA, a.Certificate, a.Key = "u@x", []string{"localhost:5432"}, true, "/ca", "/c", "/k"
		}),
	} {
		got, err := Parse(setting, noEnv)
		if err != nil {
			t.Errorf("Parse(%s) = %v", setting, err)
			continue
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Address{})); d != "" {
			t.Errorf("Parse(%s) (-want +got):\n%s", setting, d)
		}
	}
}

// What is not understood is refused in one sentence, and the password that may
// be a part of it is in none.
func TestAttackPasswordInErrors(t *testing.T) {
	t.Parallel()
	const secret = "hunter2secret"
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		"":                                                          "it must be sqlite:FILE, postgres://",
		"sqlite:":                                                   "a file belongs after sqlite:",
		secret:                                                      "it must be sqlite:FILE",
		"postgress://u:SECRET@db/d":                                 "it must be sqlite:FILE",
		"postgres:u:SECRET@db/d":                                    "it must be sqlite:FILE",
		"postgres://u:SECRET@db":                                    "the name of the database is missing",
		"postgres://u:SECRET@db/":                                   "the name of the database must be one word",
		"postgres://u:SECRET@db/a/b":                                "the name of the database must be one word",
		"postgres://:SECRET@db/d":                                   "the user is missing",
		"postgres://SECRET/d":                                       "the user is missing",
		"postgres://u:SE/CRET@db/d":                                 "",
		"postgres://u:SECRET%zz@db/d":                               "the password: a percent sign",
		"postgres://u:SECRET@@/d":                                   "a host is missing",
		"postgres://u:SECRET@db:x/d":                                "a host must be HOST",
		"postgres://u:SECRET@db:0/d":                                "a host must be HOST",
		"postgres://u:SECRET@db:70000/d":                            "a host must be HOST",
		"postgres://u:SECRET@a,,b/d":                                "a host of the list is empty",
		"postgres://u:SECRET@a,a/d":                                 "host a:5432 is named twice",
		"postgres://u:SECRET@/d":                                    "a host is missing, or the option socket",
		"postgres://u@a/d?password=SECRET":                          "option password: file:PATH or env:NAME belongs here",
		"postgres://u@a/d?password=env:NO":                          "option password: the variable NO",
		"postgres://u@a/d?SECRET":                                   "an option behind the question mark is not known; these are: connect_timeout,",
		"postgres://u@a/d?SECRET=1":                                 "an option behind the question mark is not known",
		"postgres://u@a/d?sslmode=disable":                          "an option behind the question mark is not known",
		"postgres://u@a/d?pool=1":                                   "option pool: a number from 2 to 1000",
		"postgres://u@a/d?pool=5&pool=5":                            "option pool is named twice",
		"postgres://u@a/d?pool=":                                    "option pool: a value is missing",
		"postgres://u@a/d?statement_timeout=5":                      "option statement_timeout: a duration from 1s to 1h0m0s",
		"postgres://u@a/d?statement_timeout=0s":                     "option statement_timeout: a duration",
		"postgres://u@a/d?tls=maybe":                                "option tls: one of these belongs here: verify, off",
		"postgres://u@a/d?tls=off&tls_ca=/x":                        "tls_ca and tls_certificate are of no use without TLS",
		"postgres://u@a/d?tls_key=/x":                               "tls_certificate and tls_key belong together",
		"postgres://u@a/d?socket=/x":                                "both hosts and the option socket",
		"postgres://u@/d?socket=x":                                  "option socket: a path from the root",
		"postgres://u@a/d?target_session_attrs=standby":             "option target_session_attrs: one of these",
		"postgres://u:SECRET@a/d\n":                                 "a control character",
		"postgres://u:SECRET@a/d" + strings.Repeat("x", maxSetting): "longer than",
		"mysql://u@a/d`SECRET":                                      "the name of the database must be one word",
	}
	if runtime.GOOS != "windows" {
		refused["postgres://u@a/d?password=file:"+open] = "can be read by others: chmod 600"
	}
	for setting, want := range refused {
		_, err := Parse(strings.ReplaceAll(setting, "SECRET", secret), noEnv)
		switch {
		case err == nil:
			t.Errorf("Parse(%s) should be refused", setting)
		case !strings.HasPrefix(err.Error(), "storage: ") || !strings.Contains(err.Error(), want):
			t.Errorf("Parse(%s) = %v, want %q", setting, err, want)
		case strings.Contains(err.Error(), secret), strings.Contains(err.Error(), "\n"):
			t.Errorf("Parse(%s) repeats the secret, or is more than a line: %v", setting, err)
		}
	}
	a, err := Parse("postgres://u:"+secret+"@127.0.0.1:1/d?connect_timeout=100ms", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.String(); got != "postgres://u@127.0.0.1:1/d" {
		t.Errorf("String = %s", got)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("of the file\n")
	env := func(name string) string { return map[string]string{"DB": "of the variable"}[name] }
	for setting, want := range map[string]string{
		"postgres://u@a/d":                          "",
		"postgres://u:a%2Fb%40c:d@a/d":              "a/b@c:d",
		"postgres://u@a/d?password=env:DB":          "of the variable",
		"mysql://u@a/d?password=file:" + file:       "of the file",
		"mysql://u:first@a/d?password=file:" + file: "of the file",
	} {
		a, err := Parse(setting, env)
		if err != nil {
			t.Errorf("Parse(%s) = %v", setting, err)
			continue
		}
		if got, err := a.password(); err != nil || got != want {
			t.Errorf("password of %s = %q, %v; want %q", setting, got, err, want)
		}
	}
	a, err := Parse("mysql://u@a/d?password=file:"+file, env)
	if err != nil {
		t.Fatal(err)
	}
	put("another")
	if got, err := a.password(); err != nil || got != "another" {
		t.Errorf("password after it was changed = %q, %v", got, err)
	}
	for _, bad := range []string{"", "\n", "two\nlines", strings.Repeat("x", maxPassword+1)} {
		put(bad)
		if got, err := a.password(); err == nil {
			t.Errorf("password file %.10q = %q, want an error", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"sqlite:x", "postgres://u:p@a,b:1,[::1]:2/d?pool=3&tls=off", "mysql://u@/d?socket=/x&statement_timeout=5s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, setting string) {
		a, err := Parse(setting, noEnv)
		if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("Parse(%q) = %q", setting, err)
		}
		if err != nil || a.Dialect == database.SQLite {
			return
		}
		if a.User == "" || a.Database == "" || len(a.Hosts) == 0 && a.Socket == "" {
			t.Errorf("Parse(%q) = %+v", setting, a)
		}
	})
}
