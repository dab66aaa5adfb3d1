//! Disks that are lost, that come back older than they were, or that two processes share: in the
//! end what was acknowledged is there, and what was deleted is not.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Client;
use crate::cluster::{Cluster, ClusterPlan, DEADLINE, copy_files, until};
use crate::program::{Ended, run_configured};

/// Age at which a tombstone may be collected here, if all members have it.
const AGE_MIN: Duration = Duration::from_millis(300);

fn plan() -> ClusterPlan {
    Cluster::plan(3).set("tombstone_age_min_ms", AGE_MIN.as_millis() as u64).set("recovery_wait_ms", 1_500).set("ack_timeout_ms", 8_000)
}

#[derive(Clone, Copy, PartialEq)]
enum DiskLoss {
    Wiped,
    /// A copy from before most of what happened.
    PutBack,
}

#[test]
fn a_wiped_directory_loses_nothing_and_brings_nothing_back() {
    loses_nothing(DiskLoss::Wiped, true);
    loses_nothing(DiskLoss::Wiped, false);
}

#[test]
fn a_directory_that_is_put_back_older_loses_nothing_and_brings_nothing_back() {
    loses_nothing(DiskLoss::PutBack, true);
    loses_nothing(DiskLoss::PutBack, false);
}

/// Node 3 loses its disk while node 2 is away, and node 1 alone still has the last acknowledged
/// writes. Node 3 returns to one of them first, and to the other once it serves.
fn loses_nothing(loss: DiskLoss, first_has_all: bool) {
    let mut cluster = plan().start();
    put(&cluster, 1, 0..60, "1");
    cluster.await_converged();
    let copy = tempfile::tempdir().unwrap();
    if loss == DiskLoss::PutBack {
        cluster.stop(3);
        copy_files(&cluster.data_path(3), copy.path());
        cluster.start(3);
        cluster.await_converged();
        cluster.await_mesh(&[1, 2, 3]);
    }
    // Deletes that all nodes have and have collected, and changes that all nodes have.
    delete(&cluster, 2, 0..10);
    put(&cluster, 3, 10..20, "2");
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
    }
    // A majority that node 3 belongs to.
    cluster.kill(2);
    put(&cluster, 1, 20..30, "3");
    put(&cluster, 3, 30..40, "3");
    delete(&cluster, 3, 40..50);
    delete(&cluster, 1, 50..55);

    cluster.kill(3);
    cluster.wipe(3);
    if loss == DiskLoss::PutBack {
        copy_files(copy.path(), &cluster.data_path(3));
    }
    let (first, last) = if first_has_all { (1, 2) } else { (2, 1) };
    if !first_has_all {
        cluster.kill(1);
        cluster.start(2);
    }
    cluster.start(3);
    cluster.await_mesh(&[first, 3]);
    cluster.await_ready(3);
    // A majority without the last node, so node 3 takes writes.
    put(&cluster, 3, 55..58, "4");
    cluster.start(last);
    cluster.await_healed();

    let expected = |key: usize| match key {
        0..10 | 40..55 => None,
        10..20 => Some("2"),
        20..40 => Some("3"),
        55..58 => Some("4"),
        _ => Some("1"),
    };
    for id in 1..=3 {
        assert_holds(&cluster, id, 60, expected);
    }
    // It stays so when all have collected the tombstones and know only their disks.
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
    }
    restart_all(&mut cluster);
    for id in 1..=3 {
        assert_holds(&cluster, id, 60, expected);
    }
}

/// A killed member pins tombstones, on disk too. It returns from its own disk.
#[test]
fn a_tombstone_waits_for_a_member_that_is_down_and_goes_when_it_is_back() {
    let mut cluster = plan().start();
    put(&cluster, 1, 0..20, "1");
    cluster.await_converged();
    cluster.kill(3);
    cluster.await_sees(1, 3, "down");
    delete(&cluster, 1, 0..10);
    // A node that restarts remembers which member it waits for.
    cluster.kill(2);
    cluster.start(2);
    cluster.await_mesh(&[1, 2]);
    cluster.await_converged();
    let watched = Instant::now();
    while watched.elapsed() < 4 * AGE_MIN {
        for id in 1..=2 {
            assert_eq!(cluster.status(id).number("tombstones"), 10, "n{id} has collected tombstones");
        }
        std::thread::sleep(AGE_MIN / 6);
    }
    cluster.start(3);
    cluster.await_healed();
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
        assert_holds(&cluster, id, 20, |key| (key >= 10).then_some("1"));
    }
}

#[test]
fn a_member_that_was_away_during_a_collection_resurrects_nothing_from_its_log() {
    returns_with_what_was_deleted("log-");
}

#[test]
fn a_member_that_was_away_during_a_collection_resurrects_nothing_from_its_snapshot() {
    returns_with_what_was_deleted("snapshot-");
}

/// Node 3 is taken out of the others' configurations, so that they may collect, and is listed
/// again. Its own disk has never had the deletes.
fn returns_with_what_was_deleted(file: &str) {
    let mut cluster = plan().build();
    if file == "snapshot-" {
        cluster.configure(3, "compact_log_min", 1 << 10);
    }
    cluster.start_all();
    cluster.await_converged();
    put(&cluster, 1, 0..40, "1");
    cluster.await_converged();
    let mut written = 40;
    until(&format!("the deleted keys in {file} of n3"), DEADLINE, || {
        let holds = files_like(&cluster.data_path(3), file).iter().any(|bytes| contains(bytes, b"key-0") && contains(bytes, b"key-38"));
        written += 1;
        put(&cluster, 1, written..written + 1, "1");
        if holds { Ok(()) } else { Err("not yet".to_owned()) }
    });
    cluster.await_converged();
    cluster.kill(3);
    for id in 1..=2 {
        cluster.set_members(id, &[1, 2]);
        cluster.restart(id);
        cluster.await_mesh(&[1, 2]);
    }
    for key in (0..40).step_by(2) {
        delete(&cluster, 2, key..key + 1);
    }
    cluster.await_number(1, "tombstones", 0);
    cluster.await_number(2, "tombstones", 0);
    let holds = files_like(&cluster.data_path(3), file).iter().any(|bytes| contains(bytes, b"key-0"));
    assert!(holds, "n3 has nothing to resurrect");

    // The others know from their disks alone what was collected.
    cluster.kill(1);
    cluster.kill(2);
    for id in 1..=2 {
        cluster.set_members(id, &[1, 2, 3]);
        cluster.start(id);
    }
    cluster.start(3);
    cluster.await_healed();
    let expected = |key: usize| (key % 2 == 1).then_some("1");
    for id in 1..=3 {
        assert_holds(&cluster, id, 40, expected);
    }
    // What was dropped was dropped on the disk, too.
    restart_all(&mut cluster);
    for id in 1..=3 {
        assert_holds(&cluster, id, 40, expected);
    }
}

#[test]
fn a_second_process_on_a_directory_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "SET before 1"), "OK");
    for args in [&[][..], &["--discard-local-data"]] {
        let ended = run_second(&cluster, args);
        let output = ended.outputs();
        assert_eq!(ended.code, Some(1), "{args:?}: {output}");
        let words = output.contains("another process uses it") && output.contains(cluster.data_path(1).to_str().unwrap());
        assert!(words && !output.contains("panicked"), "{args:?}: {output}");
    }
    assert_eq!(cluster.ask_line(1, "SET after 1"), "OK");
    assert_eq!(cluster.ask_line(1, "GET before"), "VALUE 1");
}

/// An operator who tidies up may take it for a leftover.
#[test]
fn a_removed_lock_file_lets_no_second_process_in() {
    let mut cluster = Cluster::plan(1).start();
    let lock = cluster.data_path(1).join("lock");
    fs::remove_file(&lock).unwrap();
    let ended = run_second(&cluster, &[]);
    assert!(ended.code == Some(1) && ended.outputs().contains("another process uses it"), "{ended:?}");
    assert_eq!(cluster.ask_line(1, "SET after 1"), "OK");

    // Builds that lock only the file are respected, too.
    cluster.stop(1);
    let older_build = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock).unwrap();
    older_build.try_lock().unwrap();
    cluster.start(1);
    assert!(cluster.await_refused(1, 1).contains("another process uses it"));
    drop(older_build);
    cluster.start_ready(1);
    assert!(fs::OpenOptions::new().write(true).open(&lock).unwrap().try_lock().is_err(), "the file is not locked");
    assert_eq!(cluster.ask_line(1, "GET after"), "VALUE 1");
}

#[test]
fn two_processes_with_one_id_are_named_and_do_no_lasting_harm() {
    let mut cluster = plan().start();
    put(&cluster, 3, 0..20, "1");
    cluster.await_converged();
    cluster.add(4, &[1, 2]).unwrap();
    cluster.configure(4, "id", 3);
    let peers = [1, 2].map(|id| json!({ "id": id, "addr": cluster.peer_addr(id).to_string() }));
    cluster.configure(4, "peers", json!(peers));
    cluster.start(4);
    cluster.await_log(1, &["two processes", "node 3"]);
    cluster.await_log(2, &["two processes", "node 3"]);
    cluster.kill(4);
    cluster.await_mesh(&[1, 2, 3]);
    put(&cluster, 1, 20..40, "1");
    cluster.await_converged_among(&[1, 2, 3]);
    for id in 1..=3 {
        assert_holds(&cluster, id, 40, |_| Some("1"));
    }
}

/// Runs a second node on the directory of the first, to its end.
fn run_second(cluster: &Cluster, args: &[&str]) -> Ended {
    let addr = format!("{}:0", cluster.ip());
    let config = json!({ "id": 1, "client_addr": addr, "peer_addr": addr, "peers": [], "data_dir": cluster.data_path(1) });
    run_configured(&config, args)
}

fn restart_all(cluster: &mut Cluster) {
    cluster.kill_all();
    cluster.start_all();
    cluster.await_healed();
}

/// Writes at `majority`; each write is acknowledged.
#[track_caller]
fn put(cluster: &Cluster, id: u16, keys: std::ops::Range<usize>, value: &str) {
    let mut client = cluster.client(id);
    keys.for_each(|key| await_ok(&mut client, &format!("PUT key-{key} {value}")));
}

#[track_caller]
fn delete(cluster: &Cluster, id: u16, keys: std::ops::Range<usize>) {
    let mut client = cluster.client(id);
    keys.for_each(|key| await_ok(&mut client, &format!("DEL key-{key}")));
}

/// Repeats a write until it is done: on a machine that stutters a node may seem to be down for a
/// moment, and a write be refused.
#[track_caller]
fn await_ok(client: &mut Client, command: &str) {
    until(command, DEADLINE, || {
        let reply = client.ask_line(command).map_err(|error| error.to_string())?;
        if reply == "OK" { Ok(()) } else { Err(reply) }
    });
}

#[track_caller]
fn assert_holds<'a>(cluster: &Cluster, id: u16, keys: usize, expected: impl Fn(usize) -> Option<&'a str>) {
    let mut client = cluster.client(id);
    for key in 0..keys {
        let reply = client.ask_line(&format!("GET key-{key}")).unwrap();
        match expected(key) {
            Some(value) => assert_eq!(reply, format!("VALUE {value}"), "n{id}> GET key-{key}"),
            None => assert!(reply.starts_with("ERROR NOTFOUND "), "n{id}> GET key-{key}: {reply}"),
        }
    }
}

fn files_like(dir: &Path, start: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let alike = files.filter(|file| file.file_name().to_string_lossy().starts_with(start));
    // A file that a compaction removes in between does not count.
    alike.filter_map(|file| fs::read(file.path()).ok()).collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
