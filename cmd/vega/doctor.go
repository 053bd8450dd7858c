package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"vega/config"
	"vega/config/secret"
	"vega/events/eventstore"
	"vega/projections"
	"vega/projections/postgres"
	"vega/services/api"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/llmproxy"
	"vega/services/llmproxy/price"
	"vega/services/worker"
)

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Try every part that this configuration stands on, and say what is wrong",
		Long: `Asks the event log, the database, the buckets, the queue, the sign-in and the provider of models that the configuration names, those that the role of VEGA_SERVICE_ROLE uses, as its process
would, and prints a line for each thing tried. In the buckets it puts, reads and deletes a few bytes; nothing else is changed, and the provider is asked for its list of models only. It exits 0 when everything works, and 1 otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			found := examine(cmd.Context(), cfg)
			if err := printFindings(cmd.OutOrStdout(), found, asJSON); err != nil {
				return err
			}
			bad := 0
			for _, f := range found {
				if f.Problem != "" {
					bad++
				}
			}
			if bad > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "vega: %d of %d checks failed\n", bad, len(found))
				return exitCode(exitUnhealthy)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// checkTime bounds the examination of one part.
const checkTime = 20 * time.Second

// examine tries one part after the other: those that the role's process uses.
func examine(ctx context.Context, cfg config.Config) []files.Finding {
	parts := []func(context.Context, config.Config) []files.Finding{examineFolder, examineLog, examineModel, examineReplica, examineFiles, examineQueue, examineSignIn, examineCodex, examineProvider}
	switch cfg.ServiceRole {
	case config.RoleWorker:
		parts = []func(context.Context, config.Config) []files.Finding{examineFolder, examineLog, examineFiles, examineQueue, examineCodex}
	case config.RoleMaintenance:
		parts = []func(context.Context, config.Config) []files.Finding{examineLog, examineFiles, examineQueue}
	case config.RoleLLMProxy:
		parts = []func(context.Context, config.Config) []files.Finding{examineLog, examineProvider}
	default:
	}
	var found []files.Finding
	for _, part := range parts {
		short, cancel := context.WithTimeout(ctx, checkTime)
		found = append(found, part(short, cfg)...)
		cancel()
	}
	return found
}

func finding(part, check, setting string, err error) files.Finding {
	f := files.Finding{Part: part, Check: check, Setting: setting}
	if err != nil {
		f.Problem = err.Error()
	}
	return f
}

func examineFolder(ctx context.Context, cfg config.Config) []files.Finding {
	part := "data folder " + cfg.DataDir
	err := os.MkdirAll(cfg.DataDir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(cfg.DataDir, ".doctor-*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	found := []files.Finding{finding(part, "takes files", "VEGA_DATA_DIR", err)}
	if err == nil {
		found = append(found, finding(part, "has room", "VEGA_DATA_DIR", api.FreeSpace(cfg.DataDir, uint64(cfg.Log.MinFree)).Run(ctx)))
	}
	return found
}

func examineLog(ctx context.Context, cfg config.Config) []files.Finding {
	const part = "event log"
	var nc *nats.Conn
	var err error
	setting := "VEGA_NATS_URL"
	if cfg.OneMachine() {
		setting = "VEGA_DATA_DIR"
		dir := filepath.Join(cfg.DataDir, "nats")
		if _, serr := os.Stat(filepath.Join(dir, "connection.json")); serr != nil {
			return []files.Finding{finding(part+" (embedded)", "starts with the API process", setting, nil)}
		}
		short, cancel := context.WithTimeout(ctx, healthTime)
		defer cancel()
		nc, err = eventstore.ConnectLocal(short, dir, func(error) {})
	} else {
		if nc, err = eventstore.Connect(cfg.Log.NATSURL.Reveal(), cfg.Log.NATSCreds); err != nil {
			if _, file := errors.AsType[*fs.PathError](err); file || cfg.Log.NATSCreds != "" && errors.Is(err, nats.ErrAuthorization) {
				setting = "VEGA_NATS_CREDS"
			}
			err = fmt.Errorf("%s: %w", cfg.Log.NATSURL, err)
		}
	}
	found := []files.Finding{finding(part, "answers", setting, err)}
	if err != nil {
		return found
	}
	defer nc.Close()
	s, err := eventstore.Open(ctx, nc, eventstore.Options{Region: cfg.Region})
	found = append(found, finding(part, "streams are there and as they should be", "VEGA_REGION", err))
	if err != nil {
		return found
	}
	defer s.Close()
	if cfg.ServiceRole != config.RoleLLMProxy { // which reads the log alone
		for _, bucket := range []string{eventstore.HeartbeatBucket, eventstore.ExpiringBucket} {
			_, err = s.Bucket(ctx, bucket)
			found = append(found, finding(part, "bucket "+bucket, setting, err))
		}
		if cfg.Log.Replicas > 1 {
			found = append(found, finding(part, fmt.Sprintf("is kept by %d servers", cfg.Log.Replicas), "VEGA_NATS_REPLICAS", s.CheckCopies(ctx, cfg.Log.Replicas)))
		}
	}
	return append(found, finding(part, "no event is missing", setting, s.Whole(ctx)))
}

func examineModel(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Projections.Backend != projections.BackendPostgres {
		return []files.Finding{finding("read models (json)", "lie in the data folder", "VEGA_PERSISTENCE_BACKEND", nil)}
	}
	const part = "Postgres"
	rows, err := postgres.Status(ctx, postgres.Options{Config: cfg.Projections, Log: slog.New(slog.DiscardHandler)})
	found := []files.Finding{finding(part, "answers", "VEGA_DATABASE_URL", err)}
	if err != nil {
		return found
	}
	pending := 0
	for _, r := range rows {
		if r.AppliedAt.IsZero() {
			pending++
		}
	}
	setting := "VEGA_DATABASE_AUTO_MIGRATE"
	switch {
	case pending == 0:
	case !cfg.Projections.Postgres.AutoMigrate:
		err = fmt.Errorf("%d migrations are pending, and VEGA_DATABASE_AUTO_MIGRATE is false: run 'vega migrate up'", pending)
	default:
		setting, err = "VEGA_DATABASE_URL", postgres.CheckRights(ctx, postgres.Options{Config: cfg.Projections, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			err = fmt.Errorf("%d migrations are pending: %w", pending, err)
		}
	}
	return append(found, finding(part, "tables", setting, err))
}

func examineReplica(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Projections.Backend != projections.BackendPostgres || cfg.Projections.Postgres.ReplicaURL.IsZero() {
		return nil
	}
	err := postgres.CheckReplica(ctx, postgres.Options{Config: cfg.Projections, Log: slog.New(slog.DiscardHandler)})
	return []files.Finding{finding("Postgres replica", "answers", "VEGA_DATABASE_REPLICA_URL", err)}
}

func examineFiles(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Files.Backend != files.BackendS3 {
		return []files.Finding{finding("file storage (local)", "lies in the data folder", "VEGA_FILE_STORAGE_BACKEND", nil)}
	}
	store, err := files.OpenS3(ctx, cfg.Files.S3, files.S3Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return []files.Finding{finding("S3", "configuration", "VEGA_S3_SOURCE_BUCKET", err)}
	}
	return store.Check(ctx)
}

func examineQueue(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Dispatch.Mode != dispatch.ModeSQS {
		return nil
	}
	client, err := dispatch.NewSQSClient(ctx, cfg.Dispatch.QueueURL)
	if err == nil {
		_, err = dispatch.SQSDepth(ctx, client, cfg.Dispatch.QueueURL)
	}
	setting := "VEGA_SCAN_QUEUE_URL"
	if e, explained := errors.AsType[*dispatch.QueueError](err); explained {
		setting = e.Setting
	}
	return []files.Finding{finding("SQS queue", "answers", setting, err)}
}

func examineSignIn(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Auth.Provider != auth.ProviderCognito {
		return []files.Finding{finding("sign-in (custom)", "configured", "VEGA_AUTH_PROVIDER", nil)}
	}
	c, err := auth.NewCognito(ctx, auth.CognitoOptions{Config: cfg.Auth.Cognito, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = c.Check(ctx)
	}
	return []files.Finding{finding("Cognito", "publishes its keys", "VEGA_COGNITO_JWKS_URL", err)}
}

// examineCodex asks for the engine's parts, where this role's process runs scans and a model is within reach.
func examineCodex(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.Worker.RunMode == worker.RunECS || cfg.ServiceRole == config.RoleAPI && cfg.Dispatch.Mode != dispatch.ModeThread {
		return nil
	}
	const part = "engine v16"
	cfg.Engine.MaskSecret = secret.New("not used for anything here")
	eng, err := engine.New(cfg.Engine, engineOptions(slog.New(slog.DiscardHandler)))
	found := []files.Finding{finding(part, "pack is valid", "VEGA_V16_ROOT", err)}
	if err != nil || len(cfg.Engine.ModelAccess.Missing) > 0 {
		return found
	}
	return append(found, finding("Codex", "runs", "VEGA_V16_CODEX_BIN", eng.CheckCodex(ctx)))
}

// examineProvider asks the provider of models, where this role's process would.
func examineProvider(ctx context.Context, cfg config.Config) []files.Finding {
	if cfg.ServiceRole != config.RoleLLMProxy && (!cfg.OneMachine() || cfg.LLM.BaseURL != "" || len(cfg.Engine.ModelAccess.Missing) > 0) {
		return nil
	}
	const part = "provider of models"
	setting, err := llmproxy.Check(ctx, cfg.LLM)
	found := []files.Finding{finding(part, "answers", setting, err)}
	if cfg.LLM.PricesFile != "" {
		_, err := price.Load(cfg.LLM.PricesFile)
		found = append(found, finding(part, "prices can be read", "VEGA_LLM_PROXY_PRICES_FILE", err))
	}
	return found
}

func printFindings(w io.Writer, found []files.Finding, asJSON bool) error {
	if asJSON {
		type line struct {
			Part    string `json:"part"`
			Check   string `json:"check"`
			OK      bool   `json:"ok"`
			Problem string `json:"problem,omitempty"`
			Setting string `json:"setting,omitempty"`
		}
		lines := []line{}
		for _, f := range found {
			lines = append(lines, line{f.Part, f.Check, f.Problem == "", f.Problem, f.Setting})
		}
		return json.NewEncoder(w).Encode(struct {
			Checks []line `json:"checks"`
		}{lines})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range found {
		said := "ok"
		if f.Problem != "" {
			said = "PROBLEM  " + f.Problem
			if !strings.Contains(f.Problem, f.Setting) {
				said += " (" + f.Setting + ")"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Part, cmp.Or(f.Check, "-"), said)
	}
	return t.Flush()
}
