package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vega/events"
)

// metrics of the API. Labels are bounded: route patterns, methods, statuses.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  prometheus.Gauge
	uploads  prometheus.Gauge
	refused  *prometheus.CounterVec
	handler  http.Handler
}

func newMetrics(reg *prometheus.Registry, s *Server) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vega_http_requests_total", Help: "Requests answered."}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vega_http_request_seconds", Help: "Time to answer a request; a stream counts until its end.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}}, []string{"method", "route"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vega_http_streams", Help: "Live event streams that are open."}),
		uploads: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vega_http_uploads", Help: "Uploads that are coming in or being checked."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vega_auth_refused_total", Help: "Tokens that were not accepted, by the class of what was wrong with them."}, []string{"reason"}),
		handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}
	position := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vega_read_model_sequence", Help: "Last event that the read model has."}, func() float64 { return float64(s.Runner.At()) })
	skipped := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vega_read_model_skipped_events", Help: "Events of newer releases that the read model left out since the start."}, func() float64 { return float64(s.Runner.Skipped()) })
	leads := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vega_read_model_leads", Help: "1 when this process is the one that brings events into the read model."}, func() float64 {
		if s.Runner.Leads() {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.streams, m.uploads, m.refused, position, skipped, leads, modelCollector{s}} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(c *call, status int, took time.Duration) {
	method := c.method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, c.route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method, c.route).Observe(took.Seconds())
}

// modelCollector asks the log and the read model when it is asked. What does not answer is left out, so that one outage does not hide the rest.
type modelCollector struct{ s *Server }

var (
	queueDesc = prometheus.NewDesc("vega_scans_queued", "Scans that wait for a worker.", []string{"priority"}, nil)
	lagDesc   = prometheus.NewDesc("vega_read_model_lag_events", "Events of the log that the read model does not have yet.", nil, nil)
	upDesc    = prometheus.NewDesc("vega_read_model_up", "1 when the read model answers.", nil, nil)
)

// Describe and Collect make it a prometheus.Collector.
func (modelCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- queueDesc
	ch <- lagDesc
	ch <- upDesc
}

// Collect asks.
func (q modelCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if info, err := q.s.Store.Info(ctx); err == nil {
		at := q.s.Runner.At()
		ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(max(info.Last, at)-at))
	}
	n, err := q.s.Model.Queue(ctx)
	if err != nil {
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, 1)
	for _, p := range events.Priorities() {
		ch <- prometheus.MustNewConstMetric(queueDesc, prometheus.GaugeValue, float64(n[p]), string(p))
	}
}

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}
