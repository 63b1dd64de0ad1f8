package trust

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/iechor/trust/tuf"
)

// A Proposal is a publication that several people sign, one after the other,
// each where their keys are: files that are fixed and travel together, in any
// way that files can (format.md 7.6). Nothing in it is believed: each of its
// signers, and the server, judges it on top of the state that they see
// themselves.
type Proposal struct {
	GUN   tuf.GUN
	Files []tuf.Proposed // root, targets, delegations from the top
}

const (
	proposalVersion  = 1
	maxProposal      = 96 << 20 // base64 of what one publication may have
	maxProposedFiles = 256
)

type proposalFile struct {
	Version int            `json:"proposal"`
	GUN     tuf.GUN        `json:"gun"`
	Files   []proposedFile `json:"files"`
}

type proposedFile struct {
	Role tuf.RoleName `json:"role"`
	Base string       `json:"base,omitempty"` // hex
	File []byte       `json:"file"`           // base64: the bytes count
}

// Bytes returns the proposal as a file.
func (p Proposal) Bytes() ([]byte, error) {
	f := proposalFile{Version: proposalVersion, GUN: p.GUN}
	for _, one := range p.Files {
		f.Files = append(f.Files, proposedFile{one.Role, hex.EncodeToString(one.Base), one.Raw})
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	return append(raw, '\n'), err
}

// ReadProposal reads a proposal strictly; its files are judged by
// [Repository.Cosign]. The error matches [tuf.ErrMalformed].
func ReadProposal(raw []byte) (Proposal, error) {
	bad := func(format string, a ...any) (Proposal, error) {
		return Proposal{}, &formatError{"proposal", fmt.Sprintf(format, a...)}
	}
	if len(raw) > maxProposal {
		return bad("larger than %d bytes", maxProposal)
	}
	var f proposalFile
	if err := strict(raw, &f); err != nil {
		return bad("%v", err)
	}
	switch {
	case f.Version != proposalVersion:
		return bad("version %d of the format is not known", f.Version)
	case !f.GUN.Valid():
		return bad("%q is not the name of a repository", string(f.GUN))
	case len(f.Files) == 0, len(f.Files) > maxProposedFiles:
		return bad("it has %d files", len(f.Files))
	}
	p := Proposal{GUN: f.GUN}
	for _, one := range f.Files {
		base, err := hex.DecodeString(one.Base)
		if err != nil {
			return bad("what %q is based on is not hexadecimal", string(one.Role))
		}
		if !one.Role.Valid() {
			return bad("%q is not a role", string(one.Role))
		}
		p.Files = append(p.Files, tuf.Proposed{File: tuf.File{Role: one.Role, Raw: one.File}, Base: base})
	}
	return p, nil
}

// Propose makes the changes of plan to the latest state as Publish does, but
// uploads nothing: the files are signed with the keys that are here, be they
// enough or not, and returned for others to sign. A proposal without files
// says that nothing would change.
//
// Errors are those of [Repository.Publish]; a repository that was never
// published has nothing to propose on: [ErrNotSigned].
func (r *Repository) Propose(ctx context.Context, plan Plan) (Proposal, error) {
	p := Proposal{GUN: r.gun}
	set, err := r.Fresh().Update(ctx)
	if err != nil {
		return p, err
	}
	changes, err := plan(set)
	if err != nil {
		return p, err
	}
	draft := set.Draft()
	if err := draft.Apply(changes...); err != nil {
		return p, err
	}
	p.Files, err = draft.Propose(ctx, r.c.Keys, r.signOptions(r.c.Now()))
	return p, err
}

// ErrOtherRepository says that a proposal is for another repository.
var ErrOtherRepository = errors.New("the proposal is for another repository")

// ErrProposal says that a proposal has something in it that must not be signed.
var ErrProposal = errors.New("the proposal must not be signed")

// Review says what p changes in the latest state, who signed it, and who is
// missing. The error matches [tuf.ErrStale] if the proposal is void,
// [ErrProposal] if it must not be signed, or is one of those of
// [Repository.Update] and of keys.
func (r *Repository) Review(ctx context.Context, p Proposal) ([]tuf.Review, error) {
	return r.judge(ctx, p, nil)
}

// Cosign is Review that adds the signatures of the keys that are here to p.
// What is signed is what Review has shown: the files do not change.
func (r *Repository) Cosign(ctx context.Context, p *Proposal) ([]tuf.Review, error) {
	reviews, err := r.judge(ctx, *p, r.c.Keys)
	if err != nil {
		return nil, err
	}
	p.Files = nil
	for _, one := range reviews {
		p.Files = append(p.Files, one.Proposed)
	}
	return reviews, nil
}

func (r *Repository) judge(ctx context.Context, p Proposal, ring tuf.Ring) ([]tuf.Review, error) {
	if p.GUN != r.gun {
		return nil, fmt.Errorf("%w: %s", ErrOtherRepository, p.GUN)
	}
	set, err := r.Fresh().Update(ctx)
	if err != nil {
		return nil, err
	}
	reviews, err := set.Draft().Cosign(ctx, ring, p.Files)
	for _, reason := range [...]error{tuf.ErrMalformed, tuf.ErrLimit, tuf.ErrExpired, tuf.ErrNoDelegation, tuf.ErrRole, tuf.ErrRoot} {
		if errors.Is(err, reason) {
			return nil, fmt.Errorf("%w: %w", ErrProposal, err)
		}
	}
	return reviews, err
}

// PublishProposal publishes a proposal that has all of its signatures. Errors
// are those of [Repository.Publish]: [*tuf.MissingKeys] says which signatures
// are missing, [tuf.ErrStale] that something else was published meanwhile. Staged
// changes are left alone.
func (r *Repository) PublishProposal(ctx context.Context, p Proposal) (Published, error) {
	if p.GUN != r.gun {
		return Published{}, fmt.Errorf("%w: %s", ErrOtherRepository, p.GUN)
	}
	return r.publish(ctx, job{proposal: p.Files})
}

// adopt makes the files of a proposal, and what follows from them, on top of b.
func (r *Repository) adopt(ctx context.Context, b base, files []tuf.Proposed, o tuf.SignOptions) ([]tuf.File, []string, error) {
	if b.set == nil {
		return nil, nil, fmt.Errorf("%w: %s", ErrNotInitialized, r.gun)
	}
	reviews, err := b.past.Draft().Cosign(ctx, nil, files)
	if err != nil {
		return nil, nil, err
	}
	draft := b.past.Draft()
	var out []tuf.File
	for _, one := range reviews {
		if len(one.Lacks) > 0 {
			return nil, nil, &one.Lacks[0]
		}
		if err := draft.Adopt(one.File); err != nil {
			return nil, nil, err
		}
		out = append(out, one.File)
	}
	made, err := draft.Sign(ctx, r.c.Keys, o)
	return append(out, made...), draft.Warnings(), err
}
