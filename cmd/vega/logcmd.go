package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"vega/config"
	"vega/events/eventstore"
)

func newSetupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Make the streams and buckets on the NATS server of VEGA_NATS_URL",
		Long: `Makes what is missing of the region's streams and buckets, with the credentials of VEGA_NATS_CREDS, which must be an
administrator's. The roles themselves then run with credentials that cannot change them. Running it again changes only the
number of replicas. The embedded server needs no setup: it is done at every start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadPart(cmd.ErrOrStderr(), "VEGA_NATS_", "VEGA_REGION", dotenv)
			if err != nil {
				return err
			}
			if cfg.OneMachine() {
				return errors.New("VEGA_NATS_URL is not set: the embedded server sets itself up at every start")
			}
			return withLog(cmd.Context(), cfg, func(ctx context.Context, nc *nats.Conn) error {
				js, err := jetstream.New(nc)
				if err != nil {
					return err
				}
				if err := eventstore.Setup(ctx, js, cfg.Region, cfg.Log.Replicas); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "streams and buckets of region %s are ready\n", cfg.Region)
				return err
			})
		},
	}
}

func newLogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Back up, restore and verify the event log",
		Long: `Works on the log that the configuration names: the server of VEGA_NATS_URL, or the embedded one under VEGA_DATA_DIR, which
must not be running then.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:     "backup FILE",
			Short:   "Write every event to FILE (- for stdout), checking all hash chains on the way",
			Example: "  vega log backup vega-events.jsonl",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return withStore(cmd, false, func(ctx context.Context, s *eventstore.Store) error {
					return backup(ctx, s, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
				})
			},
		},
		&cobra.Command{
			Use:   "restore FILE",
			Short: "Fill an empty log from a backup (- for stdin)",
			Long: `Puts every event back where it was and checks all hash chains. The log must be empty. The read models of the old log do not fit
the restored one: remove the folder readmodels under VEGA_DATA_DIR, and they are built anew at the next start.`,
			Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return withStore(cmd, true, func(ctx context.Context, s *eventstore.Store) error {
					return restore(ctx, s, args[0], cmd.InOrStdin(), cmd.ErrOrStderr())
				})
			},
		},
		&cobra.Command{
			Use:   "verify",
			Short: "Check that no event is missing and every hash chain holds",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withStore(cmd, false, func(ctx context.Context, s *eventstore.Store) error {
					v, err := eventstore.Verify(ctx, s)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d events of %d aggregates, every chain whole\n", v.Events, v.Aggregates)
					return err
				})
			},
		},
	)
	return cmd
}

func backup(ctx context.Context, s *eventstore.Store, path string, stdout, stderr io.Writer) error {
	if path == "-" {
		_, err := eventstore.Backup(ctx, s, stdout)
		return err
	}
	var head eventstore.BackupHead
	err := writeOutput(path, 0o600, func(w io.Writer) (err error) {
		head, err = eventstore.Backup(ctx, s, w)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stderr, "%d events of %s written to %s\n", head.Last, head.Stream, path)
	return err
}

// restore reads the backup twice, once to check it and once to write it, so standard input goes through a file first.
func restore(ctx context.Context, s *eventstore.Store, path string, stdin io.Reader, stderr io.Writer) error {
	open := func() (*os.File, error) { return os.Open(path) }
	if path == "-" {
		open = func() (*os.File, error) {
			f, err := os.CreateTemp("", "vega-restore-*")
			if err != nil {
				return nil, err
			}
			err = os.Remove(f.Name()) // it lives as long as it is open
			if err == nil {
				_, err = io.Copy(f, stdin)
			}
			if err == nil {
				_, err = f.Seek(0, io.SeekStart)
			}
			return f, err
		}
	}
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := eventstore.Restore(ctx, s, f)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stderr, "%d events of %s restored\n", head.Last, head.Stream)
	return err
}

// withStore calls f with the configured log open. Without mayMake an embedded log must be there.
func withStore(cmd *cobra.Command, mayMake bool, f func(context.Context, *eventstore.Store) error) error {
	cfg, err := loadConfig(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if dir := filepath.Join(cfg.DataDir, "nats"); cfg.OneMachine() && !mayMake {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("no event log: %w (VEGA_DATA_DIR names the data folder)", err)
		}
	}
	return withLog(cmd.Context(), cfg, func(ctx context.Context, nc *nats.Conn) error {
		if cfg.OneMachine() {
			js, err := jetstream.New(nc)
			if err != nil {
				return err
			}
			if err := eventstore.Setup(ctx, js, cfg.Region, 1); err != nil {
				return err
			}
		}
		s, err := eventstore.Open(ctx, nc, eventstore.Options{Region: cfg.Region})
		if err != nil {
			return err
		}
		defer s.Close()
		return f(ctx, s)
	})
}

// withLog calls f with a connection to the configured log: the external server, or the embedded one, started for this call alone.
func withLog(ctx context.Context, cfg config.Config, f func(context.Context, *nats.Conn) error) (err error) {
	if !cfg.OneMachine() {
		nc, err := eventstore.Connect(cfg.Log.NATSURL.Reveal(), cfg.Log.NATSCreds)
		if err != nil {
			return err
		}
		defer nc.Close()
		return f(ctx, nc)
	}
	lock, err := lockData(cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: filepath.Join(cfg.DataDir, "nats"), SyncAlways: cfg.Log.Sync == eventstore.SyncAlways})
	if err != nil {
		return err
	}
	defer srv.Stop()
	nc, err := srv.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	return f(ctx, nc)
}
