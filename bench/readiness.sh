# shellcheck shell=bash disable=SC2034,SC2154 # compare.sh uses and sets some
# Whether what is measured may be published, and which Redis it is held against. Sourced by
# compare.sh, and by check.sh, which tries every branch.

# The 1-minute load average above which something else is running: on two processors that do
# nothing else it is below.
LOAD_MAX=0.5
LOAD_WAIT_S=1800
LOAD_PAUSE_S=15
LOADAVG=/proc/loadavg

# The reasons not to publish what is measured; empty if there are none.
unpublishable=''

not_for_publication() { # reason
    unpublishable+="${unpublishable:+; }$1"
}

# What is measured is a commit that everybody can build, or a draft.
check_tree() { # draft, or empty: sets $commit
    local changes found=''
    if ! { changes=$(git status --porcelain) && commit=$(git rev-parse --short HEAD); } 2>/dev/null; then
        commit='no repository' found='the commit is not known: this is no git repository'
    elif [[ -n $changes ]]; then
        commit+=', with changes' found='the tree has uncommitted changes'
    fi
    if [[ -n $found ]]; then
        [[ -n $1 ]] || fail "$found; commit them, or measure with --draft, which marks the page as not for publication"
        not_for_publication "$found"
    elif [[ -n $1 ]]; then
        not_for_publication 'it is a draft'
    fi
}

# Before anything is started, so that the load is that of others. A draft waits for nothing.
wait_for_idle() { # draft, or empty: sets $load_before
    local load five fifteen deadline=$((SECONDS + LOAD_WAIT_S)) has_said=''
    while :; do
        read -r load five fifteen _ <"$LOADAVG"
        load_before="$load $five $fifteen"
        awk -v load="$load" -v max="$LOAD_MAX" 'BEGIN {exit !(load > max)}' || return 0
        if [[ -n $1 ]] || ((SECONDS >= deadline)); then
            not_for_publication "the machine was not idle: a load of $load before anything was started"
            return 0
        fi
        [[ -n $has_said ]] || printf 'The machine has a load of %s, and %s is the most. Waiting for up to %d minutes …\n' "$load" "$LOAD_MAX" $((LOAD_WAIT_S / 60))
        has_said=yes
        sleep "$LOAD_PAUSE_S"
    done
}

# Debian's redis-server, or the program that REDIS_SERVER names: another Redis, or a Valkey.
choose_redis() { # sets $redis_server, $redis_name and $redis_version
    local said
    redis_server=${REDIS_SERVER:-redis-server}
    said=$("$redis_server" --version 2>/dev/null) || fail "${REDIS_SERVER:+REDIS_SERVER: }$redis_server --version failed: it must be a redis-server or a valkey-server"
    # Redis server v=7.0.15 sha=…; Valkey server v=8.0.1 sha=…
    [[ $said =~ ^(Redis|Valkey)\ server\ v=([^ ]+) ]] || fail "REDIS_SERVER: expected a Redis or a Valkey, found $said"
    redis_name=${BASH_REMATCH[1]} redis_version=${BASH_REMATCH[2]}
}
