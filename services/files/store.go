package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"
)

// What callers branch on. Every error of a [Store] that means one of these wraps it.
var (
	// ErrNotFound means that no object has the key.
	ErrNotFound = errors.New("object not found")
	// ErrFull means that the disk or the quota is full: the request was fine
	// and may be repeated later.
	ErrFull = errors.New("file storage is full")
	// ErrBadKey means that the key cannot name an object; see [CheckKey].
	ErrBadKey = errors.New("bad object key")
	// ErrCorrupt means that the bytes read are not the bytes that were promised.
	ErrCorrupt = errors.New("object does not match its digest")
	// ErrChanged means that an object was replaced or deleted while it was
	// read, and that the store could not go on with it as it was.
	ErrChanged = errors.New("object was replaced or deleted while it was read")
	// ErrUnavailable means that the store does not answer, or asks for less
	// haste, also after it was asked again: the request may be repeated later.
	ErrUnavailable = errors.New("file storage does not answer")
	// ErrNoBucket means that no bucket is configured for keys of this kind.
	ErrNoBucket = errors.New("no bucket is configured")
)

// Object describes one stored object.
type Object struct {
	Key      string
	Digest   string    // "sha256:<hex>" of the content; set by Put only, a Stat or List leaves it empty
	Bytes    int64     // size of the content
	Modified time.Time // when the object was put; set by Stat and List
}

// Store keeps objects by key. All methods may be called concurrently. An
// implementation passes filestest.Run.
type Store interface {
	// Put stores what r yields under key, replacing an object that is there.
	// When it returns nil the object is durable and whole; when it returns an
	// error the key is as it was before. One case is left open, and only by a
	// store behind a network: when it stops answering (ErrUnavailable), or the
	// context ends, after the last byte was sent, the key may also hold the
	// whole new object. Never a part of it; putting it again is right. It fails
	// with the reader's error, with the context's, with ErrFull,
	// ErrUnavailable, ErrNoBucket or ErrBadKey.
	Put(ctx context.Context, key string, r io.Reader) (Object, error)
	// Open returns the object's content and its size in bytes. An object that
	// is replaced or deleted meanwhile is still read as it was, or, behind a
	// network, the reader fails with ErrChanged: it never yields bytes of two
	// objects. ctx must outlive the reader, which may end with its error. Open
	// fails with ErrNotFound, the reader with ErrCorrupt where the store keeps
	// checksums and they do not match. The caller closes the reader.
	Open(ctx context.Context, key string) (io.ReadCloser, int64, error)
	// Stat describes the object, or fails with ErrNotFound.
	Stat(ctx context.Context, key string) (Object, error)
	// Delete removes the object. Deleting what is not there succeeds, so a
	// deletion can be repeated after a crash.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose keys begin with prefix (any string, not
	// only a folder; "" for all), in the byte order of their keys. It stops
	// after the first error. Objects that come or go meanwhile may be missed.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
}

// CheckKey reports, as an error wrapping [ErrBadKey], why key cannot name an
// object. A key is 1 to 1,024 bytes of letters, digits and "-_.=+@", in
// components of at most 200 bytes separated by single slashes; no component
// begins with a dot. That is a plain relative path everywhere, and a key that
// S3 takes without escaping.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrBadKey)
	case len(key) > 1024:
		return fmt.Errorf("%w: it has %d bytes, at most 1024 are allowed", ErrBadKey, len(key))
	}
	for component := range strings.SplitSeq(key, "/") {
		switch {
		case component == "":
			return fmt.Errorf("%w %q: empty component", ErrBadKey, key)
		case component[0] == '.':
			return fmt.Errorf("%w %q: component begins with a dot", ErrBadKey, key)
		case len(component) > 200:
			return fmt.Errorf("%w %q: component longer than 200 bytes", ErrBadKey, key)
		}
	}
	return checkKeyBytes(key)
}

// checkPrefix accepts whatever a valid key can begin with.
func checkPrefix(prefix string) error {
	if strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, ".") ||
		strings.Contains(prefix, "//") || strings.Contains(prefix, "/.") {
		return fmt.Errorf("%w: no key begins with %q", ErrBadKey, prefix)
	}
	return checkKeyBytes(prefix)
}

func checkKeyBytes(key string) error {
	for _, c := range []byte(key) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_.=+@/", c) >= 0:
		default:
			return fmt.Errorf("%w %q: byte %q is not allowed", ErrBadKey, key, c)
		}
	}
	return nil
}

// Verify returns a reader of r's bytes that fails with [ErrCorrupt] instead of
// ending when they do not hash to digest ("sha256:<hex>"). The bytes before
// the end are unproven: use nothing of them before the end was reached.
func Verify(r io.Reader, digest string) io.Reader {
	return &verifier{from: r, want: digest, hash: sha256.New()}
}

type verifier struct {
	from io.Reader
	want string
	hash hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.from.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF {
		if got := digestOf(v.hash); got != v.want {
			return n, fmt.Errorf("%w: got %s, want %s", ErrCorrupt, got, v.want)
		}
	}
	return n, err
}

func digestOf(h hash.Hash) string {
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
