#!/usr/bin/env bash
# packages.sh chart|bed: installs the Debian packages that the chart's checks, or they and a bed, need and this machine lacks.
# Where they cannot be installed it names them and exits 3.
set -euo pipefail

packages=(openssl prometheus)
if [[ ${1:-} == bed ]]; then
	packages+=(binutils busybox-static conntrack containernetworking-plugins curl ethtool gcc ipset iproute2 iptables
		libseccomp-dev nftables pkg-config socat)
fi
missing=()
for package in "${packages[@]}"; do
	[[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *" installed" ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0
refuse() {
	echo "Debian packages are missing (${missing[*]}): $1"
	exit 3
}
command -v apt-get >/dev/null || refuse "there is no apt-get"
[[ $(id -u) == 0 ]] || refuse "root installs them"
echo "installing ${missing[*]}" >&2
# What is installed is run by tests alone: no package starts a service.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
said=$({ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } 2>&1) || refuse "$(tail -n 1 <<<"$said")"
