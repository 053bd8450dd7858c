// Package scripts carries the scripts that the binary needs where the project's folder is not at hand.
package scripts

import (
	_ "embed" // of the script
	"slices"
)

//go:embed codex-in-target-container.sh
var codexInContainer []byte

// CodexInContainer is codex-in-target-container.sh, which runs Codex in a container; its first lines say how it is called. The caller may keep and change what it
// gets. To be run it must be written to a file with the right to be executed.
func CodexInContainer() []byte { return slices.Clone(codexInContainer) }
