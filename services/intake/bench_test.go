package intake

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkIntake takes in a real tree (a large public Go module) and has the
// ordinary tool unpack the same file, in turns. It reports the unpacked bytes
// per second of both and their ratio: 1 is as fast as the tool, which checks
// nothing and, unlike us, need not copy the upload first.
func BenchmarkIntake(b *testing.B) {
	dir := b.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		b.Fatal(err)
	}
	var download struct{ Zip string }
	version := strings.TrimSpace(string(run(b, ".", "go", "list", "-m", "-f", "{{.Version}}", "modernc.org/libc")))
	if err := json.Unmarshal(run(b, ".", "go", "mod", "download", "-json", "modernc.org/libc@"+version), &download); err != nil {
		b.Fatal(err)
	}
	run(b, tree, "unzip", "-q", download.Zip)
	at := func(name string) string { return filepath.Join(dir, name) }
	run(b, tree, "zip", "-q", "-r", at("tree.zip"), ".")
	run(b, tree, "tar", "-cf", at("tree.tar"), ".")
	run(b, tree, "tar", "-czf", at("tree.tar.gz"), ".")
	run(b, tree, "tar", "--zstd", "-cf", at("tree.tar.zst"), ".")

	config := testConfig()
	config.MaxEntries, config.MaxSourceBytes = 50_000, 2<<30
	in := openIntake(b, config)
	for _, format := range []string{"zip", "tar", "tar.gz", "tar.zst"} {
		b.Run(format, func(b *testing.B) {
			archive := at("tree." + format)
			var ours, theirs time.Duration
			var bytes int64
			for b.Loop() {
				start := time.Now()
				f, err := os.Open(archive)
				if err != nil {
					b.Fatal(err)
				}
				upload, err := in.Receive(b.Context(), f, -1)
				f.Close()
				if err != nil {
					b.Fatal(err)
				}
				s, err := in.Inspect(b.Context(), upload)
				if err != nil {
					b.Fatal(err)
				}
				bytes += s.Bytes
				upload.Close()
				s.Close()
				ours += time.Since(start)

				out := at("out")
				if err := os.Mkdir(out, 0o755); err != nil {
					b.Fatal(err)
				}
				start = time.Now()
				if format == "zip" {
					run(b, out, "unzip", "-q", archive)
				} else {
					run(b, out, "tar", "-xf", archive)
				}
				theirs += time.Since(start)
				if err := os.RemoveAll(out); err != nil {
					b.Fatal(err)
				}
			}
			megabytes := float64(bytes) / 1e6
			b.ReportMetric(0, "ns/op") // of both together: says nothing
			b.ReportMetric(megabytes/ours.Seconds(), "MB/s")
			b.ReportMetric(megabytes/theirs.Seconds(), "tool-MB/s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
		})
	}
}

// BenchmarkCheckout is the worker's side.
func BenchmarkCheckout(b *testing.B) {
	in := openIntake(b, testConfig())
	s, err := take(b, in, run(b, sample(b), "tar", "-cf", "-", "."))
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(b.TempDir(), "tree")
	for b.Loop() {
		if _, err := Checkout(b.Context(), s.ID, s.Manifest(), s.Pack(), dir); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
	b.SetBytes(s.Bytes)
}
