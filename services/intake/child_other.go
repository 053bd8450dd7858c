//go:build unix && !linux

package intake

import (
	"os"
	"syscall"
)

// dieWithParent has nothing to set here: the end of standard input tells the child.
func dieWithParent(*syscall.SysProcAttr) {}

// limitMemory leaves it at the garbage collector's soft limit: outside Linux no
// limit counts what a Go process really uses.
func limitMemory(uint64) error { return nil }

// ownProgram is the file of this program.
func ownProgram() (string, error) { return os.Executable() }
