package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

// StreamName is the region's event stream. The number leaves room for closing a full stream and starting the next.
func StreamName(r events.Region) string { return "VEGA_EVENTS_" + string(r) + "_1" }

// FeedName is the stream of progress and log lines.
func FeedName(r events.Region) string { return "VEGA_FEED_" + string(r) }

// Buckets beside the log. Heartbeats live in memory and expire; Expiring keeps what must end by itself and is no fact: refresh
// tokens, hashes of requests with a key, upload leases, download links, when an API key was last used.
const (
	HeartbeatBucket = "VEGA_HEARTBEATS"
	ExpiringBucket  = "VEGA_EXPIRING"
)

// streamConfig is the event stream. What is absent is as important as what is there: no message TTL, no schedules, no rollup and no
// delete markers, because enabling any of them silently switches DenyPurge off.
func streamConfig(r events.Region, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               StreamName(r),
		Description:        "Vega's events: the only truth. Never edited, never purged.",
		Subjects:           events.StreamSubjects(r),
		Storage:            jetstream.FileStorage,
		Compression:        jetstream.S2Compression,
		Replicas:           replicas,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxMsgs:            -1,
		MaxBytes:           -1,
		MaxMsgsPerSubject:  -1,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Duplicates:         2 * time.Minute,
	}
}

func feedConfig(r events.Region, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        FeedName(r),
		Description: "Progress and log lines of running scans; not facts.",
		Subjects:    []string{events.FeedSubjects(r)},
		Storage:     jetstream.FileStorage,
		Compression: jetstream.S2Compression,
		Replicas:    replicas,
		Discard:     jetstream.DiscardOld,
		MaxAge:      7 * 24 * time.Hour,
		MaxBytes:    1 << 30,
		AllowDirect: true,
	}
}

// Setup makes what is missing of a region's streams and buckets, with an administrator's connection. It changes the replica count of
// what exists, adds the subjects of aggregates that this release is the first to know, and nothing else; it may be run again at any time, also after it was interrupted.
func Setup(ctx context.Context, js jetstream.JetStream, r events.Region, replicas int) error {
	if err := events.CheckRegion(r); err != nil {
		return err
	}
	replicas = max(replicas, 1)
	for _, cfg := range []jetstream.StreamConfig{streamConfig(r, replicas), feedConfig(r, replicas)} {
		st, err := js.Stream(ctx, cfg.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if _, err = js.CreateStream(ctx, cfg); err != nil {
				return fmt.Errorf("create stream %s: %w", cfg.Name, err)
			}
		case err != nil:
			return fmt.Errorf("look at stream %s: %w", cfg.Name, err)
		default:
			have := st.CachedInfo().Config
			missing := slices.DeleteFunc(slices.Clone(cfg.Subjects), func(s string) bool { return slices.Contains(have.Subjects, s) })
			if have.Replicas == replicas && len(missing) == 0 {
				break
			}
			have.Replicas, have.Subjects = replicas, append(have.Subjects, missing...)
			if _, err = js.UpdateStream(ctx, have); err != nil {
				return fmt.Errorf("change stream %s: %w", cfg.Name, err)
			}
		}
	}
	for _, cfg := range []jetstream.KeyValueConfig{
		heartbeatConfig(replicas),
		{Bucket: ExpiringBucket, Description: "What ends by itself and is no fact", History: 1, Storage: jetstream.FileStorage, LimitMarkerTTL: time.Hour, Replicas: replicas},
	} {
		if _, err := js.CreateOrUpdateKeyValue(ctx, cfg); err != nil {
			return fmt.Errorf("create bucket %s: %w", cfg.Bucket, err)
		}
		if err := readLeader(ctx, js, cfg.Bucket); err != nil {
			return fmt.Errorf("create bucket %s: %w", cfg.Bucket, err)
		}
	}
	return assertStreams(ctx, js, r)
}

// readLeader makes every read of a bucket one of its leader. As the client makes buckets, any replica answers, and one that is a moment behind does not know yet
// what its own writer was told is stored: a session that has just begun would not exist.
func readLeader(ctx context.Context, js jetstream.JetStream, bucket string) error {
	st, err := js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return err
	}
	cfg := st.CachedInfo().Config
	if !cfg.AllowDirect {
		return nil
	}
	cfg.AllowDirect = false
	_, err = js.UpdateStream(ctx, cfg)
	return err
}

func heartbeatConfig(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Bucket: HeartbeatBucket, Description: "Workers that are alive", History: 1, Storage: jetstream.MemoryStorage, LimitMarkerTTL: time.Hour, Replicas: replicas}
}

// EnsureHeartbeats makes the heartbeat bucket again when it is gone, which it is after the restart of a server that kept it alone. It returns
// ErrUnavailable when the server does not answer, which it also does not where the connection's user may make no streams.
func EnsureHeartbeats(ctx context.Context, js jetstream.JetStream, r events.Region) error {
	log, err := js.Stream(ctx, StreamName(r))
	if err != nil {
		return fmt.Errorf("%w: look at stream %s: %w", ErrUnavailable, StreamName(r), err)
	}
	_, err = js.CreateKeyValue(ctx, heartbeatConfig(max(log.CachedInfo().Config.Replicas, 1)))
	if errors.Is(err, jetstream.ErrBucketExists) {
		return nil
	}
	if err == nil {
		err = readLeader(ctx, js, HeartbeatBucket)
	}
	if err != nil {
		return fmt.Errorf("%w: create bucket %s: %w", ErrUnavailable, HeartbeatBucket, err)
	}
	return nil
}

// requestTime bounds one request to the server, whatever the caller's own bound is: a request that comes during an election is never answered, and asking
// again is what helps.
const requestTime = 5 * time.Second

// Bucket opens one of the buckets beside the log. It returns ErrNoStream when Setup never made it, and ErrUnavailable when the server does not answer.
func (s *Store) Bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	kv, err := s.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("%w: bucket %s does not exist", ErrNoStream, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: open bucket %s: %w", ErrUnavailable, name, err)
	}
	return kv, nil
}

// CheckCopies says which of the region's streams and buckets fewer servers keep than replicas; Setup gives them more. It returns ErrUnavailable when the
// server does not answer.
func (s *Store) CheckCopies(ctx context.Context, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	var short []string
	for _, name := range []string{s.stream, FeedName(s.region), "KV_" + HeartbeatBucket, "KV_" + ExpiringBucket} {
		st, err := s.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // Open and Bucket say that
		}
		if err != nil {
			return fmt.Errorf("%w: look at stream %s: %w", ErrUnavailable, name, err)
		}
		if have := max(st.CachedInfo().Config.Replicas, 1); have < replicas {
			short = append(short, fmt.Sprintf("%s is kept by %d", name, have))
		}
	}
	if len(short) > 0 {
		return fmt.Errorf("%d servers are to keep each stream, and %s: 'vega setup' changes it", replicas, strings.Join(short, ", "))
	}
	return nil
}

// ErrNoStream is returned by Open when the region's streams were never made.
var ErrNoStream = errors.New("the event log is not set up")

// assertStreams checks the settings that the server returns, not those that were asked for.
func assertStreams(ctx context.Context, js jetstream.JetStream, r events.Region) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	st, err := js.Stream(ctx, StreamName(r))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: stream %s does not exist: run 'vega setup' with an administrator's credentials", ErrNoStream, StreamName(r))
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return fmt.Errorf("%w: look at stream %s: nobody answers for JetStream: the server has it off, or its cluster has no leader", ErrUnavailable, StreamName(r))
	}
	if err != nil {
		return fmt.Errorf("%w: look at stream %s: %w", ErrUnavailable, StreamName(r), err)
	}
	c := st.CachedInfo().Config
	var bad []string
	want := func(ok bool, what string) {
		if !ok {
			bad = append(bad, what)
		}
	}
	for _, subject := range events.StreamSubjects(r) {
		want(slices.Contains(c.Subjects, subject), fmt.Sprintf("subjects are %v, without %s: 'vega setup' adds it", c.Subjects, subject))
	}
	for _, subject := range c.Subjects { // a newer release may have added aggregates that this one does not know
		rest, under := strings.CutPrefix(subject, "vega."+string(r)+".")
		kind, all := strings.CutSuffix(rest, ".>")
		want(under && all && kind != "" && !strings.ContainsAny(kind, ".*>"), fmt.Sprintf("subjects are %v: %s would swallow requests", c.Subjects, subject))
	}
	want(c.Storage == jetstream.FileStorage, "storage is not file")
	want(c.DenyDelete, "messages can be deleted")
	want(c.DenyPurge, "the stream can be purged")
	want(!c.AllowRollup, "rollup is allowed")
	want(!c.AllowMsgTTL, "message TTL is allowed")
	want(c.AllowAtomicPublish, "atomic batches are off")
	want(c.AllowDirect, "direct reads are off")
	want(c.MaxMsgs <= 0 && c.MaxBytes <= 0 && c.MaxMsgsPerSubject <= 0 && c.MaxAge == 0, "it has limits that would drop events")
	want(c.Retention == jetstream.LimitsPolicy, "retention is not by limits")
	want(!c.Sealed, "it is sealed")
	if len(bad) > 0 {
		return fmt.Errorf("stream %s is not fit to be the event log: %s", StreamName(r), strings.Join(bad, "; "))
	}
	return nil
}
