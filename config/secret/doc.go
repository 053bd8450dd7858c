// Package secret holds values that must not be printed: passwords, keys, addresses with a password inside.
//
// A [String] or a [URL] looks the same to fmt, slog and encoding/json whatever it holds, also when it sits in an unexported
// field of a struct that somebody prints. The value comes out of Reveal alone, so every use of it can be found by that name.
//
// The package lies on the lowest floor, so any package's Config can use it. It depends on the standard library alone; its
// types are comparable, their zero values are empty, and they are safe for concurrent use.
package secret
