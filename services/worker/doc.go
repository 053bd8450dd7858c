// Package worker runs scans: claim, fetch, run, complete.
//
// A worker has slots; each takes one hint at a time from its queue, loads the scan and claims it in the log. From the stored claim on the scan is the
// worker's, until an event says otherwise; every write carries the claim's sequence (the generation), so a worker whose scan was given away cannot
// write: its next append conflicts, it reloads, sees why, stops the work and forgets it. It also follows its scan, so it usually learns of a
// cancellation within milliseconds.
//
// What happens when the process dies: before the claim is stored, nothing was promised. After it, the scan waits for maintenance to
// notice and expire the attempt; stages that were recorded are not done again. The attempt's folder stays until the next start of a process that owns
// the runtime folder sweeps it.
//
// Draining: when Run's context ends no more hints are taken, running scans get the grace to finish and are then released: queued again without
// counting the attempt.
//
// With Tasks, what was claimed runs elsewhere. A [Launcher] starts one ECS task for each claim. The claim holds the digest of a secret that only the
// task's environment has; the task's one-scan runner ([RunOne]) spends it by joining, and from then on the attempt is the runner's: its own worker id,
// heartbeat and pings. The launcher watches all its tasks with few calls, stops those whose scan is cancelled or lost, and when one is gone without having
// said how it ended, records that with the stop reason and the exit codes. Until a runner has joined, the attempt is the launcher's to give back; after
// that a launcher may die or drain and the runner does not notice. The next launcher finds tasks by their tags. Whether a call of ECS took effect is
// never guessed: a repeated RunTask has the same client token, a task that nobody knows cannot write, and the sweep stops it.
package worker
