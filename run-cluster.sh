#!/usr/bin/env bash
# Runs the mesh on this machine: every config/nodeN.json (three of them, as it comes), or only node N.
#
#   ./run-cluster.sh       all nodes, in the foreground, their logs prefixed [1] [2] [3]; Ctrl-C stops them
#   ./run-cluster.sh 2     only node 2, such as one that was killed: in a second terminal
#
# A node that dies is reported; it ends neither this script nor the other nodes, and it is not restarted.
# SIGINT, SIGTERM, SIGHUP or SIGQUIT to this script alone stops everything that it started within eight seconds.
#
# KVMESH_CONFIG_DIR names another folder with nodeN.json files.

# Every node is a session of its own (setsid), so that Ctrl-C reaches only this script, which then signals each node once: a
# second signal would make a node leave without handing over what is queued for its peers. Handlers only set a flag, and no wait is longer than
# a second: bash runs a handler after the command that it is in.
set -u

# Nodes that are asked to stop get this long; then they are killed. With the rest of the way down it must stay below eight seconds.
STOP_TENTHS=60
REPORT_EVERY_S=10

main() {
    take_signals "$@"
    local dir=${KVMESH_CONFIG_DIR:-}
    [[ -z $dir ]] || dir=$(cd -- "$dir" && pwd) || exit 2
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1
    config_dir=${dir:-config}
    choose_nodes "$@"
    trap 'on_exit' EXIT
    open_idle
    build
    refuse_taken_addresses
    local n
    for n in "${nodes[@]}"; do
        start_node "$n"
    done
    await_ready
    greet
    watch
}

# ---------------------------------------------------------------------------------------------------------------- signals and exit

asked_to_stop=
# A shell cannot trap what it was started with as ignored, which is how a background job of a script gets SIGINT. So it starts itself
# again with the default, in the same process.
take_signals() {
    if [[ -n $(trap -p INT) && -z ${KVMESH_SIGNALS_RESET:-} ]]; then
        export KVMESH_SIGNALS_RESET=1
        if env --default-signal=INT true 2>/dev/null; then
            exec env --default-signal=INT --default-signal=QUIT "$BASH" "${BASH_SOURCE[0]}" "$@"
        elif command -v perl >/dev/null; then
            exec perl -e '$SIG{INT} = $SIG{QUIT} = "DEFAULT"; exec @ARGV' "$BASH" "${BASH_SOURCE[0]}" "$@"
        fi
    fi
    unset KVMESH_SIGNALS_RESET
    trap 'asked_to_stop=SIGINT' INT
    trap 'asked_to_stop=SIGTERM' TERM
    trap 'asked_to_stop=SIGHUP' HUP
    trap 'asked_to_stop=SIGQUIT' QUIT
    # A reader of our output that goes away (| head) must not end us before the nodes are stopped.
    trap '' PIPE
}

# Ends here, by the exit trap, if a signal has come in.
heed_signals() {
    [[ -z $asked_to_stop ]] || exit 0
}

builder=
on_exit() {
    local code=$?
    trap '' INT TERM HUP QUIT
    trap - EXIT
    [[ -z $builder ]] || stop_builder
    stop_nodes || code=1
    exit "$code"
}

# Our own words to it stay readable where those of bash about killed jobs are sent away.
exec {stderr}>&2
say() { printf '%s\n' "$*" 2>/dev/null; }
complain() { printf 'run-cluster: %s\n' "$*" >&"$stderr"; }

# A pause without a process of its own: a read from a pipe that nobody writes to, where the system allows to open one like that.
idle=
open_idle() {
    { exec {idle}<> <(:); } 2>/dev/null || idle=
}
pause() {
    if [[ -n $idle ]]; then
        read -r -t "$1" -u "$idle" _
    else
        sleep "$1"
    fi
    return 0
}

# Whether a process that we started is still running: bash has taken notice of those that are not.
runs() { kill -0 "$1" 2>/dev/null; }

# In a session of its own, under the same process id. Where neither tool is there, Ctrl-C reaches the nodes directly.
in_own_session() {
    if command -v setsid >/dev/null; then
        exec setsid "$@"
    elif command -v perl >/dev/null; then
        exec perl -e 'use POSIX; POSIX::setsid(); exec @ARGV' "$@"
    fi
    exec "$@"
}

# ---------------------------------------------------------------------------------------------------------------- what to run

nodes=()
choose_nodes() {
    case ${1:-} in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}"
        exit 0
        ;;
    esac
    local file name
    for file in "$config_dir"/node*.json; do
        name=${file##*/node}
        name=${name%.json}
        [[ $name =~ ^[1-9][0-9]*$ ]] && nodes+=("$name")
    done
    if ((${#nodes[@]} == 0)); then
        complain "$config_dir holds no node1.json, node2.json, …"
        exit 2
    fi
    (($# == 0)) && return
    if (($# > 1)) || [[ ! " ${nodes[*]} " == *" $1 "* ]]; then
        complain "found \"$*\", expected nothing or one of ${nodes[*]}: the N of a $config_dir/nodeN.json"
        exit 2
    fi
    nodes=("$1")
}

config_of() { printf '%s/node%s.json' "$config_dir" "$1"; }

# The host and the port at which a client reaches a node, as two words. kvnode itself says what is wrong with a file.
client_addr() {
    local addr host
    addr=$(tr -d '\n' <"$(config_of "$1")" | sed -n 's/.*"client_addr"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p')
    host=${addr%:*}
    host=${host#[}
    host=${host%]}
    case $host in
    0.0.0.0) host=127.0.0.1 ;;
    ::) host=::1 ;;
    esac
    printf '%s %s' "$host" "${addr##*:}"
}

# ---------------------------------------------------------------------------------------------------------------- build

target=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}
kvnode=$target/release/kvnode
kvctl=$target/release/kvctl

# Cargo knows whether there is something to do.
build() {
    if ! command -v cargo >/dev/null; then
        if [[ ! -x $kvnode ]]; then
            complain "there is no $kvnode, and no cargo to build it with: https://rustup.rs"
            exit 1
        fi
        return
    fi
    local started=$SECONDS said=
    if [[ ! -x $kvnode ]]; then
        say "Building (the first time takes some minutes) …"
        said=1
    fi
    in_own_session cargo build --quiet --locked --release --bin kvnode --bin kvctl </dev/null {idle}<&- &
    builder=$!
    while runs "$builder"; do
        heed_signals
        pause 0.1
        if [[ -z $said ]] && ((SECONDS - started >= 2)); then
            say "Building what has changed …"
            said=1
        fi
    done
    heed_signals
    local code
    wait "$builder"
    code=$?
    builder=
    if ((code != 0)); then
        complain "the build failed; nothing was started"
        exit 1
    fi
}

# The compilers that cargo started are in its session. An interrupted build is taken up by the next one.
stop_builder() {
    local _
    kill -TERM -- "-$builder" 2>/dev/null || kill -TERM "$builder" 2>/dev/null
    for _ in {1..20}; do
        kill -0 -- "-$builder" 2>/dev/null || runs "$builder" || return 0
        pause 0.1
    done
    kill -KILL -- "-$builder" 2>/dev/null
}

# ---------------------------------------------------------------------------------------------------------------- nodes

pids=()      # by node: of those that run
prefixers=() # by node: the process that writes its log lines

# Two meshes on the same addresses would answer each other's questions, "are you ready?" among them.
refuse_taken_addresses() {
    local n host port taken=0
    for n in "${nodes[@]}"; do
        read -r host port < <(client_addr "$n")
        if (: <>"/dev/tcp/$host/$port") 2>/dev/null; then
            complain "node $n: something listens on $host:$port already; stop it (is node $n running in another terminal?) or change client_addr in $(config_of "$n")"
            taken=1
        fi
    done
    ((taken == 0)) || exit 1
    heed_signals
}

start_node() {
    local n=$1 log
    # The one that prefixes ignores signals: it ends when the node's last line is through, or nobody reads it any more (| head), which it need not say.
    exec {log}> >(
        trap '' INT TERM HUP QUIT
        exec env LC_ALL=C sed -u "s/^/[$n] /" 2>/dev/null {idle}<&- {stderr}>&-
    )
    prefixers[n]=$!
    in_own_session "$kvnode" --config "$(config_of "$n")" </dev/null >&"$log" 2>&1 {log}>&- {idle}<&- {stderr}>&- &
    pids[n]=$!
    exec {log}>&-
}

# Waits for all of them, for as long as they are working on it: catching up may take its time. One that ends before it was ready was refused
# something; then none of them stays.
await_ready() {
    local n answer started=$SECONDS reported=$SECONDS report
    local -A waiting=()
    for n in "${nodes[@]}"; do
        waiting[$n]=1
    done
    while ((${#waiting[@]} > 0)); do
        report=
        if ((SECONDS - reported >= REPORT_EVERY_S)); then
            reported=$SECONDS
            report=1
        fi
        for n in "${!waiting[@]}"; do
            heed_signals
            answer=$(ask "$n")
            if ! runs "${pids[n]}"; then
                heed_signals
                refused_to_start "$n"
            elif [[ $answer =~ ^[0-9]+$ ]]; then
                unset "waiting[$n]"
            elif [[ -n $report ]]; then
                say "Waiting for node $n since $((SECONDS - started)) s; it says: ${answer:-nothing}"
            fi
        done
        pause 0.1
    done
} 2>/dev/null

refused_to_start() {
    learn_how_it_ended "${pids[$1]}"
    unset "pids[$1]"
    await_prefixer "$1"
    complain "node $1 did not start ($how); its reason is in its log above"
    ((code <= 3)) || code=1
    exit "$code"
}

# One line of answer to a question that a node does not answer before it has caught up.
ask() {
    local host port
    read -r host port < <(client_addr "$1")
    (
        exec 3<>"/dev/tcp/$host/$port" || exit
        printf 'COUNT\nQUIT\n' >&3
        IFS= read -r -t 1 answer <&3
        printf '%s' "${answer%$'\r'}"
    ) 2>/dev/null
}

greet() {
    local n first host port
    first=${nodes[0]}
    say ""
    for n in "${nodes[@]}"; do
        [[ -n ${pids[n]:-} ]] || continue
        read -r host port < <(client_addr "$n")
        [[ $host != *:* ]] || host="[$host]"
        say "Node $n is ready: clients on $host:$port, process ${pids[n]}"
    done
    read -r host port < <(client_addr "$first")
    say ""
    say "Try:          telnet $host $port        then: SET greeting hello world, GET greeting, HELP"
    say "              $kvctl -n $host:$port status"
    n=${nodes[1]:-$first}
    say "Lose a node:  kill -9 ${pids[n]:-PID}        (node $n)"
    say "Bring it back, in another terminal:  $(command_name) $n"
    say "Stop:         Ctrl-C"
    say ""
}

command_name() { if [[ $config_dir == config ]]; then printf './run-cluster.sh'; else printf 'KVMESH_CONFIG_DIR=%q ./run-cluster.sh' "$config_dir"; fi; }

# Until a signal ends it. What bash itself says about killed jobs goes nowhere; we say it.
watch() {
    local n
    while true; do
        heed_signals
        for n in "${!pids[@]}"; do
            runs "${pids[n]}" && continue
            await_prefixer "$n"
            learn_how_it_ended "${pids[n]}"
            if ((code == 2 || code == 3)); then
                say "Node $n has ended: $how. Its log says what to do before it can start again"
            else
                say "Node $n has ended: $how. To start it again, in another terminal: $(command_name) $n"
            fi
            unset "pids[n]"
            ((${#pids[@]} > 0)) || say "None of these nodes is running any more. Ctrl-C ends this script."
        done
        pause 0.3
    done
} 2>/dev/null

# Leaves the answer in `code` and `how`: only the shell that started a process can wait for it, and $() would be another one.
code= how=
learn_how_it_ended() {
    wait "$1" 2>/dev/null
    code=$?
    case $code in
    2) how="exit code 2: its configuration is refused" ;;
    3) how="exit code 3: its data need a person" ;;
    *) how="exit code $code" ;;
    esac
    ((code <= 128)) || how="killed by SIG$(kill -l "$code")"
}

await_prefixer() {
    local _
    for _ in {1..10}; do
        runs "${prefixers[$1]}" || return 0
        pause 0.1
    done
}

# One SIGTERM each; one SIGCONT, because a stopped process would not see it; SIGKILL for what is left at the deadline. Fails if there was any.
stop_nodes() {
    local n tenth killed=0
    ((${#pids[@]} == 0)) || say "Stopping …"
    for n in "${!pids[@]}"; do
        kill -TERM "${pids[n]}" && kill -CONT "${pids[n]}"
    done
    for ((tenth = 0; tenth < STOP_TENTHS && ${#pids[@]} > 0; tenth++)); do
        for n in "${!pids[@]}"; do
            runs "${pids[n]}" || unset "pids[n]"
        done
        pause 0.1
    done
    for n in "${!pids[@]}"; do
        say "Node $n has not stopped within $((STOP_TENTHS / 10)) s and is killed."
        kill -KILL "${pids[n]}"
        killed=1
    done
    for n in "${!prefixers[@]}"; do
        await_prefixer "$n"
        runs "${prefixers[n]}" && kill -KILL "${prefixers[n]}"
    done
    return "$killed"
} 2>/dev/null

main "$@"
