package main

import (
	"crypto/tls"
	"io"
	"log"
)

// insecure trusts the certificate of the sandbox on this machine unseen.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
