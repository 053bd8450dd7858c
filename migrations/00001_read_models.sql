-- +goose Up

-- The read models: rows folded from the event log. Nothing here is the only copy of anything.
--
-- Rules of every table:
--  * There are no foreign keys: an event may name what another event, of a later sequence or of an aggregate that is parked, makes.
--  * Text is compared byte by byte (COLLATE "C"), as the program does. A NUL byte, which Postgres refuses and an event may hold, is written as
--    \x01\x01 and \x01 as \x01\x02, which keeps that order.
--  * A moment is bigint: nanoseconds since 1970 UTC, NULL for none. timestamptz keeps microseconds, and answers hold what the event
--    held. Lists are ordered by sequence, never by time. to_timestamp(x / 1e9) reads one.
--  * A sequence or a version is a bigint. created_seq is the event that made the row, and the order of lists.
--  * json, not jsonb, is for documents that are only ever read whole and with their row: no query looks inside, json keeps number
--    and key as they were written, and \u0000 in a string, which jsonb refuses. Whatever a query filters, orders or sums by is a column.
--  * Tables whose rows change often leave room in their pages, so that an update which touches no index stays in its page.

-- One row: up to where, and of which log, the rows of this schema are true. It is locked by whoever writes, which makes it the fence between
-- processes, and changes in the transaction that changes the rows.
CREATE TABLE checkpoint (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    seq         bigint NOT NULL,
    stream      text   NOT NULL,
    created_ns  bigint,          -- of the stream
    rows_schema integer NOT NULL, -- the number of the rows' shape and of what the program does with events
    edition     text   NOT NULL  -- random, new for every set of rows that was filled from the log's beginning
) WITH (fillfactor = 10);
INSERT INTO checkpoint (seq, stream, rows_schema, edition) VALUES (0, '', 0, '');

-- Nothing is in it. Every query names it first, and a rebuild that exchanges the tables for others locks it: so it waits for the queries that have begun, and those that
-- begin meanwhile find the new tables, all of them.
CREATE TABLE gate ();

CREATE TABLE projects (
    id          text COLLATE "C" PRIMARY KEY,
    name        text    NOT NULL,
    members     json,             -- user → role, read with its project; the table members is for finding projects by user
    deleted     boolean NOT NULL,
    created_ns  bigint,
    updated_ns  bigint,
    version     bigint  NOT NULL,
    created_seq bigint  NOT NULL,
    seq         bigint  NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX projects_newest ON projects (created_seq DESC) WHERE NOT deleted;

CREATE TABLE members (
    project_id  text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    created_seq bigint NOT NULL,  -- of the project
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX members_projects ON members (user_id, created_seq DESC) INCLUDE (project_id);

-- What the scans of a project spent in all, summed as scans end: a project may have a million of them.
CREATE TABLE project_usage (
    project_id          text COLLATE "C" PRIMARY KEY,
    requests            bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    cost_nano_usd       bigint NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE repositories (
    id            text COLLATE "C" PRIMARY KEY,
    project_id    text COLLATE "C" NOT NULL,
    name          text    NOT NULL,
    source_type   text    NOT NULL,
    git_url       text    NOT NULL,
    git_ref       text    NOT NULL,
    ingest_status text    NOT NULL,
    upload_id     text    NOT NULL,
    ingest_error  json,            -- the refusal as the log tells it, with whatever details it has
    latest        text    NOT NULL,
    profile       json,            -- the threat profile, lists of sentences
    profile_by    text    NOT NULL,
    profile_ns    bigint,
    deleted       boolean NOT NULL,
    created_ns    bigint,
    updated_ns    bigint,
    version       bigint  NOT NULL,
    created_seq   bigint  NOT NULL,
    seq           bigint  NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX repositories_newest ON repositories (project_id, created_seq DESC);

CREATE TABLE snapshots (
    repository_id text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    files         bigint NOT NULL,
    bytes         bigint NOT NULL,
    manifest      json   NOT NULL, -- a stored object's name, key, digest and size
    pack          json   NOT NULL,
    warnings      json,            -- at most 100, shown with the snapshot
    warned        bigint NOT NULL,
    created_ns    bigint,
    created_seq   bigint NOT NULL,
    PRIMARY KEY (repository_id, id)
);
CREATE INDEX snapshots_newest ON snapshots (repository_id, created_seq DESC);
CREATE INDEX snapshots_users ON snapshots (id) INCLUDE (repository_id);

CREATE TABLE scans (
    id                  text COLLATE "C" PRIMARY KEY,
    project_id          text COLLATE "C" NOT NULL,
    repository_id       text COLLATE "C" NOT NULL,
    snapshot_id         text   NOT NULL,
    user_id             text   NOT NULL,
    paths               text[],
    model               text   NOT NULL,
    priority            text   NOT NULL,
    priority_rank       smallint NOT NULL, -- 0 is taken first
    rerun_of            text   NOT NULL,
    profile_version     bigint NOT NULL,
    status              text COLLATE "C" NOT NULL,
    attempt             bigint NOT NULL,
    max_attempts        bigint NOT NULL,
    worker_id           text   NOT NULL,
    generation          bigint NOT NULL,
    ready_seq           bigint NOT NULL,
    stages              json,              -- what each stage stored and why it left things out, with its artifacts; shown with the scan
    coverage_state      text   NOT NULL,
    coverage_reasons    json,              -- sentences, shown with the scan
    critical            bigint NOT NULL,
    high                bigint NOT NULL,
    medium              bigint NOT NULL,
    low                 bigint NOT NULL,
    info                bigint NOT NULL,
    rejected            bigint NOT NULL,
    requests            bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    cost_nano_usd       bigint NOT NULL,
    failure_attempt     bigint,            -- NULL: it did not fail
    failure_code        text COLLATE "C",
    failure_message     text,
    created_ns          bigint,
    claimed_ns          bigint,
    started_ns          bigint,
    finished_ns         bigint,
    version             bigint NOT NULL,
    created_seq         bigint NOT NULL,
    seq                 bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX scans_newest ON scans (created_seq DESC);
CREATE INDEX scans_of_project ON scans (project_id, created_seq DESC);
CREATE INDEX scans_of_repository ON scans (repository_id, created_seq DESC);
-- The last completed scan of a repository, whose findings are the current ones.
CREATE INDEX scans_completed ON scans (repository_id, created_seq DESC) INCLUDE (id) WHERE status = 'completed';
CREATE INDEX scans_unfinished ON scans (created_seq) WHERE status IN ('queued', 'claimed', 'running', 'cancelling');
-- The waiting line: a scan's place is how many entries lie before its own.
CREATE INDEX scans_waiting ON scans (priority_rank, ready_seq) INCLUDE (priority) WHERE status = 'queued';
-- Dead letters are failed scans of one code.
CREATE INDEX scans_failed ON scans (failure_code, created_seq DESC) WHERE failure_code IS NOT NULL;
-- Those that ended otherwise than most, which a walk through all would find late.
CREATE INDEX scans_ended_badly ON scans (status, created_seq DESC) WHERE status IN ('failed', 'cancelled');

CREATE TABLE findings (
    scan_id       text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    project_id    text COLLATE "C" NOT NULL,
    repository_id text COLLATE "C" NOT NULL,
    fingerprint   text   NOT NULL,
    rule          text   NOT NULL,
    stage         text   NOT NULL,
    severity      text COLLATE "C" NOT NULL,
    rank          smallint NOT NULL, -- of the severity: 0 is critical, 5 is none that we know
    title         text   NOT NULL,
    description   text   NOT NULL,
    file          text COLLATE "C" NOT NULL,
    start_line    bigint NOT NULL,
    end_line      bigint NOT NULL,
    snippet       text   NOT NULL,
    symbol        text   NOT NULL,
    cwe           text[],
    confidence    text   NOT NULL,
    validation    text   NOT NULL,
    evidence      text   NOT NULL,
    remediation   text   NOT NULL,
    also          text[],
    recorded_ns   bigint,
    created_seq   bigint NOT NULL,
    first_seq     bigint NOT NULL,   -- created_seq of the first time that this scan recorded it: which scan saw a finding last goes by this
    PRIMARY KEY (scan_id, id)
);
-- The order of findings. An index entry holds at most 2,700 bytes and a path may be longer, so its first 500 characters are in it and the rest of the
-- order is sorted among those that share them.
CREATE INDEX findings_worst ON findings (scan_id, rank, left(file, 500), start_line);
CREATE INDEX findings_latest ON findings (id, first_seq DESC);

CREATE TABLE triages (
    finding_id    text COLLATE "C" PRIMARY KEY,
    project_id    text   NOT NULL,
    repository_id text   NOT NULL,
    state         text COLLATE "C" NOT NULL,
    reason        text   NOT NULL,
    note          text   NOT NULL,
    actor         text   NOT NULL,
    at_ns         bigint,
    version       bigint NOT NULL,
    seq           bigint NOT NULL
);

CREATE TABLE api_keys (
    id          text COLLATE "C" PRIMARY KEY,
    user_id     text COLLATE "C" NOT NULL,
    name        text    NOT NULL,
    scopes      text[],
    admin       boolean NOT NULL,
    expires_ns  bigint,
    revoked_ns  bigint,
    revoked_by  text    NOT NULL,
    created_ns  bigint,
    version     bigint  NOT NULL,
    created_seq bigint  NOT NULL,
    seq         bigint  NOT NULL
);
CREATE INDEX api_keys_newest ON api_keys (created_seq DESC);
CREATE INDEX api_keys_of_user ON api_keys (user_id, created_seq DESC);

-- Aggregates with an event that could not be applied.
CREATE TABLE parked (
    aggregate text COLLATE "C" PRIMARY KEY,
    seq       bigint NOT NULL,
    problem   text   NOT NULL,
    skipped   bigint NOT NULL
);
