#!/usr/bin/env bash
# Clients of Redis, as they come, with a mesh of three nodes: redis-cli, redis-benchmark, redis-py,
# ioredis and ruby-redis. Each uses another node.
#
#   tests/clients.sh                                       builds, starts and stops the nodes
#   KVMESH_CLIENTS_ADDR=127.0.0.1:6379 tests/clients.sh    one server that runs already, such as a
#       redis-server, in place of all three nodes. It loses its data.
#
# Installs what is missing: Debian packages if it may, everything else below target/clients. Nothing
# else is written outside target/.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source tests/lib.sh
exec </dev/null

# The version that was tried last.
REDIS_PY=8.1.0
# Both versions that are in use. The second needs a newer Node.js than some systems have.
IOREDIS=(5.9.2)
IOREDIS_FOR_NODE_20=6.0.0
DEADLINE_S=30
CLIENT_DEADLINE_S=120

started=$SECONDS
target=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}
mkdir -p -- "$target/clients"
home=$(cd -- "$target/clients" && pwd)
work=$(mktemp -d -- "$home/run.XXXXXX")
# Files that clients write for themselves stay here, too.
export TMPDIR=$work REDISCLI_HISTFILE=/dev/null PIP_CACHE_DIR=$home/pip-cache npm_config_cache=$home/npm-cache npm_config_update_notifier=false PYTHONDONTWRITEBYTECODE=1

pids=()
finish() {
    local code=$? pid
    trap - EXIT
    if ((code != 0)); then
        tail -n 20 -- "$work"/*.log >&2 2>/dev/null || true
        printf '\nFailed: see above.\n' >&2
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf -- "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    printf 'clients: %s\n' "$*" >&2
    exit 1
}

# Runs a command, whose output is shown only if it fails.
quietly() { # what, command…
    local what=$1
    shift
    timeout "$CLIENT_DEADLINE_S" "$@" >"$work/output" 2>&1 || {
        local code=$?
        cat -- "$work/output" >&2
        fail "$what: exit code $code"
    }
}

ok() { printf 'ok: %s\n' "$*"; }

until_equal() { # what, wanted, command…
    local what=$1 wanted=$2 found end=$((SECONDS + DEADLINE_S))
    shift 2
    until found=$("$@" 2>&1) && [[ $found == "$wanted" ]]; do
        ((SECONDS < end)) || fail "$what: waited $DEADLINE_S s for $wanted, found $found"
        sleep 0.05
    done
}

# ---- what is needed

install_clients() {
    tests/install.sh redis-cli:redis-tools redis-benchmark:redis-tools python3:python3 node:nodejs npm:npm /usr/bin/ruby:ruby
    # The gem of Debian's own ruby, whichever other one is there.
    /usr/bin/ruby -e 'require "redis"' 2>/dev/null || tests/install.sh no-such-program:ruby-redis
    if [[ ! -x $home/venv/bin/pip ]]; then
        python3 -m venv "$home/venv" >/dev/null 2>&1 || { tests/install.sh no-such-program:python3-venv && rm -rf -- "$home/venv" && python3 -m venv "$home/venv"; }
    fi
    # Those that are there already are left alone.
    "$home/venv/bin/python" -c "import redis, sys; sys.exit(redis.__version__ != '$REDIS_PY')" 2>/dev/null ||
        quietly "pip" "$home/venv/bin/pip" install --quiet --disable-pip-version-check "redis==$REDIS_PY"
    (($(node -p 'process.versions.node.split(".")[0]') < 20)) || IOREDIS+=("$IOREDIS_FOR_NODE_20")
    local version
    for version in "${IOREDIS[@]}"; do
        [[ $(node -p "require('$home/ioredis-$version/node_modules/ioredis/package.json').version" 2>/dev/null) == "$version" ]] ||
            quietly "npm" npm install --silent --no-fund --no-audit --no-save --prefix "$home/ioredis-$version" "ioredis@$version"
    done
}

# ---- the nodes

addrs=()
server=mesh
start_nodes() {
    if [[ -n ${KVMESH_CLIENTS_ADDR:-} ]]; then
        addrs=("$KVMESH_CLIENTS_ADDR" "$KVMESH_CLIENTS_ADDR" "$KVMESH_CLIENTS_ADDR")
        server=redis
        redis-cli -h "${addrs[0]%:*}" -p "${addrs[0]##*:}" FLUSHALL >/dev/null
        return
    fi
    cargo build --quiet --locked --release --bin kvnode
    local ip node kvnode
    ip=$(own_ip)
    kvnode=$(release_dir)/kvnode
    for node in 1 2 3; do
        addrs+=("$ip:700$node")
        start_kvnode "$kvnode" "$work/node$node" $node "$work/data$node" "$ip:700$node" "$ip:7101 $ip:7102 $ip:7103" \
            '"ack_timeout_ms": 10000' '"peer_timeout_ms": 5000'
        pids+=($!)
    done
    for node in 1 2 3; do
        until_equal "node $node" 0 ask_count "${addrs[node - 1]}"
    done
}

# In the text protocol, which gives reasons while a node is not ready.
ask_count() { # host:port
    exec 3<>"/dev/tcp/${1%:*}/${1##*:}"
    printf 'COUNT\nQUIT\n' >&3
    local answer
    IFS= read -r -t 2 answer <&3
    printf '%s' "${answer%$'\r'}"
}

cli() { # node, words…
    local addr=${addrs[$1 - 1]}
    shift
    redis-cli -h "${addr%:*}" -p "${addr##*:}" "$@"
}

# ---- the clients

redis_cli_on_a_terminal() {
    quietly "redis-cli on a terminal" python3 tests/clients/redis_cli.py "${addrs[0]}" "$server"
    cat -- "$work/output"
}

redis_cli_pipe() {
    local count=5000
    awk -v count="$count" 'BEGIN {
        for (i = 1; i <= count; i++) {
            key = "pipe:" i; value = "value " i
            printf "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", length(key), key, length(value), value
        }
    }' >"$work/writes"
    # Its exit code does not tell of errors.
    cli 2 --pipe <"$work/writes" >"$work/output" 2>&1 || { cat -- "$work/output" >&2; fail "redis-cli --pipe"; }
    grep -qx "errors: 0, replies: $count" -- "$work/output" || { cat -- "$work/output" >&2; fail "redis-cli --pipe: expected errors: 0, replies: $count"; }
    until_equal "the last of what was piped into node 2, on node 3" "value $count" cli 3 GET "pipe:$count"
    ok "redis-cli --pipe: $count writes through one node, read through another"
    until_equal "redis-cli --scan" "$count" count_scanned
    ok "redis-cli --scan: $count keys"
}

count_scanned() { cli 3 --scan --pattern 'pipe:*' | sort -u | wc -l; }

benchmark() { # node, depth, requests
    local addr=${addrs[$1 - 1]} lines
    cli "$1" DEL counter:__rand_int__ >/dev/null
    quietly "redis-benchmark -P $2" redis-benchmark -h "${addr%:*}" -p "${addr##*:}" -t set,get,incr,mset -n "$3" -P "$2" -c 20 -q
    # Errors end it. A warning is an error that CONFIG GET was answered with.
    ! grep -iE 'error|warning' -- "$work/output" >&2 || fail "redis-benchmark -P $2: see above"
    lines=$(tr '\r' '\n' <"$work/output" | grep -c 'requests per second' || true)
    ((lines == 4)) || { cat -- "$work/output" >&2; fail "redis-benchmark -P $2: expected 4 figures, found $lines"; }
    # It has done what it reports.
    local sum
    sum=$(cli "$1" GET counter:__rand_int__)
    ((sum >= $3)) || fail "redis-benchmark -P $2: its counter is $sum after $3 INCRs"
    until_equal "the benchmark's counter on another node" "$sum" cli $(($1 % 3 + 1)) GET counter:__rand_int__
    ok "redis-benchmark -P $2: $(tr '\r' '\n' <"$work/output" | grep 'requests per second' | sed 's/ requests per second.*//' | paste -sd ';' | sed 's/;/; /g') a second"
}

client() { # what, command…
    quietly "$@"
    grep '^ok: ' -- "$work/output" || { cat -- "$work/output" >&2; fail "$1: it has not said ok"; }
}

install_clients
start_nodes
ready=$SECONDS
redis_cli_on_a_terminal
redis_cli_pipe
benchmark 1 1 5000
benchmark 3 16 20000
client redis-py "$home/venv/bin/python" tests/clients/redis_py.py "${addrs[0]}" "${addrs[1]}"
for version in "${IOREDIS[@]}"; do
    client "ioredis $version" node tests/clients/ioredis.mjs "${addrs[1]}" "${addrs[2]}" "$home/ioredis-$version"
done
client ruby-redis /usr/bin/ruby tests/clients/redis.rb "${addrs[2]}" "${addrs[0]}"
printf 'Passed: redis-cli on a terminal, --pipe and --scan, redis-benchmark, redis-py, ioredis, ruby-redis, in %d s (%d s before that to install and start).\n' \
    $((SECONDS - ready)) $((ready - started))
