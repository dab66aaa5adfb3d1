#!/usr/bin/env bash
# Counts the instructions that a GET and a SET take from the bytes of the request to the bytes of the reply (bench/kvcount.rs), and compares them with bench/instructions.txt:
# more than 3 % away from it, in either direction, is a failure. bench/instructions.sh --accept writes that file anew.
#
# A count is exact and the same in every run, but another compiler, another libc (its malloc and memcpy are counted, too) or another processor may lead to another one. The libraries
# choose by what valgrind says that the processor can do, and valgrind says the same on every x86_64 with AVX2. What the counts were made with is the first line of the file; where
# anything of that is different, nothing is compared.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
baseline=bench/instructions.txt
margin=3

case $* in
    '') accept=false ;;
    --accept) accept=true ;;
    *)
        printf 'usage: bench/instructions.sh [--accept]\n' >&2
        exit 2
        ;;
esac

tests/install.sh valgrind:valgrind
cargo build --quiet --release --locked --features testing --bin kvcount
source tests/lib.sh
kvcount=$(release_dir)/kvcount
counts=$(mktemp -d)
trap 'rm -rf -- "$counts"' EXIT

processor=$(uname -m)
if grep -qw avx2 /proc/cpuinfo; then
    processor+=' with AVX2'
fi
made_with="$(rustc --version), $(getconf GNU_LIBC_VERSION), $(valgrind --version), $processor"

# Instructions of one command: get or set, text or resp, and so many in a round.
count() {
    local out=$counts/out commands collected
    commands=$(valgrind --quiet --tool=callgrind --callgrind-out-file="$out" --toggle-collect='*kvcount*counted_*' "$kvcount" "$@")
    collected=$(sed -n 's/^totals: //p' "$out")
    if ((collected == 0)); then
        printf 'callgrind has counted nothing: has kvcount no functions counted_… any more?\n' >&2
        return 1
    fi
    printf '%s\n' $((collected / commands))
}

printf '# made with %s\n' "$made_with" >"$counts/table"
for command in get set; do
    for protocol in text resp; do
        for depth in 1 16; do
            instructions=$(count $command $protocol $depth)
            printf '%s %s %s %s\n' $command $protocol $depth "$instructions" >>"$counts/table"
        done
    done
done

if $accept; then
    cp -- "$counts/table" $baseline
    cat -- $baseline
    printf '\nWritten to %s. It belongs into the commit that has changed it.\n' $baseline
    exit
fi
if [[ $(head -n 1 $baseline) != "$(head -n 1 "$counts/table")" ]]; then
    cat -- "$counts/table"
    printf '\nNothing is compared: the baseline was %s.\n' "$(head -n 1 $baseline | cut -c3-)"
    exit
fi
awk -v margin=$margin '
    BEGIN { printf "%-8s %-8s %5s %12s %10s %9s\n", "command", "protocol", "depth", "instructions", "baseline", "change" }
    /^#/ { next }
    FNR == NR { before[$1, $2, $3] = $4; next }
    {
        printf "%-8s %-8s %5s %12d ", $1, $2, $3, $4
        if (!(($1, $2, $3) in before)) { print "  not in the baseline"; missed++; next }
        change = 100 * ($4 / before[$1, $2, $3] - 1)
        printf "%10d %+7.2f %%\n", before[$1, $2, $3], change
        if (change > margin) slower++
        if (change < -margin) faster++
    }
    END {
        if (slower + faster + missed == 0) exit 0
        printf "\nFailed: more than %s %% above the baseline: %d; below it: %d; not in it: %d. ", margin, slower, faster, missed
        print "If that is meant, bench/instructions.sh --accept writes the new baseline, which belongs into the commit that has changed it."
        exit 1
    }
' $baseline "$counts/table"
