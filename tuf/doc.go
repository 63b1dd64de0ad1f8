// Package tuf models, verifies and edits the signed metadata of one
// repository. It does no I/O, reads no clock and writes no log.
//
// Three nouns carry it. A [Set] is a complete, verified, immutable state of a
// repository. An [Update] is how a Set comes to be: [Begin] one, ask
// [Update.Next] what is needed, hand it to [Update.Add], and take the Set. A
// [Draft] is how the next state is made: apply changes to it and sign.
//
// Between a Set and nothing stands the [Past]: what a machine verified
// earlier, however incomplete. It pins the root and remembers the highest
// version seen of every role.
//
// What the package promises: a Set exists only if a threshold of distinct keys
// signed every file in it, along an unbroken chain from a root that the pin
// admits; bytes that were signed are kept as they came and never encoded
// again; every input is bounded, and parsed strictly. What it refuses, it
// refuses with a [RoleError] around one of the sentinels of errors.go.
//
// Everything that is particular to the Notary v1 dialect of TUF is in wire.go,
// behind [Dialect]; the order of checks in update.go and the edits in draft.go
// do not know it.
//
// Read roles.go, keys.go and document.go for the nouns, verify.go for how a
// signature counts, update.go for the walk, draft.go for the edits.
package tuf
