// Package wire is what the proxy reads and changes of the provider's protocol: requests before they go out, answers while they pass. It is pure.
//
// A request is read once, by Parse, which says what may not go out and finds the places that have to change: tools that the provider runs by itself, stored
// state, a missing output limit. Request.Body splices these places. All other bytes are the agent's own, in their order, because the provider caches prompts by
// their beginning. An Answer looks at what passes, keeps next to nothing of it, and says at the end what the provider counted.
//
// Two parsers that read one body differently are a way around every rule, so Parse takes only what all of them read alike: one JSON object, strict and in UTF-8,
// at most 128 levels deep, where no field that matters is there twice or in other letters ("Store"); escapes in names ("\u0073tore") are resolved first.
// That is also why the reader is written here. The lenient ones (gjson, sjson) are as fast, but pass what is not JSON and take the first of two fields where
// providers take the last. encoding/json takes six times as long to find the fields alone, ignores case in names and does not tell where a value
// stands; its successor's token reader tells, and needs an experiment of the toolchain.
package wire
