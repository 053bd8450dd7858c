package eventstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
)

// door is how other processes of this machine reach an embedded server: what connection.json says. The port is chosen once and kept, so that a
// worker finds a restarted server where it was.
type door struct {
	URL      string `json:"url"` // for people; Port is what counts
	Port     int    `json:"port"`
	User     string `json:"user"`
	Password string `json:"password"`
	PID      int    `json:"pid"` // of the process that wrote it last
}

const doorFile = "connection.json"

// doorOf reads or makes the door of the server whose folder is dir, with a port that is free now.
func doorOf(dir string) (door, error) {
	d, err := readDoor(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if d.Password == "" {
		d.User, d.Password = "vega", rand.Text()
	}
	if d.Port == 0 || !free(d.Port) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return d, err
		}
		d.Port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return d, err
		}
	}
	d.URL, d.PID = fmt.Sprintf("nats://127.0.0.1:%d", d.Port), os.Getpid()
	return d, writeDoor(dir, d)
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func readDoor(dir string) (door, error) {
	var d door
	b, err := os.ReadFile(filepath.Join(dir, doorFile))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("%s: %w", filepath.Join(dir, doorFile), err)
	}
	return d, nil
}

func writeDoor(dir string, d door) error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, doorFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	// A crash here leaves a file that nobody reads and the next start overwrites.
	return os.Rename(path+".new", path)
}

// ConnectLocal connects to the embedded server whose folder is dir, run by another process of this machine. It waits until there is one, telling
// waiting once when that takes longer than a moment; only ctx ends the wait. The connection finds the server again after a restart, even on another port.
func ConnectLocal(ctx context.Context, dir string, waiting func(error), o ...nats.Option) (*nats.Conn, error) {
	return patiently(ctx, waiting, func() (*nats.Conn, error) {
		d, err := readDoor(dir)
		if err != nil {
			return nil, err
		}
		opts := append(connectOptions(), nats.UserInfo(d.User, d.Password), nats.SetCustomDialer(doorDialer{dir}))
		return nats.Connect(d.URL, append(opts, o...)...)
	}, func(error) bool { return true })
}

// ConnectPatiently is Connect that waits for a server that does not answer, as ConnectLocal does. What waiting does not help, such as wrong
// credentials, is returned at once.
func ConnectPatiently(ctx context.Context, url, creds string, waiting func(error), o ...nats.Option) (*nats.Conn, error) {
	return patiently(ctx, waiting, func() (*nats.Conn, error) { return Connect(url, creds, o...) }, func(err error) bool {
		_, network := errors.AsType[net.Error](err)
		if _, file := errors.AsType[*fs.PathError](err); file {
			return false
		}
		return network || errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, io.EOF)
	})
}

func patiently(ctx context.Context, waiting func(error), connect func() (*nats.Conn, error), worth func(error) bool) (*nats.Conn, error) {
	pause, told := newBackoff(), false
	for start := time.Now(); ; {
		nc, err := connect()
		if err == nil || !worth(err) {
			return nc, err
		}
		if !told && time.Since(start) > time.Second {
			waiting(err)
			told = true
		}
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// doorDialer dials where the door is now.
type doorDialer struct{ dir string }

func (d doorDialer) Dial(network, address string) (net.Conn, error) {
	if now, err := readDoor(d.dir); err == nil {
		address = fmt.Sprintf("127.0.0.1:%d", now.Port)
	}
	return net.DialTimeout(network, address, 2*time.Second)
}
