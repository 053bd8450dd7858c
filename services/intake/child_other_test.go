//go:build !linux

package intake

var helpers map[string]func(args []string)
