package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
)

// What a caller can decide on. Errors of this package match them with
// errors.Is; their text names what they are about.
var (
	ErrReference    = errors.New("invalid reference")             // the user wrote something that names no image or place
	ErrNotFound     = errors.New("not found in the registry")     // the registry was asked and has no such tag, repository or blob
	ErrUnauthorized = errors.New("not authorized")                // the registry refuses these credentials, or wants some
	ErrDigest       = errors.New("content does not match")        // see DigestError
	ErrUnreachable  = errors.New("registry cannot be reached")    // no answer, or none that makes sense; see UnreachableError
	ErrRefused      = errors.New("refused by the client")         // the registry sent us where we do not go; see RefusedError
	ErrUnsupported  = errors.New("unsupported content")           // a manifest of a kind that cannot be verified as a whole, or too large
	ErrNoEngine     = errors.New("no engine")                     // see NoEngineError
	ErrEngine       = errors.New("the engine could not do it")    // see EngineError
	ErrNoImage      = errors.New("image does not exist locally")  // the engine, layout or archive has no such image
	ErrAmbiguous    = errors.New("several images to choose from") // see AmbiguousError
	ErrPlatform     = errors.New("no image for the platform")     // see PlatformError
	ErrCredentials  = errors.New("credentials cannot be had")     // a configuration file or helper is broken; not that there are none
)

// DigestError says that content is not what its digest (or its size) says: of
// a registry it means damage or an attack. It matches ErrDigest.
type DigestError struct {
	What   string // "manifest", "layer" or "config"
	Digest Digest // what was asked for
}

// Error speaks as the engines do (spec/cli.md 6.1).
func (e *DigestError) Error() string {
	switch e.What {
	case "layer":
		return "filesystem layer verification failed for digest " + e.Digest.String()
	case "config":
		return "error pulling image configuration: image config verification failed for digest " + e.Digest.String()
	}
	return "manifest verification failed for digest " + e.Digest.String()
}

// Is makes e match ErrDigest.
func (e *DigestError) Is(target error) bool { return target == ErrDigest }

// UnreachableError says that a host gave no usable answer. It matches
// ErrUnreachable, and wraps the cause.
type UnreachableError struct {
	Host   string
	Status int    // the HTTP status, when there was one
	TLSDir string // the directory for a private CA, when the certificate was the trouble (spec/cli.md 3.2)
	Err    error
}

func (e *UnreachableError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("%s answered with status %d", clean(e.Host), e.Status)
	}
	return fmt.Sprintf("reach %s: %s", clean(e.Host), clean(e.Err.Error())) // it can hold words of the server
}

// Is makes e match ErrUnreachable.
func (e *UnreachableError) Is(target error) bool { return target == ErrUnreachable }

func (e *UnreachableError) Unwrap() error { return e.Err }

// RefusedError says that Host sent us to a place where we do not go: another
// host with our credentials, plain http, an address of this machine. It
// matches ErrRefused.
type RefusedError struct {
	Host   string // who sent us
	To     string // where to: scheme and host only
	Reason string
}

func (e *RefusedError) Error() string {
	host, to := clean(e.Host), clean(e.To) // who sent us chose the letters
	if e.Host == e.To {
		return fmt.Sprintf("refused to contact %s: %s", to, e.Reason)
	}
	return fmt.Sprintf("refused to follow %s to %s: %s", host, to, e.Reason)
}

// Is makes e match ErrRefused.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// NoEngineError says that no engine answered. It matches ErrNoEngine.
type NoEngineError struct {
	Tried []string // every address, in the order tried
	Err   error    // what the last one said, or the first that did not let us in
}

func (e *NoEngineError) Error() string {
	if len(e.Tried) == 0 {
		return "no engine: none is configured"
	}
	s := "no engine answers; tried " + strings.Join(e.Tried, ", ")
	if op := (*net.OpError)(nil); errors.Is(e.Err, fs.ErrPermission) && errors.As(e.Err, &op) {
		s += ": " + clean(op.Error()) // which one, of those tried
	}
	return s
}

// Is makes e match ErrNoEngine.
func (e *NoEngineError) Is(target error) bool { return target == ErrNoEngine }

func (e *NoEngineError) Unwrap() error { return e.Err }

// EngineError is a failure in the engine's own words. It matches ErrEngine.
type EngineError struct{ Message string }

func (e *EngineError) Error() string { return e.Message }

// Is makes e match ErrEngine.
func (e *EngineError) Is(target error) bool { return target == ErrEngine }

// AmbiguousError says that a place holds several images and none was chosen.
// It matches ErrAmbiguous.
type AmbiguousError struct {
	Place   string
	Choices []string // what can be appended to the place to choose
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s holds several images; choose one of %s", e.Place, strings.Join(e.Choices, ", "))
}

// Is makes e match ErrAmbiguous.
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

// PlatformError says that one image had to be chosen from a multi-platform
// index, and none was. It matches ErrPlatform.
type PlatformError struct {
	Want    Platform // zero: none was named
	Choices []string
}

func (e *PlatformError) Error() string {
	if e.Want == (Platform{}) {
		return "the image is for several platforms; choose one of " + strings.Join(e.Choices, ", ")
	}
	return fmt.Sprintf("no image for platform %s; there is %s", e.Want, strings.Join(e.Choices, ", "))
}

// Is makes e match ErrPlatform.
func (e *PlatformError) Is(target error) bool { return target == ErrPlatform }
