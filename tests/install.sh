#!/usr/bin/env bash
# Installs Debian packages for the tests where their programs are missing:
# tests/install.sh PROGRAM:PACKAGE…
set -euo pipefail

packages=()
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
((${#packages[@]} > 0)) || exit 0
printf 'Installing %s …\n' "${packages[*]}"
as_root=()
if ((EUID != 0)); then
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    printf '%s: cannot install %s here: it takes apt-get and root. Install what these tests need by hand.\n' "$0" "${packages[*]}" >&2
    exit 1
fi
# No service is started: in runlevel 1 there are none.
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends "${packages[@]}"
}
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
# A new machine has no lists of packages, an old one has old lists.
if ! install >"$log" 2>&1 && ! { "${as_root[@]}" apt-get update -q && install; } >"$log" 2>&1; then
    cat -- "$log" >&2
    exit 1
fi
