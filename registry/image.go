package registry

import (
	"fmt"
	"runtime"
	"strings"
)

// A Kind is a kind of place for images on this machine.
type Kind int

const (
	Engine  Kind = iota // the local engine, under the name of the reference
	Layout              // an OCI layout directory
	Archive             // a docker archive, one file
)

// An Image is a source or a destination on this machine. The zero value is
// the engine. Make others with ParseImage.
type Image struct {
	Kind Kind
	Path string // of the directory or file; empty for the engine

	// Select chooses one of several images: a tag (the annotation
	// org.opencontainers.image.ref.name) or digest in a layout, a name with
	// tag in an archive. As a destination it is the name to give; empty
	// means the tag or the reference that was pulled.
	Select string
}

// ParseImage reads "oci:DIR", "oci:DIR:TAG", "oci:DIR@DIGEST",
// "docker-archive:FILE", "docker-archive:FILE:NAME:TAG", or "engine". What
// does not parse is an error that matches ErrReference.
func ParseImage(s string) (Image, error) {
	kind, rest, ok := strings.Cut(s, ":")
	switch {
	case s == "engine":
		return Image{}, nil
	case kind == "oci" && ok:
		return parseLayout(s, rest)
	case kind == "docker-archive" && ok:
		return parseArchive(s, rest)
	}
	return Image{}, fmt.Errorf("%w: %q is not engine, oci:DIR or docker-archive:FILE", ErrReference, s)
}

func parseLayout(s, rest string) (Image, error) {
	i := Image{Kind: Layout, Path: rest}
	if dir, digest, ok := strings.Cut(rest, "@sha256:"); ok {
		d, err := ParseDigest("sha256:" + digest)
		if err != nil {
			return Image{}, err
		}
		i.Path, i.Select = dir, d.String()
	} else if at := strings.LastIndexByte(rest, ':'); at > driveColon(rest) && !strings.ContainsAny(rest[at:], `/\`) {
		i.Path, i.Select = rest[:at], rest[at+1:]
		if !validTag(i.Select) {
			return Image{}, fmt.Errorf("%w: %q: %q is not a tag", ErrReference, s, i.Select)
		}
	}
	return i, checkPath(s, i.Path)
}

func parseArchive(s, rest string) (Image, error) {
	i := Image{Kind: Archive, Path: rest}
	drive := driveColon(rest) + 1
	if at := strings.IndexByte(rest[drive:], ':'); at >= 0 {
		i.Path, i.Select = rest[:drive+at], rest[drive+at+1:]
		ref, err := ParseRef(i.Select)
		if err != nil {
			return Image{}, err
		}
		if !ref.Digest.IsZero() {
			return Image{}, fmt.Errorf("%w: %q: an archive names images by tag", ErrReference, s)
		}
		i.Select = ref.WithDefaultTag().String()
	}
	return i, checkPath(s, i.Path)
}

// driveColon returns the place of the colon in C:\dir, and -1 elsewhere.
func driveColon(path string) int {
	if runtime.GOOS == "windows" && len(path) > 1 && path[1] == ':' {
		return 1
	}
	return -1
}

func checkPath(s, path string) error {
	if path == "" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%w: %q has no path", ErrReference, s)
	}
	return nil
}

// String returns what ParseImage reads.
func (i Image) String() string {
	switch i.Kind {
	case Layout:
		s := "oci:" + i.Path
		if strings.HasPrefix(i.Select, "sha256:") {
			return s + "@" + i.Select
		}
		if i.Select != "" {
			s += ":" + i.Select
		}
		return s
	case Archive:
		s := "docker-archive:" + i.Path
		if i.Select != "" {
			s += ":" + i.Select
		}
		return s
	}
	return "engine"
}

// A Platform is what an image of a multi-platform index is for.
type Platform struct{ OS, Architecture, Variant string }

// ParsePlatform reads OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT. What does
// not parse is an error that matches ErrReference.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if !validTag(p) {
			parts = nil
		}
	}
	switch len(parts) {
	case 2:
		return Platform{OS: parts[0], Architecture: parts[1]}, nil
	case 3:
		return Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}, nil
	}
	return Platform{}, fmt.Errorf("%w: platform %q is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT", ErrReference, s)
}

// String returns what ParsePlatform reads, or "" for the zero value.
func (p Platform) String() string {
	if p == (Platform{}) {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// matches reports whether content for q serves somebody who wants p. A
// variant that was not named does not matter.
func (p Platform) matches(q Platform) bool {
	return p.OS == q.OS && p.Architecture == q.Architecture && (p.Variant == "" || p.Variant == q.Variant)
}
