package registry

import (
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/windows"
)

// dialPipe opens a named pipe, whose path is as in npipe:////./pipe/NAME.
func dialPipe(path string) (net.Conn, error) {
	f, err := os.OpenFile(strings.ReplaceAll(path, "/", `\`), os.O_RDWR|windows.O_FILE_FLAG_OVERLAPPED, 0)
	if err != nil {
		return nil, err
	}
	return pipe{f}, nil
}

// A pipe is a connection: os.File has all of it but the addresses.
type pipe struct{ *os.File }

func (p pipe) LocalAddr() net.Addr  { return pipeAddr(p.Name()) }
func (p pipe) RemoteAddr() net.Addr { return pipeAddr(p.Name()) }

func (p pipe) SetDeadline(t time.Time) error { return p.File.SetDeadline(t) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
