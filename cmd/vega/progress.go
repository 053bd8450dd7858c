package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"vega/services/intake"
	"vega/services/report"
)

// progress shows a scan's progress: a bar on a terminal, plain lines elsewhere, nothing when quiet. Its methods may be called from any
// goroutine.
type progress struct {
	w     io.Writer
	quiet bool

	mu      sync.Mutex // guards what follows, held while writing
	bar     *progressbar.ProgressBar
	last    string // the last plain line, so it is not repeated
	percent int    // the largest that was shown
	told    time.Time
}

func newProgress(w io.Writer, quiet bool) *progress {
	p := &progress{w: w, quiet: quiet}
	if !quiet && isTerminal(w) {
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
	message, _ := e.Payload["message"].(string)
	message = report.Printable(message)
	switch e.Kind {
	case "scan_progress":
		percent, _ := e.Payload["percent"].(float64)
		p.advance(int(percent), message)
	case "scan_started":
		p.describe("scanning")
	}
}

// advance needs mu. What was recorded and what is only reported come in two orders of their own, so the share never goes back here. Plain
// lines come at each tenth of the way.
func (p *progress) advance(percent int, message string) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%-28.28s", message))
		if percent > p.percent {
			p.percent = percent
			_ = p.bar.Set(min(percent, 99)) // 100 would end the bar before the end is known
		}
		return
	}
	if percent >= p.percent+10 {
		p.percent = percent
		p.line(fmt.Sprintf("%3d%% %s", percent, message))
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
		p.bar.Describe(fmt.Sprintf("%-28.28s", s))
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
