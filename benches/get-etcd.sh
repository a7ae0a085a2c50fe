#!/usr/bin/env bash
# Unpacks Debian sid's etcd 3.5 (server and client) into a folder, without installing it.
#
#   benches/get-etcd.sh DIR      ->  DIR/usr/bin/etcd, DIR/usr/bin/etcdctl
#
# Debian 12's own etcd is 3.4, whose reads slow down after writes; comparisons need 3.5 or newer.
# Uses apt with lists and sources of its own, so the machine's package sources stay as they are.
set -euo pipefail
dir=${1:?usage: benches/get-etcd.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ -x "$dir/usr/bin/etcd" ]; then
  "$dir/usr/bin/etcd" --version | sed -n 1p
  exit 0
fi
# Take the mirror this machine already uses, only with another suite.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
  grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)
mirror=${mirror:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
apt_options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache::Archives=$work/archives"
  -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root)
apt-get "${apt_options[@]}" update -qq
(cd "$work" && apt-get "${apt_options[@]}" download -qq etcd-server etcd-client)
for package in "$work"/*.deb; do
  dpkg -x "$package" "$dir"
done
"$dir/usr/bin/etcd" --version | sed -n 1p
