package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// newTrustKeyCmd is the family of commands about private keys.
func newTrustKeyCmd(a *app) *cobra.Command {
	return group(a, "key", "Make, load, list, copy, remove and change the keys that sign",
		`  iechor trust key generate alice
  iechor trust key load --name alice key.pem
  iechor trust key list
  iechor trust key export -o backup.pem`,
		newKeyGenerateCmd(a), newKeyLoadCmd(a), newKeyListCmd(a), newKeyExportCmd(a), newKeyImportCmd(a),
		newKeyRemoveCmd(a), newKeyPasswdCmd(a), newKeyRotateCmd(a), newKeyMoveCmd(a), newKeySpareCmd(a),
	)
}

// keyName is what a signer is called, and so its key.
var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// maxKeyName bounds the name of a signer's key, in bytes.
const maxKeyName = 255

// checkKeyName refuses a name that a signer's key cannot have (spec/cli.md
// 7.1). The names of roles mean something else.
func checkKeyName(name string) error {
	switch {
	case !keyName.MatchString(name):
		return stated(fmt.Sprintf("key name %q must start with lowercase alphanumeric characters and can include \"-\" or \"_\" after the first character", printable(name)),
			"for example alice or build-server_2")
	case len(name) > maxKeyName:
		return stated(fmt.Sprintf("key name is longer than %d characters", maxKeyName), "choose a shorter name")
	case tuf.RoleName(name).TopLevel() || name == "releases":
		return stated(fmt.Sprintf("key name %q is reserved: it is the name of a role", name),
			"choose the name of a signer; to bring a root key from elsewhere: iechor trust key import --role root FILE")
	}
	return nil
}

// findKey finds the key that the user names by its id, or by at least seven
// digits that only its id begins with.
func (d *desk) findKey(ctx context.Context, id string) (keys.Located, error) {
	return d.findKeyIn(ctx, id, func(keys.Store) bool { return true })
}

// findKeyIn is findKey in some of the stores.
func (d *desk) findKeyIn(ctx context.Context, id string, in func(keys.Store) bool) (keys.Located, error) {
	given := strings.ToLower(strings.TrimSpace(id))
	if len(given) < shortestID || len(given) > 64 || strings.Trim(given, "0123456789abcdef") != "" {
		return keys.Located{}, cannot(fmt.Sprintf("%q is not the ID of a key", printable(id)),
			fmt.Sprintf("give at least the first %d of its digits; \"iechor trust key list\" shows them", shortestID))
	}
	all, err := d.keys.List(ctx)
	if err != nil {
		return keys.Located{}, err
	}
	var found []keys.Located
	for _, k := range all {
		if in(k.Store) && strings.HasPrefix(string(k.ID), given) && !slices.ContainsFunc(found, func(f keys.Located) bool { return f.ID == k.ID }) {
			found = append(found, k)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return keys.Located{}, cannot(fmt.Sprintf("%d keys have an ID that begins with %s", len(found), given), "give more of its digits")
	}
	return keys.Located{}, d.missing(&noSuchKey{cannot(fmt.Sprintf("no key here has an ID that begins with %s", given), "see which keys are here, and where: iechor trust key list")})
}

// A noSuchKey says that no key here is meant. It matches tuf.ErrNoKey.
type noSuchKey struct{ error }

func (e *noSuchKey) Is(t error) bool { return t == tuf.ErrNoKey }
func (e *noSuchKey) Unwrap() error   { return e.error }

// sure asks before something that cannot be undone, unless the flag --yes has
// answered.
func (d *desk) sure(ctx context.Context, question string, yes bool) (bool, error) {
	if yes {
		return true, nil
	}
	err := d.confirm(ctx, question, "--yes")
	if errors.Is(err, errAborted) {
		return false, nil // and it has been said
	}
	return err == nil, err
}

func addYesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask whether you are sure")
}

// described names a key as stock programs do: "543bb8f… (role alice)".
func described(k keys.Info) string {
	return fmt.Sprintf("%s (role %s)", k.ID, printable(k.Role))
}

// legible says which programs cannot use a key of that type; empty if all can.
func legible(t tuf.KeyType) string {
	if t != tuf.Ed25519 {
		return ""
	}
	return "docker and notary verify what an Ed25519 key signs, but their commands neither load it (docker trust key load) nor accept its public half (docker trust signer add, notary delegation add); ours do"
}
