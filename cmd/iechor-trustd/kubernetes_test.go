package main

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What Kubernetes has of these kinds, as far as it is used here: a field that
// is not in these structs is refused.
type (
	kubeHead struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   kubeMeta
	}
	kubeMeta struct {
		Name, Namespace     string
		Labels, Annotations map[string]string
	}
	kubeSelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	kubeHTTPGet struct{ Path, Port string }
	kubeProbe   struct {
		HTTPGet          kubeHTTPGet `yaml:"httpGet"`
		PeriodSeconds    int         `yaml:"periodSeconds"`
		TimeoutSeconds   int         `yaml:"timeoutSeconds"`
		FailureThreshold int         `yaml:"failureThreshold"`
	}
	kubePort struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	kubeContainer struct {
		Name, Image string
		Args        []string
		Env         []struct {
			Name, Value string
			ValueFrom   struct {
				SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
			} `yaml:"valueFrom"`
		}
		Ports           []kubePort
		StartupProbe    *kubeProbe `yaml:"startupProbe"`
		LivenessProbe   *kubeProbe `yaml:"livenessProbe"`
		ReadinessProbe  *kubeProbe `yaml:"readinessProbe"`
		Resources       struct{ Requests, Limits map[string]string }
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	kubeVolume struct {
		Name      string
		Projected struct {
			DefaultMode int `yaml:"defaultMode"`
			Sources     []struct {
				ConfigMap struct{ Name string } `yaml:"configMap"`
				Secret    struct{ Name string }
			}
		}
	}
	kubePod struct {
		Metadata kubeMeta
		Spec     struct {
			AutomountServiceAccountToken  *bool  `yaml:"automountServiceAccountToken"`
			EnableServiceLinks            *bool  `yaml:"enableServiceLinks"`
			TerminationGracePeriodSeconds int    `yaml:"terminationGracePeriodSeconds"`
			RestartPolicy                 string `yaml:"restartPolicy"`
			SecurityContext               struct {
				RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
				RunAsUser      int                   `yaml:"runAsUser"`
				RunAsGroup     int                   `yaml:"runAsGroup"`
				FSGroup        int                   `yaml:"fsGroup"`
				SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
			} `yaml:"securityContext"`
			TopologySpreadConstraints []struct {
				MaxSkew           int          `yaml:"maxSkew"`
				TopologyKey       string       `yaml:"topologyKey"`
				WhenUnsatisfiable string       `yaml:"whenUnsatisfiable"`
				LabelSelector     kubeSelector `yaml:"labelSelector"`
			} `yaml:"topologySpreadConstraints"`
			Containers []kubeContainer
			Volumes    []kubeVolume
		}
	}
	kubeDeployment struct {
		kubeHead `yaml:",inline"`
		Spec     struct {
			Replicas int
			Selector kubeSelector
			Strategy struct {
				Type          string
				RollingUpdate struct {
					MaxUnavailable int `yaml:"maxUnavailable"`
					MaxSurge       int `yaml:"maxSurge"`
				} `yaml:"rollingUpdate"`
			}
			Template kubePod
		}
	}
	kubeJob struct {
		kubeHead `yaml:",inline"`
		Spec     struct {
			BackoffLimit            int `yaml:"backoffLimit"`
			TTLSecondsAfterFinished int `yaml:"ttlSecondsAfterFinished"`
			Template                kubePod
		}
	}
	kubeService struct {
		kubeHead `yaml:",inline"`
		Spec     struct {
			Type     string
			Selector map[string]string
			Ports    []struct {
				Name       string
				Port       int
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
	kubePeer struct {
		PodSelector       *kubeSelector `yaml:"podSelector"`
		NamespaceSelector *kubeSelector `yaml:"namespaceSelector"`
	}
	kubeRule struct {
		From  []kubePeer
		Ports []struct {
			Protocol string
			Port     int
		}
	}
	kubePolicy struct {
		kubeHead `yaml:",inline"`
		Spec     struct {
			PodSelector     kubeSelector `yaml:"podSelector"`
			PolicyTypes     []string     `yaml:"policyTypes"`
			Ingress, Egress []kubeRule
		}
	}
	kubeBudget struct {
		kubeHead `yaml:",inline"`
		Spec     struct {
			MinAvailable int `yaml:"minAvailable"`
			Selector     kubeSelector
		}
	}
	kubeFiles struct {
		kubeHead `yaml:",inline"`
		Type     string
		Data     map[string]string
	}
	kubeGenerator struct {
		Name  string
		Files []string
	}
	kubeKustomization struct {
		kubeHead  `yaml:",inline"`
		Namespace string
		Resources []string
		Images    []struct {
			Name    string
			NewName string `yaml:"newName"`
			NewTag  string `yaml:"newTag"`
		}
		ConfigMapGenerator []kubeGenerator `yaml:"configMapGenerator"`
		SecretGenerator    []kubeGenerator `yaml:"secretGenerator"`
	}
)

var kubeVersions = map[string]string{
	"Deployment": "apps/v1", "Job": "batch/v1", "Service": "v1", "NetworkPolicy": "networking.k8s.io/v1", "PodDisruptionBudget": "policy/v1",
	"ConfigMap": "v1", "Secret": "v1", "Namespace": "v1", "Kustomization": "kustomize.config.k8s.io/v1beta1",
}

// A kube is everything that is applied.
type kube struct {
	deployments map[string]*kubeDeployment
	jobs        map[string]*kubeJob
	services    map[string]*kubeService
	policies    map[string]*kubePolicy
	budgets     map[string]*kubeBudget
	files       map[string]*kubeFiles
}

// strict decodes a document; what has no place in v is an error.
func strict(t testing.TB, name string, node *yaml.Node, v any) {
	t.Helper()
	raw, err := yaml.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// add reads the documents of a file.
func (k *kube) add(t testing.TB, name, text string) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var doc yaml.Node
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var head kubeHead
		if err := doc.Decode(&head); err != nil || kubeVersions[head.Kind] != head.APIVersion || head.APIVersion == "" {
			t.Fatalf("%s: %+v, %v", name, head, err)
		}
		node, called := doc.Content[0], head.Metadata.Name
		switch head.Kind {
		case "Deployment":
			put(t, k.deployments, name, called, node)
		case "Job":
			put(t, k.jobs, name, called, node)
		case "Service":
			put(t, k.services, name, called, node)
		case "NetworkPolicy":
			put(t, k.policies, name, called, node)
		case "PodDisruptionBudget":
			put(t, k.budgets, name, called, node)
		case "ConfigMap", "Secret":
			put(t, k.files, name, called, node)
		case "Namespace":
			strict(t, name, node, &struct {
				kubeHead `yaml:",inline"`
			}{})
		default:
			t.Errorf("%s: kind %s", name, head.Kind)
		}
	}
}

func put[T any](t testing.TB, all map[string]*T, file, name string, node *yaml.Node) {
	t.Helper()
	if all[name] != nil {
		t.Errorf("%s: %s is there twice", file, name)
	}
	all[name] = new(T)
	strict(t, file, node, all[name])
}

func newKube() *kube {
	return &kube{map[string]*kubeDeployment{}, map[string]*kubeJob{}, map[string]*kubeService{}, map[string]*kubePolicy{}, map[string]*kubeBudget{}, map[string]*kubeFiles{}}
}

// readKube returns what the kustomization in dir makes.
func readKube(t testing.TB, dir string) *kube {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(readFile(t, filepath.Join(dir, "kustomization.yaml"))), &doc); err != nil {
		t.Fatal(err)
	}
	var c kubeKustomization
	strict(t, "kustomization.yaml", doc.Content[0], &c)
	if c.APIVersion != kubeVersions[c.Kind] {
		t.Errorf("kustomization: %s %s", c.APIVersion, c.Kind)
	}
	k := newKube()
	named := []string{"kustomization.yaml"}
	for _, name := range c.Resources {
		named = append(named, name)
		k.add(t, name, readFile(t, filepath.Join(dir, name)))
	}
	for _, g := range slices.Concat(c.ConfigMapGenerator, c.SecretGenerator) {
		f := &kubeFiles{Data: map[string]string{}}
		for _, source := range g.Files {
			key, file, ok := strings.Cut(source, "=")
			if !ok {
				key, file = filepath.Base(source), source
			}
			named = append(named, file)
			f.Data[key] = readFile(t, filepath.Join(dir, file))
		}
		if k.files[g.Name] != nil {
			t.Errorf("%s is generated twice", g.Name)
		}
		k.files[g.Name] = f
	}
	there, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range there {
		if !slices.Contains(named, filepath.Base(name)) {
			t.Errorf("nobody applies %s", name)
		}
	}
	return k
}

// The manifests have only fields that Kubernetes knows, fit together, and give
// server and signer configurations, commands, files and variables that they
// take, all of which are used.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "deploy", "kubernetes"))); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "secrets")
	makeCertificates(t, secrets, "SERVER=trust.example.com", "SIGNER=iechor-signer")
	write(t, filepath.Join(secrets, "kek"), kek("0123456789abcdef"))
	write(t, filepath.Join(secrets, "trust-password"), "secret")
	write(t, filepath.Join(secrets, "signer-password"), "secret")
	write(t, filepath.Join(secrets, "database-ca.crt"), readFile(t, filepath.Join(secrets, "inside-ca.crt")))
	write(t, filepath.Join(dir, "token-keys.pem"), readFile(t, filepath.Join(secrets, "ca.crt")))
	readKube(t, dir).check(t)

	if _, err := exec.LookPath("kubectl"); err != nil {
		lacks(t, "kubectl", "kubernetes-client")
		return
	}
	c := exec.Command("kubectl", "kustomize", dir)
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	made := output(t, c)
	k := newKube()
	k.add(t, "kubectl kustomize", regexp.MustCompile(`(?m)^  namespace: iechor-trust\n`).ReplaceAllString(made, ""))
	if len(k.deployments) != 2 || len(k.files) != 6 || !strings.Contains(made, "image: registry.example.com/iechor-trustd:1") {
		t.Errorf("kubectl makes\n%s", made)
	}
	for name, d := range k.deployments {
		k.checkReferences(t, name, &d.Spec.Template, map[string]bool{})
	}
}

// checkReferences looks at what a pod refers to, and returns the files that it
// has and the names of its variables.
func (k *kube) checkReferences(t testing.TB, name string, p *kubePod, used map[string]bool) (map[string]string, []string) {
	t.Helper()
	c := &p.Spec.Containers[0]
	files, variables := map[string]string{}, []string(nil)
	for _, e := range c.Env {
		ref := e.ValueFrom.SecretKeyRef
		if f := k.files[ref.Name]; f == nil || f.Data[ref.Key] == "" {
			t.Errorf("%s: nobody makes %s of %s", name, ref.Key, ref.Name)
		}
		used[ref.Name+"/"+ref.Key] = true
		variables = append(variables, e.Name)
	}
	if len(c.VolumeMounts) != 1 || len(p.Spec.Volumes) != 1 || c.VolumeMounts[0].Name != p.Spec.Volumes[0].Name || !c.VolumeMounts[0].ReadOnly {
		t.Fatalf("%s mounts %+v of %+v", name, c.VolumeMounts, p.Spec.Volumes)
	}
	if mode := p.Spec.Volumes[0].Projected.DefaultMode; mode != 0o440 {
		t.Errorf("%s mounts its files with mode %o", name, mode)
	}
	for _, s := range p.Spec.Volumes[0].Projected.Sources {
		from := k.files[s.ConfigMap.Name+s.Secret.Name]
		if from == nil {
			t.Fatalf("%s: nobody makes %+v", name, s)
		}
		for key, text := range from.Data {
			used[s.ConfigMap.Name+s.Secret.Name+"/"+key] = true
			files[c.VolumeMounts[0].MountPath+"/"+key] = text
		}
	}
	return files, variables
}

func (k *kube) check(t *testing.T) {
	t.Helper()
	used := map[string]bool{}
	pods := map[string]*kubePod{}
	for name, j := range k.jobs {
		pods[name] = &j.Spec.Template
		if j.Spec.Template.Spec.RestartPolicy != "OnFailure" {
			t.Errorf("%s: %+v", name, j.Spec)
		}
	}
	for _, part := range []string{"server", "signer"} {
		name := "iechor-" + part
		d, s, b, n := k.deployments[name], k.services[name], k.budgets[name], k.policies[name]
		if d == nil || s == nil || b == nil || n == nil || k.jobs[name+"-migrate"] == nil {
			t.Fatalf("%s has %v %v %v %v, jobs %v", name, d, s, b, n, k.jobs)
		}
		pods[name] = &d.Spec.Template
		labels := d.Spec.Template.Metadata.Labels
		for what, selector := range map[string]map[string]string{
			"deployment": d.Spec.Selector.MatchLabels, "service": s.Spec.Selector, "budget": b.Spec.Selector.MatchLabels, "policy": n.Spec.PodSelector.MatchLabels,
			"spread": d.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels,
		} {
			if !maps.Equal(selector, labels) || len(labels) == 0 {
				t.Errorf("the %s of %s selects %v, and pods have %v", what, name, selector, labels)
			}
		}
		if d.Spec.Replicas <= b.Spec.MinAvailable {
			t.Errorf("%s: none of %d may be away", name, d.Spec.Replicas)
		}
		k.checkPart(t, part)
	}
	for name, p := range pods {
		c := &p.Spec.Containers[0]
		pod, container := p.Spec.SecurityContext, c.SecurityContext
		if len(p.Spec.Containers) != 1 || c.Image != "iechor-trustd" || !pod.RunAsNonRoot || pod.RunAsUser != 65532 || pod.FSGroup != 65532 || pod.SeccompProfile.Type != "RuntimeDefault" ||
			!container.ReadOnlyRootFilesystem || *container.AllowPrivilegeEscalation || !slices.Equal(container.Capabilities.Drop, []string{"ALL"}) || *p.Spec.AutomountServiceAccountToken {
			t.Errorf("%s may too much: %+v", name, p.Spec)
		}
		files, variables := k.checkReferences(t, name, p, used)
		if file := isCommand(t, name, c.Args); files[file] == "" {
			t.Errorf("%s: %v names a file that is not there", name, c.Args)
		} else if p.Spec.RestartPolicy == "" {
			checkConfiguration(t, name, file, files, variables)
		}
	}
	for name, f := range k.files {
		for key := range f.Data {
			if !used[name+"/"+key] {
				t.Errorf("nobody uses %s of %s", key, name)
			}
		}
	}
	// Nobody but the server reaches the signer.
	for _, rule := range k.policies["iechor-signer"].Spec.Ingress {
		for _, from := range rule.From {
			server := from.PodSelector != nil && maps.Equal(from.PodSelector.MatchLabels, k.deployments["iechor-server"].Spec.Template.Metadata.Labels)
			if rule.Ports[0].Port != 9090 && !server || len(rule.Ports) != 1 || len(rule.From) != 1 {
				t.Errorf("%+v may call the signer", rule)
			}
		}
		if len(rule.From) == 0 {
			t.Errorf("everybody may call the signer: %+v", rule)
		}
	}
}

// checkPart compares ports and times of a deployment with its configuration.
func (k *kube) checkPart(t testing.TB, part string) {
	t.Helper()
	name := "iechor-" + part
	text := k.files[name].Data[part+".yaml"]
	var listen, monitor string
	var delay duration
	if part == "server" {
		c := defaultServerConfig()
		if err := parseConfig([]byte(text), c); err != nil {
			t.Fatal(err)
		}
		listen, monitor, delay = c.Listen, c.MetricsListen, c.DrainDelay
		signer := k.services["iechor-signer"]
		if want := "https://" + signer.Metadata.Name + ":" + strconv.Itoa(signer.Spec.Ports[0].Port); c.Signer.URL != want {
			t.Errorf("signer.url is %s, want %s", c.Signer.URL, want)
		}
	} else {
		c := defaultSignerConfig()
		if err := parseConfig([]byte(text), c); err != nil {
			t.Fatal(err)
		}
		listen, monitor, delay = c.Listen, c.MetricsListen, c.DrainDelay
	}
	p := &k.deployments[name].Spec.Template
	c := &p.Spec.Containers[0]
	ports := map[string]string{}
	var open []string
	for _, port := range c.Ports {
		ports[port.Name] = ":" + strconv.Itoa(port.ContainerPort)
	}
	for _, rule := range k.policies[name].Spec.Ingress {
		open = append(open, ":"+strconv.Itoa(rule.Ports[0].Port))
	}
	service := k.services[name].Spec.Ports[0]
	if len(ports) != 2 || ports["metrics"] != monitor || ports[service.TargetPort] != listen || !slices.Equal(open, []string{listen, monitor}) ||
		p.Metadata.Annotations["prometheus.io/port"] != monitor[1:] {
		t.Errorf("%s listens on %s and %s; the container has %v, the service leads to %s, open are %v", name, listen, monitor, ports, service.TargetPort, open)
	}
	for what, probe := range map[string]*kubeProbe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if probe == nil || ports[probe.HTTPGet.Port] != monitor || !slices.Contains([]string{"/healthz", "/readyz"}, probe.HTTPGet.Path) {
			t.Errorf("%s: %s probe %+v", name, what, probe)
		}
	}
	if c.LivenessProbe.HTTPGet.Path != "/healthz" {
		t.Errorf("%s is killed while its database is away", name)
	}
	if need := int(delay)/1e9 + int(drain)/1e9; p.Spec.TerminationGracePeriodSeconds <= need {
		t.Errorf("%s needs %d seconds to stop and has %d", name, need, p.Spec.TerminationGracePeriodSeconds)
	}
}
