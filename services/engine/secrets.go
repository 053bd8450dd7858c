package engine

import (
	"context"
	"fmt"
	"slices"

	"vega/events"
)

// candidate is what a stage believes to have found. verify decides whether it is true; until then it is no finding.
type candidate struct {
	events.Finding // without ID and Fingerprint
	// Identity is what the fingerprint knows of the snippet: the mask of a credential, else the snippet itself.
	Identity string `json:"identity"`
	// Shown is what the snippet was made around, where credentials are masked in it.
	Shown span `json:"shown,omitzero"`
	// WholeFile says that the finding is the file as such: there is no quote to check.
	WholeFile bool `json:"whole_file,omitempty"`
	// Argument is what a claim of the audit says for itself.
	Argument *argument `json:"argument,omitempty"`
}

// fingerprint is the weakness's identity over scans.
func (c candidate) fingerprint() events.Fingerprint {
	return events.NewFingerprint(c.Rule, c.CWE, c.File, c.Symbol, c.Identity)
}

// foundIn are the candidates of one file, and where the credentials lie in it that their snippets mask. The places are kept so
// that verify can make the snippets again from the file; the credentials are not kept.
type foundIn struct {
	Path       string      `json:"path"`
	Masked     []span      `json:"masked,omitempty"`
	Candidates []candidate `json:"candidates"`
}

// candidates is the stored result of a stage that finds something.
type candidates struct {
	Files []foundIn `json:"files"`
}

func (c candidates) count() (n int) {
	for _, f := range c.Files {
		n += len(f.Candidates)
	}
	return n
}

// secretsResult is what the secrets stage stores.
type secretsResult struct {
	candidates
	Scanned  int `json:"scanned_files"`
	Binary   int `json:"binary_files"`
	Archives int `json:"archives"`
	LeftOut  int `json:"left_out"`
	// Implausible counts what only looked like a credential; see plausible.
	Implausible int `json:"implausible"`
}

const (
	resultSecrets = "secrets.json"
	maxCandidates = 20_000
)

// secrets looks for committed credentials in every text file. What it lets go of is masked.
func (r *run) secrets(ctx context.Context) (result, error) {
	d, err := theDetector()
	if err != nil {
		return result{}, err
	}
	missed := gaps{stage: stageSecrets}
	var res secretsResult
	var total int
	var firstLeftOut, firstArchive string
	byFile := make([]*foundIn, len(r.tree.files)) // one writer per element

	err = r.forEachFile(ctx, func(ctx context.Context, i int, f file) error {
		if d.leftOut(f.path) {
			if head, _, err := r.tree.head(f.path, sniffBytes); err == nil && len(head) > 0 && !isBinary(head) && !isLockFile(f.path) {
				r.mu.Lock()
				defer r.mu.Unlock()
				res.LeftOut++
				firstLeftOut = earlier(firstLeftOut, f.path)
			}
			return nil
		}
		matches := d.byName(f.path)
		content, whole, err := r.tree.head(f.path, r.opt.MaxFileBytes)
		binary := isBinary(content)
		var more bool
		var implausible int
		if err == nil && whole && !binary {
			var inText []match
			inText, more = d.find(ctx, f.path, content)
			matched := len(inText)
			inText = slices.DeleteFunc(inText, func(m match) bool { return !plausible(f.path, content, m) })
			implausible = matched - len(inText)
			matches = append(matches, inText...)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		found := r.candidatesOf(f.path, content, matches)

		r.mu.Lock()
		defer r.mu.Unlock()
		res.Implausible += implausible
		switch {
		case err != nil:
			missed.add(f.path, codeUnreadable, "could not be read")
		case binary && isArchive(f.path):
			res.Archives++
			firstArchive = earlier(firstArchive, f.path)
		case binary:
			res.Binary++
		case !whole:
			missed.add(f.path, codeTooLarge, "%d bytes, of which at most %d are analysed: not searched for credentials", f.size, r.opt.MaxFileBytes)
		default:
			res.Scanned++
		}
		if more {
			missed.add(f.path, codeLimit, "more than %d credentials in one file; the first ones are kept", maxMatchesPerFile)
		}
		if len(found.Candidates) > 0 {
			total += len(found.Candidates)
			byFile[i] = &found
		}
		return nil
	}, func(f file) { missed.add(f.path, codeFailed, "the search for credentials broke on it") })
	if err != nil {
		return result{}, err
	}

	kept := 0
	for _, f := range byFile {
		if f == nil || kept >= maxCandidates {
			continue
		}
		f.Candidates = f.Candidates[:min(len(f.Candidates), maxCandidates-kept)]
		kept += len(f.Candidates)
		res.Files = append(res.Files, *f)
	}
	reasons := missed.list()
	if kept < total {
		reasons = append(reasons, events.CoverageReason{Stage: stageSecrets, Code: codeLimit,
			Message: fmt.Sprintf("%d credentials were found; the first %d are kept", total, kept)})
	}
	if res.Archives > 0 {
		reasons = append(reasons, events.CoverageReason{Stage: stageSecrets, Code: codeBinary,
			Message: cleanText(fmt.Sprintf("%d archives inside the source were not opened (first: %s)", res.Archives, firstArchive))})
	}
	if res.LeftOut > 0 {
		reasons = append(reasons, events.CoverageReason{Stage: stageSecrets, Code: codeSkipped,
			Message: cleanText(fmt.Sprintf("%d vendored or generated text files are left out by the rules (first: %s)", res.LeftOut, firstLeftOut))})
	}
	object, err := r.put(ctx, resultSecrets, res)
	return result{
		status:  events.StageDone,
		detail:  fmt.Sprintf("%d files searched, %d places to verify", res.Scanned, kept),
		object:  object,
		reasons: reasons,
	}, err
}

// candidatesOf turns the matches of one file into candidates. Nothing of a credential but its mask is in what it returns.
func (r *run) candidatesOf(path string, content []byte, matches []match) foundIn {
	found := foundIn{Path: path}
	for _, m := range matches {
		if !m.wholeFile {
			found.Masked = append(found.Masked, m.span)
		}
	}
	if len(matches) == 0 {
		return found
	}
	lines := indexLines(content)
	for _, m := range matches {
		found.Candidates = append(found.Candidates, r.candidateOf(path, content, lines, found.Masked, m))
	}
	return found
}

func (r *run) candidateOf(path string, content []byte, lines lineIndex, masked []span, m match) candidate {
	c := candidate{WholeFile: m.wholeFile, Finding: events.Finding{
		Rule: m.rule, Stage: stageSecrets, Severity: events.SeverityHigh, Title: "Committed credential: " + m.rule,
		Description: cleanText(m.description + " Whoever can read the source, or a copy or the history of it, can use it."),
		File:        path, StartLine: 1, EndLine: 1, CWE: []string{"CWE-798"}, Confidence: events.ConfidenceHigh,
		Validation: events.NotValidated,
		Remediation: "Revoke the credential where it was issued and issue another. Then take it out of the source and its history, " +
			"and load it from a secret store at run time.",
	}}
	switch {
	case isPrivateKey(m.rule):
		c.Severity, c.Title, c.CWE = events.SeverityCritical, "Committed private key", []string{"CWE-321", "CWE-798"}
		if m.rule != rulePrivateKey {
			c.Title += ": " + m.rule
		}
	case m.wholeFile:
		c.Title = "Committed key store: " + m.rule
		c.Confidence = events.ConfidenceLow
	case m.rule == ruleGeneric, m.rule == "jwt":
		c.Confidence = events.ConfidenceMedium
	}
	if isExample(path) {
		c.Confidence = events.ConfidenceLow
		c.Description += " The file looks like a test or an example, so it may not open anything."
		if m.rule == "jwt" {
			c.Severity = events.SeverityMedium // most tests of most services hold one, long expired
		}
	}
	if m.wholeFile {
		c.Identity = path
		c.Evidence = "the file's name; its contents were not read"
		return c
	}
	c.Identity = r.masker.mask(content[m.Off:m.end()])
	c.Shown = m.shown
	c.StartLine, c.EndLine = lines.at(m.shown.Off), lines.at(m.shown.end()-1)
	c.Snippet = r.masker.snippet(content, lines, m.shown, masked)
	c.Evidence = fmt.Sprintf("rule %s matched %s (entropy %.1f)", m.rule, c.Identity, m.entropy)
	return c
}

// isPrivateKey says whether what a rule finds signs or decrypts.
func isPrivateKey(rule string) bool { return rule == rulePrivateKey || rule == "age-secret-key" }

// earlier is the first of two paths; "" is none.
func earlier(a, b string) string {
	if a == "" || b < a {
		return b
	}
	return a
}
