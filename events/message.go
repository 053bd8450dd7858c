package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Message is an event as it lies in the log: CloudEvents 1.0 binary mode, attributes as headers, the payload as body.
// Header names are case-sensitive.
type Message struct {
	Subject string
	Header  map[string]string
	Body    []byte
}

// Headers of ours beside the CloudEvents attributes. headerKey is empty today: it is the place for the id of a key that a
// sealed body would need.
const (
	headerActor   = "Vega-Actor"
	headerCause   = "Vega-Cause"
	headerCommand = "Vega-Command"
	headerKey     = "Vega-Key"
	headerVersion = "Agg-Version"
	headerHash    = "Audit-Hash"
	headerTrace   = "traceparent"
	// HeaderMsgID is the server's own header for de-duplication; ours is command id + index.
	HeaderMsgID = "Nats-Msg-Id"
)

// MaxBody bounds one event's payload, in bytes; larger facts are objects named by digest.
const MaxBody = 512 << 10

// Encode builds the messages of one command: evs after head, in order, chained. It returns the head after them. The error
// names what cannot be stored: an unknown fact, a body over MaxBody, a missing actor or command.
func Encode(a Aggregate, head Head, meta Meta, evs ...Event) ([]Message, Head, error) {
	if err := CheckMeta(meta); err != nil {
		return nil, head, err
	}
	msgs := make([]Message, len(evs))
	prefix := string(meta.Command) + "/" + string(a.Kind) + "/" + a.ID + "/"
	source := "/" + string(a.Region) + "/" + string(a.Kind) + "/" + a.ID
	at := utc(meta.At).Format(time.RFC3339Nano)
	for i, e := range evs {
		row, ok := kindRowOf(e)
		if !ok {
			return nil, head, fmt.Errorf("%T may not be appended", e)
		}
		if agg, _, _ := strings.Cut(string(row.kind), "."); agg != string(a.Kind) {
			return nil, head, fmt.Errorf("%s does not belong to %s", row.kind, a)
		}
		body, err := json.Marshal(e)
		if err != nil {
			return nil, head, fmt.Errorf("encode %s: %w", row.kind, err)
		}
		if len(body) > MaxBody {
			return nil, head, fmt.Errorf("%s is %d bytes, at most %d", row.kind, len(body), MaxBody)
		}
		id := prefix + strconv.Itoa(i)
		m := Message{Subject: a.Subject(e), Body: body, Header: map[string]string{
			"ce-specversion":     "1.0",
			"ce-id":              id,
			"ce-type":            string(row.kind),
			"ce-source":          source,
			"ce-time":            at,
			"ce-dataschema":      "vega:" + string(row.kind) + "/" + strconv.Itoa(row.schema),
			"ce-datacontenttype": "application/json",
			headerActor:          string(meta.Actor),
			headerCommand:        string(meta.Command),
			headerVersion:        strconv.FormatUint(uint64(head.Version)+1, 10),
			HeaderMsgID:          id,
		}}
		if meta.Cause != "" {
			m.Header[headerCause] = meta.Cause
		}
		if meta.Trace != "" {
			m.Header[headerTrace] = meta.Trace
		}
		head.Version++
		head.Hash = link(head.Hash, m, ours)
		m.Header[headerHash] = string(head.Hash)
		msgs[i] = m
	}
	return msgs, head, nil
}

// Record returns the events of one Encode as they are in the log once the last of them is stored at sequence last: what Decode would return,
// without decoding.
func Record(a Aggregate, meta Meta, msgs []Message, last Seq, evs ...Event) []Recorded {
	meta.At = utc(meta.At)
	out := make([]Recorded, len(msgs))
	for i, m := range msgs {
		row, _ := kindRowOf(evs[i])
		version, _ := strconv.ParseUint(m.Header[headerVersion], 10, 64) // Encode wrote it
		out[i] = Recorded{
			Envelope: Envelope{Meta: meta, Aggregate: a, ID: m.Header["ce-id"], Kind: row.kind, Schema: row.schema, Version: Version(version), Hash: Hash(m.Header[headerHash])},
			Seq:      last - Seq(len(msgs)-1-i), // the events of one command lie next to each other
			Event:    evs[i],
		}
	}
	return out
}

// CheckMeta says what is missing or malformed in a command's metadata.
func CheckMeta(m Meta) error {
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/-"
	switch {
	case m.Command == "" || len(m.Command) > 100 || strings.Trim(string(m.Command), ok) != "":
		return fmt.Errorf("command id %.40q: want 1 to 100 characters of A-Z, a-z, 0-9 and _.:/-", string(m.Command))
	case m.Actor == "" || len(m.Actor) > 150 || strings.ContainsAny(string(m.Actor), "\r\n"):
		return fmt.Errorf("actor %.40q: want 1 to 150 characters on one line", string(m.Actor))
	case len(m.Cause) > 200 || strings.ContainsAny(m.Cause, "\r\n"):
		return fmt.Errorf("cause %.40q: want at most 200 characters on one line", m.Cause)
	case len(m.Trace) > 100 || strings.ContainsAny(m.Trace, "\r\n"):
		return fmt.Errorf("traceparent %.40q: want at most 100 characters on one line", m.Trace)
	case strings.TrimSpace(string(m.Actor)) != string(m.Actor), strings.TrimSpace(m.Cause) != m.Cause, strings.TrimSpace(m.Trace) != m.Trace:
		return errors.New("actor, cause and traceparent must not begin or end with a space: a header would lose it, and its hash would no longer fit")
	case m.At.IsZero():
		return errors.New("a command needs its moment")
	}
	return nil
}

// Decode reads what Encode wrote, of this or an earlier schema. A fact of a later release comes back as Unknown.
func Decode(m Message, seq Seq) (Recorded, error) {
	return DecodeFrom(m.Subject, func(name string) string { return m.Header[name] }, m.Body, seq)
}

// DecodeFrom is Decode for headers that are kept in another form; header returns the value of one, or "".
func DecodeFrom(subject string, header func(name string) string, body []byte, seq Seq) (Recorded, error) {
	fail := func(err error) (Recorded, error) {
		return Recorded{}, fmt.Errorf("event at sequence %d: %w", seq, err)
	}
	a, _, err := ParseSubject(subject)
	if err != nil {
		return fail(err)
	}
	if v := header("ce-specversion"); v != "1.0" {
		return fail(fmt.Errorf("ce-specversion is %.20q", v))
	}
	at, err := time.Parse(time.RFC3339Nano, header("ce-time"))
	if err != nil {
		return fail(fmt.Errorf("ce-time: %w", err))
	}
	version, err := strconv.ParseUint(header(headerVersion), 10, 64)
	if err != nil || version == 0 {
		return fail(fmt.Errorf("%s is %.20q", headerVersion, header(headerVersion)))
	}
	kind := Kind(header("ce-type"))
	schema, err := parseSchema(kind, header("ce-dataschema"))
	if err != nil {
		return fail(err)
	}
	e, err := decodeBody(kind, schema, body)
	if err != nil {
		return fail(err)
	}
	return Recorded{
		Envelope: Envelope{
			Meta: Meta{
				Command: CommandID(header(headerCommand)),
				Actor:   Actor(header(headerActor)),
				Cause:   header(headerCause),
				Trace:   header(headerTrace),
				At:      at,
			},
			Aggregate: a,
			ID:        header("ce-id"),
			Kind:      kind,
			Schema:    schema,
			Version:   Version(version),
			Hash:      Hash(header(headerHash)),
		},
		Seq:   seq,
		Event: e,
	}, nil
}

func parseSchema(kind Kind, dataschema string) (int, error) {
	number, ok := strings.CutPrefix(dataschema, "vega:"+string(kind)+"/")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 1 {
		return 0, fmt.Errorf("ce-dataschema %.80q does not belong to %.40q", dataschema, string(kind))
	}
	return n, nil
}
