package storage_test

import (
	"testing"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
)

func TestPostgreSQL(t *testing.T) { contract(t, databasetest.PostgreSQL) }
func TestMariaDB(t *testing.T)    { contract(t, databasetest.MariaDB) }

// As behind a pooler that hands connections from transaction to transaction.
func TestPostgreSQLUnprepared(t *testing.T) {
	contract(t, func(t testing.TB) string { return databasetest.PostgreSQL(t) + "&prepare=no" })
}

// contract holds on every kind of database.
func contract(t *testing.T, fresh databasetest.Fresh) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, err := storage.Open(t.Context(), databasetest.Open(t, fresh(t)))
		if err != nil {
			t.Fatalf("Open = %v", err)
		}
		return s
	})
}
