package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The ways the provider answers. A request names one at the beginning of its instructions.
const (
	answerJSON  = "json"
	answerSSE   = "sse"
	answerPaced = "paced" // a stream with 20 ms between its events
)

const streamed = 50 // events of a stream

// bodyOf is a request that is answered in a way, of about 40 KB.
func bodyOf(kind string) []byte {
	tool := map[string]any{"type": "function", "name": "exec_command", "description": strings.Repeat("Runs a command in a PTY, returning output or a session ID. ", 30), "strict": false,
		"parameters": map[string]any{"type": "object", "properties": map[string]any{"cmd": map[string]any{"type": "string"}}, "required": []string{"cmd"}, "additionalProperties": false}}
	message := map[string]any{"type": "message", "role": "user", "content": []any{map[string]any{"type": "input_text", "text": strings.Repeat("func main() {\n\tfmt.Println(\"hello\")\n}\n", 100)}}}
	fields := []struct {
		name  string
		value any
	}{
		{"model", "gpt-5.4"}, {"instructions", instructions(kind)}, {"input", []any{message, message}}, {"tools", []any{tool, tool, tool, tool}}, {"tool_choice", "auto"},
		{"parallel_tool_calls", true}, {"reasoning", map[string]any{"effort": "medium"}}, {"store", false}, {"stream", kind != answerJSON},
		{"include", []string{"reasoning.encrypted_content"}}, {"prompt_cache_key", "01a20bbd-745a-75d3-9312-e39b040d0a92"},
	}
	var out bytes.Buffer
	for i, f := range fields {
		out.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		value, err := json.Marshal(f.value)
		if err != nil {
			panic(err) // of our own values
		}
		fmt.Fprintf(&out, "%q:%s", f.name, value)
	}
	out.WriteString("}")
	return out.Bytes()
}

// contestant is a way to the provider.
type contestant struct {
	name    string
	url     string   // of the calls
	tokens  []string // shown by turns
	process *process // nil: there is nobody between
	nats    *process // nil: it keeps nothing
	slow    int      // it makes so many times fewer calls
	http    *http.Client
}

func newContestant(name, base string, process, nats *process, tokens ...string) *contestant {
	return &contestant{name: name, url: base + "/v1/responses", process: process, nats: nats, slow: 1, tokens: tokens, http: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}}
}

// call makes a call with the n-th token and reads the answer. first, if it is not nil, is called when its first byte is there.
func (x *contestant) call(ctx context.Context, body []byte, n int, first func()) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Authorization", "Bearer "+x.tokens[n%len(x.tokens)])
	res, err := x.http.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if first != nil {
		if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
			return err
		}
		first()
	}
	end := make([]byte, 0, 4<<10)
	buf := make([]byte, 4<<10)
	for {
		k, err := res.Body.Read(buf)
		end = append(end, buf[:k]...)
		end = end[max(0, len(end)-512):]
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if res.StatusCode != http.StatusOK || !bytes.Contains(end, []byte(`"total_tokens"`)) {
		return fmt.Errorf("%s answered %d: %s", x.name, res.StatusCode, end)
	}
	return nil
}

// load is how a contestant is used.
type load struct {
	kind  string
	at    int // once
	calls int
	pause time.Duration // of each client before a call
}

// spend makes calls and measures them.
func (f *field) spend(b *testing.B, x *contestant, l load) measured {
	b.Helper()
	body, calls := bodyOf(l.kind), l.calls
	took := make([]time.Duration, calls)
	var next atomic.Int64
	var clients sync.WaitGroup
	busy, natsBusy := x.process.cpu(b), x.nats.cpu(b)
	begin := time.Now()
	for range l.at {
		clients.Go(func() {
			for i := int(next.Add(1)) - 1; i < calls; i = int(next.Add(1)) - 1 {
				if l.pause > 0 {
					<-time.After(l.pause)
				}
				start := time.Now()
				if err := x.call(b.Context(), body, i, nil); err != nil {
					b.Errorf("%s: %v", x.name, err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	clients.Wait()
	if b.Failed() {
		b.FailNow()
	}
	all := time.Since(begin)
	slices.Sort(took)
	n := time.Duration(calls)
	return measured{p50: took[calls/2], perCall: (x.process.cpu(b) - busy) / n, natsCall: (x.nats.cpu(b) - natsBusy) / n, rate: float64(calls) / all.Seconds()}
}

// firstByte is the median of how long the first byte of a paced stream takes.
func (f *field) firstByte(b *testing.B, x *contestant, calls int) time.Duration {
	b.Helper()
	body := bodyOf(answerPaced)
	var took []time.Duration
	for i := range calls {
		start := time.Now()
		if err := x.call(b.Context(), body, i, func() { took = append(took, time.Since(start)) }); err != nil {
			b.Fatalf("%s: %v", x.name, err)
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}
