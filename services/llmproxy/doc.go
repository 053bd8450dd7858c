// Package llmproxy stands between the agent and the provider. The agent shows a token that names one attempt of one scan; the proxy forwards the call with
// the provider's key, which no runner ever has, and answers for what the scan spends.
//
//	proxy, err := llmproxy.New(cfg, llmproxy.Parts{Store: store, Log: log})
//	go proxy.Run(ctx)            // cuts calls off whose scan has ended
//	llmproxy.Serve(ctx, l, proxy.Handler(…))
//
// # The life of a call (call.go tells it in order)
//
//  1. Its path is on a short list (proxy.go), its token verifies (token.go), and one of its scan's places is free (account.go).
//  2. The body is read and checked; what it may not ask for is refused or taken out by splicing (package wire), every other byte stays.
//  3. The most that it can cost is reserved in the log, under the caps (ledger.go decides, account.go writes). The log takes the reservation only if nothing has happened to
//     the scan since its attempt was seen running (watch.go). Nothing is sent before that is stored.
//  4. It goes to the one address that is configured (provider.go), with a short list of headers. Failures that pass are tried again before the first byte, each time
//     with a reservation of its own.
//  5. The answer passes through as it comes, each read flushed (stream.go). Its usage is read on the way, and settled in the log the moment it is known.
//
// # What is exact
//
// Every event of a scan's usage carries all that is spent and reserved, and is appended onto the one before or not at all, so any number of proxies may serve one scan. A call
// is admitted only if the caps hold even when every open call costs the most that it can: each byte of its request a token, which no tokeniser exceeds, and the whole
// output limit that it is sent with. What stands in the reservation, and is charged when the provider does not say, is an estimate, a third of the bytes, as long as four times as much
// is left. A call that does not fit only because of calls on their way waits for them; it is refused for good only by what the log has when it is read again.
//
// A cap is the smaller of what is configured and of the scan's own budget, which stands in the event that made the scan; a denial names the one that it comes from.
//
// # What the proxy answers itself (own.go)
//
// GET /v1/vega/allowance says what the token's scan has spent of what it may, and whether it may call the models that ?model= names. GET /v1/vega/ready says whether the
// provider answers on this proxy's account. Neither is a call of the scan.
//
// # A crash
//
// A process that dies leaves its reservations open. They count in full from the start, and once their time is over whoever writes next, another proxy or maintenance
// (ChargeLost), charges them. So nothing that may have been spent is lost, and what was not spent is not given back. A call whose usage the provider did not say costs what
// was reserved. Without the log no call is admitted.
//
// # What the agent is told
//
// What is refused for good is an HTTP 400 in the provider's shape, because that is the one answer whose sentence every release of Codex shows and after which none
// tries again; once a stream has begun it is an event response.failed with the code invalid_prompt, which does the same. Answers that the agent should try again are
// 502, or 503 with Retry-After.
package llmproxy
