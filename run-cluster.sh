#!/usr/bin/env bash
# Runs the mesh on this machine: every config/nodeN.json (three of them, as it comes), or only node N.
#
#   ./run-cluster.sh       all nodes, in the foreground, their logs prefixed [1] [2] [3]; Ctrl-C stops them
#   ./run-cluster.sh 2     only node 2, such as one that was killed: in a second terminal
#
# A node that dies is reported; it ends neither this script nor the other nodes, and it is not restarted.
# SIGINT, SIGTERM, SIGHUP or SIGQUIT to this script alone stops everything that it started within eight
# seconds. If the script is killed, the nodes stop as well.
#
# KVMESH_CONFIG_DIR names another folder with nodeN.json files.

# This script builds, and becomes `kvctl cluster`, which does the rest: src/bin/kvctl/cluster.
set -u
unset CDPATH

complain() { printf 'run-cluster: %s\n' "$*" >&2; }

case ${1-} in
-h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

# bash cannot trap a signal that was ignored when it started, as SIGINT is in the background jobs of a
# script. Where `env` can, the script begins again with the default, in the same process.
if [[ -n $(trap -p INT) && -z ${KVMESH_SIGNALS_RESET-} ]] && env --default-signal=INT true 2>/dev/null; then
    KVMESH_SIGNALS_RESET=1 exec env --default-signal=INT --default-signal=QUIT "$BASH" "${BASH_SOURCE[0]}" "$@"
fi
unset KVMESH_SIGNALS_RESET

config_dir=config restart_command=./run-cluster.sh
if [[ -n ${KVMESH_CONFIG_DIR-} ]]; then
    config_dir=$(cd -- "$KVMESH_CONFIG_DIR" && pwd) || exit 2
    printf -v restart_command 'KVMESH_CONFIG_DIR=%q ./run-cluster.sh' "$config_dir"
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1
# Before a build of minutes. `kvctl cluster` refuses the rest.
for node in "$@"; do
    [[ -e $config_dir/node$node.json ]] || { complain "there is no $config_dir/node$node.json"; exit 2; }
done
release=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}/release

# Cargo gets a process group of its own (set -m), so that a signal to this script alone stops the
# compilers, too. An interrupted build is taken up by the next one.
build() {
    local message="Building what has changed …" after_tenths=20 tenths
    [[ -x $release/kvnode ]] || message="Building (the first time takes some minutes) …" after_tenths=0
    trap stop_build INT TERM HUP QUIT
    # A reader who leaves (| head) must not end this script alone.
    trap : PIPE
    set -m
    cargo build --quiet --locked --release --bin kvnode --bin kvctl </dev/null &
    set +m
    for ((tenths = 0; ; tenths++)); do
        ((tenths != after_tenths)) || printf "%s\n" "$message" 2>/dev/null
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    wait $!
}

stop_build() {
    trap '' INT TERM HUP QUIT
    kill -TERM %1 && wait %1
    exit 0
} 2>/dev/null

if command -v cargo >/dev/null; then
    build || { complain "the build failed; nothing was started"; exit 1; }
elif [[ ! -x $release/kvnode || ! -x $release/kvctl ]]; then
    complain "there is no $release/kvnode, and no cargo to build it with: https://rustup.rs"
    exit 1
fi
exec "$release/kvctl" cluster --config-dir "$config_dir" --restart-command "$restart_command" -- "$@"
