package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// image looks at everything that ref needs.
func (x *examination) image(ctx context.Context, d *desk, ref registry.Ref) {
	name := ref.Repository
	if ref.FamiliarName() != ref.Repository {
		name = fmt.Sprintf("%s is short for %s", ref.FamiliarName(), ref.Repository)
	}
	x.note("name", stateOK, name)
	address, origin, err := d.trustServer(ref)
	if err != nil {
		x.failed("trust server", stateBroken, err)
		x.registry(ctx, d, ref, nil)
		return
	}
	repo, err := d.repository(ref)
	if err != nil {
		x.failed("trust server", stateBroken, err)
		return
	}
	x.note("trust server", stateOK, fmt.Sprintf("%s, from %s", address, origin))
	answers := x.greet(ctx, repo.remote, repo.server)
	x.login(ctx, d, ref)
	past, err := repo.Local()
	if err != nil {
		x.failed("local copy", stateBroken, repo.about(err))
	}
	var set *tuf.Set
	switch {
	case err != nil:
	case answers:
		set = x.metadata(ctx, d, repo, ref, past != nil)
	case past != nil:
		x.offline(d, past)
	}
	if set != nil {
		x.signers(ctx, d, repo, set, ref)
	}
	x.staged(repo)
	x.registry(ctx, d, ref, set)
}

// login says who this machine is to the registry and the trust server.
func (x *examination) login(ctx context.Context, d *desk, ref registry.Ref) {
	inner, cancel := patiently(ctx)
	defer cancel()
	c, err := d.credentials.Lookup(inner, ref.Host())
	switch {
	case err != nil:
		x.failed("login", stateBroken, err)
	case c.Username != "":
		x.note("login", stateOK, fmt.Sprintf("as %s at %s", c.Username, ref.Host()))
	case c.IdentityToken != "" || c.RegistryToken != "":
		x.note("login", stateOK, "with a token at "+ref.Host())
	default:
		x.note("login", stateOK, "none for "+ref.Host()+"; to make one: iechor login "+ref.Host())
	}
}

// offline says what the copy at hand is good for while the server is away.
func (x *examination) offline(d *desk, past *tuf.Past) {
	policy, err := d.offline()
	if err != nil {
		return // said already
	}
	timestamp, _ := past.Info(tuf.RoleTimestamp)
	switch {
	case timestamp.Expires.IsZero():
		x.note("local copy", stateWarning, "does not serve: it is what this machine published first, and not what the server has made of it")
	case policy == trust.OfflineRefuse:
		x.note("local copy", stateWarning, "does not serve: offline is refuse")
	case timestamp.Expires.After(x.now()), d.config.allowExpired:
		x.note("local copy", stateWarning, "serves while the trust server is away, until "+day(timestamp.Expires)+"; nothing can be published")
	default:
		x.note("local copy", stateWarning, "does not serve: it has expired")
	}
}

// metadata verifies what the trust server publishes, as a pull would, and
// keeps nothing of it. known says that this machine has seen the repository.
func (x *examination) metadata(ctx context.Context, d *desk, repo *repository, ref registry.Ref, known bool) *tuf.Set {
	inner, cancel := patiently(ctx)
	defer cancel()
	set, err := repo.Look(inner)
	switch {
	case errors.Is(err, trust.ErrNotSigned):
		x.note("trust data", stateWarning, fmt.Sprintf("%s has none for %s: with content trust, nothing of it can be pulled", repo.server, repo.GUN()),
			"who may publish signs a tag with content trust on, and the first push makes the keys",
			"if it is signed at another trust server, name that one under content-trust.servers in "+d.config.path)
		x.permission(ctx, repo)
		return nil
	case set == nil:
		x.failed("trust data", stateBroken, repo.about(err))
		return nil
	case err != nil:
		x.failed("trust data", stateBroken, repo.about(err))
	default:
		root, _ := set.Info(tuf.RoleRoot)           // every Set has one
		timestamp, _ := set.Info(tuf.RoleTimestamp) // the same
		x.note("trust data", stateOK, fmt.Sprintf("verified: root %d, targets %d, timestamp until %s", root.Version, versionOf(set, tuf.RoleTargets), day(timestamp.Expires)))
	}
	for _, role := range set.Roles() {
		// The others are the server's, and renewed by it.
		if info, ok := set.Info(role); ok && role != tuf.RoleTimestamp && role != tuf.RoleSnapshot {
			x.expiry("expiry", "", role, info.Expires)
		}
	}
	x.certificates(set)
	for _, u := range set.Unusable() {
		x.note("trust data", stateWarning, fmt.Sprintf("%s does not count: %v", u.Role, u.Err.Err),
			fmt.Sprintf("one of its signers can sign it again: iechor trust delegation witness %s %s", repo.GUN(), u.Role))
	}
	x.pins(d, set, known)
	x.tag(repo, set, ref)
	return set
}

func versionOf(set *tuf.Set, role tuf.RoleName) int64 {
	info, _ := set.Info(role) // 0 if there is none
	return info.Version
}

// certificates speaks up when those of the root do not live much longer: a
// root must not be older than its certificates.
func (x *examination) certificates(set *tuf.Set) {
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	for _, k := range role.Keys {
		certs, err := k.Certificates()
		if err != nil || len(certs) == 0 {
			continue
		}
		if left := certs[0].NotAfter.Sub(x.now()); left < rootWarning {
			x.note("expiry", stateWarning, fmt.Sprintf("the certificate of root key %s expires on %s", k.CanonicalID().Short(), day(certs[0].NotAfter)),
				fmt.Sprintf("who holds the root key can renew it: iechor trust key rotate %s root", set.GUN()))
		}
	}
}

// pins says why the root is trusted.
func (x *examination) pins(d *desk, set *tuf.Set, known bool) {
	gun, ids := set.GUN(), rootIDs(set)
	how := howToPin(gun, ids, d.config.path)
	pins, err := d.config.pin()
	if err != nil {
		x.failed("pins", stateBroken, err)
		return
	}
	rule, pinned := pins.For(gun)
	switch {
	case pinned:
		x.note("pins", stateOK, fmt.Sprintf("the root is one that %q under content-trust.trust-pinning allows", rule.Pattern))
	case known:
		x.note("pins", stateOK, "none; the root follows from the one that this machine trusts already: "+strings.Join(ids, ", "))
	case d.config.ask:
		x.note("pins", stateWarning, "none, and first-use is ask: the first command that meets the root "+strings.Join(ids, ", ")+" needs somebody at a terminal",
			"compare that with what the owners say; "+how)
	case d.config.pinning.FirstUse == "refuse":
		x.note("pins", stateBroken, "none, and first-use is refuse: the root "+strings.Join(ids, ", ")+" will not be trusted", "compare that with what the owners say; "+how)
	default:
		x.note("pins", stateOK, "none; the root will be trusted on first use: "+strings.Join(ids, ", "))
	}
}

// tag says what a pull would get.
func (x *examination) tag(repo *repository, set *tuf.Set, ref registry.Ref) {
	if ref.Tag == "" {
		return
	}
	t, err := trust.Lookup(set, ref.Tag)
	if err == nil {
		_, err = descriptor(t)
	}
	if err != nil {
		var tags []string
		for _, role := range []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets} {
			for t := range set.Targets(role) {
				tags = append(tags, t.Name)
			}
		}
		x.failed("tag", stateBroken, &tagError{ref: ref, server: repo.server, signed: sortedTags(slices.Compact(slices.Sorted(slices.Values(tags)))), err: err})
		return
	}
	x.note("tag", stateOK, fmt.Sprintf("%s is sha256:%x, signed in %s", printable(ref.Tag), t.SHA256(), t.Role))
}

// signers says which keys may sign and which of them are here, and whether
// that is enough to sign a tag.
func (x *examination) signers(ctx context.Context, d *desk, repo *repository, set *tuf.Set, ref registry.Ref) {
	roles := append([]tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot}, set.Roles()...)
	for _, u := range set.Unusable() {
		roles = append(roles, u.Role)
	}
	some := false
	said := map[tuf.RoleName]bool{tuf.RoleTimestamp: true} // always the server's
	for _, name := range roles {
		role, ok := set.Role(name)
		if said[name] || !ok {
			continue
		}
		said[name] = true
		here, err := d.held(ctx, role)
		if err != nil {
			x.failed("keys", stateBroken, err)
			return
		}
		some = some || len(here) > 0
		x.note("keys", stateOK, keysOfRole(role, here))
	}
	if !some {
		x.note("signing", stateWarning, fmt.Sprintf("this machine can pull %s, and not sign it: none of its keys is here", repo.GUN()),
			"to sign, bring a key of one of its signers here with iechor trust key load or iechor trust key import, or ask an owner to add yours: iechor trust signer add")
		return
	}
	x.signing(ctx, d, repo, set, ref)
	x.permission(ctx, repo)
}

// held returns the keys of a role that are on this machine.
func (d *desk) held(ctx context.Context, role tuf.Role) ([]keys.Info, error) {
	var here []keys.Info
	for _, k := range role.Keys {
		info, _, err := d.keys.Find(ctx, k.CanonicalID())
		switch {
		case errors.Is(err, tuf.ErrNoKey):
		case err != nil:
			return nil, err
		default:
			here = append(here, info)
		}
	}
	return here, nil
}

// keysOfRole says in words which keys of a role are here.
func keysOfRole(role tuf.Role, here []keys.Info) string {
	text := fmt.Sprintf("%s: %d of %s here", role.Name, len(here), plural(len(role.Keys), "key", "keys"))
	if len(here) > 0 {
		text += " (" + shortIDs(here) + ")"
	}
	if role.Threshold != 1 {
		text += fmt.Sprintf(", %d must sign", role.Threshold)
	}
	switch {
	case len(here) > 0:
	case role.Name == tuf.RoleRoot:
		text += "; it is needed to change the repository's keys, and not to sign tags"
	case role.Name == tuf.RoleSnapshot:
		text += "; the trust server signs it"
	}
	return text
}

// signing says whether the keys here can sign the tag.
func (x *examination) signing(ctx context.Context, d *desk, repo *repository, set *tuf.Set, ref registry.Ref) {
	has := func(id tuf.CanonicalID) (bool, error) { return d.keys.Has(ctx, id) }
	tag := ref.WithDefaultTag().Tag
	roles, err := trust.SigningRoles(set, tag, has)
	if err != nil {
		x.failed("signing", stateWarning, repo.about(err))
		return
	}
	var names []string
	for _, name := range roles {
		role, _ := set.Role(name) // SigningRoles returns no other
		here, err := d.held(ctx, role)
		switch {
		case err != nil:
			x.failed("signing", stateBroken, err)
			return
		case len(here) == 0:
			x.note("signing", stateWarning, fmt.Sprintf("tags are signed into %s, and none of its keys is here", name), "bring the key here with iechor trust key import, or ask an owner to add yours: iechor trust signer add")
			return
		case len(here) < role.Threshold:
			x.note("signing", stateWarning, fmt.Sprintf("%s must be signed by %d keys, and %d of them is here", name, role.Threshold, len(here)), "bring the others here, or have their holders witness what you publish: iechor trust delegation witness")
			return
		}
		names = append(names, string(name))
	}
	x.note("signing", stateOK, fmt.Sprintf("%s is signed into %s", printable(tag), strings.Join(names, ", ")))
}

// permission asks whether this login may publish. The answer to who may is a
// public key, which every push asks for first.
func (x *examination) permission(ctx context.Context, repo *repository) {
	inner, cancel := patiently(ctx)
	defer cancel()
	scope := fmt.Sprintf("repository:%s:pull,push", repo.GUN())
	_, err := repo.remote.Key(inner, repo.GUN(), tuf.RoleTimestamp)
	switch {
	case err == nil:
		x.note("publishing", stateOK, fmt.Sprintf("%s lets this login publish (%s)", repo.server, scope))
	case errors.Is(err, trust.ErrUnauthorized):
		x.note("publishing", stateWarning, fmt.Sprintf("%s does not let this login publish (%s)", repo.server, scope),
			"log in as a user who may: iechor login "+registryHost(repo.GUN()), "or ask the operator of "+repo.server+" for that right")
	default:
		x.failed("publishing", stateBroken, repo.about(err))
	}
}

func registryHost(gun tuf.GUN) string {
	host, _, _ := strings.Cut(string(gun), "/")
	return host
}

// registry says whether the registry answers, and has what is signed. set may
// be nil.
func (x *examination) registry(ctx context.Context, d *desk, ref registry.Ref, set *tuf.Set) {
	inner, cancel := patiently(ctx)
	defer cancel()
	at := ref.WithDefaultTag()
	signed := false
	if set != nil && ref.Tag != "" && ref.Digest.IsZero() {
		if t, err := trust.Lookup(set, ref.Tag); err == nil {
			if is, err := descriptor(t); err == nil {
				at, signed = ref.WithDigest(is.Digest), true
			}
		}
	}
	_, err := d.images.Resolve(inner, at)
	switch {
	case err == nil && signed:
		x.note("registry", stateOK, ref.Host()+" has the content that is signed")
	case err == nil, errors.Is(err, registry.ErrNotFound) && ref.Tag == "" && ref.Digest.IsZero():
		x.note("registry", stateOK, ref.Host()+" answers")
	case errors.Is(err, registry.ErrNotFound) && signed:
		x.note("registry", stateBroken, fmt.Sprintf("%s does not have %s, which is signed as %s", ref.Host(), at.Digest, printable(ref.Tag)),
			"push that content again, or sign another one", "see also that you may see it: iechor login "+ref.Host())
	default:
		x.failed("registry", stateBroken, &imageError{ref: at, err: err})
	}
}
