//! Backup and restore: `kvctl dump`, `kvctl backup` and `kvctl restore`, with real nodes and with
//! servers that break off.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::kvctl::server;
use crate::program::{self, Ended, begin};

/// Runs kvctl against one node, with this file as its stdin.
pub fn kvctl(cluster: &Cluster, id: u16, args: &[&str], stdin: Option<&Path>) -> Ended {
    begin(&mut program::kvctl(&[cluster.client_addr(id)], &[&["--timeout", "30"], args].concat()), stdin).end()
}

/// Makes a backup by `kvctl dump > backup.jsonl`.
fn back_up(cluster: &Cluster, id: u16, dir: &TempDir) -> PathBuf {
    let dump = kvctl(cluster, id, &["dump"], None);
    assert_eq!((dump.code, &*dump.err), (Some(0), ""));
    let path = dir.path().join("backup.jsonl");
    std::fs::write(&path, dump.out).unwrap();
    path
}

fn restore(cluster: &Cluster, id: u16, path: &Path, more: &[&str]) -> Ended {
    kvctl(cluster, id, &[&["restore", path.to_str().unwrap()], more].concat(), None)
}

fn number(report: &str, name: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {report}"));
    line.trim().parse().unwrap()
}

/// Writes `a0` to `a999`, deletes every fifth, and writes some keys and values that are not text.
fn fill(client: &mut Client) {
    client.pipeline((0..1000).map(|n| format!("PUT a{n} value {n}")));
    client.pipeline((0..1000).step_by(5).map(|n| format!("DEL a{n}")));
    let odd = [r#"PUT "" empty"#, r#"PUT "\xff\x00" "\x00\xfe""#, "PUT \"\u{fc} \\\" \\n\" \"\\\\\""];
    client.pipeline(odd.map(str::to_owned));
}

#[test]
fn a_cluster_that_has_lost_everything_is_restored_through_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::plan(3).start();
    fill(&mut cluster.client(1));
    cluster.await_converged();
    let digest = cluster.ask_line(3, "DIGEST");
    assert!(digest.ends_with(" 803"), "{digest}");
    let backup = back_up(&cluster, 3, &dir);

    cluster.kill_all();
    for id in 1..=3 {
        cluster.wipe(id);
        cluster.start(id);
    }
    cluster.await_healed();
    assert_eq!(cluster.ask_line(1, "COUNT"), "0");

    let done = restore(&cluster, 2, &backup, &[]);
    assert_eq!((done.code, &*done.err), (Some(0), ""));
    assert_eq!(done.out, "entries 1003\nmerged 1003\ncovered 0\ndropped 0\n");
    cluster.await_reply(1, "DIGEST", &digest);
    cluster.await_reply(3, "DIGEST", &digest);
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "DIGEST"), digest);
        assert_eq!(cluster.status(id).number("divergences"), 0);
    }
    // It works as any cluster does.
    assert_eq!(cluster.ask_line(1, "UPD a1 later"), "OK");
    assert_eq!(cluster.ask_line(3, "DEL a2"), "OK");
    assert_eq!(cluster.ask_line(2, "SET a0 again"), "OK");
    cluster.await_converged();

    // The same backup once more changes nothing.
    let done = kvctl(&cluster, 3, &["--json", "restore", "-"], Some(&backup));
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(done.out, "{\"covered\":1003,\"dropped\":0,\"entries\":1003,\"merged\":0}\n");
    cluster.await_converged();
    for (command, reply) in [("GET a1", "VALUE later"), ("EXISTS a2", "0"), ("GET a0", "VALUE again")] {
        assert_eq!(cluster.ask_line(1, command), reply);
    }

    // As new writes, it wins over what is there; keys that it does not hold stay.
    let done = restore(&cluster, 1, &backup, &["--as-new-writes"]);
    assert_eq!((done.code, &*done.out, &*done.err), (Some(0), "written 803\ndeleted 200\nexpired 0\n", ""));
    cluster.await_converged();
    for (command, reply) in [("GET a1", "VALUE value 1"), ("GET a2", "VALUE value 2"), ("GET a0", "VALUE again")] {
        assert_eq!(cluster.ask_line(2, command), reply);
    }
}

#[test]
fn a_backup_from_before_collected_deletes_is_refused_and_can_be_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::plan(3).set("tombstone_age_min_ms", 300).start();
    let mut client = cluster.client(1);
    for command in ["SET gone 1", "SET kept 1"] {
        assert_eq!(client.ask_line(command).unwrap(), "OK");
    }
    cluster.await_converged();
    let backup = back_up(&cluster, 2, &dir);
    assert_eq!(client.ask_line("DEL gone").unwrap(), "OK");
    assert_eq!(client.ask_line("UPD kept 2").unwrap(), "OK");

    // The delete is known, or its tombstone was collected: the key stays deleted either way.
    for id in 1..=3 {
        restore(&cluster, id, &backup, &[]);
    }
    for id in 1..=3 {
        until("the tombstone goes", DEADLINE, || match cluster.status(id).number("tombstones") {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        });
    }
    for id in 1..=3 {
        let done = restore(&cluster, id, &backup, &[]);
        assert_eq!((done.code, &*done.out), (Some(1), ""), "{}", done.err);
        for words in ["ERROR STALE", "deletes made by node 1", "could bring deleted keys back", "kvctl restore --as-new-writes"] {
            assert!(done.err.contains(words), "no {words:?} in {}", done.err);
        }
    }
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "EXISTS gone"), "0");
        assert_eq!(cluster.ask_line(id, "GET kept"), "VALUE 2");
    }
    let done = restore(&cluster, 3, &backup, &["--as-new-writes"]);
    assert_eq!((done.code, number(&done.out, "written")), (Some(0), 2), "{}", done.err);
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "GET gone"), "VALUE 1");
        assert_eq!(cluster.ask_line(id, "GET kept"), "VALUE 1");
    }
}

#[test]
fn a_backup_that_was_cut_off_is_refused_and_the_node_claims_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::plan(1).start();
    fill(&mut cluster.client(1));
    let digest = cluster.ask_line(1, "DIGEST");
    let backup = back_up(&cluster, 1, &dir);
    cluster.kill(1);
    cluster.wipe(1);
    cluster.start_ready(1);
    let blank = cluster.ask(1, "STATUS").into_iter().find(|line| line.starts_with("vector "));

    let whole = std::fs::read(&backup).unwrap();
    let cut = dir.path().join("cut.jsonl");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let done = restore(&cluster, 1, &cut, &[]);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("cut.jsonl, line 5"), "{}", done.err);
    assert_eq!(cluster.ask_line(1, "COUNT"), "0");
    // From stdin, an error shows only after the data before it was sent.
    let done = kvctl(&cluster, 1, &["restore", "-"], Some(&cut));
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("stdin, line 5"), "{}", done.err);
    until("the node has given it up", DEADLINE, || match cluster.status(1).text("dump_from") {
        "nobody" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(cluster.ask(1, "STATUS").into_iter().find(|line| line.starts_with("vector ")), blank);

    let done = restore(&cluster, 1, &backup, &[]);
    assert_eq!((done.code, number(&done.out, "entries")), (Some(0), 1003), "{}", done.err);
    assert_eq!(cluster.ask_line(1, "DIGEST"), digest);
}

/// The node refuses and reads no further. kvctl must notice, although it has much to send.
#[test]
fn a_node_that_refuses_a_large_backup_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    let value = "v".repeat(1 << 20);
    client.pipeline((0..30).map(|n| format!("PUT k{n} {value}")));
    let backup = back_up(&cluster, 1, &dir);
    cluster.kill(1);
    cluster.wipe(1);
    cluster.configure(1, "memory_max", 1);
    cluster.start_ready(1);
    assert_eq!(cluster.ask_line(1, "PUT small 1"), "OK");
    let done = restore(&cluster, 1, &backup, &[]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.starts_with("ERROR FULL the entries take"), "{}", done.err);
    let done = restore(&cluster, 1, &backup, &["--as-new-writes"]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.starts_with("ERROR FULL") && done.err.trim_end().ends_with("stopped here: 0 keys were written"), "{}", done.err);
    assert_eq!(cluster.ask_line(1, "COUNT"), "1");
}

#[test]
fn a_backup_is_a_file_of_its_own_that_takes_the_last_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    let file = dir.path().join("backup.jsonl");
    let path = file.to_str().unwrap();
    for keys in 1..=2 {
        assert_eq!(client.ask_line(&format!("SET k{keys} v")).unwrap(), "OK");
        let done = kvctl(&cluster, 1, &["backup", path], None);
        assert_eq!((done.code, &*done.err), (Some(0), ""));
        let metadata = file.metadata().unwrap();
        assert_eq!(done.out, format!("entries {keys}\nbytes {}\n", metadata.len()));
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    let done = kvctl(&cluster, 1, &["--json", "backup", path], None);
    assert_eq!(done.out, format!("{{\"bytes\":{},\"entries\":2}}\n", file.metadata().unwrap().len()));
    let done = restore(&cluster, 1, &file, &[]);
    assert_eq!((done.code, &*done.out), (Some(0), "entries 2\nmerged 0\ncovered 2\ndropped 0\n"));
    for other in [dir.path().to_str().unwrap(), "/dev/null", "-", "no/such/directory/backup"] {
        let done = kvctl(&cluster, 1, &["backup", other], None);
        assert_eq!((done.code, &*done.out), (Some(2), ""), "{other}: {}", done.err);
    }
}

/// Half a dump, then silence: the last backup stays, and no part of a new one.
#[test]
fn a_backup_that_fails_leaves_the_last_one_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::plan(1).start();
    fill(&mut cluster.client(1));
    let file = back_up(&cluster, 1, &dir);
    let whole = std::fs::read(&file).unwrap();
    let cut = 1 + whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    let half = whole[..cut].to_vec();
    let end = String::from_utf8(whole[cut..].to_vec()).unwrap().replace("\"count\":1003", "\"count\":1002");
    let wrong = [&half, end.as_bytes(), b"END\n"].concat();
    let back_up = |addr: SocketAddr, timeout: &str| {
        begin(&mut program::kvctl(&[addr], &["--timeout", timeout, "backup", file.to_str().unwrap()]), None)
    };
    let unchanged = || {
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(std::fs::read(&file).unwrap() == whole);
    };
    for (reply, closes, code) in [(half.clone(), true, 3), (half.clone(), false, 3), (wrong, true, 1)] {
        let addr = server(move |mut stream| {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(&reply);
            // Until the client has closed.
            let _ = !closes && stream.read(&mut [0; 64]).is_ok();
        });
        assert_eq!(back_up(addr, "0.3").end().code, Some(code));
        unchanged();
    }
    // A user who has waited long enough.
    let addr = server(move |mut stream| {
        let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(&half)).and_then(|()| stream.read(&mut [0; 64]));
    });
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let kvctl = back_up(addr, "60");
        until("the part of a new backup", DEADLINE, || match std::fs::read_dir(dir.path()).unwrap().count() {
            2 => Ok(()),
            there => Err(format!("{there} files")),
        });
        kvctl.signal(signal);
        assert_eq!(kvctl.end().code, Some(1));
        unchanged();
    }
}
