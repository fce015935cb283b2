#!/usr/bin/env bash
# Builds the programs of the test bed from Go modules, once per pin, into ${XDG_CACHE_HOME:-~/.cache}/sealign.
#
#   binaries.sh [GROUP...]          build what is missing (what tests use, without arguments)
#   binaries.sh --path [GROUP...]   print the folders as a PATH; exit 3 and name what is missing
#   binaries.sh --fetch [GROUP...]  download the modules of what is missing: what a build can fail for without a fault here
#
# Groups: kube helm containerd runc versitygw netpold dns for a bed, kubeconform helm-unittest for the chart's checks, kwok for
# beds with fake nodes. A cold build of all but kwok takes about 20 minutes of CPU and 10 GB of disk while it runs.
# A group's folder is named by the digest of what decides its content (go.mod, go.sum, Go's version, flags, pins), and
# a program appears in it under its name only when it is whole. One build at a time: they are large.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sealign

GROUPS_USED=(kube helm containerd runc versitygw netpold dns)
GROUPS_ALL=("${GROUPS_USED[@]}" kubeconform helm-unittest kwok)
# The newest Go that one of them asks for: containerd's.
GO_MINIMUM=1.26.8
# Go's cache while Kubernetes is built is about 5 GB, with the other groups 8; MiB.
DISK_MIB=10240
KUBERNETES=v1.36.3
CONTAINERD=v2.3.7
RUNC=v1.4.3
VERSITYGW=v1.8.0
KUBECONFORM=v0.7.0

component=k8s.io/component-base/version
kube_flags="-s -w -X $component.gitVersion=$KUBERNETES -X $component.gitMajor=1 -X $component.gitMinor=36"
kube_flags+=" -X k8s.io/client-go/pkg/version.gitVersion=$KUBERNETES"

# The module folder (or -) and everything else that decides what a group holds.
describe() {
	case $1 in
	kube) echo "kube $kube_flags" ;;
	helm | kwok) echo "tools $1" ;;
	dns | helm-unittest | netpold) echo "$1" ;;
	containerd) echo "- $CONTAINERD" ;;
	runc) echo "- $RUNC seccomp" ;;
	versitygw) echo "- $VERSITYGW" ;;
	kubeconform) echo "- $KUBECONFORM" ;;
	*)
		echo "binaries.sh: no group $1; there are: ${GROUPS_ALL[*]}" >&2
		return 2
		;;
	esac
}

programs() {
	case $1 in
	kube) echo kube-apiserver kube-controller-manager kube-scheduler kubectl etcd kubelet kube-proxy ;;
	containerd) echo containerd containerd-shim-runc-v2 ctr ;;
	*) echo "$1" ;;
	esac
}

folder() {
	local described module
	described=$(describe "$1")
	module=${described%% *}
	{
		go env GOVERSION GOARCH
		echo "$1 $described"
		if [[ $module != - ]]; then (cd "$here/go/$module" && cat go.mod go.sum $(ls ./*.go 2>/dev/null)); fi
	} | sha256sum | { read -r digest _ && echo "$cache/$1-$digest"; }
}

missing() {
	local group=$1 program
	for program in $(programs "$group"); do
		[[ -x $(folder "$group")/bin/$program ]] || echo "$program"
	done
}

# Runs a `go build` or `go install`, and puts the program in the group's folder when it is whole. Fetching, it only plans the
# build, for which Go needs the source of everything.
make_program() {
	local program=$1
	shift
	if [[ -n $fetch ]]; then
		said=$("$1" "$2" -n "${@:3}" 2>&1 | tail -n 1) || {
			echo "the source of $program cannot be had: $said"
			exit 3
		}
		return
	fi
	"$@"
	mv "$stage/$program" "$bin/$program"
	echo "  $program (after $SECONDS s)"
}

# Builds PACKAGE of MODULE and puts it in the group's folder as PROGRAM.
build() {
	local module=$1 program=$2 package=$3 flags=${4:--s -w}
	[[ ! -x $bin/$program ]] || return 0
	pushd "$here/go/$module" >/dev/null
	GOFLAGS="-mod=readonly -buildvcs=false -p=2" CGO_ENABLED=0 \
		make_program "$program" go build -trimpath -ldflags "$flags" -o "$stage/$program" "$package"
	popd >/dev/null
}

# The same for a package at a pinned version that needs no module of ours.
install() {
	local program=$1 package=$2
	shift 2
	[[ ! -x $bin/$program ]] || return 0
	GOFLAGS="-buildvcs=false -p=2" CGO_ENABLED=${CGO:-0} GOBIN=$stage \
		make_program "$program" go install -trimpath "$@" "$package"
}

# What kwok plays: nodes become ready, pods run and go when deleted. Not the stage that completes pods by itself.
copy_stages() {
	local module stage_file
	module=$(cd "$here/go/tools" && GOFLAGS=-mod=readonly go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
	for stage_file in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-ready pod/fast/pod-delete; do
		echo ---
		cat "$module/kustomize/stage/$stage_file.yaml"
	done >"$stage/stages.yaml"
	mv "$stage/stages.yaml" "$bin/stages.yaml"
}

build_group() {
	local c=github.com/containerd/containerd/v2 k=k8s.io/kubernetes/cmd program
	case $1 in
	kube)
		build kube kube-apiserver $k/kube-apiserver "$kube_flags"
		build kube etcd go.etcd.io/etcd/server/v3
		for program in kubectl kube-controller-manager kube-scheduler kubelet kube-proxy; do
			build kube $program $k/$program "$kube_flags"
		done
		;;
	containerd)
		for program in containerd containerd-shim-runc-v2 ctr; do
			install $program $c/cmd/$program@$CONTAINERD -ldflags "-s -w -X $c/version.Version=$CONTAINERD"
		done
		;;
	runc) CGO=1 install runc github.com/opencontainers/runc@$RUNC -tags "seccomp urfave_cli_no_docs" -ldflags "-s -w -X main.version=${RUNC#v}" ;;
	helm) build tools helm helm.sh/helm/v4/cmd/helm ;;
	versitygw) install versitygw github.com/versity/versitygw/cmd/versitygw@$VERSITYGW -ldflags "-s -w" ;;
	kwok)
		copy_stages
		build tools kwok sigs.k8s.io/kwok/cmd/kwok
		;;
	kubeconform) install kubeconform github.com/yannh/kubeconform/cmd/kubeconform@$KUBECONFORM -ldflags "-s -w" ;;
	helm-unittest) build helm-unittest helm-unittest github.com/helm-unittest/helm-unittest/cmd/helm-unittest ;;
	dns | netpold) build "$1" "$1" . ;;
	esac
}

print_path() {
	local group absent=() path=()
	for group in "${groups[@]}"; do
		[[ -z $(missing "$group") ]] || absent+=("$group")
		path+=("$(folder "$group")/bin")
	done
	(
		IFS=:
		echo "${path[*]}"
	)
	[[ ${#absent[@]} == 0 ]] || {
		echo "not built: ${absent[*]} (tests/cluster/binaries.sh ${absent[*]} builds them)" >&2
		exit 3
	}
}

build_all() {
	local group todo=()
	for group in "${groups[@]}"; do [[ -z $(missing "$group") ]] || todo+=("$group"); done
	[[ ${#todo[@]} -gt 0 ]] || return 0
	mkdir -p "$cache"
	local free
	free=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
	[[ $free -ge $DISK_MIB ]] || {
		echo "$cache has $free MiB of free disk, building ${todo[*]} needs $DISK_MIB"
		exit 3
	}
	exec 9>"$cache/cluster.lock"
	flock 9
	stage=$(mktemp -d "$cache/building.XXXXXX")
	# The compiler's cache is about 10 GB and useless once the programs are there.
	trap 'chmod -R u+w "$stage"; rm -rf "$stage"' EXIT
	export GOCACHE=${SEALIGN_GOCACHE:-$stage/gocache} GOWORK=off
	local number=0
	for group in "${todo[@]}"; do
		number=$((number + 1))
		bin=$(folder "$group")/bin
		mkdir -p "$bin"
		[[ -n $fetch ]] || echo "cluster programs: building $group ($number of ${#todo[@]}: ${todo[*]})"
		build_group "$group"
	done
	[[ -n $fetch ]] || echo "cluster programs: built after $SECONDS s"
}

command -v go >/dev/null || {
	echo "Go is missing: Kubernetes, containerd and the S3 server are built from its modules"
	exit 2
} >&2
export GOTOOLCHAIN=local
version=$(go env GOVERSION)
printf '%s\n' "$GO_MINIMUM" "${version#go}" | sort -CV || {
	echo "Go is $version; what is built needs $GO_MINIMUM or newer"
	exit 2
} >&2
print='' fetch=''
case ${1:-} in
--path) print=1 && shift ;;
--fetch) fetch=1 && shift ;;
esac
groups=("${@:-}")
[[ -n ${groups[0]} ]] || groups=("${GROUPS_USED[@]}")
for group in "${groups[@]}"; do describe "$group" >/dev/null; done
if [[ -n $print ]]; then print_path; else build_all; fi
