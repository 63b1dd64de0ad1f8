package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
)

// maxPassword bounds a password on standard input, in bytes.
const maxPassword = 64 << 10

type loginOptions struct {
	host  string
	user  string
	stdin bool
}

func newLoginCmd(a *app) *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login [HOST]",
		Short: "Keep a login for a registry and its trust server",
		Example: `  iechor login registry.example.com
  iechor login registry.example.com --username alice --password-stdin < password-file`,
		Long: `Login checks user and password against the registry and keeps them in the
credential helper that config.json names, else in config.json itself. Without
HOST it is about the hub. The login also serves for the trust server of the
registry's images, wherever that is.`,
		Args: atMostOneHost,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.host, err = hostArg(cmd, args); err != nil {
				return err
			}
			if o.stdin && o.user == "" {
				return usage(cmd, "--password-stdin needs --username")
			}
			return a.login(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVarP(&o.user, "username", "u", "", "`name` to log in with")
	cmd.Flags().BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func newLogoutCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "logout [HOST]",
		Short:   "Forget the login for a registry",
		Example: "  iechor logout registry.example.com",
		Long:    "Without HOST it is about the hub.",
		Args:    atMostOneHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := hostArg(cmd, args)
			if err != nil {
				return err
			}
			return a.logout(cmd.Context(), host)
		},
	}
}

func atMostOneHost(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage(cmd, fmt.Sprintf("%s takes one host at most, and got %d arguments", cmd.CommandPath(), len(args)))
	}
	return nil
}

// hostArg reads the host of a registry, as it stands in image names.
func hostArg(cmd *cobra.Command, args []string) (string, error) {
	if len(args) == 0 {
		return registry.HubName, nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(args[0], "https://"), "/")
	ref, err := registry.ParseRef(host + "/library/x")
	if err != nil || ref.Path() != "library/x" || strings.ContainsAny(host, "/@") {
		return "", usage(cmd, fmt.Sprintf("%q is not the host of a registry", printable(args[0])),
			"write it as in image names, for example registry.example.com or localhost:5000")
	}
	return ref.Host(), nil
}

// login asks for what is missing, checks it against the registry, and keeps
// it. Nothing is kept that the registry does not accept.
func (a *app) login(ctx context.Context, o loginOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	cred := registry.Credential{Username: o.user}
	if cred.Username == "" {
		if cred.Username, err = d.terminal.Line(ctx, "Username: "); err != nil {
			return &loginError{o.host, err}
		}
	}
	if strings.TrimSpace(cred.Username) == "" || strings.ContainsAny(cred.Username, ":\r\n\x00") {
		return &usageError{"that is not a user name", []string{"give it with --username NAME"}}
	}
	password, err := d.password(ctx, o.stdin)
	if err != nil {
		return &loginError{o.host, err}
	}
	cred.Password = string(password)
	clear(password)
	if err := d.images.Login(ctx, o.host, cred); err != nil {
		return &loginError{o.host, err}
	}
	if err := d.credentials.Store(ctx, o.host, cred); err != nil {
		return &loginError{o.host, err}
	}
	_, err = fmt.Fprintln(a.out, "Login Succeeded")
	return err
}

// password asks for it, or takes standard input without the end of its line.
func (d *desk) password(ctx context.Context, stdin bool) ([]byte, error) {
	var password []byte
	var err error
	if stdin {
		password, err = readLimited(d.in, maxPassword)
		password = bytes.TrimSuffix(bytes.TrimSuffix(password, []byte("\n")), []byte("\r"))
	} else {
		password, err = d.terminal.Secret(ctx, "Password: ")
	}
	if err == nil && len(password) == 0 {
		err = &usageError{"the password is empty", []string{"type it when asked, or give it on standard input with --password-stdin"}}
	}
	return password, err
}

// logout forgets a login. That there was none is said, and no error.
func (a *app) logout(ctx context.Context, host string) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.credentials.Erase(ctx, host); err != nil {
		return &loginError{host, err}
	}
	_, err = fmt.Fprintf(a.out, "Removed login credentials for %s\n", host)
	return err
}

// A loginError says which registry a login was for.
type loginError struct {
	host string
	err  error
}

func (e *loginError) Error() string { return fmt.Sprintf("log in to %s: %v", e.host, e.err) }
func (e *loginError) Unwrap() error { return e.err }
