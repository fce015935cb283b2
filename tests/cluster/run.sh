#!/usr/bin/env bash
# run.sh test [SCENARIO] | play: installs and builds what a bed needs, then tests on it, or keeps it until Ctrl-C.
#
# Where there can be no bed it says what is missing and that nothing was tested, and ends well; with
# SEALIGN_CLUSTER_REQUIRED set it fails instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-test}
shift || true

skip() {
	echo "test-cluster: SKIPPED, nothing was tested on a cluster: $1" >&2
	[[ -z ${SEALIGN_CLUSTER_REQUIRED:-} ]] && exit 0
	exit 1
}

if [[ -z ${SEALIGN_TEST_KUBECONFIG:-} ]]; then
	[[ $(uname -s) == Linux ]] || skip "real nodes need Linux"
	[[ $(id -u) == 0 ]] || skip "real nodes need root (network namespaces, control groups)"
	command -v go >/dev/null || skip "Go is missing: Kubernetes, containerd and the S3 server are built from its modules"
	ip netns list >/dev/null 2>&1 || command -v apt-get >/dev/null || skip "network namespaces cannot be made here"
	packages=(busybox-static conntrack containernetworking-plugins curl ethtool gcc ipset iproute2 iptables libseccomp-dev
		nftables openssl pkg-config prometheus socat)
	missing=()
	for package in "${packages[@]}"; do
		dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
	done
	if [[ ${#missing[@]} -gt 0 ]]; then
		command -v apt-get >/dev/null || skip "missing packages: ${missing[*]}"
		echo "installing ${missing[*]}" >&2
		apt-get update -qq
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	fi
	tests/cluster/binaries.sh
fi
if [[ -z ${SEALIGN_PROGRAMS:-} ]]; then make build sandbox-static; fi
if [[ $mode == play ]]; then
	exec cargo run --release --locked --quiet --package sealign-cluster-tests --bin sealign-bed -- --install --trainer "$@"
fi
export SEALIGN_CLUSTER=1
exec cargo test --release --locked --package sealign-cluster-tests --test cluster -- "$@"
