package catalog_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vega/events"
	"vega/services/catalog"
)

// recorded gives events the envelope that folding needs.
func recorded(evs ...events.Event) []events.Recorded {
	out := make([]events.Recorded, len(evs))
	for i, e := range evs {
		out[i] = events.Recorded{Envelope: events.Envelope{Meta: events.Meta{At: time.Unix(int64(i), 0), Actor: "user:u"}, Kind: events.KindOf(e), Version: events.Version(i + 1)}, Event: e}
	}
	return out
}

func project(evs ...events.Event) (p catalog.Project) {
	for _, r := range recorded(evs...) {
		p = p.Evolve(r)
	}
	return p
}

func repository(evs ...events.Event) (p catalog.Repository) {
	for _, r := range recorded(evs...) {
		p = p.Evolve(r)
	}
	return p
}

// outcome is the kinds that were decided, or the kind of error.
func outcome(evs []events.Event, err error) string {
	if invalid, ok := errors.AsType[*catalog.InvalidError](err); ok {
		return "invalid " + invalid.Field
	}
	if conflict, ok := errors.AsType[*catalog.ConflictError](err); ok {
		return "conflict " + conflict.Code
	}
	if _, ok := errors.AsType[*catalog.GoneError](err); ok {
		return "gone"
	}
	if err != nil {
		return "error " + err.Error()
	}
	var kinds []string
	for _, e := range evs {
		kinds = append(kinds, string(events.KindOf(e)))
	}
	return strings.Join(kinds, " ")
}

var created = events.ProjectCreated{Name: "shop", Owner: "user_o"}

func TestProjects(t *testing.T) {
	t.Parallel()
	member := events.MemberSet{User: "user_m", Role: events.RoleViewer}
	for _, c := range []struct {
		name string
		got  func() ([]events.Event, error)
		want string
	}{
		{"create", func() ([]events.Event, error) { return project().Create("shop", "user_o") }, "project.created"},
		{"create again", func() ([]events.Event, error) { return project(created).Create("shop", "user_o") }, ""},
		{"create without a name", func() ([]events.Event, error) { return project().Create(" ", "user_o") }, "invalid name"},
		{"create with a control character", func() ([]events.Event, error) { return project().Create("a\x00b", "user_o") }, "invalid name"},
		{"create with a long name", func() ([]events.Event, error) { return project().Create(strings.Repeat("x", 201), "user_o") }, "invalid name"},
		{"create a deleted one", func() ([]events.Event, error) {
			return project(created, events.ProjectDeleted{}).Create("shop", "user_o")
		}, "gone"},
		{"rename", func() ([]events.Event, error) { return project(created).Rename("store") }, "project.renamed"},
		{"rename to the same", func() ([]events.Event, error) { return project(created).Rename("shop") }, ""},
		{"rename nothing", func() ([]events.Event, error) { return project().Rename("shop") }, "gone"},
		{"add a member", func() ([]events.Event, error) { return project(created).SetMember("user_m", events.RoleEditor) }, "project.member_set"},
		{"set the same role", func() ([]events.Event, error) {
			return project(created, member).SetMember("user_m", events.RoleViewer)
		}, ""},
		{"add nobody", func() ([]events.Event, error) { return project(created).SetMember("a@b", events.RoleViewer) }, "invalid user_id"},
		{"unknown role", func() ([]events.Event, error) { return project(created).SetMember("user_m", "king") }, "invalid role"},
		{"demote the last owner", func() ([]events.Event, error) { return project(created).SetMember("user_o", events.RoleViewer) }, "conflict last_owner"},
		{"remove the last owner", func() ([]events.Event, error) { return project(created).RemoveMember("user_o") }, "conflict last_owner"},
		{"remove a member", func() ([]events.Event, error) { return project(created, member).RemoveMember("user_m") }, "project.member_removed"},
		{"remove a stranger", func() ([]events.Event, error) { return project(created).RemoveMember("user_x") }, ""},
		{"delete", func() ([]events.Event, error) { return project(created).Delete() }, "project.deleted"},
		{"delete again", func() ([]events.Event, error) { return project(created, events.ProjectDeleted{}).Delete() }, ""},
		{"delete nothing", func() ([]events.Event, error) { return project().Delete() }, "gone"},
	} {
		if got := outcome(c.got()); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAProjectKeepsAnOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := project(created)
		users := []events.UserID{"user_o", "user_a", "user_b"}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			user := rapid.SampledFrom(users).Draw(t, "user")
			var evs []events.Event
			if rapid.Bool().Draw(t, "remove") {
				evs, _ = p.RemoveMember(user)
			} else {
				evs, _ = p.SetMember(user, rapid.SampledFrom([]events.Role{events.RoleOwner, events.RoleEditor, events.RoleViewer}).Draw(t, "role"))
			}
			for _, r := range recorded(evs...) {
				p = p.Evolve(r)
			}
			owners := 0
			for _, role := range p.Members {
				if role == events.RoleOwner {
					owners++
				}
			}
			if owners == 0 {
				t.Fatalf("no owner left: %v", p.Members)
			}
		}
	})
}

func TestRepositories(t *testing.T) {
	t.Parallel()
	up := events.RepositoryCreated{Project: "p", Name: "web", SourceType: events.SourceUpload}
	git := func(url, ref string) func() ([]events.Event, error) {
		return func() ([]events.Event, error) {
			return repository().Create(events.RepositoryCreated{Project: "p", Name: "web", SourceType: events.SourceGit, GitURL: url, GitRef: ref})
		}
	}
	begun := []events.Event{up, events.IngestStarted{Upload: "u1"}}
	for _, c := range []struct {
		name string
		got  func() ([]events.Event, error)
		want string
	}{
		{"create", func() ([]events.Event, error) { return repository().Create(up) }, "repository.created"},
		{"create again", func() ([]events.Event, error) { return repository(up).Create(up) }, ""},
		{"no source type", func() ([]events.Event, error) { return repository().Create(events.RepositoryCreated{Name: "web"}) }, "invalid source_type"},
		{"upload with a URL", func() ([]events.Event, error) {
			e := up
			e.GitURL = "https://example.com/x.git"
			return repository().Create(e)
		}, "invalid git_url"},
		{"git", git("https://example.com/x.git", "main"), "repository.created"},
		{"git with a password", git("https://me:secret@example.com/x.git", ""), "invalid git_url"},
		{"git with a token", git("https://token@example.com/x.git", ""), "invalid git_url"},
		{"git of a file", git("file:///etc", ""), "invalid git_url"},
		{"git by a program", git("ext::sh -c id", ""), "invalid git_url"},
		{"git with an option as host", git("ssh://-oProxyCommand=id/x", ""), "invalid git_url"},
		{"git with an option as ref", git("https://example.com/x.git", "--upload-pack=id"), "invalid git_ref"},
		{"git with a range as ref", git("https://example.com/x.git", "a..b"), "invalid git_ref"},
		{"start", func() ([]events.Event, error) { return repository(up).StartIngest("u1", false) }, "repository.ingest_started"},
		{"start twice", func() ([]events.Event, error) { return repository(begun...).StartIngest("u2", false) }, "conflict ingest_in_progress"},
		{"take over", func() ([]events.Event, error) { return repository(begun...).StartIngest("u2", true) }, "repository.ingest_started"},
		{"fail", func() ([]events.Event, error) {
			return repository(begun...).FailIngest(events.IngestFailed{Upload: "u1"})
		}, "repository.ingest_failed"},
		{"fail another's", func() ([]events.Event, error) {
			return repository(begun...).FailIngest(events.IngestFailed{Upload: "u0"})
		}, ""},
		{"finish", func() ([]events.Event, error) {
			return repository(begun...).FinishIngest(events.SnapshotTaken{Upload: "u1"})
		}, "repository.snapshot_taken"},
		{"finish another's", func() ([]events.Event, error) {
			return repository(begun...).FinishIngest(events.SnapshotTaken{Upload: "u0"})
		}, "conflict ingest_superseded"},
		{"finish in a deleted one", func() ([]events.Event, error) {
			return repository(append(begun[:2:2], events.RepositoryDeleted{})...).FinishIngest(events.SnapshotTaken{Upload: "u1"})
		}, "gone"},
		{"profile", func() ([]events.Event, error) {
			return repository(up).SetProfile(events.ThreatProfile{Summary: "a shop"})
		}, "repository.threat_profile_set"},
		{"profile without a summary", func() ([]events.Event, error) { return repository(up).SetProfile(events.ThreatProfile{}) }, "invalid summary"},
		{"profile with an empty risk", func() ([]events.Event, error) {
			return repository(up).SetProfile(events.ThreatProfile{Summary: "s", Risks: []string{"a", ""}})
		}, "invalid risks[1]"},
		{"profile with too much", func() ([]events.Event, error) {
			return repository(up).SetProfile(events.ThreatProfile{Summary: "s", Assets: make([]string, 201)})
		}, "invalid assets"},
		{"delete", func() ([]events.Event, error) { return repository(up).Delete() }, "repository.deleted"},
	} {
		if got := outcome(c.got()); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestALateEndOfAnOlderIngestionChangesNothing(t *testing.T) {
	t.Parallel()
	p := repository(events.RepositoryCreated{}, events.IngestStarted{Upload: "u1"}, events.IngestStarted{Upload: "u2"}, events.IngestFailed{Upload: "u1", Code: "x"})
	if p.Status != catalog.Ingesting || p.Upload != "u2" || p.Failure != nil {
		t.Errorf("repository is %s with %q, %v", p.Status, p.Upload, p.Failure)
	}
}

func TestTriage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		given []events.Event
		when  events.FindingTriaged
		want  string
	}{
		{nil, events.FindingTriaged{State: events.TriageConfirmed}, "finding.triaged"},
		{nil, events.FindingTriaged{State: events.TriageOpen}, ""},
		{nil, events.FindingTriaged{State: events.TriageDismissed}, "invalid reason"},
		{nil, events.FindingTriaged{State: events.TriageDismissed, Reason: events.AcceptedRisk}, "finding.triaged"},
		{nil, events.FindingTriaged{State: events.TriageConfirmed, Reason: events.AcceptedRisk}, "invalid reason"},
		{nil, events.FindingTriaged{State: "solved"}, "invalid state"},
		{nil, events.FindingTriaged{State: events.TriageConfirmed, Note: strings.Repeat("x", 4001)}, "invalid note"},
		{[]events.Event{events.FindingTriaged{State: events.TriageConfirmed, Note: "n"}}, events.FindingTriaged{State: events.TriageConfirmed, Note: "n"}, ""},
		{[]events.Event{events.FindingTriaged{State: events.TriageConfirmed, Note: "n"}}, events.FindingTriaged{State: events.TriageConfirmed, Note: "m"}, "finding.triaged"},
	} {
		var f catalog.Finding
		for _, r := range recorded(c.given...) {
			f = f.Evolve(r)
		}
		if got := outcome(f.Decide(c.when)); got != c.want {
			t.Errorf("%v then %+v: %q, want %q", c.given, c.when, got, c.want)
		}
	}
	evs, err := catalog.Finding{}.Decide(events.FindingTriaged{State: events.TriageConfirmed})
	if err != nil || fmt.Sprint(evs[0].(events.FindingTriaged).From) != "open" {
		t.Errorf("the first decision comes from %v, %v; want open", evs, err)
	}
}
