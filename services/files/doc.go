// Package files keeps objects: packs of snapshots, stage results, artifacts and
// exports. It is a flat space of keys such as "snapshots/9f86…/pack.tar.zst";
// what a key means is the caller's business.
//
// The promise that everything else leans on: an object is there whole or not at
// all. A reader sees the old object or the new one and never a part of one or
// of both, and a put that returned is durable. What every implementation owes
// is written down as tests in the package filestest.
//
// [Local] is the store of one machine. A put writes beside the store, syncs, and
// renames; a crash inside it leaves one temporary file that no key reaches, and
// the next [Open] of the same folder removes it. Local reaches its folder
// through [os.Root] only, so no key and no symbolic link leads out of it.
// Several processes may open the same folder at once (the API and the workers
// of one machine do).
//
// [S3Store] is the store of many machines: the configured buckets of S3 or of a
// compatible server. Small objects are put with one request, large ones in
// parts, which S3 makes one object of at the end; a crash in between leaves
// parts that no key reaches, and maintenance aborts them. Each put marks its
// object, so one whose answer was lost is looked up rather than guessed. Reads
// that break off go on where they were, bound to the version that they began
// with, and are compared with the checksum that S3 keeps. What S3 refuses
// becomes an [S3Error], a sentence that names the setting to look at;
// [S3Store.Check] looks for all of it beforehand. In a bucket that keeps
// versions, what is deleted or replaced stays as an old version until a
// lifecycle rule of the bucket removes it.
//
// [Direct] is how clients send and fetch objects without the bytes passing
// through this process: by links that S3Store signs.
package files
