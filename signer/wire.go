package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// The calls. All but ping are POST with a JSON body; ping is GET.
const (
	pathCreate = "/v1/create-key"
	pathBegin  = "/v1/may-begin"
	pathHolds  = "/v1/holds"
	pathSign   = "/v1/sign"
	pathBoth   = "/v1/sign-both"
	pathForget = "/v1/forget"
	pathRecall = "/v1/recall"
	pathLower  = "/v1/lower-floor"
	pathFloors = "/v1/floors"
	pathPing   = "/v1/ping"
)

type (
	keyQuestion struct {
		Type tuf.KeyType  `json:"type"`
		Role tuf.RoleName `json:"role"`
		GUN  tuf.GUN      `json:"gun"`
	}
	keyAnswer struct {
		Key tuf.PublicKey `json:"key"`
	}
	holdsQuestion struct {
		GUN  tuf.GUN         `json:"gun"`
		Role tuf.RoleName    `json:"role"`
		Key  tuf.CanonicalID `json:"key"`
	}
	holdsAnswer struct {
		Held bool `json:"held"`
	}
	signAnswer struct {
		Key    tuf.PublicKey `json:"key"`
		Method string        `json:"method"`
		Sig    []byte        `json:"sig"`
	}
	bothQuestion struct {
		api.SignRequest
		Next api.Successor `json:"next"`
	}
	bothAnswer struct {
		Snapshot  signAnswer `json:"snapshot"`
		Timestamp signAnswer `json:"timestamp"`
	}
	gunQuestion struct {
		GUN tuf.GUN `json:"gun"`
	}
	lowerQuestion struct {
		GUN       tuf.GUN `json:"gun"`
		Timestamp int64   `json:"timestamp"`
	}
	floorsAnswer struct {
		Floors []Floor `json:"floors"`
	}
	pingAnswer struct {
		Rights []string `json:"rights"`
	}
)

func answerOf(s signed) signAnswer { return signAnswer{s.public, s.sig.Method, s.sig.Value} }

// Codes of errors.
const (
	codeNoKey    = "no_key"
	codeFloor    = "floor"
	codeRestored = "restored"
	codeRefused  = "refused"
	codeDenied   = "denied"
	codeSlow     = "slow_down"
	codeBroken   = "broken"
	codeUnknown  = "unsupported"
)

// ErrDenied is [api.ErrDenied].
var ErrDenied = api.ErrDenied

// A wireError is an error as it travels. Which of the numbers are set depends
// on the code.
type wireError struct {
	Code      string       `json:"code"`
	Message   string       `json:"message"`
	Role      tuf.RoleName `json:"role,omitempty"`
	Floor     int64        `json:"floor,omitempty"`
	Confirmed int64        `json:"confirmed,omitempty"`
	Base      int64        `json:"base,omitempty"`
	After     int64        `json:"after_ms,omitempty"`
	Clock     bool         `json:"clock,omitempty"`
}

// wireErrorOf says how err travels. Errors of the signer's own insides, such
// as those of its database, stay in its log.
func wireErrorOf(err error) (status int, e wireError) {
	var floor *api.FloorError
	var restored *api.RestoredError
	var refusal *Refusal
	var slow *api.SlowDownError
	switch {
	case errors.As(err, &slow):
		return http.StatusTooManyRequests, wireError{Code: codeSlow, Message: slow.Error(), After: slow.After.Milliseconds() + 1}
	case errors.As(err, &floor):
		return http.StatusConflict, wireError{Code: codeFloor, Message: floor.Error(), Role: floor.Role, Floor: floor.Floor}
	case errors.As(err, &restored):
		return http.StatusConflict, wireError{Code: codeRestored, Message: restored.Error(), Role: restored.Role, Confirmed: restored.Confirmed, Base: restored.Base}
	case errors.As(err, &refusal):
		return http.StatusUnprocessableEntity, wireError{Code: codeRefused, Message: refusal.Reason, Clock: refusal.Clock}
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotFound, wireError{Code: codeUnknown, Message: "the signer cannot do that with this key"}
	case errors.Is(err, api.ErrUnavailable):
		return http.StatusServiceUnavailable, wireError{Code: codeBroken, Message: "the signer cannot use its token now; its log says why"}
	case errors.Is(err, tuf.ErrNoKey):
		return http.StatusNotFound, wireError{Code: codeNoKey, Message: "the signer does not hold the key"}
	case errors.Is(err, ErrSealed):
		return http.StatusServiceUnavailable, wireError{Code: codeBroken, Message: "the signer cannot use its key-encryption key now; its log says why"}
	case errors.Is(err, database.ErrUnavailable), errors.Is(err, database.ErrUncertain), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, wireError{Code: codeBroken, Message: "the signer is busy"}
	}
	return http.StatusInternalServerError, wireError{Code: codeBroken, Message: "the signer could not do it; its log says why"}
}

// err is the inverse of wireErrorOf.
func (e wireError) err(status int) error {
	switch e.Code {
	case codeFloor:
		return &api.FloorError{Role: e.Role, Floor: e.Floor}
	case codeRestored:
		return &api.RestoredError{Role: e.Role, Confirmed: e.Confirmed, Base: e.Base}
	case codeSlow:
		return &api.SlowDownError{After: time.Duration(min(max(e.After, 1), 60_000)) * time.Millisecond}
	case codeRefused:
		if status == http.StatusNotFound { // a call that is not known there
			return fmt.Errorf("%w: %s", errors.ErrUnsupported, e.Message)
		}
		return &Refusal{e.Message, e.Clock}
	case codeNoKey:
		return fmt.Errorf("%w: %s", tuf.ErrNoKey, e.Message)
	case codeUnknown:
		return fmt.Errorf("%w: %s", errors.ErrUnsupported, e.Message)
	case codeDenied:
		return fmt.Errorf("%w: %s", ErrDenied, e.Message)
	case codeBroken:
		if status == http.StatusServiceUnavailable {
			return fmt.Errorf("%w: %s", api.ErrUnavailable, e.Message)
		}
		return errors.New(e.Message)
	}
	return fmt.Errorf("the signer answered with status %d", status)
}

// decode reads a question strictly: one JSON value, no unknown members,
// nothing behind it.
func decode[T any](body []byte) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, refuse("the request is not the JSON that this call takes")
	}
	if _, err := d.Token(); err != io.EOF {
		return v, refuse("the request goes on behind its end")
	}
	return v, nil
}
