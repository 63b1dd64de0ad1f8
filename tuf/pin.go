package tuf

import "time"

// A Pin decides which keys of a root may speak for gun. rootKeys are the keys
// of the root role whose certificates fit the GUN; first is true when nothing
// was trusted before. The root's threshold is counted over the returned keys
// only. Errors are [RootRefusal].
type Pin interface {
	Trusted(gun GUN, rootKeys []PublicKey, first bool, now time.Time) ([]PublicKey, error)
}
