package installed

import (
	"fmt"
	"path/filepath"
)

// CodexReleases are the releases of the agent's program that scripts/test-deps.sh installs side by side, the oldest first.
var CodexReleases = []string{"0.149.1", "0.169.0"}

// Codex is the path of a release of the agent's own program, which needs no node; the error says how to install it.
func Codex(release string) (string, error) {
	name := "codex-" + release
	folder, err := Tool("npm", "node_modules", name)
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(folder, "vendor", "*", "bin", "codex"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s has %d programs, want 1: remove .tools/npm/%s.version and run scripts/test-deps.sh test", folder, len(found), name)
	}
	return found[0], nil
}
