//go:build piv && cgo

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/keys/piv/pivtest"
)

// TestPIVScripts runs the stories about YubiKeys, each with a pcscd of its own
// that has two readers.
func TestPIVScripts(t *testing.T) {
	t.Parallel()
	pivtest.Peer(t)
	p := scripts("testdata/piv")
	p.Cmds["card"] = cardCommand
	p.Cmds["key"] = keyCommand
	p.Condition = peer
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		e.Values[cardsKey{}] = &cards{}
		return setup(e)
	}
	testscript.Run(t, p)
}

// keyCommand puts the id of the key of a role into a variable: "key NAME ROLE",
// or with "key NAME ROLE ID" that of another one than ID.
func keyCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("iechor", "trust", "key", "list", "--json"))
	var all []listedKey
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &all))
	for _, k := range all {
		if k.Role == args[1] && (len(args) < 3 || string(k.ID) != args[2]) {
			ts.Setenv(args[0], string(k.ID))
			return
		}
	}
	ts.Fatalf("no key of role %s in %v", args[1], all)
}

type cardsKey struct{}

// cards is what stands in the readers of a script.
type cards struct {
	daemon *pivtest.Daemon
	cards  [2]*pivtest.Card
}

// cardCommand works on the emulated cards:
//
//	card daemon              starts pcscd; $SERIAL0 and $SERIAL1 are the cards to come
//	card insert N [FIRMWARE] puts a card into reader N, the same one again if there was one
//	card pull N
//	card touch N ACTION      what happens at the next signatures: yes, no, unplug, or
//	                         late: after the notice is due, which is timed from before
//	card slots N [SLOT…]     compares which slots hold a key
//	card root N FILE         writes the certificate above the attestations
//	card hold                has another program open the card in reader 0
func cardCommand(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "daemon" {
		d, err := pivtest.Start()
		ts.Check(err)
		ts.Defer(func() { _ = d.Stop() })
		c := scriptCards(ts)
		c.daemon = d
		for i := range c.cards {
			c.cards[i] = pivtest.New(uint32(1000001+i), pivtest.Firmware57)
			ts.Setenv(fmt.Sprintf("SERIAL%d", i), c.cards[i].Serial())
		}
		ts.Setenv(pivtest.SocketVariable, d.Socket)
		return
	}
	c := scriptCards(ts)
	if args[0] == "hold" {
		hold(ts)
		return
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	reader, card := c.daemon.Readers[n], c.cards[n]
	switch args[0] {
	case "insert":
		if len(args) > 2 {
			v, ok := map[string]pivtest.Version{"4": pivtest.Firmware4, "5.4": pivtest.Firmware54, "5.7": pivtest.Firmware57}[args[2]]
			if !ok {
				ts.Fatalf("no firmware %s", args[2])
			}
			card.Reset(v)
		}
		reader.Insert(card)
	case "pull":
		reader.Pull()
	case "touch":
		card.OnTouch(map[string]func(byte) bool{
			"yes": nil, "no": func(byte) bool { return false },
			"unplug": func(byte) bool { reader.Unplug(); return true },
			"late":   func(byte) bool { <-time.After(time.Second); return true },
		}[args[2]])
	case "slots":
		if got, want := hex.EncodeToString(card.Slots()), strings.Join(args[2:], ""); got != want {
			ts.Fatalf("slots with keys: %s, want %s", got, want)
		}
	case "root":
		raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: card.Root().Raw})
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), raw, 0o600))
	default:
		ts.Fatalf("card %s?", args[0])
	}
}

func scriptCards(ts *testscript.TestScript) *cards { return ts.Value(cardsKey{}).(*cards) }

// hold runs a program that has the card open until the script ends.
func hold(ts *testscript.TestScript) {
	cmd := exec.Command("/bin/sh", "-c", "exec hold-card")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "GORACE=" + ts.Getenv("GORACE"), pivtest.SocketVariable + "=" + ts.Getenv(pivtest.SocketVariable)}
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { _, _ = in.Close(), cmd.Wait() }) // it ends with its input
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		ts.Fatalf("hold-card: %q, %v", line, err)
	}
}

// holdCardMain is that program.
func holdCardMain() {
	s := piv.Open(piv.Config{})
	if _, err := s.List(context.Background()); err != nil || s.Away() != nil {
		fmt.Println(err, s.Away())
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the end
	os.Exit(0)
}
