package registry

import (
	"context"
	"fmt"
)

// Describe returns the descriptor of what Push would upload now, computed here
// from the bytes, and changes nothing anywhere. Of a layout or an archive it
// reads every manifest and sees that there is a file for every blob, but
// leaves it to Push to compare the blobs with their digests. What the engine
// would push shows only when it does: for an image that it has, the descriptor
// is zero.
//
// Nothing holds the place still until Push: who signs takes the descriptor
// that Push returns, or compares the two.
//
// Errors: ErrReference (to has a digest), ErrNoImage, ErrAmbiguous, ErrDigest,
// ErrUnsupported, ErrNoEngine, ErrEngine.
func (c *Client) Describe(ctx context.Context, from Image, to Ref) (Descriptor, error) {
	if err := pushable(to); err != nil {
		return Descriptor{}, err
	}
	if from.Kind == Engine {
		_, err := c.engine.inspect(ctx, to.WithDefaultTag())
		return Descriptor{}, err
	}
	src, top, err := openSource(ctx, from)
	if err != nil {
		return Descriptor{}, err
	}
	defer src.Close()
	present := func(ctx context.Context, list []content) error {
		for _, b := range list {
			body, err := src.open(ctx, b)
			if err != nil {
				return err
			}
			_ = body.Close() // nothing was read
		}
		return ctx.Err()
	}
	read := func(*manifest) error { return nil }
	if err := walk(ctx, src, top, read, present); err != nil {
		return Descriptor{}, err
	}
	return top.Descriptor, nil
}

// pushable says why to cannot be the name of something to push.
func pushable(to Ref) error {
	if !to.Digest.IsZero() {
		return fmt.Errorf("%w: cannot push a digest reference", ErrReference)
	}
	return nil
}
