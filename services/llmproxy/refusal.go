package llmproxy

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"vega/services/llmproxy/wire"
)

// refusal is what the agent is told instead of the provider's answer.
type refusal struct {
	status  int // 0: 400, after which no agent tries again
	code    string
	message string
	body    []byte        // instead of code and message: the provider's own words
	after   time.Duration // Retry-After; 0: none
}

func (r *refusal) Error() string { return r.message }

// final says that the agent should not try again.
func (r *refusal) final() bool { return r.status == 0 || r.status == http.StatusBadRequest }

// What can go wrong with a call beside refusals.
var (
	errBusy      = errors.New("too many calls of this scan wait already")
	errHeld      = errors.New("other calls of this scan hold what is left under its caps; try again when they have ended")
	errAgentGone = errors.New("the agent went away")
	errSilent    = errors.New("the provider was silent for too long")
	errCutOff    = errors.New("the provider's answer was cut off")
)

// refusalOf is the one place that says what an error is to the agent.
func refusalOf(err error) *refusal {
	if no, ok := errors.AsType[*refusal](err); ok {
		return no
	}
	if no, ok := errors.AsType[*wire.Refusal](err); ok {
		return &refusal{code: no.Code, message: no.Message}
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{code: "vega_request_too_large", message: "the request is larger than " + strconv.FormatInt(big.Limit, 10) + " bytes (VEGA_LLM_PROXY_MAX_REQUEST_BYTES)"}
	}
	switch {
	case errors.Is(err, ErrBadToken):
		return &refusal{code: "vega_bad_token", message: ErrBadToken.Error()}
	case errors.Is(err, errBusy):
		return &refusal{status: http.StatusServiceUnavailable, code: "vega_busy", message: errBusy.Error(), after: time.Second}
	case errors.Is(err, errHeld):
		return &refusal{status: http.StatusServiceUnavailable, code: "vega_scan_cap_held", message: errHeld.Error(), after: 5 * time.Second}
	case errors.Is(err, errClosing):
		return &refusal{status: http.StatusServiceUnavailable, code: "vega_stopping", message: errClosing.Error(), after: time.Second}
	case errors.Is(err, errNoLog):
		return &refusal{status: http.StatusServiceUnavailable, code: "vega_unavailable", message: errNoLog.Error(), after: 2 * time.Second}
	case errors.Is(err, errSilent):
		return &refusal{status: http.StatusGatewayTimeout, code: "vega_provider_silent", message: errSilent.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, errAgentGone):
		return &refusal{status: 499, code: "vega_agent_gone", message: errAgentGone.Error()} // nobody reads it
	}
	return &refusal{status: http.StatusBadGateway, code: "vega_provider_unavailable", message: "the call could not be forwarded"}
}

// answer writes a refusal as the provider would.
func answer(w http.ResponseWriter, no *refusal) {
	body := no.body
	if body == nil {
		body = wire.ErrorBody(no.code, no.message)
	}
	if no.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(no.after.Round(time.Second)/time.Second))))
	}
	w.Header().Set("Content-Type", "application/json")
	status := no.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // an agent that is gone reads nothing
}
