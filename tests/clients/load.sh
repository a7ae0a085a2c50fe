#!/usr/bin/env bash
# Watchers or leases by the ten thousand on three members whose leader is killed, checked.
#
#   tests/clients/load.sh watch  [--rate 3000] [--seconds 30] [--watchers 10000] [--kills 3] ...
#   tests/clients/load.sh leases [--count 100000] [--ttl 60] [--kills 2] ...
#
# Every option: rust/src/load/main.rs. SERVER names another Quorate; etcd is not possible yet: it sends
# a stream's headers with its first message, and the program waits for them before it asks.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
work=$here/.work
mkdir -p "$work"
. ./install.sh
if [ -z "${SERVER:-}" ]; then
  SERVER=$root/target/release/quorate
  [ -x "$SERVER" ] || (cd "$root" && cargo build --release --bin quorate)
fi
install_client etcd-client
mode=${1:?watch or leases}
shift
exec "$work/target/release/load" "$mode" --server "$SERVER" "$@"
