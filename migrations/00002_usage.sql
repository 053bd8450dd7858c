-- +goose Up

-- What calls to the provider cost, as the proxy records it.
ALTER TABLE scans
    ADD COLUMN reasoning_tokens        bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_requests       bigint NOT NULL DEFAULT 0, -- what is set aside for calls on their way
    ADD COLUMN reserved_input_tokens   bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_output_tokens  bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_cost_nano_usd  bigint NOT NULL DEFAULT 0,
    ADD COLUMN denied                  text   NOT NULL DEFAULT '', -- the cap that denied the newest call
    ADD COLUMN usage_seq               bigint NOT NULL DEFAULT 0; -- the newest usage event; 0: there was none

ALTER TABLE project_usage ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0;

-- What the calls of a scan cost that ended on a day. Sums by day, project and user are made of these when somebody asks. Only what no index holds changes in a row.
CREATE TABLE day_usage (
    day                 text COLLATE "C" NOT NULL, -- UTC, such as 2026-11-01
    scan_id             text COLLATE "C" NOT NULL,
    project_id          text COLLATE "C" NOT NULL,
    repository_id       text COLLATE "C" NOT NULL,
    user_id             text COLLATE "C" NOT NULL,
    scan_seq            bigint NOT NULL, -- created_seq of the scan
    requests            bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    reasoning_tokens    bigint NOT NULL,
    cost_nano_usd       bigint NOT NULL,
    estimated_requests  bigint NOT NULL, -- calls of which nobody said what they cost
    seq                 bigint NOT NULL,
    PRIMARY KEY (day, scan_id)
) WITH (fillfactor = 80);
CREATE INDEX day_usage_of_project ON day_usage (project_id, day);
CREATE INDEX day_usage_of_user ON day_usage (user_id, day);
CREATE INDEX day_usage_of_scan ON day_usage (scan_id);
