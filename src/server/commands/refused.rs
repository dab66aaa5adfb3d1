//! Commands that Redis has and kvmesh does not: a client hears a reason and a way out instead of
//! "unknown command".
//!
//! Every name here is one that Redis knows. A name that Redis does not know is an unknown command.

/// Commands that are not here for the same reason.
struct Family {
    /// The names in lower case.
    names: &'static [&'static str],
    /// The rest of the sentence that the name begins.
    why: &'static str,
}

/// Subcommands that are not here.
struct Subfamily {
    /// The name of the container in lower case, as all names.
    container: &'static str,
    names: &'static [&'static str],
    why: &'static str,
}

/// The reason why there is no command of that name, in upper or lower case. `None` if Redis does
/// not know it either, or if it is here.
pub fn refusal(name: &[u8]) -> Option<String> {
    let family = FAMILIES.iter().find_map(|family| Some((find(family.names, name)?, family.why)));
    family.map(|(name, why)| format!("{} is not supported: {why}", name.to_ascii_uppercase()))
}

/// The reason why a command that is here has no subcommand of that name. `container` is in lower
/// case.
pub fn subcommand_refusal(container: &str, name: &[u8]) -> Option<String> {
    if name.eq_ignore_ascii_case(b"help") {
        let container = container.to_ascii_uppercase();
        return Some(format!("{container} HELP is not supported: COMMAND DOCS {container} explains the subcommands"));
    }
    let here = SUBFAMILIES.iter().filter(|family| family.container == container);
    let family = here.into_iter().find_map(|family| Some((find(family.names, name)?, family.why)));
    family.map(|(name, why)| format!("{} {} is not supported: {why}", container.to_ascii_uppercase(), name.to_ascii_uppercase()))
}

fn find(names: &[&'static str], wanted: &[u8]) -> Option<&'static str> {
    names.iter().copied().find(|name| name.as_bytes().eq_ignore_ascii_case(wanted))
}

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family {
        names: &[
            "lpush", "rpush", "lpushx", "rpushx", "lpop", "rpop", "llen", "lindex", "linsert", "lrange", "lrem", "lset", "ltrim", "lpos", "lmove",
            "rpoplpush", "lmpop", "blpop", "brpop", "blmove", "brpoplpush", "blmpop",
        ],
        why: "kvmesh keeps strings only, because every key is one register whose newest write wins on every node, and of two nodes that push \
              at once one would lose its element; keep the whole list as one value, or use Redis for it",
    },
    Family {
        names: &[
            "hset", "hsetnx", "hget", "hmset", "hmget", "hgetall", "hdel", "hexists", "hlen", "hkeys", "hvals", "hincrby", "hincrbyfloat",
            "hstrlen", "hrandfield", "hscan", "hexpire", "hpexpire", "hexpireat", "hpexpireat", "httl", "hpttl", "hexpiretime", "hpexpiretime",
            "hpersist", "hgetdel", "hgetex", "hsetex",
        ],
        why: "kvmesh keeps strings only, because every key is one register whose newest write wins on every node, and of two nodes that set \
              fields at once one would lose its field; use one key for each field (\"user:1:name\"), or keep the whole as one value",
    },
    Family {
        names: &[
            "sadd", "srem", "smembers", "sismember", "smismember", "scard", "spop", "srandmember", "smove", "sscan", "sinter", "sintercard",
            "sinterstore", "sunion", "sunionstore", "sdiff", "sdiffstore",
        ],
        why: "kvmesh keeps strings only, because every key is one register whose newest write wins on every node, and of two nodes that add \
              at once one would lose its member; use one key for each member (\"set:member\") and SCAN with MATCH, or use Redis for it",
    },
    Family {
        names: &[
            "zadd", "zrem", "zincrby", "zcard", "zcount", "zlexcount", "zrange", "zrangestore", "zrangebyscore", "zrangebylex", "zrevrange",
            "zrevrangebyscore", "zrevrangebylex", "zrank", "zrevrank", "zscore", "zmscore", "zpopmin", "zpopmax", "bzpopmin", "bzpopmax",
            "zmpop", "bzmpop", "zrandmember", "zremrangebyscore", "zremrangebyrank", "zremrangebylex", "zscan", "zinter", "zintercard",
            "zinterstore", "zunion", "zunionstore", "zdiff", "zdiffstore",
        ],
        why: "kvmesh keeps strings only, because every key is one register whose newest write wins on every node, and of two nodes that add \
              at once one would lose its member; use one key for each member with its score as the value, or use Redis for it",
    },
    Family {
        names: &[
            "xadd", "xtrim", "xdel", "xrange", "xrevrange", "xlen", "xread", "xreadgroup", "xgroup", "xack", "xpending", "xclaim", "xautoclaim",
            "xinfo", "xsetid",
        ],
        why: "a stream is a log in one order, and in kvmesh every node writes at any time without asking the others; use Redis or a message \
              broker for it",
    },
    Family {
        names: &[
            "geoadd", "geodist", "geohash", "geopos", "georadius", "georadius_ro", "georadiusbymember", "georadiusbymember_ro", "geosearch",
            "geosearchstore",
        ],
        why: "kvmesh keeps strings only and has no index of places; keep the place as a value and search for it in the application, or use \
              Redis for it",
    },
    Family {
        names: &["pfadd", "pfcount", "pfmerge", "pfdebug", "pfselftest"],
        why: "kvmesh keeps strings only, and two nodes that add at once would lose one of the two; keep a counter with INCR for each node \
              and add them up, or use Redis for it",
    },
    Family {
        names: &["setbit", "getbit", "bitcount", "bitpos", "bitop", "bitfield", "bitfield_ro"],
        why: "the newest write of a whole value wins on every node, and of two nodes that set bits of one value at once one would lose its \
              bit; use one key for each bit, or GET and SET the whole value",
    },
    Family {
        names: &[
            "eval", "evalsha", "eval_ro", "evalsha_ro", "script", "fcall", "fcall_ro", "function",
        ],
        why: "kvmesh runs no scripts; use MULTI and EXEC, with WATCH where a step depends on what was read, which are atomic on the node \
              that executes them",
    },
    Family {
        names: &[
            "subscribe", "unsubscribe", "psubscribe", "punsubscribe", "publish", "pubsub", "ssubscribe", "sunsubscribe", "spublish",
        ],
        why: "kvmesh keeps data and passes no messages; poll a key, or use Redis or a message broker for it",
    },
    Family {
        names: &["monitor"],
        why: "kvmesh shows no client what others send; see INFO and STATUS for what the node does",
    },
    Family {
        names: &["sort", "sort_ro", "lcs"],
        why: "it computes on what other commands read; GET the values and compute on them in the application",
    },
    Family {
        names: &["copy"],
        why: "a value is copied by GET and SET, in MULTI if both must be one step",
    },
    Family {
        names: &["move", "swapdb"],
        why: "there is one database, 0; use a prefix of the keys instead of a second one",
    },
    Family {
        names: &["dump", "restore", "restore-asking", "migrate"],
        why: "kvmesh has no binary form of single values; use GET and SET with PXAT for one key, and kvctl for a backup of all",
    },
    Family {
        names: &["replicaof", "slaveof", "replconf", "failover"],
        why: "there is no master: every node takes writes and sends them to all others, which the configuration names; see PEERS",
    },
    Family {
        names: &["sync", "psync"],
        why: "there is no master and no RDB; kvctl backup FILE makes a backup, and another copy of all data is another node, which the \
              configurations name",
    },
    Family {
        names: &["cluster", "asking", "readonly", "readwrite"],
        why: "kvmesh is no Redis Cluster: every node holds every key, so that a client needs no slots; use the client without its cluster mode",
    },
    Family {
        names: &["sentinel"],
        why: "there is no master to watch: every node takes writes; connect to any node, without the client's Sentinel mode",
    },
    Family {
        names: &["save", "bgsave", "bgrewriteaof"],
        why: "every write goes to the log before it is answered, and snapshots are written by themselves; COMPACT writes one now",
    },
    Family {
        names: &["lastsave"],
        why: "every write goes to the log before it is answered, so that no time of a save says what is safe; see STATUS",
    },
    Family {
        names: &["shutdown"],
        why: "a node is ended by the signal SIGTERM, from the machine that it runs on",
    },
    Family {
        names: &["latency", "slowlog"],
        why: "kvmesh keeps no history of single commands; see INFO and STATUS for what is measured",
    },
    Family {
        names: &["module"],
        why: "kvmesh loads no code of others",
    },
];

#[rustfmt::skip]
const SUBFAMILIES: &[Subfamily] = &[
    Subfamily {
        container: "acl",
        names: &["setuser", "deluser", "list", "load", "save", "genpass", "dryrun"],
        why: "users are in the configuration file, each with a role and prefixes of keys; change them there and RELOAD",
    },
    Subfamily {
        container: "client",
        names: &["reply"],
        why: "every command is answered; send the next ones without waiting for replies instead",
    },
    Subfamily {
        container: "client",
        names: &["tracking", "trackinginfo", "caching", "getredir"],
        why: "the node does not remember what clients have read; use a client without its cache, or give cached keys a short life",
    },
    Subfamily {
        container: "client",
        names: &["pause", "unpause", "unblock"],
        why: "no client can stop or wake others",
    },
    Subfamily {
        container: "config",
        names: &["set", "rewrite"],
        why: "the configuration is a file that the node reads when it starts; change it there and start the node again",
    },
    Subfamily {
        container: "config",
        names: &["resetstat"],
        why: "counters run from the start of the node; take the difference of two readings",
    },
    Subfamily {
        container: "command",
        names: &["getkeys", "getkeysandflags"],
        why: "COMMAND INFO says where the keys of each command are",
    },
    Subfamily {
        container: "object",
        names: &["freq", "idletime", "refcount"],
        why: "nothing is ever evicted, so that it is not recorded when or how often a value was read",
    },
    Subfamily {
        container: "memory",
        names: &["stats", "doctor", "malloc-stats", "purge"],
        why: "see INFO memory and STATUS for what is measured",
    },
    Subfamily {
        container: "debug",
        names: &[
            "object", "reload", "loadaof", "digest", "digest-value", "jmap", "segfault", "panic", "restart", "oom", "assert", "sdslen", "populate",
            "protocol", "error", "structsize", "htstats", "htstats-key", "set-active-expire", "quicklist-packed-threshold", "change-repl-id",
            "stringmatch-len", "config-rewrite-force-all", "log", "leak", "ziplist", "listpack", "quicklist", "mallctl", "mallctl-str",
            "pause-cron", "replybuffer", "client-eviction", "set-disable-deny-scripts", "crash-and-recover", "crash-and-abort",
        ],
        why: "of DEBUG there is SLEEP alone; DIGEST compares the data of nodes",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::commands::table;

    #[test]
    fn what_is_refused_is_not_taken_and_is_named_once() {
        let names: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(table::find(name.as_bytes()), None, "{name} is refused and taken");
            assert!(!names[..index].contains(name), "{name} is in two families");
        }
        for family in SUBFAMILIES {
            let container = table::find(family.container.as_bytes()).expect("a command that is taken");
            for name in family.names {
                assert_eq!(container.subcommand(name.as_bytes()), None, "{} {name} is refused and taken", family.container);
            }
        }
    }

    #[test]
    fn a_refusal_names_the_command_and_is_one_line() {
        assert!(
            refusal(b"LPush").is_some_and(|sentence| sentence.starts_with("LPUSH is not supported: kvmesh keeps strings only, because"))
        );
        assert!(subcommand_refusal("client", b"Reply").is_some_and(|sentence| sentence.starts_with("CLIENT REPLY is not supported: ")));
        let help = "CONFIG HELP is not supported: COMMAND DOCS CONFIG explains the subcommands";
        assert_eq!(subcommand_refusal("config", b"help").as_deref(), Some(help));
        assert_eq!(refusal(b"get"), None);
        assert_eq!(refusal(b"nosuch"), None);
        assert_eq!(subcommand_refusal("client", b"nosuch"), None);
        let sentences = FAMILIES.iter().map(|family| family.why).chain(SUBFAMILIES.iter().map(|family| family.why));
        for why in sentences {
            assert!(!why.contains(['\n', '\r']) && !why.contains("  ") && !why.ends_with('.'), "{why}");
        }
    }
}
