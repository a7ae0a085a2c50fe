#!/usr/bin/env bash
# Patroni on Quorate: three members, two PostgreSQL nodes, all on 127.0.0.1.
#
#   tests/patroni/run.sh          (as root, or as anybody when PostgreSQL is installed)
#
# Shown, each step asserted: both nodes come up and replicate; a switchover by patronictl; kill -9
# of Quorate's leader (twice, so that two members of three have led) without a demotion: the
# primary's role, timeline and server process stay, Patroni's history gets no entry, writes go
# on; last, the primary node dies whole and the other one takes over when the leader key's lease
# runs out. PostgreSQL comes from Debian's packages, Patroni (patroni[etcd3]) from PyPI into
# tests/patroni/.work. Bounded to a few minutes; ends what it started, by process id.
#
#   SERVER=/usr/bin/etcd    another server than target/release/quorate
#   LOGS=DIR                logs are copied there at the end (default tests/patroni/.work/logs)
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
work=$here/.work
logs=${LOGS:-$work/logs}
user=quorate-pg
mkdir -p "$work" "$logs"
. ../clients/lib.sh

if [ -z "${SERVER:-}" ]; then
  SERVER=$root/target/release/quorate
  [ -x "$SERVER" ] || (cd "$root" && cargo build --release --bin quorate)
fi
export SERVER

packages=()
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages+=(postgresql)
# Debian's own Python: one below somebody's home could not be read by the database's user.
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
if [ ${#packages[@]} -gt 0 ]; then
  apt-get update -qq
  # The package would start a server of its own on the default port.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
fi
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
if ! "$work/venv/bin/patroni" --version >/dev/null 2>&1; then
  rm -rf "$work/venv"
  /usr/bin/python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q --disable-pip-version-check 'patroni[etcd3]==4.1.5' 'psycopg[binary]>=3,<4'
fi

run=$(mktemp -d /tmp/quorate-patroni.XXXXXX)
chmod 755 "$run"
created=""
if [ "$(id -u)" = 0 ]; then
  # PostgreSQL refuses to run as root.
  id "$user" >/dev/null 2>&1 || { useradd --system --no-create-home --shell /usr/sbin/nologin "$user"; created=yes; }
  as=(setpriv --reuid "$user" --regid "$user" --clear-groups env HOME="$run")
else
  user=$(id -un)
  as=(env HOME="$run")
fi

loop=""
stop_node() { # N SIGNAL: Patroni, then the postmaster if it is still there
  local pid
  for pid in "$(cat "$run/pg$1.pid" 2>/dev/null || true)" "$(head -1 "$run/pg$1/postmaster.pid" 2>/dev/null || true)"; do
    if [ -n "$pid" ]; then kill "-$2" "$pid" 2>/dev/null || true; fi
  done
}
cleanup() {
  [ -z "$loop" ] || kill "$loop" 2>/dev/null || true
  local n tries
  for n in 1 2; do
    local pid
    pid=$(cat "$run/pg$n.pid" 2>/dev/null || true)
    [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
      [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    stop_node "$n" QUIT
  done
  stop_cluster "$run/members" || true
  cp "$run"/*.log "$run"/members/*.log "$logs"/ 2>/dev/null || true
  sleep 0.5
  rm -rf "$run"
  if [ -n "$created" ]; then userdel "$user" 2>/dev/null || true; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

passed=0
ok() { passed=$((passed + 1)); echo "ok $1 ($((SECONDS - begun)) s)"; }
fail() { echo "FAILED $1"; tail -n 5 "$run"/patroni*.log; exit 1; }
within() { # SECONDS WHAT COMMAND...
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$limit" ] || fail "not in time: $what"
    sleep 0.2
  done
}
same() { [ "$2" = "$3" ] || fail "$1: $2 is not $3"; }

begun=$SECONDS
start_cluster "$run/members" 3
IFS=, read -r -a endpoints <<<"$ENDPOINTS"
echo "== Quorate $("$SERVER" --version | head -1), $("$work/venv/bin/patroni" --version), $("$bin/postgres" --version)"

read -r -a ports <<<"$(free_ports 4)"
pg_port() { echo "${ports[$(($1 - 1))]}"; }
rest_port() { echo "${ports[$(($1 + 1))]}"; }
for n in 1 2; do
  cat >"$run/patroni$n.yml" <<YML
scope: quorate
name: pg$n
restapi: {listen: "127.0.0.1:$(rest_port $n)", connect_address: "127.0.0.1:$(rest_port $n)"}
etcd3: {hosts: "$ENDPOINTS"}
bootstrap:
  dcs:
    # The least that Patroni allows: a lease of 20 s, whose refusal demotes a primary.
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    postgresql:
      use_pg_rewind: true
      parameters: {max_connections: 20, shared_buffers: 16MB, fsync: "off", wal_keep_size: 64MB}
  initdb: [{encoding: UTF8}, {locale: C}, data-checksums]
postgresql:
  listen: "127.0.0.1:$(pg_port $n)"
  connect_address: "127.0.0.1:$(pg_port $n)"
  data_dir: $run/pg$n
  bin_dir: $bin
  pgpass: $run/pgpass$n
  authentication:
    superuser: {username: postgres, password: super}
    replication: {username: replicator, password: repl}
    rewind: {username: rewinder, password: rewind}
  parameters: {unix_socket_directories: "$run/sockets"}
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 md5", "host replication replicator 127.0.0.1/32 md5"]
YML
done
mkdir "$run/sockets" "$run/pg1" "$run/pg2"
chmod 700 "$run/pg1" "$run/pg2"
[ "$(id -u)" != 0 ] || chown -R "$user:" "$run/sockets" "$run/pg1" "$run/pg2"
# Patroni writes pgpass files beside its configuration.
[ "$(id -u)" != 0 ] || { chgrp "$user" "$run"; chmod 775 "$run"; }

start_node() {
  "${as[@]}" "$work/venv/bin/patroni" "$run/patroni$1.yml" >>"$run/patroni$1.log" 2>&1 </dev/null &
  echo $! >"$run/pg$1.pid"
}
sql() { # N STATEMENT
  PGPASSWORD=super PGCONNECT_TIMEOUT=3 psql -h 127.0.0.1 -p "$(pg_port "$1")" -U postgres -d postgres -XAtqc "$2" 2>>"$run/psql.log"
}
role() { curl -s -m 3 "http://127.0.0.1:$(rest_port "$1")/patroni" | sed -n 's/.*"role": "\([a-z_]*\)".*/\1/p'; }
is_primary() { [ "$(sql "$1" 'select pg_is_in_recovery()')" = f ]; }
streams_from() { [ "$(sql "$1" "select count(*) from pg_stat_replication where state = 'streaming'")" = 1 ]; }
timeline() { sql "$1" 'select timeline_id from pg_control_checkpoint()'; }
started() { sql "$1" 'select pg_postmaster_start_time()'; }
history() { curl -s -m 3 "http://127.0.0.1:$(rest_port "$1")/history"; }
demotions() { cat "$run"/patroni*.log | grep -ciE 'demot' || true; }
quorate_leader() { # its number, by the members' own metrics
  local n
  for n in 0 1 2; do
    # Not `grep -q`: it would close the pipe before curl has written all.
    if curl -s -m 3 "http://${endpoints[$n]}/metrics" | grep '^etcd_server_is_leader 1' >/dev/null; then echo "$n"; return 0; fi
  done
  return 1
}

start_node 1
within 60 'the first node is primary' is_primary 1
start_node 2
within 90 'the second node streams from the first' streams_from 1
sql 1 'create table written (n bigint primary key, at timestamptz default clock_timestamp())'
ok 'two nodes on three members: one primary, one replica streaming'

# A client that writes all the time to whichever node is primary.
(
  n=0
  while :; do
    n=$((n + 1))
    if PGPASSWORD=super PGCONNECT_TIMEOUT=2 psql \
      "host=127.0.0.1,127.0.0.1 port=$(pg_port 1),$(pg_port 2) user=postgres dbname=postgres target_session_attrs=read-write" \
      -XAtqc "insert into written (n) values ($n)" 2>/dev/null; then
      echo "$n" >>"$run/acknowledged"
    fi
    sleep 0.1
  done
) &
loop=$!
writes() { wc -l <"$run/acknowledged" 2>/dev/null || echo 0; }
written_more() { [ "$(writes)" -gt "$1" ]; }
within 20 'writes arrive' written_more 10

"$work/venv/bin/patronictl" -c "$run/patroni1.yml" switchover quorate --leader pg1 --candidate pg2 --force >"$run/switchover.log" 2>&1 ||
  { cat "$run/switchover.log"; fail 'patronictl switchover'; }
within 60 'the second node is primary' is_primary 2
within 90 'the first node follows it' streams_from 2
within 20 'writes arrive at the new primary' written_more $(($(writes) + 10))
same 'the role of pg2' "$(role 2)" primary
sql 2 checkpoint
same 'the timeline after one switchover' "$(timeline 2)" 2
ok 'a switchover: the replica leads on timeline 2, the old primary follows'

for kill in first second; do
  before="$(timeline 2) $(started 2) $(history 2)"
  demoted=$(demotions)
  n=$(quorate_leader) || fail 'no member of Quorate says that it leads'
  pid=$(cat "$run/members/m$n.pid")
  count=$(writes)
  kill -9 "$pid"
  another() { local now; now=$(quorate_leader) && [ "$(cat "$run/members/m$now.pid")" != "$pid" ]; }
  within 20 'another member of Quorate leads' another
  # Longer than the lease of the leader key: had no keepalive come through, it would be gone.
  limit=$((SECONDS + 26))
  while [ "$SECONDS" -lt "$limit" ]; do
    is_primary 2 || fail "the primary was demoted after the $kill kill"
    sleep 0.5
  done
  same 'timeline, process and history' "$(timeline 2) $(started 2) $(history 2)" "$before"
  same 'demotions in the logs' "$(demotions)" "$demoted"
  written_more $((count + 15)) || fail "only $(($(writes) - count)) writes in 26 s after the $kill kill"
  wait_healthy 20 "${endpoints[$n]##*:}"
  same 'the leader key' "$(curl -s -m 3 "http://127.0.0.1:$(rest_port 2)/cluster" | tr '{' '\n' | grep '"role": "leader"' | grep -c pg2)" 1
  ok "kill -9 of Quorate's leader m$n ($kill): no demotion, same timeline, $(($(writes) - count)) writes in 26 s"
done
gap=$(sql 2 "select coalesce(max(extract(epoch from d)), 0)::numeric(6,2) from (select at - lag(at) over (order by at) d from written) t")
echo "   longest time between two writes so far, the switchover included: $gap s"

stop_node 2 KILL
died=$SECONDS
within 60 'the first node takes over' is_primary 1
ok "the primary dies whole: the replica leads after $((SECONDS - died)) s (the lease is 20 s)"
within 20 'writes arrive after the failover' written_more $(($(writes) + 10))
kill "$loop" 2>/dev/null || true
wait "$loop" 2>/dev/null || true
loop=""
start_node 2
within 90 'the dead node comes back as a replica' streams_from 1
sort -n "$run/acknowledged" >"$run/wanted"
sql 1 'select n from written order by n' >"$run/there"
lost=$(comm -23 <(sort "$run/wanted") <(sort "$run/there") | wc -l)
# Replication is asynchronous: the last writes before a primary's death may be lost with it.
[ "$lost" -le 5 ] || fail "$lost acknowledged writes are not there"
ok "the dead node follows again; $(wc -l <"$run/wanted") writes acknowledged, $lost lost with the dead primary (asynchronous replication)"
echo "$passed passed, 0 failed"
