# shellcheck shell=bash
# Functions of the scripts that build and start nodes, which source this file.

# Prints the directory of the release build, wherever cargo puts it.
release_dir() {
    printf '%s/release' "${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}"
}

# Prints an address of this machine that no other program is likely to have ports of.
own_ip() {
    printf '127.%d.%d.%d' $((RANDOM % 200 + 20)) $((RANDOM % 250 + 1)) $((RANDOM % 250 + 1))
}

# Starts a node in the background; its process id is then $!. Its configuration is PREFIX.json, and
# its log goes to PREFIX.log. PEERS are the peer addresses of all nodes, in the order of their ids
# from 1, with spaces between. A FIELD is one more of the configuration, such as '"ack": "local"'.
start_kvnode() { # PROGRAM PREFIX ID DATA CLIENT_ADDR PEERS [FIELD…]
    local program=$1 prefix=$2 id=$3 data=$4 client_addr=$5 addr number=0 peer_addr='' peers='' fields=''
    for addr in $6; do
        if ((++number == id)); then
            peer_addr=$addr
        else
            peers+="${peers:+, }{ \"id\": $number, \"addr\": \"$addr\" }"
        fi
    done
    shift 6
    (($# == 0)) || fields=$(printf ', %s' "$@")
    cat >"$prefix.json" <<JSON
{ "id": $id, "client_addr": "$client_addr", "peer_addr": "$peer_addr", "peers": [$peers], "data_dir": "$data"$fields }
JSON
    RUST_LOG=info "$program" --config "$prefix.json" >>"$prefix.log" 2>&1 &
}
