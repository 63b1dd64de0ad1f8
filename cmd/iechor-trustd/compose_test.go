package main

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/iechor/trust/database/databasetest"
)

type composeService struct {
	Image, Restart           string
	Command, Networks, Ports []string
	DependsOn                []string `yaml:"depends_on"`
	ReadOnly                 bool     `yaml:"read_only"`
	CapDrop                  []string `yaml:"cap_drop"`
	SecurityOpt              []string `yaml:"security_opt"`
	StopGracePeriod          duration `yaml:"stop_grace_period"`
	Ulimits                  map[string]int
	Secrets, Volumes         []string
	Environment              map[string]string
}

type composeFile struct {
	Services map[string]composeService
	Networks map[string]struct{ Internal bool }
	Volumes  map[string]struct{}
	Secrets  map[string]struct{ File string }
}

// What compose.yaml starts: its parts fit together, its configurations name what
// is mounted, and with them, its PostgreSQL settings and its SQL, signer and
// server come to work over TLS on all sides.
func TestCompose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "deploy", "compose"))); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "secrets")
	makeCertificates(t, secrets, "SERVER=localhost", "SIGNER=localhost", "DATABASE=localhost")
	write(t, filepath.Join(secrets, "kek"), kek("0123456789abcdef"))
	write(t, filepath.Join(secrets, "postgres"), "secret")
	hash, err := bcrypt.GenerateFromPassword([]byte("wonderland"), 10)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(secrets, "htpasswd"), "alice:"+string(hash)+"\n")

	var c composeFile
	text := readFile(t, filepath.Join(dir, "compose.yaml"))
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("docker-compose"); err != nil {
		lacks(t, "docker-compose", "docker-compose")
	} else {
		_ = output(t, exec.Command("docker-compose", "-f", filepath.Join(dir, "compose.yaml"), "config", "-q"))
	}
	used := map[string]bool{}
	for name, s := range c.Services {
		all := strings.Join(s.Command, " ")
		for _, v := range s.Environment {
			all += " " + v
		}
		files := map[string]string{}
		for _, secret := range s.Secrets {
			used[secret] = true
			file := c.Secrets[secret].File
			if file != "./secrets/"+secret {
				t.Errorf("%s: the secret %s is %q", name, secret, file)
				continue
			}
			files["/run/secrets/"+secret] = readFile(t, filepath.Join(dir, file))
		}
		for _, v := range s.Volumes {
			source, target, _ := strings.Cut(v, ":")
			if target, ok := strings.CutSuffix(target, ":ro"); ok {
				files[target] = readFile(t, filepath.Join(dir, source))
				all += "\n" + files[target]
			} else if _, known := c.Volumes[source]; !known {
				t.Errorf("%s: volume %s", name, v)
			}
		}
		for _, n := range s.Networks {
			if _, known := c.Networks[n]; !known {
				t.Errorf("%s: network %s", name, n)
			}
		}
		for path := range files {
			if strings.HasPrefix(path, "/run/secrets/") && !regexp.MustCompile(regexp.QuoteMeta(path)+`\b`).MatchString(all) {
				t.Errorf("%s does not use %s", name, path)
			}
		}
		if s.Image != "iechor-trustd" {
			for _, path := range regexp.MustCompile(`/run/secrets/[\w.-]+`).FindAllString(all, -1) {
				if files[path] == "" {
					t.Errorf("%s has no %s", name, path)
				}
			}
			continue
		}
		if !s.ReadOnly || len(s.CapDrop) != 1 || time.Duration(s.StopGracePeriod) <= drain || s.Command[0] != name {
			t.Errorf("%s: %+v", name, s)
		}
		checkConfiguration(t, name, isCommand(t, name, s.Command), files, nil)
	}
	for name := range c.Secrets {
		if !used[name] {
			t.Errorf("nobody uses the secret %s", name)
		}
	}
	for network, want := range map[string][]string{"signing": {"server", "signer"}, "data": {"database", "server"}, "signer-data": {"database", "signer"}} {
		var got []string
		for name, s := range c.Services {
			if slices.Contains(s.Networks, network) {
				got = append(got, name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) || !c.Networks[network].Internal {
			t.Errorf("in the network %s are %v, want %v", network, got, want)
		}
	}
	runCompose(t, dir, c.Services["database"].Command)
}

// runCompose starts what the folder configures, on this machine.
func runCompose(t *testing.T, dir string, postgres []string) {
	var settings []string
	files := map[string]string{}
	for _, word := range postgres {
		if strings.Contains(word, "=") {
			settings = append(settings, regexp.MustCompile(`/(run/secrets|etc/postgresql)`).ReplaceAllString(word, "DIR"))
		}
	}
	for _, name := range []string{"secrets/database.crt", "secrets/database.key", "secrets/inside-ca.crt", "pg_hba.conf"} {
		files[filepath.Base(name)] = readFile(t, filepath.Join(dir, name))
	}
	port, socket := databasetest.StartPostgreSQL(t, files, append(settings, "fsync=off")...)
	psql := exec.Command("psql", "-X", "-v", "ON_ERROR_STOP=1", "-h", socket, "-p", port, "-U", "postgres", "-f", filepath.Join(dir, "databases.sql"))
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	begin := func(part, signer string) *process {
		file := filepath.Join(dir, part+".yaml")
		write(t, file, strings.NewReplacer("/run/secrets", filepath.Join(dir, "secrets"), "/etc/iechor-trustd", dir, "@database/", "@localhost:"+port+"/",
			"signer:7899", strings.Replace(signer, "127.0.0.1", "localhost", 1), "metrics-listen: :9090", "metrics-listen: 127.0.0.1:0",
			"listen: :", "listen: 127.0.0.1:0 #").Replace(readFile(t, file)))
		return start(t, part, "--config", file)
	}
	signer := begin("signer", "")
	server := begin("server", signer.addr)
	plain := &http.Client{Timeout: patience}
	for _, p := range []*process{signer, server} {
		if status, body := fetch(t, plain, monitorAt(p)+"/readyz"); status != http.StatusOK {
			t.Errorf("/readyz = %d %s", status, body)
		}
	}
	block, _ := pem.Decode([]byte(readFile(t, filepath.Join(dir, "secrets", "ca.crt"))))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	client := httpClient(t, &authority{cert: cert}, nil)
	for user, want := range map[string]int{"alice": http.StatusNotFound, "mallory": http.StatusUnauthorized} {
		req, err := http.NewRequest(http.MethodGet, "https://"+strings.Replace(server.addr, "127.0.0.1", "localhost", 1)+"/v2/localhost/app/_trust/tuf/root.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, "wonderland")
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s is answered %s, want %d", user, r.Status, want)
		}
	}
	server.stop()
	signer.stop()
}
