package drivers

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/iechor/trust/database"
)

// An Address is a storage setting, taken apart. All but the first two fields
// are of PostgreSQL and MySQL.
type Address struct {
	Dialect database.Dialect
	Path    string // of a SQLite file

	Hosts    []string // host:port, tried in this order; none with a socket
	Socket   string   // PostgreSQL: the folder that holds it; MySQL: the socket
	User     string
	Database string
	password func() (string, error)

	TLS              bool   // the server shows a certificate for its name
	CA               string // file with who vouches for it; "": the system's authorities
	Certificate, Key string // files; "": no certificate is shown

	AnyServer        bool          // also one that is a read-only copy
	ConnectTimeout   time.Duration // for one server of the list
	StatementTimeout time.Duration
	Pool             int           // most connections at a time
	ConnectionLife   time.Duration // after which a connection is replaced
	Unprepared       bool          // PostgreSQL: no statement outlives its transaction
}

const (
	maxSetting  = 8 << 10 // bytes
	maxHosts    = 16
	maxPassword = 4 << 10 // bytes of a file
)

const forms = "sqlite:FILE, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"

// Parse takes a storage setting apart. env reads variables. No error repeats a
// password, nor anything of which it could be a part.
func Parse(setting string, env func(string) string) (*Address, error) {
	a, err := parse(setting, env)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	return a, nil
}

func parse(setting string, env func(string) string) (*Address, error) {
	if len(setting) > maxSetting {
		return nil, fmt.Errorf("the setting is longer than %d bytes", maxSetting)
	}
	for _, c := range setting {
		if unicode.IsControl(c) {
			return nil, errors.New("the setting holds a control character, a line break perhaps")
		}
	}
	if path, ok := strings.CutPrefix(setting, "sqlite:"); ok {
		if path == "" {
			return nil, errors.New("a file belongs after sqlite:, such as sqlite:/var/lib/iechor-trustd/server.db")
		}
		return &Address{Dialect: database.SQLite, Path: path}, nil
	}
	kind, rest, ok := strings.Cut(setting, "://")
	a := &Address{
		ConnectTimeout: 5 * time.Second, StatementTimeout: 15 * time.Second, Pool: 20, ConnectionLife: 30 * time.Minute,
		password: func() (string, error) { return "", nil },
	}
	port := ""
	switch {
	case ok && (kind == "postgres" || kind == "postgresql"):
		a.Dialect, port = database.PostgreSQL, "5432"
	case ok && (kind == "mysql" || kind == "mariadb"):
		a.Dialect, port = database.MySQL, "3306"
	default:
		return nil, errors.New("it must be " + forms)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, name, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, errors.New("the name of the database is missing: it stands after the hosts and a slash")
	}
	var err error
	if a.Database, err = unescape("the name of the database", name); err != nil {
		return nil, err
	}
	if a.Database == "" || strings.ContainsAny(a.Database, "/`") {
		return nil, errors.New("the name of the database must be one word, without slashes")
	}
	user, hosts, _ := cutLast(authority, "@")
	if err := a.identify(user); err != nil {
		return nil, err
	}
	if hosts != "" {
		if a.Hosts, err = parseHosts(hosts, port); err != nil {
			return nil, err
		}
	}
	if err := a.options(query, env); err != nil {
		return nil, err
	}
	return a, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// unescape decodes percent signs. The error does not show what it was.
func unescape(what, s string) (string, error) {
	out, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("%s: a percent sign is not followed by two hexadecimal digits", what)
	}
	if strings.ContainsRune(out, 0) {
		return "", fmt.Errorf("%s: a zero byte is of no use", what)
	}
	return out, nil
}

// identify takes USER or USER:PASSWORD apart.
func (a *Address) identify(user string) (err error) {
	user, password, has := strings.Cut(user, ":")
	if a.User, err = unescape("the user", user); err != nil {
		return err
	}
	if a.User == "" {
		return errors.New("the user is missing: USER@ stands before the hosts")
	}
	if password, err = unescape("the password", password); err != nil {
		return err
	}
	if has {
		a.password = func() (string, error) { return password, nil }
	}
	return nil
}

func parseHosts(list, port string) ([]string, error) {
	var hosts []string
	for one := range strings.SplitSeq(list, ",") {
		if one == "" {
			return nil, errors.New("a host of the list is empty")
		}
		host, own, err := net.SplitHostPort(one)
		if err != nil { // without a port
			host, own = strings.TrimSuffix(strings.TrimPrefix(one, "["), "]"), port
		}
		n, err := strconv.ParseUint(own, 10, 16)
		if err != nil || n == 0 || host == "" || strings.ContainsAny(host, "[]@/%?# ") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return nil, errors.New("a host must be HOST, HOST:PORT or [IPV6]:PORT; a colon, slash or @ in a password is written as %3A, %2F, %40")
		}
		at := net.JoinHostPort(host, own)
		if slices.Contains(hosts, at) {
			return nil, fmt.Errorf("host %s is named twice", at)
		}
		hosts = append(hosts, at)
	}
	if len(hosts) > maxHosts {
		return nil, fmt.Errorf("%d hosts are more than %d", len(hosts), maxHosts)
	}
	return hosts, nil
}

// loopback reports whether no server of the list is elsewhere.
func (a *Address) loopback() bool {
	return !slices.ContainsFunc(a.Hosts, func(at string) bool {
		host, _, _ := net.SplitHostPort(at) // made by JoinHostPort
		ip := net.ParseIP(host)
		return host != "localhost" && (ip == nil || !ip.IsLoopback())
	})
}

// options reads what stands behind the question mark.
func (a *Address) options(query string, env func(string) string) error {
	seen := map[string]bool{}
	encrypt := ""
	options := map[string]func(string) error{
		"password":             func(v string) error { return a.secret(v, env) },
		"socket":               func(v string) error { a.Socket = v; return absolute(v) },
		"tls":                  func(v string) error { encrypt = v; return oneOf(v, "verify", "off") },
		"tls_ca":               func(v string) error { a.CA = v; return nil },
		"tls_certificate":      func(v string) error { a.Certificate = v; return nil },
		"tls_key":              func(v string) error { a.Key = v; return nil },
		"target_session_attrs": func(v string) error { a.AnyServer = v == "any"; return oneOf(v, "read-write", "any") },
		"connect_timeout":      between(&a.ConnectTimeout, 100*time.Millisecond, time.Minute),
		"statement_timeout":    between(&a.StatementTimeout, time.Second, time.Hour),
		"connection_life":      between(&a.ConnectionLife, time.Minute, 24*time.Hour),
		"prepare":              func(v string) error { a.Unprepared = v == "no"; return oneOf(v, "yes", "no") },
		"pool": func(v string) error {
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n < 2 || n > 1000 {
				return errors.New("a number from 2 to 1000 belongs here")
			}
			a.Pool = int(n)
			return nil
		},
	}
	var known []string
	for name := range options {
		known = append(known, name)
	}
	slices.Sort(known)
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		set, ok := options[name]
		if !ok {
			return fmt.Errorf("an option behind the question mark is not known; these are: %s", strings.Join(known, ", "))
		}
		if seen[name] {
			return fmt.Errorf("option %s is named twice", name)
		}
		seen[name] = true
		value, err := unescape("option "+name, value)
		if err == nil && value == "" {
			err = errors.New("a value is missing")
		}
		if err == nil {
			err = set(value)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	switch {
	case len(a.Hosts) == 0 && a.Socket == "":
		return errors.New("a host is missing, or the option socket")
	case len(a.Hosts) > 0 && a.Socket != "":
		return errors.New("both hosts and the option socket are given: choose one")
	case (a.Certificate == "") != (a.Key == ""):
		return errors.New("tls_certificate and tls_key belong together")
	}
	// What leaves the machine is encrypted unless somebody says that it is not.
	a.TLS = a.Socket == "" && (encrypt == "verify" || encrypt == "" && (!a.loopback() || cmp.Or(a.CA, a.Certificate) != ""))
	if !a.TLS && (encrypt == "verify" || cmp.Or(a.CA, a.Certificate) != "") {
		return errors.New("tls_ca and tls_certificate are of no use without TLS: leave them out")
	}
	return nil
}

func oneOf(v string, words ...string) error {
	if !slices.Contains(words, v) {
		return fmt.Errorf("one of these belongs here: %s", strings.Join(words, ", "))
	}
	return nil
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("a path from the root belongs here")
	}
	return nil
}

func between(d *time.Duration, low, high time.Duration) func(string) error {
	return func(v string) error {
		got, err := time.ParseDuration(v)
		if err != nil || got < low || got > high {
			return fmt.Errorf("a duration from %v to %v belongs here, such as %v", low, high, *d)
		}
		*d = got
		return nil
	}
}

// secret takes file:PATH or env:NAME. A file is read anew for each connection,
// so that a password can be changed while the service runs.
func (a *Address) secret(where string, env func(string) string) error {
	kind, name, _ := strings.Cut(where, ":")
	switch {
	case kind == "file" && name != "":
		a.password = func() (string, error) { return readPassword(name) }
	case kind == "env" && name != "":
		a.password = func() (string, error) {
			v := env(name)
			if v == "" {
				return "", fmt.Errorf("the variable %s, which should hold the password, is not set", name)
			}
			return v, nil
		}
	default:
		return errors.New("file:PATH or env:NAME belongs here, not the password itself")
	}
	_, err := a.password()
	return err
}

func readPassword(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others: chmod 600 %s", path, path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" || len(raw) > maxPassword || strings.ContainsAny(password, "\r\n\x00") {
		return "", fmt.Errorf("%s does not hold a password in one line", path)
	}
	return password, nil
}

// String names the database, without the password.
func (a *Address) String() string {
	if a.Dialect == database.SQLite {
		return a.Path
	}
	kind, at := "postgres", strings.Join(a.Hosts, ",")
	if a.Dialect == database.MySQL {
		kind = "mysql"
	}
	if a.Socket != "" {
		return kind + "://" + a.User + "@/" + a.Database + "?socket=" + a.Socket
	}
	return kind + "://" + a.User + "@" + at + "/" + a.Database
}
