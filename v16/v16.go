// Package v16 is the engine pack as a program carries it: prompts, output schemas, rules and guides. README.md says what each file is.
package v16

import (
	"embed"
	"io/fs"
)

//go:embed README.md pack.json taxonomy.json severity.md models.json prompts schemas guides
var files embed.FS

// Files are the files of the pack, by their names in this folder.
func Files() fs.FS { return files }
