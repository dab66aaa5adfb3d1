#!/usr/bin/env bash
# This build beside the one before it: three nodes are upgraded one by one under load, and put back,
# and incarnations are folded only without the build before. That build is made of the history,
# once.
#
# The tests are in tests/it/versions.rs and tests/it/incarnations.rs. Nothing is written outside
# target/.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec </dev/null

# The last commit whose nodes must be able to meet this build's.
OLD=fa3a7f55f18c0cf123e1d2141fc24e277114c1f8
TESTS=(
    versions::a_rolling_upgrade_and_the_way_back_cost_nothing_but_the_connections_to_the_node_that_restarts
    incarnations::nothing_is_folded_beside_the_build_before_and_it_is_not_met_afterwards
)

fail() {
    printf 'versions: %s\n' "$*" >&2
    exit 1
}

if ! git cat-file -e "$OLD^{commit}" 2>/dev/null; then
    if [[ $(git rev-parse --is-shallow-repository 2>/dev/null) == true ]]; then
        printf 'versions: not run: this is a shallow copy of the repository, without commit %s, whose build is to be met. "git fetch --unshallow" brings it.\n' "$OLD"
        exit 0
    fi
    fail "the history here lacks commit $OLD, whose build is to be met"
fi

target=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}
mkdir -p -- "$target/versions"
home=$(cd -- "$target/versions" && pwd)
# Files of an archive are as old as their commit: what was built of them before is not built again.
mkdir -p -- "$home/$OLD"
git archive "$OLD" | tar -x -C "$home/$OLD"
(cd -- "$home/$OLD" && CARGO_TARGET_DIR=$home/build cargo build --quiet --locked --bin kvnode)

log=$(mktemp -- "$home/log.XXXXXX")
trap 'rm -f -- "$log"' EXIT
for test in "${TESTS[@]}"; do
    KVMESH_OLD_KVNODE=$home/build/debug/kvnode cargo test --locked --test it -- --exact "$test" --nocapture 2>&1 | tee -- "$log"
    # A name that no test has passes, too.
    grep -q '^test result: ok. 1 passed' -- "$log" || fail "the test $test was not run"
done
