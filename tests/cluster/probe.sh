#!/usr/bin/env bash
# probe.sh: tries, one after the other, what a bed needs of this machine, and prints a line for each thing that does not work.
# Exits 0 where there can be a bed, 3 where not. It builds nothing; what it makes it removes, but for Debian packages and Go
# modules, which it fetches.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
beds=/var/tmp

# A bed's images, packed and unpacked on two nodes; MiB.
BED_MIB=4096
# Two nodes with the control plane take 2 GiB, linking the API server as much; MiB.
MEMORY_MIB=4096

faults=0
fault() {
	echo "$1"
	faults=$((faults + 1))
}

# The line of a program's output that says what was wrong, or its last.
reason() { grep -iEm 1 'error|cannot|denied|fail|refus|not ' <<<"$1" || tail -n 1 <<<"$1"; }

# try WHAT FUNCTION: the function in a shell of its own that ends at the first failure.
try() {
	local said
	said=$(timeout 120 bash -euo pipefail -c "$(declare -f "$2"); $2" 2>&1) || fault "$1: $(reason "$said")"
}

free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

namespaces() {
	name=sealign-probe-$$ link=slp$$
	trap 'ip link del "$link" 2>/dev/null || true; ip netns del "$name" 2>/dev/null || true' EXIT
	ip netns add "$name"
	ip -n "$name" link set lo up
	ip -n "$name" link add br0 type bridge
	ip link add "$link" type veth peer name host0 netns "$name"
	ip -n "$name" link set host0 master br0 up
	nsenter --net="/run/netns/$name" sysctl -qw net.ipv4.ip_forward=1
	unshare --mount --pid --uts --fork --kill-child --mount-proc hostname probe
	unshare --user --map-root-user true
}

# What kube-proxy and the enforcement of NetworkPolicies program.
rules() {
	name=sealign-probe-$$
	trap 'ip netns del "$name" 2>/dev/null || true' EXIT
	ip netns add "$name"
	inside="nsenter --net=/run/netns/$name"
	$inside ipset create probe hash:ip
	$inside iptables -w -N PROBE
	$inside iptables -w -A PROBE -m set --match-set probe src -m conntrack --ctstate NEW -m mark ! --mark 0x10000/0x10000 \
		-m comment --comment probe -j REJECT
	$inside iptables -w -A PROBE -j NFLOG --nflog-group 100 -m limit --limit 10/minute --limit-burst 10
	$inside iptables -w -A PROBE -j MARK --set-xmark 0x10000/0x10000
	$inside iptables -w -A FORWARD -j PROBE
	$inside nft -f - <<-'RULES'
		table ip probe {
			map services { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.0.0.1 . tcp . 80 : goto two } }
			chain one { meta mark set meta mark | 0x4000 meta l4proto tcp dnat to 10.0.0.2:80; }
			chain two { numgen random mod 2 vmap { 0 : goto one, 1 : goto one }; }
			chain in { type nat hook prerouting priority -100; ip daddr . meta l4proto . th dport vmap @services; fib daddr type local accept; }
			chain out { type nat hook postrouting priority 100; meta mark & 0x4000 != 0 masquerade fully-random; }
		}
	RULES
	$inside conntrack -L
}

mounts() {
	folder=$(mktemp -d /var/tmp/sealign-probe.XXXXXX)
	trap 'rm -rf "$folder"' EXIT
	mkdir "$folder"/{lower,upper,work,merged,memory}
	touch "$folder/lower/file"
	# shellcheck disable=SC2016 # $1 is the inner shell's
	unshare --mount bash -euc 'cd "$1"
		mount --make-rprivate / && mount --make-rshared /
		mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
		echo changed >merged/file
		mount -t tmpfs tmpfs memory
		mount --bind memory lower' bash "$folder"
}

groups() {
	for hierarchy in cpu cpuacct cpuset memory devices freezer pids; do
		group=/sys/fs/cgroup/$hierarchy/sealign-probe-$$
		mkdir "$group"
		trap 'rmdir "$group"' EXIT
		if [[ $hierarchy == cpuset ]]; then
			for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"$group/$file"; done
		fi
		[[ $hierarchy != memory ]] || echo 1073741824 >"$group/memory.limit_in_bytes"
		bash -c 'echo $$ >"$1/cgroup.procs"' bash "$group"
		rmdir "$group"
		trap - EXIT
	done
}

static_target() {
	triple=$(uname -m)-unknown-linux-musl
	rustup target list --installed | grep -qx "$triple" || rustup target add "$triple"
}

if [[ $(uname -s) != Linux ]]; then
	fault "real nodes need Linux"
elif [[ $(id -u) != 0 ]]; then
	fault "real nodes need root: network namespaces, control groups, mounts"
fi
command -v go >/dev/null || fault "Go is missing: Kubernetes, containerd and the S3 server are built from its modules"
[[ $faults == 0 ]] || exit 3
said=$("$here/packages.sh" bed) || fault "$said"
[[ $faults == 0 ]] || exit 3

# Free is what is over after memory that can be given back.
memory=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
[[ $memory -ge $MEMORY_MIB ]] || fault "$memory MiB of memory are free, a bed needs $MEMORY_MIB"
[[ $(free_mib $beds) -ge $BED_MIB ]] || fault "$beds has $(free_mib $beds) MiB of free disk, a bed needs $BED_MIB"
try "network namespaces cannot be made" namespaces
try "mounts cannot be made as nodes need them" mounts
try "packets cannot be filtered as nodes need it" rules
if [[ -d /sys/fs/cgroup/memory ]]; then
	try "control groups cannot be made" groups
else
	fault "there are no control groups of version 1; nodes on version 2 alone are not written yet"
fi
[[ -n ${SEALIGN_SANDBOX:-} ]] || try "the sandbox server cannot be built without a C library" static_target
if [[ $faults == 0 ]]; then
	said=$(timeout 1200 "$here/binaries.sh" --fetch 2>&1) || fault "the programs cannot be built: $(reason "$said")"
fi
[[ $faults == 0 ]] || exit 3
