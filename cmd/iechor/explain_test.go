package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

var update = flag.Bool("update", false, "rewrite golden files")

const (
	someRepository = "registry.example.com/team/app"
	someServer     = "trust.example.com"
)

// A spoken error is one that a command can end with. Its name begins with the
// sentinel that it is about.
type spoken struct {
	name string
	err  error
}

func role(name tuf.RoleName, err error) error {
	return &tuf.RoleError{GUN: someRepository, Role: name, Version: 3, Err: err}
}

func refusal(status int, code api.Code) error {
	return &trust.ServerRefusal{Host: someServer, Err: &api.Error{Status: status, Code: code, Message: "as the server says"}}
}

func stored(err error) error {
	return &keys.StoreError{Store: "/home/alice/.iechor/trust/private", Key: someKey("targets"), Err: err}
}

var someToken = keys.TokenInfo{Label: "ci", Serial: "4f2a9c01"}

func onToken(err error) error {
	return &keys.StoreError{Store: "token ci", Key: someKey("root"), Err: err}
}

func someKey(role string) keys.Info {
	i := keys.Info{ID: tuf.CanonicalID("57954f0" + strings.Repeat("0", 57)), Role: role}
	if role == "targets" {
		i.GUN = someRepository
	}
	return i
}

// spokenErrors has every sentinel at least once, as the packages wrap it.
func spokenErrors() []spoken {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	digest := registry.DigestOf([]byte("image"))
	signed := tuf.CanonicalID(strings.Repeat("ab", 32))
	ref, err := registry.ParseRef(someRepository + ":1.2")
	if err != nil {
		panic(err)
	}
	return []spoken{
		{"tuf.ErrMalformed", role("targets", &tuf.Malformed{Reason: "version is missing"})},
		{"tuf.ErrMalformed (of a change)", &tuf.Malformed{Reason: "a name with a control character"}},
		{"tuf.ErrUnsigned", role("timestamp", &tuf.Shortage{Have: 0, Need: 1})},
		{"tuf.ErrExpired", role("targets", &tuf.Expired{At: at})},
		{"tuf.ErrExpired (timestamp)", role("timestamp", &tuf.Expired{At: at})},
		{"tuf.ErrRollback", role("targets", &tuf.Rollback{Offered: 1, Seen: 2})},
		{"tuf.ErrRollback (hidden)", role("targets/releases", &tuf.Rollback{Seen: 2})},
		{"tuf.ErrMismatch", role("targets", &tuf.Mismatch{Algorithm: "sha256", Want: digest[:]})},
		{"tuf.ErrMismatch (length)", role("targets", &tuf.Mismatch{Algorithm: "length"})},
		{"tuf.ErrRoot (previous)", role("root", &tuf.RootRefusal{Reason: tuf.NotSignedByPrevious})},
		{"tuf.ErrRoot (self)", role("root", &tuf.RootRefusal{Reason: tuf.NotSignedBySelf})},
		{"tuf.ErrRoot (leaf)", role("root", &tuf.RootRefusal{Reason: tuf.NoLeaf, Expired: someRepository})},
		{"tuf.ErrRoot (version)", role("root", &tuf.RootRefusal{Reason: tuf.VersionSkip, Old: 2, Offered: 5})},
		{"tuf.ErrPin", role("root", &tuf.RootRefusal{Reason: tuf.NoPinMatch})},
		{"tuf.ErrPin (first use)", role("root", &tuf.RootRefusal{Reason: tuf.FirstUseRefused})},
		{"tuf.ErrPin (no at first use)", role("root", &firstUseError{gun: someRepository, ids: []string{string(signed)}, config: "/home/alice/.iechor/config.json"})},
		{"tuf.ErrPin (nobody to ask at first use)", role("root", &firstUseError{gun: someRepository, ids: []string{string(signed)}, config: "/home/alice/.iechor/config.json", nobody: true})},
		{"tuf.ErrPin (denied)", role("root", &tuf.RootRefusal{Reason: tuf.Denied})},
		{"tuf.ErrIncomplete", role("snapshot", tuf.ErrIncomplete)},
		{"tuf.ErrStale", role(tuf.RoleReleases, tuf.ErrStale)},
		{"tuf.ErrLimit", role("targets", &tuf.TooLarge{Limit: 16 << 20})},
		{"tuf.ErrNoTarget", &tagError{ref: ref, server: someServer, signed: []string{"1", "1.1"}, err: &trust.NoTrustData{GUN: someRepository, Tag: "1.2"}}},
		{"tuf.ErrNoTarget (elsewhere)", &tagError{ref: ref, server: someServer, err: &trust.NoTrustData{GUN: someRepository, Tag: "1.2", InOther: true}}},
		{"tuf.ErrNoDelegation", fmt.Errorf("targets/alice: %w", tuf.ErrNoDelegation)},
		{"tuf.ErrRole", fmt.Errorf("timestamp: %w", tuf.ErrRole)},
		{"tuf.ErrNoKey", &tuf.MissingKeys{Role: "targets", Need: 1, Keys: []tuf.CanonicalID{signed}}},
		{"tuf.ErrNoKey (several)", &tuf.MissingKeys{Role: "targets", Have: 1, Need: 2, Keys: []tuf.CanonicalID{signed}}},
		{"tuf.ErrNoKey (bare)", fmt.Errorf("%s: %w", signed, tuf.ErrNoKey)},
		{"tuf.ErrKey", stored(tuf.ErrKey)},

		{"keys.ErrPassphrase", stored(keys.ErrPassphrase)},
		{"keys.ErrPassphrase (variable)", stored(&passphraseError{keyWords(someKey("targets")), repositoryPassphraseVariable, keys.ErrPassphrase})},
		{"keys.ErrCancelled", stored(keys.ErrCancelled)},
		{"keys.ErrNoPassphrase", stored(&passphraseError{keyWords(someKey("root")), rootPassphraseVariable, keys.ErrNoPassphrase})},
		{"keys.ErrBroken", stored(fmt.Errorf("%w: the PEM block is empty", keys.ErrBroken))},
		{"keys.ErrShared", stored(&keys.SharedFile{Path: "/home/alice/.iechor/trust/private/57954f0.key"})},
		{"keys.ErrExists", stored(&keys.ExistsError{ID: signed, Role: "root"})},
		{"keys.ErrClosed", stored(keys.ErrClosed)},

		{"trust.ErrName", fmt.Errorf("%w: %q", trust.ErrName, "a//b")},
		{"trust.ErrAddress", checkServer("http://trust.example.com", serverVariable)},
		{"trust.ErrPinning", fmt.Errorf("%w: root-keys: no ids", trust.ErrPinning)},
		{"trust.ErrNotSigned", &trust.NotSigned{Host: someServer, GUN: someRepository}},
		{"trust.ErrGone", &trust.Gone{Host: someServer, GUN: someRepository}},
		{"trust.ErrUnreachable", &trust.Unreachable{Host: someServer, Err: errors.New("dial tcp 192.0.2.1:443: connect: connection refused")}},
		{"trust.ErrUnreachable (503)", refusal(503, "")},
		{"trust.ErrUnreachable (500, with the id of the request)", &trust.ServerRefusal{Host: someServer, Err: &api.Error{
			Status: 500, Code: api.Unknown, Detail: json.RawMessage(`{"Request":"8b1f0c2d4e6a7788"}`)}}},
		{"trust.ErrUnreachable (503, with a reason)", &trust.ServerRefusal{Host: someServer, Err: &api.Error{
			Status: 503, Code: api.Unavailable, Message: "A clock of this service is wrong.\x1b", Detail: json.RawMessage(`{"Request":"8b1f0c2d4e6a7788"}`)}}},
		{"trust.ErrUnreachable (expired copy)", fmt.Errorf("%w, and: %w", role("timestamp", &tuf.Expired{At: at}), refusal(503, ""))},
		{"trust.ErrUnauthorized", refusal(401, api.Unauthorized)},
		{"trust.ErrUnauthorized (no login)", fmt.Errorf("no basic auth credentials (%w)", trust.ErrUnauthorized)},
		{"trust.ErrRealm", &trust.RealmError{Host: someServer, Realm: "https://login.example.net/token"}},
		{"trust.ErrRedirect", &trust.RedirectError{Host: someServer, Location: "https://elsewhere.example.com/"}},
		{"trust.ErrTLS", &trust.TLSError{Host: someServer, Dir: "/home/alice/.iechor/tls/" + someServer, Err: fmt.Errorf("tls: failed to verify certificate: %w", x509.UnknownAuthorityError{})}},
		{"trust.ErrNotTrustServer", fmt.Errorf("%w: %s answered with status 404", trust.ErrNotTrustServer, someServer)},
		{"trust.ErrConflict", fmt.Errorf("after 5 attempts: %w", trust.ErrConflict)},
		{"trust.ErrNeedsOperator", &trust.ServerRefusal{Host: someServer, Err: api.NewError(api.NeedsOperator,
			&api.Invalid{Fault: api.BadValidation, Msg: someRepository + " was published here before, and is gone: it cannot begin anew until …"})}},
		{"trust.ErrUncertain", fmt.Errorf("%w: %w", trust.ErrUncertain, refusal(502, ""))},
		{"trust.ErrNotInitialized", fmt.Errorf("%w: %s", trust.ErrNotInitialized, someRepository)},
		{"trust.ErrInitialized", fmt.Errorf("%w: %s", trust.ErrInitialized, someRepository)},
		{"trust.ErrNoDelegationKey", trust.ErrNoDelegationKey},
		{"trust.ErrNotRotatable", &trust.NotRotatable{Role: "timestamp"}},
		{"trust.ErrNotRotatable (server)", &trust.NotRotatable{Role: "targets", Server: true}},
		{"trust.ErrNotRotatable (delegation)", &trust.NotRotatable{Role: "targets/alice"}},
		{"trust.ErrStaged", &trust.NotUnderstood{GUN: someRepository, Names: []string{"1.change"}}},
		{"trust.ErrDamaged", &trust.Damaged{GUN: someRepository, File: "/home/alice/.iechor/trust/tuf/x/metadata/root.json", Err: &tuf.Malformed{Reason: "the text ends too early"}}},
		{"trust.ErrDamaged (unreadable)", &trust.Damaged{GUN: someRepository, File: "/home/alice/.iechor/trust/tuf/x/metadata/root.json", Err: fs.ErrPermission}},
		{"trust.ErrBusy", fmt.Errorf("%w: /home/alice/.iechor/trust", trust.ErrBusy)},
		{"trust.ErrClock", &trust.ClockError{Now: at.AddDate(-1, 0, 0), Seen: at, File: "/home/alice/.iechor/trust/state/x.json"}},
		{"trust.ErrProposal", fmt.Errorf("%w: %w", trust.ErrProposal, role(tuf.RoleReleases, &tuf.Malformed{Reason: "version 9 does not follow version 3"}))},
		{"trust.ErrOtherRepository", fmt.Errorf("%w: registry.example.com/other", trust.ErrOtherRepository)},
		{"trust.ErrNotice", fmt.Errorf("%w: it names another one", trust.ErrNotice)},
		{"trust.DecisionsError", &trust.DecisionsError{File: "/home/alice/.iechor/trust/state/00.roots.json", Err: errors.New("unexpected end of JSON input")}},
		{"trust.ErrFrozen", &trust.Frozen{Host: someServer, GUN: someRepository, Since: at, Max: 24 * time.Hour}},
		{"trust.OtherServer", errors.Join(role("root", &tuf.RootRefusal{Reason: tuf.VersionSkip, Old: 2, Offered: 5}), &trust.OtherServer{GUN: someRepository, Was: "old.example.com", Now: someServer})},

		{"registry.ErrReference", fmt.Errorf("%w: %q", registry.ErrReference, "UPPER CASE")},
		{"registry.ErrNotFound", &imageError{ref, "", false, fmt.Errorf("%s: %w", ref, registry.ErrNotFound)}},
		{"registry.ErrUnauthorized", &imageError{ref, "", false, fmt.Errorf("%s: %w (status 403)", ref, registry.ErrUnauthorized)}},
		{"registry.ErrUnauthorized (login)", &loginError{"registry.example.com", registry.ErrUnauthorized}},
		{"registry.ErrDigest", &imageError{ref, "engine", false, &registry.DigestError{What: "layer", Digest: digest}}},
		{"registry.ErrDigest (config)", &imageError{ref, "engine", false, &registry.DigestError{What: "config", Digest: digest}}},
		{"registry.ErrDigest (manifest)", &imageError{ref, "engine", false, &registry.DigestError{What: "manifest", Digest: digest}}},
		{"registry.ErrDigest (of a layout)", &imageError{ref, "oci:layout", true, &registry.DigestError{What: "layer", Digest: digest}}},
		{"registry.ErrUnsupported (of a layout)", &imageError{ref, "oci:layout", true, fmt.Errorf("%w: a manifest of schema 1", registry.ErrUnsupported)}},
		{"registry.ErrUnreachable", &imageError{ref, "", false, &registry.UnreachableError{Host: "registry.example.com", Err: errors.New("connection refused")}}},
		{"registry.ErrUnreachable (certificate)", &imageError{ref, "", false, &registry.UnreachableError{Host: "registry.example.com", TLSDir: "/home/alice/.iechor/tls/registry.example.com", Err: x509.UnknownAuthorityError{}}}},
		{"registry.ErrRefused", &imageError{ref, "", false, &registry.RefusedError{Host: "registry.example.com", To: "elsewhere.example.com", Reason: "another host than the registry's"}}},
		{"registry.ErrRefused (http)", &imageError{ref, "", false, &registry.RefusedError{Host: "registry.example.com", To: "registry.example.com", Reason: "plain http is only for a registry on this machine"}}},
		{"registry.ErrUnsupported", &imageError{ref, "", false, fmt.Errorf("%w: a manifest of schema 1", registry.ErrUnsupported)}},
		{"registry.ErrNoEngine", &imageError{ref, "engine", false, &registry.NoEngineError{Tried: []string{"unix:///var/run/docker.sock"}, Err: fs.ErrNotExist}}},
		{"registry.ErrEngine", &imageError{ref, "engine", false, &registry.EngineError{Message: "no space left on device"}}},
		{"registry.ErrNoImage", &imageError{ref, "engine", false, registry.ErrNoImage}},
		{"registry.ErrNoImage (layout)", &imageError{ref, "oci:layout", false, registry.ErrNoImage}},
		{"registry.ErrAmbiguous", &imageError{ref, "oci:layout", false, &registry.AmbiguousError{Place: "oci:layout", Choices: []string{":1", ":2"}}}},
		{"registry.ErrPlatform", &imageError{ref, "docker-archive:x.tar", false, &registry.PlatformError{Choices: []string{"linux/amd64", "linux/arm64"}}}},
		{"registry.ErrCredentials", &imageError{ref, "", false, fmt.Errorf("%w: credential helper x: exit status 1", registry.ErrCredentials)}},

		{"terminal.ErrInterrupted", terminal.ErrInterrupted},
		{"terminal.ErrTooLong", stored(terminal.ErrTooLong)},
		{"terminal.ErrNoTerminal", &loginError{"registry.example.com", terminal.ErrNoTerminal}},

		{"context.Canceled", context.Canceled},
		{"context.DeadlineExceeded", context.DeadlineExceeded},
		{"fs.ErrNotExist", &fs.PathError{Op: "open", Path: "/nowhere", Err: fs.ErrNotExist}},
		{"fs.ErrPermission", &fs.PathError{Op: "open", Path: "/home/alice/.iechor/config.json", Err: fs.ErrPermission}},
		{"syscall.ENOSPC", stored(&fs.PathError{Op: "write", Path: "/home/alice/.iechor/trust/private/.new-1", Err: syscall.ENOSPC})},
		{"syscall.EIO", stored(&fs.PathError{Op: "sync", Path: "/home/alice/.iechor/trust/private/.new-1", Err: syscall.EIO})},
		{"errNoTrustedTags", errNoTrustedTags},
		{"errPushDigest", errPushDigest},
		{"errDigestNotSigned", &inspectError{someRepository + "@sha256:00", errDigestNotSigned}},
		{"inspectError (not signed)", &inspectError{someRepository, &trust.NotSigned{Host: someServer, GUN: someRepository}}},
		{"inspectError (refused)", &inspectError{someRepository, role("targets", &tuf.Rollback{Offered: 1, Seen: 2})}},
		{"taskError (not signed)", &taskError{"error retrieving signers for " + someRepository + ": ", &trust.NotSigned{Host: someServer, GUN: someRepository}}},
		{"taskError (no key)", &taskError{"", &tuf.MissingKeys{Role: "targets", Need: 1, Keys: []tuf.CanonicalID{signed}}}},
		{"taskError (server down)", &taskError{"", &trust.Unreachable{Host: someServer, Err: errors.New("connection refused")}}},
		{"taskError (cannot be verified)", &taskError{"", &taskError{"it was published, and cannot be verified: ", refusal(503, "")}}},
		{"taskError (interrupted)", &taskError{"could not remove signature for " + someRepository + ":1: ", context.Canceled}},
		{"errDigestReference", errDigestReference},
		{"publicKeyError", &publicKeyError{path: "junk.pem", err: errors.New("no valid public key found")}},
		{"publicKeyError (unread)", &publicKeyError{path: "nosuch.pub", unread: true, err: &fs.PathError{Op: "open", Path: "nosuch.pub", Err: fs.ErrNotExist}}},
		{"keepsTag", &taskError{"could not remove signature for " + someRepository + ":1: ", &keepsTag{role: "targets", tags: []string{"1"}, missing: &tuf.MissingKeys{Role: "targets", Need: 1, Keys: []tuf.CanonicalID{signed}}}}},
		{"keepsTag (several)", &taskError{"could not remove signature for " + someRepository + ": ", &keepsTag{role: "targets/releases", tags: []string{"1", "2"}, missing: &tuf.MissingKeys{Role: "targets/releases", Need: 2, Keys: []tuf.CanonicalID{signed}}}}},
		{"errNothingSigned", &taskError{"could not remove signature for " + someRepository + ": ", errNothingSigned}},
		{"errUnseen", errUnseen},
		{"errMoved", fmt.Errorf("%s: %w", ref, errMoved)},
		{"errLoss", errLoss},
		{"errNotDeleted", errNotDeleted},
		{"tuf.ErrNoKey (none that could)", &tuf.MissingKeys{Role: tuf.RoleReleases, Need: 1}},
		{"errNoRootChosen", errNoRootChosen},
		{"errTooManyAnswers", &passphraseError{keyWords(someKey("root")), "", errTooManyAnswers}},
		{"configError", &configError{path: "/home/alice/.iechor/config.json", line: 3, column: 5, reason: "unknown key"}},
		{"passphraseFileError", stored(&passphraseFileError{repositoryPassphraseVariable + fileSuffix, "/run/secrets/repository", fs.ErrNotExist})},
		{"passphraseFileError (shared)", stored(&passphraseFileError{repositoryPassphraseVariable + fileSuffix, "/run/secrets/repository", keys.ErrSharedSecret})},
		{"errNoTokenChosen", errNoTokenChosen},
		{"pinSourceError", onToken(&pinSourceError{"/run/secrets/pin", keys.ErrSharedSecret})},
		{"rootTokenError", &rootTokenError{fmt.Errorf("%w: token ci at /usr/lib/softhsm/libsofthsm2.so", keys.ErrTokenAbsent)}},
		{"awayError", &awayError{&tuf.MissingKeys{Role: tuf.RoleTargets, Need: 1, Keys: []tuf.CanonicalID{signed}}, []error{fmt.Errorf("%w: token ci at /usr/lib/softhsm/libsofthsm2.so", keys.ErrTokenAbsent)}}},
		{"keys.ErrSharedSecret", keys.ErrSharedSecret},
		{"keys.ErrNoSupport", fmt.Errorf("%w: PKCS#11 needs a build with cgo", keys.ErrNoSupport)},
		{"keys.ErrDriver", fmt.Errorf("%w: %w", keys.ErrDriver, &fs.PathError{Op: "stat", Path: "/usr/lib/softhsm/libsofthsm2.so", Err: fs.ErrNotExist})},
		{"errNoToken", errNoToken},
		{"piv.ErrBuild", piv.ErrBuild},
		{"piv.ErrService", piv.ErrService},
		{"piv.ErrFactory", onToken(fmt.Errorf("%w: the PIN of %s", piv.ErrFactory, someToken))},
		{"piv.ErrWellKnown", piv.CheckNew("the PIN", piv.FactoryPIN)},
		{"piv.ErrLength", piv.CheckNew("the PUK", "1234")},
		{"piv.ErrNotTouched", onToken(piv.ErrNotTouched)},
		{"piv.ErrManagementKey", onToken(fmt.Errorf("%w: %s", piv.ErrManagementKey, someToken))},
		{"piv.ErrPUK", &piv.PUKError{Token: someToken, Left: 2}},
		{"piv.ErrSlot", onToken(fmt.Errorf("%w: slot 9c of %s", piv.ErrSlot, someToken))},
		{"piv.ErrPolicy", onToken(fmt.Errorf("%w: firmware 3.4.1 cannot be touched", piv.ErrPolicy))},
		{"piv.ErrAttestation", fmt.Errorf("%w: no authority that was given vouches for the token", piv.ErrAttestation)},
		{"keys.ErrTokenAbsent", onToken(fmt.Errorf("%w: token ci at /usr/lib/softhsm/libsofthsm2.so", keys.ErrTokenAbsent))},
		{"keys.ErrTokenGone", onToken(fmt.Errorf("%w: %s", keys.ErrTokenGone, someToken))},
		{"keys.ErrTokenBusy", onToken(fmt.Errorf("%w: CKR_SESSION_COUNT", keys.ErrTokenBusy))},
		{"keys.ErrTokenFull", onToken(fmt.Errorf("%w: CKR_DEVICE_MEMORY", keys.ErrTokenFull))},
		{"keys.ErrTokenBlank", fmt.Errorf("%w: %s", keys.ErrTokenBlank, someToken)},
		{"keys.ErrSeveralTokens", keys.ErrSeveralTokens},
		{"keys.ErrTokenRefuses", onToken(fmt.Errorf("%w: CKR_MECHANISM_INVALID", keys.ErrTokenRefuses))},
		{"keys.ErrPIN", onToken(&keys.PINError{Token: someToken, Left: 2})},
		{"keys.ErrPIN (last)", onToken(&keys.PINError{Token: someToken, Left: 1})},
		{"keys.ErrPIN (few)", onToken(&keys.PINError{Token: someToken, Left: keys.TriesFew})},
		{"keys.ErrPIN (unknown)", onToken(&keys.PINError{Token: someToken})},
		{"keys.ErrPINLocked", onToken(&keys.PINError{Token: someToken, Locked: true})},
		{"keys.ErrLastTry", onToken(fmt.Errorf("%w: %s", keys.ErrLastTry, someToken))},
		{"keys.ErrNoPIN", onToken(keys.ErrNoPIN)},
		{"keyFileError (shared)", doing("refusing to load key from x.pem", &keys.SharedFile{Path: "x.pem"})},
		{"keyFileError (broken)", doing("error importing key from x.pem", fmt.Errorf("%w: it ends too early", keys.ErrBroken))},
		{"keyFileError (exists)", doing("error importing key from x.pem", &keys.ExistsError{ID: signed, Role: "alice"})},
		{"keyFileError (not there)", doing("refusing to load key from x.pem", &fs.PathError{Op: "stat", Path: "x.pem", Err: fs.ErrNotExist})},
		{"keyFileError (passphrase)", doing("error importing key from x.pem", &passphraseError{keyWords(someKey("")), "", keys.ErrPassphrase})},
		{"backup.ErrForeign", &backupError{"keys.age", backup.ErrForeign}},
		{"backup.ErrDamaged", &backupError{"keys.age", fmt.Errorf("%w: it is cut off or was altered", backup.ErrDamaged)}},
		{"backup.ErrLater", &backupError{"keys.age", fmt.Errorf("%w: its format is number 2", backup.ErrLater)}},
		{"backup.ErrLocked", &backupError{"keys.age", backup.ErrLocked}},
		{"backup.ErrRecipient", fmt.Errorf("%w: a text", backup.ErrRecipient)},
		{"backup.ErrIdentity", &identityError{"identity.txt", backup.ErrIdentity}},
		{"backup.ErrIdentity (shared)", &identityError{"identity.txt", keys.ErrSharedSecret}},
		{"backup.ErrNoShare", &backupError{"root.1-of-5.txt", fmt.Errorf("%w: it has 4 of the 5 lines", backup.ErrNoShare)}},
		{"backup.ErrNoShare (mistyped)", &backupError{"root.1-of-5.txt", &backup.LineError{Line: 3}}},
		{"backup.ErrTooFew", fmt.Errorf("%w: 2 of the 3 that it takes are here", backup.ErrTooFew)},
		{"backup.ErrWrong", backup.ErrWrong},
		{"backup.ErrWrong (named)", &backupError{"root.1-of-5.txt", &backup.ShareError{Index: 1, Reason: "it is not the share that it says it is; the others open the key without it"}}},
		{"backup.ErrThreshold", backup.ErrThreshold},
		{"backupError (no file)", &backupError{"keys.age", &fs.PathError{Op: "open", Path: "keys.age", Err: fs.ErrNotExist}}},
		{"usageError", &usageError{"that makes no sense", []string{"do it otherwise"}}},
		{"something else", errors.New("the unexpected\nin two lines\x1b[31m")},
	}
}

// TestExplain prints all that the program says when something goes wrong: in a
// pull, and in a push after the upload.
func TestExplain(t *testing.T) {
	t.Parallel()
	ref, err := registry.ParseRef(someRepository + ":1.2")
	if err != nil {
		t.Fatal(err)
	}
	repo := func(err error) error {
		return &repositoryError{gun: someRepository, server: someServer, folder: "/home/alice/.iechor/trust/tuf/" + someRepository, err: err}
	}
	var b strings.Builder
	for _, s := range spokenErrors() {
		fmt.Fprintf(&b, "# %s\n", s.name)
		pull := say(t, s.name, repo(s.err))
		push := say(t, s.name, &signError{ref: ref, err: repo(s.err), unsigned: nil})
		b.WriteString(pull)
		if push != pull {
			b.WriteString("in a push:\n" + push)
		}
		b.WriteString("\n")
	}
	unsigned := &signError{ref: ref, err: repo(trust.ErrConflict), unsigned: []string{someRepository + ":1.2 --from registry@sha256:00"}}
	b.WriteString("# after the upload\n" + say(t, "after the upload", unsigned))

	golden := filepath.Join("testdata", "explain.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("explain says something else than %s (-want +got); see whether that is good, and run the test with -update:\n%s", golden, diff)
	}
}

// say checks what holds for every answer, and prints it.
func say(t *testing.T, name string, err error) string {
	t.Helper()
	sentence, hints, exit := explain(err)
	if sentence == "" || strings.ContainsAny(sentence, "\n\x1b") {
		t.Errorf("explain(%s) = %q, want one printable line", name, sentence)
	}
	if len(hints) == 0 && exit != exitInterrupted {
		t.Errorf("explain(%s) does not say what to do", name)
	}
	if exit == exitDone {
		t.Errorf("explain(%s) = %q, %q, %d", name, sentence, hints, exit)
	}
	out := fmt.Sprintf("[%d] %s\n", exit, sentence)
	for _, h := range hints {
		out += "    hint: " + h + "\n"
	}
	return out
}

// TestExplainIsComplete fails when a package has a sentinel that TestExplain
// does not know.
func TestExplainIsComplete(t *testing.T) {
	t.Parallel()
	var known []string
	for _, s := range spokenErrors() {
		name, _, _ := strings.Cut(s.name, " ")
		known = append(known, name)
	}
	for _, pkg := range []string{"tuf", "keys", "trust", "registry", "terminal", "backup"} {
		names := sentinels(t, filepath.Join("..", "..", pkg))
		if len(names) == 0 {
			t.Errorf("no sentinels found in package %s", pkg)
		}
		for _, n := range names {
			if !slices.Contains(known, pkg+"."+n) {
				t.Errorf("explain_test.go does not know %s.%s", pkg, n)
			}
		}
	}
}

// TestExplainMatchesSentinels sees that the errors above match what their
// names say, so that the golden file is about what it claims to be about.
func TestExplainMatchesSentinels(t *testing.T) {
	t.Parallel()
	sentinel := map[string]error{
		"tuf.ErrUnsigned": tuf.ErrUnsigned, "tuf.ErrRollback": tuf.ErrRollback, "tuf.ErrRoot": tuf.ErrRoot, "tuf.ErrPin": tuf.ErrPin,
		"tuf.ErrNoKey": tuf.ErrNoKey, "tuf.ErrLimit": tuf.ErrLimit, "tuf.ErrNoTarget": tuf.ErrNoTarget, "keys.ErrShared": keys.ErrShared,
		"trust.ErrAddress": trust.ErrAddress, "trust.ErrGone": trust.ErrGone, "trust.ErrUnauthorized": trust.ErrUnauthorized,
		"trust.ErrUnreachable": trust.ErrUnreachable, "trust.ErrDamaged": trust.ErrDamaged, "registry.ErrDigest": registry.ErrDigest,
		"registry.ErrRefused": registry.ErrRefused, "registry.ErrNoEngine": registry.ErrNoEngine,
	}
	for _, s := range spokenErrors() {
		name, _, _ := strings.Cut(s.name, " ")
		if want, ok := sentinel[name]; ok && !errors.Is(s.err, want) {
			t.Errorf("%s: %v does not match %v", s.name, s.err, want)
		}
	}
}

var sentinelName = regexp.MustCompile(`^Err[A-Z]\w*$`)

// sentinels returns the exported error variables of the package in dir.
func sentinels(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				for _, n := range spec.(*ast.ValueSpec).Names {
					if sentinelName.MatchString(n.Name) {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// A warning is one line that no terminal obeys, whatever it names.
func TestWarningIsOneLine(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	(&app{err: &errs}).warn("%s of %s", "a\x1b[2J\x7f\u009b", "b\nc")
	if got := errs.String(); got != "iechor: warning: a\ufffd[2J\ufffd\ufffd of b; c\n" {
		t.Errorf("warn writes %q", got)
	}
}
