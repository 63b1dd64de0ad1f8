package main

import (
	"context"

	"github.com/iechor/trust/registry"
)

// describe finds out what is to be pushed, as far as that is possible without
// pushing it: of the engine's image only under which digests it is known. That
// there is no such image is an error.
func (d *desk) describe(ctx context.Context, i *item) (err error) {
	if i.from.Kind == registry.Engine {
		var local registry.Local
		local, err = d.images.Inspect(ctx, i.ref)
		i.known = local.Digests
		return err
	}
	i.is, err = d.images.Describe(ctx, i.from, i.ref)
	return err
}
