package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"vega/services/intake"
	"vega/services/report"
)

// progress shows a scan's progress: a bar on a terminal, plain lines elsewhere, nothing when quiet. Its methods may be called from any
// goroutine.
type progress struct {
	w       io.Writer
	quiet   bool
	verbose bool             // show log lines
	now     func() time.Time // nil: time.Now
	width   int              // of the bar's text, columns; 0: 28

	mu      sync.Mutex // guards what follows, held while writing
	bar     *progressbar.ProgressBar
	last    string // the last plain line, so it is not repeated
	percent int    // the largest that was shown
	told    time.Time
	message string         // what was last said of the stage
	stage   string         // that was last heard of
	units   map[string]int // pieces that are done, by stage
	totals  map[string]int // and how many there are, where somebody said so
	heard   time.Time      // when the last event came; zero: none has
	caps    capsView
	usage   usageView
	step    int       // of spending, that was last told
	billed  time.Time // when it was
	denied  string    // the cap that stopped the calls
}

func newProgress(w io.Writer, quiet bool) *progress {
	p := &progress{w: w, quiet: quiet}
	if !quiet && isTerminal(w) {
		if columns, _, err := term.GetSize(int(w.(*os.File).Fd())); err == nil {
			p.width = columns - barWidth
		}
		p.bar = progressbar.NewOptions(100,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetDescription("packing"),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionThrottle(50*time.Millisecond),
		)
	}
	return p
}

// barWidth is what a bar takes beside its text: itself, the share and the time.
const barWidth = 30 + 22

// say prints one line above the bar.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(fmt.Sprintf(format, args...))
}

// line needs mu. What cannot be written to a terminal that is gone is nobody's loss.
func (p *progress) line(s string) {
	if p.quiet || s == p.last {
		return
	}
	p.last = s
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	_, _ = fmt.Fprintln(p.w, s)
	if p.bar != nil {
		_ = p.bar.RenderBlank()
	}
}

// event shows one live event of the scan.
func (p *progress) event(e liveEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = p.time()
	text := func(field string) string {
		s, _ := e.Payload[field].(string)
		return report.Printable(s)
	}
	switch e.Kind {
	case "scan_progress":
		p.message = text("message")
		if stage := text("component"); stage != "" {
			p.stage = stage
		}
		if total, ok := e.Payload["units_total"].(float64); ok {
			put(&p.totals, p.stage, int(total))
		}
		if text("unit") != "" {
			put(&p.units, p.stage, p.units[p.stage]+1)
		}
		percent, _ := e.Payload["percent"].(float64)
		p.advance(int(percent))
	case "scan_log":
		if p.verbose {
			line := text("message")
			if stage := text("component"); stage != "" {
				line = stage + ": " + line
			}
			p.line(line)
		}
	case "scan_usage":
		p.spending(e.Payload)
	case "scan_started":
		p.message = "scanning"
	}
	p.describe(p.text())
}

func put(m *map[string]int, key string, n int) {
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key] = n
}

func (p *progress) time() time.Time {
	if p.now != nil {
		return p.now()
	}
	return time.Now()
}

// silence is after how long without an event people are told.
const silence = 10 * time.Second

// text is what stands before the bar: how many pieces of the stage are done, what was spent, how old the last event is once that is long, and what is being done. It needs mu.
func (p *progress) text() string {
	var parts []string
	switch done, total := p.units[p.stage], p.totals[p.stage]; {
	case total > 0:
		parts = append(parts, fmt.Sprintf("%s %d of %d", p.stage, min(done, total), total))
	case done > 0:
		parts = append(parts, fmt.Sprintf("%s %d done", p.stage, done))
	}
	if p.usage.Requests > 0 {
		parts = append(parts, p.money())
	}
	if !p.heard.IsZero() {
		if age := p.time().Sub(p.heard); age > silence {
			parts = append(parts, fmt.Sprintf("last event %d s ago", int(age/time.Second)))
		}
	}
	head := strings.Join(parts, ", ")
	switch {
	case head == "":
		return p.message
	case p.message == "":
		return head
	}
	return head + ": " + p.message
}

// tick keeps the age of the last event up to date until ctx ends.
func (p *progress) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		if p.bar != nil && !p.heard.IsZero() && p.time().Sub(p.heard) > silence {
			p.describe(p.text())
			_ = p.bar.RenderBlank()
		}
		p.mu.Unlock()
	}
}

// limit says what the scan may spend.
func (p *progress) limit(c capsView) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.caps = c
}

// billEvery is how often plain lines say what was spent, if it has grown.
const billEvery = 10 * time.Second

// spending takes what the scan has spent so far. Plain lines come with the first call, at each tenth of what it may spend or, where it may spend anything, each time that the calls have doubled, and
// at the latest with the first call that ends after billEvery. It needs mu.
func (p *progress) spending(payload map[string]any) {
	b, err := json.Marshal(payload)
	var now struct {
		Usage  usageView `json:"usage"`
		Denied string    `json:"denied"`
	}
	if err != nil || json.Unmarshal(b, &now) != nil {
		return // what it cost is said again at the end
	}
	more := now.Usage.Requests > p.usage.Requests || now.Usage.CostUSD > p.usage.CostUSD
	p.usage = now.Usage
	if step := p.stepOf(now.Usage); step > p.step || more && p.time().Sub(p.billed) >= billEvery {
		p.step, p.billed = max(step, p.step), p.time()
		if p.bar == nil {
			p.line(p.bill())
		}
	}
	if now.Denied != "" && now.Denied != p.denied {
		p.line("no more calls to the model: the scan has reached its limit of " + report.Printable(now.Denied))
	}
	p.denied = now.Denied
}

func (p *progress) stepOf(u usageView) int {
	share := 0.0
	for _, x := range []struct{ spent, limit float64 }{{float64(u.Requests), float64(p.caps.Requests)}, {float64(u.tokens()), float64(p.caps.Tokens)}, {u.CostUSD, p.caps.CostUSD}} {
		if x.limit > 0 {
			share = max(share, x.spent/x.limit)
		}
	}
	if p.caps == (capsView{}) {
		return bits.Len64(uint64(max(u.Requests, 0)))
	}
	return int(10 * share)
}

func (u usageView) tokens() int64 { return u.InputTokens + u.OutputTokens }

// money is what was spent of what may be. It needs mu.
func (p *progress) money() string {
	if p.usage.CostUSD == 0 && p.usage.tokens() > 0 {
		return "an amount that is not known (the model has no price here)"
	}
	if p.caps.CostUSD > 0 {
		return usd(p.usage.CostUSD) + " of " + usd(p.caps.CostUSD)
	}
	return usd(p.usage.CostUSD)
}

// bill is what was spent, in a line. It needs mu.
func (p *progress) bill() string {
	of := func(n int64) string {
		if n == 0 {
			return ""
		}
		return " of " + short(n)
	}
	return fmt.Sprintf("spent %s, %s%s requests, %s%s tokens", p.money(), short(p.usage.Requests), of(p.caps.Requests), short(p.usage.tokens()), of(p.caps.Tokens))
}

// spent says what the scan has cost in the end; nothing when it called no model.
func (p *progress) spent(u usageView) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usage = u; u.Requests > 0 {
		p.last = "" // it may be what was said last
		p.line("in all " + p.bill())
	}
}

// usd is an amount of dollars in cents, or finer where that would be nothing.
func usd(v float64) string {
	if v > 0 && v < 0.01 {
		return fmt.Sprintf("$%.4f", v)
	}
	return fmt.Sprintf("$%.2f", v)
}

// short is a number in at most a few digits: 950, 210k, 1.2M.
func short(n int64) string {
	switch {
	case n < 10_000:
		return strconv.FormatInt(n, 10)
	case n < 1_000_000:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprintf("%.1fM", float64(n)/1e6)
}

// advance needs mu. What was recorded and what is only reported come in two orders of their own, so the share never goes back here. Plain
// lines come at each tenth of the way.
func (p *progress) advance(percent int) {
	if p.bar != nil {
		if percent > p.percent {
			p.percent = percent
			_ = p.bar.Set(min(percent, 99)) // 100 would end the bar before the end is known
		}
		return
	}
	if percent >= p.percent+10 {
		p.percent = percent
		p.line(fmt.Sprintf("%3d%% %s", percent, p.message))
	}
}

// packing shows how much is packed so far.
func (p *progress) packing(files int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil && time.Since(p.told) > 100*time.Millisecond {
		p.told = time.Now()
		p.describe(fmt.Sprintf("packing %d files", files))
		_ = p.bar.RenderBlank()
	}
}

// packed says what was packed and what was left out, once it is known.
func (p *progress) packed(x intake.Packed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(fmt.Sprintf("packed %d files, %.1f MB", x.Files, float64(x.Bytes)/1e6))
	if x.Ignored > 0 {
		p.line(fmt.Sprintf("%d files or folders left out by .gitignore", x.Ignored))
	}
	for _, w := range x.Warnings {
		p.line(fmt.Sprintf("left out or odd: %s (%s)", report.Printable(w.Path), w.Code))
	}
}

// describe needs mu.
func (p *progress) describe(s string) {
	if p.bar != nil {
		width := max(p.width, 28)
		p.bar.Describe(fmt.Sprintf("%-28.*s", width, s))
	}
}

// done takes the bar away. It may be called twice.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
		_ = p.bar.Clear()
		p.bar = nil
	}
}
