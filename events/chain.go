package events

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
)

// Hash is one link of an aggregate's chain: hex SHA-256, empty before the first event.
type Hash string

// Link is the hash of m as the successor of prev. It covers, each with its length, so no two inputs share a hash by moving a
// border: the previous hash, the subject, the version, the ce-* attributes, actor, cause, command and key headers sorted by
// name, and the stored bytes. Transport headers (message id, expectations, batch, trace) are not covered.
func Link(prev Hash, m Message) Hash {
	names := make([]string, 0, 16)
	for name := range m.Header {
		if covered(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return link(prev, m, names)
}

// ours are the covered headers that Encode writes, sorted. A message may lack some.
var ours = []string{headerVersion, headerActor, headerCause, headerCommand, headerKey,
	"ce-datacontenttype", "ce-dataschema", "ce-id", "ce-source", "ce-specversion", "ce-time", "ce-type"}

// link hashes the headers of these names, in this order.
func link(prev Hash, m Message, names []string) Hash {
	b := make([]byte, 0, 1024+len(m.Body)) // hashed in one go: hashing field by field costs more than the hash
	b = appendField(b, string(prev))
	b = appendField(b, m.Subject)
	for _, name := range names {
		if value, ok := m.Header[name]; ok {
			b = appendField(b, name)
			b = appendField(b, value)
		}
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.Body)))
	b = append(b, m.Body...)
	sum := sha256.Sum256(b)
	return Hash(hex.EncodeToString(sum[:]))
}

func appendField(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

func covered(header string) bool {
	switch header {
	case headerVersion, headerActor, headerCause, headerCommand, headerKey:
		return true
	}
	return strings.HasPrefix(header, "ce-")
}

func field(h hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	h.Write(n[:])
	h.Write([]byte(s))
}
