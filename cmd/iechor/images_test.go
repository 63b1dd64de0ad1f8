package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// twoImages writes an OCI layout with two images, tagged 1 and 2.
func twoImages(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1", "2"} {
		i, err := random.Image(64, 1)
		if err == nil {
			err = l.AppendImage(i, ocilayout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	firstPassphrase  = "passphrase one"
	secondPassphrase = "passphrase two"
	thirdPassphrase  = "passphrase three"
)
