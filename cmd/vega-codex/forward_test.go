package main

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// ends are a connection to a forwarder, and what has come out of it at the socket.
func ends(t *testing.T) (client *net.TCPConn, server *net.UnixConn, f *forwarder) {
	t.Helper()
	socket := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if f, err = listen(0, socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	c, err := net.Dial("tcp", f.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.UnixConn), f
}

func TestEachDirectionEndsByItself(t *testing.T) {
	t.Parallel()
	client, server, _ := ends(t)
	question, answer := strings.Repeat("question ", 100_000), strings.Repeat("answer ", 100_000)
	asked := make(chan error, 1)
	go func() { // ends with the connection
		_, err := io.WriteString(client, question)
		asked <- errors.Join(err, client.CloseWrite())
	}()
	got, err := io.ReadAll(server) // ends though the other direction is open
	if err != nil || string(got) != question {
		t.Fatalf("%d bytes came, %v; want %d", len(got), err, len(question))
	}
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := io.WriteString(server, answer)
		asked <- errors.Join(err, server.Close())
	}()
	got, err = io.ReadAll(client)
	if err != nil || string(got) != answer {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(answer))
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

func TestTheServerMayEndFirst(t *testing.T) {
	t.Parallel()
	client, server, _ := ends(t)
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(client); err != nil || len(b) > 0 {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := io.WriteString(client, "late"); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(server); err != nil || string(b) != "late" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestWhereOneSideIsGoneTheOtherGoes(t *testing.T) {
	t.Parallel()
	t.Run("the client", func(t *testing.T) {
		t.Parallel()
		client, server, _ := ends(t)
		if err := errors.Join(client.SetLinger(0), client.Close()); err != nil { // resets it
			t.Fatal(err)
		}
		for {
			if _, err := io.WriteString(server, strings.Repeat("x", 1<<16)); err != nil {
				if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
					t.Error(err)
				}
				return
			}
		}
	})
	t.Run("the server", func(t *testing.T) {
		t.Parallel()
		client, server, _ := ends(t)
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := io.WriteString(client, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	})
	t.Run("the forwarder", func(t *testing.T) {
		t.Parallel()
		client, server, f := ends(t)
		f.close()
		if b, err := io.ReadAll(server); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
		if b, _ := io.ReadAll(client); len(b) > 0 {
			t.Errorf("%q", b)
		}
	})
}

func TestAClientIsHungUpOnWhereThereIsNoSocket(t *testing.T) {
	t.Parallel()
	f, err := listen(0, filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	c, err := net.Dial("tcp", f.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}
