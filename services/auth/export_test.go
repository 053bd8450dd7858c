package auth

// ParseKeys is parseKeys, for the fuzzer.
var ParseKeys = parseKeys
