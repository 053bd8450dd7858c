package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/catalog"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/engine/process"
	"vega/services/fleet"
	"vega/services/llmproxy"
	"vega/services/report"
	"vega/services/scan"
)

// Queue brings hints. Every hint that Next gave out is given to Done once it has served (the claim is stored, or the scan wants no worker any more), or to
// Retry when it could not be acted on; it is brought again otherwise. None of them fails: a lost Done brings a hint once more, which does no harm.
type Queue interface {
	Next(ctx context.Context) (dispatch.Hint, error)
	Done(dispatch.Hint)
	Retry(dispatch.Hint)
}

// Source brings a snapshot's tree into dir, which does not exist yet, and checks every file against the snapshot's digest.
type Source interface {
	Checkout(ctx context.Context, id events.SnapshotID, dir string) error
}

// Objects keeps what a scan leaves behind, by key. Put is atomic and replaces.
type Objects interface {
	Put(ctx context.Context, key string, r io.Reader) error
	Open(ctx context.Context, key string) (io.ReadCloser, error)
}

// Engine does the work of one attempt.
type Engine interface {
	Run(context.Context, engine.Job, engine.Recorder) (engine.Outcome, error)
	Version() string
	PackDigest() events.Digest
	// Model is the model that a scan uses which asks for that one; empty: for none in particular.
	Model(asked string) string
	// RemoveLeft removes the containers of attempts whose process is no more; their folders lay in folder. It is called before any attempt, and waits.
	RemoveLeft(ctx context.Context, folder string) error
}

// Model says how an attempt reaches the model: where the LLM proxy is, with a token that is good until expires, or which settings are missing.
type Model interface {
	Access(ctx context.Context, g llmproxy.Grant, expires time.Time) (engine.Access, error)
}

// Parts are what a worker works with. All are required, except that a worker with Tasks needs no Source, Objects and Engine.
type Parts struct {
	Store   *eventstore.Store
	Queue   Queue
	Member  *fleet.Member
	Source  Source
	Objects Objects
	Engine  Engine
	Model   Model // nil: no model is reached
	Tasks   Tasks // runs what was claimed; nil: this process does
	Log     *slog.Logger
}

// Options of a worker.
type Options struct {
	Slots       int
	Timeout     time.Duration // of one attempt
	RuntimeRoot string        // attempts' folders are made under it
	Host        string
	Grace       time.Duration // for running scans at shutdown
}

// Worker takes scans. Make one with New, then Run it once.
type Worker struct {
	Parts
	opt    Options
	folder *runtimeFolder

	stopping chan struct{} // closed when Run's context ends

	mu       sync.Mutex              // guards what follows, never held over I/O
	resting  time.Duration           // how long the last rest was; 0: the files are there
	until    time.Time               // no claims before it
	reserved map[events.Seq]bool     // generations that a slot has
	running  map[events.Seq]*attempt // by generation: a scan that was given away may be taken again before its earlier attempt has stopped
}

// New returns a worker with a folder of its own under RuntimeRoot, and removes those that crashed processes left there. Several processes may share a root.
func New(p Parts, o Options) (*Worker, error) {
	folder, err := openRuntime(o.RuntimeRoot, p.clearLeft)
	if err != nil {
		return nil, err
	}
	return &Worker{Parts: p, opt: o, folder: folder, stopping: make(chan struct{}), reserved: map[events.Seq]bool{}, running: map[events.Seq]*attempt{}}, nil
}

// clearTime bounds the clearing of what one process left.
const clearTime = time.Minute

// clearLeft ends what a process which is no more left running. False: it has to be tried again, at the next start.
func (p Parts) clearLeft(folder string) bool {
	process.KillLeft(folder)
	if p.Engine == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), clearTime)
	defer cancel()
	if err := p.Engine.RemoveLeft(ctx, folder); err != nil {
		p.Log.Warn("what a killed process left running could not be ended; the next start tries again", "folder", folder, "err", err)
		return false
	}
	return true
}

// Why an attempt's context ends, beside the log's own reasons.
var (
	errDraining = errors.New("the worker is shutting down")
	errTimeout  = errors.New("the attempt ran out of time")
)

// Run works until ctx ends, then drains and returns nil. When it is asked to drain before that it takes nothing more, lets its scans finish, and waits for
// ctx's end. It is called once.
func (w *Worker) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, w.folder.close()) }()
	// running outlives ctx by the grace: it is what attempts work under.
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	taking, stopTaking := context.WithCancel(ctx)
	defer stopTaking()
	var slots, looks sync.WaitGroup
	for range max(w.opt.Slots, 1) {
		slots.Go(func() { w.slot(taking, running) })
	}
	looks.Go(func() { w.lookOut(running) })
	defer looks.Wait()
	select {
	case <-ctx.Done():
		w.Member.Drain()
	case <-w.Member.Draining():
		w.Log.Info("draining: no more scans are taken")
		stopTaking()
		<-ctx.Done()
	}
	close(w.stopping)
	if n := len(w.attempts("")); n > 0 {
		w.Log.Info("running scans may finish, then they are given back", "scans", n, "grace", w.opt.Grace)
	}
	idle := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() { slots.Wait(); close(idle) })
	grace := time.NewTimer(w.opt.Grace)
	defer grace.Stop()
	select {
	case <-idle:
	case <-grace.C:
		stop(errDraining)
	}
	waiter.Wait()
	stop(nil)
	return nil
}

// lookEvery is how long something that happened to a scan may go unnoticed by the attempt that runs it.
const lookEvery = time.Second

// lookOut reads running scans again: the one that somebody names at once, all of them every lookEvery. One consumer for each scan would find out
// no sooner and costs the server a thousand times more than the scans that live shorter than that.
func (w *Worker) lookOut(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		var id events.ScanID
		select {
		case id = <-w.Member.Looks():
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if w.Tasks != nil {
			if id != "" {
				w.Tasks.Look(id)
			}
			continue
		}
		for _, a := range w.attempts(id) {
			if err := a.look(ctx); err != nil {
				break // the log is away: the others would learn no more
			}
		}
	}
}

// attempts are the running ones of a scan, or all for an empty id.
func (w *Worker) attempts(id events.ScanID) []*attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*attempt
	for _, a := range w.running {
		if id == "" || a.id == id {
			out = append(out, a)
		}
	}
	return out
}

func (w *Worker) slot(ctx, running context.Context) {
	for {
		if !w.rested(ctx) {
			return
		}
		h, err := w.Queue.Next(ctx)
		if err != nil {
			return
		}
		if w.restsNow() { // another slot has begun it meanwhile
			w.Queue.Retry(h)
			continue
		}
		if err := w.take(ctx, running, h); err != nil {
			w.Log.Warn("hint not acted on", "scan_id", h.Scan, "seq", h.Seq, "err", err)
			pause := time.NewTimer(time.Second)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
			w.Queue.Retry(h)
		}
	}
}

// A worker that does not see the snapshots takes nothing for a while, ever longer: it would take every scan from those that do.
const (
	firstRest = 5 * time.Second
	maxRest   = time.Minute
)

// rest begins a pause; restored ends what made it necessary.
func (w *Worker) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Now().Before(w.until) {
		return // another slot has just found the same
	}
	w.resting = min(max(firstRest, 2*w.resting), maxRest)
	w.until = time.Now().Add(w.resting)
}

func (w *Worker) restored() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting = 0
}

func (w *Worker) restsNow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.until)
}

// rested waits for the end of a pause; false means that ctx ended first.
func (w *Worker) rested(ctx context.Context) bool {
	w.mu.Lock()
	left := time.Until(w.until)
	w.mu.Unlock()
	if left <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// list and unlist say that an attempt runs.
func (w *Worker) list(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[a.generation] = a
}

func (w *Worker) unlist(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, a.generation)
}

// take claims the scan of a hint and runs it to the end of the attempt. An error means that nothing was claimed and the hint is still good.
func (w *Worker) take(ctx, running context.Context, h dispatch.Hint) error {
	if w.Tasks != nil && w.Tasks.Ready(ctx) != nil {
		w.Queue.Retry(h)
		return nil // shutting down
	}
	if !w.Member.Fresh(time.Now()) {
		return errors.New("the worker's own heartbeat is late")
	}
	agg := events.ScanOf(w.Store.Region(), h.Scan)
	meta := w.meta(events.CommandIDFor("claim", string(w.Member.ID()), strconv.FormatUint(uint64(h.Seq), 10)), "hint "+strconv.FormatUint(uint64(h.Seq), 10))
	token := ""
	if w.Tasks != nil {
		token = w.Tasks.Token(meta.Command)
	}
	s, recorded, err := w.claim(ctx, agg, meta, h, token)
	if _, no := errors.AsType[*scan.NotAllowedError](err); no {
		w.Queue.Done(h)
		return nil // over, or somebody else's
	}
	if err != nil {
		return err
	}
	// A crash here: the scan is claimed by a worker that no longer is. Maintenance expires it; the hint comes again and finds nothing to do.
	w.Queue.Done(h)
	if len(recorded) == 0 || s.Worker != w.Member.ID() || !s.Owns(recorded[0].Seq) {
		return nil
	}
	head := recorded[len(recorded)-1].Head()
	if s.Seq != head.Seq { // the claim is one of an earlier try, and something has happened since
		if s, head, err = w.load(ctx, agg); err != nil {
			return err
		}
	}
	// A hint that came twice finds the claim that it made the first time.
	if !w.reserve(s.Generation) {
		return nil
	}
	defer w.free(s.Generation)
	w.Member.Took(h.Scan, s.Generation)
	defer w.Member.Gave(h.Scan, s.Generation)
	if w.Tasks != nil {
		c := Claimed{Scan: s, ID: h.Scan, Head: head, Token: token}
		if h.Ready != nil {
			c.Trace = h.Ready.Trace
		}
		w.Tasks.Launch(running, c)
		return nil
	}
	a := &attempt{w: w, agg: agg, id: h.Scan, generation: s.Generation, number: s.Attempt, state: s, head: head}
	a.run(running)
	return nil
}

// reserve takes a generation for one slot; false means that another slot has it.
func (w *Worker) reserve(generation events.Seq) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reserved[generation] {
		return false
	}
	w.reserved[generation] = true
	return true
}

func (w *Worker) free(generation events.Seq) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.reserved, generation)
}

// load reads a scan from its first event.
func (w *Worker) load(ctx context.Context, agg events.Aggregate) (scan.Scan, events.Head, error) {
	var s scan.Scan
	past, head, err := w.Store.Load(ctx, agg, events.Head{})
	for _, r := range past {
		s = s.Evolve(r)
	}
	return s, head, err
}

// claim appends the claim. Nearly always nothing has happened since the event that the hint brought, so that is tried without asking first.
func (w *Worker) claim(ctx context.Context, agg events.Aggregate, meta events.Meta, h dispatch.Hint, token string) (scan.Scan, []events.Recorded, error) {
	claim := scan.Claim{Worker: w.Member.ID(), Host: w.opt.Host}
	if token != "" {
		claim.RunnerToken = scan.TokenDigest(token)
	}
	if r := h.Ready; r != nil && r.Version == 1 {
		s := scan.Scan{}.Evolve(*r)
		evs, err := scan.Decide(s, claim)
		if err == nil {
			recorded, err := w.Store.Append(ctx, agg, r.Head(), meta, evs...)
			if err == nil {
				return s.Evolve(recorded[0]), recorded, nil
			}
			if !errors.Is(err, eventstore.ErrConflict) {
				return s, nil, err
			}
		}
	}
	return eventstore.Do(ctx, w.Store, agg, meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		if s.Seq < h.Seq {
			return nil, fmt.Errorf("%w: it ends at %d, before the hint's event %d", errBehind, s.Seq, h.Seq)
		}
		return scan.Decide(s, claim)
	})
}

// errBehind says that the log that was asked does not have the event of a hint yet.
var errBehind = errors.New("the scan was read from a log that is behind")

func (w *Worker) meta(id events.CommandID, cause string) events.Meta {
	return events.Meta{Command: id, Actor: events.ByWorker(w.Member.ID()), Cause: cause, At: time.Now().UTC()}
}

const attemptPrefix = "attempt-"

// removeTree removes a folder whose contents may be read-only.
func removeTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// profileOf finds the threat profile that was asked for in the repository's history.
func (w *Worker) profileOf(ctx context.Context, s scan.Scan) (*events.ThreatProfile, error) {
	if s.Request.Profile == 0 {
		return nil, nil
	}
	past, _, err := w.Store.Load(ctx, events.RepositoryOf(w.Store.Region(), s.Request.Repository), events.Head{})
	if err != nil {
		return nil, err
	}
	for _, r := range past {
		if e, ok := r.Event.(events.ThreatProfileSet); ok && e.Number == s.Request.Profile {
			return &e.Profile, nil
		}
	}
	return nil, &catalog.GoneError{What: "threat profile"}
}

// baseOf loads the scan that a scan's findings are compared with, and the ledgers of those that it cannot know of. One that is not there, or did not complete, is none.
func (w *Worker) baseOf(ctx context.Context, s scan.Scan) (*engine.Base, error) {
	if s.Request.Base == "" {
		return nil, nil
	}
	base, err := w.completed(ctx, s.Request.Base)
	if base == nil {
		return nil, err
	}
	b := &engine.Base{Seen: report.Seen{Scan: s.Request.Base, Findings: base.Findings, Coverage: base.Coverage.State, Paths: base.Request.Paths}, Ledger: ledgerOf(*base)}
	for _, id := range s.Request.Overlapped {
		other, err := w.completed(ctx, id)
		if err != nil {
			return nil, err
		}
		if other != nil && ledgerOf(*other) != nil {
			b.Beside = append(b.Beside, *ledgerOf(*other))
		}
	}
	return b, nil
}

// completed loads a scan; nil when it is not there, did not complete, or cannot be read.
func (w *Worker) completed(ctx context.Context, id events.ScanID) (*scan.Scan, error) {
	s, _, err := w.load(ctx, events.ScanOf(w.Store.Region(), id))
	if _, unreadable := errors.AsType[*eventstore.UnreadableError](err); unreadable {
		w.Log.Warn("an earlier scan cannot be read; nothing is compared with it", "scan_id", id, "err", err)
		return nil, nil
	}
	if err != nil || s.Status != scan.Completed {
		return nil, err
	}
	return &s, nil
}

// ledgerOf is what a scan left for those after it; nil when it left none.
func ledgerOf(s scan.Scan) *events.Object {
	for _, st := range slices.Backward(s.Stages) {
		if st.Compared != nil {
			return st.Compared.Ledger
		}
	}
	return nil
}
