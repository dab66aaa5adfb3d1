#!/usr/bin/env bash
# Tries what bench/compare.sh does around its measurements, and measures nothing: when it refuses,
# waits and marks a page, which Redis it takes, what table.py makes of new and old results, whether
# cpu_time.py counts all, what the limit answers, and whether pauses.py finds a pause. The cells of --growth run once, with so few
# keys and requests that their figures say nothing. Takes a minute; .ci/run runs it.
set -euo pipefail
export LC_ALL=C
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
exec </dev/null

# shellcheck source=tests/lib.sh
source tests/lib.sh
# shellcheck source=bench/readiness.sh
source bench/readiness.sh

work=$(mktemp -d)
kvecho_pid=''
finish() {
    [[ -z $kvecho_pid ]] || kill "$kvecho_pid" 2>/dev/null || true
    rm -rf -- "$work"
}
trap finish EXIT

# What a function of readiness.sh calls in place of going on; each is tried in a process of its own.
fail() {
    printf 'refused: %s\n' "$*"
    exit 1
}

wrong() {
    printf 'check: %s\n' "$*" >&2
    exit 1
}

holds() { # what, text, part…
    local part
    for part in "${@:3}"; do
        [[ $2 == *"$part"* ]] || wrong "$1: expected $part, found: $2"
    done
}

lacks() { # what, text, part…
    local part
    for part in "${@:3}"; do
        [[ $2 != *"$part"* ]] || wrong "$1: found $part in: $2"
    done
}

# ------------------------------------------------------------------------------ trees and loads

tree() { # draft, or empty: prints what comes of it
    cd -- "$work/tree"
    check_tree "$1"
    printf '%s|%s\n' "$commit" "$unpublishable"
}

mkdir -- "$work/tree"
export GIT_CEILING_DIRECTORIES=$work
holds 'no repository' "$(tree '' || true)" 'refused: the commit is not known' '--draft'
holds 'a draft of no repository' "$(tree yes)" 'no repository|the commit is not known'
git -C "$work/tree" init -q
git -C "$work/tree" -c user.name=check -c user.email=check commit -q --allow-empty -m check
head=$(git -C "$work/tree" rev-parse --short HEAD)
[[ $(tree '') == "$head|" ]] || wrong "a clean tree: $(tree '')"
[[ $(tree yes) == "$head|it is a draft" ]] || wrong "a draft of a clean tree: $(tree yes)"
touch -- "$work/tree/new"
holds 'a changed tree' "$(tree '' || true)" 'refused: the tree has uncommitted changes' '--draft'
[[ $(tree yes) == "$head, with changes|the tree has uncommitted changes" ]] || wrong "a draft of a changed tree: $(tree yes)"

idle() { # draft, or empty: prints what comes of it
    LOADAVG=$work/loadavg LOAD_PAUSE_S=0.05
    wait_for_idle "$1"
    printf '%s|%s\n' "$load_before" "$unpublishable"
}

echo '0.50 0.40 0.30 1/99 1' >"$work/loadavg"
[[ $(idle '') == '0.50 0.40 0.30|' ]] || wrong "an idle machine: $(idle '')"
echo '0.51 9 9 1/99 1' >"$work/loadavg"
[[ $(idle yes) == '0.51 9 9|the machine was not idle: a load of 0.51'* ]] || wrong "a draft on a busy machine: $(idle yes)"
holds 'a busy machine' "$(LOAD_WAIT_S=1 idle '')" 'Waiting for up to' '0.51 9 9|the machine was not idle'
# In one step, as the system's own: never half a file.
{ sleep 0.3 && echo '0.10 9 9 1/99 1' >"$work/later" && mv -- "$work/later" "$work/loadavg"; } &
holds 'a machine that becomes idle' "$(idle '')" 'Waiting for up to 30 minutes' '0.10 9 9|'
wait

# ------------------------------------------------------------------------------ which Redis

redis() { # what the server says of itself: prints what comes of it
    printf '#!/bin/sh\necho "%s"\n' "$1" >"$work/server"
    chmod +x -- "$work/server"
    REDIS_SERVER=$work/server
    choose_redis
    printf '%s %s\n' "$redis_name" "$redis_version"
}

[[ $(redis 'Redis server v=8.2.1 sha=00000000:1 malloc=jemalloc-5.3.0') == 'Redis 8.2.1' ]] || wrong 'a newer Redis is not known'
[[ $(redis 'Valkey server v=8.1.0 sha=00000000:0') == 'Valkey 8.1.0' ]] || wrong 'a Valkey is not known'
holds 'another program' "$(redis 'Something v=1' || true)" 'refused: REDIS_SERVER'
holds 'no program' "$(REDIS_SERVER=$work/none choose_redis || true)" 'refused: REDIS_SERVER'

# ------------------------------------------------------------------------------ processor time

# A thread that has ended, and a child that has ended, have each used a fifth of a second.
python3 - "$work/spun" <<'PYTHON' &
import os, sys, threading, time

def spin():
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass

thread = threading.Thread(target=spin)
thread.start()
thread.join()
child = os.fork()
if child == 0:
    spin()
    os._exit(0)
os.waitpid(child, 0)
open(sys.argv[1], "w").close()
time.sleep(60)
PYTHON
spinning=$!
until [[ -e $work/spun ]]; do sleep 0.02; done
used_us=$(python3 -I bench/cpu_time.py "$spinning" $$)
own_us=$(python3 -I bench/cpu_time.py $$)
kill "$spinning"
wait "$spinning" 2>/dev/null || true
((used_us - own_us > 350000 && used_us - own_us < 1500000)) || wrong "two fifths of a second were used, and $((used_us - own_us)) µs found"
! python3 -I bench/cpu_time.py "$spinning" 2>/dev/null || wrong 'the time of a process that is gone was found'

# ------------------------------------------------------------------------------ pages

render() { # folder: sets $page and $said
    python3 bench/table.py "$1"
    page=$(<"$1/results.md")
    said=$(python3 bench/table.py --goals "$1")
    [[ $(<"$1/results.svg") == '<svg '* ]] || wrong "$1: no chart"
}

line() { # contender, operations a second, further fields
    printf '{"round":1,"cell":"replicated:set:c50:d16","contender":"%s","generator":"redis-benchmark","op":"SET","connections":50,"depth":16,"value_size":64,"per_second":%s,"p50_us":900,"p99_us":9000%s}\n' "$1" "$2" "${3:-}"
}

mkdir -- "$work/new" "$work/old"
printf '%s\t%s\n' mode main rounds 1 Valkey 8.1.0 'not for publication' 'it is a draft' >"$work/new/settings.tsv"
{
    line limit 1000000 ',"cpu_operations":1000,"cpu_us":1500'
    line local 800000 ',"cpu_operations":1000,"cpu_us":3000'
    line redis 200000 ',"cpu_operations":1000,"cpu_us":8000'
    line redis 1 ',"failed":"it is broken"'
} >"$work/new/measurements.jsonl"
render "$work/new"
holds 'the page' "$page" '**Not for publication:** it is a draft.' '| Valkey | 8.1.0 |' 'Valkey 1+2, AOF everysec' '**4.00×**' '| 3.00 (one round) | 8.00 (one round) | **0.375×**' \
    '**80 %**' '**20 %**' '**2.00×**' 'it is broken'
lacks 'the page' "$page" goal reached 'Redis 1+2' '| mode |'
holds 'the goals' "$said" 'yes      >= 3.00  4.000' 'yes      <= 0.38  0.375'
# From before there was a limit and processor time, when the cells had goals.
printf '%s\t%s\n' mode goals rounds 1 Redis 7.0.15 >"$work/old/settings.tsv"
{
    line local 471000
    line redis 234000
} >"$work/old/measurements.jsonl"
render "$work/old"
holds 'an old page' "$page" 'Redis 1+2, AOF everysec' '**2.01×**' '## Throughput'
lacks 'an old page' "$page" CPU limit 'Not for publication' reached
holds 'the goals of an old run' "$said" 'NO       >= 3.00  2.013'
! python3 bench/table.py "$work" 2>/dev/null || wrong 'a folder without results made a page'

# ------------------------------------------------------------------------------ the limit

replied() { # lines: sets $replies
    local one
    replies=''
    for ((one = 0; one < $1; one++)); do
        IFS=$'\r' read -r -t 10 said <&3 || wrong "the limit answers no more than $replies"
        replies+="$said "
    done
}

cargo build --locked --quiet --features testing --bin kvecho
kvecho=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}/debug/kvecho
addr=$(own_ip)
"$kvecho" "$addr:21801" 3 &
kvecho_pid=$!
for ((tries = 0; tries < 500; tries++)); do
    ! { exec 3<>"/dev/tcp/$addr/21801"; } 2>/dev/null || break
    sleep 0.02
done
printf '*1\r\n$4\r\nPING\r\n*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nget\r\n$1\r\nl\r\n*1\r\n$4\r\nNONE\r\n' >&3
replied 12
holds 'the limit' "$replies" '+PONG *2 $4 save $0  +OK $3 vvv $3 vvv -ERR kvecho answers'
printf '*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n' >&3
replied 5
holds 'the counts' "$replies" 'keyspace_hits:2' 'cmdstat_set:calls=1,'
python3 -I bench/pauses.py load "$addr:21801" 1234
printf '*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n' >&3
# The first line ends what was said before.
replied 6
holds 'the load of pauses.py' "$replies" 'cmdstat_set:calls=1235,'
exec 3>&-

kill "$kvecho_pid"
wait "$kvecho_pid" 2>/dev/null || true
kvecho_pid=''

# ------------------------------------------------------------------------------ the cells of growth

# Against a node as it is built here, and Debian's Redis, one after the other.
try_growth() {
    local cell group x contender
    # shellcheck disable=SC2034 # what the other files use
    round=1 rounds=1 seconds=0 kvnode=$programs/kvnode kvctl=$programs/kvctl out=$work/growth
    source bench/contenders.sh
    source bench/generators.sh
    source bench/growth.sh
    # In a process of its own, with its own way out.
    trap stop_all EXIT
    KEYS=100 WARM_UP_S=0 SHORTEST=5000 MANY_CONNECTIONS=60 ARGUMENT_LEN_MAX=1000
    # So long that a slow machine is through before it is over.
    EXPIRING_PER_SECOND=50 EXPIRING_LEAD_S=1 EXPIRING_S=600
    node_fields=('"clock_offset_max_ms": 3000')
    work=$work/growth
    choose_redis
    choose_ip
    for cell in "$@"; do
        selected=("$cell:|${cell//:/|}|0")
        round_of_growth
    done
    ((failures == 0))
}

mkdir -- "$work/growth"
printf '%s\t%s\n' mode growth rounds 1 Redis 7.0.15 >"$work/growth/settings.tsv"
for tool in redis-server redis-benchmark redis-cli; do
    command -v "$tool" >/dev/null || wrong "$tool is missing: tests/install.sh redis-server:redis-server"
done
cargo build --locked --quiet --features testing --bin kvnode --bin kvctl
programs=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}/debug
(try_growth connections:60:{local,redis,limit} sizes:2048:{local,limit} {hot:1,ttl:all,ttl:others}:{local,redis}) >"$work/said" 2>&1 || wrong "the cells of growth: $(tail -n 20 "$work/said")"
python3 bench/table.py "$work/growth"
page=$(<"$work/growth/growth.md")
holds 'the page of growth' "$page" '| connections | 60 |' '| bytes of a value | 2 KiB |' '| bytes a second | 2 KiB |' '| TTL | every key | others |' '| keys freed in a second |' '| keys that are asked for | one key |' \
    '| INCR, kvmesh `local`, everysec over Redis, AOF everysec | ' '| throughput, share of the limit |' '| CPU µs/op |'
lacks 'the page of growth' "$page" 'not measured' 'does not count'
for plot in connections sizes; do
    [[ $(<"$work/growth/growth-$plot.svg") == '<svg '* ]] || wrong "no plot of $plot"
done

# ------------------------------------------------------------------------------ pauses

# A server that holds all keys when it is asked a second time, refuses one request, and lets another
# one wait for a tenth of a second.
python3 -I - "$addr" <<'PYTHON' || wrong 'what pauses.py says is not what it saw'
import json, socket, subprocess, sys

listener = socket.create_server((sys.argv[1], 0))
addr = "%s:%d" % listener.getsockname()
watch = subprocess.Popen([sys.executable, "-I", "bench/pauses.py", "watch", addr, "9", "600", "whole"], stdout=subprocess.PIPE)
connection, _ = listener.accept()
VALUE = b"$2\r\nvv\r\n"
replies = [b":8\r\n", b":9\r\n", VALUE, b"+OK\r\n", b"-LOADING\r\n", b"+OK\r\n", "a pause", b"+OK\r\n", VALUE]
for at, reply in enumerate(replies):
    expected = b"DBSIZE" if at < 2 else (b"GET", b"SET")[at % 2]
    request = connection.recv(1 << 16)
    if expected not in request:
        sys.exit(f"expected {expected}, found {request}")
    if reply == "a pause":
        connection.settimeout(0.1)
        try:
            sys.exit(f"before the reply to the last request: {connection.recv(1)}")
        except TimeoutError:
            connection.settimeout(None)
        reply = VALUE
    connection.sendall(reply)
# The next request says that the last reply was read.
connection.recv(1 << 16)
watch.terminate()
seen = json.loads(watch.communicate()[0])
if seen["requests"] != 7 or seen["errors"] != 1 or not seen["longest_ms"] >= 100 or not seen["pauses"]:
    sys.exit(f"found {seen}")
PYTHON

cd -- "$root"
printf 'Passed: what compare.sh and pauses.py do around their measurements.\n'
