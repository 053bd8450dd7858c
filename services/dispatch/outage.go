package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// outage remembers whether SQS answers, and logs when that changes. It is safe for concurrent use.
type outage struct {
	log  *slog.Logger
	part string // whose requests: bridge or receiver

	mu    sync.Mutex // guards what follows, for an instant
	err   error
	tries int // since it last answered
}

// failed notes that it did not answer and returns how long to leave it alone.
func (o *outage) failed(err error) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.log.Warn("SQS did not answer", "part", o.part, "err", err)
	}
	o.err = err
	o.tries++
	return min(250*time.Millisecond<<min(o.tries, 5), 5*time.Second)
}

// answered notes that it answers.
func (o *outage) answered() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		o.log.Info("SQS answered again", "part", o.part)
	}
	o.err, o.tries = nil, 0
}

// last is the error of the last try, nil when it succeeded.
func (o *outage) last() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
