// Package intake turns hostile bytes into a bounded tree: an upload in, an
// immutable snapshot out.
//
// [Intake.Receive] streams an upload to a spool file, with its digest and under
// a limit. [Intake.Inspect] has a child process take it apart: the format is
// told from the bytes, the structure, the names and the declared sizes are
// judged before anything is unpacked, and the real bytes are counted against
// them while it is. What comes out is a [Manifest], whose digest is the
// snapshot's id, and a pack, one object that holds the files. No tree is ever
// written on this side. [Checkout], on the side of the worker, unpacks a pack
// into a fresh folder and proves every file by the manifest. [PackDir] makes an
// archive of a local folder, leaving out what .gitignore says.
//
// # What is refused, noted and kept
//
// A [Refusal] names a stable code, the entry at fault and the limit; the upload
// leaves nothing behind. Refused are names that lead out of the tree or hold
// control characters, a path that occurs twice or is both file and folder,
// devices and other special files, sparse files, encrypted entries, headers
// that contradict each other or the data, entries that share bytes, data before,
// between or after what the format describes (unlisted bytes between zip
// entries are only noted), and whatever breaks a limit.
//
// A [Warning] is noted for what is real in source trees and harmless here: names
// that collide or fail on other systems, names in odd encodings, setuid bits.
//
// .git is stripped, with a note: its content is not source, and its
// configuration could run programs. Configuration of coding agents (AGENTS.md,
// .codex and their like) is noted but kept: it is part of what is audited, and
// an attack on the audit is something that an audit should find. Whoever runs an
// agent over a snapshot has to keep it from obeying such files.
//
// Symbolic and hard links are recorded in the manifest and never created, so no
// link leads anywhere, wherever it points; one that points outside the tree has
// a warning code of its own. Archives inside the archive are files like any
// other. Folders are not recorded. Paths stay as the archive gives them, a
// single folder around everything included: findings then name the files as the
// uploader knows them.
//
// # Why our own reader of zips
//
// The libraries that unpack archives check too little (no overlap, no
// comparison of local and central headers), and archive/zip reads the whole
// directory into memory before anything can be judged. Reading the directory is
// the larger part of reading a zip, so a second reader behind the checks would
// mostly add a second opinion about what the archive holds, and differing
// opinions are what attacks are made of. Decompression, tar, zstd and the
// digests are the libraries'.
package intake
