#!/usr/bin/env bash
# run.sh test [SCENARIO] | play [OPTION...]: builds what a bed needs, then tests on it, or keeps it until Ctrl-C.
#
# Where there can be no bed (probe.sh tries everything first) it says why and that nothing was tested, and ends well; with
# SEALIGN_CLUSTER_REQUIRED set it fails instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-test}
shift || true
target=${CARGO_TARGET_DIR:-$PWD/target}

if [[ -z ${SEALIGN_TEST_KUBECONFIG:-} ]]; then
	if ! said=$(tests/cluster/probe.sh); then
		sed 's/^/test-cluster: SKIPPED, nothing was tested on a cluster: /' <<<"$said"
		[[ $mode == test && -z ${SEALIGN_CLUSTER_REQUIRED:-} ]] && exit 0
		exit 1
	fi
	tests/cluster/binaries.sh
	[[ "$*" != *--fake-nodes* ]] || tests/cluster/binaries.sh kwok
	[[ -n ${SEALIGN_PROGRAMS:-} ]] || make build
	[[ -n ${SEALIGN_SANDBOX:-} ]] || make sandbox-static
fi
if [[ $mode == play ]]; then
	# `make build` has built it with the programs.
	bed=${SEALIGN_PROGRAMS:-$target/release}/sealign-bed
	if [[ ! -x $bed ]]; then
		cargo build --locked --workspace --bin sealign-bed
		bed=$target/debug/sealign-bed
	fi
	exec "$bed" --install --trainer "$@"
fi
# Only the programs under test are optimised. The whole workspace is named because test-fast has: the features of
# dependencies stay the same, and nothing is compiled twice.
export SEALIGN_CLUSTER=1
exec cargo test --locked --workspace --test cluster -- "$@"
