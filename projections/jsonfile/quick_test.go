//go:build !long

package jsonfile

const killRounds = 20
