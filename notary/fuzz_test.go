package notary

import (
	"database/sql"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	_ "modernc.org/sqlite"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// Whatever a dump has in it, reading it ends, hands rows of the right form on,
// and says that the dump is at fault if it does not succeed.
func FuzzParse(f *testing.F) {
	const created = "CREATE TABLE public.tuf_files (id integer, created_at timestamp, deleted_at timestamp, gun text, role text, version integer, data bytea, sha256 text);\n"
	f.Add(created + "INSERT INTO public.tuf_files VALUES (7, '2024-01-02 03:04:05.6', NULL, 'a/b', 'targets', 3, '\\x7b7d', NULL);\n")
	f.Add(created + "COPY public.tuf_files (id, created_at, deleted_at, gun, role, version, data, sha256) FROM stdin;\n7\t\\N\t\\N\ta\tb\t3\t\\\\x7b\t\\N\n\\.\n")
	f.Add("-- MySQL dump\nINSERT INTO `changefeed` (`id`) VALUES (7),(0x37),(_binary '\\0\\\\\\''),(E'\\n');/*!40 x */;$$ ; $$;\n")
	f.Fuzz(func(t *testing.T, dump string) {
		p := newParser(strings.NewReader(dump), func(to *table, args []any, _ int) error {
			for i, c := range to.columns {
				switch v := args[i].(type) {
				case nil:
				case int64:
					if c.is != integer {
						t.Errorf("%s is %v", c.name, v)
					}
				case string:
					if c.is != characters {
						t.Errorf("%s is %q", c.name, v)
					}
				case []byte:
					if c.is != octets {
						t.Errorf("%s is %q", c.name, v)
					}
				default:
					t.Errorf("%s is a %T", c.name, v)
				}
			}
			return nil
		})
		if err := p.run(); err != nil && !errors.Is(err, ErrDump) {
			t.Errorf("run = %v, want ErrDump", err)
		} else if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("run = %q", err)
		}
	})
}

// FuzzOpenKey: a wrapped key costs a bounded time, opens to the key that the
// table says it is, or is refused with one of two errors.
func FuzzOpenKey(f *testing.F) {
	raw, err := os.Open(filepath.Join("testdata", "signer-db.sql"))
	if err != nil {
		f.Fatal(err)
	}
	defer raw.Close()
	db, err := sql.Open("sqlite", database.SQLiteDSN(filepath.Join(f.TempDir(), "dump.db")))
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	at := database.New(db, database.SQLite)
	if _, err := Load(f.Context(), raw, at); err != nil {
		f.Fatal(err)
	}
	all, err := New(at).Keys(f.Context())
	if err != nil || len(all) == 0 {
		f.Fatalf("Keys = %d keys, %v", len(all), err)
	}
	for _, k := range all {
		f.Add(k.wrapped, string(k.Public.Type), k.Public.Bytes)
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"PBES2-HS256+A128KW","enc":"A256GCM","p2c":1000000000,"p2s":"AAAAAAAAAAA"}`))
	f.Add(head+".AAAA.AAAA.AAAA.AAAA", "ecdsa", []byte{})
	f.Fuzz(func(t *testing.T, wrapped, kind string, public []byte) {
		k := Key{wrapped: wrapped, Public: tuf.PublicKey{Type: tuf.KeyType(kind), Bytes: public}}
		k.ID = k.Public.CanonicalID()
		key, err := k.Open([]byte("signer-passphrase"))
		if err != nil {
			if !errors.Is(err, ErrKey) && !errors.Is(err, ErrPassphrase) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("Open(%q) = %q", wrapped, err)
			}
			return
		}
		if got, err := tuf.NewPublicKey(key.Public()); err != nil || !got.Equal(k.Public) {
			t.Errorf("Open(%q) gave the key %v (%v)", wrapped, got, err)
		}
	})
}
