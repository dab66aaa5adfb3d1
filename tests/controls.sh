#!/usr/bin/env bash
# The negative controls: each rule of the design is broken once, and the simulator must find it within so many seeds. And with all rules kept, so many seeds must find nothing.
# A control that is not found means that the simulator is too weak. One is beyond it so far, in some ten thousand seeds, and is shown to a test of its own instead.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
cargo build --quiet --release --locked --features testing --bin kvsim
kvsim=target/release/kvsim

echo "all rules kept:"
$kvsim --seeds "${KVMESH_SEEDS:-1500}"

failed=0
while read -r rule seeds options; do
    # Without a violation it exits with 0, which is what must not be.
    # shellcheck disable=SC2086
    if found=$(KVMESH_BREAK=$rule timeout 300 $kvsim --seeds "$seeds" $options 2>/dev/null); then
        printf '%-20s NOT FOUND in %s seeds\n' "$rule" "$seeds"
        failed=$((failed + 1))
    elif [[ $found == *"seed "*" failed at "* ]]; then
        printf '%-20s found: %s\n' "$rule" "$(grep -m1 '^seed ' <<<"$found" | cut -c1-110)"
    else
        printf '%-20s the run was cut off\n' "$rule"
        failed=$((failed + 1))
    fi
done <<'RULES'
no-tombstones 50
collect-at-once 100
ack-before-fsync 50
seen-before-end 50
send-out-of-order 50
drops-not-logged 600
no-second-stamp 200
keep-origin 50
wall-clock 50
replicate-commands 50
collect-uncovered 100
RULES
# What arrives late, of a dump that was given up, and is covered by then: it takes a dump that heals, and those are rare in the simulator.
test=late_lines_of_a_heal_dump_are_not_merged_past_the_vector
if found=$(KVMESH_BREAK=merge-covered cargo test --quiet --locked --lib "$test" 2>&1); then
    printf '%-20s NOT FOUND by %s\n' merge-covered "$test"
    failed=$((failed + 1))
elif [[ $found == *"a deleted key is back"* ]]; then
    printf '%-20s found by %s: a deleted key is back\n' merge-covered "$test"
else
    printf '%-20s the test could not be run: %s\n' merge-covered "$found"
    failed=$((failed + 1))
fi
if ((failed > 0)); then
    printf '%d controls were not found: the checks are too weak.\n' "$failed" >&2
    exit 1
fi
