package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Local describes an image in the engine.
type Local struct {
	// ID is the engine's own name for it: a digest of the config or, where
	// images are kept by containerd, of the manifest or index.
	ID string

	// Digests are those under which the engine knows it in the repository
	// that was asked for.
	Digests []Digest

	size int64 // of the manifest, where the engine says it
}

// is reports whether the engine calls this image d.
func (l Local) is(d Digest) bool { return l.ID == d.String() || slices.Contains(l.Digests, d) }

// Inspect asks the engine for ref, by its digest or else its tag. Errors:
// ErrNoImage, ErrNoEngine, ErrEngine.
func (c *Client) Inspect(ctx context.Context, ref Ref) (Local, error) {
	return c.engine.inspect(ctx, ref.WithDefaultTag())
}

// Tag gives the engine's image from, usually a reference with a digest, the
// name and tag of to. Errors: as for Inspect.
func (c *Client) Tag(ctx context.Context, from, to Ref) error {
	image, err := c.Inspect(ctx, from)
	if err != nil {
		return err
	}
	return c.engine.tag(ctx, image.ID, to.WithDefaultTag())
}

// nameIn returns the image as the engine calls it. The engine, too, has a
// default hub: a familiar name means its own.
func nameIn(ref Ref) string {
	if !ref.Digest.IsZero() {
		ref.Tag = ""
	}
	return ref.Familiar()
}

// hubOfEngine returns ref as it reads in an engine's answers once docker.io,
// which engines leave out or write at will, is taken off there: who asks for
// docker.io/library/alpine by that name finds alpine.
func hubOfEngine(ref Ref) Ref {
	if path, ok := strings.CutPrefix(ref.Repository, "docker.io/"); ok {
		ref.Repository = HubName + "/" + path
	}
	return ref
}

// call makes a request and returns an answer with a good status.
func (e *engine) call(ctx context.Context, method, path string, query url.Values, header http.Header) (*http.Response, error) {
	client, version, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The host is a fixed word: the connection is what says where it goes.
	u := url.URL{Scheme: "http", Host: "engine", Path: "/v" + version + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", e.agent)
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &NoEngineError{Tried: e.config.Hosts, Err: err}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // what came is enough for a message
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Message == "" {
		answer.Message = fmt.Sprintf("the engine answered with status %d", resp.StatusCode)
	}
	failed := &EngineError{Message: clean(answer.Message)}
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %w", ErrNoImage, failed)
	}
	return nil, failed
}

func (e *engine) inspect(ctx context.Context, ref Ref) (Local, error) {
	ctx, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	resp, err := e.call(ctx, http.MethodGet, "/images/"+nameIn(ref)+"/json", nil, nil)
	if errors.Is(err, ErrNoImage) {
		return Local{}, fmt.Errorf("%w with the tag: %s", ErrNoImage, ref.Familiar())
	}
	if err != nil {
		return Local{}, err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, maxManifest, "the engine's answer")
	if err != nil {
		return Local{}, err
	}
	var image struct {
		ID          string `json:"Id"`
		RepoDigests []string
		Descriptor  *struct {
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		}
	}
	if json.Unmarshal(raw, &image) != nil || image.ID == "" {
		return Local{}, &EngineError{Message: "the engine describes the image in a way that cannot be read"}
	}
	if !strings.Contains(image.ID, ":") {
		image.ID = "sha256:" + image.ID // Podman's way
	}
	l := Local{ID: clean(image.ID)}
	for _, s := range image.RepoDigests {
		r, err := ParseRef(strings.TrimPrefix(s, "docker.io/"))
		if err == nil && r.Repository == hubOfEngine(ref).Repository {
			l.Digests = append(l.Digests, r.Digest)
		}
	}
	if d := image.Descriptor; d != nil && d.Digest != "" && l.ID == d.Digest {
		l.size = d.Size
	}
	return l, nil
}

func (e *engine) tag(ctx context.Context, id string, to Ref) error {
	ctx, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	resp, err := e.call(ctx, http.MethodPost, "/images/"+id+"/tag",
		url.Values{"repo": {to.FamiliarName()}, "tag": {to.Tag}}, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// pushFromEngine has the engine push, and then looks at what is in the
// registry: first under the digest that the engine reports, and where it
// reports none (the containerd image store) under the tag, once.
func (c *Client) pushFromEngine(ctx context.Context, to Ref, tell func(Progress)) (Descriptor, error) {
	before, err := c.engine.inspect(ctx, to)
	if err != nil {
		return Descriptor{}, err
	}
	header, err := c.registryAuth(ctx, to.Host())
	if err != nil {
		return Descriptor{}, err
	}
	resp, err := c.engine.call(ctx, http.MethodPost, "/images/"+to.FamiliarName()+"/push", url.Values{"tag": {to.Tag}}, header)
	if err != nil {
		return Descriptor{}, err
	}
	var reported []Digest
	err = stream(ctx, resp.Body, to, tell, func(raw json.RawMessage) {
		var aux struct {
			Digest           Digest
			SelectedManifest struct {
				Digest Digest `json:"digest"`
			} `json:"selectedManifest"`
		}
		if json.Unmarshal(raw, &aux) != nil {
			return // an engine says many things here
		}
		for _, d := range []Digest{aux.Digest, aux.SelectedManifest.Digest} {
			if !d.IsZero() {
				reported = append(reported, d)
			}
		}
	})
	if err != nil {
		return Descriptor{}, err
	}
	after, err := c.engine.inspect(ctx, to)
	if err != nil {
		return Descriptor{}, err
	}
	if after.ID != before.ID {
		return Descriptor{}, &EngineError{Message: to.Familiar() + " became another image during the push"}
	}
	s, err := c.open(ctx, to, "pull")
	if err != nil {
		return Descriptor{}, err
	}
	defer s.Close()
	look := to
	if len(reported) > 0 {
		look = to.WithDigest(reported[len(reported)-1])
	}
	m, err := s.resolve(ctx, look)
	if err != nil {
		return Descriptor{}, err
	}
	config := m.config.Digest
	if !slices.Contains(reported, m.Digest) && !after.is(m.Digest) && (config.IsZero() || after.ID != config.String()) {
		return Descriptor{}, &DigestError{What: "manifest", Digest: m.Digest} // not what the engine pushed
	}
	return m.Descriptor, nil
}

// pullIntoEngine has the engine pull by digest, sees that it then holds what
// was asked for, and names that.
func (c *Client) pullIntoEngine(ctx context.Context, from Ref, want Descriptor, p Platform, tell func(Progress)) error {
	header, err := c.registryAuth(ctx, from.Host())
	if err != nil {
		return err
	}
	ref := from.WithDigest(want.Digest)
	query := url.Values{"fromImage": {ref.FamiliarName()}, "tag": {want.Digest.String()}}
	if p != (Platform{}) {
		query.Set("platform", p.String())
	}
	resp, err := c.engine.call(ctx, http.MethodPost, "/images/create", query, header)
	if err != nil {
		return engineSays(err, ref)
	}
	if err := stream(ctx, resp.Body, ref, tell, func(json.RawMessage) {}); err != nil {
		return err
	}
	image, err := c.engine.inspect(ctx, ref)
	if err != nil {
		return err
	}
	if !image.is(want.Digest) || image.size != 0 && want.Size != 0 && image.size != want.Size {
		return &DigestError{What: "manifest", Digest: want.Digest} // attacks.md M12
	}
	if from.Tag == "" {
		return nil
	}
	return c.engine.tag(ctx, image.ID, Ref{Repository: from.Repository, Tag: from.Tag})
}

// registryAuth returns the header that hands our credentials to the engine.
func (c *Client) registryAuth(ctx context.Context, host string) (http.Header, error) {
	cred, err := c.credential(ctx, host)
	if err != nil {
		return nil, err
	}
	auth := map[string]string{}
	for k, v := range map[string]string{
		"username": cred.Username, "password": cred.Password,
		"identitytoken": cred.IdentityToken, "registrytoken": cred.RegistryToken,
	} {
		if v != "" {
			auth[k] = v
		}
	}
	if len(auth) > 0 {
		if auth["serveraddress"] = host; host == HubName {
			auth["serveraddress"] = HubCredentials
		}
	}
	raw, err := json.Marshal(auth)
	if err != nil {
		return nil, err
	}
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(raw)}}, nil
}

const maxStream = 256 << 20 // bytes of progress in one push or pull

// stream reads what an engine says while it works, and closes body. Its last
// word is an error if there was one.
func stream(ctx context.Context, body io.ReadCloser, ref Ref, tell func(Progress), aux func(json.RawMessage)) error {
	defer body.Close()
	lines := json.NewDecoder(io.LimitReader(body, maxStream))
	for {
		var line struct {
			ID       string          `json:"id"`
			Status   string          `json:"status"`
			Error    string          `json:"error"`
			Aux      json.RawMessage `json:"aux"`
			Progress struct {
				Current int64 `json:"current"`
				Total   int64 `json:"total"`
			} `json:"progressDetail"`
			Detail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		err := lines.Decode(&line)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &EngineError{Message: "the engine stopped in the middle"}
		}
		if message := line.Detail.Message; message != "" || line.Error != "" {
			if message == "" {
				message = line.Error
			}
			return engineSays(&EngineError{Message: clean(message)}, ref)
		}
		if line.Aux != nil {
			aux(line.Aux)
		}
		if line.Status != "" {
			tell(Progress{What: clean(line.ID), Status: clean(line.Status), Done: line.Progress.Current, Total: line.Progress.Total})
		}
	}
}

// engineSays finds in an engine's sentence what a caller can decide on. This
// is the one place where texts are compared: engines say it in no other way.
func engineSays(err error, ref Ref) error {
	var said *EngineError
	if !errors.As(err, &said) {
		return err
	}
	text := strings.ToLower(said.Message)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	var digest Digest
	if at := strings.LastIndex(text, "sha256:"); at >= 0 && len(text) >= at+71 {
		digest, _ = ParseDigest(text[at : at+71]) // zero if it is none; then ref's will do
	}
	if digest.IsZero() {
		digest = ref.Digest
	}
	switch {
	case has("filesystem layer verification failed"):
		return errors.Join(&DigestError{What: "layer", Digest: digest}, said)
	case has("image config verification failed"):
		return errors.Join(&DigestError{What: "config", Digest: digest}, said)
	case has("manifest verification failed", "unexpected commit digest", "digest mismatch", "does not match digest", "failed size validation"):
		return errors.Join(&DigestError{What: "manifest", Digest: digest}, said)
	case has("unauthorized", "authentication required", "no basic auth credentials", "denied", "forbidden"):
		return fmt.Errorf("%s: %w: %w", ref, ErrUnauthorized, said)
	case has("manifest unknown", "name unknown", "not found", "repository does not exist"):
		return fmt.Errorf("%s: %w: %w", ref, ErrNotFound, said)
	case has("connection refused", "no such host", "i/o timeout", "tls:", "x509:"):
		return &UnreachableError{Host: ref.Host(), Err: said}
	}
	return said
}
