package intake

import (
	"fmt"
	"time"
)

// Config holds the limits of what is taken in.
type Config struct {
	// MaxSourceBytes bounds the upload as it comes over the wire.
	MaxSourceBytes int64 `env:"VEGA_MAX_SOURCE_BYTES, default=2147483648" min:"1" doc:"Maximum allowed source archive size, in bytes."`

	// MaxEntries bounds the files and links of an archive, and separately its folder entries.
	MaxEntries int `env:"VEGA_MAX_ARCHIVE_ENTRIES, default=50000" min:"1" max:"1000000" doc:"Maximum number of files in an uploaded archive."`

	// MaxUncompressedBytes bounds the sum of the files' sizes.
	MaxUncompressedBytes int64 `env:"VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES, default=5368709120" min:"1" doc:"Maximum total uncompressed size of an archive, in bytes."`

	// MaxRatio bounds uncompressed / compressed size of archives that unpack to more than ratioFloor bytes.
	MaxRatio int64 `env:"VEGA_MAX_ARCHIVE_RATIO, default=200" min:"1" doc:"How many times its own size an archive may unpack to. Archives that unpack to 64 MiB or less are exempt."`

	// Timeout bounds the unpacking of one archive, waiting for a slot not included.
	Timeout time.Duration `env:"VEGA_ARCHIVE_TIMEOUT_SECONDS, default=900" unit:"seconds" min:"1" max:"86400" doc:"How long the unpacking and checking of one archive may take."`

	// Slots is the number of archives that are unpacked at a time, each in a process of its own.
	Slots int `env:"VEGA_ARCHIVE_SLOTS, default=2" min:"1" max:"64" doc:"How many archives one process unpacks and checks at a time. Others wait."`
}

// check rejects a configuration with a limit that is not set: nothing here is
// without one.
func (c Config) check() error {
	for _, limit := range []struct {
		name  string
		value int64
	}{
		{"MaxSourceBytes", c.MaxSourceBytes}, {"MaxEntries", int64(c.MaxEntries)}, {"MaxUncompressedBytes", c.MaxUncompressedBytes},
		{"MaxRatio", c.MaxRatio}, {"Timeout", int64(c.Timeout)}, {"Slots", int64(c.Slots)},
	} {
		if limit.value <= 0 {
			return fmt.Errorf("configuration: %s must be positive, it is %d", limit.name, limit.value)
		}
	}
	return nil
}

// ratioFloor is the unpacked size up to which the ratio is not judged: an
// archive of one long run of zeros is small, harmless, and in test suites
// everywhere.
const ratioFloor = 64 << 20

// Bounds that no configuration changes: what lies beyond them is no source tree.
const (
	maxPathBytes      = 4096     // one path, in bytes (PATH_MAX)
	maxComponentBytes = 255      // one component of a path, in bytes (NAME_MAX)
	maxDepth          = 128      // components of a path
	maxNamesBytes     = 32 << 20 // all paths and link targets of an archive together, in bytes
	maxLinkTarget     = 4096     // bytes
	maxZstdWindow     = 32 << 20 // bytes; what zstd needs up to level 20
)

// limits is what the child process is told to hold.
type limits struct {
	Entries           int   `json:"entries"`
	UncompressedBytes int64 `json:"uncompressed_bytes"`
	Ratio             int64 `json:"ratio"`
}

func (c Config) limits() limits {
	return limits{Entries: c.MaxEntries, UncompressedBytes: c.MaxUncompressedBytes, Ratio: c.MaxRatio}
}
