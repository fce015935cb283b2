#!/usr/bin/env bash
# run.sh [--long] [WORD...]: campaigns of thousands of attempts on a real control plane with fake nodes, with kills and faults.
#
# Without arguments the short scenarios, with --long the long ones, with words those whose names contain one. Needs no root: everything
# is on the loopback interface. Where the programs cannot be built it says so and ends well; with SEALIGN_CLUSTER_REQUIRED set it fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
	echo "test-fleet: SKIPPED, nothing was tested at scale: $1" >&2
	[[ -z ${SEALIGN_CLUSTER_REQUIRED:-} ]] && exit 0
	exit 1
}

if [[ -z ${SEALIGN_KUBE_BIN:-} ]]; then
	[[ $(uname -s) == Linux ]] || skip "pods listen on addresses of Linux's loopback range"
	command -v go >/dev/null || skip "Go is missing: Kubernetes and kwok are built from its modules"
	tests/cluster/binaries.sh kube kwok
fi
export SEALIGN_CLUSTER=1
exec cargo test --release --locked --package sealign-fleet-tests --test fleet -- "$@"
