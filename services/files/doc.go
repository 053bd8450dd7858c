// Package files keeps objects: packs of snapshots, stage results, artifacts and
// exports. It is a flat space of keys such as "snapshots/9f86…/pack.tar.zst";
// what a key means is the caller's business.
//
// The promise that everything else leans on: an object is there whole or not at
// all. [Store.Put] writes beside the store, syncs, and renames; a reader sees
// the old object or the new one and never a part of one, and a put that
// returned is on the disk. A crash inside a put leaves one temporary file that
// no key reaches; the next [Open] of the same folder removes it.
//
// [Local] is the store of one machine. It reaches its folder through [os.Root]
// only, so no key and no symbolic link leads out of it. Several processes may
// open the same folder at once (the API and the workers of one machine do).
// What every implementation owes is written down as tests in the package
// filestest.
package files
