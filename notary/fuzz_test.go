package notary

import (
	"errors"
	"strings"
	"testing"
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
		}
	})
}
