package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/dispatch/queuetest"
	"vega/services/dispatch/sqstest"
)

// depth is what an SQS queue has, all together.
func depth(tb testing.TB, server *sqstest.Server, url string) int {
	tb.Helper()
	d, err := dispatch.SQSDepth(tb.Context(), server.Client(), url)
	if err != nil {
		tb.Fatal(err)
	}
	return d.Visible + d.InFlight + d.Delayed
}

func receive(tb testing.TB, server *sqstest.Server, url string) []types.Message {
	tb.Helper()
	out, err := server.Client().ReceiveMessage(tb.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: aws.String(url), MaxNumberOfMessages: 10, WaitTimeSeconds: 5, MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out.Messages
}

// queueTraced queues a scan as part of a trace.
func queueTraced(tb testing.TB, store *eventstore.Store, id events.ScanID, trace string) events.Recorded {
	tb.Helper()
	m := meta("traced")
	m.Trace = trace
	rec, err := store.Append(tb.Context(), events.ScanOf(store.Region(), id), events.Head{}, m,
		events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "user_a", Priority: events.High, MaxAttempts: 3})
	if err != nil {
		tb.Fatal(err)
	}
	return rec[0]
}

func TestTheBridgeSaysWhatAWorkerNeeds(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	for _, fifo := range []bool{false, true} {
		t.Run(fmt.Sprintf("fifo %v", fifo), func(t *testing.T) {
			t.Parallel()
			store := natstest.Open(t)
			url, _ := server.Queue(t, sqstest.Options{FIFO: fifo})
			ensure(t, store, dispatch.ModeSQS, 0)
			queuetest.Start(t, bridge{dispatch.NewBridge(store, server.Client(), url, quiet())})
			const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
			ready := queueTraced(t, store, "scan_test_traced", trace)
			got := receive(t, server, url)
			if len(got) != 1 {
				t.Fatalf("%d messages, want 1", len(got))
			}
			var body map[string]any
			if err := json.Unmarshal([]byte(aws.ToString(got[0].Body)), &body); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"v": 1, "region": "test", "scan_id": "scan_test_traced", "sequence": ready.Seq, "attempt": 1, "priority": "high", "traceparent": trace}
			if fmt.Sprint(body) != fmt.Sprint(want) {
				t.Errorf("body %v, want %v", body, want)
			}
			if a := got[0].MessageAttributes["traceparent"]; aws.ToString(a.StringValue) != trace {
				t.Errorf("attribute traceparent %q", aws.ToString(a.StringValue))
			}
			group, once := got[0].Attributes["MessageGroupId"], got[0].Attributes["MessageDeduplicationId"]
			if fifo && (group != "scan_test_traced" || once != fmt.Sprint("scan_test_traced-", ready.Seq)) {
				t.Errorf("group %q, deduplication id %q", group, once)
			}
		})
	}
}

func TestScansWaitWhileSQSIsDownAndFlowWhenItIsBack(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	url, _ := server.Queue(t, sqstest.Options{})
	ensure(t, store, dispatch.ModeSQS, 0)
	var log journal
	b := dispatch.NewBridge(store, server.Client(), url, log.logger())
	receiver := dispatch.NewSQS(store, server.Client(), url, dispatch.SQSOptions{}, log.logger())
	queuetest.Start(t, bridge{b})
	w := queuetest.Work(t, store, queuetest.Start(t, receiver), 4)
	queuetest.Create(t, store, 0, 5, events.Normal)
	w.WaitClaimed(t, 5)
	if b.Err() != nil || receiver.Err() != nil {
		t.Errorf("while it is up: %v, %v", b.Err(), receiver.Err())
	}

	server.Stop(t)
	queuetest.Create(t, store, 5, 45, events.Normal)
	until(t, "both notice", func() bool { return b.Err() != nil && receiver.Err() != nil })
	if err := b.Err(); !strings.HasPrefix(err.Error(), "queued scans wait in the log because SQS does not take them: ") {
		t.Errorf("Err() = %q", err)
	}
	lanes, err := dispatch.Lanes(t.Context(), store, dispatch.ModeSQS)
	if err != nil || lanes[0].Waiting+lanes[0].InFlight != 40 {
		t.Errorf("lanes %+v, %v: want 40 scans kept", lanes, err)
	}

	server.Restart(t)
	w.WaitClaimed(t, 45)
	until(t, "all is well", func() bool { return b.Err() == nil && receiver.Err() == nil })
	for line, want := range map[string]int{`"SQS did not answer" part=bridge`: 1, `"SQS answered again" part=bridge`: 1, `"SQS did not answer" part=receiver`: 1, `"SQS answered again" part=receiver`: 1} {
		if n := log.count(line); n != want {
			t.Errorf("logged %q %d times, want %d", line, n, want)
		}
	}
}

func TestWhatIsNotOursGoesTheWayOfTheRedrivePolicy(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	queuetest.Create(t, store, 0, 1, events.Normal) // sequence 1
	others := natstestOther(t, store)               // sequence 2 is no scan's
	url, dead := server.Queue(t, sqstest.Options{MaxReceive: 2})
	foreign := []string{
		"",
		"not json",
		`{"job":"of somebody else"}`,
		`{"v":2,"region":"test","scan_id":"scan_test_000000","sequence":1}`,
		`{"v":1,"region":"elsewhere","scan_id":"scan_elsewhere_1","sequence":1}`,
		`{"v":1,"region":"test","scan_id":"../../etc","sequence":1}`,
		`{"v":1,"region":"test","scan_id":"scan_test_000000","sequence":0}`,
		`{"v":1,"region":"test","scan_id":"scan_test_000000","sequence":-1}`,
		`{"v":1,"region":"test","scan_id":"scan_test_unknown","sequence":1}`,
		fmt.Sprintf(`{"v":1,"region":"test","scan_id":"scan_test_000000","sequence":%d}`, others),
		`{"v":1,"region":"test","scan_id":"scan_test_000000","sequence":99999999}`,
	}[1:] // SQS takes no empty ones
	for _, body := range foreign {
		if _, err := server.Client().SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(url), MessageBody: aws.String(body)}); err != nil {
			t.Fatal(err)
		}
	}
	var log journal
	q := dispatch.NewSQS(store, server.Client(), url, dispatch.SQSOptions{Rest: time.Second}, log.logger())
	w := queuetest.Work(t, store, queuetest.Start(t, q), 4)
	until(t, "all are in the dead-letter queue", func() bool { return depth(t, server, dead) == len(foreign) })
	if n := log.count("left to the queue's redrive policy"); n != len(foreign) {
		t.Errorf("%d reasons were logged, want %d", n, len(foreign))
	}
	if w.Hints() != 0 {
		t.Errorf("%d of them were brought to a slot", w.Hints())
	}
	// Between them the scans go on.
	ensure(t, store, dispatch.ModeSQS, 0)
	queuetest.Start(t, bridge{dispatch.NewBridge(store, server.Client(), url, quiet())})
	w.WaitClaimed(t, 1)
}

// natstestOther stores an event that is no scan's and returns where.
func natstestOther(tb testing.TB, store *eventstore.Store) events.Seq {
	tb.Helper()
	rec, err := store.Append(tb.Context(), events.SlotsOf(store.Region(), "user_b"), events.Head{}, meta("other"), events.Slots{User: "user_b"})
	if err != nil {
		tb.Fatal(err)
	}
	return rec[0].Seq
}

func TestAHeldMessageStaysHidden(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	url, _ := server.Queue(t, sqstest.Options{})
	ensure(t, store, dispatch.ModeSQS, 0)
	queuetest.Start(t, bridge{dispatch.NewBridge(store, server.Client(), url, quiet())})
	opt := dispatch.SQSOptions{Visibility: 2 * time.Second}
	mine := queuetest.Start(t, dispatch.NewSQS(store, server.Client(), url, opt, quiet()))
	queuetest.Create(t, store, 0, 1, events.Normal)
	h := next(t, mine)
	other := queuetest.Start(t, dispatch.NewSQS(store, server.Client(), url, opt, quiet()))
	nothing(t, other, 2*opt.Visibility+time.Second)
	mine.Done(h)
	until(t, "it is deleted", func() bool { return depth(t, server, url) == 0 })
}

func TestMessagesAreAskedForOnlyWhileSlotsWait(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	url, _ := server.Queue(t, sqstest.Options{})
	ensure(t, store, dispatch.ModeSQS, 0)
	queuetest.Start(t, bridge{dispatch.NewBridge(store, server.Client(), url, quiet())})
	q := queuetest.Start(t, dispatch.NewSQS(store, server.Client(), url, dispatch.SQSOptions{}, quiet()))
	queuetest.Create(t, store, 0, 30, events.Normal)
	until(t, "all are sent", func() bool { return depth(t, server, url) == 30 })
	held := []dispatch.Hint{next(t, q), next(t, q)}
	d, err := dispatch.SQSDepth(t.Context(), server.Client(), url)
	if want := (dispatch.QueueDepth{Visible: 28, InFlight: 2}); err != nil || d != want {
		t.Errorf("with two slots: %+v, %v, want %+v", d, err, want)
	}
	for _, h := range held {
		q.Retry(h)
	}
	w := queuetest.Work(t, store, q, 8)
	w.WaitClaimed(t, 30)
}

func TestNoMessageIsReceivedWhileTheLogIsAway(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	natsURL := natstest.Listen(t)
	home := natstest.OpenOver(t, natstest.Dial(t, natsURL))
	proxy := natstest.NewProxy(t, natsURL)
	far := natstest.OpenOver(t, natstest.Dial(t, proxy.URL))
	url, dead := server.Queue(t, sqstest.Options{MaxReceive: 1})
	ensure(t, home, dispatch.ModeSQS, 0)
	queuetest.Start(t, bridge{dispatch.NewBridge(home, server.Client(), url, quiet())})
	proxy.Close()
	until(t, "the worker has lost the log", func() bool { return !far.Conn().IsConnected() })
	q := queuetest.Start(t, dispatch.NewSQS(far, server.Client(), url, dispatch.SQSOptions{}, quiet()))
	queuetest.Create(t, home, 0, 10, events.Normal)
	nothing(t, q, 2*time.Second)
	proxy.Open(t)
	w := queuetest.Work(t, far, q, 4)
	w.WaitClaimed(t, 10)
	if n := depth(t, server, dead); n != 0 {
		t.Errorf("%d messages were given up on", n)
	}
}

// TestSwitchingTheModeLosesNoScan goes through the modes with scans waiting in each, and finally lets workers have what is left.
func TestSwitchingTheModeLosesNoScan(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	sqsMode := sqsSystem(sqstest.Start(t), false)
	const each = 30
	made := 0
	won := 0
	// oldest is one before the oldest scan that waits, as the read model knows it.
	oldest := func() events.Seq {
		info, err := store.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		after := info.Last
		for i := range made {
			last, _, err := store.LoadLast(t.Context(), events.ScanOf(store.Region(), queuetest.ID(i)))
			if err != nil {
				t.Fatal(err)
			}
			if last.Kind == "scan.queued" {
				after = min(after, last.Seq-1)
			}
		}
		return after
	}
	modes := []queuetest.System{localSystem(), externalSystem(), sqsMode, externalSystem(), localSystem(), sqsMode, externalSystem()}
	for i, system := range modes {
		queuetest.Create(t, store, made, made+each, events.Priorities()[i%3])
		made += each
		t.Run(fmt.Sprint(i), func(t *testing.T) { // what runs ends with it
			var w *queuetest.Worker
			t.Cleanup(func() { won += w.Won() }) // after its slots have stopped: cleanups run last to first
			open := system.Deploy(t, store, oldest())
			w = queuetest.Work(t, store, queuetest.Start(t, open()), 2)
			if i == len(modes)-1 {
				w.WaitClaimed(t, made-won)
			} else {
				w.WaitClaimed(t, each/3) // the rest waits for the next mode
			}
		})
	}
	if won != made {
		t.Errorf("%d claims stored for %d scans", won, made)
	}
}

func TestTheBridgeSaysThatItsConsumerIsMissing(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	url, _ := server.Queue(t, sqstest.Options{})
	b := dispatch.NewBridge(store, server.Client(), url, quiet())
	queuetest.Start(t, bridge{b})
	until(t, "it says so", func() bool { return b.Err() != nil })
	queuetest.Create(t, store, 0, 1, events.Normal)
	ensure(t, store, dispatch.ModeSQS, 0)
	until(t, "the scan is sent", func() bool { return depth(t, server, url) == 1 })
	if err := b.Err(); err != nil {
		t.Errorf("Err() = %v", err)
	}
}

func TestTheRegionIsReadFromTheQueueURL(t *testing.T) {
	// Not parallel: the SDK reads the environment.
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	for url, want := range map[string]string{
		"https://sqs.eu-west-1.amazonaws.com/123456789012/scans":      "eu-west-1 <nil>",
		"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/scans":  "cn-north-1 <nil>",
		"https://eu-central-1.queue.amazonaws.com/123456789012/scans": "eu-central-1 <nil>",
		"http://127.0.0.1:4566/000000000000/scans":                    "us-east-1 http://127.0.0.1:4566",
		"https://queue.amazonaws.com/123456789012/scans":              "no AWS region: the queue URL names none, set AWS_REGION",
		"scans": `SQS queue URL "scans" is not a URL`,
	} {
		c, err := dispatch.NewSQSClient(t.Context(), url)
		got := fmt.Sprint(err)
		if err == nil {
			o := c.Options()
			got = o.Region + " <nil>"
			if o.BaseEndpoint != nil {
				got = o.Region + " " + *o.BaseEndpoint
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
	t.Setenv("AWS_REGION", "ap-south-1")
	t.Setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
	c, err := dispatch.NewSQSClient(t.Context(), "https://sqs.eu-west-1.amazonaws.com/123456789012/scans")
	if err != nil || c.Options().Region != "ap-south-1" || aws.ToString(c.Options().BaseEndpoint) != "http://127.0.0.1:9" {
		t.Errorf("the SDK's variables do not win: %v", err)
	}
}

func TestNoErrorOfSQSHoldsACredential(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	store := natstest.Open(t)
	url, _ := server.Queue(t, sqstest.Options{})
	var log journal
	q := dispatch.NewSQS(store, server.Client(), url+"-gone", dispatch.SQSOptions{}, log.logger())
	queuetest.Start(t, q)
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	asking.Go(func() { _, _ = q.Next(ctx) })
	until(t, "it is refused", func() bool { return q.Err() != nil })
	stop()
	asking.Wait()
	for _, secret := range []string{"test-access-key", "test-secret-key"} {
		if strings.Contains(q.Err().Error(), secret) || log.count(secret) > 0 {
			t.Errorf("%q is shown: %v", secret, q.Err())
		}
	}
	if !strings.Contains(q.Err().Error(), "of VEGA_SCAN_QUEUE_URL does not exist") {
		t.Errorf("Err() = %v, want the reason", q.Err())
	}
}
