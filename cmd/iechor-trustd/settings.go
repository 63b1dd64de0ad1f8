package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
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
// usage tag; nested structs become longer paths, unless their tag is ",inline";
// maps stand in the file only.
func settings(v reflect.Value, path ...string) []setting {
	var all []setting
	for _, f := range fields(v) {
		f.path = append(slices.Clone(path), f.path...)
		switch f.value.Kind() {
		case reflect.Map:
		case reflect.Struct:
			all = append(all, settings(f.value, f.path...)...)
		default:
			all = append(all, f)
		}
	}
	return all
}

// fields returns the fields of a struct, those of inline structs among them.
func fields(v reflect.Value) []setting {
	var all []setting
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if name := tag.Get("yaml"); name != ",inline" {
			all = append(all, setting{[]string{name}, v.Field(i), tag.Get("usage")})
		} else {
			all = append(all, fields(v.Field(i))...)
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
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		s.value.SetBool(text == "true")
	case reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a whole number", text)
		}
		s.value.SetInt(n)
	case reflect.Slice:
		var list []string
		for one := range strings.SplitSeq(text, ",") {
			if one = strings.TrimSpace(one); one != "" {
				list = append(list, one)
			}
		}
		s.value.Set(reflect.ValueOf(list))
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

// addFlags makes a flag of every setting of config, a pointer to a struct that
// holds the defaults. With parts only those whose paths begin with one of them.
func addFlags(flags *pflag.FlagSet, config any, parts ...string) {
	for _, s := range settings(reflect.ValueOf(config).Elem()) {
		if len(parts) > 0 && !slices.Contains(parts, s.path[0]) {
			continue
		}
		kind, preset := "text", fmt.Sprint(s.value.Interface())
		switch {
		case s.value.Kind() == reflect.Bool:
			kind, preset = "bool", ""
		case s.value.Type() == reflect.TypeFor[duration]():
			kind = "duration"
		case s.value.Kind() == reflect.Int64:
			kind = "number"
		case s.value.Kind() == reflect.Slice:
			kind, preset = "list", ""
		}
		f := flags.VarPF(&flagValue{kind: kind}, s.flag(), "", s.usage)
		f.DefValue = preset
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
	if err := loadVariables(config, env); err != nil {
		return err
	}
	for _, s := range settings(reflect.ValueOf(config).Elem()) {
		if f := flags.Lookup(s.flag()); f != nil && f.Changed {
			if err := s.set(f.Value.String()); err != nil {
				return usage("--%s: %w", s.flag(), err)
			}
		}
	}
	return nil
}

// loadVariables is the part of load that is about the environment. The error
// has a line for each variable that is wrong.
func loadVariables(config any, env func(string) string) error {
	var wrong []error
	for _, s := range settings(reflect.ValueOf(config).Elem()) {
		if text := env(s.variable()); text != "" {
			if err := s.set(text); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", s.variable(), err))
			}
		}
	}
	return errors.Join(wrong...)
}

// readConfig decodes a YAML file strictly: one document, known keys only.
func readConfig(path string, config any) error {
	raw, err := readBounded(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if err := parseConfig(raw, config); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func parseConfig(raw []byte, config any) error {
	doc, err := onlyDocument(raw)
	if err != nil || doc == nil {
		return err
	}
	return fill(reflect.ValueOf(config).Elem(), doc, nil)
}

// onlyDocument returns the root of the one document in a YAML file, nil of an
// empty one.
func onlyDocument(raw []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if len(doc.Content) != 1 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// fill puts what stands under a key of the file into v. The error has a line
// for each thing that is wrong. Unknown keys are refused with the name of the nearest known one, and so is what a key cannot
// hold. A key without a value leaves the default.
func fill(v reflect.Value, n *yaml.Node, path []string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.ShortTag() == "!!null" {
		return nil
	}
	wrong := func(format string, a ...any) error {
		if len(path) == 0 {
			return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, a...))
		}
		return fmt.Errorf("line %d: %s: %w", n.Line, printable(strings.Join(path, ".")), fmt.Errorf(format, a...))
	}
	switch {
	case v.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		return fillStruct(v, n, path)
	case v.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		return fillMap(v, n, path)
	case v.Kind() == reflect.Struct, v.Kind() == reflect.Map:
		return wrong("keys and values belong here")
	case v.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		list := []string{}
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return wrong("a list of plain values belongs here")
			}
			list = append(list, item.Value)
		}
		v.Set(reflect.ValueOf(list))
		return nil
	case n.Kind != yaml.ScalarNode:
		return wrong("a single value belongs here")
	case v.Kind() == reflect.Slice:
		return wrong("a list belongs here")
	}
	if err := (setting{path: path, value: v}).set(n.Value); err != nil {
		return wrong("%w", err)
	}
	return nil
}

func fillStruct(v reflect.Value, n *yaml.Node, path []string) error {
	known := map[string]reflect.Value{}
	var names []string
	for _, f := range fields(v) {
		known[f.path[0]] = f.value
		names = append(names, f.path[0])
	}
	under := ""
	if len(path) > 0 {
		under = strings.Join(path, ".") + "."
	}
	return eachKey(n, path, func(key, value *yaml.Node) error {
		field, ok := known[key.Value]
		if !ok {
			return fmt.Errorf("line %d: unknown key %q, did you mean %q?", key.Line, under+key.Value, under+nearest(key.Value, names))
		}
		return fill(field, value, append(slices.Clone(path), key.Value))
	})
}

// fillMap makes a map anew: its keys are the file's.
func fillMap(v reflect.Value, n *yaml.Node, path []string) error {
	m := reflect.MakeMap(v.Type())
	err := eachKey(n, path, func(key, value *yaml.Node) error {
		one := reflect.New(v.Type().Elem()).Elem()
		if err := fill(one, value, append(slices.Clone(path), key.Value)); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(key.Value), one)
		return nil
	})
	v.Set(m)
	return err
}

// eachKey calls fn for the keys of a mapping, and refuses one that comes twice.
func eachKey(n *yaml.Node, path []string, fn func(key, value *yaml.Node) error) error {
	lines := map[string]int{}
	var wrong []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			wrong = append(wrong, fmt.Errorf("line %d: a key must be a word", key.Line))
			continue
		}
		if line, twice := lines[key.Value]; twice {
			wrong = append(wrong, fmt.Errorf("line %d: %s stands in line %d already", key.Line, printable(strings.Join(append(slices.Clone(path), key.Value), ".")), line))
			continue
		}
		lines[key.Value] = key.Line
		if err := fn(key, n.Content[i+1]); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
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

const day = 24 * time.Hour

// maxDuration is longer than anything here may live.
const maxDuration = 100 * 365 * day

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *duration) UnmarshalText(text []byte) error {
	s := string(text)
	var v time.Duration
	var err error
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * day
	} else {
		v, err = time.ParseDuration(s)
	}
	if err != nil || v < 0 || v > maxDuration {
		return fmt.Errorf("%q is not a duration such as 90s, 36h or 14d", s)
	}
	*d = duration(v)
	return nil
}

// String writes d as it may stand in a file.
func (d duration) String() string {
	v := time.Duration(d)
	switch {
	case v == 0:
		return "0s"
	case v%day == 0:
		return fmt.Sprintf("%dd", v/day)
	case v%time.Hour == 0:
		return fmt.Sprintf("%dh", v/time.Hour)
	case v%time.Minute == 0:
		return fmt.Sprintf("%dm", v/time.Minute)
	}
	return v.String()
}
