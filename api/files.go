package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/iechor/trust/tuf"
)

// Limits bound an upload before anything in it is parsed (attacks.md L4).
// Zero fields mean the defaults of [DefaultLimits].
type Limits struct {
	Request int64      // bytes of the whole body
	Parts   int        // files in one upload
	Files   tuf.Limits // bytes of one file, by role
}

// DefaultLimits accepts every upload that fits the files' own default limits:
// 64 MiB in at most 256 parts.
func DefaultLimits() Limits {
	return Limits{Request: 64 << 20, Parts: 256, Files: tuf.DefaultLimits()}
}

// WithDefaults returns l with its zero fields set.
func (l Limits) WithDefaults() Limits {
	d := DefaultLimits()
	if l.Request <= 0 {
		l.Request = d.Request
	}
	if l.Parts <= 0 {
		l.Parts = d.Parts
	}
	for _, f := range []struct{ have, other *int64 }{
		{&l.Files.Root, &d.Files.Root},
		{&l.Files.Timestamp, &d.Files.Timestamp},
		{&l.Files.Snapshot, &d.Files.Snapshot},
		{&l.Files.Targets, &d.Files.Targets},
	} {
		if *f.have <= 0 {
			*f.have = *f.other
		}
	}
	return l
}

func (l Limits) file(r tuf.RoleName) int64 {
	switch r {
	case tuf.RoleRoot:
		return l.Files.Root
	case tuf.RoleTimestamp:
		return l.Files.Timestamp
	case tuf.RoleSnapshot:
		return l.Files.Snapshot
	}
	return l.Files.Targets
}

// WriteFiles writes an upload of files to w and returns its content type.
func WriteFiles(w io.Writer, files []tuf.File) (contentType string, err error) {
	m := multipart.NewWriter(w)
	for _, f := range files {
		part, err := m.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="files"; filename="` + string(f.Role) + `"`},
			"Content-Type":        {"application/octet-stream"},
		})
		if err != nil {
			return "", err
		}
		if _, err := part.Write(f.Raw); err != nil {
			return "", err
		}
	}
	return m.FormDataContentType(), m.Close()
}

// ReadFiles takes an upload apart: each part is one file, named for its role.
// Every file is strictly parsed ([tuf.NewFile]); no signature is checked.
// Files come in the order of the parts, each role once. There may be none.
//
// The error is always an [*Error]: MALFORMED_UPLOAD, NO_FILENAME,
// INVALID_ROLE, MALFORMED_JSON, or TOO_LARGE with status 413. w is needed so
// that the connection of an endless upload is closed.
func ReadFiles(w http.ResponseWriter, r *http.Request, l Limits) ([]tuf.File, error) {
	l = l.WithDefaults()
	if r.ContentLength > l.Request {
		return nil, NewError(TooLarge, nil)
	}
	r.Body = http.MaxBytesReader(w, r.Body, l.Request)
	start := &beginning{r.Body, nil}
	r.Body = start
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, NewError(MalformedUpload, nil)
	}
	var files []tuf.File
	seen := map[tuf.RoleName]bool{}
	for {
		part, err := parts.NextRawPart()
		// Not errors.Is: a body that ends too early is an error that wraps EOF.
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, readError(err)
		}
		if len(files) == l.Parts {
			return nil, NewError(TooLarge, nil)
		}
		role, err := partRole(part.Header)
		if err != nil {
			return nil, err
		}
		if seen[role] {
			return nil, NewError(MalformedUpload, "the upload has two files for one role")
		}
		seen[role] = true
		raw, err := readPart(part, l.file(role))
		if err != nil {
			return nil, err
		}
		f, err := tuf.NewFile(role, raw)
		if errors.Is(err, tuf.ErrLimit) {
			return nil, NewError(TooLarge, nil)
		}
		if err != nil {
			return nil, NewError(MalformedJSON, nil)
		}
		files = append(files, f)
	}
	if len(files) == 0 && !start.closes(r.Header.Get("Content-Type")) {
		return nil, NewError(MalformedUpload, nil)
	}
	return files, nil
}

// A beginning remembers the first bytes of a body, to tell an upload without
// parts from one that ended before its first.
type beginning struct {
	io.ReadCloser
	bytes []byte
}

func (b *beginning) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes = append(b.bytes, p[:min(n, max(0, 256-len(b.bytes)))]...)
	return n, err
}

// closes reports whether the body is nothing but its closing boundary.
func (b *beginning) closes(contentType string) bool {
	_, params, err := mime.ParseMediaType(contentType)
	return err == nil && string(bytes.TrimSpace(b.bytes)) == "--"+params["boundary"]+"--"
}

func readPart(part io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(part, limit+1))
	if err != nil {
		return nil, readError(err)
	}
	if n > limit {
		return nil, NewError(TooLarge, nil)
	}
	return b.Bytes(), nil
}

// readError tells an upload that is too large from one that is broken.
func readError(err error) *Error {
	if e := new(http.MaxBytesError); errors.As(err, &e) {
		return NewError(TooLarge, nil)
	}
	return NewError(MalformedUpload, nil)
}

// maxPartName bounds the header that names a part: a role has at most 255
// bytes.
const maxPartName = 1024

// partRole reads the role from a part's Content-Disposition. It does so by
// itself because [multipart.Part.FileName] drops what stands before a slash,
// which would turn targets/releases into releases.
func partRole(h textproto.MIMEHeader) (tuf.RoleName, error) {
	disposition := h.Get("Content-Disposition")
	if len(disposition) > maxPartName {
		return "", NewError(InvalidRole, nil)
	}
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil || params["filename"] == "" {
		return "", NewError(NoFilename, nil)
	}
	name := strings.TrimSuffix(params["filename"], ".json")
	role := tuf.RoleName(name)
	if !role.Valid() {
		return "", NewError(InvalidRole, name)
	}
	return role, nil
}
