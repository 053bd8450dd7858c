//go:build linux

package files

import (
	"errors"
	"os"
	"testing"
)

func TestNoSpaceLeftIsErrFull(t *testing.T) {
	t.Parallel()
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Write([]byte("x"))
	if err := full(err); !errors.Is(err, ErrFull) {
		t.Errorf("writing to a full device = %v, want ErrFull", err)
	}
	if err := full(os.ErrPermission); errors.Is(err, ErrFull) {
		t.Errorf("a refused permission = %v, want no ErrFull", err)
	}
}
