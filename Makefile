# The front door. `make` alone says what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GENERATED := crds charts/portal-release-operator/files/crds
# Shell scripts, by their first line.
SCRIPTS = $(shell git grep -lE '^\#!/usr/bin/env bash' -- . ':!*.md') $(shell git ls-files '*.sh')

.PHONY: help
help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## A release from Pending to Live in a local cluster, and what to try next. DEMO_SITES=2000 sets its size.
	@e2e/demo/demo up

.PHONY: demo-down
demo-down: ## Stop and delete everything that `make demo` started.
	@e2e/demo/demo down

.PHONY: test
test: ## All tests, in a local environment of their own. T=name runs the tests whose path holds name.
	@e2e/run-tests $(T)

.PHONY: test-upgrade
test-upgrade: ## Releases that one version begins and another ends. Not part of `make test` yet: some of them fail.
	@FEATURES=upgrade-tests e2e/run-tests mid_run at_rest downgrade crds::

.PHONY: test-unit
test-unit: ## The unit tests; they need no cluster.
	cargo test --locked --lib --bins

.PHONY: bench-swap
bench-swap: ## What readers notice of 1,000 swaps, and of other ways to swap: a table, raw figures and a plot. QUICK=1 takes 5 minutes.
	@e2e/bench/swap/run $(if $(QUICK),--quick)

.PHONY: bench-import
bench-import: ## An import of 300,000 sites beside a script by hand, COPY and batches of 10: a table and a plot. QUICK=1 takes 3 minutes.
	@e2e/bench/import/run $(if $(QUICK),--quick)

.PHONY: bench-scale
bench-scale: ## What 5,000 finished releases of one portal, and 100 portals, cost at a restart and at rest. AGAINST=commit beside it; QUICK=1 takes 5 minutes.
	@e2e/bench/scale/run $(if $(QUICK),--quick) $(if $(AGAINST),--against $(AGAINST))

.PHONY: lint
lint: ## Format, clippy with warnings as errors, and shellcheck where it is installed.
	@cargo fmt --version >/dev/null 2>&1 || { echo "rustfmt is missing: run 'rustup component add rustfmt'" >&2; exit 1; }
	@cargo clippy --version >/dev/null 2>&1 || { echo "clippy is missing: run 'rustup component add clippy'" >&2; exit 1; }
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then echo shellcheck; shellcheck --external-sources --severity=warning $(SCRIPTS); \
	else echo "shellcheck is not installed: scripts are not checked"; fi

.PHONY: generate
generate: ## The CRDs in crds/ and in the chart, from the Rust types.
	@cargo build --locked --quiet
	@rm -f $(addsuffix /*.yaml,$(GENERATED))
	cargo run --locked --quiet -- crd --out crds
	cp crds/*.yaml charts/portal-release-operator/files/crds/

.PHONY: check-generated
check-generated: generate ## Fails when generated files are not as committed.
	@git diff --exit-code -- $(GENERATED) || { echo "generated files differ from what is committed: run 'make generate' and commit" >&2; exit 1; }
	@new=$$(git ls-files --others --exclude-standard -- $(GENERATED)); \
	[[ -z $$new ]] || { echo "generated files are not committed: $$new" >&2; exit 1; }

.PHONY: chart
chart: ## Helm's own checks of the chart.
	@bin=$$(e2e/local/local tools); \
	"$$bin/helm" lint charts/portal-release-operator; \
	"$$bin/helm" template portal-release charts/portal-release-operator --namespace portal-release >/dev/null; \
	"$$bin/helm" template portal-release charts/portal-release-operator --namespace portal-release --set replicas=2 \
	  --set 'watch[0].namespace=portal' --set 'watch[0].secrets={portal-db}' >/dev/null

.PHONY: clean
clean: ## Delete what was built here. Environments and the tools' cache stay: see e2e/local/README.md.
	cargo clean
