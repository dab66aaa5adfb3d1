#!/usr/bin/env bash
# The node as it ships: the golden scripts and some of the tests on real processes, with a release
# build without the feature `testing`, which `cargo test` turns on for its own.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source tests/lib.sh
exec </dev/null

# Each has to run at least one test. The first proves that this is the build that ships: it has no
# switch to die or to break a rule.
TESTS=(
    failpoints::a_build_that_ships_neither_dies_nor_breaks_a_rule_when_it_is_told_to
    golden::
    outcomes::
    exits::
    tombstones::
)

cargo build --quiet --release --locked
KVMESH_KVNODE=$(cd -- "$(release_dir)" && pwd)/kvnode
export KVMESH_KVNODE

log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
cargo test --locked --test it -- "${TESTS[@]}" 2>&1 | tee -- "$log"
for test in "${TESTS[@]}"; do
    # A name that no test has passes, too.
    grep -q "^test $test.* ok$" -- "$log" || { printf 'release: no test %s has run\n' "$test" >&2; exit 1; }
done
