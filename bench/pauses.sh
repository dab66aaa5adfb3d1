#!/usr/bin/env bash
# The longest time that a client of kvmesh, and of Redis, waits for a reply while a table grows,
# while a snapshot is written, and while a blank node takes everything; and how long that and a
# restart take. Beside each, what a client of bench/kvecho.rs waits in the same time: a pause that
# it has, too, is the machine's. bench/README.md says more.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'TEXT'
Usage: bench/pauses.sh [options]

  --keys N       keys that are written; default 10000000, which takes 6 GiB of memory for three nodes
  --only NAME    kvmesh (the contender `local` of bench/compare.sh) or redis; default: one after the other
  --ack LEVEL    of kvmesh; default: local, as Redis acknowledges. At `all` a client waits for the acks of every node, the new one included
  --raw          prints what each client has seen, too, with the time of each of its pauses

Each needs about two minutes. Data directories are made under TMPDIR. Prints a table in Markdown.
KVMESH_BIN=DIR in the environment takes kvnode, kvctl and kvecho from there, such as those of another build; REDIS_SERVER=PATH another server.
Exit codes: 0 all is measured, 1 something failed, 2 bad usage.
TEXT
}

bad_usage() {
    printf 'pauses: %s\n' "$*" >&2
    usage >&2
    exit 2
}

keys=10000000 only='local redis' level=local raw=''
while (($# > 0)); do
    case $1 in
        --keys | --only | --ack) (($# > 1)) || bad_usage "$1 takes a value" ;;&
        --keys) keys=$2 && shift ;;
        --only) only=${2/kvmesh/local} && shift ;;
        --ack) level=$2 && shift ;;
        --raw) raw=yes ;;
        --help | -h) usage && exit 0 ;;
        *) bad_usage "no such option: $1" ;;
    esac
    shift
done
[[ $keys =~ ^[1-9][0-9]{0,8}$ ]] || bad_usage "--keys: expected a number, found $keys"
[[ $only =~ ^(local|redis|local\ redis)$ ]] || bad_usage "--only: expected kvmesh or redis, found $only"
[[ $level =~ ^(local|majority|all)$ ]] || bad_usage "--ack: expected local, majority or all, found $level"
[[ ${REDIS_SERVER:-} != */* || $REDIS_SERVER == /* ]] || REDIS_SERVER=$PWD/$REDIS_SERVER
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec </dev/null

fail() {
    printf 'pauses: %s\n' "$*" >&2
    exit 1
}

# shellcheck source=tests/lib.sh
source tests/lib.sh
# shellcheck source=bench/readiness.sh
source bench/readiness.sh
# shellcheck source=bench/contenders.sh
source bench/contenders.sh

work='' watchers=()
finish() {
    local code=$? log
    ((BASHPID == $$)) || exit "$code"
    trap - EXIT INT TERM HUP
    ((${#watchers[@]} == 0)) || kill "${watchers[@]}" 2>/dev/null || true
    stop_all
    if ((code != 0)) && [[ -n $work ]]; then
        for log in "$work"/*.log; do
            [[ -s $log ]] || continue
            printf '==> %s\n' "${log##*/}" >&2
            tail -n 5 -- "$log" >&2
        done
    fi
    [[ -z $work ]] || rm -rf -- "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

pauses() { python3 -I bench/pauses.py "$@"; }

# ---------------------------------------------------------------------------------------------------------------- clients

# How long clients go on after what is watched has ended: what is left of it is theirs, too.
LINGER_S=3

watch() { # contender, node, words…: a client of its own
    local contender=$1 node=$2 port
    client_port "$contender" "$node"
    # A replica of Redis takes no writes.
    [[ $contender != redis || $node == 1 ]] || set -- "$@" get
    python3 -I bench/pauses.py watch "$ip:$port" "$keys" 100000 "${@:3}" >"$work/seen-$contender$node" &
    watchers+=($!)
}

# Ends all clients, and adds a row to the table.
told() { # contender, what, seconds it took
    local seen longest=() rows='' row file
    sleep "$LINGER_S"
    kill "${watchers[@]}"
    wait "${watchers[@]}" || fail 'a client has failed'
    watchers=()
    [[ -z $raw ]] || for seen in "$work"/seen-*; do printf '    %s %s\n' "${seen##*/seen-}" "$(<"$seen")"; done
    row=$(python3 -I - "$1" "$2" "$3" "$work"/seen-* <<'PYTHON'
import json, os, sys

contender, what, took, *paths = sys.argv[1:]
cells = {}
for path in sorted(paths):
    with open(path) as file:
        seen = json.load(file)
    if not seen["requests"]:
        sys.exit(f"{os.path.basename(path)}: no request was answered")
    refused = f", {seen['errors']} refused" if seen["errors"] else ""
    cells[os.path.basename(path)[len("seen-"):]] = "{longest_ms:.1f} ({p999_ms:.1f})".format(**seen) + refused
nodes = [cells.get(f"{contender}{node}", "") for node in (1, 2, 3)]
name = "kvmesh" if contender == "local" else "Redis"
print(f"| {what} | {name} | {took} s | {' | '.join(nodes)} | {cells['limit1']} |")
PYTHON
    ) || fail "$row"
    table+=("$row")
    printf '    %s\n' "$row"
    rm -- "$work"/seen-*
}

# ---------------------------------------------------------------------------------------------------------------- what is watched

seconds_of() { # command…: sets $took
    local began=$EPOCHREALTIME
    "$@"
    took=$(awk -v began="$began" -v ended="$EPOCHREALTIME" 'BEGIN {printf "%.1f", ended - began}')
}

# A node that has collected a tombstone gives a blank one a full dump, which also proves what is
# deleted. Collected before there are many keys: the sooner all of them were looked at.
collect_tombstone() {
    redis_cli local 1 SET gone 1 >/dev/null
    redis_cli local 1 DEL gone >/dev/null
    local node
    for node in 1 2 3; do
        until [[ $(ask_kvctl local "$node" status | figure tombstones_collected) == 1 ]]; do sleep 0.1; done
    done
}

grow() { # contender
    local node port
    [[ $1 != local ]] || collect_tombstone
    for node in 1 2 3; do watch "$1" "$node"; done
    watch limit 1
    client_port "$1" 1
    seconds_of pauses load "$ip:$port" "$keys"
    told "$1" 'a table grows' "$took"
    settle "$1"
}

write_snapshot() { # contender
    if [[ $1 == local ]]; then
        ask_kvctl local 1 compact >/dev/null
        return
    fi
    redis_cli redis 1 BGSAVE >/dev/null
    while [[ $(redis_cli redis 1 INFO persistence | figure rdb_bgsave_in_progress) != 0 ]]; do sleep 0.05; done
    [[ $(redis_cli redis 1 INFO persistence | figure rdb_last_bgsave_status) == ok ]] || fail 'Redis could not save'
}

snapshot() { # contender
    local node
    for node in 1 2 3; do watch "$1" "$node"; done
    watch limit 1
    seconds_of write_snapshot "$1"
    told "$1" 'a snapshot is written' "$took"
    settle "$1"
}

begin_node() { # contender, node: sets $took, the seconds until it holds everything
    local began port
    client_port "$1" "$2"
    began=$EPOCHREALTIME
    start_node "$1" "$2"
    took=$(pauses await "$ip:$port" "$keys" "$began")
}

full_sync() { # contender
    stop_node "$1" 3
    rm -rf -- "$work/data-${1}3"
    watch "$1" 1
    watch "$1" 2
    watch limit 1
    watch "$1" 3 whole
    begin_node "$1" 3
    told "$1" 'a blank node takes everything' "$took"
    settle "$1"
}

restart() { # contender
    stop_node "$1" 1
    watch "$1" 2
    watch "$1" 3
    watch limit 1
    watch "$1" 1 whole
    begin_node "$1" 1
    told "$1" 'a node is restarted' "$took"
}

[[ -n ${REDIS_SERVER:-} ]] || tests/install.sh redis-cli:redis-tools redis-server:redis-server python3:python3
choose_redis
if [[ -z ${KVMESH_BIN:-} ]]; then
    cargo build --release --locked --quiet --bin kvnode --bin kvctl
    cargo build --release --locked --quiet --features testing --bin kvecho
    KVMESH_BIN=$(release_dir)
fi
bin=$(cd -- "$KVMESH_BIN" && pwd)
kvnode=$bin/kvnode kvctl=$bin/kvctl kvecho=$bin/kvecho
work=$(mktemp -d -t kvmesh-pauses.XXXXXX)
choose_ip
table=()
node_fields=('"tombstone_age_min_ms": 500')
ack[local]=$level
start limit
for contender in $only; do
    start "$contender"
    for step in grow snapshot full_sync restart; do "$step" "$contender"; done
    all_alive
    stop "$contender"
done
printf '\n%d keys of 16 bytes with values of 64; kvmesh at %s, %s %s. The longest wait of a client, and in brackets that of one request in a thousand, in milliseconds.\n\n' "$keys" "$level" "$redis_name" "$redis_version"
printf '| while | | takes | node 1 | node 2 | node 3 | the limit |\n|---|---|---|---|---|---|---|\n'
printf '%s\n' "${table[@]}"
