package trust

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// What a caller can decide on. Refused metadata is none of these: it arrives
// as an error of package tuf.
var (
	ErrName            = errors.New("not a valid repository name")
	ErrAddress         = errors.New("valid https URL required for trust server")
	ErrNotSigned       = errors.New("no trust data")                                             // [*NotSigned]
	ErrGone            = errors.New("the trust data has been deleted")                           // [*Gone]
	ErrUnreachable     = errors.New("trust server unreachable")                                  // only this class lets cached data serve
	ErrUnauthorized    = errors.New("not authorized")                                            // 401, 403, or no credentials
	ErrRealm           = errors.New("the trust server names a login server that is not allowed") // [*RealmError]
	ErrRedirect        = errors.New("the trust server redirects")                                // [*RedirectError]
	ErrTLS             = errors.New("the trust server's certificate is not valid")               // [*TLSError]
	ErrNotTrustServer  = errors.New("not a trust server")                                        // it answers, but with something else
	ErrConflict        = errors.New("someone else published first")
	ErrNeedsOperator   = errors.New("the operator of the trust server has to act first") // [*ServerRefusal]
	ErrUncertain       = errors.New("the trust server's answer was lost, and whether the change was published is not known")
	ErrNotInitialized  = errors.New("repository has not been initialized") // neither on the server nor here
	ErrInitialized     = errors.New("repository is already initialized")
	ErrNoDelegationKey = errors.New("no valid signing keys for delegation roles")
	ErrNotRotatable    = errors.New("the key cannot be managed that way") // [*NotRotatable]
	ErrStaged          = errors.New("a staged change is not understood")  // [*NotUnderstood]
	ErrDamaged         = errors.New("the local trust data is damaged")    // [*Damaged]
	ErrBusy            = errors.New("another process is using the local trust data")
	ErrClock           = errors.New("the clock is wrong")                    // [*ClockError]
	ErrFrozen          = errors.New("the trust server repeats an old state") // [*Frozen]
)

// NotSigned says that the server has no trust data for a repository. It
// matches [ErrNotSigned].
type NotSigned struct {
	Host string
	GUN  tuf.GUN
}

func (e *NotSigned) Error() string {
	return fmt.Sprintf("%s does not have trust data for %s", e.Host, e.GUN)
}
func (e *NotSigned) Is(t error) bool { return t == ErrNotSigned }

// Gone says that the server has no trust data for a repository of which this
// machine holds a verified copy: it was deleted, or is being hidden. It
// matches [ErrGone] and not [ErrNotSigned].
type Gone struct {
	Host string
	GUN  tuf.GUN
}

func (e *Gone) Error() string {
	return fmt.Sprintf("%s no longer has trust data for %s, which this machine has seen there", e.Host, e.GUN)
}
func (e *Gone) Is(t error) bool { return t == ErrGone }

// Stale says that a result comes from the copy at hand, and why. It matches
// [ErrUnreachable] and whatever Cause matches.
type Stale struct {
	Age     time.Duration // since this machine last got a timestamp from the server
	Expired bool          // only with Config.AllowExpiredCache
	Cause   error
}

func (e *Stale) Error() string {
	state := "local trust data"
	if e.Expired {
		state = "expired local trust data"
	}
	return fmt.Sprintf("using %s from %s ago: %v", state, e.Age.Round(time.Second), e.Cause)
}
func (e *Stale) Unwrap() error   { return e.Cause }
func (e *Stale) Is(t error) bool { return t == ErrUnreachable }

// Unreachable says why a server could not be reached. It matches
// [ErrUnreachable].
type Unreachable struct {
	Host string
	Err  error
}

func (e *Unreachable) Error() string   { return e.Err.Error() }
func (e *Unreachable) Unwrap() error   { return e.Err }
func (e *Unreachable) Is(t error) bool { return t == ErrUnreachable }

// A TLSError says that the server's certificate was not accepted. It matches
// [ErrTLS], never [ErrUnreachable]: an attacker on the wire must not be able
// to have old data served.
type TLSError struct {
	Host string
	Dir  string // where the certificate of a private CA belongs, NAME.crt; empty if none is configured
	Err  error
}

func (e *TLSError) Error() string   { return e.Err.Error() }
func (e *TLSError) Unwrap() error   { return e.Err }
func (e *TLSError) Is(t error) bool { return t == ErrTLS }

// A RedirectError says where a server wanted to send us. Redirects are never
// followed (attacks.md L10). It matches [ErrRedirect].
type RedirectError struct{ Host, Location string }

func (e *RedirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s, and redirects are not followed", e.Host, printable(e.Location))
}
func (e *RedirectError) Is(t error) bool { return t == ErrRedirect }

// A RealmError says that credentials were asked for by a login server that
// they are not sent to (see [HTTPConfig.Realms]). It matches [ErrRealm] and
// [ErrUnauthorized].
type RealmError struct{ Host, Realm string }

func (e *RealmError) Error() string {
	return fmt.Sprintf("%s asks for a login at %s, which is not allowed", e.Host, printable(e.Realm))
}
func (e *RealmError) Is(t error) bool { return t == ErrRealm || t == ErrUnauthorized }

// A ServerRefusal is a server's answer that is not a success, in the words of
// the stock programs (notary-protocol 3.1). It matches [ErrUnauthorized] for
// 401 and 403, [ErrConflict] for 409 and the code VERSION, [ErrUnreachable]
// for 408, 429 and 5xx, [ErrNeedsOperator] for the code OPERATOR_NEEDED.
// [api.Error] and [api.Invalid] can be had from it with [errors.As].
type ServerRefusal struct {
	Host string
	Err  *api.Error
}

func (e *ServerRefusal) Error() string {
	var invalid *api.Invalid
	switch {
	case e.Err.Code == api.NeedsOperator && errors.As(e.Err, &invalid):
		return printable(invalid.Msg) // which is no fault of what was sent
	case errors.As(e.Err, &invalid):
		return printable(invalid.Error())
	case e.Err.Code == api.Version || e.Err.Status == http.StatusConflict:
		return "a newer version of the trust data is already on the server"
	case e.Err.Status == http.StatusUnauthorized, e.Err.Status == http.StatusForbidden:
		return "you are not authorized to perform this operation: server returned " + strconv.Itoa(e.Err.Status) + "."
	case e.Err.Status == http.StatusBadRequest && e.Err.Code == "":
		return "trust server rejected operation."
	case e.Err.Status < 500 && e.Err.Code != "":
		return "trust server rejected operation: " + printable(e.Err.Message)
	}
	return "unable to reach trust server at this time: " + strconv.Itoa(e.Err.Status) + "."
}
func (e *ServerRefusal) Unwrap() error { return e.Err }
func (e *ServerRefusal) Is(t error) bool {
	s := e.Err.Status
	switch t {
	case ErrUnauthorized:
		return s == http.StatusUnauthorized || s == http.StatusForbidden
	case ErrConflict:
		return s == http.StatusConflict || e.Err.Code == api.Version
	case ErrNeedsOperator:
		return e.Err.Code == api.NeedsOperator
	case ErrUnreachable:
		return s >= 500 && s < 600 || s == http.StatusRequestTimeout || s == http.StatusTooManyRequests
	}
	return false
}

// NoTrustData says that a tag has no signature that counts. It matches
// [tuf.ErrNoTarget].
type NoTrustData struct {
	GUN tuf.GUN
	Tag string
	// InOther is true if the tag is signed in a role that consumers do not
	// read, and false if it is signed nowhere.
	InOther bool
}

func (e *NoTrustData) Error() string {
	if e.InOther {
		return "No trust data for " + e.Tag
	}
	return "No valid trust data for " + e.Tag
}
func (e *NoTrustData) Is(t error) bool { return t == tuf.ErrNoTarget }

// Damaged says which local file stands in the way. Forgetting the repository
// ([Dir.Forget]) is the cure, and means to trust its next root anew. It
// matches [ErrDamaged] and what Err matches.
type Damaged struct {
	GUN  tuf.GUN
	File string // path of the file
	Err  error
}

func (e *Damaged) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }
func (e *Damaged) Unwrap() error { return e.Err }
func (e *Damaged) Is(t error) bool {
	return t == ErrDamaged
}

// errMissing is the reason of a [Damaged] where the root has vanished and
// other files have not (attacks.md F7).
var errMissing = errors.New("is missing, although other trust data is there")

// A ClockError says that the clock stands before a time at which this machine
// has already verified trust data (attacks.md F14). If it was that earlier time
// which was wrong, removing File is the cure. It matches [ErrClock].
type ClockError struct {
	Now, Seen time.Time
	File      string
}

func (e *ClockError) Error() string {
	return fmt.Sprintf("the clock says %s, and trust data was already verified here at %s",
		e.Now.UTC().Format(time.RFC3339), e.Seen.UTC().Format(time.RFC3339))
}
func (e *ClockError) Is(t error) bool { return t == ErrClock }

// Frozen says for how long the server has been serving the same timestamp. It
// matches [ErrFrozen].
type Frozen struct {
	Host  string
	GUN   tuf.GUN
	Since time.Time // when this machine first saw the timestamp
	Max   time.Duration
}

func (e *Frozen) Error() string {
	return fmt.Sprintf("%s has served the same timestamp of %s since %s, longer than the %s allowed here",
		e.Host, e.GUN, e.Since.UTC().Format(time.RFC3339), e.Max)
}
func (e *Frozen) Is(t error) bool { return t == ErrFrozen }

// OtherServer says that the copy at hand came from another server. It stays
// the floor and the pin, but it does not stand in for this server. It is
// joined to the error it helps to explain.
type OtherServer struct {
	GUN      tuf.GUN
	Was, Now string
}

func (e *OtherServer) Error() string {
	return fmt.Sprintf("the local trust data of %s came from %s, not from %s", e.GUN, e.Was, e.Now)
}

// NotRotatable says why a key cannot be managed as asked. It matches
// [ErrNotRotatable].
type NotRotatable struct {
	Role   tuf.RoleName
	Server bool
}

func (e *NotRotatable) Error() string {
	switch {
	case e.Role == tuf.RoleTimestamp:
		return "the client cannot manage the timestamp key"
	case e.Server:
		return fmt.Sprintf("the server cannot manage the %s key", e.Role)
	}
	return fmt.Sprintf("the %s key cannot be rotated; edit the delegation instead", e.Role)
}
func (e *NotRotatable) Is(t error) bool { return t == ErrNotRotatable }

// NotUnderstood lists the change files that [Repository.PublishStaged] would
// have to leave out, and therefore refuses. It matches [ErrStaged].
type NotUnderstood struct {
	GUN   tuf.GUN
	Names []string
}

func (e *NotUnderstood) Error() string {
	return fmt.Sprintf("staged changes of %s are not understood: %s", e.GUN, strings.Join(e.Names, ", "))
}
func (e *NotUnderstood) Is(t error) bool { return t == ErrStaged }

// printable makes a server's text safe to show on a terminal, in one line.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return unicode.ReplacementChar
		}
		return c
	}, s)
}
