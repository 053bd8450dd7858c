// Package pack reads an engine pack: the prompts, output schemas, rules and guides that tell the agent what to do, as files.
//
// [Load] validates a whole pack and lists everything that is wrong with it, each problem with its file and line, so that a pack that
// loads cannot fail in the middle of a scan: every template was executed, every schema is strict and has a valid example, every bound
// belongs to a field (manifest.go, source.go, schema.go, prompts.go, catalog.go). A [Pack] never changes and is safe for concurrent use.
//
// A pack is trusted, what is scanned is not. Templates never see text from the source: they place blocks that this package has fenced,
// cleaned and bounded (fence.go). An answer is believed when [Pack.Check] accepts it (answers.go): the schema, the bounds, and what
// neither can say, such as that a last line is not before the first.
//
// The files of a pack are all files below its root but Go files and those whose names, or whose folders' names, begin with '.' or '_'.
// So a checkout and the copy inside a program have the same digest.
package pack
