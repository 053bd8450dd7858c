package files_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"

	"vega/services/files/s3test"
)

// BenchmarkPutS3 measures uploads beside the SDK's transfer manager alone, with its own defaults, by turns: "vs-sdk" is the speed of the store divided by that
// of the SDK, of the medians of the turns.
func BenchmarkPutS3(b *testing.B) {
	srv := s3test.Start(b)
	for name, size := range map[string]int{"4KB": 4 << 10, "1MB": 1 << 20, "64MB": 64 << 20, "512MB": 512 << 20} {
		b.Run(name, func(b *testing.B) {
			s, c := s3Store(b, srv, nil)
			bare := transfermanager.New(srv.Client())
			content := random(size)
			var ours, theirs []time.Duration
			for b.Loop() {
				at := time.Now()
				if _, err := s.Put(b.Context(), "snapshots/x/pack", bytes.NewReader(content)); err != nil {
					b.Fatal(err)
				}
				ours = append(ours, time.Since(at))
				at = time.Now()
				if _, err := bare.UploadObject(b.Context(), &transfermanager.UploadObjectInput{Bucket: &c.Source, Key: aws.String("snapshots/y/pack"), Body: bytes.NewReader(content)}); err != nil {
					b.Fatal(err)
				}
				theirs = append(theirs, time.Since(at))
			}
			b.ReportMetric(float64(size)/(1<<20)/median(ours).Seconds(), "MiB/s")
			b.ReportMetric(float64(median(theirs))/float64(median(ours)), "vs-sdk")
		})
	}
}

// BenchmarkReadS3 measures reads of the store, which check what they read.
func BenchmarkReadS3(b *testing.B) {
	s, _ := s3Store(b, s3test.Start(b), nil)
	content := random(64 << 20)
	if _, err := s.Put(b.Context(), "snapshots/x/pack", bytes.NewReader(content)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		readAll(b, s, "snapshots/x/pack")
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
