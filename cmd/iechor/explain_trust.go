package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The part of explain that is about trust servers and what they send.

// explainServer has the words of spec/cli.md 3.
func explainServer(err error, c subject) (answer, bool) {
	var (
		expired  *tuf.Expired
		refusal  *trust.ServerRefusal
		redirect *trust.RedirectError
		realm    *trust.RealmError
		tls      *trust.TLSError
		away     *trust.Unreachable
	)
	logIn := "log in to the registry of " + c.gun + " with \"iechor login\", as a user who may do this"
	contact := func(reason string, hints ...string) (answer, bool) {
		if c.sign != nil {
			return c.could(reason, hints...), true
		}
		return exactly(exitCannot, "Error: error contacting notary server: "+reason, hints...)
	}
	switch {
	case errors.Is(err, trust.ErrUnreachable) && errors.As(err, &expired):
		return exactly(exitCannot, "Error: remote repository "+c.gun+" out-of-date: "+expiredRole(err)+" "+expired.Error(),
			c.server+" cannot be reached for newer trust data; see that it can, and try again")
	case errors.Is(err, trust.ErrUncertain):
		return c.could(trust.ErrUncertain.Error(), "push again: what has been published already is not published twice"), true
	case errors.Is(err, trust.ErrConflict):
		return c.could("others published changes to "+c.gun+" at the same time, several times over", "push again"), true
	case errors.Is(err, trust.ErrGone):
		return exactly(exitUntrusted, "Error: remote trust data does not exist for "+c.gun+": "+c.server+" no longer has the trust data that this machine has seen there",
			"it was deleted, or is being hidden from you: ask the owners of "+c.gun+"; if they deleted it, remove "+c.folder)
	case errors.Is(err, trust.ErrNotSigned) && c.task:
		return exactly(exitCannot, c.server+" does not have trust data for "+c.gun,
			"if it is signed at another trust server, name that one in "+serverVariable)
	case errors.Is(err, trust.ErrNotSigned):
		return exactly(exitCannot, "Error: remote trust data does not exist for "+c.gun+": "+c.server+" does not have trust data for "+c.gun,
			"if it is signed at another trust server, name that one in "+serverVariable+"; if nobody signs it, ask its owners to push it with content trust on")
	case errors.As(err, &realm):
		return contact(realm.Error(), "if that login server is right, add its host to content-trust.login-servers in config.json")
	case errors.Is(err, trust.ErrRealm):
		return contact(err.Error(), "if that login server is right, add its host to content-trust.login-servers in config.json")
	case errors.As(err, &refusal) && errors.Is(err, trust.ErrUnauthorized):
		return exactlyOrSigning(c, refusal.Error(), logIn)
	case errors.Is(err, trust.ErrUnauthorized):
		return contact("no basic auth credentials", logIn)
	case errors.As(err, &redirect):
		return contact(redirect.Error(), "name the right address in "+serverVariable+" or in content-trust.servers in config.json")
	case errors.Is(err, trust.ErrRedirect):
		return contact(err.Error(), "name the right address in "+serverVariable)
	case errors.As(err, &tls):
		hint := "if its authority is your own, put the CA certificate as NAME.crt into the folder tls/" + tls.Host + " of the configuration directory"
		if tls.Dir != "" {
			hint = "if its authority is your own, put the CA certificate as ca.crt into " + tls.Dir
		}
		return contact(tls.Error(), hint)
	case errors.Is(err, trust.ErrTLS):
		return contact(err.Error(), "put the certificate of the server's authority into the folder tls/HOST of the configuration directory")
	case errors.Is(err, trust.ErrNotTrustServer):
		return exactly(exitCannot, "Error: no trust data available for remote repository "+c.gun+". Try running notary server and setting "+serverVariable+" to its HTTPS address",
			"see whether "+c.server+" is right; it is "+err.Error())
	case errors.As(err, &refusal) && errors.Is(err, trust.ErrNeedsOperator):
		return exactlyOrSigning(c, refusal.Error(), "ask the operator of "+c.server+", who can allow it with \"iechor-trustd floor --gun "+c.gun+"\"; then do this again")
	case errors.As(err, &refusal) && refusal.Err.Status >= http.StatusInternalServerError:
		hints := []string{"see whether " + c.server + " works, and try again"}
		if refusal.Err.Code == api.Unavailable && refusal.Err.Message != "" {
			hints[0] = c.server + " says: " + printable(refusal.Err.Message)
		}
		if id := refusal.Err.RequestID(); id != "" {
			hints = append(hints, "if it goes on, tell the operator of "+c.server+" the request id "+id+": its log says why under that")
		}
		return exactlyOrSigning(c, refusal.Error(), hints...)
	case errors.As(err, &refusal):
		return exactlyOrSigning(c, refusal.Error(), "the trust server "+c.server+" did not accept the request; its operator can say why")
	case errors.As(err, &away):
		return contact(away.Error(), "see whether "+c.server+" is right and can be reached, and try again")
	case errors.Is(err, trust.ErrUnreachable):
		return contact(trust.ErrUnreachable.Error(), "see whether "+c.server+" is right and can be reached, and try again")
	}
	return answer{}, false
}

// exactlyOrSigning is a sentence of the specification, or the reason of a
// failure to sign.
func exactlyOrSigning(c subject, sentence string, hints ...string) (answer, bool) {
	if c.sign != nil {
		return c.could(sentence, hints...), true
	}
	return exactly(exitCannot, sentence, hints...)
}

func expiredRole(err error) string {
	var role *tuf.RoleError
	if errors.As(err, &role) {
		return string(role.Role)
	}
	return "metadata"
}

// explainRefusedMetadata has the words of spec/cli.md 8.
func explainRefusedMetadata(err error, c subject) (answer, bool) {
	var (
		role     *tuf.RoleError
		refusal  *tuf.RootRefusal
		rollback *tuf.Rollback
		mismatch *tuf.Mismatch
		damaged  *trust.Damaged
	)
	if errors.As(err, &damaged) {
		return explainDamage(damaged, c)
	}
	const malicious = "Warning: potential malicious behavior - "
	name := "the metadata"
	if errors.As(err, &role) {
		name = string(role.Role)
		if c.gun == "the repository" {
			c.gun = string(role.GUN)
		}
	}
	if errors.Is(err, trust.ErrNotice) {
		return plainly(exitUntrusted, err.Error(), "get the notice of this new root from the owners of "+c.gun+", by another way than "+c.server)
	}
	ask := "do not use it; ask the owners of " + c.gun + " whether they know of this, and the operator of " + c.server
	if other := new(trust.OtherServer); errors.As(err, &other) {
		ask = other.Error() + ": see whether " + serverVariable + " is right"
	}
	mismatched := func(reason string, hints ...string) (answer, bool) {
		return exactly(exitUntrusted, malicious+"trust data mismatch for remote repository "+c.gun+": "+reason, hints...)
	}
	first, decided := new(firstUseError), new(trust.DecisionsError)
	switch {
	case errors.As(err, &decided):
		return exactly(exitUntrusted, "could not validate the path to a trusted root: what was decided about the roots of "+c.gun+" cannot be read: "+decided.Error(),
			"restore "+decided.File+" from a backup; without it, roots that were given up would be trusted again: remove it only if you know of none")
	case errors.As(err, &first):
		return exactly(exitUntrusted, "could not validate the path to a trusted root: "+first.Error(),
			"compare its ids with what the owners say; "+howToPin(first.gun, first.ids, first.config))
	case errors.As(err, &refusal):
		return explainRoot(refusal, c, ask, mismatched)
	case errors.As(err, &rollback) && rollback.Offered > 0:
		return exactly(exitUntrusted, fmt.Sprintf("%strust data version is lower than expected for remote repository %s: version %d is lower than current version %d", malicious, c.gun, rollback.Offered, rollback.Seen),
			ask, "this is what a rollback attack looks like, and what a server restored from an old backup looks like")
	case errors.Is(err, tuf.ErrRollback):
		return exactly(exitUntrusted, malicious+"trust data version is lower than expected for remote repository "+c.gun+": "+name+" "+detail(err, rollback), ask)
	case errors.Is(err, tuf.ErrUnsigned):
		return exactly(exitUntrusted, malicious+"trust data has insufficient signatures for remote repository "+c.gun+": valid signatures did not meet threshold for "+name, ask)
	case errors.As(err, &mismatch) && mismatch.Algorithm != "length":
		return mismatched(fmt.Sprintf("%s checksum for %s did not match: expected %x", mismatch.Algorithm, name, mismatch.Want), ask)
	case errors.Is(err, tuf.ErrMismatch):
		return mismatched(name+" does not match the signed hash or length", ask)
	case errors.Is(err, tuf.ErrExpired):
		reason := "expired"
		if e := new(tuf.Expired); errors.As(err, &e) {
			reason = e.Error()
		}
		renew := "iechor trust renew " + c.gun
		if name == string(tuf.RoleTimestamp) { // where the snapshot is the owner's, the server may not be able to
			renew = "iechor trust key rotate " + c.gun + " server, if " + c.server + " does not"
		}
		return exactly(exitUntrusted, "Error: remote repository "+c.gun+" out-of-date: "+name+" "+reason,
			"nobody has renewed it, or you are being shown an old state: ask the owners of "+c.gun+", who renew it with: "+renew+"; see also that the clock of this machine is right")
	case errors.Is(err, tuf.ErrRoot), errors.Is(err, tuf.ErrPin):
		return mismatched(err.Error(), ask)
	case errors.Is(err, tuf.ErrIncomplete):
		return mismatched("the server does not have its "+name, ask)
	case errors.Is(err, tuf.ErrLimit):
		return mismatched(name+" is larger than is allowed", ask)
	case errors.Is(err, tuf.ErrMalformed) && role != nil:
		return mismatched(name+" is "+role.Err.Error(), ask)
	}
	return answer{}, false
}

func detail(err error, rollback *tuf.Rollback) string {
	if rollback != nil {
		return "is " + rollback.Error()
	}
	return "is " + tuf.ErrRollback.Error()
}

func explainRoot(r *tuf.RootRefusal, c subject, ask string, mismatched func(string, ...string) (answer, bool)) (answer, bool) {
	const path = "could not validate the path to a trusted root: "
	switch r.Reason {
	case tuf.NotSignedByPrevious:
		return exactly(exitUntrusted, "Warning: potential malicious behavior - trust data has insufficient signatures for remote repository "+c.gun+": valid signatures did not meet threshold",
			"the repository has a new root that the one known here did not sign: ask the owners of "+c.gun+", by another way than this server, whether they made it anew",
			"to see both roots, and to accept the new one on purpose: iechor trust accept-root "+c.gun)
	case tuf.NotSignedBySelf:
		return exactly(exitUntrusted, path+"failed to validate integrity of roots", ask)
	case tuf.NoLeaf:
		return exactly(exitUntrusted, path+"unable to retrieve valid leaf certificates", r.Error()+"; "+ask+"; if a certificate has expired, they renew it with: iechor trust renew "+c.gun)
	case tuf.FirstUseRefused:
		return exactly(exitUntrusted, path+"nothing is pinned for "+c.gun+", and trust on first use is off",
			"pin its root under content-trust.trust-pinning in config.json")
	case tuf.Denied:
		return mismatched(r.Error(), "the root was given up: denied-roots in config.json names its key, or it was replaced on this machine with \"iechor trust accept-root\"; "+ask)
	case tuf.NoPinMatch:
		return mismatched(r.Error(), "the root is not the one that content-trust in config.json demands; "+ask)
	}
	return mismatched("root: "+r.Error(), ask)
}

// explainDamage is about files on this machine. A root that was altered is
// refused; one that cannot be read is a failure.
func explainDamage(d *trust.Damaged, c subject) (answer, bool) {
	hint := "restore " + d.File + " from a backup; or remove " + c.folder + " and try again, which means to trust whatever root the server shows next"
	if errors.Is(d.Err, fs.ErrPermission) {
		return c.could(d.Error(), "see who owns it and what its mode is"), true
	}
	reason := "failed to validate integrity of roots"
	if refusal := new(tuf.RootRefusal); !errors.As(d.Err, &refusal) || refusal.Reason == tuf.NoLeaf {
		reason = "unable to retrieve valid leaf certificates"
	}
	return exactly(exitUntrusted, "could not validate the path to a trusted root: "+reason+": "+d.File+" is damaged", hint)
}
