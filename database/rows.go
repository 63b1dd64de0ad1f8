package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Rows are rows of one table that are to be written, see [Tx.Write].
type Rows struct {
	Table string
	// By are the columns that say which row is meant, the primary key among them.
	// Without them the rows are new ones.
	By []string
	// If, if it is not empty, is one more condition on a single row that is
	// changed, with the arguments IfArgs.
	If     string
	IfArgs []any
	// Set are the columns that are written.
	Set []string
	// Keep passes over new rows whose key is there already.
	Keep bool
	// Replace are those columns of a new row that are written where its key, the
	// columns of Key, is there already. Empty: then that is an error.
	Key, Replace []string
	// Values are those of By, then those of Set, for each row: int64, string
	// or []byte, in a column always the same.
	Values [][]any
}

// ErrMissed says that a row was to be changed that is not there.
var ErrMissed = errors.New("a row that was to be changed is not there")

// Write writes rows of several tables, those of all that come first before
// those that refer to them, with one statement for each table where there is a
// server, or on MySQL for each row that is changed, which is sent all of them at
// once; MySQL only where that is safe. No row may be meant twice. The error matches [ErrMissed] if one that was to be
// changed is not there.
func (t *Tx) Write(ctx context.Context, all ...Rows) error {
	var some []Rows
	for _, r := range all {
		if r.If != "" && (len(r.By) == 0 || len(r.Values) > 1) {
			return fmt.Errorf("write %s: a condition is for a single row that is changed", r.Table)
		}
		if len(r.Values) > 0 {
			some = append(some, r)
		}
	}
	switch {
	case len(some) == 0:
		return nil
	case t.dialect == PostgreSQL:
		return t.writeTogether(ctx, some)
	case t.packets:
		return t.writeInTurn(ctx, some)
	}
	for _, r := range some {
		if err := t.writeEach(ctx, r); err != nil {
			return fmt.Errorf("write %s: %w", r.Table, err)
		}
	}
	return nil
}

// writeTogether writes everything with one statement of PostgreSQL for each
// table, all sent at once. Their texts do not depend on how many rows there are,
// so that they are parsed and planned once for each connection. (One statement
// for all, of WITH parts, takes the server longer.)
func (t *Tx) writeTogether(ctx context.Context, all []Rows) error {
	texts, values := make([]string, len(all)), make([][]any, len(all))
	for i, r := range all {
		columns := append(append([]string{}, r.By...), r.Set...)
		names, arrays := make([]string, len(columns)), make([]string, len(columns))
		for c := range columns {
			array, kind, err := column(r.Values, c)
			if err != nil {
				return fmt.Errorf("write %s: %s: %w", r.Table, columns[c], err)
			}
			names[c], arrays[c] = fmt.Sprint("v", c), "CAST(? AS "+kind+"[])"
			values[i] = append(values[i], array)
		}
		from := "unnest(" + strings.Join(arrays, ", ") + ")"
		if len(r.By) == 0 {
			texts[i] = "INSERT INTO " + r.Table + " (" + strings.Join(columns, ", ") + ") SELECT * FROM " + from + r.onConflict()
		} else {
			texts[i] = "UPDATE " + r.Table + " AS r SET " + pairs(r.Set, "%s = v.%s", names[len(r.By):], ", ") +
				" FROM " + from + " AS v (" + strings.Join(names, ", ") + ") WHERE " + pairs(r.By, "r.%s = v.%s", names, " AND ") + r.condition()
			values[i] = append(values[i], r.IfArgs...)
		}
		texts[i] = PostgreSQL.rebind(texts[i])
	}
	met, err := t.pipeline(ctx, texts, values)
	if err != nil {
		return fmt.Errorf("write %s: %w", tables(all), err)
	}
	for i, r := range all {
		if err := r.written(met[i], len(r.Values)); err != nil {
			return err
		}
	}
	return nil
}

// column returns the values of a column as an array, and of which type it is.
func column(rows [][]any, c int) (array any, kind string, err error) {
	switch rows[0][c].(type) {
	case int64:
		array, err = values[int64](rows, c)
		return array, "BIGINT", err
	case string:
		array, err = values[string](rows, c)
		return array, "TEXT", err
	case []byte:
		array, err = values[[]byte](rows, c)
		return array, "BYTEA", err
	}
	return nil, "", fmt.Errorf("%T cannot be written", rows[0][c])
}

func values[T any](rows [][]any, c int) ([]T, error) {
	all := make([]T, len(rows))
	for i, row := range rows {
		v, ok := row[c].(T)
		if !ok {
			return nil, fmt.Errorf("%T stands below %T", row[c], v)
		}
		all[i] = v
	}
	return all, nil
}

// pairs writes each column with what belongs to it.
func pairs(columns []string, format string, with []string, separator string) string {
	all := make([]string, len(columns))
	for i, c := range columns {
		all[i] = fmt.Sprintf(format, c, with[i])
	}
	return strings.Join(all, separator)
}

// What MySQL is sent at once: rows of a statement, and bytes of values in a
// packet, unless one statement has more by itself.
const (
	maxRows  = 500
	maxBytes = 1 << 20
)

// writeInTurn writes the rows of one table after the other with statements of
// MySQL that are sent together.
func (t *Tx) writeInTurn(ctx context.Context, all []Rows) error {
	var texts []string
	var values []any
	var of []Rows // of each text: the table, and the rows that it is to write
	bytes := 0
	send := func() error {
		met, err := t.execAll(ctx, texts, values)
		if err != nil {
			return fmt.Errorf("write %s: %w", tables(of), err)
		}
		for i, n := range met {
			if err := of[i].written(n, len(of[i].Values)); err != nil {
				return err
			}
		}
		texts, values, of, bytes = nil, nil, nil, 0
		return nil
	}
	for _, r := range all {
		most := maxRows
		if len(r.By) > 0 {
			most = 1 // several at once would be found in one table, written to a file, and changed from there
		}
		for rows := range slices.Chunk(r.Values, most) {
			r.Values = rows
			text, args := r.statement(MySQL, rows)
			n := size(args)
			if len(texts) > 0 && bytes+n > maxBytes {
				if err := send(); err != nil {
					return err
				}
			}
			texts, values, of, bytes = append(texts, text), append(values, args...), append(of, r), bytes+n
		}
	}
	return send()
}

// size returns about how many bytes values take in a statement.
func size(values []any) (n int) {
	for _, v := range values {
		n += 8
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}

// tables names the tables of all.
func tables(all []Rows) string {
	var names []string
	for _, r := range all {
		if !slices.Contains(names, r.Table) {
			names = append(names, r.Table)
		}
	}
	return strings.Join(names, ", ")
}

// writeEach writes the rows of one table on the other dialects, and where each
// statement must be answered before the next one.
func (t *Tx) writeEach(ctx context.Context, r Rows) error {
	most := maxRows
	if t.dialect == SQLite {
		most = 1 // its statements are kept prepared, by their text
	}
	for rows := r.Values; len(rows) > 0; rows = rows[min(most, len(rows)):] {
		some := rows[:min(most, len(rows))]
		query, args := r.statement(t.dialect, some)
		result, err := t.Exec(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		if err := r.written(n, len(some)); err != nil {
			return err
		}
	}
	return nil
}

// statement returns what writes rows, one on SQLite.
func (r Rows) statement(d Dialect, rows [][]any) (query string, args []any) {
	columns := len(r.By) + len(r.Set)
	if len(r.By) > 0 && len(rows) == 1 {
		args = append(append(args, rows[0][len(r.By):]...), rows[0][:len(r.By)]...)
		return "UPDATE " + r.Table + " SET " + strings.Join(r.Set, " = ?, ") + " = ? WHERE " + strings.Join(r.By, " = ? AND ") + " = ?" + r.condition(), append(args, r.IfArgs...)
	}
	for _, row := range rows {
		args = append(args, row...)
	}
	if len(r.By) == 0 {
		query = "INSERT INTO " + r.Table + " (" + strings.Join(r.Set, ", ") + ") VALUES " + List(len(rows), "("+List(columns, "?")+")")
		switch {
		case r.Keep && d == MySQL: // IGNORE would pass over other errors as well
			query += " ON DUPLICATE KEY UPDATE " + r.Set[0] + " = " + r.Table + "." + r.Set[0]
		case len(r.Replace) > 0 && d == MySQL:
			query += " ON DUPLICATE KEY UPDATE " + pairs(r.Replace, "%s = VALUES(%s)", r.Replace, ", ")
		default:
			query += r.onConflict()
		}
		return query, args
	}
	names := make([]string, columns)
	for c := range names {
		names[c] = fmt.Sprint("v", c)
	}
	query = "UPDATE (SELECT ? AS " + strings.Join(names, ", ? AS ") + strings.Repeat(" UNION ALL SELECT "+List(columns, "?"), len(rows)-1) +
		") AS v STRAIGHT_JOIN " + r.Table + " AS r ON " + pairs(r.By, "r.%s = v.%s", names, " AND ") +
		" SET " + pairs(r.Set, "r.%s = v.%s", names[len(r.By):], ", ")
	return query, args
}

// condition is If as it stands behind others.
func (r Rows) condition() string {
	if r.If == "" {
		return ""
	}
	return " AND " + r.If
}

// onConflict says what becomes of new rows whose key is there already, where it
// is not MySQL that is told.
func (r Rows) onConflict() string {
	switch {
	case r.Keep:
		return " ON CONFLICT DO NOTHING"
	case len(r.Replace) > 0:
		return " ON CONFLICT (" + strings.Join(r.Key, ", ") + ") DO UPDATE SET " + pairs(r.Replace, "%s = excluded.%s", r.Replace, ", ")
	}
	return ""
}

// written judges how many rows were written of those that were to be.
func (r Rows) written(n int64, of int) error {
	if n == int64(of) || r.Keep || len(r.Replace) > 0 { // MySQL counts a row that is replaced twice, or not at all
		return nil
	}
	return fmt.Errorf("write %s: %w: %d of %d were", r.Table, ErrMissed, n, of)
}

// In returns the right side of a comparison of a column with several values,
// and its arguments. The text is one of few, however many values there are.
func In[T any](d Dialect, all []T) (text string, args []any) {
	if d == PostgreSQL {
		return "= ANY(?)", []any{all}
	}
	n := 1
	for n < len(all) {
		n *= 2
	}
	for i := range n {
		args = append(args, all[min(i, len(all)-1)])
	}
	return "IN (" + List(n, "?") + ")", args
}
