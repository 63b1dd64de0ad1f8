package storage

import (
	"strconv"

	"github.com/iechor/trust/tuf"
)

// Waiting returns how many commits wait for the next transaction.
func (s *SQL) Waiting() int { return s.commits.Waiting() }

// MaxKnown bounds the states that are kept.
const MaxKnown = maxKnown

// OldRepositories is how many are looked through at once.
const OldRepositories = oldRepositories

// Knows returns how many states are kept after as many different ones.
func Knows(n int) int {
	var k known
	for i := range n {
		k.put(&State{GUN: tuf.GUN(strconv.Itoa(i)), Roles: map[tuf.RoleName]Entry{tuf.RoleTimestamp: {}}})
	}
	return len(k.m)
}
