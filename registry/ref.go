package registry

import (
	"fmt"
	"net"
	"strings"

	"github.com/distribution/reference"
)

// A Ref is a parsed image reference. Repository is normalised, so that it can
// serve as the name of the repository's trust data: it always has a host, the
// hub's is HubName, and official images are below library/ (spec/cli.md 1.5).
type Ref struct {
	Repository string
	Tag        string // empty: none was written
	Digest     Digest // zero: none was written
}

const maxReference = 1024 // bytes; no registry takes longer ones

// ParseRef reads NAME, NAME:TAG, NAME@DIGEST or NAME:TAG@DIGEST. A name
// without a host belongs to the hub. No tag is added: see WithDefaultTag.
// What does not parse is an error that matches ErrReference.
func ParseRef(s string) (Ref, error) {
	if len(s) > maxReference {
		return Ref{}, fmt.Errorf("%w: longer than %d bytes", ErrReference, maxReference)
	}
	if len(s) == 64 && only(s, digits+"abcdef") {
		return Ref{}, fmt.Errorf("%w: %q is an image ID, not a name", ErrReference, s)
	}
	host, path := splitHost(s)
	switch host {
	case "", IndexHubName:
		host = HubName
	}
	if host == HubName && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	named, err := reference.ParseNormalizedNamed(host + "/" + path)
	if err != nil {
		return Ref{}, fmt.Errorf("%w: %q: %s", ErrReference, s, clean(err.Error())) // it repeats s as it is
	}
	r := Ref{Repository: named.Name()}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		if r.Digest, err = ParseDigest(d.Digest().String()); err != nil {
			return Ref{}, err
		}
	}
	return r, nil
}

// splitHost applies the rule of all clients: what stands before the first
// slash is a host if it could not be the first part of a path.
func splitHost(s string) (host, rest string) {
	first, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first {
		return "", s
	}
	return first, rest
}

// Host returns the registry's host, with the port if one was written; HubName
// for the hub. It is the key for credentials and TLS directories.
func (r Ref) Host() string {
	host, _, _ := strings.Cut(r.Repository, "/")
	return host
}

// Path returns the repository without its host.
func (r Ref) Path() string {
	_, path, _ := strings.Cut(r.Repository, "/")
	return path
}

// Hub reports whether the repository belongs to the hub.
func (r Ref) Hub() bool { return r.Host() == HubName }

// FamiliarName returns the repository as people write it: "alpine" for
// iechor.io/library/alpine.
func (r Ref) FamiliarName() string {
	if !r.Hub() {
		return r.Repository
	}
	path := r.Path()
	if short, ok := strings.CutPrefix(path, "library/"); ok && !strings.Contains(short, "/") {
		return short
	}
	return path
}

// String returns the full reference.
func (r Ref) String() string { return r.Repository + r.suffix() }

// Familiar returns the reference with the FamiliarName.
func (r Ref) Familiar() string { return r.FamiliarName() + r.suffix() }

func (r Ref) suffix() string {
	s := ""
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// WithDigest returns the repository's content d, without a tag.
func (r Ref) WithDigest(d Digest) Ref { return Ref{Repository: r.Repository, Digest: d} }

// WithTag returns the repository's tag, without a digest. An invalid tag is
// an error that matches ErrReference.
func (r Ref) WithTag(tag string) (Ref, error) {
	if !validTag(tag) {
		return Ref{}, fmt.Errorf("%w: %q is not a tag", ErrReference, tag)
	}
	return Ref{Repository: r.Repository, Tag: tag}, nil
}

// WithDefaultTag returns r, with the tag "latest" if it has neither tag nor
// digest (spec/cli.md 1.4).
func (r Ref) WithDefaultTag() Ref {
	if r.Tag == "" && r.Digest.IsZero() {
		r.Tag = "latest"
	}
	return r
}

const (
	digits  = "0123456789"
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// validTag reports whether s is [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}.
func validTag(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && only(s, digits+letters+"_.-")
}

// only reports whether s has no character but those of set.
func only(s, set string) bool { return strings.Trim(s, set) == "" }

// Loopback reports whether host, with or without a port, is this machine by
// its spelling: localhost, 127.0.0.0/8 or ::1. Names are not resolved.
func Loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
