// Package notarytest sets up deployments of the stock programs, notary-server
// and notary-signer, for tests and measurements: their tables, and the files
// that configure them. Whoever uses it starts the programs.
package notarytest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/iechor/trust/database"
)

// The schemas of the stock programs.
const (
	Server = "server"
	Signer = "signer"
)

// The tables of the stock programs after all of their migrations
// (notary-protocol 5.4).
var tables = map[database.Dialect]map[string][]string{
	database.PostgreSQL: {
		"server": {
			`CREATE TABLE tuf_files (id serial PRIMARY KEY, created_at timestamp NULL, updated_at timestamp NULL, deleted_at timestamp NULL,
				gun varchar(255) NOT NULL, role varchar(255) NOT NULL, version integer NOT NULL, data bytea NOT NULL, sha256 char(64) DEFAULT NULL, UNIQUE (gun, role, version))`,
			`CREATE TABLE change_category (category varchar(20) PRIMARY KEY)`,
			`INSERT INTO change_category VALUES ('update'), ('deletion')`,
			`CREATE TABLE changefeed (id serial PRIMARY KEY, created_at timestamp DEFAULT CURRENT_TIMESTAMP, gun varchar(255) NOT NULL, version integer NOT NULL,
				sha256 char(64) DEFAULT NULL, category varchar(20) NOT NULL DEFAULT 'update' REFERENCES change_category)`,
		},
		"signer": {
			`CREATE TABLE private_keys (id serial PRIMARY KEY, created_at timestamp NULL, updated_at timestamp NULL, deleted_at timestamp NULL,
				key_id varchar(255) NOT NULL UNIQUE, encryption_alg varchar(255) NOT NULL, keywrap_alg varchar(255) NOT NULL, algorithm varchar(50) NOT NULL,
				passphrase_alias varchar(50) NOT NULL, public bytea NOT NULL, private bytea NOT NULL, gun varchar(255) NOT NULL, role varchar(255) NOT NULL, last_used timestamp NULL)`,
		},
	},
	database.MySQL: {
		"server": {
			"CREATE TABLE tuf_files (id int(11) NOT NULL AUTO_INCREMENT, created_at timestamp NULL DEFAULT NULL, updated_at timestamp NULL DEFAULT NULL, deleted_at timestamp NULL DEFAULT NULL," +
				"gun varchar(255) NOT NULL, role varchar(255) NOT NULL, version int(11) NOT NULL, data longblob NOT NULL, sha256 char(64) DEFAULT NULL, PRIMARY KEY (id), UNIQUE KEY gun (gun, role, version)) DEFAULT CHARSET=utf8",
			"CREATE TABLE change_category (category varchar(20) NOT NULL, PRIMARY KEY (category)) DEFAULT CHARSET=utf8",
			"INSERT INTO change_category VALUES ('update'), ('deletion')",
			"CREATE TABLE changefeed (id int(11) NOT NULL AUTO_INCREMENT, created_at timestamp DEFAULT CURRENT_TIMESTAMP, gun varchar(255) NOT NULL, version int(11) NOT NULL," +
				"sha256 char(64) DEFAULT NULL, category varchar(20) NOT NULL DEFAULT 'update', PRIMARY KEY (id), FOREIGN KEY (category) REFERENCES change_category (category)) DEFAULT CHARSET=utf8",
		},
		"signer": {
			"CREATE TABLE private_keys (id int(11) NOT NULL AUTO_INCREMENT, created_at timestamp NULL DEFAULT NULL, updated_at timestamp NULL DEFAULT NULL, deleted_at timestamp NULL DEFAULT NULL," +
				"key_id varchar(255) NOT NULL, encryption_alg varchar(255) NOT NULL, keywrap_alg varchar(255) NOT NULL, algorithm varchar(50) NOT NULL, passphrase_alias varchar(50) NOT NULL," +
				"public blob NOT NULL, private blob NOT NULL, gun varchar(255) NOT NULL, role varchar(255) NOT NULL, last_used datetime NULL DEFAULT NULL, PRIMARY KEY (id), UNIQUE KEY key_id (key_id)) DEFAULT CHARSET=utf8",
		},
	},
}

// Migration returns what makes the tables of [Server] or [Signer] in an empty
// database.
func Migration(schema string) func(context.Context, *database.DB) error {
	return func(ctx context.Context, db *database.DB) error {
		for _, create := range tables[db.Dialect()][schema] {
			if _, err := db.SQL().ExecContext(ctx, create); err != nil {
				return fmt.Errorf("make the tables of a notary %s: %w", schema, err)
			}
		}
		return nil
	}
}

// A Storage is where a stock program keeps its data, in its own words.
type Storage struct {
	Backend string `json:"backend"`
	URL     string `json:"db_url,omitempty"`
}

// Memory keeps nothing.
var Memory = Storage{Backend: "memory"}

// On is a database that a server on this machine has, at a Unix socket.
func On(d database.Dialect, socket, user, name string) Storage {
	if d == database.PostgreSQL {
		return Storage{"postgres", fmt.Sprintf("postgres://%s@/%s?host=%s&sslmode=disable", user, name, socket)}
	}
	return Storage{"mysql", fmt.Sprintf("%s@unix(%s)/%s?parseTime=true", user, socket, name)}
}

// TLS names the files that both programs use, for each other and for clients.
type TLS struct{ CA, Certificate, Key string }

// ServerConfig returns the configuration of a notary-server that listens on
// addr. It signs by itself if signerPort is empty, and otherwise has the
// notary-signer sign that listens there, on localhost.
func ServerConfig(addr, signerPort string, s Storage, t TLS) []byte {
	trust := map[string]string{"type": "local"}
	if signerPort != "" {
		trust = map[string]string{
			"type": "remote", "hostname": "localhost", "port": signerPort, "key_algorithm": "ecdsa",
			"tls_ca_file": t.CA, "tls_client_cert": t.Certificate, "tls_client_key": t.Key,
		}
	}
	return config(map[string]any{
		"server":        map[string]string{"http_addr": addr, "tls_cert_file": t.Certificate, "tls_key_file": t.Key},
		"trust_service": trust, "storage": s,
	})
}

// SignerAlias is the variable, with its value, that a notary-signer which
// [SignerConfig] configures needs in its environment.
const SignerAlias = "NOTARY_SIGNER_ALIAS1=correct horse"

// SignerConfig returns the configuration of a notary-signer that listens on
// addr.
func SignerConfig(addr string, s Storage, t TLS) []byte {
	return config(map[string]any{
		"server":  map[string]string{"grpc_addr": addr, "tls_cert_file": t.Certificate, "tls_key_file": t.Key, "client_ca_file": t.CA},
		"storage": map[string]string{"backend": s.Backend, "db_url": s.URL, "default_alias": "alias1"},
	})
}

func config(c map[string]any) []byte {
	c["logging"] = map[string]string{"level": "error"}
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings only
	}
	return raw
}
