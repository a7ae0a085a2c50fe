# Members of a cluster on 127.0.0.1, as processes of whoever sources this file.
#
# Every member is watched by a loop that starts it again when it dies, so that a test can
# `kill -9` the process whose id is in FOLDER/mN.pid and find the member back on its port.
# Nothing is ended but by the ids written there.
#
#   start_cluster FOLDER COUNT [FLAG...]   sets ENDPOINTS (host:port,host:port), MEMBERS_DIR
#   start_joining FOLDER N CLUSTER [FLAG...]   one more member, --initial-cluster-state existing
#   stop_member FOLDER N                   for good
#   stop_cluster FOLDER
#
# SERVER is the binary; it must be set. Any server with etcd's flags will do.

free_ports() { # COUNT: that many ports nobody listens on
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])
PY
}

_member_loop() { # FOLDER N ARGS...
  local folder=$1 n=$2
  shift 2
  # Descriptors of the caller (pipes to `tee`, say) are not the members' to hold open.
  exec >/dev/null 2>>"$folder/m$n.log" </dev/null
  while [ ! -e "$folder/m$n.stop" ]; do
    "$SERVER" --name "m$n" --data-dir "$folder/m$n.data" "$@" &
    echo $! >"$folder/m$n.pid"
    wait $! || echo "{\"msg\":\"member m$n ended with status $?\"}" >&2
    sleep 0.2
  done
}

_spawn() { # FOLDER N CLIENT_PORT PEER_PORT ARGS...
  local folder=$1 n=$2 client=$3 peer=$4
  shift 4
  rm -f "$folder/m$n.stop"
  echo "$client" >"$folder/m$n.port"
  _member_loop "$folder" "$n" \
    --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    "$@" &
  echo $! >"$folder/m$n.loop"
}

wait_healthy() { # SECONDS PORT...: /health of every port says true
  local limit=$((SECONDS + $1)) port
  shift
  for port in "$@"; do
    until curl -fs -m 2 "http://127.0.0.1:$port/health" 2>/dev/null | grep -q '"true"'; do
      [ "$SECONDS" -lt "$limit" ] || { echo "the member on port $port is not healthy" >&2; return 1; }
      sleep 0.1
    done
  done
}

start_cluster() { # FOLDER COUNT FLAGS...
  local folder=$1 count=$2 n cluster="" ports
  shift 2
  mkdir -p "$folder"
  read -r -a ports <<<"$(free_ports $((2 * count)))"
  for ((n = 0; n < count; n++)); do
    cluster+="${cluster:+,}m$n=http://127.0.0.1:${ports[2 * n + 1]}"
  done
  ENDPOINTS=""
  local clients=()
  for ((n = 0; n < count; n++)); do
    ENDPOINTS+="${ENDPOINTS:+,}127.0.0.1:${ports[2 * n]}"
    clients+=("${ports[2 * n]}")
    _spawn "$folder" "$n" "${ports[2 * n]}" "${ports[2 * n + 1]}" \
      --initial-cluster "$cluster" --initial-cluster-token "clients-$$" --initial-cluster-state new "$@"
  done
  MEMBERS_DIR=$folder
  export ENDPOINTS MEMBERS_DIR
  wait_healthy 30 "${clients[@]}"
}

start_joining() { # FOLDER N CLIENT_PORT PEER_PORT CLUSTER FLAGS...
  local folder=$1 n=$2 client=$3 peer=$4 cluster=$5
  shift 5
  _spawn "$folder" "$n" "$client" "$peer" --initial-cluster "$cluster" --initial-cluster-state existing "$@"
}

stop_member() { # FOLDER N
  local folder=$1 n=$2 limit=$((SECONDS + 15)) pid
  [ -e "$folder/m$n.loop" ] || return 0
  touch "$folder/m$n.stop"
  pid=$(cat "$folder/m$n.pid" 2>/dev/null || true)
  [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$(cat "$folder/m$n.loop")" 2>/dev/null; do
    # The loop may have started the member once more before it saw the stop file.
    [ "$(cat "$folder/m$n.pid")" = "$pid" ] || { pid=$(cat "$folder/m$n.pid"); kill -TERM "$pid" 2>/dev/null || true; }
    [ "$SECONDS" -lt "$limit" ] || kill -9 "$pid" 2>/dev/null || true
    sleep 0.05
  done
  wait "$(cat "$folder/m$n.loop")" 2>/dev/null || true
  rm -f "$folder/m$n.loop"
}

stop_cluster() { # FOLDER
  local loop n
  for loop in "$1"/m*.loop; do
    [ -e "$loop" ] || continue
    n=$(basename "$loop" .loop)
    touch "$1/$n.stop"
    kill -TERM "$(cat "$1/$n.pid")" 2>/dev/null || true
  done
  for loop in "$1"/m*.loop; do
    [ -e "$loop" ] || continue
    n=$(basename "$loop" .loop)
    stop_member "$1" "${n#m}"
  done
}
