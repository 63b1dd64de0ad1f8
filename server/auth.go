package server

import "net/http"

// Access is one thing that a request wants to do.
type Access struct {
	Type    string // "repository" or "registry"
	Name    string // the GUN, or "catalog"
	Actions []string
}

// An Authorizer lets requests through, or not. It is called after the path is
// known to be well formed and within the server's prefixes.
type Authorizer interface {
	// Authorize returns nil if r may have the access, and otherwise an
	// [*api.Error] that carries the challenge. Any other error means that it
	// could not decide; the answer is then 500. It must not write to or read
	// from the body, and must not keep a.Actions.
	Authorize(r *http.Request, a Access) error
}

// NoAuth lets everybody do everything.
type NoAuth struct{}

// Authorize returns nil.
func (NoAuth) Authorize(*http.Request, Access) error { return nil }
