//go:build !piv || !cgo

package piv

// none is the system of a build that cannot talk to smart cards.
type none struct{}

func newSystem() system { return none{} }

func (none) readers() ([]string, error)   { return nil, ErrBuild }
func (none) connect(string) (card, error) { return nil, ErrBuild }
