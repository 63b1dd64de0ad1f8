package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"github.com/iechor/trust/sandbox"
)

// A scene is one step of the tour: what is about to happen, and a command of
// the client with the exit status that it must have.
type scene struct {
	title  string
	before func() error // what happens behind the client's back
	args   []string
	exit   int
}

// tourPassphrases protect the keys that the tour makes.
var tourPassphrases = []string{
	"IECHOR_CONTENT_TRUST_ROOT_PASSPHRASE=tour-of-the-root-key",
	"IECHOR_CONTENT_TRUST_REPOSITORY_PASSPHRASE=tour-of-the-repository-key",
}

// tour plays the scenes. It ends with an error at the first whose outcome is
// not the one that content trust promises.
func (a *app) tour(ctx context.Context, s *sandbox.Sandbox, client string) error {
	image := s.Registry + "/hello"
	var restore func() error
	scenes := []scene{
		{
			title: "The first signed push. It makes the root key and the repository key here, and uploads image and signatures.",
			args:  []string{"push", "--from", "docker-archive:hello.tar", image + ":1"},
		},
		{
			title: "A verified pull. The tag is looked up in the signed data, the content is fetched by its digest.",
			args:  []string{"pull", "--to", "docker-archive:pulled.tar", image + ":1"},
		},
		{
			title: "Someone who controls the registry, and has no key, moves the tag to another image …",
			args:  []string{"push", "--disable-content-trust", "--from", "docker-archive:other.tar", image + ":1"},
		},
		{
			title: "… and the pull still gets what the owner signed.",
			args:  []string{"pull", "--to", "docker-archive:pulled.tar", image + ":1"},
		},
		{
			title: "Now a byte of the signed image is changed in the registry's storage. The pull is refused.",
			before: func() (err error) {
				restore, err = tamper(ctx, s, image)
				return err
			},
			args: []string{"pull", "--to", "docker-archive:pulled.tar", image + ":1"},
			exit: 3,
		},
		{
			title: "An image is pushed without a signature …",
			before: func() error {
				return restore()
			},
			args: []string{"push", "--disable-content-trust", "--from", "docker-archive:other.tar", image + ":unsigned"},
		},
		{
			title: "… and with content trust on, nobody gets it.",
			args:  []string{"pull", "--to", "docker-archive:pulled.tar", image + ":unsigned"},
			exit:  1,
		},
	}
	env := append(s.Env(), tourPassphrases...)
	fmt.Fprintf(a.out, "The tour plays in %s, with these variables set:\n\n%s\n", s.Dir, sandbox.Exports(env))
	defer func() { _ = os.Remove(s.Dir + "/pulled.tar") }() // it may never have been made
	for i, sc := range scenes {
		fmt.Fprintf(a.out, "── %d. %s\n", i+1, sc.title)
		if sc.before != nil {
			if err := sc.before(); err != nil {
				return err
			}
		}
		fmt.Fprintf(a.out, "$ iechor %s\n", strings.Join(sc.args, " "))
		status, err := a.play(ctx, s, client, env, sc.args)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.out, "[exit status %d]\n\n", status)
		if status != sc.exit {
			return fmt.Errorf("scene %d of the tour ended with status %d instead of %d: please report this", i+1, status, sc.exit)
		}
	}
	return nil
}

// play runs the client in the sandbox's folder; both its streams are shown.
func (a *app) play(ctx context.Context, s *sandbox.Sandbox, client string, env, args []string) (int, error) {
	c := exec.CommandContext(ctx, client, args...)
	c.Dir, c.Env = s.Dir, append(os.Environ(), env...)
	c.Stdout, c.Stderr = a.out, a.out
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// tamper changes one byte of the layer of the image that the trust data names,
// and returns how to change it back.
func tamper(ctx context.Context, s *sandbox.Sandbox, image string) (func() error, error) {
	file, err := signedLayer(ctx, s, image)
	if err != nil {
		return nil, err
	}
	honest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	altered := bytes.Clone(honest)
	altered[len(altered)/2] ^= 1
	return func() error { return os.WriteFile(file, honest, 0o600) }, os.WriteFile(file, altered, 0o600)
}

// signedLayer finds the file of the only layer of hello.tar in the registry.
func signedLayer(ctx context.Context, s *sandbox.Sandbox, image string) (string, error) {
	state, err := s.Signed(ctx, image, "1")
	if err != nil {
		return "", err
	}
	name := strings.TrimPrefix(image, s.Registry+"/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Registry+"/v2/"+name+"/manifests/"+state, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var m struct {
		Layers []struct {
			Digest string `json:"digest"`
		} `json:"layers"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		return "", fmt.Errorf("read the manifest of %s: %w", image, err)
	}
	if len(m.Layers) != 1 {
		return "", fmt.Errorf("%s has %d layers instead of 1", image, len(m.Layers))
	}
	return s.Blob(m.Layers[0].Digest), nil
}
