package storage

// Waiting returns how many commits wait for the next transaction.
func (s *SQL) Waiting() int { return s.commits.Waiting() }
