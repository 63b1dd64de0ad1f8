package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// serveChanges answers with the changes of one repository, or of all if gun is
// empty (notary-protocol 3.6).
func (s *Server) serveChanges(w http.ResponseWriter, r *http.Request, gun tuf.GUN) error {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.NewError(api.InvalidParameters, api.Empty{})
	}
	q, err := api.ParseChangeQuery(values)
	if err != nil {
		return err
	}
	changes, err := s.c.Store.Changes(r.Context(), storage.ChangeQuery{GUN: gun, From: q.From, Limit: q.Limit, Backwards: q.Backwards})
	if err != nil {
		return fmt.Errorf("read changes: %w", err)
	}
	records := make([]api.ChangeRecord, len(changes))
	for i, c := range changes {
		records[i] = api.ChangeRecord{
			ID: strconv.FormatInt(c.ID, 10), CreatedAt: c.At.UTC(), GUN: c.GUN,
			Version: c.Version, SHA256: c.SHA256, Category: api.CategoryUpdate,
		}
		if c.Deleted {
			records[i].Category = api.CategoryDeletion
		}
	}
	body, err := api.EncodeChanges(records)
	if err != nil {
		return err
	}
	return writeText(w, body)
}
