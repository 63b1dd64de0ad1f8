package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/iechor/trust/tuf"
)

// Categories of a [ChangeRecord].
const (
	CategoryUpdate   = "update"
	CategoryDeletion = "deletion"
)

// A ChangeRecord says that a repository was published or deleted. The names
// of its members on the wire are those of its fields (notary-protocol 3.6).
type ChangeRecord struct {
	ID        string // decimal
	CreatedAt time.Time
	GUN       tuf.GUN
	Version   int64  // of the timestamp; 0 for a deletion
	SHA256    string // of the timestamp file, hex; empty for a deletion
	Category  string
}

// A ChangeList is the body of a changefeed, oldest first.
type ChangeList struct {
	Count   int            `json:"count"`
	Records []ChangeRecord `json:"records"`
}

// EncodeChanges returns the body for records.
func EncodeChanges(records []ChangeRecord) ([]byte, error) {
	if records == nil {
		records = []ChangeRecord{}
	}
	return json.Marshal(ChangeList{len(records), records})
}

// MaxChangesBody bounds the body of a changefeed of [MaxChanges] records, in
// bytes.
const MaxChangesBody = MaxChanges * 1024

// DecodeChanges reads the body of a changefeed. What it returns has valid
// names and ids that are numbers. Its error is one short line.
func DecodeChanges(raw []byte) ([]ChangeRecord, error) {
	var list struct {
		Records []struct {
			ID, GUN, SHA256, Category string
			CreatedAt                 time.Time
			Version                   int64
		} `json:"records"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("changefeed: %.300q", err) // quoted: it repeats a time that is none as it stands
	}
	var all []ChangeRecord
	for _, r := range list.Records {
		if _, err := strconv.ParseInt(r.ID, 10, 64); err != nil || !tuf.GUN(r.GUN).Valid() {
			return nil, fmt.Errorf("changefeed: a record with the id %.40q for %.300q", r.ID, r.GUN)
		}
		all = append(all, ChangeRecord{ID: r.ID, CreatedAt: r.CreatedAt, GUN: tuf.GUN(r.GUN), Version: r.Version, SHA256: r.SHA256, Category: r.Category})
	}
	return all, nil
}

// A ChangeQuery asks for part of a changefeed: at most Limit records after
// the one with the id From, or, backwards, the last ones before it (From 0:
// the newest). Limit is at least 1.
type ChangeQuery struct {
	From      int64
	Limit     int
	Backwards bool
}

// Bounds of [ChangeQuery.Limit].
const (
	DefaultChanges = 100
	MaxChanges     = 1000
)

// ParseChangeQuery reads the parameters "records" and "change_id". The error
// is an [*Error] with the code INVALID_PARAMETERS. More than [MaxChanges]
// records are cut to that number.
func ParseChangeQuery(v url.Values) (ChangeQuery, error) {
	records, err := strconv.ParseInt(v.Get("records"), 10, 32)
	if err != nil {
		// The detail is part of the protocol, down to the name of the function.
		return ChangeQuery{}, NewError(InvalidParameters, "invalid records parameter: "+parseIntText(v.Get("records"), err))
	}
	q := ChangeQuery{}
	if id := v.Get("change_id"); id != "" {
		if q.From, err = strconv.ParseInt(id, 10, 64); err != nil {
			return ChangeQuery{}, NewError(InvalidParameters, Empty{})
		}
	}
	q.Backwards = records < 0 || q.From < 0
	if records < 0 {
		records = -records
	}
	if records == 0 {
		records = DefaultChanges
	}
	q.Limit = int(min(records, MaxChanges))
	q.From = max(q.From, 0)
	return q, nil
}

// parseIntText writes why a number was refused, in bounded length.
func parseIntText(s string, err error) string {
	reason := "invalid syntax"
	if errors.Is(err, strconv.ErrRange) {
		reason = "value out of range"
	}
	return fmt.Sprintf("strconv.ParseInt: parsing %s: %s", strconv.Quote(s[:min(len(s), 64)]), reason)
}

// Values is the inverse of [ParseChangeQuery].
func (q ChangeQuery) Values() url.Values {
	records := q.Limit
	if q.Backwards {
		records = -records
	}
	v := url.Values{"records": {strconv.Itoa(records)}}
	if q.From > 0 {
		v.Set("change_id", strconv.FormatInt(q.From, 10))
	}
	return v
}
