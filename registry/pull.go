package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// Pull fetches exactly the content want from the repository of from, and puts
// it into to. want.Digest must be set; want.Size and want.MediaType are
// compared when they are. from.Digest is ignored, and from.Tag serves as a
// name only: if there is one, the engine's image, the layout's entry or the
// archive's image gets it once everything is verified and in place. After an
// error nothing new is visible in to.
//
// Errors, beside those of Resolve: ErrPlatform, ErrNoEngine, ErrEngine,
// ErrReference (want has no digest, or the platform makes no sense).
func (c *Client) Pull(ctx context.Context, from Ref, want Descriptor, to Image, o PullOptions) error {
	if want.Digest.IsZero() {
		return fmt.Errorf("%w: a pull needs a digest", ErrReference)
	}
	tell := oneAtATime(o.Progress)
	if to.Kind == Engine {
		return c.pullIntoEngine(ctx, from, want, o.Platform, tell)
	}
	if to.Kind == Layout && o.Platform != (Platform{}) {
		return fmt.Errorf("%w: a layout takes all platforms", ErrReference)
	}
	s, err := c.open(ctx, from, "pull")
	if err != nil {
		return err
	}
	defer s.Close()
	top, err := s.fetchManifest(ctx, want.Digest.String(), content{Descriptor: want, what: "manifest"})
	if err != nil {
		return err
	}
	if to.Kind == Layout {
		name := to.Select
		if name == "" {
			name = from.Tag
		}
		return s.pullIntoLayout(ctx, top, to.Path, name, tell)
	}
	if top, err = choose(ctx, s, top, o.Platform); err != nil {
		return err
	}
	name := to.Select
	if name == "" && from.Tag != "" {
		name = Ref{Repository: from.Repository, Tag: from.Tag}.String()
	}
	return s.pullIntoArchive(ctx, top, to.Path, name, tell)
}

// choose finds the one image for a platform. Every step from top down is by a
// digest in a verified index (attacks.md M13).
func choose(ctx context.Context, from source, top *manifest, p Platform) (*manifest, error) {
	if !top.Index() {
		return top, checkPlatform(ctx, from, top, p)
	}
	var all []content
	err := walkIndexes(ctx, from, top, 0, &all)
	if err != nil {
		return nil, err
	}
	var fit []content
	missing := &PlatformError{Want: p}
	for _, c := range all {
		if c.platform.OS == "unknown" || c.platform == (Platform{}) {
			continue // attestations, and what nobody can ask for
		}
		if !slices.Contains(missing.Choices, c.platform.String()) {
			missing.Choices = append(missing.Choices, c.platform.String())
		}
		if p == (Platform{}) || p.matches(c.platform) {
			fit = append(fit, c)
		}
	}
	if len(fit) != 1 {
		return nil, missing
	}
	return from.manifest(ctx, fit[0])
}

// walkIndexes lists the images in an index and in indexes below it.
func walkIndexes(ctx context.Context, from source, index *manifest, depth int, all *[]content) error {
	if depth > maxDepth || len(*all) > maxManifests {
		return fmt.Errorf("%w: index with more than %d manifests or %d levels", ErrUnsupported, maxManifests, maxDepth)
	}
	for _, c := range index.children {
		if !indexTypes[c.MediaType] {
			*all = append(*all, c)
			continue
		}
		below, err := from.manifest(ctx, c)
		if err != nil {
			return err
		}
		if err := walkIndexes(ctx, from, below, depth+1, all); err != nil {
			return err
		}
	}
	return nil
}

// checkPlatform compares the platform that was asked for with the config of
// an image that is alone.
func checkPlatform(ctx context.Context, from source, m *manifest, p Platform) error {
	if p == (Platform{}) {
		return nil
	}
	if m.config.Size > maxManifest {
		return fmt.Errorf("%w: config %s is larger than %d bytes", ErrUnsupported, m.config.Digest, maxManifest)
	}
	body, err := from.open(ctx, m.config)
	if err != nil {
		return err
	}
	defer body.Close()
	raw, err := readAll(body, maxManifest, "config")
	if err != nil {
		return err
	}
	var is Platform // its members are named as in the config
	if err := json.Unmarshal(raw, &is); err != nil {
		return fmt.Errorf("%w: config %s is not JSON", ErrUnsupported, m.config.Digest)
	}
	if !p.matches(is) {
		is = Platform{OS: clean(is.OS), Architecture: clean(is.Architecture), Variant: clean(is.Variant)}
		return &PlatformError{Want: p, Choices: []string{is.String()}}
	}
	return nil
}

// download is a content under way, with progress.
func (s *session) download(ctx context.Context, c content, tell func(Progress)) (*counted, error) {
	body, err := s.open(ctx, c)
	if err != nil {
		return nil, err
	}
	return &counted{ReadCloser: body, tell: tell,
		at: Progress{What: c.Digest.Short(), Status: "Downloading", Total: c.Size}}, nil
}
