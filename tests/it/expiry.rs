//! Keys that expire, on real processes: at one time on all nodes, across restarts, dumps and
//! restores, and never because of one node's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::backup::kvctl;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::redis::request;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// In RESP: the text protocol has no SET that expires.
fn set_until(cluster: &Cluster, id: u16, key: &str, value: &str, at_ms: u64) {
    let mut client = cluster.client(id);
    client.send(request(&["SET", key, value, "PXAT", &at_ms.to_string()])).expect("a request");
    assert_eq!(client.line().expect("a reply"), "+OK");
}

#[test]
fn a_key_expires_everywhere_and_a_later_write_on_another_node_keeps_it() {
    let mut cluster = Cluster::plan(3).start();
    let at = now_ms() + 1_500;
    for key in ["gone", "kept", "later"] {
        set_until(&cluster, 1, key, "v", at);
    }
    cluster.await_converged();
    assert_eq!(cluster.ask_line(2, "PERSIST kept"), "1");
    assert_eq!(cluster.ask_line(3, "EXPIRE later 1000"), "1");
    cluster.await_converged();
    for id in 1..=3 {
        until(&format!("gone is gone on n{id}"), DEADLINE, || match cluster.ask_line(id, "GET gone") {
            reply if reply.starts_with("ERROR NOTFOUND") => Ok(()),
            reply => Err(reply),
        });
        assert!(now_ms() >= at, "n{id} let it go too early");
        assert_eq!(cluster.ask(id, "MGET gone kept later"), ["NONE", "VALUE v", "VALUE v"]);
        assert_eq!(["COUNT", "TTL gone", "TTL kept"].map(|command| cluster.ask_line(id, command)), ["2", "-2", "-1"]);
    }
    // A key that has expired can be created again.
    assert_eq!(cluster.ask_line(2, "SET gone new"), "OK");
    cluster.await_converged();
    assert_eq!(cluster.ask_line(1, "GET gone"), "VALUE new");
}

#[test]
fn expiries_survive_restarts_and_backups() {
    let mut cluster = Cluster::plan(3).start();
    let (soon, far) = (now_ms() + 2_500, now_ms() + 1_000_000);
    set_until(&cluster, 1, "soon", "v", soon);
    set_until(&cluster, 2, "far", "v", far);
    assert_eq!(cluster.ask_line(3, "SET endless v"), "OK");
    cluster.await_converged();
    let backup = cluster.ask(1, "DUMP").join("\n") + "\n";
    assert!(backup.contains(&format!("\"x\":\"{far}\"")), "{backup}");
    // From the log, and from a snapshot.
    assert!(cluster.ask(1, "COMPACT").iter().any(|line| line == "entries 3"));
    for id in 1..=3 {
        cluster.restart(id);
    }
    cluster.await_converged();
    for id in 1..=3 {
        let left: u64 = cluster.ask_line(id, "TTL far").parse().expect("seconds");
        assert!((900..=1000).contains(&left), "{left}");
    }
    until("soon is gone", DEADLINE, || if cluster.ask_line(3, "EXISTS soon") == "0" { Ok(()) } else { Err("still there".to_owned()) });

    // The backup as new writes, into another cluster.
    let other = Cluster::plan(1).start();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), backup).expect("a backup");
    let path = file.path().to_str().expect("a path");
    let done = kvctl(&other, 1, &["restore", "--as-new-writes", path], None);
    assert_eq!((done.code, &*done.out), (Some(0), "written 2\ndeleted 0\nexpired 1\n"), "{}", done.err);
    let left: u64 = other.ask_line(1, "TTL far").parse().expect("seconds");
    assert!((900..=1000).contains(&left), "{left}");
    assert_eq!(other.ask(1, "MGET soon far endless"), ["NONE", "VALUE v", "VALUE v"]);
}

/// Expired values are freed long before their tombstones may be collected.
#[test]
fn what_has_expired_gives_its_memory_back_and_the_nodes_stay_equal() {
    let mut cluster = Cluster::plan(3).set("clock_offset_max_ms", 1000).start();
    let at = now_ms() + 500;
    let value = "v".repeat(100_000);
    for key in 0..20 {
        set_until(&cluster, 1 + key % 3, &format!("k{key}"), &value, at);
    }
    for id in 1..=3 {
        until(&format!("n{id} has let go"), DEADLINE, || {
            let status = cluster.status(id);
            let bytes = status.number("memory_bytes");
            if bytes < 100_000 && status.number("keys") == 0 { Ok(()) } else { Err(bytes.to_string()) }
        });
    }
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.status(id).number("divergences"), 0);
    }
}
