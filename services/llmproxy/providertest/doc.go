// Package providertest is a provider of language models for tests: an OpenAI-compatible server on loopback that answers as a script says and remembers
// everything that reached it.
//
// A [Script] is a function from the number of a request, counted from 1, to its [Answer]. Ready-made answers speak the API that was asked, with or
// without a stream: [Text], [Call], [Shell]. What goes wrong at providers is here too: [Status], [Failed], [Redirect], [Silence], and streams that stop, break off or
// lie, put together from steps ([Stream]). Nothing here waits for a clock: a pause ends when the test says so.
//
// A request that does not show the provider's own key fails the test, since a proxy that lets one through has lost its purpose. Every byte of every request is
// kept, so that a test can look for what should not have come ([Provider.Find]); a test that sends more than 256 MB in all fails.
package providertest
