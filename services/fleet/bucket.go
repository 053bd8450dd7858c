package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

const bucketStream = "KV_" + eventstore.HeartbeatBucket

// Bucket tells whether the heartbeat bucket is still the one that it was: another Created, or a Last that went back, means that it was lost and
// made again, and that entries of living workers may be missing from it.
type Bucket struct {
	Created time.Time
	Last    uint64 // revision of its last write
}

// Succeeds says that b, looked at later, is what before has become, with nothing lost.
func (b Bucket) Succeeds(before Bucket) bool {
	return b.Created.Equal(before.Created) && b.Last >= before.Last
}

// ErrNoBucket is returned when the heartbeat bucket is gone. eventstore.EnsureHeartbeats makes it again.
var ErrNoBucket = errors.New("the heartbeat bucket is gone")

// LookAtBucket returns how the bucket stands. It returns ErrNoBucket, or eventstore.ErrUnavailable when the server does not answer.
func LookAtBucket(ctx context.Context, store *eventstore.Store) (Bucket, error) {
	st, err := store.JetStream().Stream(ctx, bucketStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Bucket{}, ErrNoBucket
	}
	if err != nil {
		return Bucket{}, fmt.Errorf("look at the heartbeat bucket: %w: %w", eventstore.ErrUnavailable, err)
	}
	info := st.CachedInfo()
	return Bucket{info.Created, info.State.LastSeq}, nil
}

// Beating says whether a worker's entry is there, as the bucket's leader has it: a follower may be behind and know nothing of an entry that was just
// made anew. It returns ErrNoBucket, or eventstore.ErrUnavailable when the leader does not answer.
func Beating(ctx context.Context, store *eventstore.Store, id events.WorkerID) (bool, error) {
	header, found, err := lastEntry(ctx, store, id)
	// What expired or was removed leaves a marker for a while.
	return found.Sequence > 0 && header.Get("Nats-Marker-Reason") == "" && header.Get("KV-Operation") == "", err
}

type entry struct {
	Sequence uint64 `json:"seq"`
	Header   []byte `json:"hdrs"`
}

// lastEntry reads a worker's entry from the bucket's leader; sequence 0 means that there is none.
func lastEntry(ctx context.Context, store *eventstore.Store, id events.WorkerID) (nats.Header, entry, error) {
	query, err := json.Marshal(map[string]string{"last_by_subj": entrySubject(id)})
	if err != nil {
		return nil, entry{}, err
	}
	m, err := store.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+bucketStream, query)
	if err != nil {
		return nil, entry{}, fmt.Errorf("read heartbeat of %s: %w: %w", id, eventstore.ErrUnavailable, err)
	}
	var v struct {
		Error   *jetstream.APIError `json:"error"`
		Message entry               `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &v); err != nil {
		return nil, entry{}, fmt.Errorf("read heartbeat of %s: %w: %w", id, eventstore.ErrUnavailable, err)
	}
	if v.Error != nil {
		switch v.Error.ErrorCode {
		case jetstream.JSErrCodeMessageNotFound:
			return nil, entry{}, nil
		case jetstream.JSErrCodeStreamNotFound:
			return nil, entry{}, ErrNoBucket
		default:
			return nil, entry{}, fmt.Errorf("read heartbeat of %s: %w: %w", id, eventstore.ErrUnavailable, v.Error)
		}
	}
	header := nats.Header{}
	if len(v.Message.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(v.Message.Header); err != nil {
			return nil, entry{}, fmt.Errorf("read heartbeat of %s: %w", id, err)
		}
	}
	return header, v.Message, nil
}

func entrySubject(id events.WorkerID) string {
	return "$KV." + eventstore.HeartbeatBucket + "." + string(id)
}
