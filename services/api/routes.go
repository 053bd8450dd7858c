package api

import "vega/events"

// register lists every route. The second argument is what the caller must be; for a path that names a thing it is a role in the thing's project,
// and whoever has none gets the 404 of a thing that does not exist (door.go). What an API key needs follows from it, except where needs says otherwise. Health routes exist at the root too.
func (s *Server) register() {
	on(s, public, "GET /healthz", 200, s.getHealth, "Does the process answer?")
	on(s, public, "GET /readyz", 200, s.getReady, "Do all its parts work?", described("503 names the parts that do not."))
	raw(s, public, "GET /metrics", s.getMetrics, "Metrics in Prometheus' format", answers("200", "Metrics", "text/plain"))

	on(s, public, "POST /auth/login", 200, s.login, "Sign in")
	on(s, public, "POST /auth/refresh", 200, s.refresh, "Exchange a refresh token, which works once, for new tokens")
	on(s, public, "POST /auth/logout", 204, s.logout, "End the session")
	on(s, signedIn, "GET /auth/me", 200, s.me, "Who am I?", needs())

	on(s, signedIn, "POST /api-keys", 201, s.createAPIKey, "Create an API key; it is shown this once", needs(events.ScopeAdmin), keyed)
	on(s, signedIn, "GET /api-keys", 200, s.listAPIKeys, "My API keys, newest first", needs(events.ScopeAdmin))
	on(s, signedIn, "GET /api-keys/{api_key_id}", 200, s.getAPIKey, "An API key, without its secret", needs(events.ScopeAdmin))
	on(s, signedIn, "GET /api-keys/{api_key_id}/history", 200, s.getAPIKeyHistory, "Every event of an API key, oldest first", needs(events.ScopeAdmin))
	on(s, signedIn, "DELETE /api-keys/{api_key_id}", 204, s.revokeAPIKey, "Revoke an API key", needs(events.ScopeAdmin), conditional)

	on(s, signedIn, "POST /projects", 201, s.createProject, "Create a project", keyed)
	on(s, signedIn, "GET /projects", 200, s.listProjects, "My projects, newest first")
	on(s, viewer, "GET /projects/{project_id}", 200, s.getProject, "A project and its sums")
	on(s, editor, "PATCH /projects/{project_id}", 200, s.renameProject, "Rename a project", conditional)
	on(s, owner, "DELETE /projects/{project_id}", 204, s.deleteProject, "Delete a project and everything in it", conditional)
	on(s, viewer, "GET /projects/{project_id}/members", 200, s.listMembers, "Who may see a project")
	on(s, owner, "PUT /projects/{project_id}/members/{user_id}", 200, s.setMember, "Add a member or change a role", conditional)
	on(s, owner, "DELETE /projects/{project_id}/members/{user_id}", 204, s.removeMember, "Remove a member", conditional)

	on(s, editor, "POST /projects/{project_id}/repositories", 201, s.createRepository, "Create a repository", keyed)
	on(s, viewer, "GET /projects/{project_id}/repositories", 200, s.listRepositories, "A project's repositories, newest first")
	on(s, viewer, "GET /repositories/{repository_id}", 200, s.getRepository, "A repository and its latest snapshot")
	on(s, owner, "DELETE /repositories/{repository_id}", 204, s.deleteRepository, "Delete a repository", conditional)
	raw(s, editor, "POST /repositories/{repository_id}/source", s.uploadSource, "Upload the source as an archive: zip, tar, tar.gz or tar.zst", archive, conditional)
	on(s, editor, "POST /repositories/{repository_id}/source/uploads", 201, s.beginUpload, "Begin a direct upload to the file storage, in parts")
	on(s, editor, "GET /repositories/{repository_id}/source/uploads/{upload_id}", 200, s.getUpload, "What has arrived of a direct upload", needs(events.ScopeScan))
	on(s, editor, "POST /repositories/{repository_id}/source/uploads/{upload_id}/parts", 200, s.signParts, "Links to put parts of a direct upload to")
	raw(s, editor, "POST /repositories/{repository_id}/source/uploads/{upload_id}/complete", s.completeUpload, "Complete a direct upload and take the source in", completion)
	on(s, editor, "DELETE /repositories/{repository_id}/source/uploads/{upload_id}", 204, s.abortUpload, "Give a direct upload up")
	on(s, viewer, "GET /repositories/{repository_id}/snapshots", 200, s.listSnapshots, "A repository's snapshots, newest first")
	on(s, viewer, "GET /repositories/{repository_id}/threat-profile", 200, s.getThreatProfile, "The threat profile")
	on(s, editor, "PUT /repositories/{repository_id}/threat-profile", 200, s.putThreatProfile, "Write a new version of the threat profile", conditional)
	on(s, editor, "POST /repositories/{repository_id}/threat-profile/generate", 200, s.generateThreatProfile, "Make what the newest completed scan has drafted the next version of the threat profile", keyed, conditional)
	on(s, editor, "POST /repositories/{repository_id}/scans", 202, s.createScan, "Start a scan", keyed)
	on(s, viewer, "GET /repositories/{repository_id}/scans", 200, s.listRepositoryScans, "A repository's scans, newest first")
	on(s, viewer, "GET /repositories/{repository_id}/findings", 200, s.listRepositoryFindings, "The findings of a repository's last completed scan, worst first")
	raw(s, viewer, "GET /repositories/{repository_id}/events", s.listRepositoryEvents, "What happened to a repository", eventPage)

	on(s, signedIn, "GET /scans", 200, s.listScans, "All scans I may see, newest first")
	on(s, viewer, "GET /scans/{scan_id}", 200, s.getScan, "A scan, as it is or as it was")
	on(s, editor, "POST /scans/{scan_id}/cancel", 202, s.cancelScan, "Stop a scan", keyed, conditional)
	on(s, editor, "POST /scans/{scan_id}/rerun", 202, s.rerunScan, "Scan the same again", keyed)
	raw(s, viewer, "GET /scans/{scan_id}/events", s.getScanEvents, "What happens in a scan, as a page or as a live stream", eventPage, eventStream)
	on(s, viewer, "GET /scans/{scan_id}/history", 200, s.getScanHistory, "Every event of a scan, oldest first")
	on(s, viewer, "GET /scans/{scan_id}/usage", 200, s.getScanUsage, "Every event of a scan's calls to the provider, oldest first")
	on(s, viewer, "GET /scans/{scan_id}/findings", 200, s.listScanFindings, "A scan's findings, worst first")
	on(s, viewer, "GET /scans/{scan_id}/compare", 200, s.compareScan, "What is new since an earlier scan, what is still there, and what is gone",
		described("By class (new, reopened, persisting, unknown, resolved), worst first. What an earlier scan had found already resolved is not listed again."))
	on(s, viewer, "GET /scans/{scan_id}/artifacts", 200, s.listArtifacts, "What a scan left for people")
	raw(s, viewer, "GET /scans/{scan_id}/artifacts/{path}", s.getArtifact, "Download an artifact", artifactFile)
	on(s, viewer, "POST /scans/{scan_id}/downloads", 201, s.createDownload, "Make a link to an artifact or an export that works without a token for a while")
	raw(s, public, "GET /downloads/{token}", s.getDownload, "Download by link", downloadPath)
	raw(s, viewer, "POST /scans/{scan_id}/exports", s.createExport, "Export a scan's findings", exportBody, exportFile)
	raw(s, viewer, "GET /scans/{scan_id}/exports/{format}", s.getExport, "Export a scan's findings, by link", exportPath, exportFile)

	on(s, signedIn, "GET /findings", 200, s.listFindings, "Current findings of all my repositories, worst first")
	on(s, viewer, "GET /findings/{finding_id}", 200, s.getFinding, "A finding, as the latest scan saw it")
	on(s, editor, "PATCH /findings/{finding_id}", 200, s.triageFinding, "Decide about a finding", needs(events.ScopeTriage), conditional)
	on(s, viewer, "GET /findings/{finding_id}/history", 200, s.getFindingHistory, "Every decision about a finding, oldest first")

	on(s, signedIn, "GET /billing/usage", 200, s.getBillingUsage, "What calls to the provider cost, by day, project, user or scan",
		described("Days and scans are newest first, projects and users in the order of their ids. A call counts on the UTC day on which it ended. Members see what the projects they are in have spent, admins everything."))

	on(s, admin, "GET /ops/workers", 200, s.listWorkers, "Workers that have a heartbeat")
	on(s, admin, "POST /ops/workers/{worker_id}/drain", 202, s.drainWorker, "Ask a worker to take no more scans; what it runs goes on")
	on(s, admin, "GET /ops/dead-letters", 200, s.listDeadLetters, "Scans that failed because their last attempt was lost, newest first")
	on(s, admin, "POST /ops/dead-letters/{dead_letter_id}/replay", 202, s.replayDeadLetter, "Scan again what a dead letter asked for; doing it twice is doing it once")
	on(s, admin, "GET /ops/limits", 200, s.listLimits, "The limits that hold")
	on(s, admin, "GET /ops/queue", 200, s.getQueue, "How much waits and runs")
	on(s, admin, "GET /ops/parked", 200, s.listParked, "What the read model could not apply")
	on(s, admin, "GET /ops/read-model", 200, s.getReadModel, "How far the read model is behind the log")
	on(s, admin, "POST /ops/read-model/rebuild", 200, s.rebuildReadModel, "Build the read model anew from the log, compare, and put it in place")

	on(s, public, "GET /healthz", 200, s.getHealth, "", atRoot)
	on(s, public, "GET /readyz", 200, s.getReady, "", atRoot)
	raw(s, public, "GET /metrics", s.getMetrics, "", atRoot)
	s.page("/", indexPage)
	s.page("/docs", docsPage)
	s.router.Get("/openapi.json", s.getOpenAPI)
}
