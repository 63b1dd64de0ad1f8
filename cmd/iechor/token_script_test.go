package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/keys/pkcs11"
)

// TestTokenScripts runs the stories of testdata/token, each with tokens of its
// own: SoftHSM behind a library that has the manners of a card.
func TestTokenScripts(t *testing.T) {
	t.Parallel()
	if why := noTokens(); why != "" {
		say := t.Skip
		if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "softhsm") {
			say = t.Fatal
		}
		say(why)
	}
	p := scripts(filepath.Join("testdata", "token"))
	p.Cmds["card"], p.Condition = card, peer
	testscript.Run(t, p)
}

// noTokens says what is missing for tests with tokens.
func noTokens() string {
	_, noUtil := exec.LookPath("softhsm2-util")
	_, noCompiler := exec.LookPath("cc")
	switch {
	case softHSM() == "" || noUtil != nil:
		return "SoftHSM is not here: apt-get install softhsm2"
	case noCompiler != nil:
		return "there is no C compiler: apt-get install gcc libc6-dev"
	case !pkcs11.Supported:
		return "this build has no PKCS#11: set CGO_ENABLED=1"
	}
	return ""
}

// softHSM is the path of SoftHSM's library; or empty.
func softHSM() string {
	for _, path := range []string{
		"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// cardLibrary compiles testdata/token/card.c into dir.
func cardLibrary(ts *testscript.TestScript, dir string) string {
	path := filepath.Join(dir, "card.so")
	source, err := filepath.Abs(filepath.Join("testdata", "token", "card.c"))
	ts.Check(err)
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", path, source, "-ldl").CombinedOutput(); err != nil {
		ts.Fatalf("compile the card: %v: %s", err, out)
	}
	return path
}

// card makes tokens, "card new LABEL…", all with the PIN 1234 and the SO PIN
// 12345678; lets them be as a file of that name says, "card gone"; or ends
// that, "card -gone". $MODULE is the library, $CARD the folder of such files.
// A token that is "card blank LABEL" is set up anew.
func card(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs("card")
	switch args[0] {
	case "new", "blank":
		tokens := filepath.Join(dir, "tokens")
		if _, err := os.Stat(tokens); err != nil {
			ts.Check(os.MkdirAll(tokens, 0o700))
			ts.Check(os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600))
			for name, value := range map[string]string{
				"SOFTHSM2_CONF": filepath.Join(dir, "softhsm2.conf"), "CARD_DIR": dir, "CARD_MODULE": softHSM(), "MODULE": cardLibrary(ts, dir), "CARD": dir,
			} {
				ts.Setenv(name, value)
			}
		}
		for _, label := range args[1:] {
			init := []string{"--init-token", "--label", label, "--pin", "1234", "--so-pin", "12345678", "--free"}
			if args[0] == "blank" {
				softUtil(ts, dir, "--delete-token", "--token", label)
			}
			softUtil(ts, dir, init...)
		}
	default:
		if name, ends := strings.CutPrefix(args[0], "-"); ends {
			ts.Check(os.Remove(filepath.Join(dir, name)))
			return
		}
		ts.Check(os.WriteFile(filepath.Join(dir, args[0]), []byte(strings.Join(args[1:], " ")), 0o600))
	}
}

func softUtil(ts *testscript.TestScript, dir string, args ...string) {
	cmd := exec.Command("softhsm2-util", args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(dir, "softhsm2.conf"))
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("softhsm2-util %v: %v\n%s", args, err, out)
	}
}

// TestHardwareDocument sees that the stories of doc/hardware.md run its commands,
// in their order.
func TestHardwareDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../doc/hardware.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		chapter, story string
		names          *strings.Replacer // of the story
	}{
		{"PKCS#11", "token", strings.NewReplacer("$MODULE", "/usr/lib/softhsm/libsofthsm2.so", "$REGISTRY/demo/", "registry.example.com/", " --from oci:app", "",
			"home/.iechor", "~/.iechor", "$ROOT.key", "543bb8f….key", "$ROOT", "543bb8f", "$BUILDER", "57954f0", " --yes", "")},
		{"YubiKeys and other PIV cards", "piv", strings.NewReplacer("$REGISTRY", "registry.example.com", "home/.iechor", "~/.iechor",
			"$ROOT", "ID", "$NEW", "ID", "$ALICE", "ID")},
	} {
		_, chapter, _ := strings.Cut(string(doc), "\n## "+c.chapter+"\n")
		chapter, _, _ = strings.Cut(chapter, "\n## ")
		story, err := os.ReadFile(filepath.Join("testdata", c.story, "hardware.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		rest := c.names.Replace(withoutTyping(story))
		n := 0
		for line := range strings.Lines(chapter) {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			n++
			_, after, found := strings.Cut(rest, "\nexec "+command)
			if !found {
				t.Errorf("%s/hardware.txtar does not run, at this place: %s", c.story, command)
				continue
			}
			rest = "\n" + after
		}
		if n < 10 {
			t.Errorf("doc/hardware.md has %d commands about %s", n, c.chapter)
		}
	}
}
