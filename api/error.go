package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxErrorBody bounds an error body in bytes, written or read: the stock
// client reads no more, and understands nothing that was cut
// (notary-protocol 3.1).
const MaxErrorBody = 1024

// A Code names a kind of refusal on the wire.
type Code string

// The codes (notary-protocol 3.1). TooLarge, TooMany, ReadOnly, Unavailable and
// NeedsOperator are ours.
const (
	NoStorage         Code = "NO_STORAGE"
	NoFilename        Code = "NO_FILENAME"
	InvalidRole       Code = "INVALID_ROLE"
	MalformedJSON     Code = "MALFORMED_JSON"
	Updating          Code = "UPDATING"
	Version           Code = "VERSION"
	MetadataNotFound  Code = "METADATA_NOT_FOUND"
	InvalidUpdate     Code = "INVALID_UPDATE"
	MalformedUpload   Code = "MALFORMED_UPLOAD"
	GenericNotFound   Code = "GENERIC_NOT_FOUND"
	NoCryptoService   Code = "NO_CRYPTOSERVICE"
	NoKeyAlgorithm    Code = "NO_KEYALGORITHM"
	InvalidGUN        Code = "INVALID_GUN"
	InvalidParameters Code = "INVALID_PARAMETERS"
	Unauthorized      Code = "UNAUTHORIZED"
	Unknown           Code = "UNKNOWN"
	TooLarge          Code = "TOO_LARGE"
	TooMany           Code = "TOOMANYREQUESTS"
	Unavailable       Code = "UNAVAILABLE"
	ReadOnly          Code = "UNSUPPORTED"
	NeedsOperator     Code = "OPERATOR_NEEDED"
)

type entry struct {
	status  int
	message string
}

// describe gives the status and the message of a code.
func (c Code) describe() entry {
	switch c {
	case NoStorage:
		return entry{http.StatusInternalServerError, "The server is misconfigured and has no storage."}
	case NoFilename:
		return entry{http.StatusBadRequest, "No file/role name provided."}
	case InvalidRole:
		return entry{http.StatusBadRequest, "The role you are attempting to operate on is invalid."}
	case MalformedJSON:
		return entry{http.StatusBadRequest, "JSON sent by the client could not be parsed by the server"}
	case Updating:
		return entry{http.StatusInternalServerError, "An error has occurred while updating the TUF repository."}
	case Version:
		return entry{http.StatusBadRequest, "A newer version of metadata is already available."}
	case MetadataNotFound:
		return entry{http.StatusNotFound, "You have requested metadata that does not exist."}
	case InvalidUpdate:
		return entry{http.StatusBadRequest, "Update sent by the client is invalid."}
	case MalformedUpload:
		return entry{http.StatusBadRequest, "The body of your request is malformed."}
	case GenericNotFound:
		return entry{http.StatusNotFound, "You have requested a resource that does not exist."}
	case NoCryptoService:
		return entry{http.StatusInternalServerError, "The server does not have a signing service configured."}
	case NoKeyAlgorithm:
		return entry{http.StatusInternalServerError, "The server does not have a key algorithm configured."}
	case InvalidGUN:
		return entry{http.StatusBadRequest, "The server does not support actions on images of this name."}
	case InvalidParameters:
		return entry{http.StatusBadRequest, "The parameters provided are not valid."}
	case Unauthorized:
		return entry{http.StatusUnauthorized, "authentication required"}
	case TooLarge:
		return entry{http.StatusRequestEntityTooLarge, "The upload is larger than the server accepts."}
	case TooMany:
		return entry{http.StatusTooManyRequests, "Too many requests."}
	case Unavailable:
		return entry{http.StatusServiceUnavailable, "The server cannot do this at the moment: try again."}
	case NeedsOperator:
		// Stock clients show the detail of a 400, and of nothing else.
		return entry{http.StatusBadRequest, "The operator of the service has to act before this can be done."}
	case ReadOnly:
		return entry{http.StatusMethodNotAllowed, "The repository is a copy and can only be read here."}
	}
	return entry{http.StatusInternalServerError, "unknown error"}
}

// An Error is a refusal as it travels. Compare Code; the message is for people.
type Error struct {
	Status    int
	Code      Code // empty if a client could not read the body
	Message   string
	Detail    any    // marshalled to JSON; left out if nil. From ReadError: *Invalid where there is one, else json.RawMessage
	Challenge string // WWW-Authenticate, for 401
	// RetryAfter says when to try again, in whole seconds; 0: nothing is said.
	RetryAfter int
}

// NewError returns the refusal for a code, with the status and the message of
// the protocol.
func NewError(c Code, detail any) *Error {
	e := c.describe()
	return &Error{Status: e.status, Code: c, Message: e.message, Detail: detail}
}

// Empty is the detail "{}", which the stock server sends where a lookup failed.
type Empty struct{}

func (e *Error) Error() string {
	if e.Code == "" {
		return "status " + strconv.Itoa(e.Status)
	}
	switch d := e.Detail.(type) {
	case nil, Empty:
	case *Invalid:
		return fmt.Sprintf("%s: %s", e.Code, d.Error())
	case string:
		return fmt.Sprintf("%s: %s %s", e.Code, e.Message, d)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// maxRequestID bounds the id of a request, in bytes.
const maxRequestID = 64

// RequestID returns the id under which the log of the server has what went
// wrong there, and "" if e, from [ReadError], has none that is a plain word.
func (e *Error) RequestID() string {
	raw, ok := e.Detail.(json.RawMessage)
	var d struct{ Request string }
	odd := func(c rune) bool {
		return !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.')
	}
	if !ok || e.Status < 500 || json.Unmarshal(raw, &d) != nil || len(d.Request) > maxRequestID || strings.ContainsFunc(d.Request, odd) {
		return ""
	}
	return d.Request
}

// Unwrap returns the typed detail of INVALID_UPDATE and OPERATOR_NEEDED.
func (e *Error) Unwrap() error {
	if d, ok := e.Detail.(*Invalid); ok {
		return d
	}
	return nil
}

// A Fault names what is wrong with an update; clients decode it by name.
type Fault string

// The faults (notary-protocol 3.1).
const (
	BadValidation Fault = "ErrValidation"
	BadHierarchy  Fault = "ErrBadHierarchy"
	BadRoot       Fault = "ErrBadRoot"
	BadTargets    Fault = "ErrBadTargets"
	BadSnapshot   Fault = "ErrBadSnapshot"
)

// Invalid is the detail of INVALID_UPDATE and of OPERATOR_NEEDED.
type Invalid struct {
	Fault   Fault
	Msg     string
	Missing string // BadHierarchy: the role that is missing
}

// Error is the sentence that the stock client shows.
func (v *Invalid) Error() string {
	switch v.Fault {
	case BadHierarchy:
		return "Metadata hierarchy is incomplete: " + v.Msg
	case BadRoot:
		return "The root metadata is invalid: " + v.Msg
	case BadTargets:
		return "The targets metadata is invalid: " + v.Msg
	case BadSnapshot:
		return "The snapshot metadata is invalid: " + v.Msg
	}
	return "An error occurred during validation: " + v.Msg
}

type invalidJSON struct {
	Name  Fault
	Error struct {
		Missing string `json:",omitempty"`
		Msg     string
	}
}

// MarshalJSON writes the form that stock clients decode.
func (v *Invalid) MarshalJSON() ([]byte, error) {
	j := invalidJSON{Name: v.Fault}
	j.Error.Msg, j.Error.Missing = v.Msg, v.Missing
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (v *Invalid) UnmarshalJSON(raw []byte) error {
	var j invalidJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return err
	}
	*v = Invalid{Fault: j.Name, Msg: j.Error.Msg, Missing: j.Error.Missing}
	return nil
}

type wireError struct {
	Code    Code            `json:"code"`
	Message string          `json:"message"`
	Detail  json.RawMessage `json:"detail,omitempty"`
}

type wireErrors struct {
	Errors []wireError `json:"errors"`
}

// body encodes e in at most MaxErrorBody bytes: a text that is too long is
// cut, any other detail that is too long is left out.
func (e *Error) body() []byte {
	if b, err := e.encode(e.Detail); err == nil && len(b) <= MaxErrorBody {
		return b
	}
	cut := func(text string, with func(string) any) []byte {
		for n := min(len(text), MaxErrorBody); n > 0; n = n * 3 / 4 {
			for n > 0 && n < len(text) && !utf8.RuneStart(text[n]) {
				n--
			}
			if b, err := e.encode(with(text[:n] + "…")); err == nil && len(b) <= MaxErrorBody {
				return b
			}
		}
		return nil
	}
	var b []byte
	switch d := e.Detail.(type) {
	case *Invalid:
		b = cut(d.Msg, func(s string) any { return &Invalid{Fault: d.Fault, Missing: d.Missing, Msg: s} })
	case string:
		b = cut(d, func(s string) any { return s })
	}
	if b == nil {
		b, _ = (&Error{Code: e.Code, Message: e.Code.describe().message}).encode(nil) // cannot fail: no detail
	}
	if len(b) > MaxErrorBody { // a code that another server made up
		b, _ = (&Error{Code: Unknown, Message: Unknown.describe().message}).encode(nil)
	}
	return b
}

func (e *Error) encode(detail any) ([]byte, error) {
	w := wireError{Code: e.Code, Message: e.Message}
	if detail != nil {
		raw, err := json.Marshal(detail)
		if err != nil {
			return nil, err
		}
		w.Detail = raw
	}
	b, err := json.Marshal(wireErrors{[]wireError{w}})
	return append(b, '\n'), err
}

// WriteError answers a request with e. The body is at most [MaxErrorBody]
// bytes. Nothing may have been written to w before.
func WriteError(w http.ResponseWriter, e *Error) {
	body := e.body()
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // the peer is gone if this fails; nobody is left to tell
}

// ReadError reads the refusal in a response that is not a success. It reads at
// most [MaxErrorBody] bytes (attacks.md L3) and does not close the body. When
// these are not an error body the result has the status and no code.
func ReadError(r *http.Response) *Error {
	e := &Error{Status: r.StatusCode, Challenge: r.Header.Get("WWW-Authenticate")}
	raw, err := io.ReadAll(io.LimitReader(r.Body, MaxErrorBody))
	if err != nil {
		return e
	}
	var w wireErrors
	if json.Unmarshal(raw, &w) != nil || len(w.Errors) == 0 || w.Errors[0].Code == "" {
		return e
	}
	first := w.Errors[0]
	e.Code, e.Message = first.Code, first.Message
	if first.Detail == nil || bytes.Equal(first.Detail, []byte("null")) {
		return e
	}
	e.Detail = first.Detail
	if first.Code == InvalidUpdate || first.Code == NeedsOperator {
		v := new(Invalid)
		if json.Unmarshal(first.Detail, v) == nil && v.Fault != "" {
			e.Detail = v
		}
	}
	return e
}
