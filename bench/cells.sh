# shellcheck shell=bash disable=SC2016,SC2034,SC2153,SC2154 # dollars are of a protocol; compare.sh and the other files use and set some
# What is measured: the cells, by group, and a round of them. Sourced by compare.sh.
#
# A cell is name|group|how|op|connections|depth|value size|contenders. All contenders of a group run
# at the same time, and one of them is loaded. In each cell and round another one begins.

cells_of_main() {
    local depth op
    for depth in 16 1; do
        cell replicated "set:c50:d$depth" redis_benchmark SET 50 "$depth" 64 "local majority redis limit"
        cell replicated "get:c50:d$depth" redis_benchmark GET 50 "$depth" 64 "local redis limit"
    done
    for depth in 16 1; do
        cell replicated "set-wait:c50:d$depth" kvctl_wait SET 50 "$depth" 64 "majority redis-wait"
        cell replicated "mixed:c50:d$depth" kvctl_mixed MIXED 50 "$depth" 64 "local redis"
    done
    cell replicated "set-wait:c1:d1" kvctl_wait SET 1 1 64 "majority redis-wait"
    # The same by the other generator: do they agree?
    for depth in 16 1; do
        for op in SET GET; do
            cell replicated "check:${op,,}:c50:d$depth" "kvctl_${op,,}" "$op" 50 "$depth" 64 "local redis"
        done
    done
    for depth in 16 1; do
        cell durable "set:c50:d$depth" durable SET 50 "$depth" 64 "always etcd"
        cell durable "get:c50:d$depth" durable GET 50 "$depth" 64 "always etcd"
    done
    cell durable "set:c1:d1" durable SET 1 1 64 "always etcd"
    for depth in 16 1; do
        cell alone "set:c50:d$depth" redis_benchmark SET 50 "$depth" 64 "alone redis-alone"
        cell alone "get:c50:d$depth" redis_benchmark GET 50 "$depth" 64 "alone redis-alone"
    done
    cell million memory memory "" 0 0 64 "local redis"
    cell million full-sync full_sync "" 0 0 64 "local redis"
    cell million restart restart "" 0 0 64 "local redis"
    cell idle connections idle "" "$IDLE_CONNECTIONS" 0 0 "alone redis-alone"
    cell stopped "set:c50:d16" stopped SET 50 16 64 "local local-stopped"
}

# One factor after the other.
cells_of_full() {
    local depth op what connections size
    for size in 64 1024 16384; do
        for depth in 16 1; do
            for connections in 50 1 200; do
                # Around 50 connections and 64 bytes.
                ((size == 64 || connections == 50)) || continue
                for op in SET GET MIXED; do
                    what="${op,,}:c$connections:d$depth:v$size"
                    cell replicated "$what" "kvctl_${op,,}" "$op" "$connections" "$depth" "$size" "local majority redis"
                    [[ $op != SET ]] || cell replicated "set-wait:c$connections:d$depth:v$size" kvctl_wait SET "$connections" "$depth" "$size" "majority redis-wait"
                    [[ $op == MIXED ]] || cell durable "$what" durable "$op" "$connections" "$depth" "$size" "always etcd"
                    cell alone "$what" "kvctl_${op,,}" "$op" "$connections" "$depth" "$size" "alone redis-alone"
                done
            done
        done
    done
}

cell() { # group, name, how, op, connections, depth, value size, contenders
    cells+=("$1:$2|$1|$3|$4|$5|$6|$7|$8")
}

# ---------------------------------------------------------------------------------------------------------------- a round

IDLE_CONNECTIONS=5000
MILLION=1000000
STOPPED_S=6

round_of_main() { round_of_groups; }
round_of_full() { round_of_groups; }

# A group is started for each size of values: what the size before has left behind is not there.
round_of_groups() {
    local group size groups
    groups=$(printf '%s\n' "${selected[@]}" | awk -F'|' '!seen[$2 FS $7]++ {print $2, $7}')
    while read -r group size; do
        run_group "$group" "$size"
    done <<<"$groups"
}

run_group() { # group, value size
    local cell name group how op connections depth size contenders contender turn=0 of order
    of=$(printf '%s\n' "${selected[@]}" | awk -F'|' -v group="$1" -v size="$2" '$2 == group && $7 == size {print $8}' | tr ' ' '\n' | sed 's/^redis-wait$/redis/; s/^local-stopped$/local/' | sort -u)
    keys=$KEYS
    # 16 KiB each: so many as fit into memory seven times.
    (($2 <= 4096)) || keys=$((KEYS / 10))
    # What these need is theirs.
    for contender in $of; do
        start "$contender"
        case $1 in
            million) load "$contender" "$MILLION" "$2" ;;
            # kvctl bench writes what it is to read, under names of its own.
            # The limit holds nothing.
            replicated | alone) [[ $mode == full || ${kind[$contender]} == echo ]] || load "$contender" "$keys" "$2" ;;
        esac
    done
    for cell in "${selected[@]}"; do
        IFS='|' read -r name group how op connections depth size contenders <<<"$cell"
        [[ $group == "$1" && $size == "$2" ]] || continue
        # What one generator says is held against the other in every second round.
        [[ $name != *:check:* ]] || ((round % 2 == 1)) || continue
        rotate $((round + turn)) "$contenders"
        turn=$((turn + 1))
        for contender in "${order[@]}"; do
            printf 'round %d of %d, after %d s: %s, %s\n' "$round" "$rounds" "$SECONDS" "$name" "$contender"
            "measure_$how" "$name" "$contender" "$op" "$connections" "$depth" "$size"
            all_alive
            settle "${runs_as[$contender]:-$contender}"
        done
    done
    for contender in $of; do stop "$contender"; done
}

rotate() { # by, words: sets $order
    local words
    read -ra words <<<"$2"
    local by=$(($1 % ${#words[@]}))
    order=("${words[@]:by}" "${words[@]:0:by}")
}

# An estimate, from runs on two processors: a measurement takes its time, and to warm up, to check and to settle.
round_s() {
    printf '%s\n' "${selected[@]}" | awk -F'|' -v seconds="$seconds" -v mode="$mode" '
        mode == "growth" {total += $5; next}
        {
            runs = split($8, all, " ")
            if ($1 ~ /check/) runs *= 0.6
            if ($2 == "million") total += 7 * runs
            else if ($2 == "idle") total += 8 * runs
            else if ($2 == "stopped") total += 10 * runs
            else total += (seconds + 2) * runs
            if (!seen[$2 FS $7]++) total += $2 == "million" ? 20 : 5
        }
        END {printf "%d", total}'
}

# ---------------------------------------------------------------------------------------------------------------- how

measure_redis_benchmark() { redis_benchmark "$@" "$keys"; }
measure_kvctl_set() { kvctl_bench "$@" "$keys" "$seconds"; }
measure_kvctl_get() { kvctl_bench "$@" "$keys" "$seconds" --reads 100; }
measure_kvctl_mixed() { kvctl_bench "$@" "$keys" "$seconds" --reads 90; }

# For Redis a pair, SET and WAIT 1, is one operation; a node of kvmesh at majority does the same in one command.
measure_kvctl_wait() {
    local wait=()
    [[ $2 != redis-wait ]] || wait=(--wait 1)
    kvctl_bench "$@" "$keys" "$seconds" "${wait[@]}"
}

measure_durable() { # cell, contender, op, …
    if [[ $2 == etcd ]]; then
        h2load_etcd "$@"
    else
        "measure_kvctl_${3,,}" "$@"
    fi
}

# What node 1 holds a million keys in.
measure_memory() { # cell, contender
    local problem=''
    keys_are "$2" "$MILLION"
    record "$1" "$2" proc "keys=$MILLION" "bytes=$(resident "$2" 1)"
}

# From the start of the process to the first time that it says that it holds so many keys. Asks on one connection as long as it can.
until_it_holds() { # contender, node, keys, since (µs): prints how long it took (µs). In a process of its own, which lives when the connection ends.
    trap '' PIPE
    local said now deadline=$((SECONDS + SETTLE_DEADLINE_S)) port
    client_port "$1" "$2"
    exec 5<>"$work/never"
    while :; do
        all_alive
        ((SECONDS < deadline)) || fail "node $2 of $1 does not hold $3 keys after $SETTLE_DEADLINE_S s"
        if { exec 4<>"/dev/tcp/$ip/$port"; } 2>/dev/null; then
            while printf '*1\r\n$6\r\nDBSIZE\r\n' >&4 2>/dev/null && IFS= read -r -t 10 said <&4; do
                now_us
                if [[ $said == ":$3"$'\r' ]]; then
                    printf '%d' $((now - $4))
                    return
                fi
                read -r -t 0.005 <&5 || true
            done
            exec 4>&-
        fi
        read -r -t 0.005 <&5 || true
    done
}

# From the start of a node that is not running until it serves a million keys.
measure_start() { # cell, contender, node
    local problem='' now took_us begun
    now_us
    begun=$now
    start_node "$2" "$3"
    took_us=$(until_it_holds "$2" "$3" "$MILLION" "$begun")
    record "$1" "$2" start "keys=$MILLION" "took_us=$took_us"
}

# A blank node of three takes everything: node 3 loses its disk. Until it serves; what Redis's replica has by then is not in its log yet.
measure_full_sync() { # cell, contender
    stop_node "$2" 3
    rm -rf -- "$work/data-${2}3"
    measure_start "$1" "$2" 3
}

# From a disk that is as small as the contender makes it, and in the memory of the system.
measure_restart() { # cell, contender
    if [[ ${kind[$2]} == kvmesh ]]; then
        ask_kvctl "$2" 1 compact >/dev/null
    else
        redis_cli "$2" 1 BGREWRITEAOF >/dev/null
        until [[ $(redis_cli "$2" 1 INFO persistence | figure aof_rewrite_in_progress) == 0 && $(redis_cli "$2" 1 INFO persistence | figure aof_rewrite_scheduled) == 0 ]]; do sleep 0.05; done
        [[ $(redis_cli "$2" 1 INFO persistence | figure aof_last_bgrewrite_status) == ok ]] || fail "Redis could not rewrite its log"
    fi
    settle "$2"
    stop_node "$2" 1
    measure_start "$1" "$2" 1
}

# Each has said PING, and heard the answer. A node that is fresh, so that nothing that another cell has left can be used again.
measure_idle() { # cell, contender
    local problem='' before after port ready
    client_port "$2" 1
    (($(ulimit -n) > IDLE_CONNECTIONS + 100)) || fail "$IDLE_CONNECTIONS connections: this machine allows $(ulimit -n) open files"
    settle "$2"
    before=$(resident "$2" 1)
    mkfifo "$work/ready"
    hold_connections "$port" "$IDLE_CONNECTIONS" >"$work/ready" 2>"$work/complaint" &
    helper=$!
    IFS= read -r -t 60 ready <"$work/ready" || fail "$IDLE_CONNECTIONS connections to $2: $(tail -n 1 "$work/complaint")"
    rm -- "$work/ready"
    settle "$2"
    at_least "connections" "$(redis_cli "$2" 1 INFO clients | figure connected_clients)" "$IDLE_CONNECTIONS"
    after=$(resident "$2" 1)
    kill "$helper"
    wait "$helper" 2>/dev/null || true
    helper=
    record "$1" "$2" proc "connections=$IDLE_CONNECTIONS" "bytes=$(((after - before) / IDLE_CONNECTIONS))"
}

hold_connections() { # port, how many: prints a line when they are there, and holds them until it is killed
    local held one said
    for ((one = 0; one < $2; one++)); do
        exec {held}<>"/dev/tcp/$ip/$1"
        printf '*1\r\n$4\r\nPING\r\n' >&"$held"
        IFS= read -r -t 10 said <&"$held"
        [[ $said == +PONG$'\r' ]]
    done
    echo ready
    # Closed, so that the reader sees that nothing else comes.
    exec >&-
    exec 5<>"$work/never"
    while :; do read -r -t 60 <&5 || true; done
}

# Node 3 does not answer from the beginning of the warm-up on, and the others find that out in the time that is measured.
measure_stopped() { # cell, contender, op, connections, depth, size
    local bench_nodes
    bench_nodes=$(addr_of local 1 2)
    [[ $2 != local-stopped ]] || kill -STOP "${pids["local 3"]}"
    kvctl_bench "$@" "$KEYS" "$STOPPED_S"
    if [[ $2 == local-stopped ]]; then
        [[ $(ask_kvctl local 1 peers) == *'peer 3 down'* ]] || fail "node 3 was stopped and node 1 has not seen that"
        kill -CONT "${pids["local 3"]}"
    fi
}
