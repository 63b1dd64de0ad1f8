//go:build unix

package registry

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A pipe without a writer must not hold up who takes it for an archive.
func TestAttackPipeAsArchive(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "app.tar")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Skipf("no pipes here: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := New(Config{}).Tags(context.Background(), Image{Kind: Archive, Path: file}, Ref{})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("Tags of a pipe = %v, want ErrUnsupported", err)
		}
	case <-time.After(5 * time.Minute):
		t.Error("Tags of a pipe waits")
	}
}
