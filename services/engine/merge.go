package engine

import (
	"context"
	"fmt"
	"slices"

	"vega/events"
	"vega/services/report"
)

// maxAlso is how many further places a finding names.
const maxAlso = 20

// merge makes findings of what was verified: one for each fingerprint, the worst first, at most events.MaxFindingsPerScan.
// A finding's id comes from the repository and the fingerprint, so it is the same one in every scan.
func (r *run) merge(ctx context.Context) (result, error) {
	var in verified
	checked := stageVerify
	if r.done[stageRefute].Result != nil {
		checked = stageRefute
	}
	if err := r.result(ctx, checked, &in); err != nil {
		return result{}, err
	}
	all := mergeByFingerprint(r.job.Region, r.job.Repository, in.candidates)
	var reasons []events.CoverageReason
	if over := len(all) - events.MaxFindingsPerScan; over > 0 {
		all = all[:events.MaxFindingsPerScan]
		reasons = append(reasons, events.CoverageReason{Stage: stageMerge, Code: codeLimit,
			Message: fmt.Sprintf("%d findings are too many; the worst %d are kept", over+len(all), len(all))})
	}

	recorded := make(map[events.FindingID]bool, len(r.findings))
	for _, f := range r.findings {
		recorded[f.ID] = true
	}
	fresh := slices.DeleteFunc(slices.Clone(all), func(f events.Finding) bool { return recorded[f.ID] })
	if len(fresh) > 0 {
		// A crash after this leaves findings without their stage. The next attempt merges again, gets the same ids, and finds
		// these in Job.Findings.
		if err := r.rec.Findings(ctx, stageMerge, fresh); err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.failed = fmt.Errorf("record findings: %w", err)
			return result{}, r.failed
		}
		r.findings = append(r.findings, fresh...)
	}
	res := result{status: events.StageDone, detail: fmt.Sprintf("%d findings from %d places", len(all), in.count()), reasons: reasons}
	var err error
	res.compared, err = r.compare(ctx, in.Refuted, reasons)
	return res, err
}

// compare says how the findings stand to what was known before, and stores the ledger that the next scan begins with. A ledger of the scan before that cannot be read costs what only it
// knew: which of its findings had been there before, and which had been resolved.
func (r *run) compare(ctx context.Context, refuted []events.Fingerprint, reasons []events.CoverageReason) (*events.Compared, error) {
	now := report.Seen{Scan: r.job.Scan, Findings: r.findings, Coverage: r.outcome().Coverage.State, Paths: r.job.Paths, Refuted: refuted}
	if len(reasons) > 0 {
		now.Coverage = events.CoveragePartial
	}
	var base *report.Seen
	var before *report.Ledger
	if b := r.job.Base; b != nil {
		base = &b.Seen
		if b.Ledger != nil {
			var err error
			if before, err = r.ledger(ctx, b.Ledger); err != nil {
				return nil, err
			}
			if before == nil {
				r.log(ctx, fmt.Sprintf("merge: the ledger of scan %s cannot be read; what was resolved before it is not known", base.Scan))
			}
		}
		for _, o := range b.Beside {
			other, err := r.ledger(ctx, &o)
			if err != nil {
				return nil, err
			}
			if other != nil {
				before = report.Join(before, *other)
			}
		}
	}
	ledger, compared := report.Compare(base, before, now)
	object, err := r.put(ctx, report.LedgerName, ledger)
	if err != nil {
		return nil, err
	}
	compared.Ledger = object
	if base != nil {
		r.log(ctx, fmt.Sprintf("since scan %s: %d new, %d persisting, %d reopened, %d resolved, %d unknown", base.Scan, compared.New, compared.Persisting, compared.Reopened, compared.Resolved, compared.Unknown))
	}
	return &compared, nil
}

// ledger reads one that a scan has left; nil when it cannot be read. An error ends the run.
func (r *run) ledger(ctx context.Context, o *events.Object) (*report.Ledger, error) {
	var l report.Ledger
	err := r.read(ctx, o, &l)
	if r.fatal() != nil {
		return nil, err
	}
	if err != nil || l.Schema != report.LedgerSchema {
		return nil, nil
	}
	return &l, nil
}

// mergeByFingerprint makes one finding of all candidates with the same fingerprint. The worst one speaks for them; the places of
// the others stand in Also.
func mergeByFingerprint(region events.Region, repo events.RepositoryID, in candidates) []events.Finding {
	groups := make(map[events.Fingerprint][]events.Finding)
	for _, file := range in.Files {
		for _, c := range file.Candidates {
			f := c.Finding
			f.Fingerprint = c.fingerprint()
			f.ID = events.FindingIDFor(region, repo, f.Fingerprint)
			groups[f.Fingerprint] = append(groups[f.Fingerprint], f)
		}
	}
	var out []events.Finding
	for _, same := range groups {
		slices.SortStableFunc(same, report.Order)
		first := same[0]
		for _, f := range same[1:] {
			place := fmt.Sprintf("%s:%d", f.File, f.StartLine)
			if len(first.Also) < maxAlso && f.StartLine != first.StartLine && !slices.Contains(first.Also, place) {
				first.Also = append(first.Also, place)
			}
		}
		out = append(out, first)
	}
	slices.SortFunc(out, report.Order)
	return out
}
