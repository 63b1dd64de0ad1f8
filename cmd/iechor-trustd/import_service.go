package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type importServiceOptions struct {
	url         string
	guns        []string
	list        string
	changefeed  bool
	config, dir string
	tlsDir      string
	user        string
	password    string
	rootKeys    []string
	jobs        int
}

func newImportServiceCmd(a *app) *cobra.Command {
	var o importServiceOptions
	c := &cobra.Command{
		Use:   "service URL",
		Short: "Make a verified copy of what a running trust service publishes",
		Long: `Example: iechor-trustd import service https://notary.example.com --gun registry.example.com/team/app --config server.yaml

Makes a verified copy of repositories that a running trust service publishes:
every current file and every root, byte for byte. The new server then serves
them to readers, and signs nothing in them: they stay as their owners and the
old service signed them, which is why clients refuse a copy once its timestamp
has expired. Do it again while the old service runs to bring the copy up to date;
what has not changed costs one request.

Name the repositories with --gun, in a --list (one a line, # begins a comment),
or take all that the service's changefeed tells of (--changefeed, which needs
the right to list everything there).

When the old service is gone, "iechor-trustd import release REPOSITORY" makes an
ordinary repository of a copy. Its owner then moves it here, with the root key:
"iechor trust key rotate REPOSITORY timestamp", and snapshot if the old service
signed that.`,
	}
	f := c.Flags()
	f.StringArrayVar(&o.guns, "gun", nil, "a repository to copy; may be repeated")
	f.StringVar(&o.list, "list", "", "file with names of repositories, one a line")
	f.BoolVar(&o.changefeed, "changefeed", false, "copy all repositories that the service's changefeed tells of")
	f.StringVar(&o.config, "config", "", "configuration file of the new server, YAML")
	f.StringVar(&o.dir, "dir", "", "folder of a sandbox")
	f.StringVar(&o.tlsDir, "tls-dir", "", "folder with a folder for each host, with the *.crt to trust there")
	f.StringVar(&o.user, "user", "", "login for the service")
	f.StringVar(&o.password, "password-file", "", "file with the password of that login")
	f.StringArrayVar(&o.rootKeys, "root-key", nil, "PATTERN=ID: the only root key to accept for these repositories; may be repeated")
	f.IntVar(&o.jobs, "jobs", 4, "how many repositories are copied at a time, 1 to 32")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) != 1:
			return usage("name one service, such as https://notary.example.com")
		case (o.config == "") == (o.dir == ""):
			return usage("name either --config FILE or --dir DIR")
		case len(o.guns) == 0 && o.list == "" && !o.changefeed:
			return usage("say what to copy: --gun, --list or --changefeed")
		case (o.user == "") != (o.password == ""):
			return usage("--user and --password-file belong together")
		case o.jobs < 1 || o.jobs > 32:
			return usage("--jobs must be 1 to 32; it is %d", o.jobs)
		}
		o.url = args[0]
		return a.importService(c.Context(), o)
	}
	return c
}

// A copying is the copy of one service, or its renewal.
type copying struct {
	a      *app
	now    time.Time
	remote *trust.HTTP
	store  *storage.SQL
	mirror string
	pin    tuf.Pin

	mu                          sync.Mutex // guards the rest
	made, renewed, same, failed int
	first                       time.Time // when the first timestamp expires
	firstGUN                    tuf.GUN
	done                        int
}

func (a *app) importService(ctx context.Context, o importServiceOptions) error {
	c := &copying{a: a, now: a.now(), mirror: strings.TrimSuffix(o.url, "/")}
	var err error
	if c.pin, err = rootKeyPin(o.rootKeys); err != nil {
		return err
	}
	conf := trust.HTTPConfig{Base: o.url, TLSDir: o.tlsDir, Version: version()}
	if o.user != "" {
		password, err := os.ReadFile(o.password)
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		login := trust.Credential{User: o.user, Password: strings.TrimRight(string(password), "\r\n")}
		conf.Credentials = func(context.Context, string) (trust.Credential, error) { return login, nil }
	}
	if c.remote, err = trust.NewHTTP(conf); err != nil {
		return usageError{err}
	}
	to := defaultServerConfig()
	if o.config != "" {
		if err := readConfig(o.config, to); err != nil {
			return err
		}
	} else {
		to.Storage = "sqlite:" + filepath.Join(o.dir, "server", "server.db")
	}
	guns, err := c.names(ctx, o)
	if err != nil {
		return err
	}
	store, closeStore, err := a.openStore(ctx, to.Storage, storage.Config{})
	if err != nil {
		return err
	}
	defer closeStore()
	c.store = store
	c.all(ctx, guns, o.jobs)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: what was copied stays; start it again to go on", err)
	}
	fmt.Fprintf(a.out, "%d repositories copied, %d brought up to date, %d unchanged\n", c.made, c.renewed, c.same)
	if c.firstGUN != "" {
		fmt.Fprintf(a.out, "the first timestamp expires on %s (%s): clients refuse the copy from then on, unless it is brought up to date\n",
			c.first.UTC().Format("2006-01-02 15:04 MST"), c.firstGUN)
	}
	switch {
	case c.failed == 1:
		return errors.New("1 repository was not copied")
	case c.failed > 0:
		return fmt.Errorf("%d repositories were not copied", c.failed)
	}
	return nil
}

func rootKeyPin(rules []string) (tuf.Pin, error) {
	p := trust.Pinning{RootKeys: map[string][]tuf.CanonicalID{}}
	for _, r := range rules {
		pattern, id, ok := strings.Cut(r, "=")
		if !ok {
			return nil, usage("--root-key must be PATTERN=ID, such as registry.example.com/team/*=8d2f…; it is %q", r)
		}
		p.RootKeys[pattern] = append(p.RootKeys[pattern], tuf.CanonicalID(id))
	}
	pin, err := p.Pin(os.ReadFile)
	if err != nil {
		return nil, usage("--root-key: %w", err)
	}
	return pin, nil
}

// names returns what is to be copied, each once.
func (c *copying) names(ctx context.Context, o importServiceOptions) ([]tuf.GUN, error) {
	var guns []tuf.GUN
	add := func(name, where string) error {
		gun := tuf.GUN(name)
		if !gun.Valid() {
			return usage("%s: %q is no name of a repository, such as registry.example.com/team/app", where, name)
		}
		guns = append(guns, gun)
		return nil
	}
	for _, g := range o.guns {
		if err := add(g, "--gun"); err != nil {
			return nil, err
		}
	}
	if o.list != "" {
		f, err := os.Open(o.list)
		if err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			name, _, _ := strings.Cut(lines.Text(), "#")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if err := add(name, fmt.Sprintf("%s:%d", o.list, n)); err != nil {
				return nil, err
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
	}
	if o.changefeed {
		published, err := c.published(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the changefeed of %s: %w", c.remote.Host(), err)
		}
		guns = append(guns, published...)
	}
	slices.Sort(guns)
	return slices.Compact(guns), nil
}

// published returns the repositories whose newest change is no deletion.
func (c *copying) published(ctx context.Context) ([]tuf.GUN, error) {
	last := map[tuf.GUN]string{}
	q := api.ChangeQuery{Limit: api.MaxChanges}
	for {
		var page []api.ChangeRecord
		err := c.patiently(ctx, func() (err error) { page, err = c.remote.Changes(ctx, q); return err })
		if err != nil {
			return nil, err
		}
		before := q.From
		for _, r := range page {
			last[r.GUN] = r.Category
			var id int64
			if _, err := fmt.Sscan(r.ID, &id); err != nil {
				return nil, err
			}
			q.From = max(q.From, id)
		}
		if q.From == before { // nothing, or nothing new: a feed that does not move on would never end
			break
		}
		c.a.progress("reading the changefeed: %d repositories", len(last))
	}
	var guns []tuf.GUN
	for gun, category := range last {
		if category != api.CategoryDeletion {
			guns = append(guns, gun)
		}
	}
	return guns, nil
}

// patiently tries again what a busy or restarting service refuses.
func (c *copying) patiently(ctx context.Context, fn func() error) error {
	for wait := time.Second; ; wait *= 2 {
		err := fn()
		var refused *trust.ServerRefusal
		busy := errors.Is(err, trust.ErrUnreachable) ||
			errors.As(err, &refused) && (refused.Err.Status == http.StatusTooManyRequests || refused.Err.Status >= 500)
		if !busy || wait > 8*time.Second {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// all copies, so many at a time.
func (c *copying) all(ctx context.Context, guns []tuf.GUN, jobs int) {
	queue := make(chan tuf.GUN)
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			for gun := range queue {
				err := c.one(ctx, gun)
				c.mu.Lock()
				c.done++
				if err != nil && ctx.Err() == nil {
					c.failed++
					c.a.progress("")
					fmt.Fprintf(c.a.out, "%s: %s\n", gun, printableLines(err.Error()))
				}
				c.a.progress("%d of %d repositories", c.done, len(guns))
				c.mu.Unlock()
			}
		})
	}
	for _, gun := range guns {
		if ctx.Err() != nil {
			break
		}
		queue <- gun
	}
	close(queue)
	workers.Wait()
	c.a.progress("")
}

// one copies one repository, or brings its copy up to date.
func (c *copying) one(ctx context.Context, gun tuf.GUN) error {
	o := tuf.Options{Pin: c.pin, Now: c.now}
	state, past, err := c.have(ctx, gun, o)
	if err != nil {
		return err
	}
	u := tuf.Begin(gun, past, o)
	set, err := c.walk(ctx, gun, u)
	if err != nil {
		return err
	}
	from, err := c.news(ctx, state, set, u, past)
	if err != nil {
		return err
	}
	if len(from.Files) > 0 {
		if _, err := c.store.Import(ctx, gun, state, from, c.now, c.a.theOperator("copied from "+c.mirror)); err != nil {
			return err
		}
		var wrong error
		if err := server.CheckRepository(ctx, c.store, nil, gun, c.now, func(p server.Problem) {
			if wrong == nil {
				wrong = errors.New(p.String())
			}
		}); err != nil {
			return err
		}
		if wrong != nil {
			return fmt.Errorf("copied, but: %w", wrong)
		}
	}
	_, until := set.Expires()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case state == nil:
		c.made++
	case len(from.Files) > 0:
		c.renewed++
	default:
		c.same++
	}
	if c.firstGUN == "" || until.Before(c.first) {
		c.first, c.firstGUN = until, gun
	}
	return nil
}

// have returns the copy as it is; nil and nil if there is none.
func (c *copying) have(ctx context.Context, gun tuf.GUN, o tuf.Options) (*storage.State, *tuf.Past, error) {
	state, err := c.store.Current(ctx, gun)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	switch state.Mirror {
	case c.mirror:
	case "":
		return nil, nil, errors.New("the repository lives on the new server already; left alone")
	default:
		return nil, nil, fmt.Errorf("the new server has a copy of what %s publishes; left alone", state.Mirror)
	}
	var files []tuf.File
	for role, e := range state.Roles {
		raw, _, err := c.store.Blob(ctx, gun, role, e.SHA256)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, tuf.File{Role: role, Version: e.Version, Raw: raw})
	}
	past, err := tuf.Recall(gun, files, o)
	if err != nil {
		return nil, nil, fmt.Errorf("the copy is damaged: %w; reset it with \"iechor-trustd admin reset\", and copy it again", err)
	}
	return state, past, nil
}

// walk feeds u from the service.
func (c *copying) walk(ctx context.Context, gun tuf.GUN, u *tuf.Update) (*tuf.Set, error) {
	for {
		w, more := u.Next()
		if !more {
			return u.Set()
		}
		var raw []byte
		err := c.patiently(ctx, func() (err error) { raw, err = c.remote.Fetch(ctx, gun, w); return err })
		switch {
		case err == nil:
			err = u.Add(w, raw)
		case errors.Is(err, trust.ErrNotSigned):
			if missing := u.Missing(w); missing == nil {
				err = nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// news returns what of set the copy does not have, older roots included.
func (c *copying) news(ctx context.Context, state *storage.State, set *tuf.Set, u *tuf.Update, past *tuf.Past) (storage.Source, error) {
	from := storage.Source{Mirror: c.mirror}
	add := func(f tuf.File) error {
		meta, err := tuf.Outline(f.Role, f.Raw, tuf.Options{Now: c.now})
		if err != nil {
			return err
		}
		raw := f.Raw
		from.Files = append(from.Files, storage.OldFile{Role: f.Role, Version: meta.Version, Created: c.now, Expires: meta.Expires,
			Raw: func(context.Context) ([]byte, error) { return raw, nil }})
		return nil
	}
	var roots []tuf.File // before the current one, oldest first
	if past == nil {
		var err error
		if roots, err = c.oldRoots(ctx, set); err != nil {
			return from, err
		}
	} else {
		current, _ := set.File(tuf.RoleRoot)
		for _, f := range u.Verified() {
			if f.Role == tuf.RoleRoot && f.Version < current.Version {
				roots = append(roots, f)
			}
		}
	}
	for _, f := range append(roots, set.Files()...) {
		if state != nil {
			have, ok := state.Roles[f.Role]
			floor := state.Floors[f.Role]
			switch {
			case ok && have.SHA256 == sha256.Sum256(f.Raw):
				continue
			case f.Version <= floor && f.Role.Delegation():
				from.Drop = append(from.Drop, f.Role) // it was made anew
			}
		}
		if err := add(f); err != nil {
			return from, err
		}
	}
	if state != nil && len(from.Files) > 0 {
		for role := range state.Roles {
			if _, there := set.File(role); role.Delegation() && !there && !slices.Contains(from.Drop, role) {
				from.Drop = append(from.Drop, role)
			}
		}
	}
	return from, nil
}

// oldRoots fetches the roots before the current one, for clients that have
// seen none since. That they lead to the current one is verified when they are
// stored.
func (c *copying) oldRoots(ctx context.Context, set *tuf.Set) ([]tuf.File, error) {
	current, _ := set.File(tuf.RoleRoot)
	var roots []tuf.File
	for v := current.Version - 1; v >= 1; v-- {
		w := tuf.Want{Role: tuf.RoleRoot, Version: v, MaxLength: tuf.DefaultLimits().Root}
		var raw []byte
		err := c.patiently(ctx, func() (err error) { raw, err = c.remote.Fetch(ctx, set.GUN(), w); return err })
		if errors.Is(err, trust.ErrNotSigned) {
			break // the first publication may be version 2
		}
		if err != nil {
			return nil, err
		}
		f, err := tuf.NewFile(tuf.RoleRoot, raw)
		if err != nil {
			return nil, err
		}
		if f.Version != v {
			return nil, fmt.Errorf("the service serves version %d of the root as version %d", f.Version, v)
		}
		roots = append(roots, f)
	}
	slices.Reverse(roots)
	return roots, nil
}

func newImportReleaseCmd(a *app) *cobra.Command {
	var config, dir string
	c := &cobra.Command{
		Use:   "release REPOSITORY",
		Short: "Make an ordinary repository of a copy",
		Long: `Example: iechor-trustd import release registry.example.com/team/app --config server.yaml

Makes an ordinary repository of the copy that "iechor-trustd import service" has
made, so that its owner can publish to it here. Until the owner has moved it here
("iechor trust key rotate REPOSITORY timestamp", and snapshot if the old service
signed that), the old service's timestamp stands, and expires.`,
	}
	c.Flags().StringVar(&config, "config", "", "configuration file of the server, YAML")
	c.Flags().StringVar(&dir, "dir", "", "folder of a sandbox")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) != 1 || !tuf.GUN(args[0]).Valid():
			return usage("name one repository, such as registry.example.com/team/app")
		case (config == "") == (dir == ""):
			return usage("name either --config FILE or --dir DIR")
		}
		to := defaultServerConfig()
		if config != "" {
			if err := readConfig(config, to); err != nil {
				return err
			}
		} else {
			to.Storage = "sqlite:" + filepath.Join(dir, "server", "server.db")
		}
		store, closeStore, err := a.openStore(c.Context(), to.Storage, storage.Config{})
		if err != nil {
			return err
		}
		defer closeStore()
		state, err := store.Current(c.Context(), tuf.GUN(args[0]))
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return fmt.Errorf("there is no repository %s", args[0])
		case err != nil:
			return err
		case state.Mirror == "":
			return fmt.Errorf("%s is no copy: its owner publishes here already", args[0])
		}
		if err := store.Release(c.Context(), state, a.now(), a.theOperator("")); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s can be published to here now; it was a copy of what %s publishes\n", args[0], state.Mirror)
		return err
	}
	return c
}
