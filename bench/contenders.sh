# shellcheck shell=bash disable=SC2034,SC2154 # compare.sh and the other files use and set some
# What is compared: starts and ends the contenders, knows whether they are whole, and waits until
# they are at rest. Sourced by compare.sh.
#
# A contender has a name, and so many nodes on consecutive ports of one loopback address. Node 1 is
# the one that is measured: a Redis's primary, any node of a mesh, and of an etcd whichever is the
# leader. The limit is bench/kvecho.rs: what a node's sessions cost without a store.

# The numbers of nodes change in --growth.
declare -A kind=([local]=kvmesh [majority]=kvmesh [always]=kvmesh [alone]=kvmesh [redis]=redis [redis-alone]=redis [etcd]=etcd [limit]=echo)
declare -A members=([local]=3 [majority]=3 [always]=3 [alone]=1 [redis]=3 [redis-alone]=1 [etcd]=3 [limit]=1)
declare -A base=([local]=21100 [majority]=21200 [always]=21300 [alone]=21400 [redis]=21500 [redis-alone]=21600 [etcd]=21700 [limit]=21800)
declare -A ack=([local]=local [majority]=majority [always]=majority [alone]=local)
declare -A fsync=([local]=everysec [majority]=everysec [always]=always [alone]=everysec)
# Ports for peers are so many above those for clients.
PEER_PORTS=50
MEMBERS_MAX=7
# How many clients kvmesh and Redis are told to admit, where what they admit as they come is not enough.
clients_max=''
# Further fields of a node's configuration.
node_fields=()
# Bytes of what the limit answers to a GET: as many as the values have where it is measured.
LIMIT_VALUE_SIZE=64
SETTLE_DEADLINE_S=600

# The processes that run, by "contender node". Whatever is started is in here before anything else is done.
declare -A pids=()
# What the cells of a contender were called that shares its processes with another one.
declare -A runs_as=([redis-wait]=redis [local-stopped]=local)

# An address of our own, so that nobody else is likely to have a port of it, and fixed ports.
choose_ip() {
    ip=$(own_ip)
    local contender node port
    for contender in "${!base[@]}"; do
        for ((node = 1; node <= MEMBERS_MAX; node++)); do
            for port in $((base[$contender] + node)) $((base[$contender] + PEER_PORTS + node)); do
                if (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; then
                    fail "port $port of $ip is taken: something listens there. This script uses ports 21101 to 21857; end that, or change bench/contenders.sh"
                fi
            done
        done
    done
}

client_port() { # contender, node: sets $port
    local contender=${runs_as[$1]:-$1}
    port=$((base[$contender] + $2))
}

addr_of() { # contender, node…: prints host:port, with commas between
    local node list=
    for node in "${@:2}"; do
        client_port "$1" "$node"
        list+="${list:+,}$ip:$port"
    done
    printf '%s' "$list"
}

all_nodes() { # contender
    local contender=${runs_as[$1]:-$1}
    seq "${members[$contender]}"
}

start_kvmesh() { # contender, node
    local contender=$1 node=$2 other peers=()
    for other in $(all_nodes "$contender"); do peers+=("$ip:$((base[$contender] + PEER_PORTS + other))"); done
    client_port "$contender" "$node"
    start_kvnode "$kvnode" "$work/$contender$node" "$node" "$work/data-$contender$node" "$ip:$port" "${peers[*]}" \
        "\"ack\": \"${ack[$contender]}\"" "\"fsync\": \"${fsync[$contender]}\"" ${clients_max:+"\"clients_max\": $clients_max"} "${node_fields[@]}"
    pids["$contender $node"]=$!
}

# As it comes, but for its log of all writes, which replaces the dumps at intervals that the default
# configuration makes, and for the wait of five seconds before a replica is served.
start_redis() { # contender, node
    local contender=$1 node=$2 replica=()
    client_port "$contender" "$node"
    ((node == 1)) || replica=(--replicaof "$ip $((base[$contender] + 1))")
    # shellcheck disable=SC2206 # two words, or none
    local more=(${clients_max:+--maxclients $clients_max})
    mkdir -p -- "$work/data-$contender$node"
    "$redis_server" --port "$port" --bind "$ip" --protected-mode no --dir "$work/data-$contender$node" --daemonize no --save '' \
        --appendonly yes --appendfsync everysec --repl-diskless-sync-delay 0 "${replica[@]}" "${more[@]}" >>"$work/$contender$node.log" 2>&1 &
    pids["$contender $node"]=$!
}

start_etcd() { # contender, node
    local contender=$1 node=$2 other cluster=''
    for other in $(all_nodes "$contender"); do
        cluster+="${cluster:+,}n$other=http://$ip:$((base[$contender] + PEER_PORTS + other))"
    done
    client_port "$contender" "$node"
    etcd --name "n$node" --data-dir "$work/data-$contender$node" --log-level error \
        --listen-client-urls "http://$ip:$port" --advertise-client-urls "http://$ip:$port" \
        --listen-peer-urls "http://$ip:$((port + PEER_PORTS))" --initial-advertise-peer-urls "http://$ip:$((port + PEER_PORTS))" \
        --initial-cluster "$cluster" --initial-cluster-state new >>"$work/$contender$node.log" 2>&1 &
    pids["$contender $node"]=$!
}

start_echo() { # contender, node
    client_port "$1" "$2"
    "$kvecho" "$ip:$port" "$LIMIT_VALUE_SIZE" >>"$work/$1$2.log" 2>&1 &
    pids["$1 $2"]=$!
}

start_node() { "start_${kind[$1]}" "$@"; } # contender, node

# Blank, and whole when it returns.
start() { # contender
    local node
    rm -rf -- "$work/data-$1"[0-9]
    for node in $(all_nodes "$1"); do start_node "$1" "$node"; done
    converge "$1"
}

# Waits until it has ended; whatever does not is killed.
stop_node() { # contender, node
    local pid=${pids["$1 $2"]:-} deadline=$((SECONDS + 20))
    [[ -n $pid ]] || return 0
    kill "$pid" 2>/dev/null || true
    while is_running "$pid" && ((SECONDS < deadline)); do sleep 0.02; done
    kill_node "$@"
}

kill_node() { # contender, node
    local pid=${pids["$1 $2"]:-}
    [[ -n $pid ]] || return 0
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "pids[$1 $2]"
}

# Its data is not needed again, so it need not be put in order.
stop() { # contender
    local node
    for node in $(all_nodes "$1"); do kill_node "$1" "$node"; done
    rm -rf -- "$work/data-$1"[0-9]
}

stop_all() {
    local one
    for one in "${!pids[@]}"; do kill_node "${one% *}" "${one#* }"; done
}

# A process that has ended and is not waited for yet does not run.
is_running() { # pid
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    [[ ${stat##*) } != Z* ]]
}

all_alive() {
    local one
    for one in "${!pids[@]}"; do
        is_running "${pids[$one]}" || fail "$one has ended by itself; its log is below"
    done
}

# ---------------------------------------------------------------------------------------------------------------- what they say of themselves

redis_cli() { # contender, node, words…
    client_port "$1" "$2"
    redis-cli -h "$ip" -p "$port" "${@:3}"
}

ask_kvctl() { # contender, node, words…
    "$kvctl" -n "$(addr_of "$1" "$2")" --timeout 60 "${@:3}"
}

# One figure out of lines that are `name:value` or `name value`; empty if there is none.
figure() { # name
    awk -F'[: \r]+' -v name="$1" '$1 == name {print $2}'
}

resident() { # contender, node: prints bytes
    awk '/^VmRSS/ {printf "%.0f", $2 * 1024}' "/proc/${pids["$1 $2"]}/status"
}

# All that the contender was told is on all its nodes, and all its nodes are there.
is_whole() { # contender
    case ${kind[$1]} in
        kvmesh)
            [[ $(ask_kvctl "$1" 1 status 2>/dev/null | awk '$1 == "state" || $1 == "members_up" {print $2}' | paste -sd ' ') == "open ${members[$1]}" ]] || return 1
            ((members[$1] > 1)) || return 0
            # shellcheck disable=SC2046 # numbers
            "$kvctl" -n "$(addr_of "$1" $(all_nodes "$1"))" converge --timeout 5 >"$work/said" 2>&1
            ;;
        redis)
            redis_cli "$1" 1 INFO replication 2>/dev/null | tr -d '\r' | awk -F'[:,=]' -v wanted="$((members[$1] - 1))" '
                /^connected_slaves/ {slaves = $2}
                /^slave[0-9]/ {if ($7 == "online") {online++; offset[online] = $9}}
                /^master_repl_offset/ {upto = $2}
                END {for (i in offset) if (offset[i] == upto) equal++; exit !(upto != "" && slaves == wanted && equal + 0 == wanted)}'
            ;;
        echo) [[ $(redis_cli "$1" 1 PING 2>/dev/null) == PONG ]] ;;
        etcd)
            # shellcheck disable=SC2046 # numbers
            ETCDCTL_API=3 etcdctl --endpoints "$(addr_of "$1" $(all_nodes "$1"))" endpoint health >"$work/said" 2>&1
            ;;
    esac
}

converge() { # contender
    local deadline=$((SECONDS + SETTLE_DEADLINE_S))
    until is_whole "$1"; do
        all_alive
        ((SECONDS < deadline)) || fail "$1 is not whole after $SETTLE_DEADLINE_S s: $(cat "$work/said" 2>/dev/null)"
        sleep 0.1
    done
}

# Microseconds of processor time that a contender has used, all of its nodes together.
used() { # contender: sets $used_us
    local contender=${runs_as[$1]:-$1} node of=()
    for node in $(all_nodes "$contender"); do of+=("${pids["$contender $node"]}"); done
    used_us=$(python3 -I bench/cpu_time.py "${of[@]}") || fail "the processor time of $contender is not known"
}

# What all contenders have used of the processors, in hundredths of a second, and how many processes
# write in the background for them.
busy() { # sets $ticks and $children
    local one stat fields of
    ticks=0 children=0
    for one in "${!pids[@]}"; do
        stat=$(<"/proc/${pids[$one]}/stat")
        read -ra fields <<<"${stat##*) }"
        ticks=$((ticks + fields[11] + fields[12]))
        of=$(cat "/proc/${pids[$one]}/task/${pids[$one]}/children" 2>/dev/null || true)
        [[ -z $of ]] || children=$((children + 1))
    done
}

# Until a contender is whole, none of those that run does anything to speak of, and what they have
# written is on the disk: what one of them leaves behind is not in the next one's figures.
settle() { # contender
    converge "$1"
    local before deadline=$((SECONDS + SETTLE_DEADLINE_S)) ticks children
    while :; do
        busy
        before=$ticks
        sleep 0.3
        busy
        # Five hundredths of a processor.
        ((children > 0 || ticks - before > 3)) || break
        ((SECONDS < deadline)) || fail "the contenders are not at rest after $SETTLE_DEADLINE_S s"
    done
    sync -f "$work"
}
