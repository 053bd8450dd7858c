// Package enginetest is a model for tests: it recognises which question of the engine a request of Codex's belongs to, and answers it as the test says, over as many turns
// as the test wants, with tool calls that Codex really makes. Nothing in the engine knows it.
//
//	provider := enginetest.Start(t, func(q enginetest.Question) providertest.Answer {
//		switch {
//		case q.Stage == "audit" && q.Results == 0:
//			return q.Shell("cat main.go")     // in the folder of the source, wherever that is
//		case q.Stage == "audit":
//			return q.Answer(…)
//		…
package enginetest
