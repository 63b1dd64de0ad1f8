package server

import (
	"net/http"

	"github.com/iechor/trust/api"
)

// Access is one thing that a request wants to do.
type Access struct {
	Type    string // "repository" or "registry"
	Name    string // the GUN, or "catalog"
	Actions []string
}

// A Grant says who was let through.
type Grant struct {
	// Who is for the log: a user, or "certificate:" and a name. Empty: anybody.
	// What others than anybody are shown is kept from shared caches.
	Who string
	// Publisher says that the same request could also publish to the
	// repository. Publishers are answered from the store, not from memory, so
	// that they see what they have published through another instance
	// (attacks.md S9).
	Publisher bool
}

// An Authorizer lets requests through, or not: [NoAuth], [TokenAuth],
// [PasswordAuth], [CertificateAuth]. It is called after the path is known to be
// well formed and within the server's prefixes.
type Authorizer interface {
	// Authorize returns a nil error if r may have the access, and otherwise an
	// [*api.Error] that carries the challenge. Any other error means that it
	// could not decide; the answer is then 500. It must not write to or read
	// from the body, and must not keep a.Actions.
	Authorize(r *http.Request, a Access) (Grant, error)
}

// NoAuth lets everybody do everything.
type NoAuth struct{}

// Authorize lets r through.
func (NoAuth) Authorize(*http.Request, Access) (Grant, error) { return Grant{}, nil }

// unauthorized is the refusal of an access, with the challenge, if any
// (notary-protocol 4.1). Stock clients understand no other status, so it is
// also the answer to those who are known and may not.
func unauthorized(want Access, challenge string) *api.Error {
	type missing struct{ Type, Class, Name, Action string }
	var detail []missing
	for _, action := range want.Actions {
		detail = append(detail, missing{want.Type, "", want.Name, action})
	}
	e := api.NewError(api.Unauthorized, detail)
	e.Challenge = challenge
	return e
}
