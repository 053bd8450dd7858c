package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// flaky stands before an SQS-compatible server and does to messages what SQS may do: one batch in twenty comes twice, and a quarter of the messages come late, so that
// later ones overtake them. It returns the address to talk to.
func flaky(t testing.TB, server string) string {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
			body = shuffled(body)
			if rand.IntN(20) == 0 {
				again, err := http.NewRequest(r.Method, server+r.URL.Path, bytes.NewReader(body))
				if err == nil {
					again.Header = r.Header.Clone()
					if resp, err := http.DefaultClient.Do(again); err == nil {
						_ = resp.Body.Close() // sent twice, or not
					}
				}
			}
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

func shuffled(body []byte) []byte {
	var batch map[string]any
	if json.Unmarshal(body, &batch) != nil {
		return body
	}
	entries, _ := batch["Entries"].([]any)
	for _, e := range entries {
		entry, ok := e.(map[string]any)
		if !ok {
			return body
		}
		if rand.IntN(4) == 0 {
			entry["DelaySeconds"] = 1
		}
	}
	rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	batch["Entries"] = entries
	out, err := json.Marshal(batch)
	if err != nil {
		return body
	}
	return out
}
