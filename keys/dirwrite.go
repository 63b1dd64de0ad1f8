package keys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"

	"github.com/iechor/trust/tuf"
)

// This file is what changes a Dir: making, importing, removing keys and
// encrypting them again.

// strengthen encrypts a key file again (attacks.md G6). The key works without:
// a failure is a problem to report, not one of the command.
func (d *Dir) strengthen(info Info, key crypto.Signer, passphrase []byte) {
	err := d.rewrite(info, key, passphrase)
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lasting = append(d.lasting, Problem{Path: d.file(info.ID), Err: fmt.Errorf("weakly encrypted, and could not be encrypted again: %w", err)})
}

// rewrite replaces the file of a key. Its headers stay, also if they are such
// as would not be written today.
func (d *Dir) rewrite(info Info, key crypto.Signer, passphrase []byte) error {
	b, err := seal(key, passphrase, d.iterations)
	if err != nil {
		return err
	}
	return replaceFile(d.file(info.ID), b.encode(info, ""), d.testOnlyFault)
}

// newPassphrase asks for a passphrase to set.
func (d *Dir) newPassphrase(ctx context.Context, info Info) ([]byte, error) {
	if d.ask == nil {
		return nil, d.fail(info, ErrNoPassphrase)
	}
	passphrase, err := d.ask.NewPassphrase(ctx, info)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && len(passphrase) == 0 {
		err = ErrNoPassphrase
	}
	if err != nil {
		clear(passphrase)
		return nil, d.fail(info, err)
	}
	return passphrase, nil
}

// New makes a key and asks for the passphrase that will protect it.
func (d *Dir) New(ctx context.Context, a Algorithm, info Info) (*Pending, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	defer d.end()
	info, err := info.Clean()
	if err != nil {
		return nil, err
	}
	key, err := MakeKey(a)
	if err != nil {
		return nil, err
	}
	h, err := hold(info, key)
	if err != nil {
		return nil, err
	}
	if err := d.keep(h, true); err != nil {
		return nil, err
	}
	raw, err := d.sealNew(ctx, h)
	if err != nil {
		return nil, err
	}
	return NewPending(h.info, h, func(ctx context.Context) error {
		if err := d.begin(ctx); err != nil {
			return err
		}
		defer d.end()
		return d.add(h, raw)
	}), nil
}

// sealNew asks for a new passphrase and returns the file of the key.
func (d *Dir) sealNew(ctx context.Context, h *held) ([]byte, error) {
	passphrase, err := d.newPassphrase(ctx, h.info)
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	return Seal(h.key, h.info, passphrase, d.iterations)
}

// add writes the file of a key that is not there yet, and keeps it open.
func (d *Dir) add(h *held, raw []byte) error {
	if there, err := d.present(h.info); there || err != nil {
		return err
	}
	if err := replaceFile(d.file(h.info.ID), raw, d.testOnlyFault); err != nil {
		return d.fail(h.info, err)
	}
	return d.keep(h, false)
}

// present reports whether the key is stored for the role of info. The error
// matches ErrExists if it is stored for another one, ErrBroken if its file is
// in the way and cannot be read: it may be all that is left of the key.
func (d *Dir) present(info Info) (bool, error) {
	b, err := d.read(info.ID)
	if errors.Is(err, tuf.ErrNoKey) {
		if _, err := os.Lstat(d.file(info.ID)); err == nil {
			return false, d.fail(info, broken("%s is in the way: %v", d.file(info.ID), errIrregular))
		}
		return false, nil
	}
	if b == nil {
		return false, err
	}
	if b.Info.Role != info.Role {
		return false, d.fail(b.Info, &ExistsError{ID: info.ID, Role: b.Info.Role})
	}
	return true, nil
}

// Import stores a key under a passphrase that is asked for.
func (d *Dir) Import(ctx context.Context, info Info, key crypto.Signer) (Info, error) {
	if err := d.begin(ctx); err != nil {
		return Info{}, err
	}
	defer d.end()
	info, err := info.Clean()
	if err != nil {
		return Info{}, err
	}
	h, err := hold(info, key)
	if err != nil {
		return Info{}, err
	}
	there, err := d.present(h.info)
	if err != nil {
		return Info{}, err
	}
	if err := d.keep(h, true); err != nil || there {
		return h.info, err
	}
	raw, err := d.sealNew(ctx, h)
	if err != nil {
		return Info{}, err
	}
	return h.info, d.add(h, raw)
}

// ImportEncrypted stores a block as it is, without its path header. A block
// that is not encrypted is refused.
func (d *Dir) ImportEncrypted(ctx context.Context, info Info, b *Block) (Info, error) {
	if err := d.begin(ctx); err != nil {
		return Info{}, err
	}
	defer d.end()
	if !b.Encrypted() {
		return Info{}, fmt.Errorf("%w: the key is not encrypted", ErrNoPassphrase)
	}
	if info.ID == "" {
		info.ID = b.Info.ID
	}
	if info.Role == "" {
		info.Role = b.Info.Role
	}
	if info.GUN == "" {
		info.GUN = b.Info.GUN
	}
	info.Type = ""
	info, err := info.Clean()
	if err != nil {
		return Info{}, err
	}
	if !info.ID.Valid() {
		return Info{}, broken("it does not say which key it holds, and is encrypted")
	}
	if there, err := d.present(info); there || err != nil {
		return info, err
	}
	if err := replaceFile(d.file(info.ID), b.encode(info, ""), d.testOnlyFault); err != nil {
		return Info{}, d.fail(info, err)
	}
	return info, nil
}

// Export returns the key's block with all its headers.
func (d *Dir) Export(ctx context.Context, id tuf.CanonicalID) ([]byte, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	b, err := d.read(id)
	if err != nil {
		return nil, err
	}
	return b.encode(b.Info, string(id)), nil
}

// Remove deletes the key's file.
func (d *Dir) Remove(ctx context.Context, id tuf.CanonicalID) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	// A broken file may be removed too; a link, which is no key, may not.
	if b, err := d.read(id); b == nil && errors.Is(err, tuf.ErrNoKey) {
		return err
	}
	if err := os.Remove(d.file(id)); err != nil {
		return d.fail(Info{ID: id}, err)
	}
	d.mu.Lock()
	if h := d.open[id]; h != nil {
		h.wipe()
		delete(d.open, id)
	}
	d.mu.Unlock()
	return syncDir(d.path)
}

// ChangePassphrase also brings the encryption up to what is written today.
func (d *Dir) ChangePassphrase(ctx context.Context, id tuf.CanonicalID) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	b, err := d.read(id)
	if err != nil {
		return err
	}
	h, err := d.opened(ctx, id)
	if err != nil {
		return err
	}
	passphrase, err := d.newPassphrase(ctx, h.info)
	if err != nil {
		return err
	}
	defer clear(passphrase)
	if err := d.rewrite(b.Info, h.key, passphrase); err != nil {
		return d.fail(h.info, err)
	}
	return nil
}

// Replace stores a block as it is, without its path header, in place of the
// key with the same id, or beside the others if that is not there. A block
// that is not encrypted is refused. Whoever could open the key before needs
// the passphrase of b from now on; signers that are open go on working. On
// error the old file is there as it was.
func (d *Dir) Replace(ctx context.Context, info Info, b *Block) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	info, err := d.replaceable(info, b)
	if err != nil {
		return err
	}
	if err := replaceFile(d.file(info.ID), b.encode(info, ""), d.testOnlyFault); err != nil {
		return d.fail(info, err)
	}
	return nil
}

// replaceable says how the file of b is to be labelled, and refuses what no key
// file may be.
func (d *Dir) replaceable(info Info, b *Block) (Info, error) {
	if !b.Encrypted() {
		return info, fmt.Errorf("%w: the key is not encrypted", ErrNoPassphrase)
	}
	info, err := info.Clean()
	if err != nil {
		return info, err
	}
	if !info.ID.Valid() {
		return info, broken("it does not say which key it holds, and is encrypted")
	}
	if st, err := os.Lstat(d.file(info.ID)); err == nil && !st.Mode().IsRegular() {
		return info, d.fail(info, broken("%s is in the way: %v", d.file(info.ID), errIrregular))
	}
	return info, nil
}
