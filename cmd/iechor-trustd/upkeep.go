package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/iechor/trust/signer"
)

// upkeep is what a signer does beside answering.
type upkeep struct {
	table     *signer.Table
	id, host  string // of this process
	retention time.Duration
	now       func() time.Time
	log       *slog.Logger
	trouble   string // what Refresh said last; empty if all is well
	left      string // what RemoveDropped said last
}

// presentEvery is how often other users of the table hear of this signer.
const presentEvery = 30 * time.Second

func (u *upkeep) present(ctx context.Context) error {
	return u.table.Present(ctx, u.id, u.host, u.now())
}

// absent is called when the signer has ended. Where it fails the others notice
// a few minutes later.
func (u *upkeep) absent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = u.table.Absent(ctx, u.id)
}

// run works until ctx ends.
func (u *upkeep) run(ctx context.Context) {
	var pruned time.Time
	for ctx.Err() == nil {
		if err := u.present(ctx); err != nil && ctx.Err() == nil {
			u.log.Error("tell that this signer runs", "err", err)
		}
		u.refresh(ctx)
		u.removeDropped(ctx)
		if time.Since(pruned) >= time.Hour {
			u.prune(ctx)
			pruned = time.Now().Add(-rand.N(15 * time.Minute)) // not in step with other signers
		}
		wait := time.NewTimer(presentEvery)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

// refresh has data keys unwrapped anew in time. What goes wrong is logged once.
func (u *upkeep) refresh(ctx context.Context) {
	err := u.table.Refresh(ctx)
	switch {
	case ctx.Err() != nil:
	case err == nil && u.trouble != "":
		u.log.Info("the key-encryption key can be used again")
		u.trouble = ""
	case err != nil && err.Error() != u.trouble:
		u.log.Warn("data keys cannot be unwrapped anew; when their life in memory is over nothing is signed", "err", err)
		u.trouble = err.Error()
	}
}

// removeLimit bounds a round of removing keys from a token.
const removeLimit = time.Minute

// removeDropped removes keys from the token that nobody needs. What goes wrong
// is logged once; it is tried again each time.
func (u *upkeep) removeDropped(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	n, err := u.table.RemoveDropped(limited, u.now())
	if n > 0 {
		u.log.Info("keys that nobody needs removed from the token", "keys", n)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		u.left = ""
	case err.Error() != u.left:
		u.log.Warn("keys that nobody needs cannot be removed from the token now; it is tried again", "err", err)
		u.left = err.Error()
	}
}

// prune keeps ledger and audit log from growing without end, and puts the
// audit log's anchor into the log, which is kept elsewhere.
func (u *upkeep) prune(ctx context.Context) {
	// A day late, so that the clocks of several signers may differ.
	if err := u.table.Prune(ctx, u.now().Add(-day)); err != nil && ctx.Err() == nil {
		u.log.Error("prune", "err", err)
	}
	if u.retention > 0 {
		n, err := u.table.CutAudit(ctx, u.now().Add(-u.retention), u.now())
		if err != nil && ctx.Err() == nil {
			u.log.Error("remove old entries of the audit log", "err", err)
		}
		if n > 0 {
			u.log.Info("old entries of the audit log removed", "entries", n)
		}
	}
	end, err := u.table.AuditEnd(ctx)
	switch {
	case err == nil && end.ID > 0:
		u.log.Info("audit log", "anchor", end.String())
	case err != nil && ctx.Err() == nil:
		u.log.Error("read the end of the audit log", "err", err)
	}
}
