package signer

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/iechor/trust/certs"
)

// Rights are what one identity may do. The zero value may only call Ping. What
// a server does (Sign, Create), and what ends or lowers what the ledger demands
// of servers (Forget, Operate), are for two identities: see [Rights.Check].
type Rights struct {
	Sign    bool // Sign, Holds, Floors
	Create  bool // CreateKey, MayBegin, Holds
	Forget  bool // Forget
	Operate bool // LowerFloor, Recall, Floors, Holds
}

// of returns the right that a word of the configuration names; nil: none.
func (r *Rights) of(word string) *bool {
	switch word {
	case "sign":
		return &r.Sign
	case "create":
		return &r.Create
	case "forget":
		return &r.Forget
	case "operate":
		return &r.Operate
	}
	return nil
}

// words are the rights in r, as ParseRights reads them.
func (r Rights) words() []string {
	words := []string{}
	for _, word := range []string{"sign", "create", "forget", "operate"} {
		if *r.of(word) {
			words = append(words, word)
		}
	}
	return words
}

// ParseRights reads a list of sign, create, forget and operate. What it returns
// may be more than one identity may have: see [Rights.Check].
func ParseRights(words []string) (Rights, error) {
	var r Rights
	for _, word := range words {
		right := r.of(word)
		if right == nil {
			return Rights{}, fmt.Errorf("%q is not a right: choose of sign, create, forget, operate", word)
		}
		*right = true
	}
	return r, nil
}

// Check refuses what no identity may have (attacks.md G3): with the rights of
// a server, which can be broken into, those to have repositories begin anew at
// version 1, or go back.
func (r Rights) Check() error {
	server, operator := Rights{Sign: r.Sign, Create: r.Create}, Rights{Forget: r.Forget, Operate: r.Operate}
	if server == (Rights{}) || operator == (Rights{}) {
		return nil
	}
	return fmt.Errorf("who may %s must not %s, or whoever breaks into a server could end repositories or set them back: leave it [%s], and list an operator's certificate with [%s]",
		strings.Join(server.words(), " and "), strings.Join(operator.words(), " nor "), strings.Join(server.words(), ", "), strings.Join(operator.words(), ", "))
}

// errNotListed is why a caller is refused whom no identity is about.
var errNotListed = errors.New("not on the signer's list")

// rights returns who calls and what they may do. The error says why they are
// refused whatever they ask; who, if not empty, is then for the log. attacks.md
// G1: callers who are not listed; G3: callers who show the names of several
// identities, and so have what [Rights.Check] gives to two.
func (s *Service) rights(r *http.Request) (who string, may Rights, err error) {
	if r.TLS == nil {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if local == nil || local.Network() != "unix" {
			return "", Rights{}, errNotListed
		}
		may, listed := s.identities[certs.Unix]
		if !listed {
			err = errNotListed
		}
		return certs.Unix, may, err
	}
	if len(r.TLS.VerifiedChains) == 0 {
		return "", Rights{}, errNotListed
	}
	shown := certs.Identities(r.TLS.VerifiedChains[0][0])
	who, err = shown[0], errNotListed
	for _, name := range shown {
		if granted, listed := s.identities[name]; listed {
			who, err = name, nil
			may.Sign = may.Sign || granted.Sign
			may.Create = may.Create || granted.Create
			may.Forget = may.Forget || granted.Forget
			may.Operate = may.Operate || granted.Operate
		}
	}
	if err == nil {
		err = may.Check()
	}
	return who, may, err
}
