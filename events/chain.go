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
	h := sha256.New()
	field(h, string(prev))
	field(h, m.Subject)
	var names []string
	for name := range m.Header {
		if covered(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		field(h, name)
		field(h, m.Header[name])
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(m.Body)))
	h.Write(n[:])
	h.Write(m.Body)
	return Hash(hex.EncodeToString(h.Sum(nil)))
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
