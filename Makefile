# Everything needed beyond Go and git is installed by the targets themselves, on Debian: see .ci/prerequisites.sh.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The version that `hourvault version` prints: the tag, or the last tag and commit, with -dirty for local changes.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The commit that it prints where go build records none; empty where git cannot tell either.
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
# Packages that `make test` runs, and more arguments for go test: make test PACKAGES=./crypto/... TESTFLAGS='-run Seal -v'
PACKAGES ?= ./...
TESTFLAGS ?=
# Packages with long variants of tests, for `make test-long`.
LONGPACKAGES ?= ./internal/repository ./internal/endtoend
# How long `make fuzz` runs each target.
FUZZTIME ?= 2m
# More arguments for the benchmarks: make bench BENCHFLAGS='-size 500MB'
BENCHFLAGS ?=

.PHONY: help build demo test test-long fuzz bench test-servers lint format vuln clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/hourvault
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/hourvault ./cmd/hourvault

demo: ## show the whole cycle on throw-away parts; installs PostgreSQL if there is none
	@.ci/postgres.sh any >/dev/null
	@$(MAKE) --no-print-directory build
	@PATH="$$(.ci/postgres.sh any):$$PATH" bin/hourvault demo

test-servers: ## install what the tests run against: PostgreSQL 15, 17 and 18, and two S3 servers
	.ci/prerequisites.sh gcc libc6-dev tzdata
	.ci/postgres.sh 15 17 18
	.ci/tools.sh versitygw minio

test: test-servers ## run every test against real servers, with the race detector
	HOURVAULT_TEST_REQUIRE=1 CGO_ENABLED=1 go test -race -timeout 20m -p 2 $(TESTFLAGS) $(PACKAGES)

# The long variants run one package at a time and without the race detector: they are about many schedules and much data.
test-long: test-servers ## run the long variants of the crash, schedule, tamper and memory tests: an hour or more
	HOURVAULT_TEST_REQUIRE=1 HOURVAULT_TEST_LONG=1 go test -timeout 6h -p 1 -v $(TESTFLAGS) $(LONGPACKAGES)

fuzz: ## run every fuzz target for FUZZTIME each
	.ci/fuzz.sh $(FUZZTIME)

bench: test-servers ## measure backup and restore side by side with other tools: about an hour, 20 GB of disk
	.ci/bench.sh $(BENCHFLAGS)

lint: ## check formatting, go.mod, go vet, and golangci-lint with the layers of the code
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make format:"; echo "$$unformatted"; exit 1; fi
	go mod tidy -diff
	go vet ./...
	.ci/depguard-test.sh
	linter=$$(.ci/tools.sh golangci-lint); "$$linter" run ./...

format: ## format all Go files
	gofmt -w .

vuln: ## look for known vulnerabilities that the code reaches, where the database can be reached
	.ci/vuln.sh

clean: ## remove bin; servers and tools stay in the cache
	rm -rf bin
