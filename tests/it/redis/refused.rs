//! Commands that Redis has and a mesh of single values has not: refused in a sentence that names
//! the command, and the connection goes on.

use std::process::Command;

use super::commands::words;
use super::compare::is_listed_difference;
use super::servers::Servers;
use crate::cluster::Cluster;
use crate::program::{self, run};

/// Names in lower case.
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

/// Returns whether this is one sentence that tells more than no.
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

/// A replica of Redis asks for all data in a line of its own, and takes what comes for data unless
/// it begins with a minus sign.
#[test]
fn a_replica_of_redis_is_refused_in_the_form_that_it_reads() {
    let cluster = Cluster::plan(1).start();
    for line in ["SYNC\r\n", "sync\n", "PSYNC ? -1\r\n", "PING\r\nSYNC\r\n", "*1\r\n$4\r\nSYNC\r\n"] {
        let mut client = cluster.client(1);
        client.send(line).unwrap();
        if line.starts_with("PING") {
            assert_eq!(client.line().unwrap(), "PONG");
        }
        let reply = client.line().unwrap();
        assert!(reply.starts_with("-ERR ") && reply.contains("SYNC is not supported: "), "{line:?}: {reply}");
        if !line.starts_with('*') {
            assert_eq!(client.rest().unwrap(), b"", "{line:?}");
        }
    }
}

#[test]
fn redis_cli_that_wants_an_rdb_or_to_be_a_replica_ends_at_once() {
    if !program::is_there("redis-cli", "redis-tools") {
        return;
    }
    let cluster = Cluster::plan(1).start();
    let dir = tempfile::tempdir().unwrap();
    let rdb = dir.path().join("dump.rdb");
    let rdb = rdb.to_str().unwrap();
    for args in [&["--rdb", rdb][..], &["--functions-rdb", rdb], &["--replica"]] {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &cluster.client_addr(1).port().to_string(), "-h", &cluster.ip().to_string()]).args(args);
        let ended = run(&mut command);
        // For functions, it first sends a request that is refused as all are.
        let refused = if args[0] == "--functions-rdb" { "REPLCONF is not supported" } else { "SYNC is not supported" };
        assert!(ended.code != Some(0) && ended.err.contains(refused), "{args:?}: {ended:?}");
    }
}
