-- +goose Up

-- Which scan a scan is compared with, what it alone may spend, and how far its stages that are made of pieces are.
ALTER TABLE scans
    ADD COLUMN base_scan_id text NOT NULL DEFAULT '', -- the repository's last completed scan when this one was asked for
    ADD COLUMN pack_digest  text NOT NULL DEFAULT '', -- of the engine pack that its last attempt went by
    ADD COLUMN budget       json,                     -- requests, tokens and nano-dollars; shown with the scan, and enforced by who reads the log
    ADD COLUMN units        json,                     -- recorded pieces by stage, shown with the scan
    ADD COLUMN event_ns     bigint,                   -- when its newest event was made
    ADD COLUMN usage_ns     bigint;                   -- when its newest usage event was made
