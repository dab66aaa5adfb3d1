//! What Redis has and a mesh of single values has not: refused in a sentence that names the command, and the connection goes on.

use super::commands::words;
use super::compare::is_listed_difference;
use super::servers::Servers;

/// In lower case.
pub const NAMES: [&str; 33] = [
    "lpush",
    "rpop",
    "lrange",
    "hset",
    "hgetall",
    "sadd",
    "smembers",
    "zadd",
    "zrange",
    "xadd",
    "xread",
    "geoadd",
    "pfadd",
    "setbit",
    "getbit",
    "bitcount",
    "eval",
    "evalsha",
    "script",
    "fcall",
    "subscribe",
    "psubscribe",
    "publish",
    "monitor",
    "sort",
    "copy",
    "replicaof",
    "save",
    "bgsave",
    "shutdown",
    "cluster",
    "lcs",
    "swapdb",
];

/// One sentence that says more than no.
pub fn is_refusal(name: &str, sentence: &str) -> bool {
    const LEN_MIN: usize = 40;
    let known = !sentence.to_lowercase().contains("unknown command");
    known && sentence.starts_with("ERR ") && sentence.to_lowercase().contains(name) && sentence.len() >= LEN_MIN
}

#[test]
fn what_a_mesh_cannot_keep_is_refused_in_words() {
    let Some(servers) = Servers::start() else { return };
    if !servers.tests_a_node() {
        return;
    }
    for version in [2, 3] {
        let mut both = servers.connect(version);
        for name in NAMES {
            // Not to Redis: it would subscribe, or shut down.
            let command = words(&format!("{} a 1 b", name.to_uppercase()));
            let tested = super::ask(&mut both.tested, &command);
            assert!(is_listed_difference(&command, &tested, &tested), "{name}: {tested:?}");
        }
        let (redis, tested) = both.ask(&["PING"]);
        assert_eq!(redis, tested);
    }
}
