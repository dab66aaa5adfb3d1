# shellcheck shell=bash disable=SC2034,SC2154 # compare.sh and the other files use and set some
# What more of something costs: keys, connections, nodes. Sourced by compare.sh.
#
# A cell is name|group|how|x|contender|seconds it takes. The processes of one contender run at a time, since seven nodes need the machine for themselves.

cells_of_growth() {
    local x contender op
    for x in 10000 100000 1000000 10000000; do
        for contender in local redis; do
            cells+=("keys:$x:$contender|keys|keys|$x|$contender|$((15 + 4 * seconds + x / 70000))")
        done
    done
    for x in 1 10 50 200 1000; do
        for contender in local redis; do
            cells+=("connections:$x:$contender|connections|connections|$x|$contender|$((15 + 2 * seconds))")
        done
    done
    for x in 2 3 4 5 6 7; do
        for contender in local majority redis; do
            cells+=("nodes:$x:$contender|nodes|nodes|$x|$contender|$((10 + 2 * seconds))")
        done
    done
}

round_of_growth() {
    local place cell name group how x contender
    for ((place = 0; place < ${#selected[@]}; place++)); do
        # There and back, so that who comes first changes.
        cell=${selected[round % 2 == 1 ? place : -place - 1]}
        IFS='|' read -r name group how x contender _ <<<"$cell"
        printf 'round %d of %d, after %d s: %s\n' "$round" "$rounds" "$SECONDS" "$name"
        "grow_$how" "$group" "$x" "$contender"
        all_alive
        stop "$contender"
        members["$contender"]=3
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
    start "$3"
    load "$3" "$2" 64
    record "growth:$1:$2:memory" "$3" proc "bytes=$(resident "$3" 1)"
    grow_ops "$1" "$2" "$3" 50 16 "$2"
}

grow_connections() { # group, connections, contender
    start "$3"
    load "$3" "$KEYS" 64
    grow_ops "$1" "$2" "$3" "$2" 1 "$KEYS"
}

grow_nodes() { # group, nodes, contender
    members["$3"]=$2
    start "$3"
    load "$3" "$KEYS" 64
    grow_ops "$1" "$2" "$3" 50 16 "$KEYS"
}

grow_ops() { # group, x, contender, connections, depth, keys
    local op
    for op in SET GET; do
        redis_benchmark "growth:$1:$2:${op,,}" "$3" "$op" "$4" "$5" 64 "$6"
        settle "$3"
    done
}
