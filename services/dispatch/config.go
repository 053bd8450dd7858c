package dispatch

// Config says how a queued scan reaches a worker.
type Config struct {
	// Mode is how scans are handed out. In a process of the worker role it is never ModeThread: config makes that ModeExternal.
	Mode Mode `env:"VEGA_SCAN_EXECUTION_MODE, default=thread" oneof:"thread external sqs" doc:"How scans reach a worker: thread runs them inside the API process, external leaves them to separately running workers, sqs sends each to the queue that workers poll. A worker that sees thread behaves as external. Never use thread in production."`

	// QueueURL is the SQS queue; needed in ModeSQS.
	QueueURL string `env:"VEGA_SCAN_QUEUE_URL" form:"http-url" doc:"SQS queue URL. Required when VEGA_SCAN_EXECUTION_MODE=sqs."`

	// MaxActivePerUser is the most scans of one user that may be unfinished at a time.
	MaxActivePerUser int `env:"VEGA_MAX_ACTIVE_SCANS_PER_USER, default=4" min:"1" max:"1000" doc:"Maximum concurrent scans for a single user, queued ones included."`
}

// Mode is how a queued scan reaches a worker.
type Mode string

const (
	ModeThread   Mode = "thread"   // worker slots inside the API process
	ModeExternal Mode = "external" // separate workers pull from the log
	ModeSQS      Mode = "sqs"      // separate workers poll an SQS queue that a bridge fills
)
