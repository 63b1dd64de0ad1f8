package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/server"
)

// authSettings say who may do what on a trust server.
type authSettings struct {
	Authentication string           `yaml:"authentication" usage:"how it is known who asks: token, htpasswd or certificate, or \"certificate, token\" or \"certificate, htpasswd\" for either; \"none\": everybody may do everything; must be set"`
	Access         string           `yaml:"access" usage:"file with the rules of who may do what (YAML)"`
	Token          tokenSettings    `yaml:"token"`
	Htpasswd       htpasswdSettings `yaml:"htpasswd"`
	Proxies        []string         `yaml:"proxies" usage:"networks of proxies that are believed about whom they forward (X-Forwarded-For, traceparent)"`
	ClientCA       string           `yaml:"client-ca" usage:"file with the CA certificates that vouch for client certificates"`
}

// tokenSettings say whose tokens are believed.
type tokenSettings struct {
	Realm        string   `yaml:"realm" usage:"URL where clients get tokens"`
	Service      string   `yaml:"service" usage:"this server's name at the token service: the audience of tokens"`
	Issuer       string   `yaml:"issuer" usage:"the token service's name, as it stands in tokens"`
	Keys         string   `yaml:"keys" usage:"file with the token service's certificates (PEM) or its JSON Web Key Set"`
	Algorithms   []string `yaml:"algorithms" usage:"that may sign tokens"`
	Leeway       duration `yaml:"leeway" usage:"how far the clocks of token service and server may differ"`
	AutoRedirect bool     `yaml:"auto-redirect" usage:"name https://HOST/auth/token as the realm, with the host that a client has asked"`
}

// htpasswdSettings say whose passwords are believed.
type htpasswdSettings struct {
	File  string `yaml:"file" usage:"file with users and bcrypt hashes, as htpasswd -B writes it"`
	Realm string `yaml:"realm" usage:"what people see when they are asked for a password"`
}

func defaultAuthSettings() authSettings {
	return authSettings{
		Token:    tokenSettings{Algorithms: server.TokenAlgorithms, Leeway: duration(time.Minute)},
		Htpasswd: htpasswdSettings{Realm: "iEchor trust server"},
	}
}

// An authentication is what the settings have become.
type authentication struct {
	server.Authorizer
	clients *watched[*x509.CertPool] // that vouch for client certificates; nil: none are asked for
	files   []interface{ reload() }
}

// kinds returns the kinds of authentication that are spelled out. The error has
// a line for each thing that is wrong.
func (c *authSettings) kinds() (all []string, err error) {
	for word := range strings.SplitSeq(c.Authentication, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains([]string{"none", "token", "htpasswd", "certificate"}, word) || slices.Contains(all, word) {
			return nil, fmt.Errorf(`authentication must be spelled out: token, htpasswd or certificate, or "none", which lets everybody do everything, so that access has to be limited in front of this server; it is %q`, c.Authentication)
		}
		all = append(all, word)
	}
	has := func(kind string) bool { return slices.Contains(all, kind) }
	var wrong []error
	switch {
	case has("none") && len(all) > 1:
		wrong = append(wrong, errors.New("authentication is none and something else: leave one of them out"))
	case has("token") && has("htpasswd"):
		wrong = append(wrong, errors.New("authentication is both token and htpasswd: clients would not know which to use; choose one"))
	}
	for _, left := range []struct {
		kind, setting string
		set           bool
	}{
		{"token", "token.keys", c.Token.Keys != ""},
		{"htpasswd", "htpasswd.file", c.Htpasswd.File != ""},
		{"certificate", "client-ca", c.ClientCA != ""},
	} {
		if has(left.kind) != left.set {
			if left.set {
				wrong = append(wrong, fmt.Errorf("%s is set, and authentication is %s: add %s to it, or leave %s out", left.setting, c.Authentication, left.kind, left.setting))
			} else {
				wrong = append(wrong, fmt.Errorf("%s is not set: authentication is %s", left.setting, c.Authentication))
			}
		}
	}
	switch {
	case has("none") && c.Access != "":
		wrong = append(wrong, errors.New("access is set, and authentication is none: nobody would be asked who they are, so no rule can hold"))
	case c.Access == "" && (has("htpasswd") || has("certificate")):
		wrong = append(wrong, errors.New("access is not set: it names the file that says who may do what, such as /etc/iechor-trustd/access.yaml"))
	}
	return all, errors.Join(wrong...)
}

// open makes the authorizer, and reads the files that it needs.
func (c *authSettings) open(log *slog.Logger, now func() time.Time) (*authentication, error) {
	kinds, err := c.kinds()
	if err != nil {
		return nil, err
	}
	a := &authentication{Authorizer: server.NoAuth{}}
	var rules func() *server.Rules
	if c.Access != "" {
		w, err := watchFile("access rules", log, parseAccess, c.Access)
		if err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		rules, a.files = w.get, append(a.files, w)
	}
	var next server.Authorizer
	if slices.Contains(kinds, "token") {
		if next, err = c.tokens(a, rules, log, now); err != nil {
			return nil, err
		}
		a.Authorizer = next
	}
	if slices.Contains(kinds, "htpasswd") {
		if next, err = c.passwords(a, rules, log, now); err != nil {
			return nil, err
		}
		a.Authorizer = next
	}
	if slices.Contains(kinds, "certificate") {
		if a.clients, err = watchFile("client authorities", log, parsePool, c.ClientCA); err != nil {
			return nil, fmt.Errorf("client-ca: %w", err)
		}
		a.files = append(a.files, a.clients)
		if a.Authorizer, err = server.NewCertificateAuth(rules, next); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (c *authSettings) tokens(a *authentication, rules func() *server.Rules, log *slog.Logger, now func() time.Time) (server.Authorizer, error) {
	keys, err := watchFile("token keys", log, server.ParseTokenKeys, c.Token.Keys)
	if err != nil {
		return nil, fmt.Errorf("token.keys: %w", err)
	}
	a.files = append(a.files, keys)
	if len(c.Token.Algorithms) == 0 {
		return nil, errors.New("token.algorithms is empty: no token could be believed")
	}
	auth, err := server.NewTokenAuth(server.TokenConfig{
		Realm: c.Token.Realm, Service: c.Token.Service, Issuer: c.Token.Issuer, Keys: keys.get,
		Algorithms: c.Token.Algorithms, Leeway: orNever(c.Token.Leeway), AutoRedirect: c.Token.AutoRedirect, Rules: rules, Now: now,
	})
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return auth, nil
}

// proxies are the networks of those who are believed about whom they forward.
func (c *authSettings) proxies() (proxies []netip.Prefix, err error) {
	for _, text := range c.Proxies {
		p, err := netip.ParsePrefix(text)
		if one, oneErr := netip.ParseAddr(text); err != nil && oneErr == nil {
			p, err = one.Prefix(one.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("proxies: %q is no network such as 10.1.0.0/16", text)
		}
		proxies = append(proxies, p.Masked())
	}
	return proxies, nil
}

func (c *authSettings) passwords(a *authentication, rules func() *server.Rules, log *slog.Logger, now func() time.Time) (server.Authorizer, error) {
	proxies, err := c.proxies()
	if err != nil {
		return nil, err
	}
	users, err := watchFile("users", log, func(raw []byte) (*server.Users, error) {
		return server.ParseUsers(raw, server.MinCost)
	}, c.Htpasswd.File)
	if err != nil {
		return nil, fmt.Errorf("htpasswd.file: %w", err)
	}
	a.files = append(a.files, users)
	auth, err := server.NewPasswordAuth(server.PasswordConfig{
		Realm: c.Htpasswd.Realm, Users: users.get, Rules: rules, Proxies: proxies, Log: log, Now: now,
	})
	if err != nil {
		return nil, fmt.Errorf("htpasswd: %w", err)
	}
	return auth, nil
}

// askClients makes a server ask for client certificates, if they count.
func (a *authentication) askClients(t *tls.Config) (*tls.Config, error) {
	if a.clients == nil {
		return t, nil
	}
	if t == nil {
		return nil, errors.New("authentication is by certificate, and plaintext is true: client certificates need TLS")
	}
	// Who has no certificate may still log in otherwise, or read what is open to
	// anyone.
	return withClients(t, tls.VerifyClientCertIfGiven, a.clients), nil
}
