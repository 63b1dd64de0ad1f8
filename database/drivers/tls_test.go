package drivers_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/database/drivers"
)

// Real servers are spoken to over TLS, by who their certificate says they are.
func TestTLSPostgreSQL(t *testing.T) {
	t.Parallel()
	handshakes(t, databasetest.SecuredPostgreSQL(t), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "true")
}

func TestTLSMariaDB(t *testing.T) {
	t.Parallel()
	handshakes(t, databasetest.SecuredMariaDB(t), "SELECT VARIABLE_VALUE LIKE 'TLSv1.%' FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_version'", "1")
}

func handshakes(t *testing.T, s *databasetest.Secured, encrypted, yes string) {
	t.Helper()
	ca, other, shown := "&tls_ca="+s.CA, "&tls_ca="+s.OtherCA, "&tls_certificate="+s.Certificate+"&tls_key="+s.Key
	for _, tt := range []struct {
		what, user, options string
		refused             string // "": it is accepted; else what the error says
	}{
		{"the right authority", "secure", "tls=verify" + ca, ""},
		{"the right authority, with a certificate", "known", "tls=verify" + ca + shown, ""},
		{"another authority", "secure", "tls=verify" + other, "certificate signed by unknown authority"},
		{"another authority, where the server asks for no TLS", "trust", "tls=verify" + other, "certificate signed by unknown authority"},
		{"the system's authorities", "secure", "tls=verify", "certificate signed by unknown authority"},
		{"no TLS where the server demands it", "secure", "tls=off", "secure"},
		{"no certificate where the server demands one", "known", "tls=verify" + ca, "known"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel() // what is refused is tried for some seconds
			got, err := ask(t.Context(), s.Setting(tt.user, tt.options), encrypted)
			switch {
			case tt.refused == "" && (err != nil || got != yes):
				t.Errorf("%s is %q, %v, want %s", encrypted, got, err, yes)
			case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)):
				t.Errorf("%v, want an error with %q", err, tt.refused)
			}
		})
	}
}

// ask opens what a setting names, and asks it a question.
func ask(ctx context.Context, setting, question string) (answer string, err error) {
	a, err := drivers.Parse(setting, os.Getenv)
	if err != nil {
		return "", err
	}
	db, err := a.Open(ctx)
	if err != nil {
		return "", err
	}
	defer db.Close()
	err = db.SQL().QueryRowContext(ctx, question).Scan(&answer)
	return answer, err
}
