package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vega/projections"
	"vega/projections/postgres"
)

func newMigrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the tables of the Postgres read models to this release",
		Long: `Works on the database of VEGA_DATABASE_URL, with VEGA_PERSISTENCE_BACKEND=postgres. Migrations only go forward. An API process applies them by itself when it
starts, unless VEGA_DATABASE_AUTO_MIGRATE=false: then somebody whose role may change tables runs 'vega migrate up' before a new release starts. The read models hold
nothing that is not in the event log; a table that had to be made anew is filled from there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var asJSON bool
	up := &cobra.Command{
		Use:   "up",
		Short: "Apply what is pending; any number of processes may do it at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := postgresOptions(cmd)
			if err != nil {
				return err
			}
			rows, err := postgres.Migrate(cmd.Context(), o)
			return errors.Join(err, printMigrations(cmd.OutOrStdout(), rows, asJSON))
		},
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "List the migrations, applied or pending; it changes nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := postgresOptions(cmd)
			if err != nil {
				return err
			}
			rows, err := postgres.Status(cmd.Context(), o)
			return errors.Join(err, printMigrations(cmd.OutOrStdout(), rows, asJSON))
		},
	}
	for _, c := range []*cobra.Command{up, status} {
		c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
		cmd.AddCommand(c)
	}
	return cmd
}

// postgresOptions reads the configuration, which has to name a database.
func postgresOptions(cmd *cobra.Command) (postgres.Options, error) {
	cfg, err := loadPart(cmd.ErrOrStderr(), "VEGA_DATABASE_", "DATABASE_URL", "VEGA_PERSISTENCE_BACKEND", dotenv)
	if err != nil {
		return postgres.Options{}, err
	}
	if cfg.Projections.Backend != projections.BackendPostgres {
		return postgres.Options{}, fmt.Errorf("VEGA_PERSISTENCE_BACKEND is %s: there are no tables to migrate; set it to postgres", cfg.Projections.Backend)
	}
	return postgres.Options{Config: cfg.Projections, Log: newLogger(cfg, cmd.ErrOrStderr())}, nil
}

func printMigrations(w io.Writer, rows []postgres.Migration, asJSON bool) error {
	if asJSON {
		if rows == nil {
			rows = []postgres.Migration{}
		}
		return json.NewEncoder(w).Encode(rows)
	}
	for _, r := range rows {
		state := "pending"
		if !r.AppliedAt.IsZero() {
			state = "applied " + r.AppliedAt.UTC().Format(time.RFC3339)
		}
		if _, err := fmt.Fprintf(w, "%05d  %-30s %s\n", r.Version, r.Name, state); err != nil {
			return err
		}
	}
	return nil
}
