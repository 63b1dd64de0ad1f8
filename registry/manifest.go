package registry

import (
	"encoding/json"
	"fmt"
	"strings"
)

const (
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

	accepted = dockerManifest + ", " + dockerList + ", " + ociManifest + ", " + ociIndex
)

var (
	indexTypes = map[string]bool{ociIndex: true, dockerList: true}
	imageTypes = map[string]bool{ociManifest: true, dockerManifest: true}
)

// Bounds on one image, far above what exists.
const (
	maxChildren  = 512  // in one manifest or index
	maxManifests = 1024 // reached from one index
	maxDepth     = 4    // indexes within indexes
)

// A content is one thing that a manifest points to.
type content struct {
	Descriptor
	what     string // "manifest", "config" or "layer", as DigestError has it
	platform Platform
}

// A manifest is a parsed manifest or index.
type manifest struct {
	Descriptor
	raw      []byte
	config   content   // of an image
	layers   []content // of an image
	children []content // of an index
}

type wireDescriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// parseManifest reads the bytes of a manifest. The media type is the one the
// bytes claim; where they claim none, their members decide. A document that
// could be taken for both an image and an index is refused (CVE-2021-41190).
func parseManifest(raw []byte) (*manifest, error) {
	var wire struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Config        *wireDescriptor  `json:"config"`
		Layers        []wireDescriptor `json:"layers"`
		Manifests     []wireDescriptor `json:"manifests"`
		FSLayers      json.RawMessage  `json:"fsLayers"`
	}
	m := &manifest{raw: raw, Descriptor: Descriptor{Digest: DigestOf(raw), Size: int64(len(raw))}}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return nil, fmt.Errorf("%w: manifest is not JSON", ErrUnsupported)
	}
	index, image := wire.Manifests != nil, wire.Config != nil || wire.Layers != nil
	m.MediaType = wire.MediaType
	switch {
	case wire.SchemaVersion != 2 || wire.FSLayers != nil:
		return nil, fmt.Errorf("%w: manifest of schema version %d", ErrUnsupported, wire.SchemaVersion)
	case index && image:
		return nil, fmt.Errorf("%w: manifest is both an image and an index", ErrUnsupported)
	case m.MediaType == "" && index:
		m.MediaType = ociIndex
	case m.MediaType == "" && image:
		m.MediaType = ociManifest
	case indexTypes[m.MediaType] && !image, imageTypes[m.MediaType] && wire.Config != nil && !index:
	default:
		return nil, fmt.Errorf("%w: manifest of type %q", ErrUnsupported, clean(m.MediaType))
	}
	if len(wire.Manifests) > maxChildren || len(wire.Layers) > maxChildren {
		return nil, fmt.Errorf("%w: manifest with more than %d entries", ErrUnsupported, maxChildren)
	}
	return m, m.addContents(wire.Config, wire.Layers, wire.Manifests)
}

func (m *manifest) addContents(config *wireDescriptor, layers, children []wireDescriptor) (err error) {
	if imageTypes[m.MediaType] {
		if config == nil {
			return fmt.Errorf("%w: image manifest without a config", ErrUnsupported)
		}
		if m.config, err = config.content("config"); err != nil {
			return err
		}
	}
	for _, l := range layers {
		c, err := l.content("layer")
		if err != nil {
			return err
		}
		m.layers = append(m.layers, c)
	}
	for _, w := range children {
		c, err := w.content("manifest")
		if err != nil {
			return err
		}
		if !imageTypes[c.MediaType] && !indexTypes[c.MediaType] {
			return fmt.Errorf("%w: index entry of type %q", ErrUnsupported, clean(c.MediaType))
		}
		if c.Size > maxManifest {
			return fmt.Errorf("%w: manifest %s is larger than %d bytes", ErrUnsupported, c.Digest, maxManifest)
		}
		m.children = append(m.children, c)
	}
	return nil
}

func (w *wireDescriptor) content(what string) (content, error) {
	d, err := ParseDigest(w.Digest)
	if err != nil {
		return content{}, fmt.Errorf("%w: %s with digest %q", ErrUnsupported, what, clean(w.Digest))
	}
	if w.Size < 0 {
		return content{}, fmt.Errorf("%w: %s %s of size %d", ErrUnsupported, what, d, w.Size)
	}
	c := content{what: what, Descriptor: Descriptor{Digest: d, Size: w.Size, MediaType: w.MediaType}}
	if p := w.Platform; p != nil {
		c.platform = Platform{OS: clean(p.OS), Architecture: clean(p.Architecture), Variant: clean(p.Variant)}
	}
	return c, nil
}

// blobs returns the config and the layers, each digest once.
func (m *manifest) blobs() []content {
	if m.config.Digest.IsZero() {
		return nil
	}
	seen := map[Digest]bool{m.config.Digest: true}
	list := []content{m.config}
	for _, l := range m.layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			list = append(list, l)
		}
	}
	return list
}

// clean makes text from elsewhere fit for a terminal: printable ASCII only,
// and not long.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= 512 {
			b.WriteString("...")
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
