package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// Exit statuses. A script can tell "down" (1) from "attacked" (3).
const (
	exitDone        = 0
	exitCannot      = 1
	exitUsage       = 2
	exitUntrusted   = 3
	exitInterrupted = 130
)

// explain, with explain_trust.go, is the only place that speaks to people when something has gone
// wrong: one sentence, what to do about it, and the exit status.
//
// A sentence whose words spec/cli.md fixes (its sections 3, 5, 6, 8 and 14) is
// printed as it stands there: "Error: …", "Warning: …", "No valid trust data
// for …", "failed to sign …". Every other sentence begins with "iechor: ".
//
// Refused metadata and refused content exit with 3. So does trust data that
// this machine has seen and that is gone now. That something was never signed
// exits with 1, as do servers and registries that are down, closed or not what
// they should be.
func explain(err error) (sentence string, hints []string, exit int) {
	var (
		told    *toldError
		inspect *inspectError
	)
	away := (*awayError)(nil)
	errors.As(err, &away)
	switch {
	case errors.As(err, &told):
		return "", nil, told.exit
	case errors.As(err, &inspect):
		sentence, hints, exit = explain(inspect.err)
		return "No signatures or cannot access " + printable(inspect.name) + ": " + strings.TrimPrefix(sentence, "iechor: "), hints, exit
	}
	c, err := contextOf(err)
	a := c.could(err.Error(), whatNext(err))
	for _, rule := range rules {
		if found, ok := rule(err, c); ok {
			a = found
			break
		}
	}
	if c.task {
		a.sentence, a.exact = c.before+a.sentence, true
	}
	if !a.exact {
		a.sentence = "iechor: " + a.sentence
	}
	for _, h := range append(append(away.hints(), a.hints...), c.unsigned()...) {
		hints = append(hints, oneLine(h))
	}
	return oneLine(a.sentence), hints, a.exit
}

// whatNext says what to do about an error that nobody knows better.
func whatNext(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "there is no room left on that disk: make some, and run the same command again; what was there before is still there"
	case errors.Is(err, syscall.EIO):
		return "that disk does not keep what is written to it: look after it, or use another one, before you run the command again"
	}
	return "try again; if it stays like this, report it together with the output of \"iechor version\""
}

// oneLine keeps texts from servers, files and helpers from drawing on the
// screen or passing for a second message.
func oneLine(s string) string {
	return printable(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "))
}

// An answer is what explain finds.
type answer struct {
	sentence string
	exact    bool // the words are those of the specification
	hints    []string
	exit     int
}

func exactly(exit int, sentence string, hints ...string) (answer, bool) {
	return answer{sentence, true, hints, exit}, true
}

func plainly(exit int, sentence string, hints ...string) (answer, bool) {
	return answer{sentence, false, hints, exit}, true
}

// rules go from specific to general; the first that knows the error answers.
var rules = []func(error, subject) (answer, bool){
	explainUsage,
	explainStated,
	explainInterruption,
	explainPassphrase,
	explainBackup,
	explainPIV,
	explainTokens,
	explainKeyWork,
	explainKeys,
	explainUnsignedTag,
	explainServer,
	explainRefusedMetadata,
	explainLocal,
	explainSigning,
	explainContent,
	explainPlaces,
	explainRegistry,
	explainRest,
}

// A subject is what an error is about, as far as the wrappers around it say.
type subject struct {
	gun, server, folder string // a repository, its trust server, the local copy
	image, place, host  string // an image, the place on this machine, a registry
	sign                *signError
	tag                 *tagError
	login               bool // a login, not the use of one
	push                bool // from place

	task   bool   // a task with words of its own for failures
	before string // those words
}

// contextOf takes what the wrappers of this package say off an error.
func contextOf(err error) (subject, error) {
	c := subject{gun: "the repository", server: "the trust server", image: "the image", folder: "the trust directory"}
	var (
		repo  *repositoryError
		image *imageError
		login *loginError
	)
	for task := (*taskError)(nil); errors.As(err, &task); err = task.err {
		c.task, c.before = true, c.before+task.before
	}
	if errors.As(err, &c.sign) {
		err = c.sign.err
	}
	if errors.As(err, &c.tag) {
		err = c.tag.err
	}
	if errors.As(err, &repo) {
		c.gun, c.server, c.folder = repo.gun, repo.server, repo.folder
		err = repo.err
	}
	if errors.As(err, &image) {
		c.image, c.place, c.host, c.push = image.ref.Familiar(), image.place, image.ref.Host(), image.push
		err = image.err
	}
	if errors.As(err, &login) {
		c.host, c.image, c.login = login.host, login.host, true
		err = login.err
	}
	return c, err
}

// could says that something could not be done: with the words of the
// specification where that is to sign.
func (c subject) could(reason string, hints ...string) answer {
	if c.sign != nil {
		return answer{"failed to sign " + c.sign.ref.String() + ": " + reason, true, hints, exitCannot}
	}
	return answer{reason, false, hints, exitCannot}
}

// unsigned says how to sign what an upload left unsigned in the registry.
func (c subject) unsigned() []string {
	if c.sign == nil || len(c.sign.unsigned) == 0 {
		return nil
	}
	return []string{"the image is in the registry, unsigned; to sign it later: iechor push " + strings.Join(c.sign.unsigned, "; iechor push ")}
}

func explainUsage(err error, _ subject) (answer, bool) {
	var (
		wrong   *usageError
		config  *configError
		address *serverAddressError
	)
	switch {
	case errors.As(err, &wrong):
		return plainly(exitUsage, wrong.reason, wrong.hints...)
	case errors.Is(err, errPushDigest):
		return exactly(exitUsage, errPushDigest.Error(), "name a tag instead: NAME:TAG; to sign that digest, add --from registry@DIGEST")
	case errors.As(err, &config):
		hint := config.hint
		if hint == "" {
			hint = "correct " + config.path
		}
		return plainly(exitUsage, config.Error(), hint)
	case errors.As(err, &address):
		hint := "correct " + address.source
		if address.example != "" {
			hint += ", for example to " + address.example
		}
		return exactly(exitCannot, address.Error(), hint)
	case errors.Is(err, trust.ErrAddress):
		return exactly(exitCannot, err.Error(), "correct "+serverVariable)
	case errors.Is(err, trust.ErrPinning):
		return plainly(exitUsage, err.Error(), "correct trust-pinning in config.json")
	case errors.Is(err, registry.ErrReference):
		return plainly(exitUsage, err.Error(), "write images as [HOST/]NAME[:TAG] or [HOST/]NAME@sha256:DIGEST, and places as \"--help\" shows them")
	case errors.Is(err, trust.ErrName):
		return plainly(exitUsage, err.Error(), "write images as [HOST/]NAME[:TAG]")
	}
	return answer{}, false
}

func explainInterruption(err error, c subject) (answer, bool) {
	if errors.Is(err, context.Canceled) || errors.Is(err, terminal.ErrInterrupted) || errors.Is(err, keys.ErrCancelled) {
		if c.sign != nil {
			return plainly(exitInterrupted, "interrupted; "+c.sign.ref.String()+" was not signed, and nothing is left staged")
		}
		return plainly(exitInterrupted, "interrupted")
	}
	return answer{}, false
}

func explainPassphrase(err error, c subject) (answer, bool) {
	var asked *passphraseError
	var store *keys.StoreError
	key, variable := "the key", ""
	switch {
	case errors.As(err, &asked):
		key, variable = asked.what, asked.variable
	case errors.As(err, &store):
		key = keyWords(store.Key)
	}
	switch {
	case errors.Is(err, keys.ErrPassphrase) && variable != "":
		return c.could("wrong passphrase for "+key+", from "+variable, "correct "+variable+", or unset it to be asked"), true
	case errors.Is(err, keys.ErrPassphrase):
		return c.could("wrong passphrase for "+key, "try again; a passphrase that is lost cannot be recovered, only the key restored from a backup or replaced"), true
	case errors.Is(err, keys.ErrNoPassphrase):
		if variable == "" {
			variable = repositoryPassphraseVariable
			if store != nil {
				variable = passphraseVariable(store.Key)
			}
		}
		return c.could("no passphrase for "+key+": there is no terminal to ask on, and nothing on standard input", "set "+variable+", or give the passphrase as a line on standard input"), true
	case errors.Is(err, errTooManyAnswers):
		return c.could(errTooManyAnswers.Error(), fmt.Sprintf("choose a passphrase of at least %d characters and repeat it exactly", minPassphrase)), true
	case errors.Is(err, errNoRootChosen):
		return c.could("no root key was chosen", "push again and name one of the root keys by its ID"), true
	case errors.Is(err, terminal.ErrTooLong):
		return c.could(terminal.ErrTooLong.Error(), "give a shorter answer"), true
	case errors.Is(err, terminal.ErrNoTerminal):
		return plainly(exitCannot, "there is no terminal to ask on, and nothing on standard input", "run it on a terminal, or give the answers with flags, variables or lines on standard input; see --help")
	}
	return answer{}, false
}

func explainKeys(err error, c subject) (answer, bool) {
	var (
		missing *tuf.MissingKeys
		shared  *keys.SharedFile
		store   *keys.StoreError
	)
	place := "the key store"
	if errors.As(err, &store) {
		place = store.Store
	}
	switch {
	case errors.As(err, &missing) && len(missing.Keys) == 0:
		return c.could(fmt.Sprintf("%s has no key that could sign it", missing.Role), "give it one: iechor trust delegation add "+c.gun+" "+string(missing.Role)+" --key FILE"), true
	case errors.As(err, &missing):
		ids := make([]string, len(missing.Keys))
		for i, id := range missing.Keys {
			ids[i] = string(id)
		}
		reason := "could not find necessary signing keys, at least one of these keys must be available: " + strings.Join(ids, ", ")
		if missing.Need > 1 {
			reason = fmt.Sprintf("could not find necessary signing keys, at least %d of these keys must be available: %s", missing.Need, strings.Join(ids, ", "))
		}
		if missing.Need > 1 && missing.Role.HoldsTargets() {
			return c.could(reason, "if others have them, let them sign, too: give --propose FILE to \"iechor trust sign\" or \"iechor trust publish\", and have them run: iechor trust cosign FILE",
				"a key that should be here: restore its file from a backup; if it is lost: iechor trust recover "+c.gun), true
		}
		return c.could(reason, "restore the key file from a backup to trust/private in the configuration directory; if the key is lost: iechor trust recover "+c.gun), true
	case errors.As(err, &shared):
		return c.could("private key file "+shared.Path+" can be read or written by others", "find out who could have copied it; to go on, chmod 600 "+shared.Path), true
	case errors.Is(err, keys.ErrShared):
		return c.could(err.Error(), "make the key files private: chmod 600"), true
	case errors.Is(err, keys.ErrBroken), errors.Is(err, tuf.ErrKey):
		return exactly(exitCannot, "Error: could not find signing keys for remote repository "+c.gun+", or could not decrypt signing key: "+innermost(err, store), "restore the key file in "+place+" from a backup")
	case errors.Is(err, tuf.ErrNoKey):
		return c.could(err.Error(), "restore the key file from a backup to trust/private in the configuration directory"), true
	case errors.Is(err, keys.ErrExists):
		return c.could(err.Error(), "remove the other key first if it is no longer needed"), true
	case errors.Is(err, keys.ErrClosed):
		return c.could(err.Error(), "try again"), true
	case errors.Is(err, trust.ErrNoDelegationKey):
		return c.could(trust.ErrNoDelegationKey.Error(), "tags of "+c.gun+" are signed by its signers: bring the key of one of them here, or ask an owner to add yours"), true
	}
	return answer{}, false
}

// innermost is the text of what a store says, without the names before it.
func innermost(err error, store *keys.StoreError) string {
	if store != nil {
		return keyWords(store.Key) + ": " + store.Err.Error()
	}
	return err.Error()
}

func explainUnsignedTag(err error, c subject) (answer, bool) {
	var none *trust.NoTrustData
	switch {
	case errors.As(err, &none):
		var hints []string
		if c.tag != nil {
			hints = append(hints, fmt.Sprintf("%s is not signed at %s; %s", c.tag.ref.Familiar(), c.tag.server, signedTags(c.tag.signed)))
		}
		if none.InOther {
			hints = append(hints, "a signer vouches for it, but it has not been released: an owner of the repository can sign it")
		}
		return exactly(exitCannot, none.Error(), hints...)
	case errors.Is(err, tuf.ErrNoTarget):
		return exactly(exitCannot, "No valid trust data for the tag", "see which tags are signed: iechor pull --all-tags lists and gets them")
	case errors.Is(err, errDigestNotSigned):
		return plainly(exitCannot, errDigestNotSigned.Error(), "see what is signed: leave the digest out")
	case errors.Is(err, errNoTrustedTags):
		return exactly(exitCannot, "No trusted tags for "+c.gun, "its trust data at "+c.server+" lists no tag; ask the owners to sign one")
	}
	return answer{}, false
}

// signedTags lists some of the tags that could be had.
func signedTags(tags []string) string {
	const most = 20
	switch {
	case len(tags) == 0:
		return "no tag of the repository is"
	case len(tags) > most:
		return fmt.Sprintf("signed tags: %s and %d more", strings.Join(tags[len(tags)-most:], ", "), len(tags)-most)
	}
	return "signed tags: " + strings.Join(tags, ", ")
}

// explainLocal is about what is on this machine.
func explainLocal(err error, c subject) (answer, bool) {
	var clock *trust.ClockError
	switch {
	case errors.Is(err, trust.ErrDamaged):
		return c.could(err.Error(), "remove "+c.folder+" and try again, which means to trust whatever root the server shows next"), true
	case errors.As(err, &clock):
		return c.could(clock.Error(), "set the clock; if it was wrong then and is right now, remove "+clock.File), true
	case errors.Is(err, trust.ErrClock):
		return c.could(err.Error(), "set the clock of this machine"), true
	case errors.Is(err, trust.ErrFrozen):
		return exactly(exitUntrusted, "Warning: potential malicious behavior - trust data of remote repository "+c.gun+" is frozen: "+err.Error(),
			"you may be shown an old state: ask the operator of "+c.server)
	case errors.Is(err, trust.ErrBusy):
		return c.could(trust.ErrBusy.Error(), "wait until the other process is done, and try again"), true
	case errors.Is(err, fs.ErrPermission):
		return c.could(err.Error(), "see who owns the file and what its mode is"), true
	}
	return answer{}, false
}

func explainSigning(err error, c subject) (answer, bool) {
	for _, known := range []struct {
		is   error
		hint string
	}{
		{trust.ErrNotInitialized, "push a tag with content trust on: the first push makes its keys"},
		{trust.ErrInitialized, "somebody else has made it meanwhile: try again"},
		{trust.ErrNotRotatable, "see which keys the server manages, and which ones you do"},
		{trust.ErrStaged, "look at the change files in " + c.folder + "/changelist, and remove what nobody needs"},
		{tuf.ErrNoDelegation, "see which signers " + c.gun + " has"},
		{tuf.ErrRole, "choose another role"},
		{tuf.ErrMalformed, "use plain tags, as registries allow them"},
	} {
		if errors.Is(err, known.is) {
			return c.could(err.Error(), known.hint), true
		}
	}
	return answer{}, false
}

// explainContent is about what the registry sent.
func explainContent(err error, c subject) (answer, bool) {
	var (
		digest  *registry.DigestError
		refused *registry.RefusedError
	)
	switch {
	case errors.Is(err, registry.ErrDigest) && c.push:
		return exactly(exitCannot, err.Error(), "the image in "+c.place+" is damaged: make it anew")
	case errors.As(err, &digest):
		return exactly(exitUntrusted, digest.Error(), "the registry has something else than what was asked for: do not use it, and tell the operator of "+orThe(c.host, "registry"))
	case errors.Is(err, registry.ErrDigest):
		return exactly(exitUntrusted, err.Error(), "the registry has something else than what was asked for: do not use it")
	case errors.As(err, &refused) && refused.Host == refused.To:
		return plainly(exitCannot, refused.Error(), "give the registry a certificate, or reach it as localhost")
	case errors.Is(err, registry.ErrRefused):
		return plainly(exitCannot, err.Error(), "if that host is right, add it to content-trust.login-servers in config.json; otherwise tell the operator of "+orThe(c.host, "registry"))
	case errors.Is(err, registry.ErrUnsupported) && c.push:
		return plainly(exitCannot, err.Error(), "write "+c.place+" with a tool that makes OCI or docker manifests")
	case errors.Is(err, registry.ErrUnsupported):
		return plainly(exitCannot, err.Error(), "have it pushed again by a tool that makes OCI or docker manifests")
	}
	return answer{}, false
}

func orThe(name, what string) string {
	if name == "" {
		return "the " + what
	}
	return name
}

// explainPlaces is about images on this machine.
func explainPlaces(err error, c subject) (answer, bool) {
	var (
		none     *registry.NoEngineError
		choose   *registry.AmbiguousError
		platform *registry.PlatformError
	)
	switch {
	case errors.Is(err, registry.ErrNoImage) && (c.place == "engine" || c.place == ""):
		return exactly(exitCannot, "An image does not exist locally with the tag: "+strings.TrimSuffix(c.image, ":latest"),
			"build or tag it under this name first, or say where it is with --from")
	case errors.Is(err, registry.ErrNoImage):
		return plainly(exitCannot, c.place+" has no such image", "see what is in it; --from takes a tag or digest at its end")
	case errors.As(err, &none):
		return plainly(exitCannot, none.Error(), "start the engine, name it in IECHOR_HOST, or do without one: --from and --to take oci:DIR and docker-archive:FILE")
	case errors.Is(err, registry.ErrNoEngine):
		return plainly(exitCannot, err.Error(), "start the engine, or do without one: --from and --to take oci:DIR and docker-archive:FILE")
	case errors.Is(err, registry.ErrEngine):
		return plainly(exitCannot, "the engine says: "+err.Error(), "see the log of the engine")
	case errors.As(err, &choose):
		hint := "add one of them to the place"
		if len(choose.Choices) > 0 {
			hint = "for example " + choose.Place + choose.Choices[0]
		}
		return plainly(exitUsage, choose.Error(), hint)
	case errors.Is(err, registry.ErrAmbiguous):
		return plainly(exitUsage, err.Error(), "add a tag or digest to the place")
	case errors.As(err, &platform):
		hint := "give one of them with --platform"
		if len(platform.Choices) == 0 {
			hint = "pull it into an OCI layout, which takes everything: --to oci:DIR"
		}
		return plainly(exitCannot, strings.TrimSuffix(platform.Error(), " "), hint)
	case errors.Is(err, registry.ErrPlatform):
		return plainly(exitCannot, err.Error(), "give another one with --platform")
	}
	return answer{}, false
}

func explainRegistry(err error, c subject) (answer, bool) {
	var away *registry.UnreachableError
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return plainly(exitCannot, c.image+" was not found in the registry", "see that name and tag are right, and that you may see it: iechor login "+c.host)
	case errors.Is(err, registry.ErrUnauthorized) && c.login:
		return plainly(exitCannot, c.host+" does not accept this user and password", "see that both are right; some registries want a token instead of the password")
	case errors.Is(err, registry.ErrUnauthorized):
		return plainly(exitCannot, "you are not authorized to do that with "+c.image, "log in as a user who is: iechor login "+c.host)
	case errors.As(err, &away) && away.TLSDir != "":
		return plainly(exitCannot, "cannot "+away.Error(), "if its authority is your own, put the CA certificate as ca.crt into "+away.TLSDir)
	case errors.As(err, &away) && away.Status == 0:
		return plainly(exitCannot, "cannot "+away.Error(), "see whether "+away.Host+" is right and can be reached, and try again")
	case errors.As(err, &away):
		return plainly(exitCannot, away.Error(), "see whether "+away.Host+" is right and can be reached, and try again")
	case errors.Is(err, registry.ErrUnreachable):
		return plainly(exitCannot, err.Error(), "see whether the registry is right and can be reached, and try again")
	case errors.Is(err, registry.ErrCredentials):
		return plainly(exitCannot, err.Error(), "correct config.json, or the credential helper that it names")
	}
	return answer{}, false
}

func explainRest(err error, c subject) (answer, bool) {
	if errors.Is(err, context.DeadlineExceeded) {
		return c.could("it took too long", "try again"), true
	}
	if i := slices.IndexFunc([]error{fs.ErrNotExist, fs.ErrExist}, func(e error) bool { return errors.Is(err, e) }); i >= 0 {
		return c.could(err.Error(), "see that the path is right"), true
	}
	return answer{}, false
}
