// Package report turns the findings of a scan into the forms that people and other tools read: SARIF 2.1.0 as GitHub code
// scanning takes it, JSON, CSV, Markdown, and the table that the command line prints.
//
// All of them start from one [Document]: who was scanned, what was looked at and what was not, and the findings with what
// people decided about them. Every form states the coverage, also with no findings at all, because an empty list without it
// means nothing. The same Document always gives the same bytes: there is no clock and no map order in here.
//
// The source that a finding speaks of is hostile: names and lines may hold anything. Each form defends its reader:
// [Printable] for terminals, neutralised formulas in CSV, escaped markup in Markdown, percent-encoded paths in SARIF.
//
// It also says how a scan stands to an earlier one: [Compare] classes what was found and what is missing, and keeps a [Ledger] of every weakness that a repository
// ever had. What is missing counts as resolved only where the scan could have found it.
//
// The package is pure and safe for concurrent use. SARIF is built with go-sarif; the line hash that GitHub tells results
// apart by is not part of it, so it is here (linehash.go).
package report
