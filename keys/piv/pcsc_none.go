//go:build !piv || !cgo

package piv

import (
	"fmt"

	"github.com/iechor/trust/keys"
)

// none is the system of a build that cannot talk to smart cards.
type none struct{}

func newSystem() system { return none{} }

var errBuild = fmt.Errorf("%w: it was built without PIV (go build -tags piv, with cgo and the headers of libpcsclite)", keys.ErrNoSupport)

func (none) readers() ([]string, error)   { return nil, errBuild }
func (none) connect(string) (card, error) { return nil, errBuild }
