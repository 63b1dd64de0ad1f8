package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// refuse answers a request with why it is refused. An [*api.Error] says so
// itself; everything else is not the requester's business and becomes 500
// with an id under which the log has it in full.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, gun tuf.GUN, err error) {
	var e *api.Error
	var slow *api.SlowDownError
	if errors.As(err, &slow) {
		s.c.Log.WarnContext(r.Context(), "the signer is asked too often", "method", r.Method, "gun", gun, "err", err)
		w.Header().Set("Retry-After", strconv.Itoa(int(slow.After.Seconds())+1))
		e = api.NewError(api.TooMany, nil)
	} else if !errors.As(err, &e) {
		log := s.c.Log.ErrorContext
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			log = s.c.Log.DebugContext // the requester has left
		}
		if unavailable(err) {
			log = s.c.Log.WarnContext
		}
		log(r.Context(), "request not answered", "method", r.Method, "gun", gun, "err", err)
		code, message := api.Unknown, ""
		var f *failure
		switch {
		case errors.Is(err, api.ErrClock):
			// No fault of the requester's, and not over in a moment.
			code, message = api.Unavailable, "A clock of this service is wrong, so it cannot sign: its operator has to look at the log."
		case unavailable(err):
			code = api.Unavailable
			w.Header().Set("Retry-After", "2")
		case errors.As(err, &f):
			code = f.code
		}
		e = api.NewError(code, map[string]string{"Request": traces.ID(r.Context())})
		e.Message = cmp.Or(message, e.Message)
	}
	switch {
	case r.Method == http.MethodDelete && e.Code == api.Unauthorized:
		s.c.Log.WarnContext(r.Context(), "deletion refused", "gun", gun, "remote", r.RemoteAddr) // attacks.md S6
	case e.Code == api.NeedsOperator:
		s.c.Log.WarnContext(r.Context(), "the signer remembers more than the store: nothing is published until an operator says why", "gun", gun, "reason", e.Detail.(*api.Invalid).Msg)
	}
	s.counters.refused.Add(string(e.Code))
	api.WriteError(w, e)
}

// unavailable reports whether the same request may well succeed in a moment:
// the store or the signer is failing over.
func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrUncertain) || errors.Is(err, api.ErrUnavailable) ||
		errors.Is(err, context.DeadlineExceeded) // of our own limits
}

// versionClash is the answer to a publisher whom another one, or its own
// earlier try, has overtaken.
func versionClash() *api.Error { return api.NewError(api.Version, api.Empty{}) }

// needsOperator is the answer where the signer remembers more of gun than the
// store has: it was deleted, or the store was set back. To whoever publishes
// that is no fault of the server's, and trying again does not help.
func needsOperator(gun tuf.GUN, r *api.RestoredError) *api.Error {
	msg := fmt.Sprintf("%s was published here before, and is gone: it cannot begin anew until the operator of this service has had the signer forget it", gun)
	if r.Base > 0 {
		msg = fmt.Sprintf("%s was published here up to %s version %d, and this server has only version %d left: nothing can follow until the operator of this service says whether a backup was restored", gun, r.Role, r.Confirmed, r.Base)
	}
	return api.NewError(api.NeedsOperator, &api.Invalid{Fault: api.BadValidation, Msg: msg})
}

func invalid(f api.Fault, format string, a ...any) *api.Error {
	return api.NewError(api.InvalidUpdate, &api.Invalid{Fault: f, Msg: fmt.Sprintf(format, a...)})
}

// faultOf says as what the refusal of a role's file is reported.
func faultOf(role tuf.RoleName) api.Fault {
	switch {
	case role == tuf.RoleRoot || role == tuf.RoleTimestamp:
		return api.BadRoot
	case role == tuf.RoleSnapshot:
		return api.BadSnapshot
	case role.HoldsTargets():
		return api.BadTargets
	}
	return api.BadValidation
}

// explain turns the reason why an upload is refused into the body that stock
// clients understand, in the words of the stock server (notary-protocol 3.3).
// Errors that are not about the upload come back as they are.
func explain(gun tuf.GUN, err error) error {
	var (
		e        *api.Error
		f        *failure
		restored *api.RestoredError
	)
	switch {
	case errors.As(err, &restored):
		return needsOperator(gun, restored)
	case errors.As(err, &f):
		return err
	case errors.As(err, &e):
		return e
	}
	if errors.Is(err, storage.ErrConflict) || errors.Is(err, tuf.ErrRollback) {
		return versionClash()
	}
	var refused *tuf.RoleError
	if !errors.As(err, &refused) {
		return err
	}
	return invalid(faultOf(refused.Role), "%s", sentence(refused))
}

// sentence is what the stock server says about a refused file.
func sentence(e *tuf.RoleError) string {
	const path = "could not validate the path to a trusted root: "
	var (
		root      *tuf.RootRefusal
		shortage  *tuf.Shortage
		expired   *tuf.Expired
		mismatch  *tuf.Mismatch
		malformed *tuf.Malformed
	)
	switch {
	case errors.As(e, &root):
		switch root.Reason {
		case tuf.VersionSkip:
			return fmt.Sprintf("Root modifications must increment the version. Current %d, new %d", root.Old, root.Offered)
		case tuf.NotSignedByPrevious:
			return "could not rotate trust to a new trusted root: failed to validate data with current trusted certificates"
		case tuf.NotSignedBySelf:
			return path + "failed to validate integrity of roots"
		case tuf.NoLeaf:
			return path + "unable to retrieve valid leaf certificates"
		}
		return path + root.Error()
	case errors.As(e, &shortage):
		return fmt.Sprintf("valid signatures did not meet threshold for %s", e.Role)
	case errors.As(e, &expired):
		return fmt.Sprintf("%s expired at %s", e.Role, expired.At.UTC().Format("Mon Jan 2 15:04:05 MST 2006"))
	case errors.As(e, &mismatch):
		name := e.Role
		if listed, ok := tuf.ListedRole(e); ok {
			name = listed
		}
		if len(mismatch.Want) == 0 {
			return fmt.Sprintf("the length of %s did not match", name)
		}
		return fmt.Sprintf("%s checksum for %s did not match: expected %x", mismatch.Algorithm, name, mismatch.Want)
	case errors.Is(e, tuf.ErrNoDelegation):
		return fmt.Sprintf("tuf: invalid role %s. delegation does not exist", e.Role)
	case errors.As(e, &malformed):
		return fmt.Sprintf("%s type metadata invalid: %s", e.Role, malformed.Reason)
	case errors.Is(e, tuf.ErrIncomplete):
		return fmt.Sprintf("%s must be loaded first", e.Role)
	case errors.Is(e, tuf.ErrRole):
		return fmt.Sprintf("tuf: invalid role %s. it is signed by the server", e.Role)
	}
	return strings.TrimSpace(e.Error())
}
