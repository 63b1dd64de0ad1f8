package main

import (
	"context"

	"github.com/iechor/trust/registry"
)

// describe finds out what is to be pushed, as far as that is possible without
// pushing it. That there is no such image is an error.
func (d *desk) describe(ctx context.Context, i *item) error {
	if i.from.Kind != registry.Engine {
		return nil
	}
	local, err := d.images.Inspect(ctx, i.ref)
	i.known = local.Digests
	return err
}

// tags lists what of a repository is in a place.
func (d *desk) tags(context.Context, registry.Image, registry.Ref) ([]string, error) {
	return nil, &usageError{"push --all-tags is not possible from there", []string{"push each tag by itself"}}
}

// list lists the tags that a registry has.
func (d *desk) list(context.Context, registry.Ref) ([]string, error) {
	return nil, &usageError{"pull --all-tags needs content trust, which says what the tags are", []string{"set " + switchVariable + "=1, or pull each tag by itself"}}
}
