package files_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"vega/services/files"
)

func ExampleLocal() {
	dir, err := os.MkdirTemp("", "files")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	store, err := files.Open(dir)
	if err != nil {
		panic(err)
	}
	defer store.Close()

	ctx := context.Background()
	put, err := store.Put(ctx, "scans/scan_1/report.json", strings.NewReader("{}"))
	if err != nil {
		panic(err)
	}
	r, _, err := store.Open(ctx, put.Key)
	if err != nil {
		panic(err)
	}
	defer r.Close()
	content, err := io.ReadAll(files.Verify(r, put.Digest))
	fmt.Println(string(content), put.Bytes, err)
	// Output: {} 2 <nil>
}
