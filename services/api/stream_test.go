package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/services/scan"
)

// sseEvent is one event as it comes over the wire.
type sseEvent struct {
	id, name string
	data     eventBody
}

// listen opens a stream and hands each event to each, which returns false to hang up. It returns the last id and whether the stream ended by
// itself.
func (c *client) listen(path, lastID string, each func(sseEvent) bool) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	r, err := c.request("GET", path, nil, "Accept", "text/event-stream")
	if err != nil {
		return lastID, err
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	res, err := http.DefaultClient.Do(r.WithContext(ctx))
	if err != nil {
		return lastID, err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		return lastID, fmt.Errorf("status %d, type %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	in := bufio.NewReader(res.Body)
	var e sseEvent
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return lastID, nil
		}
		if err != nil {
			return lastID, err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				return lastID, fmt.Errorf("%s: %w", value, err)
			}
		case "":
			if e.name == "" {
				continue // a comment, or the retry hint
			}
			lastID = e.id
			if !each(e) {
				return lastID, nil
			}
			e = sseEvent{}
		}
	}
}

// A client that hangs up at random and resumes sees every event of the log once, in order, every line of the feed at most once, in order, and
// one end.
func TestStreamResumesWhereTheClientStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	for round := range 5 {
		id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
		worked := make(chan struct{})
		go func() {
			defer close(worked)
			k := w.claim(id)
			k.line(0)
			k.start()
			for i := range 20 {
				k.line(i + 1)
				f := finding(repository, fmt.Sprintf("f%d.go", i), i+1, events.SeverityLow)
				k.do(scan.RecordFindings{Generation: k.generation, Stage: "secrets", Findings: []events.Finding{f}})
				if i%5 == 4 {
					k.stage(stageNames[i/5])
				}
			}
			k.line(21)
			k.heard(22)
			k.complete()
		}()
		random := rand.New(rand.NewPCG(uint64(round), 1))
		var kinds []string
		var last events.Seq
		lines := map[string]bool{}
		place := ""
		ended := false
		for try := 0; !ended && try < 500; try++ {
			stay := random.IntN(6)
			var err error
			place, err = w.user.listen("/scans/"+id+"/events", place, func(e sseEvent) bool {
				switch e.name {
				case "end":
					ended = true
				case "scan_log":
					text := e.data.Payload.(object)["message"].(string)
					if lines[text] {
						t.Errorf("%s came twice", text)
					}
					lines[text] = true
				default:
					if e.data.Sequence <= last {
						t.Errorf("event %d follows event %d", e.data.Sequence, last)
					}
					last = e.data.Sequence
					kinds = append(kinds, e.name)
				}
				stay--
				return stay >= 0
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		<-worked
		// 1 start, 20 findings, 4 stages, 1 end of the scan.
		if len(kinds) != 26 || kinds[0] != "scan_started" || kinds[25] != "scan_completed" || !ended {
			t.Errorf("round %d: ended %v with %d events: %v", round, ended, len(kinds), kinds)
		}
		if len(lines) != 22 {
			t.Errorf("round %d: %d of 22 lines", round, len(lines))
		}
		// Whoever comes back after the end gets the end again, and nothing else.
		var names []string
		if _, err := w.user.listen("/scans/"+id+"/events", place, func(e sseEvent) bool { names = append(names, e.name); return true }); err != nil || len(names) != 1 || names[0] != "end" {
			t.Errorf("after the end: %v, %v", names, err)
		}
	}
}

// The pages of the JSON form hold the same as the stream.
func TestEventPagesHoldWhatTheStreamHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	k := w.claim(id)
	k.start()
	for i := range 7 {
		k.line(i)
	}
	k.heard(7)
	k.stage("inventory")
	k.complete()
	var streamed, paged []string
	if _, err := w.user.listen("/scans/"+id+"/events", "", func(e sseEvent) bool {
		if e.name != "end" {
			streamed = append(streamed, e.id+" "+e.name)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	after := ""
	for range 20 {
		var page struct {
			Items []eventBody
			Next  string `json:"next_cursor"`
		}
		w.user.do("GET", "/scans/"+id+"/events?limit=3&after="+after, nil).want(200).into(&page)
		for _, e := range page.Items {
			paged = append(paged, e.ID+" "+e.Kind)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(streamed) != 10 || strings.Join(streamed, "\n") != strings.Join(paged, "\n") {
		t.Errorf("streamed\n%s\npaged\n%s", strings.Join(streamed, "\n"), strings.Join(paged, "\n"))
	}
}

// Lines of an attempt that lost its scan are not shown after the next claim.
func TestStreamDropsLinesOfSupersededAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	first := w.claim(id)
	first.start()
	first.line(1)
	first.do(scan.Expire{Generation: first.generation, Reason: "heartbeat_lost"})
	second := w.claim(id)
	second.start()
	second.line(2)
	first.line(3) // the old worker still talks
	second.line(4)
	second.heard(4)
	second.complete()
	var lines []string
	if _, err := w.user.listen("/scans/"+id+"/events", "", func(e sseEvent) bool {
		if e.name == "scan_log" {
			lines = append(lines, e.data.Payload.(object)["message"].(string))
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, ", "); got != "line 1, line 2, line 4" {
		t.Errorf("lines are %s", got)
	}
}

// When the feed has forgotten a finished scan's lines, they come from the artifact.
func TestOldLinesComeFromTheArtifact(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	k := w.claim(id)
	k.start()
	at := time.Now().UTC()
	body := fmt.Sprintf("{\"n\":1,\"attempt\":1,\"at\":%q,\"kind\":\"scan_log\",\"payload\":{\"message\":\"kept\"}}\nnot a line\n{\"n\":2,\"attempt\":1,\"at\":%q,\"kind\":\"scan_progress\",\"payload\":{\"message\":\"half\",\"percent\":50}}\n",
		at.Format(time.RFC3339Nano), at.Format(time.RFC3339Nano))
	o := events.Object{Name: feedArtifact, Key: "scans/x/events", Digest: events.DigestOf([]byte(body)), Bytes: int64(len(body)), MediaType: "application/x-ndjson"}
	_, err := w.files.Put(t.Context(), o.Key, strings.NewReader(body))
	must(t, err)
	k.stage("report", o)
	k.complete()
	for _, want := range []string{"scan_started scan_log scan_progress scan_progress scan_completed", "scan_started scan_progress scan_completed"} {
		var kinds, streamed []string
		for _, e := range w.user.do("GET", "/scans/"+id+"/events", nil).want(200).items() {
			kinds = append(kinds, e["kind"].(string))
		}
		if _, err := w.user.listen("/scans/"+id+"/events", "", func(e sseEvent) bool { streamed = append(streamed, e.name); return true }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(kinds, " "); got != want || strings.Join(streamed, " ") != want+" end" {
			t.Errorf("events are %s and streamed %v, want %s", got, streamed, want)
		}
		_, err = w.files.Put(t.Context(), o.Key, strings.NewReader(strings.Replace(body, "kept", "KEPT", 1))) // not what was recorded: as if it were gone
		must(t, err)
	}
}

// An idle stream shows signs of life, and ends when the scan is not its reader's any more, or when the server stops.
func TestStreamEndsWithTheRightToSeeIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	repository := w.user.ready(project)
	id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	member := "/projects/" + project + "/members/" + string(w.other.user)
	w.user.do("PUT", member, object{"role": "viewer"}).want(200)
	w.claim(id).start()
	open := make(chan struct{})
	closed := make(chan error, 1)
	go func() {
		_, err := w.other.listen("/scans/"+id+"/events", "", func(e sseEvent) bool { close(open); return true })
		closed <- err
	}()
	<-open
	w.user.do("DELETE", member, nil).want(204)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	open = make(chan struct{})
	go func() {
		_, err := w.user.listen("/scans/"+id+"/events", "", func(e sseEvent) bool { close(open); return true })
		closed <- err
	}()
	<-open
	w.stop()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := <-w.done; err != nil {
		t.Error(err)
	}
}

func FuzzPlace(f *testing.F) {
	for _, s := range []string{"", "0-0", "12-34", "1-", "-1", "01-2", "1-2-3", "+1-2", "99999999999999999999-1", "１-２"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlace("after", s)
		if err == nil && s != "" && p.String() != s {
			t.Errorf("parsePlace(%q) = %v", s, p)
		}
		if err == nil && s == "" && p != (place{}) {
			t.Errorf("parsePlace of nothing = %v", p)
		}
		if err == nil {
			if again, err := parsePlace("after", p.String()); err != nil || again != p {
				t.Errorf("parsePlace(%v) = %v, %v", p, again, err)
			}
		}
	})
}
