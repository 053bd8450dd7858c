package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"vega/config/secret"
	"vega/events/eventstore"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/services/api"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/files"
	"vega/services/intake"
)

// What the API stands on, from the log up. A process serves it with api.Serve; here one request is answered without a network.
func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 200 {"status":"ok","version":"1.2.3","region":"local"}
	// 401 {"schema_version":1,"error":{"code":"unauthenticated","message":"this needs a bearer token or an API key","retryable":false,"details":{}}}
}

func example() error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)

	nats, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: filepath.Join(dir, "nats")})
	if err != nil {
		return err
	}
	defer nats.Stop()
	nc, err := nats.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if err := eventstore.Setup(ctx, js, "local", 1); err != nil {
		return err
	}
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "local"})
	if err != nil {
		return err
	}
	defer store.Close()
	model, err := jsonfile.Open(filepath.Join(dir, "read-models"))
	if err != nil {
		return err
	}
	defer model.Close()
	runner, err := projections.NewRunner(ctx, store, model, log)
	if err != nil {
		return err
	}
	objects, err := files.Open(filepath.Join(dir, "files"))
	if err != nil {
		return err
	}
	archives, err := intake.Open(intake.Config{MaxSourceBytes: 1 << 20, MaxEntries: 100, MaxUncompressedBytes: 4 << 20, MaxRatio: 200, Timeout: time.Minute, Slots: 1},
		filepath.Join(dir, "intake"), log)
	if err != nil {
		return err
	}
	signIn, err := auth.NewCustom(ctx, store, auth.CustomOptions{Secret: secret.New("what signs the tokens"),
		Accounts: []auth.Account{{Email: "debug@example.com", Password: secret.New("vega-debug-password"), Admin: true}}})
	if err != nil {
		return err
	}

	server, err := api.New(api.Deps{
		Config: api.Config{AppName: "Vega", Prefix: "/v1"}, Store: store, Model: model, Runner: runner, Admission: dispatch.NewAdmission(store, 4), Auth: signIn,
		Files: objects, Intake: archives, Fleet: api.FleetFunc(func(context.Context) ([]api.Worker, error) { return nil, nil }), MaxAttempts: 3,
		Checks: []api.Check{api.FreeSpace(dir, 1)}, Log: log, Metrics: prometheus.NewRegistry(), Version: "1.2.3",
	})
	if err != nil {
		return err
	}
	for _, path := range []string{"/healthz", "/v1/projects"} {
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, "GET", path, nil))
		fmt.Printf("%d %s", answer.Code, answer.Body)
	}
	return nil
}
