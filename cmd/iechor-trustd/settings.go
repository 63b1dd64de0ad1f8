package main

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// envPrefix begins the variable of every setting.
const envPrefix = "IECHOR_TRUSTD_"

// A setting is one scalar or list of a configuration struct: the same value in
// the file (path), as a flag and as a variable.
type setting struct {
	path  []string
	value reflect.Value
	usage string
}

func (s setting) flag() string { return strings.Join(s.path, "-") }

func (s setting) variable() string {
	return envPrefix + strings.ToUpper(strings.NewReplacer("-", "_").Replace(strings.Join(s.path, "_")))
}

// settings lists the settings of a configuration struct, which must be
// addressable. Fields are named by their yaml tag and explained by their
// usage tag; nested structs become longer paths; maps stand in the file only.
func settings(v reflect.Value, path ...string) []setting {
	var all []setting
	for i := range v.NumField() {
		f, field := v.Type().Field(i), v.Field(i)
		p := append(slices.Clone(path), f.Tag.Get("yaml"))
		switch {
		case f.Type.Kind() == reflect.Map:
		case f.Type.Kind() == reflect.Struct:
			all = append(all, settings(field, p...)...)
		default:
			all = append(all, setting{p, field, f.Tag.Get("usage")})
		}
	}
	return all
}

// set parses text into the setting.
func (s setting) set(text string) error {
	if u, ok := s.value.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch s.value.Kind() {
	case reflect.String:
		s.value.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		s.value.SetBool(b)
	case reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		s.value.SetInt(n)
	case reflect.Slice:
		s.value.Set(reflect.ValueOf(strings.Split(text, ",")))
	}
	return nil
}

// flagValue keeps what a flag was given until the file has been read.
type flagValue struct {
	text string
	kind string
}

func (f *flagValue) String() string     { return f.text }
func (f *flagValue) Set(s string) error { f.text = s; return nil }
func (f *flagValue) Type() string       { return f.kind }

// addFlags makes a flag of every setting of config, a pointer to a struct.
func addFlags(flags *pflag.FlagSet, config any) {
	for _, s := range settings(reflect.ValueOf(config).Elem()) {
		kind := "text"
		switch {
		case s.value.Kind() == reflect.Bool:
			kind = "bool"
		case s.value.Type() == reflect.TypeFor[duration]():
			kind = "duration"
		case s.value.Kind() == reflect.Int64:
			kind = "number"
		case s.value.Kind() == reflect.Slice:
			kind = "list"
		}
		f := flags.VarPF(&flagValue{kind: kind}, s.flag(), "", s.usage)
		if kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// load fills config, a pointer to a struct: from the file, if one is named,
// over that from the environment, over that from the flags.
func load(config any, file string, env func(string) string, flags *pflag.FlagSet) error {
	if file != "" {
		if err := readConfig(file, config); err != nil {
			return err
		}
	}
	for _, s := range settings(reflect.ValueOf(config).Elem()) {
		if text := env(s.variable()); text != "" {
			if err := s.set(text); err != nil {
				return fmt.Errorf("%s: %w", s.variable(), err)
			}
		}
		if f := flags.Lookup(s.flag()); f != nil && f.Changed {
			if err := s.set(f.Value.String()); err != nil {
				return usage("--%s: %w", s.flag(), err)
			}
		}
	}
	return nil
}

// readConfig decodes a YAML file strictly: one document, known keys only.
func readConfig(path string, config any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if len(raw) > maxConfig {
		return fmt.Errorf("configuration %s is larger than %d bytes", path, maxConfig)
	}
	if err := parseConfig(raw, config); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func parseConfig(raw []byte, config any) error {
	d := yaml.NewDecoder(strings.NewReader(string(raw)))
	var doc yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file
	} else if err != nil {
		return err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	if len(doc.Content) == 1 {
		if err := knownKeys(doc.Content[0], reflect.TypeOf(config).Elem(), ""); err != nil {
			return err
		}
	}
	return doc.Decode(config)
}

// knownKeys refuses keys that t does not have, and names the nearest one.
func knownKeys(n *yaml.Node, t reflect.Type, under string) error {
	if n.Kind != yaml.MappingNode || t.Kind() != reflect.Struct {
		return nil
	}
	types := make(map[string]reflect.Type)
	var names []string
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		types[name] = t.Field(i).Type
		names = append(names, name)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		ft, ok := types[key.Value]
		if !ok {
			return fmt.Errorf("line %d: unknown key %q, did you mean %q?", key.Line, under+key.Value, under+nearest(key.Value, names))
		}
		if err := knownKeys(n.Content[i+1], ft, under+key.Value+"."); err != nil {
			return err
		}
	}
	return nil
}

// nearest returns the name that takes the fewest single-character edits.
func nearest(word string, names []string) string {
	return slices.MinFunc(names, func(a, b string) int { return distance(word, a) - distance(word, b) })
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// A duration is written like "90s", "36h" or "14d".
type duration time.Duration

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a duration such as 90s, 36h or 14d", s)
		}
		*d = duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 36h or 14d", s)
	}
	*d = duration(v)
	return nil
}
