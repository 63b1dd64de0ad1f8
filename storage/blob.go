package storage

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"

	"github.com/iechor/trust/database"
	"github.com/klauspost/compress/zstd"
)

// maxHeight bounds how many blobs have to be read to have the bytes of one.
const maxHeight = 32

// maxLength bounds the bytes of one file, so that a damaged row cannot make us
// allocate without end. What is published is bounded far lower, above us.
const maxLength = 1 << 30

// dictionary is the id under which zstd frames name the base they need. Any
// number does; which base is meant, the row says.
const dictionary = 1

// A codec compresses blobs that stand for themselves. It is safe for
// concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("prepare compression: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("prepare decompression: %w", err)
	}
	return &codec{enc: enc, dec: dec}, nil
}

// tiny is how many bytes are not worth the time to be compressed: a third of
// them would be spared.
const tiny = 1 << 10

func (c *codec) pack(raw []byte) []byte {
	if len(raw) < tiny {
		return plain(raw)
	}
	return c.enc.EncodeAll(raw, make([]byte, 0, len(raw)/2+64))
}

// plain returns raw, of less than 64 KiB, as a zstd frame that has it as it is:
// one segment, whose size is told in one byte, or in two less 256 (RFC 8878,
// 3.1.1.1), and in it one block, the last (3.1.1.2).
func plain(raw []byte) []byte {
	n := len(raw)
	data := append(make([]byte, 0, n+12), 0x28, 0xb5, 0x2f, 0xfd)
	if n < 256 {
		data = append(data, 1<<5, byte(n))
	} else {
		data = append(data, 1<<6|1<<5, byte(n-256), byte((n-256)>>8))
	}
	data = append(data, byte(n<<3|1), byte(n>>5), byte(n>>13))
	return append(data, raw...)
}

// unpack returns the bytes that a blob's data stand for, where they are as
// many as the database says.
func (c *codec) unpack(data []byte, length int64) ([]byte, error) {
	return decode(c.dec, data, length)
}

func decode(dec *zstd.Decoder, data []byte, length int64) ([]byte, error) {
	if length < 1 || length > maxLength {
		return nil, fmt.Errorf("%w: length of %d", ErrCorrupt, length)
	}
	raw, err := dec.DecodeAll(data, make([]byte, 0, length))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return raw, nil
}

// packDelta compresses raw against base.
func packDelta(raw, base []byte) ([]byte, error) {
	window := max(1<<bits.Len(uint(len(raw)+len(base))), zstd.MinWindowSize)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(dictionary, base), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(min(window, zstd.MaxWindowSize)), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("prepare compression: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(raw, nil), nil
}

// unpackDelta undoes packDelta.
func unpackDelta(data, base []byte, length int64) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(dictionary, base), zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("prepare decompression: %w", err)
	}
	defer dec.Close()
	return decode(dec, data, length)
}

// A blob is a row of the table blobs.
type blob struct {
	length int64
	base   []byte // nil: whole
	height int
	data   []byte
}

func readBlob(ctx context.Context, t *database.Tx, digest []byte) (blob, error) {
	var b blob
	err := t.QueryRow(ctx, "SELECT length, base, height, data FROM blobs WHERE digest = ?", digest).
		Scan(&b.length, &b.base, &b.height, &b.data)
	if err != nil {
		return blob{}, fmt.Errorf("read blob %x: %w", digest, err)
	}
	return b, nil
}

// readChain reads the blob and those it hangs on, the whole one last.
func readChain(ctx context.Context, t *database.Tx, digest []byte) ([]blob, error) {
	var chain []blob
	for digest != nil {
		if len(chain) > maxHeight {
			return nil, fmt.Errorf("read blob %x: %w: it hangs on too many others", digest, ErrCorrupt)
		}
		b, err := readBlob(ctx, t, digest)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("read blob %x: %w: it is gone", digest, ErrCorrupt)
		}
		if err != nil {
			return nil, err
		}
		chain = append(chain, b)
		digest = b.base
	}
	return chain, nil
}

// open returns the bytes of the first blob of the chain, which have the hash
// digest.
func (c *codec) open(chain []blob, digest []byte) ([]byte, error) {
	last := len(chain) - 1
	raw, err := c.unpack(chain[last].data, chain[last].length)
	for i := last - 1; i >= 0 && err == nil; i-- {
		raw, err = unpackDelta(chain[i].data, raw, chain[i].length)
	}
	if err == nil && sha256.Sum256(raw) != [32]byte(digest) {
		err = ErrCorrupt
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %x: %w", digest, err)
	}
	return raw, nil
}
