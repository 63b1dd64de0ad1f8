package main

import (
	"errors"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
)

// explainBackup is the part of explain that is about backups and shares.
func explainBackup(err error, c subject) (answer, bool) {
	var (
		file     *backupError
		identity *identityError
		line     *backup.LineError
		share    *backup.ShareError
	)
	switch {
	case errors.As(err, &identity) && errors.Is(err, keys.ErrSharedSecret):
		return c.could("identity file "+identity.Error(), "find out who could have read it; to go on, chmod 600 "+identity.path), true
	case errors.As(err, &identity):
		return c.could("identity file "+identity.Error(), "name the file that age-keygen wrote"), true
	case errors.Is(err, backup.ErrTooFew):
		return c.could(err.Error(), "bring more shares of the same set; each names the set and the threshold"), true
	case errors.Is(err, backup.ErrWrong):
		return c.could(err.Error()+": one of them is not the share that it says it is", "bring one share more, and it will be named"), true
	case errors.Is(err, backup.ErrThreshold), errors.Is(err, backup.ErrRecipient):
		return plainly(exitUsage, err.Error(), "see \"iechor trust backup --help\"")
	case !errors.As(err, &file):
		return answer{}, false
	case errors.As(err, &share):
		return plainly(exitUntrusted, file.path+": "+share.Reason, "leave it out, or take another one in its place")
	case errors.As(err, &line):
		return c.could(file.path+": "+line.Error(), "compare that line with the paper, letter by letter"), true
	case errors.Is(err, backup.ErrNoShare):
		return c.could(file.Error(), "name a file with the five numbered lines of one share"), true
	case errors.Is(err, backup.ErrLater):
		return c.could(file.Error(), "use a newer iechor"), true
	case errors.Is(err, backup.ErrLocked):
		return c.could(file.path+": "+backup.ErrLocked.Error(), "it was encrypted for somebody else: find the right identity"), true
	case errors.Is(err, backup.ErrForeign):
		return c.could(file.Error(), "name a file that \"iechor trust backup create\" has written"), true
	case errors.Is(err, backup.ErrDamaged):
		return plainly(exitUntrusted, "refused "+file.Error(), "nothing was changed; take another copy of the backup, and find out what happened to this one")
	}
	return c.could(file.err.Error(), "see that the path is right, and who may use it"), true
}
