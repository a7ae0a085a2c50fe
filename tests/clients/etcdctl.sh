#!/usr/bin/env bash
# etcdctl (3.5), every command whose server side is served; run.sh starts the members and sets
# ENDPOINTS, MEMBERS_DIR, SERVER and ETCDCTL.
set -uo pipefail
cd "$(dirname "$0")"
. ./lib.sh
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$ENDPOINTS ETCDCTL_DIAL_TIMEOUT=5s ETCDCTL_COMMAND_TIMEOUT=15s
export LC_ALL=C
IFS=, read -r -a endpoints <<<"$ENDPOINTS"
first=${endpoints[0]} last=${endpoints[-1]}
scratch=$(mktemp -d)
finish() {
  local file
  for file in "$scratch"/*.pid; do [ ! -e "$file" ] || kill "$(cat "$file")" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap finish EXIT

ctl() { "$ETCDCTL" "$@"; }
at() { # ENDPOINT ARGUMENTS... (the flag would quarrel with the variable)
  local endpoint=$1
  shift
  ETCDCTL_ENDPOINTS=$endpoint "$ETCDCTL" "$@"
}
fail() { echo "$*" >&2; exit 1; }
eq() { [ "$1" = "$2" ] || fail "got: $1 -- wanted: $2"; }
has() { case $1 in *"$2"*) ;; *) fail "got: $1 -- without: $2" ;; esac; }
refused() { # TEXT COMMAND...: the command fails and says so
  local text=$1 out
  shift
  if out=$("$@" 2>&1); then fail "allowed: $*"; fi
  has "$out" "$text"
}
until_true() { # SECONDS COMMAND...
  local limit=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$limit" ] || fail "never true: $*"
    sleep 0.1
  done
}
lines() { [ "$(wc -l <"$1")" -ge "$2" ]; }
field() { sed -n "s/^\"$2\" : //p" <<<"$1" | head -1; }
failed=0
step() { # NAME FUNCTION
  ( set -euo pipefail; "$2" ) </dev/null >"$scratch/out" 2>&1
  local status=$?
  if [ $status = 0 ]; then
    echo "ok $1"
  else
    failed=1
    echo "FAILED $1: $(tail -3 "$scratch/out" | tr '\n' ' ' | cut -c1-400)"
  fi
}

kv() {
  eq "$(ctl put foo 'hello world')" OK
  eq "$(ctl get foo)" $'foo\nhello world'
  eq "$(at "$last" get foo --print-value-only)" 'hello world'
  eq "$(ctl put foo again --prev-kv)" $'OK\nfoo\nhello world'
  eq "$(ctl put foo --ignore-value)" OK
  eq "$(echo 'from stdin' | ctl put piped)" OK
  eq "$(ctl get piped --print-value-only)" 'from stdin'
  eq "$(ctl get foo -w json | grep -o '"version":[0-9]*')" '"version":3'
  eq "$(ctl del foo --prev-kv)" $'1\nfoo\nagain'
  eq "$(ctl del foo)" 0
  refused 'etcdserver: key is not provided' ctl put '' x
  refused 'etcdserver: requested lease not found' ctl put foo x --lease=1234
}

ranges() {
  local n
  for n in 1 2 3 4 5; do ctl put "r/$n" $((6 - n)); done
  eq "$(ctl get r/ --prefix --keys-only | tr -d '\n')" r/1r/2r/3r/4r/5
  eq "$(ctl get r/2 r/4 --print-value-only | tr '\n' ' ')" '4 3 '
  eq "$(ctl get r/ --prefix --limit=2 --print-value-only | tr '\n' ' ')" '5 4 '
  eq "$(ctl get r/4 --from-key --limit=2 --keys-only | tr -d '\n')" r/4r/5
  eq "$(ctl get r/ --prefix --sort-by=VALUE --order=ASCEND --keys-only | tr -d '\n')" r/5r/4r/3r/2r/1
  eq "$(ctl get r/ --prefix --order=DESCEND --limit=1 --keys-only | tr -d '\n')" r/5
  has "$(ctl get r/ --prefix --count-only -w fields)" '"Count" : 5'
  local rev
  rev=$(field "$(ctl get r/1 -w fields)" ModRevision)
  ctl put r/1 changed
  eq "$(ctl get r/1 --rev="$rev" --print-value-only)" 5
  eq "$(at "$first" get r/1 --consistency=s -w fields | grep -c '"Key"')" 1
  refused 'etcdserver: mvcc: required revision is a future revision' ctl get r/1 --rev=999999
  eq "$(ctl del r/ --prefix)" 5
}

txn() {
  ctl put t/key before
  local script=$'value("t/key") = "before"\nversion("t/key") > "0"\n\nput t/key after\nget t/key\n\nget t/key\n\n'
  eq "$(ctl txn <<<"$script")" $'SUCCESS\n\nOK\n\nt/key\nafter'
  eq "$(ctl txn <<<"$script")" $'FAILURE\n\nt/key\nafter'
  eq "$(ctl txn <<<$'mod("t/none") = "0"\n\ndel t/key\n\n\n')" $'SUCCESS\n\n1'
  refused 'duplicate key given in txn request' ctl txn <<<$'mod("t/none") = "0"\n\nput d 1\nput d 2\n\n\n'
}

exec_ctl() { exec "$ETCDCTL" "$@"; }
start() { # NAME ctl|at...: in the background, its output in $scratch/NAME
  local name=$1
  shift
  if [ "$1" = at ]; then
    ETCDCTL_ENDPOINTS=$2 exec_ctl "${@:3}" >"$scratch/$name" 2>&1 &
  else
    exec_ctl "${@:2}" >"$scratch/$name" 2>&1 &
  fi
  echo $! >"$scratch/$name.pid"
}
stop() { # NAME
  kill -TERM "$(cat "$scratch/$1.pid")" 2>/dev/null || true
  wait "$(cat "$scratch/$1.pid")" 2>/dev/null || true
}

watch() {
  ctl put w/a 1
  local rev
  rev=$(field "$(ctl get w/a -w fields)" ModRevision)
  start past at "$last" watch w/ --prefix --rev="$rev"
  start previous ctl watch w/a --prev-kv --rev=$((rev + 1))
  ctl put w/b 2
  ctl put w/a 3
  ctl del w/a
  until_true 10 lines "$scratch/past" 12
  until_true 10 lines "$scratch/previous" 10
  eq "$(tr '\n' ' ' <"$scratch/past")" 'PUT w/a 1 PUT w/b 2 PUT w/a 3 DELETE w/a  '
  eq "$(tr '\n' ' ' <"$scratch/previous")" 'PUT w/a 1 w/a 3 DELETE w/a 3 w/a  '
  stop past
  stop previous
  # Several watches on one stream, and a progress request, in the interactive form.
  mkfifo "$scratch/fifo"
  rev=$(field "$(ctl get w/b -w fields)" Revision)
  "$ETCDCTL" watch -i <"$scratch/fifo" >"$scratch/many" 2>&1 &
  local pid=$!
  echo "$pid" >"$scratch/many.pid"
  exec 7>"$scratch/fifo"
  printf 'watch m/1 --rev=%s\nwatch m/2 --rev=%s\n' $((rev + 1)) $((rev + 1)) >&7
  ctl put m/1 x
  ctl put m/2 y
  until_true 10 lines "$scratch/many" 6
  eq "$(paste - - - <"$scratch/many" | sort | tr '\n\t' '  ')" 'PUT m/1 x PUT m/2 y '
  printf 'progress\n' >&7
  until_true 10 grep -q 'progress notify' "$scratch/many"
  exec 7>&-
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

lease() {
  local id
  id=$(ctl lease grant 100 | awk '{print $2}')
  ctl put l/1 x --lease="$id"
  ctl put l/2 x --lease="$id"
  has "$(ctl lease list)" "$id"
  has "$(ctl lease timetolive "$id" --keys)" 'granted with TTL(100s)'
  has "$(ctl lease timetolive "$id" --keys)" 'attached keys([l/1 l/2])'
  eq "$(ctl lease keep-alive --once "$id")" "lease $id keepalived with TTL(100)"
  eq "$(ctl lease revoke "$id")" "lease $id revoked"
  eq "$(ctl get l/ --prefix)" ''
  has "$(ctl lease timetolive "$id")" 'already expired'
  refused 'etcdserver: requested lease not found' ctl lease revoke "$id"
  # Expiry of one that nobody keeps; another that is kept lives on.
  local kept left
  left=$(ctl lease grant 2 | awk '{print $2}')
  kept=$(ctl lease grant 2 | awk '{print $2}')
  start keep at "$last" lease keep-alive "$kept"
  ctl put l/left x --lease="$left"
  ctl put l/kept x --lease="$kept"
  gone() { [ -z "$(ctl get l/left)" ]; }
  until_true 12 gone
  sleep 2
  eq "$(ctl get l/kept --print-value-only)" x
  stop keep
}

lock() {
  start first ctl lock name --ttl=10
  until_true 10 lines "$scratch/first" 1
  start second at "$last" lock name --ttl=10
  sleep 0.7
  eq "$(wc -l <"$scratch/second")" 0
  stop first
  until_true 10 lines "$scratch/second" 1
  stop second
  [ "$(cat "$scratch/first")" != "$(cat "$scratch/second")" ] || fail "two holders with one key"
  eq "$(ctl lock other echo held)" held
}

elect() {
  start one ctl elect boss v1
  until_true 10 lines "$scratch/one" 2
  start listen at "$last" elect -l boss
  until_true 10 lines "$scratch/listen" 2
  start two at "$last" elect boss v2
  sleep 0.7
  eq "$(wc -l <"$scratch/two")" 0
  stop one
  until_true 10 lines "$scratch/two" 2
  eq "$(tail -1 "$scratch/two")" v2
  until_true 10 grep -q '^v2$' "$scratch/listen"
  stop two
  stop listen
}

mirror() {
  ctl put mirror/a 1
  start mirror ctl make-mirror "$last" --prefix mirror/ --dest-prefix copy/
  copied() { [ "$(ctl get "copy/$1" --print-value-only)" = "$2" ]; }
  until_true 10 copied a 1
  ctl put mirror/b 2
  until_true 10 copied b 2
  stop mirror
}

compaction() {
  local rev
  ctl put c 1
  ctl put c 2
  rev=$(field "$(ctl get c -w fields)" ModRevision)
  eq "$(ctl compaction "$rev" --physical)" "compacted revision $rev"
  refused 'etcdserver: mvcc: required revision has been compacted' ctl compaction "$rev"
  refused 'etcdserver: mvcc: required revision has been compacted' ctl get c --rev=$((rev - 1))
  refused 'etcdserver: mvcc: required revision is a future revision' ctl compaction 999999
  has "$(ctl watch c --rev=1 2>&1 || true)" 'required revision has been compacted'
  has "$(ctl defrag 2>&1)" 'Finished defragmenting'
}

endpoints() {
  eq "$(ctl endpoint health --cluster 2>&1 | grep -c 'is healthy')" ${#endpoints[@]}
  eq "$(ctl endpoint status --cluster -w fields | grep -c '"Leader"')" ${#endpoints[@]}
  has "$(ctl endpoint status -w table)" "$first"
  same_hash() { [ "$(ctl endpoint hashkv --cluster | sed 's/.*, //' | sort -u | wc -l)" = 1 ]; }
  until_true 10 same_hash
  has "$(ctl version)" 'etcdctl version'
}

alarms() {
  eq "$(ctl alarm list)" ''
  # etcdctl cannot raise an alarm; the quota can be reached only by writing 2 GiB. Disarming none is fine.
  eq "$(ctl alarm disarm)" ''
}

leader_of() { ctl endpoint status -w json | tr '{' '\n' | sed -n 's/.*"leader":\([0-9]*\).*/\1/p' | head -1; }

members() {
  eq "$(ctl member list | wc -l)" ${#endpoints[@]}
  has "$(ctl member list -w table)" started
  local ports id out cluster n=9
  read -r -a ports <<<"$(free_ports 3)"
  out=$(ctl member add joiner --learner --peer-urls="http://127.0.0.1:${ports[1]}")
  has "$out" 'added to cluster'
  id=$(sed -n 's/^Member *\([0-9a-f]*\) added.*/\1/p' <<<"$out")
  cluster=$(sed -n 's/^ETCD_INITIAL_CLUSTER="\(.*\)"/\1/p' <<<"$out")
  eq "$(ctl member list | wc -l)" $((${#endpoints[@]} + 1))
  has "$(ctl member list | grep "^$id")" 'unstarted'
  refused 'can only promote a learner member which is in sync with leader' ctl member promote "$id"
  start_joining "$MEMBERS_DIR" "$n" "${ports[0]}" "${ports[1]}" "${cluster/joiner=/m$n=}"
  learner_serves() { at "127.0.0.1:${ports[0]}" get foo --consistency=s; }
  until_true 30 learner_serves
  # It serves a moment before it has applied its own addition, and only then knows what it is.
  knows_itself() { at "127.0.0.1:${ports[0]}" endpoint status -w json | grep '"isLearner":true'; }
  until_true 30 knows_itself
  refused 'etcdserver: rpc not supported for learner' at "127.0.0.1:${ports[0]}" put no x
  has "$(ctl member list | grep "^$id")" 'true'
  until_true 30 ctl member promote "$id"
  has "$(ctl member list | grep "^$id")" 'false'
  eq "$(at "127.0.0.1:${ports[0]}" put joined yes)" OK
  has "$(ctl member update "$id" --peer-urls="http://127.0.0.1:${ports[1]},http://127.0.0.1:${ports[2]}")" 'updated in cluster'
  has "$(ctl member list | grep "^$id")" "${ports[2]}"
  until_true 30 ctl member remove "$id"
  eq "$(ctl member list | wc -l)" ${#endpoints[@]}
  refused 'member not found' ctl member remove "$id"
  stop_member "$MEMBERS_DIR" "$n"
  eq "$(ctl get joined --print-value-only)" yes
}

move_leader() {
  if [ ${#endpoints[@]} = 1 ]; then
    refused 'etcdserver: bad leader transferee' ctl move-leader 1234
    return
  fi
  local leader target
  leader=$(leader_of)
  target=$(ctl member list | cut -d, -f1 | while read -r id; do [ $((16#$id)) = "$leader" ] || echo "$id"; done | head -1)
  # Ids are unsigned: bash's are not, so compare them as text too.
  [ "$(printf '%u' $((16#$target)))" != "$leader" ] || target=$(ctl member list | cut -d, -f1 | tail -1)
  has "$(ctl move-leader "$target")" 'Leadership transferred'
  eq "$(leader_of)" "$(printf '%u' $((16#$target)))"
}

auth() {
  eq "$(ctl user add root:rootpw)" 'User root created'
  eq "$(ctl user add u:upw)" 'User u created'
  eq "$(ctl user add nopw --no-password)" 'User nopw created'
  ctl role add root >/dev/null 2>&1 || true
  eq "$(ctl role add r)" 'Role r created'
  eq "$(ctl role grant-permission r readwrite u/ --prefix)" 'Role r updated'
  eq "$(ctl role grant-permission r read pub)" 'Role r updated'
  has "$(ctl role get r)" 'u/'
  eq "$(ctl user grant-role u r)" 'Role r is granted to user u'
  ctl user grant-role root root >/dev/null
  has "$(ctl user get u --detail)" 'u/'
  eq "$(ctl role list | tr '\n' ' ')" 'r root '
  eq "$(ctl user list | tr '\n' ' ')" 'nopw root u '
  eq "$(ctl auth enable)" 'Authentication Enabled'
  local root=(ctl --user root:rootpw) u=(ctl --user u:upw)
  has "$("${root[@]}" auth status)" 'Authentication Status: true'
  refused 'user name is empty' ctl get foo
  refused 'authentication failed, invalid user ID or password' ctl --user u:wrong get foo
  eq "$("${root[@]}" put pub news)" OK
  eq "$("${u[@]}" put u/1 mine)" OK
  eq "$("${u[@]}" get u/ --prefix --print-value-only)" mine
  eq "$("${u[@]}" get pub --print-value-only)" news
  refused 'permission denied' "${u[@]}" put pub no
  refused 'permission denied' "${u[@]}" get '' --from-key
  refused 'permission denied' "${u[@]}" user list
  refused 'permission denied' "${u[@]}" txn <<<$'mod("u/1") > "0"\n\nput pub no\n\n\n'
  start allowed at "$last" --user u:upw watch u/ --prefix
  # How long a login takes depends on the machine: put until the watch has seen one.
  seen() { "${root[@]}" put u/2 seen && lines "$scratch/allowed" 3; }
  until_true 20 seen
  stop allowed
  has "$(timeout 5 "$ETCDCTL" --user u:upw watch secret 2>&1 || true)" 'permission denied'
  eq "$(printf 'newpw\n' | "${root[@]}" user passwd u --interactive=false)" 'Password updated'
  refused 'authentication failed' "${u[@]}" get pub
  eq "$(ctl --user u:newpw get pub --print-value-only)" news
  eq "$("${root[@]}" role revoke-permission r pub)" 'Permission of key pub is revoked from role r'
  refused 'permission denied' ctl --user u:newpw get pub
  eq "$("${root[@]}" user revoke-role u r)" 'Role r is revoked from user u'
  refused 'permission denied' ctl --user u:newpw get u/1
  eq "$("${root[@]}" role delete r)" 'Role r deleted'
  eq "$("${root[@]}" user delete u)" 'User u deleted'
  eq "$("${root[@]}" auth disable)" 'Authentication Disabled'
  eq "$(ctl get pub --print-value-only)" news
}

perf() {
  # Sixty seconds of 150 puts a second; what it is told at the end is judged by etcdctl itself,
  # and a busy machine may fail its limits: the step asks only that every put was answered.
  local out
  out=$(ctl check perf --load=s --auto-compact --auto-defrag 2>&1 || true)
  has "$out" 'Stddev'
  case $out in *'too many errors'*) fail "$out" ;; esac
}

step 'kv: put, get, del and their options' kv
step 'ranges: prefix, from-key, limit, order, count, revision' ranges
step 'txn: both branches, a refused one' txn
step 'watch: from a revision, prev-kv, several on one stream, progress' watch
step 'lease: grant, list, timetolive, keep-alive, revoke, expiry' lease
step 'lock: a second one waits, a command under a lock' lock
step 'elect: campaign, listen, the next leader' elect
step 'make-mirror: a prefix into another' mirror
step 'compaction and defrag' compaction
step 'endpoint health, status, hashkv; version' endpoints
step 'alarm list, disarm' alarms
step 'move-leader' move_leader
step 'auth, user and role: every command' auth
step 'member add, list, promote, update, remove' members
[ -n "${SHORT:-}" ] || step 'check perf: no errors in a minute of puts' perf
exit $failed
