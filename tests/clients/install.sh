# Installs clients below $work, each once; `client_version` says what was installed.
# Expects $here, $root, $work.

python_env() { # NAME REQUIREMENTS
  [ -e "$work/$1/installed" ] && cmp -s "$work/$1/installed" "$here/$2" && return 0
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install -q --disable-pip-version-check -r "$here/$2"
  cp "$here/$2" "$work/$1/installed"
}

etcdctl_binary() {
  if [ -n "${ETCDCTL:-}" ]; then echo "$ETCDCTL"; else echo "$work/etcd35/usr/bin/etcdctl"; fi
}

# The crate `etcd-client` compiles etcd's .proto files with protoc, which it does not bring along.
find_protoc() {
  if command -v protoc >/dev/null; then return 0; fi
  if [ ! -e "$work/protoc/usr/include/google/protobuf/descriptor.proto" ]; then
    mkdir -p "$work/protoc/debs"
    (cd "$work/protoc/debs" &&
      apt-get -o APT::Sandbox::User=root download -qq libprotobuf-dev \
        $(apt-cache depends --recurse --important protobuf-compiler | grep -E '^(protobuf-compiler|libproto)'))
    for package in "$work"/protoc/debs/*.deb; do dpkg -x "$package" "$work/protoc"; done
  fi
  export PROTOC=$work/protoc/usr/bin/protoc PROTOC_INCLUDE=$work/protoc/usr/include
  export LD_LIBRARY_PATH=$work/protoc/usr/lib/$(uname -m)-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

install_client() {
  case $1 in
    etcdctl) [ -n "${ETCDCTL:-}" ] || "$root/benches/get-etcd.sh" "$work/etcd35" >/dev/null ;;
    etcd-client)
      (find_protoc && cd "$here/rust" && CARGO_TARGET_DIR=$work/target cargo build -q --release) ;;
    etcd3-pypi | etcd3gw) python_env venv requirements.txt ;;
    aetcd) python_env venv-aetcd requirements-aetcd.txt ;;
    etcd3-npm)
      [ -d "$work/node/node_modules/etcd3" ] ||
        (mkdir -p "$work/node" && cd "$work/node" && npm install --silent --no-fund --no-audit --ignore-scripts etcd3@1.1.2) ;;
  esac
}

client_version() {
  case $1 in
    etcdctl) "$(etcdctl_binary)" version | sed -n 's/^etcdctl version: *//p' ;;
    etcd-client) sed -n '/^name = "etcd-client"/{n;s/version = "\(.*\)"/\1/p}' "$here/rust/Cargo.lock" ;;
    etcd3-pypi) sed -n 's/^etcd3==//p' "$here/requirements.txt" ;;
    etcd3gw) sed -n 's/^etcd3gw==//p' "$here/requirements.txt" ;;
    aetcd) sed -n 's/^aetcd==//p' "$here/requirements-aetcd.txt" ;;
    etcd3-npm) sed -n 's/^  "version": "\(.*\)",*/\1/p' "$work/node/node_modules/etcd3/package.json" ;;
  esac
}
