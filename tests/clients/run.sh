#!/usr/bin/env bash
# Real client libraries and etcdctl against one and three members on 127.0.0.1.
#
#   tests/clients/run.sh [one|three|both] [CLIENT...]
#
# CLIENTs: etcdctl etcd-client etcd3-pypi aetcd etcd3gw etcd3-npm (all of them when none is named).
# Everything is installed below tests/clients/.work. Each client meets a fresh cluster. The last
# lines are a table: client, its version, members, steps passed. Any failure: a non-zero status.
#
#   SERVER=/usr/bin/etcd    another server than target/release/quorate (which is built if missing)
#   LOGS=DIR                where output and members' logs go (default tests/clients/.work/logs)
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
work=$here/.work
logs=${LOGS:-$work/logs}
mkdir -p "$work" "$logs"

case ${1:-both} in
  one) sizes=(1) ;;
  three) sizes=(3) ;;
  both) sizes=(1 3) ;;
  *) sed -n '2,11p' "$0"; exit 2 ;;
esac
shift || true
clients=("$@")
[ ${#clients[@]} -gt 0 ] || clients=(etcdctl etcd-client etcd3-pypi aetcd etcd3gw etcd3-npm)

if [ -z "${SERVER:-}" ]; then
  SERVER=$root/target/release/quorate
  [ -x "$SERVER" ] || (cd "$root" && cargo build --release --bin quorate)
fi
export SERVER
. ./lib.sh
. ./install.sh

folder=""
cleanup() { [ -z "$folder" ] || stop_cluster "$folder" || true; }
trap cleanup EXIT
trap 'exit 130' INT TERM

run_client() { # CLIENT: its program, in the environment that the cluster's start has set
  case $1 in
    etcdctl) ETCDCTL=$(etcdctl_binary) timeout 240 bash "$here/etcdctl.sh" ;;
    etcd-client) timeout 240 "$work/target/release/steps" ;;
    etcd3-pypi) timeout 240 "$work/venv/bin/python" "$here/pypi_etcd3.py" ;;
    etcd3gw) timeout 240 "$work/venv/bin/python" "$here/pypi_etcd3gw.py" ;;
    aetcd) timeout 240 "$work/venv-aetcd/bin/python" "$here/pypi_aetcd.py" ;;
    etcd3-npm) NODE_PATH=$work/node/node_modules timeout 240 node "$here/npm_etcd3.js" ;;
    *) echo "FAILED no client is called $1"; return 1 ;;
  esac
}

table=$logs/table
printf 'client\tversion\tmembers\tpassed\tfailed\tseconds\n' >"$table"
bad=0
for client in "${clients[@]}"; do
  install_client "$client"
  version=$(client_version "$client")
  for size in "${sizes[@]}"; do
    folder=$work/run/$client-$size
    rm -rf "$folder"
    echo "== $client $version, members: $size"
    begun=$SECONDS
    out=$logs/$client-$size.log
    status=0
    start_cluster "$folder" "$size" --log-level=info >"$out" 2>&1 || status=1
    if [ $status = 0 ]; then
      run_client "$client" >"$out" 2>&1 || status=$?
    fi
    grep -E '^(ok|FAILED) ' "$out" || true
    passed=$(grep -c '^ok ' "$out" || true)
    failed=$(grep -c '^FAILED ' "$out" || true)
    # A program that ends early without naming a step has failed all the same.
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
      echo "FAILED with status $status; the end of $out:"
      tail -15 "$out"
      failed=1
    fi
    [ "$status" = 0 ] && [ "$failed" = 0 ] && [ "$passed" -gt 0 ] || bad=1
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$client" "$version" "$size" "$passed" "$failed" $((SECONDS - begun)) >>"$table"
    stop_cluster "$folder"
    for log in "$folder"/m*.log; do cp "$log" "$logs/$client-$size-$(basename "$log")"; done
    rm -rf "$folder"
    folder=""
  done
done
echo
column -t -s "$(printf '\t')" "$table"
exit $bad
