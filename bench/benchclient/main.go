// Benchclient is our side of "notary init, addhash, list, lookup" in the
// benchmark: a program of the client library and nothing else, which bench
// builds and runs, as it runs notary.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/iechor/trust/bench/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := client.Run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "benchclient: %v\n", err)
		os.Exit(1)
	}
}
