package database

import (
	"net/url"
	"strings"
)

// SQLiteDSN returns the data source name, for the driver named "sqlite", of a
// database file as this package wants it: write-ahead log, every commit synced
// to disk before it is acknowledged, write transactions that take their lock
// at the start.
func SQLiteDSN(path string) string {
	pragmas := []string{"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(1)", "cache_size(-512)"}
	for i, p := range pragmas {
		pragmas[i] = "_pragma=" + p
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	return u.String() + "?" + strings.Join(pragmas, "&") + "&_txlock=immediate"
}
