package notary_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/notary"
	"github.com/iechor/trust/tuf"
	_ "modernc.org/sqlite"
)

// emptyDB is where a dump is read into.
func emptyDB(t testing.TB) *database.DB {
	t.Helper()
	db, err := sql.Open("sqlite", database.SQLiteDSN(filepath.Join(t.TempDir(), "dump.db")))
	if err != nil {
		t.Fatal(err)
	}
	d := database.New(db, database.SQLite)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// load reads a dump that must be readable.
func load(t testing.TB, dump io.Reader) (*notary.Database, int) {
	t.Helper()
	db := emptyDB(t)
	n, err := notary.Load(t.Context(), dump, db)
	if err != nil {
		t.Fatal(err)
	}
	return notary.New(db), n
}

func golden(t testing.TB, name string) *notary.Database {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, _ := load(t, f)
	return d
}

// The golden dumps were written by pg_dump --inserts after the stock programs
// had made the golden repositories. Every version is byte for byte the one
// that the server served then.
func TestGoldenServer(t *testing.T) {
	t.Parallel()
	d := golden(t, "server-db.sql")
	guns, err := d.GUNs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []tuf.GUN
	for _, repo := range []string{"delegations", "docker-cli", "emptied", "local-snapshot", "pinned-ca", "rotated", "server-snapshot"} {
		want = append(want, goldenRepository(t, d, repo))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, guns); diff != "" {
		t.Errorf("GUNs (-want +got):\n%s", diff)
	}
	if last, err := d.LastChange(t.Context()); err != nil || last < 30 {
		t.Errorf("LastChange = %d, %v", last, err)
	}
}

// goldenRepository compares the versions of one repository with those that
// were captured from the server.
func goldenRepository(t *testing.T, d *notary.Database, repo string) tuf.GUN {
	t.Helper()
	dir := filepath.Join("..", "tuf", "testdata", "notary-0.7", "repos", repo)
	name, err := os.ReadFile(filepath.Join(dir, "GUN"))
	if err != nil {
		t.Fatal(err)
	}
	gun := tuf.GUN(strings.TrimSpace(string(name)))
	files, err := d.Files(t.Context(), gun)
	if err != nil || len(files) == 0 {
		t.Fatalf("Files(%s) = %d, %v", gun, len(files), err)
	}
	newest := map[tuf.RoleName][]byte{}
	var highest = map[tuf.RoleName]int64{}
	for _, f := range files {
		raw, err := d.Raw(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if f.Created.Year() != 2026 {
			t.Errorf("%s version %d of %s was made at %v", f.Role, f.Version, gun, f.Created)
		}
		sub, base := filepath.Split(string(f.Role))
		captured, err := os.ReadFile(filepath.Join(dir, "versions", sub, fmt.Sprintf("%d.%s.json", f.Version, base)))
		if err == nil && !bytes.Equal(captured, raw) {
			t.Errorf("%s version %d of %s is not what the server served", f.Role, f.Version, gun)
		}
		if f.Version > highest[f.Role] {
			highest[f.Role], newest[f.Role] = f.Version, raw
		}
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		served, err := os.ReadFile(filepath.Join(dir, "current", string(role)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(served, newest[role]) {
			t.Errorf("the newest %s of %s is not what the server served", role, gun)
		}
	}
	return gun
}

func TestGoldenSigner(t *testing.T) {
	t.Parallel()
	d := golden(t, "signer-db.sql")
	keys, err := d.Keys(t.Context())
	if err != nil || len(keys) != 18 {
		t.Fatalf("Keys = %d, %v, want 18", len(keys), err)
	}
	types := map[tuf.KeyType]int{}
	for _, k := range keys {
		if k.Alias != "timestamp_1" || notary.PassphraseVariable(k.Alias) != "NOTARY_SIGNER_TIMESTAMP_1" {
			t.Errorf("key %s has the alias %q, variable %s", k.ID, k.Alias, notary.PassphraseVariable(k.Alias))
		}
		private, err := k.Open([]byte("signer-passphrase"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := tuf.NewSigner(private)
		if err != nil || s.PublicKey().CanonicalID() != k.ID {
			t.Errorf("key %s opens as another: %v", k.ID, err)
		}
		types[k.Public.Type]++
		for _, wrong := range []string{"", "another-passphrase"} {
			if _, err := k.Open([]byte(wrong)); !errors.Is(err, notary.ErrPassphrase) {
				t.Errorf("Open with %q = %v, want ErrPassphrase", wrong, err)
			}
		}
	}
	if types[tuf.ECDSA] == 0 || types[tuf.Ed25519] == 0 {
		t.Errorf("types %v, want both", types)
	}
	if _, err := d.GUNs(t.Context()); err != nil {
		t.Errorf("GUNs of a dump without files = %v", err)
	}
}

// A key whose row was changed is no key: not for another repository's id, nor
// with another public half.
func TestAlteredKeyRow(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("testdata", "signer-db.sql"))
	if err != nil {
		t.Fatal(err)
	}
	d, _ := load(t, bytes.NewReader(raw))
	keys, err := d.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, b := keys[0], keys[1]
	for name, k := range map[string]notary.Key{"id": {}, "public half": {}, "type": {}} {
		k = a
		switch name {
		case "id":
			k.ID = b.ID
		case "public half":
			k.Public = b.Public
		case "type":
			k.Public.Type = tuf.RSA
		}
		if _, err := k.Open([]byte("signer-passphrase")); !errors.Is(err, notary.ErrKey) {
			t.Errorf("Open with another %s = %v, want ErrKey", name, err)
		}
	}
}

// What follows is one row, as each program and option writes it. The file is
// {"a":"'\<newline>"} with the checksum of other bytes, so that reading it
// says whether it was understood.
const (
	content  = "{\"a\":\"'\\\n\"}"
	checksum = "0e1f5cd7b6ae8ea4ae2ec0cf5d5b6d57c1f4ea3b7a4b2c3ed7b27e9a7fd9a8a1"
)

const (
	postgresTable = `CREATE TABLE public.tuf_files (
    id integer NOT NULL,
    created_at timestamp without time zone DEFAULT now(),
    updated_at timestamp without time zone,
    deleted_at timestamp without time zone,
    gun character varying(255) DEFAULT 'x'::character varying NOT NULL,
    role character varying(255) NOT NULL,
    version integer NOT NULL,
    data bytea NOT NULL,
    sha256 character(64) DEFAULT NULL::bpchar,
    CONSTRAINT positive CHECK ((version > 0))
);
`
	mysqlTable = "/*!40101 SET NAMES utf8 */;\nDROP TABLE IF EXISTS `tuf_files`;\nCREATE TABLE `tuf_files` (\n" +
		"  `id` int(11) NOT NULL AUTO_INCREMENT,\n  `created_at` timestamp NULL DEFAULT NULL,\n  `updated_at` timestamp NULL DEFAULT NULL,\n" +
		"  `deleted_at` timestamp NULL DEFAULT NULL,\n  `gun` varchar(255) NOT NULL,\n  `role` varchar(255) NOT NULL,\n  `version` int(11) NOT NULL,\n" +
		"  `data` longblob NOT NULL,\n  `sha256` char(64) DEFAULT NULL,\n  PRIMARY KEY (`id`),\n  UNIQUE KEY `gun` (`gun`,`role`,`version`),\n" +
		"  KEY `sha256` (`sha256`)\n) ENGINE=InnoDB DEFAULT CHARSET=utf8;\nLOCK TABLES `tuf_files` WRITE;\n"
)

func TestForms(t *testing.T) {
	t.Parallel()
	hexed := fmt.Sprintf("%x", content)
	for name, dump := range map[string]string{
		"pg_dump": postgresTable + "COPY public.other (x) FROM stdin;\n1\tINSERT INTO\n\\.\n\n" +
			"COPY public.tuf_files (id, created_at, updated_at, deleted_at, gun, role, version, data, sha256) FROM stdin;\n" +
			"7\t2024-01-02 03:04:05.6\t\\N\t\\N\ta.example/b\ttargets\t3\t\\\\x" + hexed + "\t\\N\n\\.\n",
		"pg_dump, bytes in the escape form": postgresTable +
			"COPY public.tuf_files (id, created_at, updated_at, deleted_at, gun, role, version, data, sha256) FROM stdin;\n" +
			"7\t2024-01-02 03:04:05.6\t\\N\t\\N\ta.example/b\ttargets\t3\t{\"a\":\"'\\\\\\\\\\\\012\"}\t\\N\n\\.\n",
		"pg_dump --inserts": postgresTable + "INSERT INTO public.tuf_files VALUES (7, '2024-01-02 03:04:05.6', NULL, NULL, 'a.example/b', 'targets', 3, '\\x" + hexed + "', NULL);\n",
		"pg_dump --column-inserts --on-conflict-do-nothing --quote-all-identifiers": `INSERT INTO "public"."tuf_files" ("id", "created_at", "deleted_at", "gun", "role", "version", "data", "sha256") VALUES (7, '2024-01-02 03:04:05.6', NULL, 'a.example/b', 'targets', 3, '\x` + hexed + "', NULL) ON CONFLICT DO NOTHING;\n",
		"pg_dump --rows-per-insert":                postgresTable + "INSERT INTO public.tuf_files VALUES\n\t(7, '2024-01-02 03:04:05.6', NULL, NULL, 'a.example/b', 'targets', 3, '\\x" + hexed + "', NULL);\n",
		"mysqldump":                                "-- MySQL dump 10.13\n" + mysqlTable + "INSERT INTO `tuf_files` VALUES (7,'2024-01-02 03:04:05.6',NULL,NULL,'a.example/b','targets',3,'{\\\"a\\\":\\\"\\'\\\\\\n\\\"}',NULL);\nUNLOCK TABLES;\n",
		"mysqldump without a header, with _binary": mysqlTable + "INSERT INTO `tuf_files` VALUES (7,'2024-01-02 03:04:05.6',NULL,NULL,'a.example/b','targets',3,_binary '{\"a\":\"''\\\\\n\"}',NULL);\n",
		"mariadb-dump --hex-blob --insert-ignore":  "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n" + mysqlTable + "INSERT IGNORE INTO `tuf_files` VALUES (7,'2024-01-02 03:04:05.6',NULL,NULL,'a.example/b','targets',3,0x" + hexed + ",NULL);\n",
		"mysqldump --complete-insert":              "INSERT INTO `tuf_files` (`id`, `created_at`, `updated_at`, `deleted_at`, `gun`, `role`, `version`, `data`, `sha256`) VALUES (7,'2024-01-02 03:04:05.6',NULL,NULL,'a.example/b','targets',3,X'" + hexed + "',NULL);\n",
		"a function between": "CREATE FUNCTION f() RETURNS text AS $body$ INSERT INTO tuf_files VALUES ('; $body$ LANGUAGE sql;\n" + postgresTable +
			"INSERT INTO public.tuf_files VALUES (7, '2024-01-02 03:04:05.6', NULL, NULL, 'a.example/b', 'targets', 3, E'\\\\x" + hexed + "', NULL);\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// In whatever pieces it comes.
			for _, r := range []io.Reader{strings.NewReader(dump), iotest.OneByteReader(strings.NewReader(dump)), strings.NewReader(strings.ReplaceAll(dump, "NULL);\n", "NULL) ;\n"))} {
				d, n := load(t, r)
				files, err := d.Files(t.Context(), "a.example/b")
				if err != nil || n != 1 || len(files) != 1 {
					t.Fatalf("%d rows, %d files, %v, want one", n, len(files), err)
				}
				f := files[0]
				if f.Role != tuf.RoleTargets || f.Version != 3 || f.Created.Format("2006-01-02T15:04:05.9Z07:00") != "2024-01-02T03:04:05.6Z" {
					t.Errorf("file %+v", f)
				}
				raw, err := d.Raw(t.Context(), f)
				if err != nil || string(raw) != content {
					t.Errorf("Raw = %q, %v, want %q", raw, err, content)
				}
			}
		})
	}
}

func TestDeletedRowsAndChecksums(t *testing.T) {
	t.Parallel()
	row := func(id int, deleted, gun, sum string) string {
		return fmt.Sprintf("INSERT INTO tuf_files VALUES (%d, NULL, NULL, %s, '%s', 'root', %d, '\\x7b7d', %s);\n", id, deleted, gun, id, sum)
	}
	d, n := load(t, strings.NewReader(postgresTable+
		row(1, "'2024-01-02 03:04:05'", "gone.example/a", "NULL")+row(2, "NULL", "a.example/b", "'"+checksum+"'")+row(3, "NULL", "a.example/b", "NULL")))
	if n != 3 {
		t.Errorf("%d rows", n)
	}
	if guns, err := d.GUNs(t.Context()); err != nil || !slices.Equal(guns, []tuf.GUN{"a.example/b"}) {
		t.Errorf("GUNs = %v, %v: a deleted row counts as absent", guns, err)
	}
	files, err := d.Files(t.Context(), "a.example/b")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if _, err := d.Raw(t.Context(), files[0]); !errors.Is(err, notary.ErrCorrupt) {
		t.Errorf("Raw of altered bytes = %v, want ErrCorrupt", err)
	}
	if raw, err := d.Raw(t.Context(), files[1]); err != nil || string(raw) != "{}" || !files[1].Created.IsZero() {
		t.Errorf("Raw without a checksum = %q, %v", raw, err)
	}
}

func TestBadDumps(t *testing.T) {
	t.Parallel()
	insert := "INSERT INTO tuf_files VALUES (1, NULL, NULL, NULL, 'a.example/b', 'root', 1, '\\x7b7d', NULL);\n"
	whole := postgresTable + insert
	for name, dump := range map[string]string{
		"nothing":                 "",
		"not a dump":              "PGDMP\x01\x0e\x00",
		"an archive's bytes":      "\x1f\x8b\x08\x00\x00",
		"another database":        "CREATE TABLE public.users (id integer);\n",
		"cut in a string":         whole[:strings.LastIndex(whole, "7d'")],
		"cut in a row":            whole[:strings.LastIndex(whole, ", NULL")],
		"cut in a table":          postgresTable[:100],
		"cut in COPY":             "COPY tuf_files (id) FROM stdin;\n",
		"cut in a comment":        "/* " + whole,
		"no columns":              insert,
		"too few values":          postgresTable + "INSERT INTO tuf_files VALUES (1, NULL);\n",
		"another table's columns": "INSERT INTO tuf_files (id, gun) VALUES (1, 'a');\n",
		"a word for a number":     postgresTable + strings.Replace(insert, "(1,", "(one,", 1),
		"no bytes":                postgresTable + strings.Replace(insert, `\x7b7d`, `\x7b7`, 1),
		"bytes of no form":        postgresTable + strings.Replace(insert, `\x7b7d`, `\9`, 1),
		"one number twice":        whole + insert,
		"a value behind a value":  postgresTable + strings.Replace(insert, "'root',", "'root' 'x',", 1),
		"no VALUES":               postgresTable + "INSERT INTO tuf_files SELECT 1;\n",
		"no INTO":                 postgresTable + "INSERT tuf_files;\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := notary.Load(t.Context(), strings.NewReader(dump), emptyDB(t))
			if !errors.Is(err, notary.ErrDump) {
				t.Errorf("Load = %d, %v, want ErrDump", n, err)
			}
		})
	}
}

// Found by FuzzParse: a dump that ends in the middle of a CREATE is told so,
// once.
func TestDumpCutOff(t *testing.T) {
	t.Parallel()
	_, err := notary.Load(t.Context(), strings.NewReader("CREATE \"x"), emptyDB(t))
	if !errors.Is(err, notary.ErrDump) || strings.Count(err.Error(), "cut off") != 1 {
		t.Errorf("Load = %q, want ErrDump with one reason", err)
	}
}

func TestNotTheDatabase(t *testing.T) {
	t.Parallel()
	d := notary.New(emptyDB(t))
	if _, err := d.GUNs(t.Context()); !errors.Is(err, notary.ErrTable) {
		t.Errorf("GUNs = %v, want ErrTable", err)
	}
	if _, err := d.Keys(t.Context()); !errors.Is(err, notary.ErrTable) {
		t.Errorf("Keys = %v, want ErrTable", err)
	}
}
