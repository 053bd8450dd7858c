package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/llmproxy"
)

// Deps are the parts that the API stands on. All are required except where it says so.
type Deps struct {
	Config    Config
	Store     *eventstore.Store
	Model     projections.Reader
	Runner    Follower
	Admission *dispatch.Admission
	Auth      Auth
	// Limiter holds callers to so many requests a minute; nil: it does not. Whoever makes it runs it.
	Limiter *auth.Limiter
	Files   files.Store // snapshots, artifacts, exports
	Intake  *intake.Intake
	Fleet   Fleet
	// Mode is how queued scans reach workers; empty is dispatch.ModeThread.
	Mode dispatch.Mode
	// Stages are the names of the engine's stages in their order.
	Stages []string
	// MaxAttempts is how many attempts a scan gets.
	MaxAttempts int
	// Caps are what a scan may spend, shown with every scan.
	Caps llmproxy.Caps
	// Limits are shown to admins; optional.
	Limits []Limit
	// Checks are what readyz asks beside the log and the read model; optional.
	Checks  []Check
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Now     func() time.Time // nil: time.Now
	Version string           // of this build
}

// Auth answers for bearer tokens and signs in. *auth.Custom is one; a provider that signs in elsewhere returns ErrBadCredentials from Login and
// ErrBadToken from Refresh. Its errors are those of package auth. It is called concurrently.
type Auth interface {
	Verify(ctx context.Context, bearer string) (auth.Identity, error)
	Login(ctx context.Context, email, password string) (auth.Tokens, error)
	Refresh(ctx context.Context, refresh string) (auth.Tokens, error)
	Logout(ctx context.Context, refresh string) error
	LogoutSession(ctx context.Context, session string) error
}

// Follower is what keeps the read model up to date: *projections.Runner.
type Follower interface {
	// WaitFor returns when the model is true up to seq, or with ctx's error.
	WaitFor(ctx context.Context, seq events.Seq) error
	// At is the sequence up to which the model is true.
	At() events.Seq
	// Skipped counts events of newer releases that were left out.
	Skipped() int
	// Leads says that this process is the one that brings events into the model.
	Leads() bool
	// Rebuild builds the model anew beside the live one, compares and swaps.
	Rebuild(ctx context.Context) (projections.RebuildReport, error)
}

// Fleet lists the workers that have a heartbeat.
type Fleet interface {
	Workers(ctx context.Context) ([]Worker, error)
}

// FleetFunc makes a Fleet of a function.
type FleetFunc func(ctx context.Context) ([]Worker, error)

// Workers calls f.
func (f FleetFunc) Workers(ctx context.Context) ([]Worker, error) { return f(ctx) }

// Worker is one row of ops/workers.
type Worker struct {
	ID       events.WorkerID
	Host     string
	Version  string
	Slots    int
	Mode     string // the queue it takes scans from
	Scans    []events.ScanID
	Beat     time.Time
	Stale    bool // it has been silent for too long
	Draining bool
}

// Limit is one row of ops/limits.
type Limit struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// Check is one part that has to work for the process to be ready. Run returns nil, or what is wrong, within a second.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// Server is the API. It is an http.Handler; Serve runs it.
type Server struct {
	Deps
	log      *slog.Logger
	region   events.Region
	handler  http.Handler
	api      huma.API
	router   chi.Router
	routes   []route
	expiring jetstream.KeyValue // what ends by itself and is no fact
	keys     *auth.Keys
	model    *surviving // what Model is here
	metrics  *metrics
	closing  context.Context // ends when streams have to
	close    context.CancelFunc
	rebuild  sync.Mutex   // held by the one rebuild that may go on
	objects  sync.RWMutex // held for reading while a snapshot becomes known, for writing while unknown ones are removed
	busy     busy
	patience time.Duration // of reads with at_least; behindPatience
	beat     time.Duration // between signs of life on a stream; heartbeat
}

// New builds the API. It asks the log for its buckets, and returns an error that names what is missing in d.
func New(d Deps) (*Server, error) {
	switch {
	case d.Store == nil, d.Model == nil, d.Runner == nil, d.Admission == nil, d.Auth == nil, d.Files == nil, d.Intake == nil, d.Fleet == nil, d.Log == nil, d.Metrics == nil:
		return nil, errors.New("api: a part is missing: store, model, runner, admission, auth, files, intake, fleet, log and metrics are required")
	case d.MaxAttempts < 1:
		return nil, fmt.Errorf("api: max attempts is %d, want at least 1", d.MaxAttempts)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	kv, err := d.Store.Bucket(ctx, eventstore.ExpiringBucket)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Server{Deps: d, log: d.Log, region: d.Store.Region(), expiring: kv, keys: auth.NewKeys(d.Store, d.Now), patience: behindPatience, beat: heartbeat}
	s.model = &surviving{Reader: d.Model, s: s}
	s.Model = s.model
	s.closing, s.close = context.WithCancel(context.Background())
	if s.metrics, err = newMetrics(d.Metrics, s); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// EndStreams ends all live streams, now and for good: for a shutdown that is to wait for requests. Clients resume where they were.
func (s *Server) EndStreams() { s.close() }
