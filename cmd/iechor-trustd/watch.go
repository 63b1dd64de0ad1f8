package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// A watched value is read from files, and anew when they change, so that it can
// be replaced without a restart. It is safe for concurrent use.
type watched[T any] struct {
	what  string // for the log
	files []string
	load  func() (T, error)
	log   *slog.Logger
	now   func() time.Time // when to look again, not whether to trust

	mu      sync.Mutex
	value   T           // guarded by mu
	checked time.Time   // guarded by mu
	seen    []fileState // guarded by mu: of the files, when value was read
	trouble string      // guarded by mu: what was logged last; empty if all is well
}

// A fileState differs when a file was written or replaced.
type fileState struct {
	modified time.Time
	size     int64
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = time.Second

// watch reads the value once: what cannot be read at the start is an error.
func watch[T any](what string, log *slog.Logger, load func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{what: what, files: files, load: load, log: log, now: time.Now}
	return w, w.read()
}

// watchFile reads what parse makes of a file.
func watchFile[T any](what string, log *slog.Logger, parse func([]byte) (T, error), file string) (*watched[T], error) {
	return watch(what, log, func() (value T, err error) {
		raw, err := readBounded(file)
		if err != nil {
			return value, err
		}
		if value, err = parse(raw); err != nil {
			return value, fmt.Errorf("%s: %w", file, err)
		}
		return value, nil
	}, file)
}

// readBounded reads a file of at most maxConfig bytes.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	return raw, nil
}

func (w *watched[T]) read() error {
	// Before the content: what changes meanwhile is read again.
	seen, err := w.states()
	if err != nil {
		return err
	}
	value, err := w.load()
	if err != nil {
		return err
	}
	w.value, w.seen = value, seen
	return nil
}

func (w *watched[T]) states() ([]fileState, error) {
	var all []fileState
	for _, name := range w.files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		all = append(all, fileState{info.ModTime(), info.Size()})
	}
	return all, nil
}

// get returns the value, after a look at the files if the last one was a while
// ago. What cannot be read is logged once, and the old value stays; the files
// may be half written, so they are tried again.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if now.Sub(w.checked) < lookEvery {
		return w.value
	}
	w.checked = now
	seen, err := w.states()
	w.renew(err == nil && !slices.Equal(seen, w.seen), err)
	return w.value
}

// reload reads the files, whether they look changed or not.
func (w *watched[T]) reload() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renew(true, nil)
}

// renew reads the value, if it is to be read, and logs how that went; err is
// why it cannot be. w.mu is held.
func (w *watched[T]) renew(read bool, err error) {
	if read {
		err = w.read()
	}
	switch {
	case err != nil && err.Error() != w.trouble:
		w.trouble = err.Error()
		w.log.Warn(w.what+" not reloaded", "file", w.files[0], "err", err)
	case err == nil && read:
		w.log.Info(w.what+" reloaded", "file", w.files[0])
		fallthrough
	case err == nil:
		w.trouble = ""
	}
}

// A configFile is the configuration that a process runs with, which can be read
// again: the log level is taken up, and what else has changed is named.
type configFile struct {
	running any // a pointer to the struct
	again   func() (any, error)
	level   *slog.LevelVar
	log     *slog.Logger
}

const levelSetting = "log-level"

func (f *configFile) reload() {
	again, err := f.again()
	var l slog.Level
	if err == nil {
		for _, s := range settings(reflect.ValueOf(again).Elem()) {
			if s.flag() == levelSetting {
				l, err = parseLevel(s.value.String())
			}
		}
	}
	if err != nil {
		f.log.Warn("log level not reloaded", "err", err)
		return
	}
	if l < f.level.Level() { // the line is seen if either level shows it
		f.level.Set(l)
	}
	f.log.Info("log level reloaded", "level", l.String())
	f.level.Set(l)
	if names := differing(reflect.ValueOf(f.running).Elem(), reflect.ValueOf(again).Elem(), nil); len(names) > 0 {
		f.log.Warn("settings have changed that need a restart", "settings", names)
	}
}

// differing names the settings, other than the log level, in which two
// configurations differ.
func differing(a, b reflect.Value, path []string) (names []string) {
	others := fields(b)
	for i, f := range fields(a) {
		at := append(slices.Clone(path), f.path...)
		if f.value.Kind() == reflect.Struct {
			names = append(names, differing(f.value, others[i].value, at)...)
		} else if name := strings.Join(at, "."); name != levelSetting && !reflect.DeepEqual(f.value.Interface(), others[i].value.Interface()) {
			names = append(names, name)
		}
	}
	return names
}

// reloadOn reloads when a signal comes, until ctx ends.
func reloadOn(ctx context.Context, signals <-chan os.Signal, all ...interface{ reload() }) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			for _, w := range all {
				w.reload()
			}
		}
	}
}
