#!/usr/bin/env bash
# The negative controls: each rule of the design is broken once, and the simulator must find it
# within so many seeds. With all rules kept, so many seeds must find nothing. One rule is broken in
# real processes, too, and a short torture run must find that. A control that is not found means
# that the checks are too weak.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
source tests/lib.sh
cargo build --quiet --release --locked --features testing --bin kvsim --bin kvnode --bin kvtorture
bin=$(release_dir)
kvsim=$bin/kvsim

echo "all rules kept:"
$kvsim --seeds "${KVMESH_SEEDS:-1500}"

failed=0
while read -r rule seeds options; do
    # It exits with 0 if it finds no violation, which here is a failure.
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
ack-before-fsync 150
seen-before-end 50
send-out-of-order 50
drops-not-logged 2300 --starved
second-stamp 50
floor-stands 200 --clocks
floor-estimated 50
ack-after-sleep 800 --clocks
keep-origin 50
wall-clock 50
replicate-commands 50
collect-uncovered 600
count-absent 100 --relapse --from 250
fold-at-once 200 --incarnations
count-what-leaves 260 --steady
proof-before-lines 50
end-of-replaced 50
clock-starts-over 200 --incarnations
RULES

# Rules that no seed comes to, or hardly any: a test reaches them directly. An entry
# that arrives late, and is covered, is passed over before `merge-covered` is asked.
while read -r rule test words; do
    if found=$(KVMESH_BREAK=$rule cargo test --quiet --locked --features testing --lib "$test" 2>&1 </dev/null); then
        printf '%-20s NOT FOUND by %s\n' "$rule" "$test"
        failed=$((failed + 1))
    elif [[ $found == *"$words"* ]]; then
        printf '%-20s found by %s\n' "$rule" "$test"
    else
        printf '%-20s was not found by %s: %s\n' "$rule" "$test" "$(tail -n1 <<<"$found")"
        failed=$((failed + 1))
    fi
done <<'TESTS'
merge-covered what_the_vector_covers_is_not_merged_whoever_sends_it a deleted key is back
merge-late what_comes_of_a_dump_that_was_given_up_is_passed_over a deleted key is back
believe-unproven no_change_of_a_good_message_makes_a_proof an impostor is believed
TESTS

# The cost of a write that is stamped twice for a client that has read it: of several hundred keys
# that are taken over in a run, some dozens show it.
dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
if found=$(KVMESH_BREAK=second-stamp timeout 120 "$bin/kvtorture" --seed 1 --nodes 3 --minutes 0.15 --faults delay --dir "$dir" --quiet 2>&1); then
    echo "kvtorture: second-stamp NOT FOUND in one run"
    failed=$((failed + 1))
elif [[ $found == *"verdict: FAILED"*"who read and then wrote is not overtaken"* ]]; then
    printf 'kvtorture: second-stamp found: %s\n' "$(grep '^verdict: ' <<<"$found" | cut -c1-110)"
else
    printf 'kvtorture: second-stamp was not found by the check for it: %s\n' "$(tail -n1 <<<"$found")"
    failed=$((failed + 1))
fi
if ((failed > 0)); then
    printf '%d controls were not found: the checks are too weak.\n' "$failed" >&2
    exit 1
fi
