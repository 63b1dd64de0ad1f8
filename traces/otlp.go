package traces

import "encoding/binary"

// Wire types of protobuf.
const (
	varint     = 0
	fixed64    = 1
	delimited  = 2
	fixed32    = 5
	errorState = 2 // STATUS_CODE_ERROR
)

// encode writes spans as an ExportTraceServiceRequest of OTLP 1: the field
// numbers are those of opentelemetry/proto/trace/v1/trace.proto.
func encode(resource []attribute, scope string, spans []*Span) []byte {
	var of, inside []byte
	for _, a := range resource {
		of = message(of, 1, keyValue(a)) // Resource.attributes
	}
	inside = message(inside, 1, text(nil, 1, scope)) // ScopeSpans.scope, its name
	for _, s := range spans {
		inside = message(inside, 2, s.encode()) // ScopeSpans.spans
	}
	all := message(nil, 1, of)    // ResourceSpans.resource
	all = message(all, 2, inside) // ResourceSpans.scope_spans
	return message(nil, 1, all)   // ExportTraceServiceRequest.resource_spans
}

func (s *Span) encode() []byte {
	b := message(nil, 1, s.trace[:])
	b = message(b, 2, s.id[:])
	if s.above != [8]byte{} {
		b = message(b, 4, s.above[:])
	}
	b = text(b, 5, s.name)
	b = number(b, 6, uint64(s.kind))
	b = binary.LittleEndian.AppendUint64(tag(b, 7, fixed64), uint64(s.begin.UnixNano()))
	b = binary.LittleEndian.AppendUint64(tag(b, 8, fixed64), uint64(s.end.UnixNano()))
	for _, a := range s.set {
		b = message(b, 9, keyValue(a))
	}
	if s.failed {
		b = message(b, 15, number(nil, 3, errorState))
	}
	return binary.LittleEndian.AppendUint32(tag(b, 16, fixed32), 1) // flags: sampled
}

func keyValue(a attribute) []byte {
	value := text(nil, 1, a.text) // AnyValue.string_value
	if a.number {
		value = number(nil, 3, uint64(a.n)) // AnyValue.int_value
	}
	return message(text(nil, 1, a.key), 2, value)
}

func tag(b []byte, field, kind uint64) []byte { return binary.AppendUvarint(b, field<<3|kind) }

func number(b []byte, field, n uint64) []byte { return binary.AppendUvarint(tag(b, field, varint), n) }

func message(b []byte, field uint64, m []byte) []byte {
	return append(binary.AppendUvarint(tag(b, field, delimited), uint64(len(m))), m...)
}

func text(b []byte, field uint64, s string) []byte { return message(b, field, []byte(s)) }
