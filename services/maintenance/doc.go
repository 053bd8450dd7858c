// Package maintenance gives back what its owner can no longer finish.
//
// [Recoverer] looks for scans whose owner is gone and lets the log decide: it appends expired (the scan is queued again), failed (that was the last
// attempt) or cancelled (that had been asked for). It is safe to run beside anything else, itself included: an owner that is alive after all makes
// the append conflict or finds itself superseded at its next write.
//
// In thread mode the process that holds the data folder's lock knows that no earlier worker lives, so at its start every scan that has an owner is
// given back at once, and every ingestion that had begun is ended. While it runs a sweep catches scans that run longer than allowed.
package maintenance
