package llmproxy

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
)

// body is a request's bytes in a buffer that is used again: agents send their whole history with each call, and garbage of that size would cost as much as the rest
// of the call. It has owners, and goes back when the last one releases it.
type body struct {
	b      []byte
	owners atomic.Int32
}

// maxPooled is the largest buffer that is kept, in bytes.
const maxPooled = 1 << 20

var bodies = sync.Pool{New: func() any { return new(body) }}

// takeBody returns an empty body with one owner.
func takeBody() *body {
	b := bodies.Get().(*body)
	b.b = b.b[:0]
	b.owners.Store(1)
	return b
}

// hold adds an owner.
func (b *body) hold() *body {
	b.owners.Add(1)
	return b
}

// release takes one owner away, after which it must not touch the bytes.
func (b *body) release() {
	if b.owners.Add(-1) == 0 && cap(b.b) <= maxPooled {
		bodies.Put(b)
	}
}

// readFrom appends all of r; size is how much that is, or -1.
func (b *body) readFrom(r io.Reader, size int64) error {
	into := bytes.NewBuffer(b.b)
	if size >= 0 {
		into.Grow(int(min(size, maxPooled)) + bytes.MinRead)
	}
	_, err := into.ReadFrom(r)
	b.b = into.Bytes()
	return err
}

// reader reads the bytes as a request's body. The transport closes it when it needs them no more, which may be after it has returned.
func (b *body) reader() io.ReadCloser {
	return &bodyReader{Reader: *bytes.NewReader(b.b), of: b.hold()}
}

type bodyReader struct {
	bytes.Reader
	of     *body
	closed atomic.Bool
}

// Close releases the bytes, once.
func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.of.release()
	}
	return nil
}
