package intake

import "syscall"

func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// limitMemory bounds writable private memory (RLIMIT_DATA). RLIMIT_AS would not
// do: the Go runtime reserves far more address space than it ever uses.
func limitMemory(bytes uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: bytes, Max: bytes})
}

// ownProgram is this program as it was when it started, even if its file has
// been replaced since.
func ownProgram() (string, error) { return "/proc/self/exe", nil }
