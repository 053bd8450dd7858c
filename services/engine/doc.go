// Package engine looks at a source tree and says what is wrong with it.
//
// A scan runs through one table of stages ([StageNames], stage.go), in order:
//
//	inventory     languages, manifests, entry points, dependencies              (inventory.go, entrypoints.go, dependencies.go)
//	secrets       committed credentials                                         (secrets.go, detector.go, plausible.go, mask.go)
//	threat_model  what matters, where nobody said it                            needs a model
//	plan          which components to audit                                     needs a model
//	audit         one agent per component                                       needs a model
//	verify        is what was found really there?                               (verify.go)
//	merge         one finding per weakness; from here on they are findings      (merge.go)
//	report        what people download                                          (artifacts.go)
//
// [Engine.Run] does one attempt. Everything that must outlast it goes through the caller's [Recorder]: a stage's result becomes
// a stored object, then a recorded StageCompleted, and only then the next stage begins. An attempt is told what earlier ones
// recorded and begins after that. Until merge has checked them, weaknesses are candidates inside stored objects, never
// findings: what verify refuses is counted and nobody sees it.
//
// A stage that cannot run does not end the scan. It is recorded as failed or not configured and becomes a reason in the
// coverage; what was not looked at is always said, in bounded lists.
//
// The tree is hostile. It is read through os.Root (tree.go); links are never followed, files are read up to a limit, every
// parser runs under recover. Nothing in it is obeyed, also not comments that ask a scanner to look away. A credential leaves
// the function that found it only as a mask: its first characters and a keyed hash.
//
// Secrets are found by gitleaks and its default rules, languages by go-enry, dependencies by osv-scalibr's extractors; none of
// them reaches the network. gitleaks takes a whole file at once and is quadratic in places, so the engine feeds it
// windows (detector.go) and works out places itself.
package engine
