package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client speaks to a Vega server over its HTTP API, as any other program would.
type client struct {
	base  string // scheme, host and prefix
	token string
	http  *http.Client
}

// apiError is a server's refusal.
type apiError struct {
	Status  int
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`

	RetryAfter time.Duration `json:"-"` // what the server asks for; 0: nothing
}

func (e *apiError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

func newClient(base, token string) *client {
	return &client{base: strings.TrimRight(base, "/"), token: token, http: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 5 * time.Minute}}}
}

// login trades an address and a password for a token, which the client then uses.
func (c *client) login(ctx context.Context, email, password string) error {
	var out struct {
		AccessToken string `json:"access_token"`
	}
	if err := c.call(ctx, http.MethodPost, "/auth/login", "", map[string]string{"email": email, "password": password}, &out); err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	c.token = out.AccessToken
	return nil
}

// call sends in as JSON (nil: no body) and reads the answer into out (nil: ignored). key is the Idempotency-Key, or empty.
func (c *client) call(ctx context.Context, method, path, key string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, key, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("answer of %s %s: %w", method, path, err)
	}
	return nil
}

// write posts body, reads the answer into out, and returns the sequence that makes a read at least as new.
func (c *client) write(ctx context.Context, path string, body []byte, out any) (seq string, err error) {
	resp, err := c.send(ctx, http.MethodPost, path, "", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return "", fmt.Errorf("answer of %s: %w", path, err)
	}
	return resp.Header.Get("Vega-Sequence"), nil
}

// send makes one request; an answer of 400 or more becomes an *apiError.
func (c *client) send(ctx context.Context, method, path, key, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("User-Agent", "vega/"+buildVersion())
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL may hold more than people want to see
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusalOf(resp)
}

// refusalOf reads what a server says when it does not do what was asked.
func refusalOf(resp *http.Response) *apiError {
	var e struct {
		Error apiError `json:"error"`
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what cannot be read is a bare status
	_ = json.Unmarshal(b, &e)
	e.Error.Status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.Error.RetryAfter = time.Duration(s) * time.Second
	}
	return &e.Error
}

// liveEvent is one event of a scan's live feed.
type liveEvent struct {
	ID      string         `json:"id"`
	Kind    string         `json:"kind"`
	Payload map[string]any `json:"payload"`
}

// follow calls f with every live event of a scan until the server says that there are no more, and returns the sequence of the last one: what
// a read has to ask for to be at least as new. A cut connection is resumed after the last event.
func (c *client) follow(ctx context.Context, scan string, f func(liveEvent)) (string, error) {
	last := ""
	for tries := 0; ; tries++ {
		ended, err := c.followOnce(ctx, scan, &last, func(e liveEvent) { tries = 0; f(e) })
		if ended || ctx.Err() != nil {
			seq, _, _ := strings.Cut(last, "-")
			return seq, ctx.Err()
		}
		if refused, ok := errors.AsType[*apiError](err); (ok && refused.Status < 499) || tries >= 5 { // 499 and above: the server is stopping or in trouble
			return "", cmp.Or(err, error(io.ErrUnexpectedEOF))
		}
		pause := time.NewTimer(time.Duration(tries+1) * 200 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return "", ctx.Err()
		}
	}
}

func (c *client) followOnce(ctx context.Context, scan string, last *string, f func(liveEvent)) (ended bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/scans/"+scan+"/events", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+c.token)
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, refusalOf(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	var id, kind, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data += value
		case "":
			if lines.Text() != "" {
				continue // a comment that keeps the connection awake
			}
			if kind == "end" {
				if id != "" {
					*last = id
				}
				return true, nil
			}
			if data != "" {
				var e liveEvent
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					return false, fmt.Errorf("live event: %w", err)
				}
				if e.Kind == "" {
					e.Kind = kind
				}
				if id != "" {
					*last = id
				}
				f(e)
			}
			id, kind, data = "", "", ""
		}
	}
	return false, lines.Err()
}
