package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/iechor/trust/tuf"
)

const (
	maxAttempts = 4      // to unlock one key
	maxFiles    = 20_000 // in one directory
)

// A Config says where a [Dir] is and who knows its passphrases.
type Config struct {
	// Path is the directory, such as ~/.iechor/trust/private. It is made, with
	// mode 0700, when the first key is written.
	Path string

	// Passphrases is asked; nil means that nobody can be asked.
	Passphrases Passphrases

	// Iterations is the PBKDF2 count of what is written. 0 means the default
	// of 1,300,000, and nothing but a test should take another.
	Iterations int

	// LookOnly leaves the directory as it is: neither are old layouts brought
	// into that of today, nor keys encrypted again when they are opened. Calls
	// that are there to change something still do.
	LookOnly bool
}

// A Dir is a directory of encrypted key files that Notary and Docker can use
// as well: <canonical id>.key, flat (notary-protocol 6, cli 9.1). Links, other
// files and broken files in it are passed over; Problems names the broken
// ones. It can do everything that a [Store] may be able to do.
//
// A key whose file is protected less well than what is written today is
// encrypted again, under the same passphrase, when it is opened.
type Dir struct {
	path       string
	ask        Passphrases
	iterations int
	lookOnly   bool

	testOnlyFault func(step string) error // see replaceFile

	// turn is held by who asks for a passphrase or writes.
	turn chan struct{}

	mu      sync.Mutex // guards the fields below
	closed  bool
	open    map[tuf.CanonicalID]*held
	loose   []*held   // pending keys, and open ones that were removed
	lasting []Problem // from opening the directory, or an encryption that did not get better
	listed  []Problem // from the last List
}

var (
	_ Store             = (*Dir)(nil)
	_ Generator         = (*Dir)(nil)
	_ Importer          = (*Dir)(nil)
	_ EncryptedImporter = (*Dir)(nil)
	_ Exporter          = (*Dir)(nil)
	_ Remover           = (*Dir)(nil)
	_ Rewrapper         = (*Dir)(nil)
)

// NewDir is OpenDir with defaults.
func NewDir(path string, ask Passphrases) (*Dir, error) {
	return OpenDir(Config{Path: path, Passphrases: ask})
}

// OpenDir opens a directory of keys, which need not exist. Files in the layout
// of Notary before 0.4 are brought into that of today; what cannot be is left
// alone and is among Problems.
func OpenDir(c Config) (*Dir, error) {
	if c.Path == "" {
		return nil, errors.New("the directory of keys has no name")
	}
	c.Path = unfinished(c.Path, c.LookOnly)
	switch st, err := os.Stat(c.Path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !st.IsDir():
		return nil, fmt.Errorf("%s is not a directory", c.Path)
	}
	d := &Dir{
		path:       c.Path,
		ask:        c.Passphrases,
		iterations: c.Iterations,
		turn:       make(chan struct{}, 1),
		open:       make(map[tuf.CanonicalID]*held),
	}
	if d.iterations <= 0 {
		d.iterations = writeIterations
	}
	d.lookOnly = c.LookOnly
	if !d.lookOnly {
		d.lasting = migrate(d.path)
	}
	return d, nil
}

// Name returns the path.
func (d *Dir) Name() string { return d.path }

// Problems returns what was wrong with files of the directory when it was
// opened, when it was last listed, and when keys were opened.
func (d *Dir) Problems() []Problem {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(append([]Problem(nil), d.lasting...), d.listed...)
}

// Close wipes all keys that were unlocked. It always returns nil.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, h := range d.open {
		h.wipe()
	}
	for _, h := range d.loose {
		h.wipe()
	}
	d.open, d.loose = nil, nil
	return nil
}

// begin waits for the turn; the caller calls end exactly if the error is nil.
func (d *Dir) begin(ctx context.Context) error {
	if err := d.usable(ctx); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := d.usable(ctx); err != nil {
		d.end()
		return err
	}
	return nil
}

func (d *Dir) end() { <-d.turn }

func (d *Dir) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	return nil
}

// keep remembers an unlocked key until Close; loose ones are not found by
// Open.
func (d *Dir) keep(h *held, loose bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		h.wipe()
		return ErrClosed
	}
	if loose {
		d.loose = append(d.loose, h)
	} else {
		d.open[h.info.ID] = h
	}
	return nil
}

func (d *Dir) kept(id tuf.CanonicalID) *held {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[id]
}

func (d *Dir) file(id tuf.CanonicalID) string { return filepath.Join(d.path, string(id)+".key") }

// fail puts the store and the key around an error.
func (d *Dir) fail(info Info, err error) error {
	return &StoreError{Store: d.path, Key: info, Err: err}
}

// read reads the file of a key. The error matches tuf.ErrNoKey if there is
// none, ErrShared if others can read it. The block is returned with ErrShared
// too.
func (d *Dir) read(id tuf.CanonicalID) (*Block, error) {
	if !id.Valid() {
		return nil, fmt.Errorf("%w: %q", tuf.ErrNoKey, id)
	}
	path := d.file(id)
	b, mode, err := readBlock(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errIrregular):
		return nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	case err != nil:
		return nil, d.fail(Info{ID: id}, err)
	}
	b.Info.ID = id
	// What is shown without unlocking a plain key must be true of it as well.
	if !b.Encrypted() {
		if err := d.checkID(b, nil); err != nil {
			return nil, err
		}
	}
	if err := checkMode(path, mode); err != nil {
		return b, d.fail(b.Info, err)
	}
	return b, nil
}

// checkID makes sure that a plain block is the key that its file name says.
func (d *Dir) checkID(b *Block, passphrase []byte) error {
	h, err := d.unlock(b, passphrase)
	if err == nil {
		h.wipe()
	}
	return err
}

// unlock opens a block. It wipes the key if it is not that of b.Info.ID: an
// attacker who can write to the directory could otherwise have a key of his
// sign in the place of another.
func (d *Dir) unlock(b *Block, passphrase []byte) (*held, error) {
	key, err := b.Key(passphrase)
	if err != nil {
		return nil, d.fail(b.Info, err)
	}
	h, err := hold(b.Info, key)
	if err != nil {
		Wipe(key)
		return nil, d.fail(b.Info, err)
	}
	if h.info.ID != b.Info.ID {
		h.wipe()
		return nil, d.fail(b.Info, broken("%s holds another key, %s", d.file(b.Info.ID), h.info.ID))
	}
	return h, nil
}

// List describes all keys. Broken files are left out and are among Problems;
// so are files that others can read, which are listed and cannot be opened.
func (d *Dir) List(ctx context.Context) ([]Info, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	ids, err := d.ids()
	if err != nil {
		return nil, err
	}
	var infos []Info
	var problems []Problem
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := d.read(id)
		if errors.Is(err, tuf.ErrNoKey) {
			continue // a link, or gone since
		}
		if err != nil {
			var in *StoreError
			if errors.As(err, &in) {
				err = in.Err
			}
			problems = append(problems, Problem{Path: d.file(id), Err: err})
		}
		if b != nil {
			infos = append(infos, d.describe(b.Info))
		}
	}
	d.mu.Lock()
	d.listed = problems
	d.mu.Unlock()
	Sort(infos)
	return infos, nil
}

// ids returns the ids for which there are regular files.
func (d *Dir) ids() ([]tuf.CanonicalID, error) {
	f, err := os.Open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ids []tuf.CanonicalID
	for seen := 0; ; {
		entries, err := f.ReadDir(1000)
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".key")
			if id := tuf.CanonicalID(name); ok && id.Valid() && e.Type().IsRegular() {
				ids = append(ids, id)
			}
		}
		if err == io.EOF {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		if seen += len(entries); seen > maxFiles {
			return nil, broken("%s has more than %d files", d.path, maxFiles)
		}
	}
}

// describe adds the type to info if the key has been unlocked.
func (d *Dir) describe(info Info) Info {
	if h := d.kept(info.ID); h != nil {
		info.Type = h.info.Type
	}
	return info
}

// Find describes one key. The error matches tuf.ErrNoKey if it is not there.
func (d *Dir) Find(ctx context.Context, id tuf.CanonicalID) (Info, error) {
	if err := d.usable(ctx); err != nil {
		return Info{}, err
	}
	b, err := d.read(id)
	if b == nil {
		return Info{}, err
	}
	return d.describe(b.Info), nil // also if others can read it: it is there
}

// Open unlocks a key, asking up to four times for its passphrase. After that
// the error matches [ErrPassphrase]; a file that others can read is refused
// with [ErrShared], one whose content is not the key id with [ErrBroken].
func (d *Dir) Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	defer d.end()
	h, err := d.opened(ctx, id)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// opened is Open for who has the turn.
func (d *Dir) opened(ctx context.Context, id tuf.CanonicalID) (*held, error) {
	if h := d.kept(id); h != nil {
		return h, nil
	}
	b, err := d.read(id)
	if err != nil {
		return nil, err
	}
	h, passphrase, err := d.askFor(ctx, b)
	defer clear(passphrase)
	if err != nil {
		return nil, err
	}
	if err := d.keep(h, false); err != nil {
		return nil, err
	}
	if b.weak(d.iterations) && !d.lookOnly {
		d.strengthen(b.Info, h.key, passphrase)
	}
	return h, nil
}

// askFor unlocks b and returns the passphrase that did it, which the caller
// wipes.
func (d *Dir) askFor(ctx context.Context, b *Block) (*held, []byte, error) {
	if !b.Encrypted() {
		h, err := d.unlock(b, nil)
		return h, nil, err
	}
	if d.ask == nil {
		return nil, nil, d.fail(b.Info, ErrNoPassphrase)
	}
	for attempt := 1; ; attempt++ {
		passphrase, err := d.ask.Passphrase(ctx, b.Info, attempt)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			clear(passphrase)
			return nil, nil, d.fail(b.Info, err)
		}
		h, err := d.unlock(b, passphrase)
		if err == nil {
			return h, passphrase, nil
		}
		clear(passphrase)
		if !errors.Is(err, ErrPassphrase) || attempt == maxAttempts {
			return nil, nil, err
		}
	}
}
