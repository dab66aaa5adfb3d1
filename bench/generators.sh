# shellcheck shell=bash disable=SC2034,SC2154 # compare.sh and the other files use and set some
# What loads the contenders, and the checks that what was measured happened. Sourced by compare.sh.
#
# Each generator measures one contender in one cell, and writes one line of JSON into
# $out/measurements.jsonl. A measurement that is not what it seems (an error, or fewer operations
# than were sent) is kept with the reason under "failed", and the run goes on.
#
# `cpu_us` is the processor time of all nodes of the contender while the generator ran, and
# `cpu_operations` are those that the contender has counted meanwhile. Both are taken while nothing
# is under way. What a node does behind the last reply is in neither.

# Every key that is read is there; 16 bytes, as redis-benchmark makes them.
KEYS=100000
WARM_UP_S=1
# How fast a contender was in a cell, the last time: how many requests fill the time to measure.
declare -A rate=()
failures=0

# ---------------------------------------------------------------------------------------------------------------- records

record() { # cell, contender, generator, name=number…; the reason that it does not count in $problem
    local pair line
    printf -v line '{"round":%d,"cell":"%s","contender":"%s","generator":"%s"' "$round" "$1" "$2" "$3"
    for pair in "${@:4}"; do line+=",\"${pair%%=*}\":${pair#*=}"; done
    if [[ -n $problem ]]; then
        failures=$((failures + 1))
        line+=",\"failed\":\"${problem//[\"\\]/ }\""
        printf '    %s of %s does not count: %s\n' "$1" "$2" "$problem" >&2
    fi
    printf '%s}\n' "$line" >>"$out/measurements.jsonl"
}

# The first thing that is wrong is what is told.
wrong() {
    [[ -n $problem ]] || problem=$*
}

at_least() { # what, found, wanted
    (($2 >= $3)) || wrong "$1: found $2, expected at least $3"
}

value_of() { # bytes: sets $value
    printf -v value '%*s' "$1" ''
    value=${value// /x}
}

now_us() { now=${EPOCHREALTIME/./}; } # sets $now

# How many writes and reads node 1 has done for its clients.
counted() { # contender: sets $writes and $reads
    local contender=${runs_as[$1]:-$1} said
    case ${kind[$contender]} in
        kvmesh)
            writes=$(ask_kvctl "$contender" 1 status | figure writes)
            reads=$(redis_cli "$contender" 1 INFO stats | figure keyspace_hits)
            ;;
        # The limit counts under the names that Redis has.
        redis | echo)
            said=$(redis_cli "$contender" 1 INFO commandstats | tr -d '\r')
            writes=$(awk -F'[:=,]' '$1 == "cmdstat_set" || $1 == "cmdstat_incr" {done += $3 - $11} END {print done + 0}' <<<"$said")
            reads=$(redis_cli "$contender" 1 INFO stats | figure keyspace_hits)
            ;;
    esac
    writes=${writes:-0} reads=${reads:-0}
}

# ---------------------------------------------------------------------------------------------------------------- data

# Writes keys 0 to N-1, as redis-benchmark names them, through node 1.
load() { # contender, keys, value size
    write_keys "$1" "$2" "$3" key
    settle "$1"
    keys_are "$1" "$2"
}

# Of keys with an expiry the first one expires at a time in milliseconds, and so many in each second
# from then on.
write_keys() { # contender, keys, value size, prefix, [when the first one expires, how many in a second]
    awk -v count="$2" -v size="$3" -v prefix="$4" -v first_ms="${5:-0}" -v per_second="${6:-1}" 'BEGIN {
        value = "v"
        while (length(value) < size) value = value value
        value = substr(value, 1, size)
        for (i = 0; i < count; i++) {
            printf "*%d\r\n$3\r\nSET\r\n$%d\r\n%s:%012d\r\n$%d\r\n", first_ms ? 5 : 3, length(prefix) + 13, prefix, i, size
            print value "\r"
            if (first_ms) printf "$4\r\nPXAT\r\n$13\r\n%.0f\r\n", first_ms + i * 1000 / per_second
        }
    }' | redis_cli "$1" 1 --pipe >"$work/said" 2>&1 || fail "loading $1: $(tail -n 1 "$work/said")"
    grep -qx "errors: 0, replies: $2" "$work/said" || fail "loading $1: expected $2 replies and no error, found $(tail -n 1 "$work/said")"
}

# Every node holds so many keys.
keys_are() { # contender, keys
    local node found
    for node in $(all_nodes "$1"); do
        found=$(redis_cli "$1" "$node" DBSIZE)
        [[ $found == "$2" ]] || fail "node $node of $1 holds $found keys, expected $2"
    done
}

# ---------------------------------------------------------------------------------------------------------------- redis-benchmark

# From so many connections on, opening and closing them takes time of the servers that shows.
MANY_CONNECTIONS=1000
# Requests that a run has at least: of fewer, redis-benchmark may say that they took no time.
SHORTEST=1000
# The longest value that an argument of a process has room for, with something to spare. A longer
# one comes from the standard input.
ARGUMENT_LEN_MAX=100000

# One address, one thread. It counts requests, not seconds: a run that is not measured, to warm up,
# tells how many it takes. With many connections, a run of few requests tells what it takes to open
# and to close them: both its processor time and its requests are taken off.
redis_benchmark() { # cell, contender, SET|GET|INCR, connections, depth, value size, keys, options of a SET…
    local cell=$1 contender=$2 words=("$3" key:__rand_int__) value input=/dev/null fields requests writes reads before served used_us used_before
    local opening_us=0 opened=0 problem=''
    client_port "$contender" 1
    local command=(redis-benchmark -h "$ip" -p "$port" -c "$4" -P "$5" -r "$7" --csv)
    # Names of its own: what the keys hold is no number.
    [[ $3 != INCR ]] || words=(INCR number:__rand_int__)
    if [[ $3 == SET && $6 -gt $ARGUMENT_LEN_MAX ]]; then
        input=$work/value
        head -c "$6" /dev/zero | tr '\0' x >"$input"
        command+=(-x)
    elif [[ $3 == SET ]]; then
        value_of "$6"
        words+=("$value" "${@:8}")
    fi
    # A guess for the first time.
    requests=$((${rate["$cell $contender"]:-(30000 + 20000 * $5) / (1 + $6 / 16384)} * WARM_UP_S + SHORTEST))
    run_redis_benchmark -n "$requests" "${words[@]}"
    requests=$((${fields[1]%.*} * seconds + SHORTEST))
    if (($4 >= MANY_CONNECTIONS)); then
        settle "$contender"
        count_redis_benchmark $(($4 + SHORTEST))
        opening_us=$used_us opened=$served
        settle "$contender"
    fi
    count_redis_benchmark "$requests"
    rate["$cell $contender"]=${fields[1]%.*}
    at_least "$3s that node 1 has counted" "$served" "$requests"
    record "$cell" "$contender" redis-benchmark "op=\"$3\"" "connections=$4" "depth=$5" "value_size=$6" "keys=$7" "operations=$requests" "per_second=${fields[1]}" \
        "cpu_operations=$((served - opened))" "cpu_us=$((used_us - opening_us))" \
        "p50_us=$(micros "${fields[4]}")" "p99_us=$(micros "${fields[6]}")" "max_us=$(micros "${fields[7]}")"
}

# A run of so many requests: sets $fields, and what the contender has counted and used meanwhile.
count_redis_benchmark() { # requests: sets $served and $used_us
    counted "$contender"
    before=$((writes + reads))
    used "$contender"
    used_before=$used_us
    run_redis_benchmark -n "$1" "${words[@]}"
    used "$contender"
    used_us=$((used_us - used_before))
    counted "$contender"
    served=$((writes + reads - before))
}

# An error reply ends it, with exit code 1.
run_redis_benchmark() { # words…: sets $fields
    "${command[@]}" "$@" <"$input" >"$work/said" 2>"$work/complaint" || wrong "redis-benchmark: $(tail -n 1 "$work/complaint")"
    # "title","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    IFS=, read -ra fields <<<"$(tail -n 1 "$work/said" | tr -d '"')"
    # It says `inf` of what took it no time.
    if ((${#fields[@]} != 8)) || [[ ! ${fields[1]} =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
        wrong "redis-benchmark: no figures in $(tail -n 1 "$work/said")"
        fields=(none 0 0 0 0 0 0 0)
    fi
}

micros() { # milliseconds, with three decimals
    local whole=${1%.*} fraction=${1#*.}
    printf '%d' "$((10#$whole * 1000 + 10#$fraction))"
}

# ---------------------------------------------------------------------------------------------------------------- kvctl bench

# RESP, so that it works with both. It warms up by itself, and writes all keys first if it is to
# read. What that takes is not what a read takes: a run that ends as soon as it has begun takes as
# much, and is taken off the processor time.
kvctl_bench() { # cell, contender, op, connections, depth, value size, keys, seconds, options…
    local cell=$1 contender=$2 report operations used_us=0 served=0 fill_us=0 filled=0 cpu=() problem=''
    local words=(bench --protocol resp --clients "$4" --depth "$5" --value-size "$6" --keys "$7" "${@:9}")
    if [[ $3 != SET ]]; then
        run_kvctl_bench "$KVCTL_SHORTEST_S"
        fill_us=$used_us filled=$served
    fi
    run_kvctl_bench "$8"
    # With several nodes, none has counted all.
    if [[ -z ${bench_nodes:-} ]]; then
        at_least "operations that node 1 has counted" "$served" "$operations"
        cpu=("cpu_operations=$((served - filled))" "cpu_us=$((used_us - fill_us))")
    fi
    record "$cell" "$contender" kvctl "op=\"$3\"" "connections=$4" "depth=$5" "value_size=$6" "keys=$7" "operations=$operations" "${cpu[@]}" "report=$report"
}

# The least time that `kvctl bench` measures here, behind its half second of warm-up.
KVCTL_SHORTEST_S=0.1

run_kvctl_bench() { # seconds: sets $report, $operations, $served and $used_us
    local before used_before writes reads
    counted "$contender"
    before=$((writes + reads))
    used "$contender"
    used_before=$used_us
    report=$("$kvctl" -n "${bench_nodes:-$(addr_of "$contender" 1)}" --json "${words[@]}" --seconds "$1" 2>"$work/complaint") ||
        wrong "kvctl bench: $(tail -n 1 "$work/complaint")"
    used "$contender"
    used_us=$((used_us - used_before))
    counted "$contender"
    served=$((writes + reads - before))
    if [[ $report =~ \"errors\":(\{[^}]*\}) && ${BASH_REMATCH[1]} != "{}" ]]; then
        wrong "kvctl bench: errors ${BASH_REMATCH[1]}"
    fi
    operations=0
    if [[ $report =~ \"operations\":([0-9]+) ]]; then
        operations=${BASH_REMATCH[1]}
    else
        wrong "kvctl bench: no report"
        report=null
    fi
    at_least "completed operations" "$operations" 1
}

# ---------------------------------------------------------------------------------------------------------------- h2load, for etcd

# What a put of one key, and a get of it, are in gRPC: a byte that says that it is not compressed, four of length, and the message in protobuf. A message
# is fields: a byte of number and type, and for strings the length and the bytes. PutRequest: 1 key, 2 value. RangeRequest: 1 key, 7 serializable.
ETCD_KEY=key:000000000000

etcd_requests() { # value size
    local value message
    value_of "$1"
    protobuf_string 1 "$ETCD_KEY"
    message=$field
    protobuf_string 2 "$value"
    grpc_frame "$message$field" >"$work/put.grpc"
    protobuf_string 1 "$ETCD_KEY"
    # Any member answers from what it holds, as a node of kvmesh and a Redis do.
    grpc_frame "$field\\x38\\x01" >"$work/get.grpc"
}

# Text is ASCII here. Sets $field, with the bytes as escapes for printf.
protobuf_string() { # number, text
    local left=${#2} byte
    printf -v field '\\x%02x' $(($1 << 3 | 2))
    while :; do
        byte=$((left & 127)) left=$((left >> 7))
        ((left == 0)) || byte=$((byte | 128))
        printf -v field '%s\\x%02x' "$field" "$byte"
        ((left > 0)) || break
    done
    field+=$2
}

grpc_frame() { # message with escapes
    local len
    # shellcheck disable=SC2059 # the escapes are the point
    len=$(printf "$1" | wc -c)
    # shellcheck disable=SC2059
    printf "$(printf '\\x00\\x%02x\\x%02x\\x%02x\\x%02x' $((len >> 24 & 255)) $((len >> 16 & 255)) $((len >> 8 & 255)) $((len & 255)))$1"
}

# Where requests go: another member would forward them.
etcd_leader() { # sets $leader
    leader=$(ETCDCTL_API=3 etcdctl --endpoints "$(addr_of etcd 1 2 3)" endpoint status -w fields |
        awk -F' : ' '/"MemberID"/ {member = $2} /"Leader"/ {leader = $2} /"Endpoint"/ {gsub(/"/, "", $2); if (member "" == leader "") print $2}')
    [[ -n $leader ]] || fail "etcd has no leader"
}

etcd_version() {
    local found
    found=$(ETCDCTL_API=3 etcdctl --endpoints "$leader" get "$ETCD_KEY" -w fields | awk -F' : ' '/"Version"/ {print $2}')
    printf '%s' "${found:-0}"
}

# How many requests of a kind ended with a code, by the leader's own count.
etcd_handled() { # code, method
    local host=${leader%:*} port=${leader##*:}
    exec 4<>"/dev/tcp/$host/$port"
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&4
    awk -v code="grpc_code=\"$1\"" -v method="grpc_method=\"$2\"" '/^grpc_server_handled_total/ && index($0, code) && index($0, method) {sum += $2} END {printf "%.0f", sum}' <&4
    exec 4>&-
}

run_h2load() { # method, file, options…
    h2load "${@:3}" -d "$2" -H 'content-type: application/grpc' -H 'te: trailers' "http://$leader/etcdserverpb.KV/$1" >"$work/said" 2>&1 || wrong "h2load: $(tail -n 1 "$work/said")"
    grep -Eq '^requests: .* 0 failed, 0 errored, 0 timeout' "$work/said" || wrong "h2load: $(grep '^requests:' "$work/said" || tail -n 1 "$work/said")"
}

# What etcd itself knows of what was done: a put by the key's version, a get by its own count.
etcd_done() { # SET|GET
    if [[ $1 == SET ]]; then etcd_version; else etcd_handled OK Range; fi
}

# One key, since it sends one body. What the others call depth is streams here: requests under way at a time, each answered for itself.
h2load_etcd() { # cell, contender, SET|GET, connections, streams, value size
    local cell=$1 contender=$2 before after completed quantiles used_us used_before served method=Put file=$work/put.grpc problem=''
    [[ $3 == SET ]] || method=Range file=$work/get.grpc
    etcd_leader
    etcd_requests "$6"
    run_h2load Put "$work/put.grpc" -c 1 -n 1
    # Exact, where it can be: with a time limit, what is under way at the end happens and is not counted.
    before=$(etcd_done "$3")
    run_h2load "$method" "$file" -c "$4" -m "$5" -n $(($4 * $5))
    after=$(etcd_done "$3")
    ((after - before == $4 * $5)) || wrong "$(($4 * $5)) requests, and etcd has done $((after - before))"
    rm -f -- "$work/requests"
    used "$contender"
    used_before=$used_us
    run_h2load "$method" "$file" -c "$4" -m "$5" -D "$seconds" --warm-up-time "$WARM_UP_S" --log-file "$work/requests"
    used "$contender"
    completed=$(wc -l <"$work/requests")
    at_least "completed requests" "$completed" 1
    served=$(($(etcd_done "$3") - after))
    at_least "requests that etcd has done" "$served" "$completed"
    # start, status, microseconds
    quantiles=$(cut -f3 "$work/requests" | sort -n | awk '{took[NR] = $1}
        function quantile(part) {place = int(NR * part + 0.999999); return took[place < 1 ? 1 : place]}
        END {printf "p50_us=%d p99_us=%d p999_us=%d max_us=%d", quantile(0.5), quantile(0.99), quantile(0.999), took[NR]}')
    # shellcheck disable=SC2086 # words
    record "$cell" "$contender" h2load "op=\"$3\"" "connections=$4" "depth=$5" "value_size=$6" "keys=1" "operations=$completed" "cpu_operations=$served" "cpu_us=$((used_us - used_before))" \
        "per_second=$(awk -v completed="$completed" -v seconds="$seconds" 'BEGIN {printf "%.1f", completed / seconds}')" $quantiles
}
