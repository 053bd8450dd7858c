package files

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestAConnectionOnWhichNothingMovesBreaksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := movingConn{near}
		begun := time.Now()
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1)) // of the answer, while the request is written
			read <- err
		}()
		received := make(chan error, 1)
		go func() {
			b := make([]byte, 1)
			for range 3 {
				if _, err := far.Read(b); err != nil {
					received <- err
					return
				}
			}
			received <- nil
		}()
		for range 3 {
			<-time.After(stillTime * 3 / 4)
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatalf("a write on a connection that moves = %v", err)
			}
		}
		if err := <-received; err != nil {
			t.Fatal(err)
		}
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read = %v, want a deadline", err)
		}
		if took, want := time.Since(begun), stillTime*13/4; took != want {
			t.Errorf("it broke off after %v, want %v: one minute after the last write", took, want)
		}
	})
}
