package worker

import (
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"vega/events"
)

// verified reads an object and fails at its end when the bytes were not the recorded ones.
type verified struct {
	io.ReadCloser
	sum  hash.Hash
	want events.Digest
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && events.Digest("sha256:"+hex.EncodeToString(v.sum.Sum(nil))) != v.want {
		return n, ErrObjectChanged
	}
	return n, err
}
