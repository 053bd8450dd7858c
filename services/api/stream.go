package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
)

// place is where a reader of a scan's events stands: it has seen the log up to Log and the feed up to Feed. As text it is "<log>-<feed>",
// the id of every event; clients treat it as opaque.
type place struct{ Log, Feed events.Seq }

func (p place) String() string { return seqText(p.Log) + "-" + seqText(p.Feed) }

// parsePlace reads an id. Empty is the beginning.
func parsePlace(field, s string) (place, error) {
	if s == "" {
		return place{}, nil
	}
	l, f, ok := strings.Cut(s, "-")
	log, lerr := strconv.ParseUint(l, 10, 63)
	feed, ferr := strconv.ParseUint(f, 10, 63)
	if p := (place{events.Seq(log), events.Seq(feed)}); ok && lerr == nil && ferr == nil && p.String() == s {
		return p, nil
	}
	return place{}, invalid(field, "want the id of an event")
}

// parsePlaceInLog is parsePlace for an id that must lie in the log: one beyond its end is nobody's.
func (s *Server) parsePlaceInLog(ctx context.Context, field, id string) (place, error) {
	p, err := parsePlace(field, id)
	if err != nil || p.Log <= s.Runner.At() {
		return p, err
	}
	info, err := s.Store.Info(ctx)
	if err == nil && p.Log > info.Last {
		err = invalid(field, "want the id of an event")
	}
	return p, err
}

// eventBody is one event as people see it: of the log, or a line of the feed.
type eventBody struct {
	ID       string     `json:"id" doc:"Opaque; for after and Last-Event-ID"`
	Sequence events.Seq `json:"sequence" doc:"In the log; of a feed line, where the log stood"`
	Kind     string     `json:"kind" doc:"Of a scan: scan_started, scan_progress, scan_log, finding_updated, scan_usage, scan_completed, scan_failed or scan_cancelled"`
	At       time.Time  `json:"at"`
	Payload  any        `json:"payload"`

	ends bool // nothing follows
}

// What people see of the log, by kind. Everything else is in the scan's history.
func visible(r events.Recorded) (kind string, payload any, ok bool) {
	switch e := r.Event.(type) {
	case events.AttemptStarted:
		return "scan_started", map[string]any{"attempt": e.Attempt, "worker_id": e.Worker, "engine": e.Engine, "pack_digest": e.PackDigest}, true
	case events.StageCompleted:
		return "scan_progress", map[string]any{"attempt": e.Attempt, "component": e.Stage, "status": e.Status, "message": cmp.Or(e.Detail, e.Stage+" "+string(e.Status))}, true
	case events.UnitCompleted:
		return "scan_progress", map[string]any{"attempt": e.Attempt, "component": e.Stage, "unit": e.Unit, "status": e.Status, "message": cmp.Or(e.Detail, e.Unit+" "+string(e.Status))}, true
	case events.FindingsRecorded:
		rows := make([]map[string]any, len(e.Findings))
		for i, f := range e.Findings {
			rows[i] = map[string]any{"id": f.ID, "severity": f.Severity, "title": f.Title, "file_path": f.File, "start_line": f.StartLine}
		}
		return "finding_updated", map[string]any{"attempt": e.Attempt, "stage": e.Stage, "count": len(rows), "findings": rows}, true
	case events.ScanCompleted:
		reasons := e.Coverage.Reasons
		if reasons == nil {
			reasons = []events.CoverageReason{}
		}
		return "scan_completed", map[string]any{"attempt": e.Attempt, "coverage": coverageBody{e.Coverage.State, reasons}, "findings": e.Counts, "usage": shapeUsage(e.Usage)}, true
	case events.UsageRecorded:
		return "scan_usage", shapeSpending(e), true
	case events.ScanFailed:
		return "scan_failed", map[string]any{"attempt": e.Attempt, "code": e.Code, "message": e.Message}, true
	case events.ScanCancelled:
		return "scan_cancelled", map[string]any{"attempt": e.Attempt, "reason": e.Reason}, true
	default:
		return "", nil, false
	}
}

// merger turns log events and feed lines into what people see, each stamped with the place after it. It drops what was seen before place
// and lines of attempts that are over.
type merger struct {
	s          *Server
	at         place
	generation events.Seq // of the latest claim that came by
	done       int        // stages recorded so far
	percent    int        // the most that was said so far
	fed        bool       // by the feed
}

// progress is at least what was said before. The feed knows how much work each stage is; where none of its lines has come by, stages count alike.
func (m *merger) progress() int {
	if m.fed {
		return m.percent
	}
	if n := len(m.s.Stages); n > 0 {
		m.percent = max(m.percent, min(100*m.done/n, 100))
	}
	return m.percent
}

// log takes the next event of the log.
func (m *merger) log(r events.Recorded) (eventBody, bool) {
	switch r.Event.(type) {
	case events.AttemptClaimed:
		m.generation = max(m.generation, r.Seq)
	case events.StageCompleted:
		m.done++
	default:
	}
	if r.Seq <= m.at.Log {
		return eventBody{}, false
	}
	kind, payload, ok := visible(r)
	if !ok {
		return eventBody{}, false // the place stays: whoever resumes passes it again
	}
	m.at.Log = r.Seq
	if _, stage := r.Event.(events.StageCompleted); stage {
		payload.(map[string]any)["percent"] = m.progress()
	}
	return eventBody{m.at.String(), r.Seq, kind, r.At, payload, kind == "scan_completed" || kind == "scan_failed" || kind == "scan_cancelled"}, true
}

// feed takes the next line of the feed.
func (m *merger) feed(l eventstore.FeedLine) (eventBody, bool) {
	if l.Seq <= m.at.Feed || l.Generation < m.generation {
		return eventBody{}, false
	}
	m.generation = max(m.generation, l.Generation)
	m.at.Feed = l.Seq
	payload := l.Payload
	if payload == nil {
		payload = map[string]any{}
	}
	payload["attempt"] = l.Attempt
	if p, ok := payload["percent"].(float64); ok {
		m.percent, m.fed = max(m.percent, min(int(p), 100)), true
	}
	return eventBody{ID: m.at.String(), Sequence: m.at.Log, Kind: l.Kind, At: l.At, Payload: payload}, true
}

// feedTime bounds the reading of a feed's tail: its lines may be lost, so nobody waits long for one.
const feedTime = 2 * time.Second

// backlog is everything about a scan that is there now and comes after a place: log and feed merged by time, each in its own order. Of what the scan spent it is
// the newest event, which says all that the others say; there may be thousands. It returns the merger, which stands after it, to go on with what comes.
func (s *Server) backlog(ctx context.Context, id events.ScanID, after place) ([]eventBody, *merger, error) {
	// First, so that no event of the scan that lies before this one is missing in what is loaded next: the place after it would skip it for ever.
	spent, some, err := s.usageAt(ctx, id, 0)
	if err != nil {
		return nil, nil, err
	}
	past, _, err := s.Store.Load(ctx, events.ScanOf(s.region, id), events.Head{})
	if err != nil {
		return nil, nil, err
	}
	lines, err := s.feedTail(ctx, id, after.Feed, past)
	if err != nil {
		return nil, nil, err
	}
	if some {
		i, _ := slices.BinarySearchFunc(past, spent.Seq, func(r events.Recorded, seq events.Seq) int { return cmp.Compare(r.Seq, seq) })
		past = slices.Insert(past, i, spent)
	}
	m := &merger{s: s, at: after}
	var out []eventBody
	add := func(e eventBody, ok bool) {
		if ok {
			out = append(out, e)
		}
	}
	for _, r := range past {
		_, _, shown := visible(r)
		_, claim := r.Event.(events.AttemptClaimed)
		// Lines from before this event go first. The end of a scan comes after every line that is there.
		for len(lines) > 0 && (lines[0].At.Before(r.At) || (shown && endsScan(r))) && (shown || claim) {
			add(m.feed(lines[0]))
			lines = lines[1:]
		}
		add(m.log(r))
	}
	for _, l := range lines {
		add(m.feed(l))
	}
	return out, m, nil
}

func endsScan(r events.Recorded) bool {
	switch r.Event.(type) {
	case events.ScanCompleted, events.ScanFailed, events.ScanCancelled:
		return true
	default:
		return false
	}
}

// feedTail reads the lines that are there now. Of a scan that is over and whose lines the feed has forgotten, they come from the artifact that the
// engine wrote for this; their places are then those in the artifact.
func (s *Server) feedTail(ctx context.Context, id events.ScanID, after events.Seq, past []events.Recorded) ([]eventstore.FeedLine, error) {
	last, err := s.Store.FeedLast(ctx, id)
	if err != nil {
		return nil, err
	}
	if last == 0 && len(past) > 0 && endsScan(past[len(past)-1]) {
		return s.archivedFeed(ctx, past), nil
	}
	if last <= after {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, feedTime)
	defer cancel()
	var lines []eventstore.FeedLine
	for l, err := range s.Store.FollowFeed(ctx, id, after) {
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
		if l.Seq >= last {
			break
		}
	}
	return lines, nil
}

// feedArtifact is the engine's own record of the feed: one line of JSON for each of its lines, of the last attempt.
const feedArtifact = "v16-events.jsonl"

// archivedFeed reads the lines of that record. A record that is gone or not what the event says is none: the lines are no facts.
func (s *Server) archivedFeed(ctx context.Context, past []events.Recorded) []eventstore.FeedLine {
	var o events.Object
	generation := map[int]events.Seq{} // of each attempt
	for _, r := range past {
		switch e := r.Event.(type) {
		case events.AttemptClaimed:
			generation[e.Attempt] = r.Seq
		case events.StageCompleted:
			if i := slices.IndexFunc(e.Artifacts, func(a events.Object) bool { return a.Name == feedArtifact }); i >= 0 {
				o = e.Artifacts[i]
			}
		default:
		}
	}
	if o.Key == "" {
		return nil
	}
	body, err := s.readObject(ctx, o)
	if err != nil {
		s.log.Debug("no feed lines in the artifact", "err", err)
		return nil
	}
	var lines []eventstore.FeedLine
	for line := range bytes.Lines(body) {
		var l eventstore.FeedLine
		if json.Unmarshal(line, &l) != nil {
			continue
		}
		l.Seq, l.Generation = events.Seq(len(lines)+1), generation[l.Attempt]
		lines = append(lines, l)
	}
	return lines
}

// getScanEvents answers with what happened so far, or, to a client that accepts text/event-stream, with that and all that follows.
func (s *Server) getScanEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		field, from := "after", q.Get("after")
		if id := r.Header.Get("Last-Event-ID"); id != "" { // the browser's own memory is newer than the address
			field, from = "Last-Event-ID", id
		}
		after, err := s.parsePlaceInLog(r.Context(), field, from)
		if err != nil {
			return err
		}
		return s.stream(w, r, after)
	}
	after, err := s.parsePlaceInLog(r.Context(), "after", cmp.Or(q.Get("cursor"), q.Get("after")))
	if err != nil {
		return err
	}
	limit, err := parseLimit(q.Get("limit"))
	if err != nil {
		return err
	}
	items, _, err := s.backlog(r.Context(), callOf(r.Context()).scan.ID, after)
	if err != nil {
		return err
	}
	return writePage(w, items, limit)
}

// listRepositoryEvents is what happened to the repository itself: its ingestions, threat profiles, and end.
func (s *Server) listRepositoryEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	after, err := parsePlace("after", cmp.Or(q.Get("cursor"), q.Get("after")))
	if err != nil {
		return err
	}
	limit, err := parseLimit(q.Get("limit"))
	if err != nil {
		return err
	}
	past, _, err := s.Store.Load(r.Context(), events.RepositoryOf(s.region, callOf(r.Context()).repository.ID), events.Head{})
	if err != nil {
		return err
	}
	var items []eventBody
	for _, e := range past {
		if e.Seq > after.Log {
			h := shapeHistory(e)
			items = append(items, eventBody{ID: place{Log: e.Seq}.String(), Sequence: e.Seq, Kind: string(h.Type), At: h.At, Payload: h.Data})
		}
	}
	return writePage(w, items, limit)
}

func parseLimit(s string) (int, error) {
	if s == "" {
		return 50, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1000 {
		return 0, invalid("limit", "want 1 to 1000")
	}
	return n, nil
}

func writePage(w http.ResponseWriter, items []eventBody, limit int) error {
	var page many[eventBody]
	page.Body.Items = items
	if items == nil {
		page.Body.Items = []eventBody{}
	}
	if len(items) > limit {
		page.Body.Items = items[:limit]
		page.Body.Next = items[limit-1].ID
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(page.Body)
}

const (
	heartbeat  = 15 * time.Second // between comments that keep an idle stream open
	streamIdle = 30 * time.Second // how long a client may take none of what is sent to it
)

// stream sends what happened and what happens, until the scan ends, the client goes away, or the server stops. The last thing of a scan that
// ended is the event "end", then the stream closes; a client that comes back after it gets it again.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, after place) error {
	c := callOf(r.Context())
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	items, m, err := s.backlog(ctx, c.scan.ID, after)
	if err != nil {
		return err
	}
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	out := &sse{w: w, rc: http.NewResponseController(w)}
	out.begin()
	for _, e := range items {
		if err := out.send(e); err != nil {
			return nil //nolint:nilerr // the client is gone
		}
	}
	over := slices.ContainsFunc(items, func(e eventBody) bool { return e.ends })
	if !over && after != (place{}) {
		if over, err = s.isOver(ctx, c.scan.ID, m.at); err != nil {
			return nil //nolint:nilerr // the answer has begun; the client comes back
		}
	}
	if !over && !s.live(ctx, c, m, out) {
		return nil
	}
	s.settleAt(ctx, m.at.Log) // whoever reads the findings next finds them
	_ = out.end(m.at)
	return nil
}

// isOver says whether the scan's last event is at or before a place: then nothing follows.
func (s *Server) isOver(ctx context.Context, id events.ScanID, at place) (bool, error) {
	last, known, err := s.Store.LoadLast(ctx, events.ScanOf(s.region, id))
	return known && endsScan(last) && last.Seq <= at.Log, err
}

// live sends what comes, and returns true after the scan's last event.
func (s *Server) live(ctx context.Context, c *call, m *merger, out *sse) bool {
	log, feed := make(chan events.Recorded), make(chan eventstore.FeedLine) // never closed: their readers end with ctx
	broken := make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() {
		for batch, err := range s.Store.FollowBatches(ctx, m.at.Log, 64, events.ScanAndUsageFilter(s.region, c.scan.ID)) { // a server begins to follow two filters many times more slowly than one
			if _, unreadable := errors.AsType[*eventstore.UnreadableError](err); unreadable {
				continue // the read model parks the scan and says so; the stream goes on
			}
			if err != nil {
				broken <- err
				return
			}
			for _, r := range newestUsage(batch) {
				select {
				case log <- r:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	from := m.at.Feed
	following.Go(func() {
		for l, err := range s.Store.FollowFeed(ctx, c.scan.ID, from) {
			if err != nil {
				broken <- err
				return
			}
			select {
			case feed <- l:
			case <-ctx.Done():
				return
			}
		}
	})
	beat := time.NewTicker(s.beat)
	defer beat.Stop()
	for {
		var e eventBody
		var ok bool
		select {
		case r := <-log:
			if endsScan(r) {
				s.drainFeed(ctx, c.scan.ID, m, feed, out)
			}
			e, ok = m.log(r)
		case l := <-feed:
			e, ok = m.feed(l)
		case <-beat.C:
			if s.find(ctx, c, streamParam(c), viewer) != nil || out.comment() != nil {
				return false // the client is gone, or the scan is not its to see any more
			}
			continue
		case err := <-broken:
			s.log.Warn("live stream broken", "scan_id", c.scan.ID, "err", err)
			return false
		case <-ctx.Done():
			return false
		}
		if !ok {
			continue
		}
		if out.send(e) != nil {
			return false
		}
		if e.ends {
			return true
		}
	}
}

// streamParam lets find look up the stream's scan again.
func streamParam(c *call) func(string) string {
	id := string(c.scan.ID)
	return func(p string) string {
		if p == scanParam {
			return id
		}
		return ""
	}
}

// drainFeed sends the lines that are in the feed when a scan ends. They may be lost, so it does not wait long.
func (s *Server) drainFeed(ctx context.Context, id events.ScanID, m *merger, feed <-chan eventstore.FeedLine, out *sse) {
	ctx, cancel := context.WithTimeout(ctx, feedTime)
	defer cancel()
	last, err := s.Store.FeedLast(ctx, id)
	seen := m.at.Feed
	for err == nil && seen < last {
		select {
		case l := <-feed:
			seen = l.Seq
			if e, ok := m.feed(l); ok {
				err = out.send(e)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
}

// sse writes Server-Sent Events.
type sse struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (o *sse) begin() {
	h := o.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // proxies must not wait for more
	o.deadline()
	_ = o.rc.SetReadDeadline(time.Time{})
	o.w.WriteHeader(http.StatusOK)
	_ = o.write("retry: 1000\n\n") // a client that is gone shows at the first event
}

// send writes one event: its kind as the event's name, its whole as the data.
func (o *sse) send(e eventBody) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return o.write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, data))
}

func (o *sse) end(at place) error {
	return o.write(fmt.Sprintf("id: %s\nevent: end\ndata: {\"id\":%q}\n\n", at, at))
}

func (o *sse) comment() error { return o.write(": still here\n\n") }

func (o *sse) write(s string) error {
	o.deadline()
	_, err := o.w.Write([]byte(s))
	return errors.Join(err, o.rc.Flush())
}

func (o *sse) deadline() {
	_ = o.rc.SetWriteDeadline(time.Now().Add(streamIdle)) // a connection without deadlines is a test's
}
