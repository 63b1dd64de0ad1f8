package trust

import (
	"runtime"
	"strings"

	"github.com/iechor/trust/tuf"
)

// The folders of a repository, next to the folders of the repositories below
// it.
const (
	metadataDir   = "metadata"
	changelistDir = "changelist"
)

// pathOf returns the path of a role's file below the trust directory, with
// slashes. It is injective over all valid GUNs and roles, also where the file
// system ignores case, and it is the stock programs' path wherever that one
// can be had (notary-protocol 6, attacks.md N1).
//
// It differs from theirs, by %XX escapes, for GUNs with a segment "metadata"
// or "changelist", which would otherwise be the folder of another repository;
// on Windows also for names that Windows reads as something else; and on
// Windows and macOS for upper case. The stock programs do not find those.
func pathOf(gun tuf.GUN, role tuf.RoleName) string {
	return pathOn(runtime.GOOS, gun, role)
}

func pathOn(goos string, gun tuf.GUN, role tuf.RoleName) string {
	segments := strings.Split(string(role), "/")
	for i, s := range segments {
		if goos == "windows" && device(s) {
			segments[i] = escapeFirst(s)
		}
	}
	return gunDirOn(goos, gun) + "/" + metadataDir + "/" + strings.Join(segments, "/") + ".json"
}

// gunDir returns the path of a repository's folder below the trust directory.
func gunDir(gun tuf.GUN) string { return gunDirOn(runtime.GOOS, gun) }

func gunDirOn(goos string, gun tuf.GUN) string {
	segments := strings.Split(string(gun), "/")
	for i, s := range segments {
		segments[i] = escapeSegment(goos, s)
	}
	return "tuf/" + strings.Join(segments, "/")
}

// escapeSegment escapes one segment of a GUN. "%" is not in GUNs, so no two
// segments meet.
func escapeSegment(goos, s string) string {
	lower := strings.ToLower(s)
	reserved := lower == metadataDir || lower == changelistDir
	if goos == "windows" {
		// Windows drops dots and spaces at the end, and reads NAME.anything as
		// the device NAME.
		name, _, _ := strings.Cut(lower, ".")
		reserved = reserved || device(name)
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		last := i == len(s)-1
		if i == 0 && reserved ||
			goos == "windows" && (c == ':' || c == '~' || c == '.' && last) ||
			(goos == "windows" || goos == "darwin") && 'A' <= c && c <= 'Z' {
			b.WriteString(escapeByte(c))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

func escapeFirst(s string) string { return escapeByte(s[0]) + s[1:] }

func escapeByte(c byte) string {
	const digits = "0123456789ABCDEF"
	return string([]byte{'%', digits[c>>4], digits[c&15]})
}

// device reports whether Windows takes the name, in lower case and without its
// suffix, for a device.
func device(s string) bool {
	switch s {
	case "con", "prn", "aux", "nul", "conin$", "conout$":
		return true
	}
	return len(s) == 4 && (s[:3] == "com" || s[:3] == "lpt") && '0' <= s[3] && s[3] <= '9'
}
