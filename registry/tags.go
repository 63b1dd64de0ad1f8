package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Tags returns the tags that from can push to the repository of to, sorted in
// byte order: of the engine and of an archive the tags of that very
// repository, of a layout, which knows no repositories, all that are valid.
// None is an empty list. from.Select, to.Tag and to.Digest do not matter.
//
// Errors: ErrNoImage (there is no such place), ErrUnsupported, ErrNoEngine,
// ErrEngine.
func (c *Client) Tags(ctx context.Context, from Image, to Ref) ([]string, error) {
	found := map[string]bool{}
	var err error
	switch from.Kind {
	case Layout:
		err = layoutTags(from, found)
	case Archive:
		err = archiveTags(ctx, from, to, found)
	default:
		err = c.engine.tags(ctx, to, found)
	}
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func layoutTags(from Image, found map[string]bool) error {
	root, err := os.OpenRoot(from.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", from, ErrNoImage)
	}
	if err != nil {
		return err
	}
	defer root.Close()
	index, err := (&layout{path: from.Path, root: root}).index()
	if err != nil || index == nil {
		return err
	}
	for i := range index.entries {
		if tag := index.entries[i].Annotations[refName]; validTag(tag) {
			found[tag] = true
		}
	}
	return nil
}

func archiveTags(ctx context.Context, from Image, to Ref, found map[string]bool) error {
	a, err := scanArchive(ctx, from)
	if err != nil {
		return err
	}
	defer a.Close()
	names, err := a.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if ref, err := ParseRef(n); err == nil && ref.Repository == to.Repository {
			found[ref.Tag] = true
		}
	}
	return nil
}

// tags asks for the images of one repository. What the engine lists beyond
// that is passed over, such as the names of an engine that takes the filter
// for the end of a name.
func (e *engine) tags(ctx context.Context, to Ref, found map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	to = hubOfEngine(to)
	query := url.Values{}
	if name := to.FamiliarName(); !strings.Contains(name, "[") { // of an IPv6 address: the filter is a pattern
		filter, err := json.Marshal(map[string][]string{"reference": {name}})
		if err != nil {
			return err
		}
		query.Set("filters", string(filter))
	}
	resp, err := e.call(ctx, http.MethodGet, "/images/json", query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, maxManifest, "the engine's answer")
	if err != nil {
		return err
	}
	var images []struct{ RepoTags []string }
	if json.Unmarshal(raw, &images) != nil {
		return &EngineError{Message: "the engine lists its images in a way that cannot be read"}
	}
	for _, image := range images {
		for _, s := range image.RepoTags {
			ref, err := ParseRef(strings.TrimPrefix(s, "docker.io/"))
			if err == nil && ref.Tag != "" && ref.Repository == to.Repository {
				found[ref.Tag] = true
			}
		}
	}
	return nil
}

// Bounds on one list of tags, far above what exists.
const (
	pageSize = 1000 // tags asked for at a time
	maxPages = 1000
	maxTags  = 100_000
)

// List asks the registry for all tags of the repository of ref, and returns
// them sorted in byte order. None is an empty list. The list is the
// registry's word: it may lack tags, and name some that are not there.
//
// Errors: as of Resolve. A registry that wants the list to go on elsewhere is
// refused with ErrRefused, one with more than 100 000 tags with
// ErrUnsupported, and one whose list makes no sense with ErrUnreachable.
func (c *Client) List(ctx context.Context, ref Ref) ([]string, error) {
	s, err := c.open(ctx, ref, "pull")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	found := map[string]bool{}
	asked := map[string]bool{}
	for query := "n=" + strconv.Itoa(pageSize); query != ""; {
		if asked[query] || len(asked) == maxPages {
			return nil, s.senseless("its list of tags has no end")
		}
		asked[query] = true
		if query, err = s.listPage(ctx, query, found); err != nil {
			return nil, err
		}
		if len(found) > maxTags {
			return nil, fmt.Errorf("%w: %s has more than %d tags", ErrUnsupported, s.ref, maxTags)
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// listPage adds one page of tags to found and returns the query for the next,
// empty at the end.
func (s *session) listPage(ctx context.Context, query string, found map[string]bool) (string, error) {
	page := url.URL{Scheme: "https", Host: s.repo.RegistryStr(), Path: "/v2/" + s.repo.RepositoryStr() + "/tags/list", RawQuery: query}
	resp, err := s.get(ctx, page.String(), "application/json")
	if err != nil {
		return "", s.explain(err, "")
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, maxManifest, "a page of the tags of "+s.ref.String())
	if err != nil {
		return "", s.explain(err, "")
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(raw, &list) != nil {
		return "", s.senseless("its list of tags cannot be read")
	}
	for _, tag := range list.Tags {
		if !validTag(tag) {
			return "", s.senseless(fmt.Sprintf("its list of tags holds %q", clean(tag)))
		}
		found[tag] = true
	}
	return s.nextPage(&page, resp.Header.Values("Link"))
}

// nextPage takes from the Link headers (RFC 8288) what to ask for next. It is
// the query alone: scheme, host and path stay those of page, so that a list
// cannot lead to another place, with our credentials. A scheme of http is
// passed over, since that is what a registry behind a proxy writes.
func (s *session) nextPage(page *url.URL, links []string) (string, error) {
	for _, link := range strings.Split(strings.Join(links, ","), ",") {
		target, params, ok := strings.Cut(strings.TrimSpace(link), ">")
		target, opened := strings.CutPrefix(target, "<")
		if !ok || !opened || !isNext(params) {
			continue
		}
		next, err := page.Parse(target)
		if err != nil || next.RawQuery == "" {
			return "", s.senseless("its list of tags goes on at no address")
		}
		host := url.URL{Scheme: page.Scheme, Host: next.Host}
		if canonicalHost(&host) != canonicalHost(page) || next.Path != page.Path {
			return "", &RefusedError{Host: s.host(), To: clean(next.Host), Reason: "a list of tags goes on where it began, or not at all"}
		}
		return next.RawQuery, nil
	}
	return "", nil
}

// isNext reports whether the parameters of a link say rel=next.
func isNext(params string) bool {
	for _, p := range strings.Split(params, ";") {
		k, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), "rel") {
			return strings.EqualFold(strings.Trim(strings.TrimSpace(v), `"`), "next")
		}
	}
	return false
}

func (s *session) senseless(what string) error {
	return &UnreachableError{Host: s.host(), Err: errors.New(what)}
}
