package tuf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Dialect is one way of writing TUF metadata. [Notary] is the one there is;
// its methods are everything that the rest of the package does not know:
// the shape of payloads, the names of roles, the form of paths, and which keys
// may be root keys.
type Dialect interface {
	// decode gives the typed view of a payload and refuses what is not one of
	// that role, by an error matching ErrMalformed.
	decode(role RoleName, payload node) (content, error)
	decodeMeta(n node) (FileMeta, error)

	// blank is the payload of a file of role that says nothing yet.
	blank(role RoleName) node
	// The following return the payload changed in the one respect named.
	stamp(payload node, version int64, expires time.Time) node
	putRole(payload node, role Role) node
	putDelegation(payload node, role Role) node
	dropDelegation(payload node, name RoleName) node
	editTargets(payload node, edits []targetEdit) node
	putMeta(payload node, role RoleName, m FileMeta) node
	dropMeta(payload node, role RoleName) node

	// rootKeys returns those of the root role's keys that may speak for gun.
	// With a time, certificates that are not valid then do not count; untimely is
	// one of those.
	rootKeys(role Role, gun GUN, at *time.Time) (keys []Key, untimely *x509.Certificate)

	// everywhere are the paths of top-level targets; within returns what
	// reports whether a target name, or a path of a delegation, is within any
	// of the paths.
	everywhere() []string
	within(paths []string) func(name string) bool
}

// Notary is the dialect of Docker Content Trust and Notary v1
// (notary-protocol 1 and 2).
type Notary struct{}

var notaryTypes = map[RoleName]string{RoleRoot: "Root", RoleSnapshot: "Snapshot", RoleTimestamp: "Timestamp"}

// typeOf is the "_type" of a role's files. Delegations are Targets.
func typeOf(role RoleName) string {
	if t, ok := notaryTypes[role]; ok {
		return t
	}
	return "Targets"
}

func (Notary) decode(role RoleName, p node) (c content, err error) {
	if !role.Valid() {
		return c, malformed("%q is not a role", role)
	}
	kind, err := text(p, "_type")
	if err != nil {
		return c, err
	}
	if want := typeOf(role); kind != want {
		return c, malformed("expected type %s, not %s", want, kind)
	}
	if c.version, err = integer(p, "version"); err != nil {
		return c, err
	}
	if c.version < 1 {
		return c, malformed("version cannot be less than 1")
	}
	if c.version > maxInteger { // a file that is being made: no reader would take it
		return c, malformed("version %d is beyond 2^53", c.version)
	}
	expires, err := text(p, "expires")
	if err != nil {
		return c, err
	}
	if c.expires, err = time.Parse(time.RFC3339Nano, expires); err != nil {
		return c, malformed("%q is not a time", expires)
	}
	switch role {
	case RoleRoot:
		err = c.decodeRoot(p)
	case RoleSnapshot:
		err = c.decodeMetas(p, RoleRoot, RoleTargets)
	case RoleTimestamp:
		err = c.decodeMetas(p, RoleSnapshot)
	default:
		err = c.decodeTargets(role, p)
	}
	return c, err
}

func (c *content) decodeRoot(p node) error {
	keys, err := decodeKeys(p)
	if err != nil {
		return err
	}
	roles, err := member(p, "roles", kindObject)
	if err != nil {
		return err
	}
	c.roles = make(map[RoleName]Role, 4)
	for _, name := range [...]RoleName{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp} {
		n, ok := roles.get(string(name))
		if !ok {
			return malformed("missing %s role specification", name)
		}
		r, err := decodeRole(name, n, keys)
		if err != nil {
			return err
		}
		// K4. Of delegations this is tolerated: see Unusable.
		if have := distinct(r.Keys); have < r.Threshold {
			return malformed("%s needs %d keys and lists %d", name, r.Threshold, have)
		}
		c.roles[name] = r
	}
	return nil
}

// distinct counts keys by material (attacks.md K2).
func distinct(keys []Key) int {
	seen := make(map[CanonicalID]bool, len(keys))
	for _, k := range keys {
		seen[k.material()] = true
	}
	return len(seen)
}

func decodeKeys(p node) (map[KeyID]PublicKey, error) {
	n, err := member(p, "keys", kindObject)
	if err != nil {
		return nil, err
	}
	keys := make(map[KeyID]PublicKey, len(n.names))
	for i, id := range n.names {
		if keys[KeyID(id)], err = keyFromTree(n.items[i]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func keyFromTree(n node) (k PublicKey, err error) {
	t, err := text(n, "keytype")
	if err != nil {
		return k, err
	}
	val, err := member(n, "keyval", kindObject)
	if err != nil {
		return k, err
	}
	if private, ok := val.get("private"); ok && private.kind != kindNull {
		return k, malformed("a private key among public ones")
	}
	public, err := text(val, "public")
	if err != nil {
		return k, err
	}
	b, err := base64.StdEncoding.DecodeString(public)
	// The id is that of the text, and the text of a key is the one that Go
	// writes: readers that hash what stands there would know another key
	// (attacks.md K9).
	if err != nil || base64.StdEncoding.EncodeToString(b) != public {
		return k, malformed("a key is not base64")
	}
	return PublicKey{KeyType(t), b}, nil
}

func keyToTree(k PublicKey) node {
	val := objectNode().with("private", node{}).with("public", stringNode(base64.StdEncoding.EncodeToString(k.Bytes)))
	return objectNode().with("keytype", stringNode(string(k.Type))).with("keyval", val)
}

func decodeRole(name RoleName, n node, keys map[KeyID]PublicKey) (r Role, err error) {
	r.Name = name
	threshold, err := integer(n, "threshold")
	if err != nil {
		return r, err
	}
	// K3. The upper bound only keeps arithmetic sane.
	if threshold < 1 || threshold > 1<<20 {
		return r, malformed("invalid threshold specified for %s: %d", name, threshold)
	}
	r.Threshold = int(threshold)
	ids, err := texts(n, "keyids")
	if err != nil {
		return r, err
	}
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		if seen[id] {
			continue // a key counts once; and work on keys is bounded by their number
		}
		seen[id] = true
		k, ok := keys[KeyID(id)]
		if !ok {
			return r, malformed("key ID %s specified in %s without corresponding key", id, name)
		}
		r.Keys = append(r.Keys, Key{KeyID(id), k})
	}
	r.Paths, err = texts(n, "paths")
	return r, err
}

func (c *content) decodeTargets(role RoleName, p node) (err error) {
	if c.targets, err = member(p, "targets", kindObject); err != nil {
		return err
	}
	for i, n := range c.targets.items {
		if c.targets.names[i] == "" {
			return malformed("a target without a name")
		}
		if _, err := decodeMeta(n, nil); err != nil {
			return err
		}
	}
	d, ok := p.get("delegations")
	if !ok || d.kind == kindNull {
		return nil
	}
	keys, err := decodeKeys(d)
	if err != nil {
		return err
	}
	roles, err := list(d, "roles", true)
	if err != nil {
		return err
	}
	seen := make(map[RoleName]bool, len(roles))
	for _, n := range roles {
		name, err := text(n, "name")
		if err != nil {
			return err
		}
		child := RoleName(name)
		if child.Parent() != role { // D11
			return malformed("delegation role %s invalid", name)
		}
		if seen[child] {
			return malformed("delegation role %s listed twice", name)
		}
		seen[child] = true
		r, err := decodeRole(child, n, keys)
		if err != nil {
			return err
		}
		c.delegations = append(c.delegations, Delegation{From: role, Role: r})
	}
	return nil
}

func (c *content) decodeMetas(p node, required ...RoleName) error {
	n, err := member(p, "meta", kindObject)
	if err != nil {
		return err
	}
	c.meta = make(map[RoleName]FileMeta, len(n.names))
	for i, name := range n.names {
		m, err := Notary{}.decodeMeta(n.items[i])
		if err != nil {
			return err
		}
		if len(m.SHA256()) == 0 {
			return malformed("no sha256 checksum for %s", name)
		}
		c.meta[RoleName(name)] = m
	}
	for _, name := range required {
		if _, ok := c.meta[name]; !ok {
			return malformed("%s is not listed", name)
		}
	}
	return nil
}

// hashBytes are the lengths of the digests that are understood.
var hashBytes = map[string]int{"sha256": 32, "sha512": 64}

func (Notary) decodeMeta(n node) (FileMeta, error) {
	return decodeMeta(n, make(map[string][]byte))
}

// decodeMeta puts the hashes into into; nil only checks them, which for very
// many targets is much cheaper.
func decodeMeta(n node, into map[string][]byte) (m FileMeta, err error) {
	if m.Length, err = integer(n, "length"); err != nil {
		return m, err
	}
	if m.Length < 0 {
		return m, malformed("a negative length")
	}
	hashes, err := member(n, "hashes", kindObject)
	if err != nil {
		return m, err
	}
	if len(hashes.names) == 0 || len(hashes.names) > 16 {
		return m, malformed("%d hashes for one file", len(hashes.names))
	}
	m.Hashes = into
	var in, out [128]byte // room for the digests there are
	for i, name := range hashes.names {
		v := hashes.items[i]
		b, err := base64.StdEncoding.AppendDecode(out[:0], append(in[:0], v.text...))
		if v.kind != kindString || err != nil {
			return m, malformed("a %s checksum is not base64", name)
		}
		if want, ok := hashBytes[name]; ok && len(b) != want {
			return m, malformed("a %s checksum of %d bytes", name, len(b))
		}
		if into != nil {
			into[name] = bytes.Clone(b)
		}
	}
	if into == nil {
		return m, nil
	}
	if custom, ok := n.get("custom"); ok && custom.kind != kindNull {
		m.Custom = json.RawMessage(appendCanonical(nil, custom))
	}
	return m, nil
}

func metaToTree(m FileMeta) node {
	hashes := objectNode()
	for name, sum := range m.Hashes {
		hashes = hashes.with(name, stringNode(base64.StdEncoding.EncodeToString(sum)))
	}
	n := objectNode().with("hashes", hashes).with("length", intNode(m.Length))
	if len(m.Custom) > 0 {
		if custom, err := parseJSON(m.Custom, maxDepth); err == nil { // checked by AddTarget
			n = n.with("custom", custom)
		}
	}
	return n
}

func intNode(v int64) node { return node{kind: kindNumber, text: strconv.FormatInt(v, 10)} }

func (Notary) blank(role RoleName) node {
	n := objectNode().with("_type", stringNode(typeOf(role)))
	switch {
	case role == RoleRoot:
		n = n.with("consistent_snapshot", node{kind: kindBool, text: "false"}).
			with("keys", objectNode()).with("roles", objectNode())
	case role == RoleSnapshot || role == RoleTimestamp:
		n = n.with("meta", objectNode())
	default:
		n = n.with("targets", objectNode()).
			with("delegations", objectNode().with("keys", objectNode()).with("roles", arrayNode(nil)))
	}
	return n
}

func (Notary) stamp(p node, version int64, expires time.Time) node {
	return p.with("version", intNode(version)).
		with("expires", stringNode(expires.UTC().Format(time.RFC3339Nano)))
}

func roleToTree(old node, r Role) node {
	ids := make([]node, len(r.Keys))
	for i, k := range r.Keys {
		ids[i] = stringNode(string(k.ID))
	}
	n := old.with("threshold", intNode(int64(r.Threshold)))
	if was, ok := old.get("keyids"); ok && was.kind == kindNull && len(ids) == 0 {
		return n // null stays null
	}
	return n.with("keyids", arrayNode(ids))
}

// putRole replaces a top-level role of a root. Keys that no role lists any
// more go, except those of the old root role: the certificates of earlier
// roots stay (notary-protocol 2.2).
func (Notary) putRole(p node, r Role) node {
	keys, _ := p.get("keys")
	roles, _ := p.get("roles")
	old, _ := roles.get(string(r.Name))
	if old.kind != kindObject {
		old = objectNode()
	}
	roles = roles.with(string(r.Name), roleToTree(old, r))
	for _, k := range r.Keys {
		keys = keys.with(string(k.ID), keyToTree(k.PublicKey))
	}
	if r.Name != RoleRoot {
		keys = dropUnlisted(keys, old, roles.items)
	}
	return p.with("keys", keys).with("roles", roles)
}

// dropUnlisted removes the keys that old listed and none of roles does.
func dropUnlisted(keys, old node, roles []node) node {
	gone, _ := texts(old, "keyids")
	for _, id := range gone {
		listed := slices.ContainsFunc(roles, func(r node) bool {
			ids, _ := texts(r, "keyids")
			return slices.Contains(ids, id)
		})
		if !listed {
			keys = keys.without(id)
		}
	}
	return keys
}

// delegationTree returns the parts of a delegations object, and where role
// stands in it, -1 if nowhere.
func delegationTree(p node, name RoleName) (d, keys node, roles []node, at int) {
	d, _ = p.get("delegations")
	if d.kind != kindObject {
		d = objectNode()
	}
	keys, _ = d.get("keys")
	if keys.kind != kindObject {
		keys = objectNode()
	}
	roles, _ = list(d, "roles", true)
	at = slices.IndexFunc(roles, func(n node) bool {
		s, _ := text(n, "name")
		return s == string(name)
	})
	return d, keys, slices.Clone(roles), at
}

func (Notary) putDelegation(p node, r Role) node {
	d, keys, roles, at := delegationTree(p, r.Name)
	old := objectNode()
	if at >= 0 {
		old = roles[at]
	} else {
		at = len(roles)
		roles = append(roles, node{})
	}
	n := roleToTree(old, r).with("name", stringNode(string(r.Name))).without("paths")
	if len(r.Paths) > 0 {
		paths := make([]node, len(r.Paths))
		for i, s := range r.Paths {
			paths[i] = stringNode(s)
		}
		n = n.with("paths", arrayNode(paths))
	}
	roles[at] = n
	for _, k := range r.Keys {
		keys = keys.with(string(k.ID), keyToTree(k.PublicKey))
	}
	keys = dropUnlisted(keys, old, roles)
	return p.with("delegations", d.with("keys", keys).with("roles", arrayNode(roles)))
}

func (Notary) dropDelegation(p node, name RoleName) node {
	d, keys, roles, at := delegationTree(p, name)
	if at < 0 {
		return p
	}
	old := roles[at]
	roles = slices.Delete(roles, at, at+1)
	keys = dropUnlisted(keys, old, roles)
	return p.with("delegations", d.with("keys", keys).with("roles", arrayNode(roles)))
}

// editTargets merges edits, sorted by name and each name once, into the
// targets: work on a whole file once, however many its edits.
func (Notary) editTargets(p node, edits []targetEdit) node {
	old, _ := p.get("targets")
	merged := node{
		kind:  kindObject,
		names: make([]string, 0, len(old.names)+len(edits)),
		items: make([]node, 0, len(old.names)+len(edits)),
	}
	put := func(name string, n node) {
		merged.names, merged.items = append(merged.names, name), append(merged.items, n)
	}
	for i := 0; i < len(old.names) || len(edits) > 0; {
		switch {
		case len(edits) == 0 || i < len(old.names) && old.names[i] < edits[0].name:
			put(old.names[i], old.items[i])
			i++
			continue
		case i < len(old.names) && old.names[i] == edits[0].name:
			i++
		}
		if edits[0].meta != nil {
			put(edits[0].name, metaToTree(*edits[0].meta))
		}
		edits = edits[1:]
	}
	return p.with("targets", merged)
}

func (Notary) putMeta(p node, role RoleName, m FileMeta) node {
	meta, _ := p.get("meta")
	return p.with("meta", meta.with(string(role), metaToTree(m)))
}

func (Notary) dropMeta(p node, role RoleName) node {
	meta, _ := p.get("meta")
	return p.with("meta", meta.without(string(role)))
}

// rootKeys applies notary-protocol 1.7: only certificate keys count, of which
// exactly one certificate, the first, is not a CA, and whose name is the GUN.
func (Notary) rootKeys(role Role, gun GUN, at *time.Time) (keys []Key, untimely *x509.Certificate) {
	for _, k := range role.Keys {
		certs, err := k.Certificates()
		if err != nil {
			continue
		}
		leaf := certs[0]
		if leaf.IsCA || slices.ContainsFunc(certs[1:], func(c *x509.Certificate) bool { return !c.IsCA }) {
			continue
		}
		if !speaksFor(leaf.Subject.CommonName, gun) || weakCertificate(leaf) {
			continue
		}
		if at != nil && (at.Add(24*time.Hour).Before(leaf.NotBefore) || at.After(leaf.NotAfter)) {
			untimely = leaf
			continue
		}
		keys = append(keys, k)
	}
	return keys, untimely
}

// speaksFor reports whether a root certificate for cn may speak for gun: it
// is the same name, or a folder followed by "*". Names ending in "*" within a
// folder's name match too much and are refused (attacks.md R14).
func speaksFor(cn string, gun GUN) bool {
	if cn == string(gun) {
		return true
	}
	prefix := strings.TrimRight(cn, "*")
	return len(prefix) > 1 && prefix != cn && strings.HasSuffix(prefix, "/") && strings.HasPrefix(string(gun), prefix)
}

// weakCertificate is the general check of notary-protocol 1.7 without expiry.
func weakCertificate(c *x509.Certificate) bool {
	if c.NotBefore.After(c.NotAfter) {
		return true
	}
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		return true
	}
	switch p := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return p.N.BitLen() < 2048
	case *ecdsa.PublicKey:
		return false
	}
	return true
}

// Paths of the Notary dialect are plain string prefixes; "*" is a character
// like any other (attacks.md W2).

func (Notary) everywhere() []string { return []string{""} }

func (Notary) within(paths []string) func(name string) bool {
	if len(paths) < 16 {
		return func(name string) bool {
			return slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(name, p) })
		}
	}
	// Hostile files list very many. Of those of which none begins with
	// another, only the last one that is not behind a name can begin it.
	var least []string
	for _, p := range slices.Sorted(slices.Values(paths)) {
		if n := len(least); n == 0 || !strings.HasPrefix(p, least[n-1]) {
			least = append(least, p)
		}
	}
	return func(name string) bool {
		i, found := slices.BinarySearch(least, name)
		return found || i > 0 && strings.HasPrefix(name, least[i-1])
	}
}

// narrow returns those of a delegation's paths that admits lets through.
func narrow(admits func(string) bool, paths []string) []string {
	var out []string
	for _, p := range paths {
		if admits(p) {
			out = append(out, p)
		}
	}
	return out
}
