// Package wire is what the proxy reads and changes of the provider's protocol: requests before they go out, answers while they pass.
package wire
