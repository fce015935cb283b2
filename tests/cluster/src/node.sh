#!/bin/bash
# First process of a node of the bed, in mount, pid and uts namespaces of its own and in the node's network.
# $1: the node's folder, where `settings` has: NAME ADDRESS CONTROL_GROUP SEARCH_PATH IMAGES READY PROXY_CONFIG POD_RANGES
set -u
D=$1
. "$D/settings"
export PATH=$SEARCH_PATH
hostname "$NAME"
mount --make-rprivate / && mount --make-rshared /
mkdir -p /run/containerd /var/lib/kubelet /var/log/pods /var/log/containers
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs tmpfs /var/log/containers
mount --bind "$D/kubelet" /var/lib/kubelet
mount --make-rshared /
for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
	[[ -e /sys/fs/cgroup/$hierarchy/cgroup.procs ]] && mkdir -p "/sys/fs/cgroup/$hierarchy/$CONTROL_GROUP"
done
for file in cpuset.cpus cpuset.mems; do
	cat /sys/fs/cgroup/cpuset/$file >"/sys/fs/cgroup/cpuset/$CONTROL_GROUP/$file"
done

containerd -c "$D/containerd.toml" >>"$D/log/containerd.log" 2>&1 &
for _ in {1..300}; do
	ctr -a "$D/containerd.sock" version >/dev/null 2>&1 && break
	sleep 0.1
done
for image in "$IMAGES"/*.tar; do
	done_mark=$D/imported/${image##*/}
	[[ -e $done_mark ]] && continue
	ctr -a "$D/containerd.sock" -n k8s.io images import "$image" >>"$D/log/import.log" 2>&1 && touch "$done_mark"
done
# A kubelet that meets no API server waits longer and longer before it looks again.
for _ in {1..1200}; do
	[[ -e $READY ]] && break
	sleep 0.1
done
kubelet --config="$D/kubelet.yaml" --kubeconfig="$D/kubeconfig" --root-dir=/var/lib/kubelet --cert-dir="$D/pki" \
	--hostname-override="$NAME" --node-ip="$ADDRESS" --v=2 >>"$D/log/kubelet.log" 2>&1 &
kube-proxy --kubeconfig="$PROXY_CONFIG" --hostname-override="$NAME" --proxy-mode=nftables --cluster-cidr="$POD_RANGES" \
	--conntrack-max-per-core=0 --conntrack-min=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s \
	--healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249 --bind-address="$ADDRESS" >>"$D/log/kube-proxy.log" 2>&1 &
wait
