package server

import (
	"errors"
	"io"
	"sync/atomic"
)

// A metered body counts what it gave towards what all uploads together may
// take, because each of them is held in memory until it is answered
// (attacks.md L4). An upload that would take more ends.
type metered struct {
	io.ReadCloser
	all   *atomic.Int64 // bytes of all uploads
	limit int64         // of all
	taken int64         // bytes of this one
	full  bool          // it ended because of limit
}

var errFull = errors.New("the uploads in memory are as many as may be")

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.taken += int64(n)
	if m.all.Add(int64(n)) > m.limit {
		m.full = true
		return 0, errFull
	}
	return n, err
}

// done says that the upload is not in memory any more.
func (m *metered) done() { m.all.Add(-m.taken) }
