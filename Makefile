# `make quickstart` and `make test` are all that a newcomer needs; both install what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export LD_LIBRARY_PATH := $(CURDIR)/.torch/lib$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
# Idle OpenMP threads that spin steal the cores that sandboxes need.
export OMP_WAIT_POLICY := passive
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
STATE ?= .sealign/quickstart
# Minutes on two cores with empty caches, of which compiling: fast 10 (4), loop 14 (10), parity 1, chart 7 (6: Kubernetes, helm
# and its test runner), cluster 14 (6: containerd, runc, an S3 server). The last two need Go, and the cluster root: they say what they
# skip and why.
TIERS := fast loop parity chart cluster

.PHONY: help
help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

.PHONY: setup
setup:
	@scripts/setup.sh
	@scripts/libtorch.sh

.PHONY: build
build: setup ## Build the release programs.
	cargo build --release --locked --workspace --exclude sealign-fleet-tests --bins

.PHONY: quickstart
quickstart: build ## Run the whole loop on this machine: collect, merge, SFT, DPO, measure.
	$(TARGET)/release/sealign run manifests/quickstart.yaml --state $(STATE)

.PHONY: test
test: $(addprefix test-,$(TIERS)) ## Run every tier of tests, fast ones first.
	@echo "test: all tiers passed, but for what a line above says was skipped; not among them: make test-fleet, make test-long"

.PHONY: test-fast
test-fast: setup ## Format, lints, pure crates, contracts, simulation.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace

.PHONY: test-loop
test-loop: build ## Embedded runs of the release programs: the loop, kills, bad input.
	tests/loop/run.sh $(TARGET)/release

.PHONY: test-parity
test-parity: build ## The trainer beside transformers and TRL.
	tests/parity/run.sh $(TARGET)/release/sealign-trainer

.PHONY: test-chart
test-chart: ## The chart: lint, unit tests, schemas, alerts, dashboards, admission policies on a real API server.
	tests/chart/run.sh

.PHONY: test-cluster
test-cluster: ## The operator on real nodes: Helm, pods, S3, kills. Says why where there can be none (needs root and Go).
	tests/cluster/run.sh test

.PHONY: test-fleet
test-fleet: ## Campaigns of a thousand attempts on fake nodes of a real control plane, with kills and faults (needs Go).
	tests/fleet/run.sh

.PHONY: cluster
cluster: ## A cluster on this machine with the operator installed, until Ctrl-C (needs root and Go).
	tests/cluster/run.sh play

.PHONY: parity
parity: test-parity

.PHONY: parity-smollm2
parity-smollm2: build ## The trainer and its server beside transformers on a real model (minutes; downloads 93 MB once).
	tests/parity/smollm2.sh $(TARGET)/release/sealign-trainer

.PHONY: bench-trainer
bench-trainer: build ## What a training step costs beside TRL: one JSON line a case (about an hour; BENCH passes arguments).
	tests/bench/run.sh $(TARGET)/release/sealign-trainer $(BENCH)

.PHONY: test-long
test-long: setup ## The tests that take too long for CI.
	cargo test --locked --package sealign-simulation -- --ignored --nocapture
	tests/fleet/run.sh --long
	tests/seeded/run.py

.PHONY: test-seeded
test-seeded: ## Seeded bugs: each is built into a copy of the sources, and its tests have to fail (about half an hour).
	tests/seeded/run.py

SEEDS ?= 1,2,3
EVAL_SEED ?= 2
.PHONY: learn
learn: build ## Train over SEEDS with both teacher sets and print what learning shows on the tasks of EVAL_SEED.
	python3 scripts/learn.py --sealign $(TARGET)/release/sealign --folder .sealign/learn --seeds $(SEEDS) --eval-seed $(EVAL_SEED)

DEMO ?= demo
.PHONY: demo-smollm2
demo-smollm2: build ## A real model, SmolLM2-135M, through the whole loop (within an hour; DEMO=demo-guessing for other teachers).
	scripts/demo.sh $(TARGET)/release $(DEMO)

.PHONY: base-model
base-model: build ## Pretrain the built-in base model again (about an hour and a half on one core).
	$(TARGET)/release/sealign-trainer pretrain --seed 1 --tokens 36000000 --out trainer/models/mini-base

.PHONY: generate
generate: ## Write the files that are generated from code.
	cargo run --locked --quiet --package sealign-crds --bin crdgen -- crds/yaml
	PATH="$$(tests/cluster/binaries.sh --path helm 2>/dev/null || true):$$PATH" python3 charts/generate.py

.PHONY: sandbox-static
sandbox-static: ## Build the sandbox server without a C library, as it runs in pods of any image.
	rustup target add "$$(uname -m)-unknown-linux-musl"
	cargo build --release --locked --target "$$(uname -m)-unknown-linux-musl" --package sealign-sandbox
	@echo "$(TARGET)/$$(uname -m)-unknown-linux-musl/release/sealign-sandbox"

IMAGE_TAG ?= dev
.PHONY: images
images: ## Build the images with docker or podman, where one of them works here.
	@tool=; for each in docker podman; do if $$each info >/dev/null 2>&1; then tool=$$each; break; fi; done; \
	if [ -z "$$tool" ]; then echo "images: neither docker nor podman works here: nothing was built" >&2; exit 1; fi; \
	$$tool build -f images/Dockerfile.sealign -t sealign:$(IMAGE_TAG) . && \
	$$tool build -f images/Dockerfile.trainer -t sealign-trainer:$(IMAGE_TAG) . && \
	$$tool build -f images/Dockerfile.mini -t sealign-mini:$(IMAGE_TAG) images

.PHONY: deny
deny: ## Check licences, advisories and sources of dependencies.
	cargo deny check
