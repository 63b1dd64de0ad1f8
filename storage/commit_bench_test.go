package storage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// Publishes to different repositories, one after the other and by many at
// once.
func BenchmarkPublish(b *testing.B) {
	for _, kind := range []struct {
		name  string
		fresh databasetest.Fresh
	}{{"SQLite", databasetest.SQLite}, {"PostgreSQL", databasetest.PostgreSQL}, {"MariaDB", databasetest.MariaDB}} {
		for _, publishers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s-%d", kind.name, publishers), func(b *testing.B) {
				s, err := storage.Open(b.Context(), databasetest.Open(b, kind.fresh(b)))
				if err != nil {
					b.Fatal(err)
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				var all sync.WaitGroup
				began := processorTime()
				b.ResetTimer()
				for p := range publishers {
					all.Go(func() {
						gun := tuf.GUN(fmt.Sprintf("registry.example/app%d", p))
						var base *storage.State
						for v := int64(1); left.Add(-1) >= 0; v++ {
							var err error
							if base, err = s.Commit(b.Context(), gun, base, storagetest.Files(gun, v, 0)[1:], nil, storagetest.Start, &storage.Actor{Subject: "alice", From: "192.0.2.1"}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				if used := processorTime() - began; used > 0 {
					b.ReportMetric(float64(used)/float64(b.N), "cpu-µs/op")
				}
			})
		}
	}
}

// processorTime returns how many microseconds this process and the servers that
// it has started have worked, where the system has /proc; else 0.
func processorTime() int64 {
	type process struct {
		parent string
		ticks  int64
	}
	all := map[string]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		all[filepath.Base(filepath.Dir(file))] = process{f[1], user + system}
	}
	self := strconv.Itoa(os.Getpid())
	var ticks int64
	for id := range all {
		for at := id; at != ""; at = all[at].parent {
			if at == self {
				ticks += all[id].ticks
				break
			}
		}
	}
	return ticks * 10_000 // of a hundredth of a second
}
