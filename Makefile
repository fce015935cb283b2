# `make quickstart` and `make test` are all that a newcomer needs; both install what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export LD_LIBRARY_PATH := $(CURDIR)/.torch/lib$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
# Idle OpenMP threads that spin steal the cores that sandboxes need.
export OMP_WAIT_POLICY := passive
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
STATE ?= .sealign/quickstart
TIERS := fast loop parity

.PHONY: help
help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

.PHONY: setup
setup:
	@scripts/setup.sh
	@scripts/libtorch.sh

.PHONY: build
build: setup ## Build the release programs.
	cargo build --release --locked --workspace --bins

.PHONY: quickstart
quickstart: build ## Run the whole loop on this machine: collect, merge, SFT, DPO, measure.
	$(TARGET)/release/sealign run manifests/quickstart.yaml --state $(STATE)

.PHONY: test
test: $(addprefix test-,$(TIERS)) ## Run every tier of tests, fast ones first.
	@echo "test: all tiers passed; test-cluster: skipped (it is not part of this version)"

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

SEEDS ?= 1,2,3
EVAL_SEED ?= 2
.PHONY: learn
learn: build ## Train over SEEDS with both teacher sets and print what learning shows on the tasks of EVAL_SEED.
	python3 scripts/learn.py --sealign $(TARGET)/release/sealign --folder .sealign/learn --seeds $(SEEDS) --eval-seed $(EVAL_SEED)

.PHONY: base-model
base-model: build ## Pretrain the built-in base model again (about 20 minutes on two cores).
	$(TARGET)/release/sealign-trainer pretrain --seed 1 --tokens 6000000 --out trainer/models/mini-base

.PHONY: generate
generate: ## Write the files that are generated from code.
	cargo run --locked --quiet --package sealign-crds --bin crdgen -- crds/yaml

.PHONY: deny
deny: ## Check licences, advisories and sources of dependencies.
	cargo deny check
