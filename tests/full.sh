#!/usr/bin/env bash
# The tests that take too long for every change: a hundred thousand orders of every hand-over
# between threads, ten thousand seeds of every kind of simulated run, and three torture runs of
# twenty minutes. Some two hours on two cores.
# tests/full.sh [SEEDS [MINUTES]] for other numbers.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
source tests/lib.sh
exec </dev/null
seeds=${1:-10000}
minutes=${2:-20}

cargo build --quiet --release --locked --features testing --bin kvsim --bin kvtorture
# The node as it ships.
cargo build --quiet --release --locked --bin kvnode
bin=$(release_dir)
failed=0

printf '\n== interleavings\n'
KVMESH_INTERLEAVINGS=50000 cargo test --quiet --locked --features interleavings --lib interleavings || failed=$((failed + 1))

for kind in '' --starved --late --steady --clocks --relapse --incarnations; do
    printf '\n== kvsim %s: %s seeds\n' "$kind" "$seeds"
    # shellcheck disable=SC2086
    "$bin/kvsim" --seeds "$seeds" --keep-going $kind | grep -E '^(seed|[0-9]+ seeds)' || failed=$((failed + 1))
done
for nodes in 3 4 5; do
    printf '\n== kvtorture: %s nodes, %s minutes\n' "$nodes" "$minutes"
    dir=$(mktemp -d)
    if "$bin/kvtorture" --seed "6$nodes" --nodes "$nodes" --minutes "$minutes" --dir "$dir" --quiet; then
        rm -rf -- "$dir"
    else
        printf 'left for a look: %s\n' "$dir"
        failed=$((failed + 1))
    fi
done
if ((failed > 0)); then
    printf '\nFailed: %d of the runs above.\n' "$failed" >&2
    exit 1
fi
printf '\nPassed: what threads hand over, the simulator in all its kinds of runs, and torture with three to five nodes.\n'
