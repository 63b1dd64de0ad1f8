// Package api is the HTTP interface of a trust server, for both ends: which
// path means what, how files, keys and changes travel, and how a refusal is
// written. It also has the types in which a server asks a signer.
//
// The server parses a path with [ParsePath], takes uploads apart with
// [ReadFiles] and refuses with [WriteError]; a client makes paths with
// [Route.Path], uploads with [WriteFiles] and understands refusals with
// [ReadError]. The wire format is that of Notary 0.7 (notary-protocol 3).
//
// What the package promises: every read is bounded, every path has one
// spelling, no error body is longer than [MaxErrorBody]. What it refuses, it
// refuses with an [*Error] that can be written as is.
//
// Read route.go, error.go, files.go, then changes.go and key.go. signing.go is
// about the signer.
package api
