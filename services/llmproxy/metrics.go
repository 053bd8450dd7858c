package llmproxy

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vega/events"
	"vega/services/llmproxy/wire"
)

// metrics of a proxy. Labels are bounded: endpoints, codes of refusals, names of caps.
type metrics struct {
	calls         *prometheus.CounterVec
	answers       *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	tokens        *prometheus.CounterVec
	cost          prometheus.Counter
	denied        *prometheus.CounterVec
	retries       prometheus.Counter
	estimated     prometheus.Counter
	estimatedCost prometheus.Counter
	alarm         *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	by := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		calls: by("vega_llm_provider_calls_total", "Calls made to the provider, repetitions included.", "endpoint"),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vega_llm_answers_total", Help: "Calls of agents answered, by what became of them: ok, or a refusal's code."},
			[]string{"endpoint", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vega_llm_call_seconds", Help: "Time from a call's token to the end of its answer.",
			Buckets: []float64{.005, .025, .1, .5, 1, 5, 15, 60, 300, 1800}}, []string{"endpoint"}),
		tokens:        by("vega_llm_tokens_total", "Tokens that the provider said were used: input, of which cached_input; output, of which reasoning.", "kind"),
		cost:          counter("vega_llm_cost_usd_total", "Estimated cost of what the provider said was used, in US dollars."),
		denied:        by("vega_llm_denied_total", "Calls that a cap of their scan forbade.", "cap"),
		retries:       counter("vega_llm_retries_total", "Repetitions of calls that the provider could not take."),
		estimated:     counter("vega_llm_estimated_total", "Calls that were charged as reserved because the provider did not say what they cost."),
		estimatedCost: counter("vega_llm_estimated_cost_usd_total", "What those calls were charged, in US dollars; it is not in vega_llm_cost_usd_total."),
		alarm: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vega_llm_provider_alarm", Help: "1 while the provider refuses what only an operator can mend, by the code that agents are told: its key, its quota, its address."},
			[]string{"problem"}),
	}
	if reg == nil {
		return m, nil
	}
	var failed error
	for _, c := range []prometheus.Collector{m.calls, m.answers, m.seconds, m.tokens, m.cost, m.denied, m.retries, m.estimated, m.estimatedCost, m.alarm} {
		failed = errors.Join(failed, reg.Register(c))
	}
	return m, failed
}

// observe counts an agent's call by its end.
func (m *metrics) observe(e wire.Endpoint, err error, took time.Duration) {
	if err != nil {
		m.refused(e, refusalOf(err).code)
		return
	}
	m.answers.WithLabelValues(string(e), "ok").Inc()
	m.seconds.WithLabelValues(string(e)).Observe(took.Seconds())
	m.alarm.Reset()
}

func (m *metrics) refused(e wire.Endpoint, code string) {
	m.answers.WithLabelValues(string(e), code).Inc()
}

func (m *metrics) spent(u events.Usage) {
	for kind, n := range map[string]int64{"input": u.InputTokens, "cached_input": u.CachedInputTokens, "output": u.OutputTokens, "reasoning": u.ReasoningTokens} {
		m.tokens.WithLabelValues(kind).Add(float64(n))
	}
	m.cost.Add(float64(u.CostNanoUSD) / 1e9)
}
