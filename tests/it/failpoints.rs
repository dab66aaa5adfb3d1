//! A process that dies right before or right after an operation on its disk, at each of them in
//! turn: everything that it acknowledged is there at its next start.
//!
//! One node without peers, so that no peer can bring back what its disk has lost. It writes, begins
//! a new log behind a snapshot, writes again and stops. It does so in an empty directory, and in
//! one with a snapshot, a log, and a torn tail behind it. A death within an operation, and what a
//! loss of power takes away, is tried on the simulated disk (src/wal/tests).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, copy_files, has_switches};

const POLL_PAUSE: Duration = Duration::from_millis(5);

/// More operations of one kind than the scenario has. Beyond this it would never end.
const OPERATIONS_MAX: usize = 60;

/// Writes as their client knows them.
#[derive(Clone, Default)]
struct Writes {
    acknowledged: BTreeMap<String, String>,
    /// The write that was sent and never answered.
    unknown: Option<(String, String)>,
}

#[test]
fn a_death_at_any_create_or_rename_loses_nothing() {
    die_everywhere(&["create", "rename"]);
}

#[test]
fn a_death_at_any_append_loses_nothing() {
    die_everywhere(&["append"]);
}

#[test]
fn a_death_at_any_sync_loses_nothing() {
    die_everywhere(&["sync"]);
}

#[test]
fn a_death_at_any_sync_of_names_loses_nothing() {
    die_everywhere(&["sync-names"]);
}

#[test]
fn a_death_at_any_truncation_or_removal_loses_nothing() {
    die_everywhere(&["truncate", "remove"]);
}

/// `tests/release.sh` runs this with a build that ships, and so proves that it is one.
#[test]
fn a_build_that_ships_neither_dies_nor_breaks_a_rule_when_it_is_told_to() {
    let mut cluster = Cluster::plan(1).build();
    cluster.set_failpoint(1, Some("before:create:1".to_owned()));
    cluster.start(1);
    if has_switches() {
        is_killed(cluster.await_exit(1, DEADLINE));
    } else {
        cluster.await_ready(1);
        cluster.kill(1);
    }
    cluster.node_mut(1).launch.env = vec![("KVMESH_BREAK", "no-tombstones".to_owned())];
    cluster.start_ready(1);
    assert_eq!(["SET a 1", "DEL a"].map(|command| cluster.ask_line(1, command)), ["OK", "OK"]);
    assert_eq!(cluster.status(1).number("tombstones"), if has_switches() { 0 } else { 1 });
}

fn die_everywhere(operations: &[&str]) {
    let mut cluster = Cluster::plan(1).set("heartbeat_ms", 20).build();
    let blank = Writes::default();
    let used = prepare(&mut cluster);
    let prepared = tempfile::tempdir().unwrap();
    copy_files(&cluster.data_path(1), prepared.path());
    let mut deaths = BTreeMap::new();
    for (directory, before) in [(None, &blank), (Some(prepared.path()), &used)] {
        for operation in operations {
            for when in ["before", "after"] {
                let mut number = 1;
                while dies_at(&mut cluster, directory, before, &format!("{when}:{operation}:{number}")) {
                    number += 1;
                    assert!(number < OPERATIONS_MAX, "{when}:{operation} dies for ever");
                }
                *deaths.entry(*operation).or_insert(0) += number - 1;
            }
        }
    }
    println!("deaths: {deaths:?}");
    assert!(operations.iter().all(|operation| deaths[operation] > 0), "nothing died: {deaths:?}; is the feature testing on?");
}

/// Prepares a directory with a snapshot, a log of some length, and a torn tail behind it.
fn prepare(cluster: &mut Cluster) -> Writes {
    let mut writes = Writes::default();
    cluster.start(1);
    assert!(work(cluster, &mut writes), "it dies without a failpoint");
    let log = last_log(&cluster.data_path(1)).expect("a log");
    let mut log = OpenOptions::new().append(true).open(cluster.data_path(1).join(log)).unwrap();
    // The beginning of a record that claims to be longer.
    log.write_all(&[200, 0, 0, 0, 1, 2, 3, 4, 1, 7, 7, 7]).unwrap();
    writes
}

/// Runs the scenario with a failpoint. Returns whether the node died. If so, everything
/// acknowledged is there after the next start.
fn dies_at(cluster: &mut Cluster, directory: Option<&Path>, before: &Writes, failpoint: &str) -> bool {
    cluster.wipe(1);
    if let Some(directory) = directory {
        copy_files(directory, &cluster.data_path(1));
    }
    let mut writes = before.clone();
    cluster.set_failpoint(1, Some(failpoint.to_owned()));
    cluster.start(1);
    let lived = work(cluster, &mut writes);
    cluster.set_failpoint(1, None);
    cluster.start(1);
    await_open(cluster);
    let mut client = cluster.client(1);
    let in_flight = writes.unknown.clone();
    for (key, value) in &writes.acknowledged {
        let found = client.ask_line(&format!("GET {key}")).unwrap();
        let is_overwritten = in_flight.as_ref().is_some_and(|(other, newer)| key == other && found == format!("VALUE {newer}"));
        assert!(found == format!("VALUE {value}") || is_overwritten, "{failpoint}: {key} was acknowledged as {value}: {found}");
    }
    if let Some((key, value)) = in_flight.filter(|(key, _)| !writes.acknowledged.contains_key(key)) {
        let found = client.ask_line(&format!("GET {key}")).unwrap();
        assert!(found == format!("VALUE {value}") || found.starts_with("ERROR NOTFOUND"), "{failpoint}: {key}: {found}");
        if found.starts_with("VALUE") {
            writes.acknowledged.insert(key, value);
        }
    }
    let count = client.ask_line("COUNT").unwrap();
    assert_eq!(count, writes.acknowledged.len().to_string(), "{failpoint}: something is there that nobody wrote");
    writes.unknown = None;
    assert!(write(cluster, &mut writes, "later", failpoint), "{failpoint}: it takes no writes");
    cluster.kill(1);
    !lived
}

/// Runs the scenario in one incarnation: writes, a new log behind a snapshot, writes, a stop.
/// Returns whether the node survived it.
fn work(cluster: &mut Cluster, writes: &mut Writes) -> bool {
    let number = (1..).find(|number| !writes.acknowledged.contains_key(&format!("life{number}"))).expect("a number");
    await_open_or_end(cluster)
        && write(cluster, writes, &format!("life{number}"), "begins")
        && write(cluster, writes, "again", &format!("in incarnation {number}"))
        && compact(cluster)
        && write(cluster, writes, "again", &format!("behind the snapshot of incarnation {number}"))
        && write(cluster, writes, &format!("end{number}"), "soon")
        && stops(cluster)
}

/// Stops the node. Returns whether it stopped in order.
fn stops(cluster: &mut Cluster) -> bool {
    if let Some(status) = cluster.try_exit(1) {
        return is_killed(status);
    }
    cluster.signal(1, Signal::SIGTERM);
    let status = cluster.await_exit(1, DEADLINE);
    status.code() == Some(0) || is_killed(status)
}

/// Returns `false` for a node that was killed. Panics if it ended in another way.
fn is_killed(status: std::process::ExitStatus) -> bool {
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    false
}

/// Begins a new log behind a snapshot. Returns whether the node survived it.
fn compact(cluster: &mut Cluster) -> bool {
    let generation = newest_snapshot(&cluster.data_path(1));
    let reply = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.reply("COMPACT"));
    let Ok(reply) = reply else { return is_killed(cluster.await_exit(1, DEADLINE)) };
    assert!(!reply[0].starts_with("ERROR") && newest_snapshot(&cluster.data_path(1)) > generation, "{reply:?}");
    true
}

/// Sends one write. Returns whether the node survived it.
fn write(cluster: &mut Cluster, writes: &mut Writes, key: &str, value: &str) -> bool {
    let reply = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.ask_line(&format!("PUT {key} {value}")));
    match reply {
        Ok(reply) => {
            assert_eq!(reply, "OK");
            writes.acknowledged.insert(key.to_owned(), value.to_owned());
            true
        }
        Err(_) => {
            writes.unknown = Some((key.to_owned(), value.to_owned()));
            is_killed(cluster.await_exit(1, DEADLINE))
        }
    }
}

fn await_open(cluster: &mut Cluster) {
    assert!(await_open_or_end(cluster), "it dies without a failpoint");
}

fn await_open_or_end(cluster: &mut Cluster) -> bool {
    await_or_end(cluster, |cluster| {
        let status = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.text("state") == "open")
    })
}

fn await_or_end(cluster: &mut Cluster, is_so: impl Fn(&Cluster) -> bool) -> bool {
    let began = Instant::now();
    while !is_so(cluster) {
        if let Some(status) = cluster.try_exit(1) {
            return is_killed(status);
        }
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?}");
        thread::sleep(POLL_PAUSE);
    }
    true
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn newest_snapshot(directory: &Path) -> Option<String> {
    names(directory).into_iter().rfind(|name| name.starts_with("snapshot-"))
}

fn last_log(directory: &Path) -> Option<String> {
    names(directory).into_iter().rfind(|name| name.starts_with("log-"))
}
