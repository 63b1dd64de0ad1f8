//go:build !windows

package registry

import (
	"errors"
	"net"
)

func dialPipe(string) (net.Conn, error) {
	return nil, errors.New("named pipes are for Windows")
}
