//go:build unix

package api

import (
	"context"
	"fmt"
	"syscall"
)

// FreeSpace is a check, called "disk", that the file system of dir has at least so many bytes left.
func FreeSpace(dir string, least uint64) Check {
	return Check{"disk", func(context.Context) error {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return fmt.Errorf("look at the disk: %w", err)
		}
		if free := uint64(st.Bavail) * uint64(st.Bsize); free < least {
			return fmt.Errorf("%d bytes are free, want at least %d", free, least)
		}
		return nil
	}}
}
