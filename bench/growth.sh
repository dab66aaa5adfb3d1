# shellcheck shell=bash disable=SC2034,SC2154 # compare.sh and the other files use and set some
# What more of something costs: keys, connections, nodes, bytes in a value, a TTL, and all clients
# on one key. Sourced by compare.sh, and by check.sh, which tries the cells with small numbers.
#
# A cell is name|group|x|contender|seconds it takes. The processes of one contender run at a time, since seven nodes need the machine for themselves.

cells_of_growth() {
    local x contender
    for x in 10000 100000 1000000 10000000; do
        for contender in local redis; do
            grows keys "$x" "$contender" $((15 + 4 * seconds + x / 70000))
        done
    done
    for x in 1 10 50 200 1000 10000; do
        for contender in local redis limit; do
            # Three times it opens all of them, for each of two commands.
            grows connections "$x" "$contender" $((15 + 2 * seconds + x / 200))
        done
    done
    for x in 2 3 4 5 6 7; do
        for contender in local majority redis; do
            grows nodes "$x" "$contender" $((10 + 2 * seconds))
        done
    done
    for x in 1024 16384 131072 1048576; do
        for contender in local redis limit; do
            grows sizes "$x" "$contender" $((20 + 2 * seconds))
        done
    done
    for x in none all others; do
        for contender in local redis; do
            grows ttl "$x" "$contender" $((25 + 2 * seconds))
        done
    done
    for x in 1 "$KEYS"; do
        for contender in local redis limit; do
            grows hot "$x" "$contender" $((15 + 3 * seconds))
        done
    done
}

grows() { # group, x, contender, seconds it takes
    cells+=("$1:$2:$3|$1|$2|$3|$4")
}

round_of_growth() {
    local place cell name group x contender of
    for ((place = 0; place < ${#selected[@]}; place++)); do
        # There and back, so that who comes first changes.
        cell=${selected[round % 2 == 1 ? place : -place - 1]}
        IFS='|' read -r name group x contender _ <<<"$cell"
        printf 'round %d of %d, after %d s: %s\n' "$round" "$rounds" "$SECONDS" "$name"
        of=${members[$contender]}
        "grow_$group" "$group" "$x" "$contender"
        all_alive
        stop "$contender"
        members["$contender"]=$of
    done
}

# Three nodes, and what is written twice over while a log is made shorter.
BYTES_A_KEY=$((3 * 400))

grow_keys() { # group, keys, contender
    local available problem=''
    available=$(awk '/^MemAvailable/ {printf "%.0f", $2 * 1024}' /proc/meminfo)
    if (($2 * BYTES_A_KEY > available)); then
        printf '    left out: it takes %d MiB, and %d are free\n' $(($2 * BYTES_A_KEY >> 20)) $((available >> 20))
        return
    fi
    start_loaded "$3" "$2" 64
    record "growth:$1:$2:memory" "$3" proc "bytes=$(resident "$3" 1)"
    grow_ops "$1" "$2" "$3" "SET GET" 50 16 64 "$2"
}

# Beside the clients that are measured: replicas, which are clients of a Redis, and those who ask.
CLIENTS_BESIDE=1000

# All are opened by one process of redis-benchmark, whose event loop has places for 10 240 files.
grow_connections() { # group, connections, contender
    # Each node has its log and its peers beside them.
    if (($(ulimit -n) < $2 + 2 * CLIENTS_BESIDE)); then
        printf '    left out: it takes %d open files, and this machine allows %d\n' $(($2 + 2 * CLIENTS_BESIDE)) "$(ulimit -n)"
        return
    fi
    local clients_max=''
    (($2 < MANY_CONNECTIONS)) || clients_max=$(($2 + CLIENTS_BESIDE))
    start_loaded "$3" "$KEYS" 64
    grow_ops "$1" "$2" "$3" "SET GET" "$2" 1 64 "$KEYS"
}

grow_nodes() { # group, nodes, contender
    members["$3"]=$2
    start_loaded "$3" "$KEYS" 64
    grow_ops "$1" "$2" "$3" "SET GET" 50 16 64 "$KEYS"
}

# Bytes of values on every node, in as many keys as that makes.
SIZES_BYTES=$((100 << 20))

# At depth 1: sixteen values of a mebibyte under way on each of 50 connections would be a measurement of buffers.
grow_sizes() { # group, value size, contender
    local keys=$((SIZES_BYTES / $2)) LIMIT_VALUE_SIZE=$2
    ((keys <= KEYS)) || keys=$KEYS
    start_loaded "$3" "$keys" "$2"
    grow_ops "$1" "$2" "$3" "SET GET" 50 1 "$2" "$keys"
}

# An hour: nothing expires while it is measured.
TTL_S=3600
# Keys that expire in each second, from so many seconds after the first one is written on, for
# longer than they are looked at. A node of kvmesh frees what has expired `clock_offset_max` later,
# which is ten seconds.
EXPIRING_PER_SECOND=20000
EXPIRING_LEAD_S=15
EXPIRING_S=$((12 + 4 * seconds))

grow_ttl() { # group, none|all|others, contender
    local options=()
    start_loaded "$3" "$KEYS" 64
    if [[ $2 == others ]]; then
        grow_beside_expiry "$@"
    else
        [[ $2 == none ]] || options=(EX "$TTL_S")
        grow_ops "$1" "$2" "$3" "SET GET" 50 16 64 "$KEYS" "${options[@]}"
    fi
}

# Other keys expire, from before the first request to after the last one. So nothing is at rest.
grow_beside_expiry() { # group, x, contender
    local keys=$((EXPIRING_PER_SECOND * EXPIRING_S)) op before after begun now problem='' deadline=$((SECONDS + SETTLE_DEADLINE_S))
    now_us
    write_keys "$3" "$keys" 64 old $((now / 1000 + EXPIRING_LEAD_S * 1000)) "$EXPIRING_PER_SECOND"
    settle "$3"
    until before=$(expired "$3") && ((before > 0)); do
        all_alive
        ((SECONDS < deadline)) || fail "nothing expires on node 1 of $3"
        sleep 0.1
    done
    now_us
    begun=$now
    for op in SET GET; do
        redis_benchmark "growth:$1:$2:${op,,}" "$3" "$op" 50 16 64 "$KEYS"
    done
    after=$(expired "$3")
    now_us
    at_least "keys that are still to be freed at the end" $((keys - after)) 1
    record "growth:$1:$2:expired" "$3" proc "expired_per_second=$(((after - before) * 1000000 / (now - begun)))"
}

# Keys that node 1 has freed since they had expired.
expired() { # contender
    redis_cli "$1" 1 INFO stats | figure expired_keys
}

# All connections on so many keys.
grow_hot() { # group, keys, contender
    local ops="SET GET INCR"
    # It knows no numbers.
    [[ $3 != limit ]] || ops="SET GET"
    start_loaded "$3" "$KEYS" 64
    grow_ops "$1" "$2" "$3" "$ops" 50 16 64 "$2"
}

# The limit holds nothing.
start_loaded() { # contender, keys, value size
    start "$1"
    [[ ${kind[$1]} == echo ]] || load "$@"
}

grow_ops() { # group, x, contender, ops, connections, depth, value size, keys, options of a SET…
    local op
    for op in $4; do
        redis_benchmark "growth:$1:$2:${op,,}" "$3" "$op" "${@:5}"
        settle "$3"
    done
}
