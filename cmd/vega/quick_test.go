//go:build !long

package main

// long makes tests do what takes minutes.
const long = false
