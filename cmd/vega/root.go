package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vega/config"
)

func newRootCommand(made assembly) *cobra.Command {
	root := &cobra.Command{
		Use:   "vega",
		Short: "Scan source code for security problems, with a log of everything that happened",
		Long: `Vega scans source code for security problems and keeps an event log of every scan that nobody can quietly change.

Without a command it serves by role (VEGA_SERVICE_ROLE): on a laptop that is the HTTP API with scans running
inside the same process, an event log under data/nats and everything else under data/. Nothing has to be installed.

Every setting is an environment variable that begins with VEGA_, or a line of a .env file in the current folder
(for 'vega scan' only when that folder has nothing to do with what is scanned).
'vega config' prints them all with their values and where each came from.`,
		Example: `  vega                          serve the API on 127.0.0.1:8000
  vega scan .                   scan this folder and print what was found
  vega scan . --sarif out.sarif the same, for a code host
  vega config                   the effective configuration, secrets redacted`,
		Args:          cobra.NoArgs,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, made, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())
	})
	root.AddCommand(newScanCommand(made), newRunScanCommand(made), newBenchCommand(made), newConfigCommand(), newDoctorCommand(), newHealthcheckCommand(), newMigrateCommand(), newSetupCommand(), newLogCommand(), newVersionCommand())
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "vega %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// buildVersion is what the linker set, else the module's version, else "dev".
func buildVersion() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

func newConfigCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration, secrets redacted, with each value's origin",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(os.Environ(), dotenv)
			print := cfg.Print
			if asJSON {
				print = cfg.PrintJSON
			}
			if perr := print(cmd.OutOrStdout()); perr != nil {
				return perr
			}
			warn(cmd.ErrOrStderr(), cfg)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// dotenv is read from the current folder.
const dotenv = ".env"

// loadConfig reads the configuration and prints its warnings. The error lists every problem.
func loadConfig(w io.Writer) (config.Config, error) { return loadConfigWith(w, dotenv) }

// loadConfigWith is loadConfig with another file for .env, or none.
func loadConfigWith(w io.Writer, dotenv string) (config.Config, error) {
	cfg, err := config.Load(os.Environ(), dotenv)
	if err != nil {
		return cfg, err
	}
	warn(w, cfg)
	return cfg, nil
}

// loadPart reads the configuration for a command that uses only the settings whose names begin so: what is wrong with others does not concern it.
func loadPart(w io.Writer, prefixes ...string) (config.Config, error) {
	cfg, err := config.Load(os.Environ(), dotenv)
	wrong, ok := errors.AsType[*config.Error](err)
	if !ok {
		warn(w, cfg)
		return cfg, err
	}
	ours := slices.DeleteFunc(slices.Clone(wrong.Problems), func(p config.Problem) bool {
		return !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(p.Variable, prefix) })
	})
	if len(ours) > 0 {
		return cfg, &config.Error{Problems: ours}
	}
	return cfg, nil
}

func warn(w io.Writer, cfg config.Config) {
	for _, x := range cfg.Warnings {
		fmt.Fprintln(w, "vega: warning:", x)
	}
}

// newLogger writes to w: text for people at a terminal, JSON for machines, unless the configuration says which.
func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: cfg.LogLevel, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // "1.5s" for people and machines alike
			a.Value = slog.StringValue(a.Value.Duration().Round(time.Microsecond).String())
		}
		return a
	}}
	format := cfg.LogFormat
	if format == "" {
		format = config.FormatJSON
		if isTerminal(w) {
			format = config.FormatText
		}
	}
	var h slog.Handler = slog.NewJSONHandler(w, opt)
	if format == config.FormatText {
		h = slog.NewTextHandler(w, opt)
	}
	return slog.New(h).With("role", cfg.ServiceRole, "environment", cfg.Environment, "region", cfg.Region)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
