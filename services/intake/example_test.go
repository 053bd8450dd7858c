package intake_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"vega/services/intake"
)

func Example() {
	dir, err := os.MkdirTemp("", "intake")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	config := intake.Config{
		MaxSourceBytes: 1 << 20, MaxEntries: 100, MaxUncompressedBytes: 1 << 20, MaxRatio: 200, Timeout: time.Minute, Slots: 1,
	}
	in, err := intake.Open(config, filepath.Join(dir, "spool"), slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}

	for _, name := range []string{"src/main.go", "../evil.go"} {
		var body bytes.Buffer
		z := zip.NewWriter(&body)
		w, _ := z.Create(name)
		fmt.Fprintln(w, "package main")
		z.Close()

		ctx := context.Background()
		upload, err := in.Receive(ctx, &body, -1)
		if err != nil {
			panic(err)
		}
		snapshot, err := in.Inspect(ctx, upload)
		upload.Close()
		if refusal, ok := errors.AsType[*intake.Refusal](err); ok {
			fmt.Println(refusal.Status(), refusal)
			continue
		}
		if err != nil {
			panic(err)
		}
		fmt.Println(snapshot.ID, snapshot.Files, snapshot.Bytes)
		tree := filepath.Join(dir, "tree")
		if _, err := intake.Checkout(ctx, snapshot.ID, snapshot.Manifest(), snapshot.Pack(), tree); err != nil {
			panic(err)
		}
		snapshot.Close()
		source, _ := os.ReadFile(filepath.Join(tree, "src", "main.go"))
		fmt.Print(string(source))
	}
	// Output:
	// sha256:3078884519962cb2dbd47c7b2518cd94576988bc92b5cea7131f789be9e3d890 1 13
	// package main
	// 422 archive_path_escape: an entry's path has ".." in it (entry ../evil.go)
}
