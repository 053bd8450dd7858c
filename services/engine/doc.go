// Package engine looks at a source tree and says what is wrong with it.
//
// A scan runs through one table of stages ([StageNames], stage.go), in order:
//
//	inventory     languages, manifests, entry points, dependencies              (inventory.go, entrypoints.go, dependencies.go)
//	secrets       committed credentials                                         (secrets.go, detector.go, plausible.go, mask.go)
//	threat_model  what matters, where nobody said it                            (threatmodel.go)  needs a model
//	plan          which components to audit                                     (plan.go)         needs a model
//	audit         one agent per component                                       (audit.go, claims.go, symbol.go)  needs a model
//	verify        is what was found really there?                               (verify.go)
//	refute        one agent per claim, which is to prove it wrong               (refute.go)       needs a model
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
// # The stages that need a model
//
// The first of them that runs makes the attempt's [agent] (agent.go): it looks whether Codex, the LLM proxy, the provider and the model can be used, which costs nothing, and if not, all of them are recorded
// as failed, or as not configured, with that one sentence. A question is a prompt of the pack (package pack), a run of Codex (package codex), and an answer that its schema and bounds let through, after one
// repair at most. The transcript of the runs is an artifact, redacted (transcript.go, redact.go).
//
// Audit and refute are made of pieces (units.go), a component or a claim each, a few at once. A piece is recorded when it ends, failed ones too: it was paid for. The next attempt does what is left. A purse
// (budget.go) gives each run its share of what the scan may still spend and tells it to finish when that ends; what could not be begun is named in the stage's reasons.
//
// What the model says is a claim. An audit ties each claim to its place while the quote is at hand unmasked (claims.go); what is stored and shown is the program's own excerpt of the file. The fingerprint is made of the rule, the
// file and the enclosing symbol, which this package works out from the source, so it does not depend on lines or words.
//
// # What is hostile
//
// The tree is hostile. It is read through os.Root (tree.go); links are never followed, files are read up to a limit, every
// parser runs under recover. Nothing in it is obeyed, also not comments that ask a scanner to look away. A credential leaves
// the function that found it only as a mask: its first characters and a keyed hash.
//
// Secrets are found by gitleaks and its default rules, languages by go-enry, dependencies by osv-scalibr's extractors; none of
// them reaches the network. gitleaks takes a whole file at once and is quadratic in places, so the engine feeds it
// windows (detector.go) and works out places itself. What the model reads goes to its provider as it is.
package engine
