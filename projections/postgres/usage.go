package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"vega/events"
	"vega/projections"
)

// sumsOfUsage are the sums of the columns of day_usage, as wide as they are.
var sumsOfUsage = func() string {
	var out []string
	for _, c := range usageColumns {
		out = append(out, "least(coalesce(sum(t."+c+"), 0), 9223372036854775807)::bigint AS "+c)
	}
	return strings.Join(out, ", ")
}()

var usageColumns = []string{"requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nano_usd", "estimated_requests"}

func intoUsage(s *projections.UsageSum) []any {
	u := &s.Usage
	return []any{numberInto[int64]{&u.Requests}, numberInto[int64]{&u.InputTokens}, numberInto[int64]{&u.CachedInputTokens}, numberInto[int64]{&u.OutputTokens},
		numberInto[int64]{&u.ReasoningTokens}, numberInto[int64]{&u.CostNanoUSD}, numberInto[int64]{&s.Estimated}}
}

// Usage sums up what was spent. The page and the total are two walks through the selected rows in one statement, so they are of one moment.
func (m *Model) Usage(ctx context.Context, f projections.UsageFilter, p projections.Page) (projections.UsageSums, projections.Cursor, error) {
	var out projections.UsageSums
	after, begun, err := f.By.ReadCursor(p.After)
	if err != nil {
		return out, "", err
	}
	var s statement
	s.add(", sel AS NOT MATERIALIZED (SELECT t.* FROM day_usage t WHERE true")
	for _, c := range []struct{ condition, value string }{
		{"AND t.day >= %s", string(f.From)}, {"AND t.day <= %s", string(f.To)}, {"AND t.project_id = %s", string(f.Project)}, {"AND t.user_id = %s", string(f.User)},
		{"AND t.scan_id = %s", string(f.Scan)},
		{"AND t.project_id IN (SELECT m.project_id FROM members m JOIN projects p ON p.id = m.project_id WHERE m.user_id = %s AND NOT p.deleted)", string(f.Member)},
	} {
		if c.value != "" {
			s.add(c.condition, c.value)
		}
	}
	s.add("), total AS (SELECT " + sumsOfUsage + " FROM sel t),")
	keys, order, place, before := "t.day", "t.day DESC", any(string(after.Day)), "<"
	switch f.By {
	case projections.ByProject:
		keys, order, place, before = "t.project_id", "t.project_id", string(after.Project), ">"
	case projections.ByUser:
		keys, order, place, before = "t.user_id", "t.user_id", string(after.User), ">"
	case projections.ByScan:
		keys, order, place = "t.scan_seq, t.scan_id, t.project_id, t.repository_id, t.user_id", "t.scan_seq DESC", int64(after.Queued)
	default:
	}
	s.add("page AS (SELECT " + keys + ", " + sumsOfUsage + " FROM sel t")
	if begun {
		first, _, _ := strings.Cut(keys, ",")
		s.add("WHERE "+first+" "+before+" %s", place)
	}
	s.add("GROUP BY "+keys+" ORDER BY "+order+" LIMIT %s)", p.Size()+1)
	s.add("SELECT a.*, " + prefixed("t", usageColumns) + ", t.requests IS NOT NULL, " + keys)
	project := strings.Contains(keys, "project_id")
	if project {
		s.add(", coalesce(p.name, ''), coalesce(p.deleted, false)")
	}
	s.add("FROM total a LEFT JOIN page t ON true")
	if project {
		s.add("LEFT JOIN projects p ON p.id = t.project_id")
	}
	s.add("ORDER BY " + order)
	err = m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		out = projections.UsageSums{}
		got, err := conn.Query(ctx, s.text(), s.args...)
		if err != nil {
			return err
		}
		defer got.Close()
		for got.Next() {
			var row projections.UsageSum
			var is bool // false: the page is empty
			into := append(intoUsage(&out.Total), intoUsage(&row)...)
			into = append(into, flagInto{&is})
			switch f.By {
			case projections.ByProject:
				into = append(into, textInto[events.ProjectID]{&row.Project})
			case projections.ByUser:
				into = append(into, textInto[events.UserID]{&row.User})
			case projections.ByScan:
				into = append(into, numberInto[events.Seq]{&row.Queued}, textInto[events.ScanID]{&row.Scan}, textInto[events.ProjectID]{&row.Project}, textInto[events.RepositoryID]{&row.Repository}, textInto[events.UserID]{&row.User})
			default:
				into = append(into, textInto[projections.Day]{&row.Day})
			}
			if project {
				into = append(into, textInto[string]{&row.Name}, flagInto{&row.Deleted})
			}
			if err := got.Scan(into...); err != nil {
				return err
			}
			if is {
				out.Sums = append(out.Sums, row)
			}
		}
		return got.Err()
	})
	if err != nil {
		return projections.UsageSums{}, "", m.tell(ctx, "query read models", err)
	}
	if len(out.Sums) <= p.Size() {
		return out, "", nil
	}
	out.Sums = out.Sums[:p.Size()]
	return out, f.By.Cursor(out.Sums[len(out.Sums)-1]), nil
}

func prefixed(as string, columns []string) string {
	return as + "." + strings.Join(columns, ", "+as+".")
}
