// Package config reads what a process is told from outside, once, and checks it whole.
//
// Every package of Vega owns its settings: a Config struct in a file config.go, with the variable's name, default and limits
// in tags. This package nests those structs ([Config]), fills them from the environment and a .env file ([Load]), and holds
// only what spans several of them: the combinations that cannot work and what production refuses (rules.go). It is imported
// by cmd alone, which passes the parts down as plain structs; nothing else reads the environment.
//
// A wrong value never stops the reading: [Load] goes on and returns one [Error] that names every problem, with the value
// (never a secret one) and what is allowed.
//
// The tags of a setting:
//
//	env:"VEGA_X, default=…"   the variable, and its value when it is not set or empty
//	doc:"One sentence."       for the documentation
//	secret:"true"             never printed; the type is one of package config/secret
//	oneof:"a b"               the allowed values
//	min:"1" max:"10"          the range of a number, in the variable's unit
//	unit:"seconds"            the variable holds whole seconds, the field a time.Duration
//	form:"address"            one of the forms in form.go
//	allowed:"…"               what is allowed, for a type that reads itself (encoding.TextUnmarshaler)
//	shown:"(generated)"       the default as the documentation shows it, where it is not a literal
//	alias:"X" aliasif:"Y=z"   another name, looked at when the variable is not set and variable Y has the value z
//
// A new setting is a field with such tags: loading, checking, printing and docs/configuration.md follow from them.
package config
