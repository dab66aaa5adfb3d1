#!/usr/bin/env bash
# Compares kvmesh with Redis and etcd on this machine: three nodes each, equal promises, the same
# load. bench/README.md says what is measured and why that is fair.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'TEXT'
Usage: bench/compare.sh [options]

Measures kvmesh beside Redis and etcd, all on this machine, and writes a table (results.md) and a chart (results.svg) of medians and ratios:
throughput, processor time of the servers for each operation, and the share of the limit, which is a session of kvmesh without a store.

  --rounds N     rounds, in each of which every contender is measured; default 5, with --full and --growth 3
  --seconds S    how long each measurement lasts; default 3
  --only REGEX   only the cells whose name matches, such as 'set:c50:d16' or '^million'; --list names them
  --out DIR      where the raw results, the table and the chart go; default: a new temporary directory, whose name is printed
  --full         in place of the main cells: one factor after the other around them (about an hour)
  --growth       in place of them: what more keys, connections, nodes, bytes in a value, a TTL and a hot key cost, with line charts (over an hour)
  --draft        measures a tree with uncommitted changes, too, and does not wait until the machine is idle; the page says that it is not
                 for publication
  --list         names the cells, and ends
  --help         this

Data directories are made under TMPDIR: put it on the disk that is to be measured. Installs what is missing from Debian's packages, if it may.
REDIS_SERVER=PATH in the environment compares with that server, another Redis or a Valkey, in place of Debian's.
A tree with uncommitted changes is refused. On a machine with a load above 0.5 it waits for up to half an hour; the page says if that did not help.
Exit codes: 0 all is measured, 1 something failed or does not count, 2 bad usage.
TEXT
}

bad_usage() {
    printf 'compare: %s\n' "$*" >&2
    usage >&2
    exit 2
}

mode=main rounds='' seconds=3 only=. out='' list='' draft=''
while (($# > 0)); do
    case $1 in
        --rounds | --seconds | --only | --out) (($# > 1)) || bad_usage "$1 takes a value" ;;&
        --rounds) rounds=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --only) only=$2 && shift ;;
        --out) out=$2 && shift ;;
        --full) mode=full ;;
        --growth) mode=growth ;;
        --draft) draft=yes ;;
        --list) list=yes ;;
        --help | -h) usage && exit 0 ;;
        *) bad_usage "no such option: $1" ;;
    esac
    shift
done
[[ $mode != main ]] || : "${rounds:=5}"
: "${rounds:=3}"
[[ $rounds =~ ^[1-9][0-9]{0,2}$ ]] || bad_usage "--rounds: expected a number from 1 to 999, found $rounds"
[[ $seconds =~ ^[1-9][0-9]{0,2}$ ]] || bad_usage "--seconds: expected whole seconds from 1 to 999, found $seconds"
[[ -z $out || $out == /* ]] || out=$PWD/$out
# A path as seen from where this was called.
[[ ${REDIS_SERVER:-} != */* || $REDIS_SERVER == /* ]] || REDIS_SERVER=$PWD/$REDIS_SERVER
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec </dev/null

fail() {
    printf 'compare: %s\n' "$*" >&2
    exit 1
}

# shellcheck source=tests/lib.sh
source tests/lib.sh
# shellcheck source=bench/readiness.sh
source bench/readiness.sh
# shellcheck source=bench/contenders.sh
source bench/contenders.sh
# shellcheck source=bench/generators.sh
source bench/generators.sh
# shellcheck source=bench/cells.sh
source bench/cells.sh
# shellcheck source=bench/growth.sh
source bench/growth.sh

# ---------------------------------------------------------------------------------------------------------------- the way out

work='' helper=''
finish() {
    local code=$? log
    # A part of a pipeline that fails may come here, too.
    ((BASHPID == $$)) || exit "$code"
    trap - EXIT INT TERM HUP
    [[ -z $helper ]] || kill "$helper" 2>/dev/null || true
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

# ---------------------------------------------------------------------------------------------------------------- what is needed

prepare() {
    local needed=(redis-benchmark:redis-tools redis-cli:redis-tools etcd:etcd-server etcdctl:etcd-client h2load:nghttp2-client python3:python3)
    [[ -n ${REDIS_SERVER:-} ]] || needed+=(redis-server:redis-server)
    tests/install.sh "${needed[@]}"
    choose_redis
    cargo build --release --locked --quiet --bin kvnode --bin kvctl
    # On its own: the other two are to be what ships, without the feature.
    cargo build --release --locked --quiet --features testing --bin kvecho
    local bin
    bin=$(cd -- "$(release_dir)" && pwd)
    kvnode=$bin/kvnode kvctl=$bin/kvctl kvecho=$bin/kvecho
    # Ten thousand connections, on both sides.
    ulimit -n "$(ulimit -Hn)"
    [[ -n $out ]] || out=$(mktemp -d -t kvmesh-compare.XXXXXX)
    mkdir -p -- "$out"
    [[ ! -e $out/measurements.jsonl ]] || fail "$out holds results already; name another directory"
    work=$(mktemp -d -t kvmesh-compare-data.XXXXXX)
    # A pipe that nobody writes to: what waits for it with a time limit sleeps without another process.
    mkfifo -- "$work/never"
    choose_ip
}

# One a line: a name, a tab, and what table.py shows.
settings() {
    printf 'mode\t%s\nrounds\t%s\nseconds a measurement\t%s\n' "$mode" "$rounds" "$seconds"
    printf 'date\t%s\n' "$(date -u +%Y-%m-%d)"
    printf 'kvmesh\t%s\n' "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1), $commit"
    printf '%s\t%s\n' "$redis_name" "$redis_version"
    printf 'etcd\t%s\n' "$(etcd --version | sed -n 's/^etcd Version: //p')"
    printf 'generators\t%s\n' "$(redis-benchmark --version), $(h2load --version), kvctl bench of the same build"
    printf 'processors\t%s × %s\n' "$(nproc)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    printf 'memory\t%s MiB\n' "$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
    printf 'kernel\t%s\n' "$(uname -r)"
    printf 'disk\t%s on %s\n' "$(df --output=fstype -- "$work" | tail -n 1)" "$(df --output=source -- "$work" | tail -n 1)"
    printf 'load before\t%s\n' "$load_before"
    [[ -z $unpublishable ]] || printf 'not for publication\t%s\n' "$unpublishable"
}

cells=()
"cells_of_$mode"
selected=()
for cell in "${cells[@]}"; do
    [[ ! ${cell%%|*} =~ $only ]] || selected+=("$cell")
done
((${#selected[@]} > 0)) || bad_usage "--only $only: no cell has such a name; --list names them"
if [[ -n $list ]]; then
    printf '%s\n' "${selected[@]%%|*}"
    exit 0
fi
check_tree "$draft"
# Before a wait that may be long; Debian's may not be there yet.
[[ -z ${REDIS_SERVER:-} ]] || choose_redis
wait_for_idle "$draft"
SECONDS=0
prepare
settings >"$out/settings.tsv"
printf '%d cells, %d rounds: about %d minutes. Data on %s. Raw results: %s\n' \
    "${#selected[@]}" "$rounds" "$(((rounds * $(round_s) + 59) / 60))" "$(df --output=source,fstype -- "$work" | tail -n 1 | tr -s ' ')" "$out/measurements.jsonl"
for ((round = 1; round <= rounds; round++)); do
    "round_of_$mode"
done
stop_all
printf 'load after\t%s\n' "$(cut -d' ' -f1-3 /proc/loadavg)" >>"$out/settings.tsv"
printf 'took\t%d minutes\n' $(((SECONDS + 30) / 60)) >>"$out/settings.tsv"
python3 bench/table.py "$out" "$out"
printf 'Results: %s\n' "$(ls -- "$out"/*.md)"
if [[ -n $unpublishable ]]; then
    printf 'Not for publication: %s\n' "$unpublishable"
else
    printf 'To keep them: python3 bench/table.py %q bench\n' "$out"
fi
((failures == 0)) || fail "$failures measurements do not count, see above"
