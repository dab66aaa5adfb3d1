//! A disk that is full: writes are refused there and nowhere else, nothing acknowledged is lost,
//! and everything goes on when there is space again.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own. Where that is refused the test
//! says SKIPPED on stderr, and `.ci/run` fails on that word.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{Cluster, DEADLINE, until};
use crate::program::skip;
use crate::writers::{Ledger, Writers};

const DISK_KIB: usize = 4 << 10;
/// Space that the load has to fill.
const FREE_KIB: usize = 200;
/// Errors that such a fault explains: refused by the full node, unknown while the disk fills,
/// refused while a node is away or starts.
const CODES: [&str; 4] = ["READONLY", "TIMEOUT", "NOQUORUM", "LOADING"];

#[test]
fn a_full_disk_refuses_writes_until_a_restart_finds_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (mut cluster, before) = filled(&disk);

    // A restart alone neither helps nor harms: the node reads, and serves what it receives.
    cluster.crash(3);
    cluster.await_log_stopped(3, "disk full");
    assert_refuses_writes(&cluster);
    before.assert_kept_by(&cluster, 3);

    disk.free();
    cluster.crash(3);
    writes_again(&mut cluster, &before);
}

#[test]
fn a_full_disk_refuses_writes_until_it_is_told_to_resume() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (mut cluster, before) = filled(&disk);

    // Too early: nothing has changed.
    let reply = cluster.ask(3, "RESUME");
    assert!(reply.len() == 1 && reply[0].starts_with("ERROR READONLY "), "{reply:?}");
    cluster.await_log_stopped(3, "disk full");
    assert_refuses_writes(&cluster);

    disk.free();
    cluster.resume_log(3);
    assert_eq!(cluster.status(3).text("log"), "ok");
    writes_again(&mut cluster, &before);
}

/// The audit log has a disk of its own here, and that is full.
#[test]
fn a_full_disk_of_the_audit_log_stops_nothing_and_is_told() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.data_dir.with_file_name("audit.log");
    let mut cluster = Cluster::plan(1).set("audit_file", path.to_str().unwrap()).start();
    let state = |cluster: &Cluster| cluster.status(1).text("audit").to_owned();
    assert_eq!(state(&cluster), "ok");
    // All that there is, which ends in an error.
    fs::write(&disk.ballast, vec![0; DISK_KIB << 10]).unwrap_err();
    // What is left of the last page of the file is filled up first.
    until("the audit log fails", DEADLINE, || {
        cluster.compact(1);
        let state = state(&cluster);
        if state.starts_with("failing: ") { Ok(()) } else { Err(state) }
    });
    cluster.await_log(1, &["the audit log cannot be written"]);
    let dropped = cluster.status(1).number("audit_dropped");
    cluster.compact(1);
    assert_eq!(cluster.ask_line(1, "PUT a 1"), "OK");
    until("events are dropped", DEADLINE, || {
        let now = cluster.status(1).number("audit_dropped");
        if now > dropped { Ok(()) } else { Err(format!("{now}")) }
    });
    disk.free();
    cluster.compact(1);
    cluster.await_log(1, &["the audit log is written again"]);
    assert_eq!(state(&cluster), "ok");
    let dropped = cluster.status(1).number("audit_dropped");
    cluster.stop(1);
    let text = fs::read_to_string(&path).unwrap();
    let told: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["event"] == "dropped")
        .map(|line| line["detail"].as_str().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(told, dropped, "{text}");
}

/// While the disk fills, its node is one of the two that every ack needs. What was acknowledged is
/// on it, and the other node is not asked.
#[test]
fn what_a_filling_disk_has_acknowledged_is_on_it() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut cluster = started(&disk);
    cluster.kill(2);
    cluster.await_sees(1, 2, "down");
    let load = Writers::roaming(&cluster, "filling", &[1, 1, 1]);
    load.await_progress(20);
    disk.leave(FREE_KIB);
    cluster.await_log_stopped(3, "disk full");
    cluster.await_counted(1, 3, "no");
    let outcomes = load.end();
    outcomes.assert_codes_are(&["TIMEOUT", "NOQUORUM"]);
    cluster.kill(1);
    cluster.kill(3);
    disk.free();
    cluster.start(3);
    cluster.await_state(3, "degraded");
    outcomes.assert_kept_by(&cluster, 3);
    cluster.start(1);
    cluster.start(2);
    cluster.await_converged();
    for id in 1..=3 {
        outcomes.assert_kept_by(&cluster, id);
    }
}

/// Three nodes under load until the disk of the third is full. What else is true of such a cluster
/// is checked on the way.
fn filled(disk: &SmallDisk) -> (Cluster, Ledger) {
    let mut cluster = started(disk);
    let load = Writers::roaming(&cluster, "before", &[1, 2, 3]);
    load.await_progress(20);
    disk.leave(FREE_KIB);
    cluster.await_log_stopped(3, "disk full");
    // The other nodes go on, and so do the clients.
    load.await_progress(100);
    let before = load.end();
    before.assert_codes_are(&CODES);
    cluster.await_log(3, &["disk full", "takes no writes"]);
    // No ack waits for it any more. The last acks may still be on their way, and their writes would
    // be counted among the refused.
    cluster.await_converged();
    assert_refuses_writes(&cluster);

    // It receives and serves what the others write.
    await_ok(&cluster, 1, "PUT colour green");
    cluster.await_reply(3, "GET colour", "VALUE green");
    cluster.await_converged();
    before.assert_kept_by(&cluster, 3);
    // It is up, and is not counted.
    for id in 1..=2 {
        cluster.await_counted(id, 3, "no");
    }
    await_ok(&cluster, 1, "PUT colour blue");
    cluster.kill(2);
    cluster.await_sees(1, 2, "down");
    let reply = cluster.ask_line(1, "PUT colour red");
    assert!(reply.starts_with("ERROR NOQUORUM "), "{reply}");
    assert_eq!(cluster.ask_line(1, "GET colour"), "VALUE blue");
    cluster.start_ready(2);
    cluster.await_mesh(&[1, 2, 3]);
    await_ok(&cluster, 2, "PUT colour yellow");
    cluster.await_reply(3, "GET colour", "VALUE yellow");
    (cluster, before)
}

/// A cluster whose third node has this disk.
fn started(disk: &SmallDisk) -> Cluster {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 1_500).build();
    cluster.configure(3, "data_dir", disk.data_dir.to_str().unwrap());
    cluster.start_all();
    cluster.await_converged();
    cluster.await_mesh(&[1, 2, 3]);
    cluster
}

/// The third node takes writes and is counted; what its disk missed is on it.
fn writes_again(cluster: &mut Cluster, before: &Ledger) {
    cluster.await_mesh(&[1, 2, 3]);
    for id in 1..=2 {
        cluster.await_counted(id, 3, "yes");
    }
    cluster.await_converged();
    let load = Writers::roaming(cluster, "after", &[3, 1, 2]);
    load.await_progress(50);
    let after = load.end();
    after.assert_codes_are(&["TIMEOUT"]);
    // Its ack counts again.
    cluster.kill(2);
    cluster.await_sees(1, 2, "down");
    await_ok(cluster, 1, "PUT colour white");
    await_ok(cluster, 3, "PUT colour black");
    // Its disk alone holds all of it.
    cluster.kill(1);
    cluster.kill(3);
    cluster.start(3);
    cluster.await_state(3, "degraded");
    assert_eq!(cluster.ask_line(3, "GET colour"), "VALUE black");
    before.assert_kept_by(cluster, 3);
    after.assert_kept_by(cluster, 3);
    cluster.start(1);
    cluster.start(2);
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "GET colour"), "VALUE black");
        before.assert_kept_by(cluster, id);
        after.assert_kept_by(cluster, id);
    }
}

/// At every level, and before anything is applied. Everything else goes on.
#[track_caller]
fn assert_refuses_writes(cluster: &Cluster) {
    let mut client = cluster.client(3);
    let keys = client.ask_line("COUNT").unwrap();
    for level in ["local", "majority", "all"] {
        assert_eq!(client.ask_line(&format!("ACK {level}")).unwrap(), "OK");
        for command in ["SET refused 1", "PUT refused 1", "UPD refused 1", "DEL refused"] {
            let reply = client.ask_line(command).unwrap();
            assert!(reply.starts_with("ERROR READONLY disk full"), "{command} at {level}: {reply}");
            assert!(reply.contains("RESUME") && reply.contains("nothing was written"), "{command} at {level}: {reply}");
        }
    }
    assert!(client.ask_line("GET refused").unwrap().starts_with("ERROR NOTFOUND "));
    assert_eq!(client.ask_line("COUNT").unwrap(), keys);
}

/// Repeats a write until it is done: on a machine that stutters a node may seem to be down for a
/// moment, and a write be refused.
#[track_caller]
fn await_ok(cluster: &Cluster, id: u16, command: &str) {
    until(&format!("n{id}> {command}"), DEADLINE, || match cluster.ask_line(id, command) {
        reply if reply == "OK" => Ok(()),
        reply => Err(reply),
    });
}

/// A tmpfs that this process alone sees, through a process that holds the mount namespace.
struct SmallDisk {
    holder: Child,
    /// On the disk.
    data_dir: PathBuf,
    ballast: PathBuf,
    _mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, and a line on stderr, if this machine does not allow it.
    fn mount() -> Option<SmallDisk> {
        let mut refusals = Vec::new();
        for namespaces in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
            match SmallDisk::mount_in(namespaces) {
                Ok(disk) => return Some(disk),
                Err(why) => refusals.push(format!("unshare {}: {}", namespaces.join(" "), why.trim().replace('\n', " "))),
            }
        }
        skip(&format!("no file system of its own can be mounted here: {}", refusals.join("; ")));
        None
    }

    fn mount_in(namespaces: &[&str]) -> Result<SmallDisk, String> {
        let mount_point = tempfile::Builder::new().prefix("kvmesh-disk-").tempdir().map_err(|error| error.to_string())?;
        // It ends when its stdin is closed, and so does not outlive this process.
        let script = "mount -t tmpfs -o size=$1 kvmesh-test \"$2\" && echo mounted && exec cat";
        let size = format!("{DISK_KIB}k");
        let mut holder = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", script, "sh", &size])
            .arg(mount_point.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let stdout = holder.stdout.take().ok_or("no stdout")?;
        let read = BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string());
        let inside =
            PathBuf::from(format!("/proc/{}/root", holder.id())).join(mount_point.path().strip_prefix("/").unwrap_or(Path::new("")));
        let ballast = inside.join("ballast");
        let is_reached =
            read.and_then(|_| if line == "mounted\n" { File::create(&ballast).map_err(|error| error.to_string()) } else { Err(line) });
        match is_reached {
            Ok(_) => Ok(SmallDisk { holder, data_dir: inside.join("data"), ballast, _mount_point: mount_point }),
            Err(why) => {
                let _ = holder.kill();
                let output = holder.wait_with_output().map_err(|error| error.to_string())?;
                Err(format!("{why}{}", String::from_utf8_lossy(&output.stderr)))
            }
        }
    }

    /// Fills the disk up to this. Everything else on it is small.
    fn leave(&self, free_kib: usize) {
        fs::write(&self.ballast, vec![0; (DISK_KIB - free_kib) << 10]).unwrap_or_else(|error| panic!("{:?}: {error}", self.ballast));
    }

    fn free(&self) {
        fs::write(&self.ballast, []).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
