package intake

import (
	"archive/zip"
	"bytes"
	"log/slog"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	ChildMain()
	os.Exit(m.Run())
}

func testConfig() Config {
	return Config{MaxSourceBytes: 2 << 30, MaxEntries: 50_000, MaxUncompressedBytes: 5 << 30, MaxRatio: 200, Timeout: 2 * time.Minute, Slots: 2}
}

func TestSmoke(t *testing.T) {
	in, err := Open(testConfig(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, _ := z.Create("a/b.txt")
	w.Write([]byte("hello"))
	z.Close()
	body := b.Bytes()
	if p := os.Getenv("SMOKE"); p != "" {
		body, _ = os.ReadFile(p)
	}
	t0 := time.Now()
	up, err := in.Receive(t.Context(), bytes.NewReader(body), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	t.Log("receive", time.Since(t0))
	s, err := in.Inspect(t.Context(), up)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t.Logf("%+v %v", s, time.Since(t0))
	t0 = time.Now()
	dir := t.TempDir() + "/x"
	if _, err := Checkout(t.Context(), s.ID, s.Manifest(), s.Pack(), dir); err != nil {
		t.Fatal(err)
	}
	t.Log("checkout", time.Since(t0))
}
