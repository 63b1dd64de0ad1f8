package api

import (
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/tuf"
)

// A SignRequest asks the signer for one signature. It carries what the signer
// needs in order to judge the payload by itself: the state that the payload
// builds on, and for a timestamp also the snapshot that it will name.
//
// All files are exactly the bytes that are stored and served.
type SignRequest struct {
	GUN  tuf.GUN         `json:"gun"`
	Role tuf.RoleName    `json:"role"` // snapshot or timestamp
	Key  tuf.CanonicalID `json:"key"`

	// Payload is what is to be signed: the canonical JSON of a snapshot or a
	// timestamp, byte for byte.
	Payload []byte `json:"payload"`

	// Timestamp is the current signed timestamp that the payload succeeds, and
	// BaseSnapshot the signed snapshot which that timestamp names. Both are
	// empty for the first publication, and otherwise both are set.
	Timestamp    []byte `json:"timestamp,omitempty"`
	BaseSnapshot []byte `json:"base_snapshot,omitempty"`

	// Snapshot is the new signed snapshot that a timestamp's payload names.
	// It is empty when Role is snapshot.
	Snapshot []byte `json:"snapshot,omitempty"`
}

// A Successor is the timestamp that is to be signed together with a snapshot,
// whose bytes are not known before: it names that one and nothing else, see
// [tuf.TimestampPayload].
type Successor struct {
	Key     tuf.CanonicalID `json:"key"`
	Version int64           `json:"version"`
	Expires time.Time       `json:"expires"`
}

// A FloorError is the signer's refusal to sign a version that is not above
// Floor, the highest one that it has signed. The same request with a version
// above Floor succeeds: gaps are allowed.
type FloorError struct {
	Role  tuf.RoleName `json:"role"`
	Floor int64        `json:"floor"`
}

func (e *FloorError) Error() string {
	return fmt.Sprintf("the signer has already signed the %s up to version %d", e.Role, e.Floor)
}

// A SlowDownError is the signer's refusal to work for a caller who asks too
// often. Nothing was signed or made; the same request may succeed after After.
type SlowDownError struct {
	After time.Duration
}

func (e *SlowDownError) Error() string {
	return fmt.Sprintf("the signer is asked too often, and will answer after %v", e.After.Round(time.Millisecond))
}

// ErrUnavailable says that the signer cannot be used at the moment, or cannot
// use its database. The same call may succeed a little later.
var ErrUnavailable = errors.New("the signer is not available at the moment")

// ErrClock says that the signer will not sign for as long a life as the server
// asks for, or for one that is over: one of their clocks is wrong. No request
// helps against that.
var ErrClock = errors.New("server and signer do not agree about the time")

// ErrDenied says that the signer does not know its caller, or does not allow
// it to do what it asked.
var ErrDenied = errors.New("the signer denies this client")

// A RestoredError is the signer's refusal to build on a state older than one
// that it knows to have been published: the server's database was restored
// from a backup, or someone rolls it back. Nothing is signed for the
// repository until an operator allows it.
type RestoredError struct {
	Role      tuf.RoleName `json:"role"`
	Confirmed int64        `json:"confirmed"` // the version known to have been published
	Base      int64        `json:"base"`      // the version that was presented, 0 if none
}

func (e *RestoredError) Error() string {
	if e.Base == 0 {
		return fmt.Sprintf("the %s was published up to version %d, and the server presents none: an operator must say whether a backup was restored", e.Role, e.Confirmed)
	}
	return fmt.Sprintf("the %s was published up to version %d, and the server presents version %d: an operator must say whether a backup was restored", e.Role, e.Confirmed, e.Base)
}
