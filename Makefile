# What a developer runs. Every target works from a fresh clone; what it needs is installed by scripts/test-deps.sh.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PACKAGES ?= ./...
FUZZTIME ?= 30s
BENCH    ?= .
SEED     ?= 0
CHAOSTIME ?= 10m
LINT     := .tools/golangci-lint

.PHONY: help run build test test-long chaos race lint bench fuzz gen check codex-image

help: ## say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

run: ## serve on this machine: the API at http://127.0.0.1:8000
	@go run ./cmd/vega

build: ## bin/vega, which keeps its exit codes (go run turns each into 1)
	@go build -o bin/vega ./cmd/vega

codex-image: ## the image that Codex audits a source in, vega-codex-runner:latest
	@docker build --target codex-runner --tag vega-codex-runner:latest .

test: ## everything that is quick, with real parts
	@scripts/test-deps.sh test
	go test -timeout 20m -p 2 $(PACKAGES)

test-long: ## what takes minutes: large archives, long chaos runs
	@scripts/test-deps.sh test
	go test -tags long -timeout 120m -p 1 $(PACKAGES)

chaos: ## kill, stop, cut off and slow down everything for CHAOSTIME; SEED=n does the same again
	@scripts/test-deps.sh test
	go test ./cmd/vega -run '^TestChaos$$' -v -count=1 -timeout 24h -chaos.for=$(CHAOSTIME) -chaos.seed=$(SEED)

race: ## the quick tests under the race detector
	@scripts/test-deps.sh test
	go test -race -timeout 30m -p 2 $(PACKAGES)

lint: ## golangci-lint, the version that scripts/test-deps.sh pins
	@scripts/test-deps.sh lint
	$(LINT) run $(PACKAGES)

bench: ## every benchmark, one package at a time (BENCH=regexp chooses), then scans through the whole product
	@scripts/test-deps.sh bench
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m -p 1 $(PACKAGES)
	go run ./cmd/vega bench --quiet

fuzz: ## every fuzz target for FUZZTIME, one after the other
	@scripts/fuzz.sh $(FUZZTIME)

gen: ## everything that is generated: documentation, lint floors, golden descriptions
	go generate ./...

check: test lint ## all that must hold before a change lands, fuzzers included
	go vet ./...
	@scripts/fuzz.sh $(FUZZTIME)
