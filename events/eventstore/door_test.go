package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events/eventstore"
)

type doorFile struct {
	Port     int
	Password string
}

func readDoor(t *testing.T, dir string) doorFile {
	t.Helper()
	path := filepath.Join(dir, "connection.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	var d doorFile
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func listening(t *testing.T, dir string) *eventstore.Embedded {
	t.Helper()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir, Listen: true})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

func TestAnotherProcessFindsTheEmbeddedServerAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// Whoever comes first waits for the server.
	waited := make(chan struct{})
	connected := make(chan *nats.Conn, 1)
	back := make(chan struct{}, 10)
	go func() {
		nc, err := eventstore.ConnectLocal(t.Context(), dir, func(error) { close(waited) }, nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
		if err != nil {
			t.Errorf("ConnectLocal: %v", err)
		}
		connected <- nc
	}()
	<-waited
	srv := listening(t, dir)
	nc := <-connected
	if nc == nil {
		t.FailNow()
	}
	defer nc.Close()
	first := readDoor(t, dir)

	srv.Stop()
	srv = listening(t, dir)
	<-back
	if again := readDoor(t, dir); again != first {
		t.Errorf("the door is %v after a restart, was %v", again, first)
	}

	// Somebody else takes the port while the server is away.
	srv.Stop()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	srv = listening(t, dir)
	defer srv.Stop()
	<-back
	if now := readDoor(t, dir); now.Port == first.Port || now.Password != first.Password {
		t.Errorf("the door is %v with its port taken, was %v", now, first)
	}
}

func TestTheEmbeddedServerAsksForItsPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := listening(t, dir)
	defer srv.Stop()
	port := strconv.Itoa(readDoor(t, dir).Port)
	if nc, err := eventstore.Connect("nats://127.0.0.1:"+port, ""); err == nil {
		nc.Close()
		t.Error("connected without a password")
	}
	nc, err := srv.Connect()
	if err != nil {
		t.Fatalf("inside the process: %v", err)
	}
	nc.Close()
}

func TestWaitingForAServerEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := eventstore.ConnectLocal(ctx, t.TempDir(), func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ConnectLocal = %v", err)
	}
}
