package trust_test

import (
	"encoding/json"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// This file is what the oracle demands of the signer.

// A statement is what the signer must say only once.
type statement struct {
	gun         tuf.GUN
	incarnation int
	role        tuf.RoleName
	version     int64
}

// A ledger is what the signer keeps of one incarnation of a repository.
type ledger struct {
	gun         tuf.GUN
	incarnation int
}

// A standing is what it must know from what it has signed: the highest
// timestamp that it was shown as published, and the highest snapshot to which
// it gave a date.
type standing struct{ confirmed, named int64 }

// witness notes what the signer signed.
func (o *oracle) witness(r api.SignRequest, incarnation int) {
	o.signed(o.names[r.Key], r.Payload)
	var d document
	o.w.must(json.Unmarshal(r.Payload, &d))
	s, sum := statement{r.GUN, incarnation, r.Role, d.Version}, meaning(r.Payload)
	old, again := o.statements[s]
	if again && old != sum {
		o.w.fail("the signer signed two different %s files of version %d of %s", r.Role, d.Version, r.GUN)
	}
	o.statements[s] = sum
	if again {
		return
	}
	l := o.ledgers[ledger{r.GUN, incarnation}]
	if l == nil {
		l = &standing{}
		o.ledgers[ledger{r.GUN, incarnation}] = l
	}
	base := int64(0)
	if r.Timestamp != nil {
		base = readDocument(r.Timestamp).Version
	}
	if base < l.confirmed {
		o.w.fail("the signer builds on timestamp version %d of %s, and has seen version %d published", base, r.GUN, l.confirmed)
	}
	l.confirmed = max(l.confirmed, base)
	if r.Role != tuf.RoleTimestamp {
		return
	}
	named := readDocument(r.Snapshot).Version
	if named < l.named {
		o.w.fail("the signer gives a date to snapshot version %d of %s after it did so to version %d", named, r.GUN, l.named)
	}
	l.named = max(l.named, named)
}

// lowered notes that an operator had the signer go on from an older timestamp.
func (o *oracle) lowered(gun tuf.GUN, timestamp int64) {
	for at, l := range o.ledgers {
		if at.gun == gun && l.confirmed >= timestamp {
			*l = standing{confirmed: timestamp}
		}
	}
}
