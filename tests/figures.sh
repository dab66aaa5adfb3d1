#!/usr/bin/env bash
# Figures of a mesh of three nodes on this machine, with all nodes and the generator on it:
# throughput, recovery, the disk, and the cost of one stopped node for the others.
# Usage: tests/figures.sh [throughput|recovery|restart|compaction|stopped]...
# Without an argument all of them, in some minutes on an idle machine.
# The data directories are made under TMPDIR: put it on the disk that is to be measured.
# Needs nothing but bash, awk and the release build. Ports 17001-17003 and 17101-17103 on loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/lib.sh
cargo build --release --quiet --bin kvnode --bin kvctl
bin=$(cd -- "$(release_dir)" && pwd)
work=$(mktemp -d)
fsync=always
declare -A pid=()
nodes=127.0.0.1:17001,127.0.0.1:17002,127.0.0.1:17003

stop_all() {
    for node in "${!pid[@]}"; do kill -CONT "${pid[$node]}" 2>/dev/null || true; kill "${pid[$node]}" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap stop_all EXIT

start() { # node
    start_kvnode "$bin/kvnode" "$work/node$1" "$1" "$work/data$1" "127.0.0.1:1700$1" "127.0.0.1:17101 127.0.0.1:17102 127.0.0.1:17103" \
        "\"fsync\": \"$fsync\"" "\"compact_log_min\": ${compact_log_min:-67108864}"
    pid[$1]=$!
}

converge() { "$bin/kvctl" -n "$nodes" converge --timeout 120 > /dev/null; }
ask() { "$bin/kvctl" -n "127.0.0.1:1700$1" "${@:2}"; }
memory() { awk '/VmRSS/ {printf "%.0f MiB", $2 / 1024}' "/proc/${pid[$1]}/status"; }

# Sends the commands on stdin to a node, as fast as it takes them. Every reply must be OK.
pipe_to() { # node, commands
    exec 3<> "/dev/tcp/127.0.0.1/1700$1"
    { echo "ACK local"; cat; echo QUIT; } >&3 &
    local ok
    ok=$(grep -c '^OK$' <&3)
    exec 3>&-
    [ "$ok" = "$(($2 + 2))" ] || { echo "only $ok of $2 writes were OK" >&2; exit 1; }
}

bench() { # ack level, nodes, further options: prints operations/s and latencies
    "$bin/kvctl" -n "$2" --ack "$1" bench "${@:3}" | awk '/^operations/ {ops = $2} /^errors/ {errors = $2} /^round/ {sub(/^round +/, ""); round = $0} END {printf "%9d/s  %d errors  round %s\n", ops, errors, round}'
}

# Ends all nodes, and starts them anew: with other settings, or without their data.
start_all() { # keep|wipe
    local node
    for node in "${!pid[@]}"; do kill "${pid[$node]}"; wait "${pid[$node]}" || true; done
    [ "$1" = keep ] || rm -rf "$work"/data*
    for node in 1 2 3; do start "$node"; done
    converge
}

throughput() {
    echo "== PUT, 50 connections, 64-byte values, 100000 keys; three runs each, interleaved"
    for depth in 16 1; do
        for _ in 1 2 3; do
            for fsync in always everysec; do
                start_all wipe
                for ack in local majority; do
                    printf '%-9s %-9s depth %-3s' "$fsync" "$ack" "$depth"
                    bench "$ack" "$nodes" --clients 50 --depth "$depth" --seconds 4 --keys 100000 --value-size 64
                    converge
                done
                [ "$depth$fsync" != 16always ] || log_bytes
            done
        done
    done
    fsync=always
    start_all wipe
    echo "== PUT majority, one connection, depth 1"
    bench majority 127.0.0.1:17001 --clients 1 --depth 1 --seconds 4
}

status() { ask "$1" status | awk -v name="$2" '$1 == name {print $2}'; }

# Bytes in the log of node 1, for each write since the start.
log_bytes() {
    awk -v bytes="$(status 1 log_appended_bytes)" -v writes="$(($(status 1 writes) + $(status 2 writes) + $(status 3 writes)))" -v syncs="$(status 1 log_syncs)" \
        'BEGIN {printf "          log of node 1: %.1f bytes a write (key 16, value 64), %.0f writes a sync\n", bytes / writes, writes / syncs}'
}

million() {
    start_all wipe
    awk 'BEGIN {v = sprintf("%64s", ""); gsub(/ /, "v", v); for (i = 0; i < 1000000; i++) printf "PUT key:%012d %s\n", i, v}' | pipe_to 1 1000000
    converge
}

restart() {
    echo "== a node with a million keys starts from its disk, killed before; three runs, from the log and then from a snapshot"
    compact_log_min=1000000000 million
    local from
    for from in log snapshot; do
        [ "$from" = log ] || ask 3 compact | tr '\n' ' '
        for _ in 1 2 3; do
            kill -9 "${pid[3]}"; wait "${pid[3]}" 2>/dev/null || true
            : > "$work/node3.log"
            compact_log_min=1000000000 start 3
            converge
            printf '%-9s' "$from"
            grep -o 'read .*' "$work/node3.log" | head -1 | sed "s|$work/||"
        done
    done
}

compaction() {
    echo "== PUT, majority, 16 connections, depth 4, a million keys there; ten seconds without a snapshot, and ten with one after the other; three runs, interleaved"
    compact_log_min=1000000000 million
    for _ in 1 2 3; do
        for during in none snapshots; do
            printf '%-10s' "$during"
            local compacting=
            if [ "$during" = snapshots ]; then
                # On all three nodes, one after the other, until it is killed.
                { while :; do for node in 1 2 3; do ask "$node" compact > /dev/null || true; done; done; } &
                compacting=$!
            fi
            bench majority "$nodes" --clients 16 --depth 4 --seconds 10 --value-size 64
            [ -z "$compacting" ] || { kill "$compacting"; wait "$compacting" 2>/dev/null || true; echo "          $(status 1 snapshots_written) snapshots written by node 1 so far, the last in $(status 1 snapshot_took_ms) ms"; }
        done
    done
}

recovery() {
    echo "== a million keys of 16 bytes with values of 64; a blank node takes all of them; three runs"
    million
    for _ in 1 2 3; do
        kill -9 "${pid[3]}"; wait "${pid[3]}" 2>/dev/null || true
        rm -rf "$work/data3"
        : > "$work/node3.log"
        start 3
        converge
        echo "$(grep -o 'took a dump from .*' "$work/node3.log" | head -1); donor $(memory 1), $(memory 2), node 3 $(memory 3)"
    done
    echo "== 10000 writes missed while the links to node 3 were dead; three runs"
    for run in 1 2 3; do
        kill -STOP "${pid[3]}"
        # Until both have given the connection up: what follows is not queued for it.
        for node in 1 2; do until ask "$node" peers | grep -q 'peer 3 .*link_out none'; do sleep 0.2; done; done
        awk -v run="$run" 'BEGIN {for (i = 0; i < 10000; i++) printf "PUT key:%012d changed %s\n", i * 100, run}' | pipe_to 1 10000
        # And until no dial is under way that began before these writes: write batches are queued
        # from a dial on.
        sleep 3
        : > "$work/node3.log"
        kill -CONT "${pid[3]}"
        converge
        grep -o 'took a dump from .*' "$work/node3.log" | sort -t: -k2 -rn | head -1
    done
}

stopped() {
    echo "== 16 connections, depth 4, on nodes 1 and 2 for 14 s; node 3 stopped for 10 s of them, or not; interleaved"
    for _ in 1 2 3; do
        for ack in local majority; do
            for fault in none stopped; do
                printf '%-9s %-8s' "$ack" "$fault"
                if [ "$fault" = stopped ]; then
                    { sleep 2; kill -STOP "${pid[3]}"; sleep 10; kill -CONT "${pid[3]}"; } &
                fi
                bench "$ack" 127.0.0.1:17001,127.0.0.1:17002 --clients 16 --depth 4 --seconds 14
                [ "$fault" = none ] || wait $!
                converge
            done
        done
    done
}

start_all wipe
for what in "${@:-throughput recovery restart compaction stopped}"; do
    for figure in $what; do "$figure"; done
done
