package server

import "net/http"

// Access is one thing that a request wants to do.
type Access struct {
	Type    string // "repository" or "registry"
	Name    string // the GUN, or "catalog"
	Actions []string
}

// An Authorizer lets requests through, or not: [NoAuth], [TokenAuth]. It is called after the path is
// known to be well formed and within the server's prefixes.
type Authorizer interface {
	// Authorize returns nil if r may have the access, and otherwise an
	// [*api.Error] that carries the challenge. Any other error means that it
	// could not decide; the answer is then 500. It must not write to or read
	// from the body, and must not keep a.Actions.
	Authorize(r *http.Request, a Access) error
}

// A PublisherTeller is an Authorizer that can tell publishers from readers.
// Publishers are answered from the store, not from memory, so that they see
// what they have published through another instance (attacks.md S9).
type PublisherTeller interface {
	// MayPublish reports whether r, which was authorised to read, could also
	// publish to the repository of that name.
	MayPublish(r *http.Request, name string) bool
}

// NoAuth lets everybody do everything.
type NoAuth struct{}

// Authorize returns nil.
func (NoAuth) Authorize(*http.Request, Access) error { return nil }
