package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-enry/go-enry/v2"

	"vega/events"
	"vega/services/engine/pack"
)

// What a prompt is told of the inventory at most; the pack bounds it once more.
const (
	maxSubjectLines = 200
	maxFolders      = 300
)

// subject is the inventory as prompts tell it.
func (r *run) subject(inv inventory) pack.Subject {
	s := pack.Subject{Files: inv.Files, Bytes: inv.Bytes, Paths: r.job.Paths}
	for _, l := range inv.Languages {
		s.Languages = append(s.Languages, fmt.Sprintf("%s, %d files", l.Name, l.Files))
	}
	for _, m := range inv.Manifests[:min(len(inv.Manifests), maxSubjectLines)] {
		s.Manifests = append(s.Manifests, fmt.Sprintf("%s (%s)", m.Path, m.Kind))
	}
	for _, e := range inv.EntryPoints[:min(len(inv.EntryPoints), maxSubjectLines)] {
		s.EntryPoints = append(s.EntryPoints, strings.TrimSpace(fmt.Sprintf("%s:%d %s %s", e.Path, e.Line, e.Kind, e.Detail)))
	}
	for _, d := range inv.Dependencies[:min(len(inv.Dependencies), maxSubjectLines)] {
		s.Dependencies = append(s.Dependencies, strings.TrimSpace(fmt.Sprintf("%s %s", d.Name, d.Version)))
	}
	var names []string
	for _, d := range inv.Dependencies {
		names = append(names, d.Name)
	}
	s.Frameworks = r.pack.Frameworks(names)
	return s
}

// factsOf are what guides are chosen by: the inventory, or the part of it that lies in some paths.
func factsOf(inv inventory, code []codeFile, paths []string) pack.Facts {
	var f pack.Facts
	for _, d := range inv.Dependencies {
		// A manifest is about what lies beside and below it.
		if folder := path.Dir(d.Path); folder == "." || len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool { return within(p, []string{folder}) || within(folder, []string{p}) }) {
			f.Dependencies = append(f.Dependencies, d.Name)
		}
	}
	bytes := map[string]int64{}
	for _, c := range code {
		if within(c.path, paths) {
			f.Files = append(f.Files, c.path)
			bytes[c.language] += c.size
		}
	}
	for l := range bytes {
		f.Languages = append(f.Languages, l)
	}
	slices.SortFunc(f.Languages, func(a, b string) int { return cmp.Or(cmp.Compare(bytes[b], bytes[a]), strings.Compare(a, b)) })
	return f
}

// codeFile is a file that an audit has to look at, or to say why not.
type codeFile struct {
	path     string
	size     int64
	language string
}

// code lists the files of the tree that are programs, pages, or descriptions of builds and deployments, and nobody else's: not vendored, generated, documentation or tests.
// It looks once in each attempt.
func (r *run) code(ctx context.Context) ([]codeFile, error) {
	if r.codeFiles != nil {
		return r.codeFiles, nil
	}
	out := []codeFile{}
	for _, f := range r.tree.files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if enry.IsTest(f.path) {
			continue
		}
		head, _, err := r.tree.head(f.path, classifyBytes)
		if err != nil {
			continue // the inventory has said so
		}
		l := lookAt(f.path, head)
		if l.language == "" && l.manifest != "" && !isLockFile(f.path) && !l.vendored && !l.generated {
			l.language = l.manifest // a Dockerfile, a Makefile: it runs programs too
		}
		if l.language == "" && !l.binary && !l.generated && (!l.vendored || strings.HasPrefix(f.path, ".")) && (r.pack.Concerns(f.path) || isQueryOrSettings(f.path)) {
			// Among what counts as vendored elsewhere are folders such as .github, whose files are the project's own.
			l.language = enry.GetLanguage(path.Base(f.path), head) // a workflow, a deployment
			l.language = cmp.Or(l.language, "settings")
		}
		if l.language != "" {
			out = append(out, codeFile{f.path, f.size, l.language})
		}
	}
	r.codeFiles = out
	return out, nil
}

// isQueryOrSettings knows files that are no programs and decide about security all the same: queries, and settings of servers.
func isQueryOrSettings(name string) bool {
	base := strings.ToLower(path.Base(name))
	switch path.Ext(base) {
	case ".sql", ".tf", ".hcl", ".rego", ".cedar":
		return true
	case ".conf":
		return strings.Contains(base, "nginx") || strings.Contains(base, "httpd") || strings.Contains(base, "apache") || strings.Contains(base, "haproxy") || strings.Contains(base, "sshd")
	}
	return base == "nginx.conf" || base == ".htaccess" || base == "web.config" || base == "jenkinsfile"
}

// foldersOf sums the code up by folder, two levels deep, for a plan.
func foldersOf(code []codeFile) []string {
	type sum struct {
		files int
		bytes int64
	}
	sums := map[string]*sum{}
	for _, c := range code {
		folder := path.Dir(c.path)
		if parts := strings.SplitN(folder, "/", 4); len(parts) > 3 {
			folder = strings.Join(parts[:3], "/")
		}
		if sums[folder] == nil {
			sums[folder] = &sum{}
		}
		sums[folder].files++
		sums[folder].bytes += c.size
	}
	var out []string
	for name, s := range sums {
		out = append(out, fmt.Sprintf("%s %d files %d KB", name, s.files, (s.bytes+1023)/1024))
	}
	slices.Sort(out)
	return out[:min(len(out), maxFolders)]
}

// profile is what people said about the application, or what the model drafted; empty when neither did.
func (r *run) profile(ctx context.Context) (events.ThreatProfile, error) {
	if r.job.Profile != nil {
		return *r.job.Profile, nil
	}
	var p events.ThreatProfile
	err := r.result(ctx, stageThreatModel, &p)
	return p, err
}

// brief is what a stage that asks the model knows of the scan.
type brief struct {
	agent   *agent
	inv     inventory
	profile events.ThreatProfile
	code    []codeFile
}

// aided makes a stage of what needs a model: where there is none, it says so.
func aided(name string, work func(*run, context.Context, brief) (result, error)) func(*run, context.Context) (result, error) {
	return func(r *run, ctx context.Context) (result, error) {
		var b brief
		var err error
		if b.agent, err = r.agent(ctx); err != nil {
			if no, ok := errors.AsType[*noModel](err); ok {
				return noModelResult(name, no), nil
			}
			return result{}, err
		}
		if err := r.result(ctx, stageInventory, &b.inv); err != nil {
			return result{}, err
		}
		if b.profile, err = r.profile(ctx); err != nil {
			return result{}, err
		}
		if b.code, err = r.code(ctx); err != nil {
			return result{}, err
		}
		return work(r, ctx, b)
	}
}

// noModelResult is what a stage comes to that needs a model which is not there.
func noModelResult(stage string, no *noModel) result {
	if !no.configured {
		return result{status: events.StageNotConfigured, detail: no.why, reasons: []events.CoverageReason{{Stage: stage, Code: codeNotConfigured, Message: no.why}}}
	}
	why := cleanText(no.why)
	return result{status: events.StageFailed, detail: why, reasons: []events.CoverageReason{{Stage: stage, Code: codeFailed, Message: why}}}
}
