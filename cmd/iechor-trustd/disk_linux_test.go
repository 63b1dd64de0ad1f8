package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// The disk of server or signer is really full, because something else has
// filled it: a publish is refused, everything acknowledged is served, and when
// the space is there again the same process goes on.
func TestDiskFilledAndFreed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a full disk is made by root")
	}
	enter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Skip("nsenter is not installed: apt-get install util-linux")
	}
	for _, part := range []string{"server", "signer"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			write(t, s.file("kek"), kek("0123456789abcdef")) // not on the disk, which is empty
			s.configureSigner(t, "\nkey-encryption-key: file:DIR/kek")
			const options = "size=2m,mode=0700"
			if status, _, errs := waitFor(t, onDisk(t, s.file(part), options, "version")); status != 0 {
				t.Skipf("this root may not mount: %s", errs)
			}
			run := func(which string) *process {
				if which == part {
					return startCommand(t, onDisk(t, s.file(part), options, part, "--config", s.file(part+".yaml")))
				}
				return start(t, which, "--config", s.file(which+".yaml"))
			}
			signer := run("signer")
			s.signerAt.lead(signer.addr)
			server := run("server")
			full := map[string]*process{"server": server, "signer": signer}[part]
			inside := "/proc/" + strconv.Itoa(full.cmd.Process.Pid)
			disk := filepath.Join(inside, "root", s.file(part))
			write(t, filepath.Join(disk, "kek"), kek("0123456789abcdef")) // where check looks for the signer's
			p := newPublisher(t, s, "registry.example/app")
			if err := p.init(t.Context(), server, "first"); err != nil {
				t.Fatal(err)
			}
			tags := []string{"first"}
			for round := range 2 {
				ballast := filepath.Join(disk, "ballast")
				fillDisk(t, ballast)
				for err = nil; err == nil && len(tags) < 1000; {
					tag := fmt.Sprint("v", len(tags))
					if err = p.publish(t.Context(), server, tag); err == nil {
						tags = append(tags, tag)
					}
				}
				if refusedBy(err) != http.StatusServiceUnavailable {
					t.Errorf("publish on a full disk = %v after %d tags, want 503", err, len(tags))
				}
				p.has(server, tags...)
				full.logs("database or disk is full")
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				tag := fmt.Sprint("freed", round)
				if err := p.publish(t.Context(), server, tag); err != nil {
					t.Errorf("publish when there is space again: %v", err)
				}
				tags = append(tags, tag)
				p.has(server, tags...)
			}
			for _, look := range [][]string{{"check", "--dir", s.dir}, {"audit", "--config", s.file("signer.yaml"), "--verify"}} {
				c := program(t, nil, look...)
				c.Path, c.Args = enter, append([]string{enter, "--mount=" + inside + "/ns/mnt"}, c.Args...)
				if status, out, errs := waitFor(t, c); status != 0 || errs != "" {
					t.Errorf("%s = %d\n%s%s", look[0], status, out, errs)
				}
			}
			server.stop()
			signer.stop()
		})
	}
}

// fillDisk takes all the space that there is.
func fillDisk(t *testing.T, ballast string) {
	t.Helper()
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 64<<10); len(block) > 0; block = block[:len(block)/2] {
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	_ = f.Close() // it is full
}
