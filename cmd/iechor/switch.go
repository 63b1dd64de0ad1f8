package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/trust"
)

// The switch and its exception (spec/cli.md 2.1, 2.2).
const (
	switchVariable  = "IECHOR_CONTENT_TRUST"
	offlineVariable = "IECHOR_CONTENT_TRUST_OFFLINE"
	disableFlag     = "disable-content-trust"
)

// addTrustFlag gives cmd the flag that overrides the switch, once.
func addTrustFlag(cmd *cobra.Command, disabled *bool, help string) {
	cmd.Flags().BoolVar(disabled, disableFlag, true, help+" (default: true unless "+switchVariable+" is on)")
	cmd.Flags().Lookup(disableFlag).DefValue = "false" // keeps "(default true)", which is half of the truth, out of the help
}

// trustOn says whether this command works with content trust: the flag, else
// the variable.
func (a *app) trustOn(cmd *cobra.Command, disabled bool) (bool, error) {
	if cmd.Flags().Changed(disableFlag) {
		return !disabled, nil
	}
	return a.switchedOn()
}

// switchedOn says what the variable says. A value that is not known means on;
// "no" and "off", by which somebody means the opposite, are refused.
func (a *app) switchedOn() (bool, error) {
	v := a.getenv(switchVariable)
	switch {
	case slices.Contains([]string{"", "0", "f", "F", "false", "FALSE", "False"}, v):
		return false, nil
	case slices.Contains([]string{"1", "t", "T", "true", "TRUE", "True"}, v):
		return true, nil
	}
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "no", "off", "n", "none", "disabled", "false":
		return false, &usageError{
			fmt.Sprintf("%s=%s could mean on or off", switchVariable, printable(v)),
			[]string{fmt.Sprintf("set %s to 1 or 0", switchVariable)},
		}
	}
	a.warn("%s=%s is taken as on; set it to 1 or 0", switchVariable, printable(v))
	return true, nil
}

// offline says what happens when the trust server cannot be reached:
// environment over configuration.
func (d *desk) offline() (trust.OfflinePolicy, error) {
	switch v := d.getenv(offlineVariable); v {
	case "":
		return d.config.offline, nil
	case "allow":
		return trust.OfflineAllow, nil
	case "refuse":
		return trust.OfflineRefuse, nil
	default:
		return 0, &usageError{
			fmt.Sprintf("%s=%s is neither allow nor refuse", offlineVariable, printable(v)),
			[]string{"set it to refuse to forbid cached trust data, or unset it"},
		}
	}
}
