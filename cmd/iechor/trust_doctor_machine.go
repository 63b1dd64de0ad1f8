package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/iechor/trust/certs"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// configuration says what is read. err is why there is no desk.
func (x *examination) configuration(d *desk, err error) {
	path := filepath.Join(x.dir, "config.json")
	switch {
	case err != nil:
		x.failed("configuration", stateBroken, err)
	case !exists(path):
		x.note("configuration", stateOK, "there is no "+path+", and none is needed")
	default:
		x.note("configuration", stateOK, path)
	}
	if st, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && st.Mode().Perm()&0o022 != 0 {
		x.note("configuration", stateBroken, path+" can be written by others: they decide what is trusted", "chmod 600 "+path)
	}
	if d == nil {
		return
	}
	if _, err := d.offline(); err != nil {
		x.failed("variables", stateBroken, err)
	}
	if d.config.allowExpired {
		x.note("configuration", stateWarning, "trust data that has expired serves when the trust server is down",
			"remove allow-expired-cached-trust-data from "+path)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removedVariables are names that were read once, and what is read now.
var removedVariables = [][2]string{
	{"IECHOR_CONTENT_TRUST_OFFLINE_PASSPHRASE", rootPassphraseVariable},
	{"IECHOR_CONTENT_TRUST_TAGGING_PASSPHRASE", repositoryPassphraseVariable},
}

// variables looks at the environment.
func (x *examination) variables() {
	switch on, err := x.switchedOn(); {
	case err != nil:
		x.failed("content trust", stateBroken, err)
	case on:
		x.note("content trust", stateOK, "is on")
	default:
		x.note("content trust", stateWarning, "is off: push signs nothing, and pull checks no signature", "export "+switchVariable+"=1")
	}
	for _, name := range []string{rootPassphraseVariable, repositoryPassphraseVariable} {
		if v := x.getenv(name); v != "" {
			if utf8.RuneCountInString(v) < minPassphrase {
				x.note("variables", stateWarning, fmt.Sprintf("the passphrase in %s has fewer than %d characters", name, minPassphrase), "choose a longer one, and change that of the keys: iechor trust key passwd")
			}
			continue // the file is not looked at either
		}
		if path := x.getenv(name + fileSuffix); path != "" {
			passphrase, err := keys.ReadSecret(path)
			clear(passphrase)
			if err != nil {
				x.failed("variables", stateBroken, &passphraseFileError{name + fileSuffix, path, err})
			}
		}
	}
	for _, name := range removedVariables {
		if x.getenv(name[0]) != "" {
			x.note("variables", stateWarning, name[0]+" is not read", "set "+name[1]+" instead")
		}
	}
}

// folders looks at who may do what in the configuration directory.
func (x *examination) folders() {
	sound := true
	for _, folder := range []struct {
		name    string
		private bool // nobody else may look into it
	}{{"", false}, {"trust", true}, {"trust/private", true}, {"trust/tuf", false}, {"trust/state", false}, {"tls", false}} {
		path := filepath.Join(x.dir, filepath.FromSlash(folder.name))
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		mode := fs.FileMode(0)
		if err == nil && runtime.GOOS != "windows" {
			mode = st.Mode().Perm()
		}
		switch {
		case err != nil:
			x.failed("folders", stateBroken, err)
		case !st.IsDir():
			x.note("folders", stateBroken, path+" is not a folder", "move it away")
		case mode&0o022 != 0:
			x.note("folders", stateBroken, path+" can be written by others: they could replace what is in it", "chmod 700 "+path)
		case !writable(path):
			x.note("folders", stateBroken, path+" cannot be written by you", "see who owns it; after a run as another user: chown -R "+x.user()+" "+x.dir)
		case folder.private && mode&0o077 != 0:
			x.note("folders", stateWarning, path+" can be read by others", "chmod 700 "+path)
		default:
			continue
		}
		sound = false
	}
	if sound {
		x.note("folders", stateOK, x.dir)
	}
}

func (x *examination) user() string {
	if u := x.getenv("USER"); u != "" {
		return u
	}
	return "USER"
}

// keyFiles looks at the private keys, without opening any.
func (x *examination) keyFiles(ctx context.Context, d *keys.Dir) {
	infos, err := d.List(ctx)
	if err != nil {
		x.failed("key files", stateBroken, err)
		return
	}
	roots := 0
	for _, k := range infos {
		if k.Role == string(tuf.RoleRoot) {
			roots++
		}
	}
	switch {
	case len(infos) == 0:
		x.note("key files", stateOK, "none in "+d.Name()+": this machine can pull, and the first push makes keys")
	default:
		x.note("key files", stateOK, fmt.Sprintf("%s in %s, %s", plural(len(infos), "key", "keys"), d.Name(), plural(roots, "of them a root key", "of them root keys")))
	}
	for _, p := range d.Problems() {
		cure := "restore it from a backup, or move it away if nobody needs it"
		switch {
		case errors.Is(p.Err, keys.ErrShared):
			cure = "find out who could have copied it; to go on, chmod 600 " + p.Path
		case errors.Is(p.Err, fs.ErrPermission):
			cure = "see who owns it and what its mode is"
		}
		text := p.Err.Error()
		if !strings.Contains(text, p.Path) {
			text = p.Path + ": " + text
		}
		x.note("key files", stateBroken, text, cure)
	}
	litter, err := filepath.Glob(filepath.Join(d.Name(), ".new-*"))
	if err == nil && len(litter) > 0 {
		x.note("key files", stateWarning, plural(len(litter), "file is", "files are")+" left from writing keys that was interrupted", "if no command is running: rm "+filepath.Join(d.Name(), ".new-*"))
	}
}

// oldLayouts finds keys where only other programs, or old ones, look.
func (x *examination) oldLayouts() {
	private := filepath.Join(x.dir, "trust", "private")
	old := 0
	for _, name := range []string{"root_keys", "tuf_keys"} {
		old += len(keyFilesBelow(filepath.Join(private, name)))
	}
	if old > 0 {
		x.note("old layouts", stateWarning, plural(old, "key file is", "key files are")+" in the layout of programs before notary 0.4, below "+private,
			"any command that works with keys moves them, for example iechor trust key list; doctor changes nothing")
	}
	if certificates := filepath.Join(x.dir, "trust", "trusted_certificates"); exists(certificates) {
		x.note("old layouts", stateWarning, certificates+" is of programs before notary 0.3, and nobody reads it", "remove it; to pin a root, see trust-pinning in the configuration")
	}
	if x.home == "" {
		return
	}
	for program, dir := range map[string]string{
		"docker": filepath.Join(x.dockerDir(), "trust"),
		"notary": filepath.Join(x.home, ".notary"),
	} {
		if same, err := filepath.EvalSymlinks(dir); err != nil || same == filepath.Join(x.dir, "trust") {
			continue
		}
		var missing []string
		for _, path := range keyFilesBelow(filepath.Join(dir, "private")) {
			if !exists(filepath.Join(private, filepath.Base(path))) {
				missing = append(missing, path)
			}
		}
		if len(missing) > 0 {
			x.note("old layouts", stateWarning, fmt.Sprintf("%s of %s in %s, and not here", plural(len(missing), "key", "keys"), program, filepath.Join(dir, "private")),
				"if they are to sign here: iechor trust key import "+strings.Join(missing[:min(len(missing), 4)], " "))
		}
	}
}

// keyFilesBelow lists key files in a folder and those in it; none if it cannot
// be read.
func keyFilesBelow(dir string) (paths []string) {
	seen := 0
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if seen++; seen > 10_000 {
			return fs.SkipAll
		}
		if err == nil && e.Type().IsRegular() && strings.HasSuffix(path, ".key") {
			paths = append(paths, path)
		}
		return nil // what cannot be read has no keys for us
	})
	slices.Sort(paths)
	return paths
}

// servers greets every trust server that is configured.
func (x *examination) servers(ctx context.Context, d *desk) {
	addresses := map[string]string{} // to where they come from
	if v := d.getenv(serverVariable); v != "" {
		addresses[v] = serverVariable
	} else {
		for entry, v := range d.config.servers {
			if addresses[v] == "" || entry < addresses[v] {
				addresses[v] = entry
			}
		}
	}
	if len(addresses) == 0 {
		x.note("trust server", stateOK, "none is configured: that of each registry's own host is used")
	}
	for _, address := range slices.Sorted(maps.Keys(addresses)) {
		if err := checkServer(address, serverVariable); err != nil {
			x.failed("trust server", stateBroken, err)
			continue
		}
		remote, err := trust.NewHTTP(trust.HTTPConfig{Base: address, TLSDir: filepath.Join(x.dir, "tls"), Version: version()})
		if err != nil {
			x.failed("trust server", stateBroken, err)
			continue
		}
		x.greet(ctx, remote, fmt.Sprintf("%s, from %s,", address, addresses[address]))
	}
}

// Bounds of what is no reason to worry.
const (
	clockTolerance     = 5 * time.Minute
	clockBroken        = 24 * time.Hour // trust data of today would be refused
	certificateWarning = 14 * 24 * time.Hour
	expiryWarning      = 30 * 24 * time.Hour
	rootWarning        = 180 * 24 * time.Hour
)

// greet says whether a trust server answers, by which certificate, and what its
// clock shows. It reports whether it does answer.
func (x *examination) greet(ctx context.Context, remote *trust.HTTP, name string) bool {
	began := x.now()
	inner, cancel := patiently(ctx)
	defer cancel()
	g, err := remote.Greet(inner)
	if err != nil {
		x.failed("trust server", stateBroken, &repositoryError{gun: "the repository", server: remote.Host(), folder: "the trust directory", err: err})
		last := &x.Findings[len(x.Findings)-1]
		if !strings.Contains(last.Finding, remote.Host()) {
			last.Finding = remote.Host() + ": " + last.Finding
		}
		return false
	}
	host, _, _ := strings.Cut(remote.Host(), "/")
	folder := certs.Dir(filepath.Join(x.dir, "tls"), host)
	text := name + " answers"
	switch {
	case g.Expires.IsZero():
	case !g.Checked:
		text += "; its certificate is not checked, because it is on this machine and there is no CA in " + folder
	default:
		text += "; its certificate is accepted until " + day(g.Expires)
	}
	if g.Scheme != "" {
		text += "; it wants a login (" + g.Scheme + ")"
	}
	x.note("trust server", stateOK, text)
	if left := g.Expires.Sub(x.now()); g.Checked && left < certificateWarning {
		x.note("trust server", stateWarning, fmt.Sprintf("the certificate of %s expires in %s", host, age(left)), "tell the operator of "+host)
	}
	x.clock(g.Date, began, host)
	return true
}

// clock compares this machine's with that of a server, which answered between
// began and now.
func (x *examination) clock(date, began time.Time, host string) {
	if date.IsZero() {
		return
	}
	now := x.now()
	var off time.Duration
	word := ""
	switch {
	case date.Before(began.Truncate(time.Second)):
		off, word = began.Sub(date), "ahead of"
	case date.After(now):
		off, word = date.Sub(now), "behind"
	}
	state := stateOK
	switch {
	case off > clockBroken:
		state = stateBroken
	case off > clockTolerance:
		state = stateWarning
	default:
		x.note("clock", state, "agrees with that of "+host)
		return
	}
	x.note("clock", state, fmt.Sprintf("this machine's is %s %s that of %s: good trust data can look expired, and expired data good", age(off.Round(time.Minute)), word, host), // an answer takes a moment
		"set the clock of this machine, if it is not the server's that is wrong; it shows "+now.UTC().Format(time.RFC3339))
}

// engine looks for the local engine.
func (x *examination) engine(ctx context.Context, d *desk) {
	inner, cancel := patiently(ctx)
	defer cancel()
	ref, err := registry.ParseRef("localhost/iechor-doctor:none")
	if err == nil {
		_, err = d.images.Inspect(inner, ref)
	}
	switch {
	case err == nil, errors.Is(err, registry.ErrNoImage):
		x.note("engine", stateOK, "answers")
	default:
		x.failed("engine", stateWarning, err)
	}
}

// trustData looks at every repository of which something is at hand.
func (x *examination) trustData(ctx context.Context, d *desk) {
	dir := trust.NewDir(filepath.Join(x.dir, "trust"))
	guns, err := dir.List()
	if err != nil {
		x.failed("trust data", stateBroken, err)
	}
	x.note("trust data", stateOK, fmt.Sprintf("%s at hand in %s", plural(len(guns), "repository", "repositories"), filepath.Join(dir.Path(), "tuf")))
	for _, gun := range guns {
		if ctx.Err() != nil {
			return
		}
		repo := &repository{
			Repository: trust.Open(gun, trust.Config{Dir: dir, Now: d.now, Keys: d.keys}),
			server:     "its trust server", folder: dir.Folder(gun),
		}
		past, err := repo.Local()
		if err != nil || past == nil {
			if err != nil {
				x.failed("trust data", stateBroken, repo.about(err))
			}
			continue
		}
		x.staged(repo)
		for _, f := range past.Files() {
			if info, ok := past.Info(f.Role); ok && f.Role != tuf.RoleTimestamp && f.Role != tuf.RoleSnapshot {
				x.expiry("trust data", string(gun)+": ", info.Role, info.Expires)
			}
		}
	}
	x.leftovers()
}

// leftovers finds what interrupted commands left in the trust directory.
func (x *examination) leftovers() {
	var litter []string
	seen := 0
	_ = filepath.WalkDir(filepath.Join(x.dir, "trust", "tuf"), func(path string, e fs.DirEntry, err error) error {
		if seen++; seen > 200_000 {
			return fs.SkipAll
		}
		if err == nil && strings.HasPrefix(e.Name(), "%tmp-") {
			litter = append(litter, path)
			if e.IsDir() {
				return fs.SkipDir
			}
		}
		return nil // what cannot be read was complained of above
	})
	if len(litter) > 0 {
		x.note("trust data", stateWarning, plural(len(litter), "file is", "files are")+" left from a command that was interrupted", "if no command is running: rm -r '"+strings.Join(litter[:min(len(litter), 4)], "' '")+"'")
	}
}

// staged tells of changes that wait to be published.
func (x *examination) staged(repo *repository) {
	changes, err := repo.Staged()
	if err != nil {
		x.failed("staged changes", stateBroken, repo.about(err))
		return
	}
	if len(changes) == 0 {
		return
	}
	odd := 0
	for _, c := range changes {
		if c.Change == nil {
			odd++
		}
	}
	text := fmt.Sprintf("%s of %s not published", plural(len(changes), "change", "changes"), repo.GUN())
	if odd > 0 {
		text += fmt.Sprintf(", and %d of them cannot be understood", odd)
	}
	x.note("staged changes", stateWarning, text,
		fmt.Sprintf("look at them: iechor trust status %s; publish them: iechor trust publish %s; or drop them: iechor trust reset %s", repo.GUN(), repo.GUN(), repo.GUN()))
}

// expiry speaks up when a role's file does not live much longer.
func (x *examination) expiry(check, of string, role tuf.RoleName, at time.Time) {
	left := at.Sub(x.now())
	limit, cure := expiryWarning, "one of its signers can sign it again: iechor trust delegation witness REPOSITORY "+string(role)
	switch role {
	case tuf.RoleRoot:
		limit, cure = rootWarning, "who holds the root key can renew it: iechor trust key rotate REPOSITORY root"
	case tuf.RoleTargets:
		cure = "who holds the repository's key can sign it again, for example by signing a tag"
	}
	switch {
	case left <= 0:
		x.note(check, stateBroken, fmt.Sprintf("%s%s expired on %s", of, role, day(at)), cure)
	case left < limit:
		x.note(check, stateWarning, fmt.Sprintf("%s%s expires in %s, on %s", of, role, age(left), day(at)), cure)
	}
}
