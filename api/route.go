package api

import (
	"encoding/hex"
	"errors"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/iechor/trust/tuf"
)

// A Kind says what a path names.
type Kind int

// The kinds of paths (notary-protocol 3).
const (
	Ping          Kind = iota + 1 // /v2/
	Repository                    // /v2/GUN/_trust/tuf/: upload, delete
	FileCurrent                   // …/_trust/tuf/ROLE.json
	FileByHash                    // …/_trust/tuf/ROLE.SHA256.json
	FileByVersion                 // …/_trust/tuf/VERSION.ROLE.json
	FileNever                     // spelled like a file, and no file can have that name
	Key                           // …/_trust/tuf/ROLE.key
	Changefeed                    // /v2/GUN/_trust/changefeed
	AllChanges                    // /v2/_trust/changefeed
	Health                        // /_notary_server/health
	Metrics                       // /metrics
	Live                          // /healthz: the process answers
	Ready                         // /readyz: it can do its work
)

// A Route is a parsed path. Fields that a Kind does not need are zero.
type Route struct {
	Kind    Kind
	GUN     tuf.GUN
	Role    tuf.RoleName
	Version int64    // FileByVersion, at least 1
	SHA256  [32]byte // FileByHash
}

// The ways in which a path is refused.
var (
	ErrNoRoute  = errors.New("no such path")
	ErrNotClean = errors.New("path is not in its canonical form") // Clean gives that form
)

const (
	trustSegment = "/_trust/"
	feedPath     = "changefeed"
	healthPath   = "/_notary_server/health"
	metricsPath  = "/metrics"
	livePath     = "/healthz"
	readyPath    = "/readyz"
	allPath      = "/v2/_trust/changefeed"
)

// ParsePath says what an escaped URL path (see [url.URL.EscapedPath]) names.
// It is the inverse of [Route.Path]. Escapes are accepted only where a
// canonical encoder must make them, so that an escaped slash or dot never
// spells a name in a second way (attacks.md N4).
//
// The error is [ErrNotClean] for a path with empty, "." or ".." segments, and
// [ErrNoRoute] for every other path that names nothing.
func ParsePath(escaped string) (Route, error) {
	p := escaped
	if strings.IndexByte(escaped, '%') >= 0 {
		var err error
		if p, err = url.PathUnescape(escaped); err != nil {
			return Route{}, ErrNoRoute
		}
		if (&url.URL{Path: p}).EscapedPath() != escaped {
			return Route{}, ErrNoRoute
		}
	}
	switch p {
	case "/v2/":
		return Route{Kind: Ping}, nil
	case allPath:
		return Route{Kind: AllChanges}, nil
	case healthPath:
		return Route{Kind: Health}, nil
	case metricsPath:
		return Route{Kind: Metrics}, nil
	case livePath:
		return Route{Kind: Live}, nil
	case readyPath:
		return Route{Kind: Ready}, nil
	}
	if !clean(p) {
		return Route{}, ErrNotClean
	}
	rest, ok := strings.CutPrefix(p, "/v2/")
	if !ok {
		return Route{}, ErrNoRoute
	}
	// No segment of a GUN is "_trust", so the first one ends it. Segments of a
	// delegation may well be.
	name, what, ok := strings.Cut(rest, trustSegment)
	gun := tuf.GUN(name)
	if !ok || !gun.Valid() {
		return Route{}, ErrNoRoute
	}
	if what == feedPath {
		return Route{Kind: Changefeed, GUN: gun}, nil
	}
	file, ok := strings.CutPrefix(what, "tuf/")
	if !ok {
		return Route{}, ErrNoRoute
	}
	if file == "" {
		return Route{Kind: Repository, GUN: gun}, nil
	}
	if key, ok := strings.CutSuffix(file, ".key"); ok {
		if role := tuf.RoleName(key); role == tuf.RoleSnapshot || role == tuf.RoleTimestamp {
			return Route{Kind: Key, GUN: gun, Role: role}, nil
		}
		return Route{}, ErrNoRoute
	}
	if name, ok := strings.CutSuffix(file, ".json"); ok {
		return parseFile(gun, name)
	}
	return Route{}, ErrNoRoute
}

// parseFile parses the name of a file without its suffix: by hash, by version,
// or current, tried in this order.
func parseFile(gun tuf.GUN, name string) (Route, error) {
	if i := strings.LastIndexByte(name, '.'); i > 0 && isRole(name[:i]) && isHex(name[i+1:]) {
		r := Route{Kind: FileByHash, GUN: gun, Role: tuf.RoleName(name[:i])}
		digits := name[i+1:]
		// The stock server routes longer and upper-case digests too, and
		// never finds them.
		if len(digits) != 64 || strings.ToLower(digits) != digits || !r.Role.Valid() {
			return Route{Kind: FileNever, GUN: gun}, nil
		}
		if _, err := hex.Decode(r.SHA256[:], []byte(digits)); err != nil {
			return Route{}, ErrNoRoute
		}
		return r, nil
	}
	if number, role, ok := strings.Cut(name, "."); ok && isDigits(number) && isRole(role) {
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil || v < 1 || !tuf.RoleName(role).Valid() {
			return Route{Kind: FileNever, GUN: gun}, nil
		}
		return Route{Kind: FileByVersion, GUN: gun, Role: tuf.RoleName(role), Version: v}, nil
	}
	if isRole(name) {
		if !tuf.RoleName(name).Valid() {
			return Route{Kind: FileNever, GUN: gun}, nil
		}
		return Route{Kind: FileCurrent, GUN: gun, Role: tuf.RoleName(name)}, nil
	}
	return Route{}, ErrNoRoute
}

// isRole reports whether s is routed as a role, which is wider than
// [tuf.RoleName.Valid]: any segments below targets.
func isRole(s string) bool {
	if tuf.RoleName(s).TopLevel() {
		return true
	}
	return strings.HasPrefix(s, "targets/") && !strings.ContainsAny(s, " \t\r\n")
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isHex(s string) bool {
	switch len(s) {
	case 64, 96, 128:
		return strings.Trim(s, "0123456789abcdefABCDEF") == ""
	}
	return false
}

// clean reports whether p is absolute and has no empty, "." or ".." segment,
// but for an empty last one.
func clean(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	start := 1
	for i := 1; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		switch p[start:i] {
		case "":
			if i < len(p) {
				return false
			}
		case ".", "..":
			return false
		}
		start = i + 1
	}
	return true
}

// Clean returns the canonical form of an escaped path that [ParsePath] refused
// with [ErrNotClean]: without empty and dot segments, a last slash kept. It
// always begins with exactly one slash, so it never names another host.
func Clean(escaped string) string {
	p := path.Clean("/" + escaped)
	if strings.HasSuffix(escaped, "/") && p != "/" {
		p += "/"
	}
	return p
}

// Path returns the escaped path that names r, and "" if r names nothing
// (FileNever has no path of its own). The GUN and the role must be valid.
func (r Route) Path() string {
	base := "/v2/" + string(r.GUN) + trustSegment
	switch r.Kind {
	case Ping:
		return "/v2/"
	case AllChanges:
		return allPath
	case Health:
		return healthPath
	case Metrics:
		return metricsPath
	case Live:
		return livePath
	case Ready:
		return readyPath
	case Changefeed:
		return escape(base + feedPath)
	case Repository:
		return escape(base + "tuf/")
	case FileCurrent:
		return escape(base + "tuf/" + string(r.Role) + ".json")
	case FileByHash:
		return escape(base + "tuf/" + string(r.Role) + "." + hex.EncodeToString(r.SHA256[:]) + ".json")
	case FileByVersion:
		return escape(base + "tuf/" + strconv.FormatInt(r.Version, 10) + "." + string(r.Role) + ".json")
	case Key:
		return escape(base + "tuf/" + string(r.Role) + ".key")
	}
	return ""
}

func escape(p string) string { return (&url.URL{Path: p}).EscapedPath() }
