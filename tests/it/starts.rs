//! A start on what is on the disk: a torn end is cut off, damage and files of another owner are
//! refused in words and left as they are, and a blank node takes everything from its peers.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::wire::frame::seal;
use serde_json::json;

use crate::backup::kvctl;
use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE};
use crate::kit::backup::backup;

/// Header of a log file: 8 bytes that name it, and the format as a little-endian u32.
const LOG_HEADER_LEN: usize = 12;
/// Head of a record: its length and its checksum.
const RECORD_HEAD_LEN: usize = 8;
const KEYS: usize = 50;

/// Exit codes: the node failed; its configuration is wrong; its data need a person.
const FAILED: i32 = 1;
const CONFIGURATION: i32 = 2;
const DATA: i32 = 3;

#[test]
fn a_torn_end_is_cut_off_and_its_length_named() {
    let mut cluster = one_node();
    let log = only(&cluster.data_path(1), "log-");
    let bytes = fs::read(&log).unwrap();
    let record_len = u32::from_le_bytes(bytes[LOG_HEADER_LEN..][..4].try_into().unwrap()) as usize;
    // What a process leaves that dies within a write, and what a file system may leave that dies
    // with its machine.
    let half_record = bytes[LOG_HEADER_LEN..][..RECORD_HEAD_LEN + record_len / 2].to_vec();
    let half_head = bytes[LOG_HEADER_LEN..][..3].to_vec();
    for (turn, tail) in [half_record, half_head, vec![0xa5; 777], vec![0; 4096]].into_iter().enumerate() {
        cluster.kill(1);
        let len = fs::metadata(&log).unwrap().len();
        OpenOptions::new().append(true).open(&log).unwrap().write_all(&tail).unwrap();
        cluster.start_ready(1);
        cluster.await_log(1, &["log-", &format!("cut off {} bytes", tail.len()), &format!("at byte {len}")]);
        assert_all_there(&cluster, 1);
        // It goes on where it was cut off: the next start finds what is written now.
        assert_eq!(cluster.ask_line(1, &format!("SET key-of-{turn} 1")), "OK");
        (0..=turn).for_each(|turn| assert_eq!(cluster.ask_line(1, &format!("GET key-of-{turn}")), "VALUE 1"));
    }
    cluster.crash(1);
    assert!(!cluster.log_of_this_start(1).contains("cut off"), "{}", cluster.log_of_this_start(1));
    assert_eq!(cluster.ask_line(1, "COUNT"), (KEYS + 4).to_string());
}

#[test]
fn damage_in_front_of_whole_records_stops_the_start_and_changes_nothing() {
    let mut cluster = one_node();
    cluster.kill(1);
    let log = only(&cluster.data_path(1), "log-");
    let good = fs::read(&log).unwrap();
    for index in [LOG_HEADER_LEN + 1, LOG_HEADER_LEN + RECORD_HEAD_LEN + 3, good.len() / 3, good.len() / 2] {
        let offset = refused_with(&mut cluster, &log, &flipped(&good, index, 0x10));
        // The start of the record that cannot be read.
        assert!((LOG_HEADER_LEN..=index).contains(&offset) && index - offset < 400, "flipped {index}, named {offset}");
    }
    // One way out: a good copy.
    fs::write(&log, &good).unwrap();
    start_whole(&mut cluster);
}

#[test]
fn a_damaged_snapshot_stops_the_start() {
    let mut cluster = one_node();
    cluster.compact(1);
    cluster.kill(1);
    let snapshot = only(&cluster.data_path(1), "snapshot-");
    let good = fs::read(&snapshot).unwrap();
    let cut = good[..good.len() * 2 / 3].to_vec();
    for bytes in [cut].into_iter().chain([3, good.len() / 2, good.len() - 5].map(|index| flipped(&good, index, 0x01))) {
        let offset = refused_with(&mut cluster, &snapshot, &bytes);
        assert!(offset <= bytes.len(), "{offset} of {}", bytes.len());
    }
    fs::write(&snapshot, &good).unwrap();
    start_whole(&mut cluster);
}

/// The other way out.
#[test]
fn a_node_that_discards_its_damaged_data_takes_everything_from_its_peers() {
    let mut cluster = Cluster::plan(3).start();
    fill(&cluster, 1);
    cluster.await_converged();
    let digest = cluster.ask_line(1, "DIGEST");
    cluster.kill(3);
    let log = only(&cluster.data_path(3), "log-");
    let good = fs::read(&log).unwrap();
    let bytes = flipped(&good, good.len() / 2, 0x40);
    refused_with(&mut cluster, &log, &bytes);

    cluster.start_with(3, &["--discard-local-data"]);
    cluster.await_ready(3);
    cluster.await_log(3, &["comes back blank", "*.discarded"]);
    cluster.await_healed();
    assert_eq!(cluster.ask_line(3, "DIGEST"), digest);
    // Put aside, not destroyed; and what was taken from the peers is on the disk.
    let aside = only(&cluster.data_path(3), "log-0000000001.discarded");
    assert_eq!(fs::read(aside).unwrap(), bytes);
    cluster.restart(3);
    assert_eq!(cluster.ask_line(3, "DIGEST"), digest);
}

/// Not damage: another program helps. The one that wrote it goes on where it was, since a refused
/// start changes nothing.
#[test]
fn what_another_version_wrote_is_refused_in_words_and_left_to_it() {
    let mut cluster = one_node();
    cluster.compact(1);
    assert_eq!(cluster.ask_line(1, "SET behind-the-snapshot 1"), "OK");
    cluster.kill(1);
    let (log, snapshot) = (only(&cluster.data_path(1), "log-"), only(&cluster.data_path(1), "snapshot-"));
    let later_log = |mut bytes: Vec<u8>| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        bytes
    };
    let later_snapshot = |bytes: Vec<u8>| {
        let header_len = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        [br#"{"dump":"kvmesh","format":3,"entries":"in another form"}"#, &bytes[header_len..]].concat()
    };
    let unknown_record = |mut bytes: Vec<u8>| {
        seal(&mut bytes, 99, |out| out.extend_from_slice(b"of a kind that is not known here"));
        bytes
    };
    for (file, change, words) in [
        (&snapshot, &later_snapshot as &dyn Fn(Vec<u8>) -> Vec<u8>, "it is of format 3, and this build reads format 1 to 2"),
        (&log, &unknown_record, "a record of unknown kind 99"),
        (&log, &later_log, "it is of format 2, and this build reads format 1"),
    ] {
        let good = fs::read(file).unwrap();
        let written = change(good.clone());
        fs::write(file, &written).unwrap();
        // The second start finds what the first has left.
        for _ in 0..2 {
            let reason = refused(&mut cluster, 1, DATA);
            assert!(reason.contains(file.file_name().unwrap().to_str().unwrap()) && reason.contains(words), "{reason}");
            assert!(
                reason.contains("written by another version of kvmesh") && reason.contains("the build that wrote it, or a newer one"),
                "{reason}"
            );
            assert!(!reason.contains("damaged at") && !reason.contains("discard"), "{reason}");
            assert_eq!(fs::read(file).unwrap(), written, "a refused start has changed {file:?}");
        }
        fs::write(file, &good).unwrap();
        start_whole(&mut cluster);
        assert_eq!(cluster.ask_line(1, "GET behind-the-snapshot"), "VALUE 1");
        cluster.kill(1);
    }
}

/// Not damage, either.
#[test]
fn a_directory_of_somebody_else_is_refused_in_words() {
    let mut cluster = one_node();
    cluster.kill(1);
    let log = only(&cluster.data_path(1), "log-");
    let good = fs::read(&log).unwrap();
    refused_as_of_another_node(&mut cluster);
    assert_eq!(fs::read(&log).unwrap(), good, "a refused start has changed the log");
    cluster.configure(1, "cluster", "kvmesh");
    start_whole(&mut cluster);
}

/// Nothing has been written since the snapshot.
#[test]
fn a_compacted_directory_of_somebody_else_is_refused_in_words() {
    let mut cluster = one_node();
    cluster.compact(1);
    cluster.kill(1);
    refused_as_of_another_node(&mut cluster);
    cluster.configure(1, "cluster", "kvmesh");
    start_whole(&mut cluster);
}

/// Data of another node are not to be thrown away.
fn refused_as_of_another_node(cluster: &mut Cluster) {
    for (field, value, words) in
        [("id", json!(7), "node 1, not of node 7"), ("cluster", json!("another"), "cluster \"kvmesh\", not of \"another\"")]
    {
        cluster.configure(1, field, value);
        let reason = refused(cluster, 1, CONFIGURATION);
        assert!(reason.contains(words) && reason.contains("check data_dir") && !reason.contains("--discard-local-data"), "{reason}");
        cluster.configure(1, "id", 1);
    }
}

/// Neither a new directory nor one that can be read to its end.
#[test]
fn a_directory_in_which_files_are_missing_stops_the_start() {
    let mut cluster = one_node();
    cluster.compact(1);
    cluster.kill(1);
    let dir = cluster.data_path(1);
    let (log, snapshot) = (only(&dir, "log-"), only(&dir, "snapshot-"));
    for (missing, there) in [(&snapshot, &log), (&log, &snapshot)] {
        let aside = dir.join("aside");
        fs::rename(missing, &aside).unwrap();
        let reason = refused(&mut cluster, 1, DATA);
        assert!(reason.contains(missing.to_str().unwrap()) && reason.contains("missing"), "{reason}");
        assert!(reason.contains("--discard-local-data"), "{reason}");
        assert!(there.exists(), "a refused start has removed {there:?}");
        fs::rename(&aside, missing).unwrap();
    }
    // A log that is invalid without its snapshot is no sign of a new directory.
    let (kept_log, kept_snapshot) = (fs::read(&log).unwrap(), fs::read(&snapshot).unwrap());
    fs::remove_file(&snapshot).unwrap();
    let resuming = dir.join("log-0000000002.resuming");
    fs::rename(&log, &resuming).unwrap();
    let reason = refused(&mut cluster, 1, DATA);
    assert!(reason.contains(snapshot.to_str().unwrap()) && reason.contains("missing"), "{reason}");
    assert!(resuming.exists(), "a refused start has removed it");
    fs::remove_file(&resuming).unwrap();
    fs::write(&log, kept_log).unwrap();
    fs::write(&snapshot, kept_snapshot).unwrap();
    start_whole(&mut cluster);
}

/// Whatever is in the way: the error names the file and what to do.
#[test]
fn a_start_that_fails_names_the_file_and_what_helps() {
    let mut cluster = Cluster::plan(1).build();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let link = dir.path().join("link");
    symlink(dir.path().join("nowhere"), &link).unwrap();
    for (data_dir, words) in [(file.join("data"), "no directory"), (file.clone(), "no directory"), (link, "no directory")] {
        cluster.configure(1, "data_dir", data_dir.to_str().unwrap());
        let reason = refused(&mut cluster, 1, FAILED);
        assert!(reason.contains(data_dir.to_str().unwrap()) && reason.contains(words), "{data_dir:?}: {reason}");
        assert!(reason.contains("data_dir in the configuration"), "{reason}");
    }

    let data = dir.path().join("data");
    cluster.configure(1, "data_dir", data.to_str().unwrap());
    cluster.start_ready(1);
    cluster.stop(1);
    for name in ["lock", "log-0000000001"] {
        let path = data.join(name);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let reason = refused(&mut cluster, 1, FAILED);
        assert!(reason.contains(path.to_str().unwrap()) && reason.contains("os error"), "{name}: {reason}");
        fs::remove_dir(&path).unwrap();
    }
    cluster.start_ready(1);
    cluster.stop(1);

    let log = data.join("log-0000000001");
    for path in [&log, &data] {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, Permissions::from_mode(0o0)).unwrap();
        // No permission keeps the superuser out.
        if fs::read_dir(&data).is_err() || File::open(&log).is_err() {
            let reason = refused(&mut cluster, 1, FAILED);
            assert!(reason.contains(path.to_str().unwrap()) && reason.contains("Permission denied") && reason.contains("user"), "{reason}");
        }
        fs::set_permissions(path, before).unwrap();
    }
}

#[test]
fn a_start_says_where_the_data_are() {
    let cluster = Cluster::plan(1).start();
    // The path in the configuration is relative to where the node is started.
    let path = fs::canonicalize(cluster.data_path(1)).unwrap();
    cluster.await_log(1, &["node 1", "data in", path.to_str().unwrap()]);
}

/// An operator who has lost the directory, or mounted another one, is to be warned; one who starts
/// a mesh is not.
#[test]
fn a_blank_start_that_nobody_expects_is_a_warning() {
    let mut cluster = Cluster::plan(2).start();
    fill(&cluster, 1);
    cluster.await_converged();
    cluster.restart(1);
    cluster.await_mesh(&[1, 2]);
    for id in 1..=2 {
        assert!(!cluster.log_of_this_start(id).contains("blank"), "{}", cluster.log_of_this_start(id));
    }
    cluster.kill(1);
    cluster.wipe(1);
    cluster.start(1);
    cluster.await_log(1, &["WARN", "starts blank", "node 2", "earlier", cluster.data_path(1).to_str().unwrap()]);
    cluster.await_ready(1);
    assert_all_there(&cluster, 1);

    // The lock file shows that the node has been here before, without any peer.
    cluster.kill(2);
    cluster.kill(1);
    fs::remove_file(only(&cluster.data_path(1), "log-")).unwrap();
    cluster.start(1);
    cluster.await_log(1, &["WARN", "starts blank", "lock", cluster.data_path(1).to_str().unwrap()]);
}

#[test]
fn what_is_kept_on_disk_is_for_its_owner_alone() {
    let mut cluster = Cluster::plan(2).build();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // A directory that an operator has made is left as it is.
    let made = cluster.data_path(2);
    fs::create_dir_all(&made).unwrap();
    fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
    cluster.start(1);
    cluster.start(2);
    cluster.await_converged();
    fill(&cluster, 1);
    cluster.compact(1);
    assert_eq!(mode(&cluster.data_path(1)), 0o700);
    assert_eq!(mode(&made), 0o755);
    for file in [1, 2].iter().flat_map(|id| fs::read_dir(cluster.data_path(*id)).unwrap()) {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    cluster.await_log(2, &["WARN", made.to_str().unwrap(), "0755", "chmod 700"]);
    assert!(!cluster.log_of_this_start(1).contains("chmod"), "{}", cluster.log_of_this_start(1));
}

#[test]
fn a_node_that_reads_a_large_disk_says_how_far_it_is() {
    let mut cluster = Cluster::plan(1).set("fsync", "never").start();
    let padding = "x".repeat(150);
    cluster.client(1).pipeline((0..300_000).map(|key| format!("PUT fill/{key} {padding}")));
    cluster.stop(1);
    cluster.start(1);
    let started = Instant::now();
    let mut replies = Vec::new();
    let mut asking = None;
    // Without a pause: it may be a matter of a second.
    while !replies.iter().any(|reply: &String| !reply.starts_with("ERROR LOADING ")) {
        assert!(started.elapsed() < 2 * DEADLINE, "n1 does not open: {:?}", replies.last());
        if asking.is_none() {
            cluster.revive(1);
            asking = Client::connect(cluster.client_addr(1)).ok();
        }
        if let Some(reply) = asking.as_mut().and_then(|client| client.ask_line("GET fill/0").ok()) {
            replies.push(reply);
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(replies.pop(), Some(format!("VALUE {padding}")));
    let mut sentences: Vec<&String> = replies.iter().filter(|reply| reply.contains("reading its disk")).collect();
    sentences.dedup();
    assert!(sentences.iter().any(|reply| reply.contains(" MiB so far")), "{replies:?}");
    assert_eq!(cluster.ask_line(1, "COUNT"), "300000");
}

/// A store from a clock that was an hour ahead: whatever this node writes is newer still, in this
/// incarnation and in the next.
#[test]
fn the_clock_starts_above_every_stamp_on_the_disk() {
    let mut cluster = Cluster::plan(1).start();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
    // A stamp's upper 48 bits are milliseconds.
    let ahead = (wall.as_millis() as u64) << 16;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.jsonl");
    fs::write(&path, backup_of("ahead", ahead)).unwrap();
    // A blank node takes it: it cannot know whose clock is right.
    let restored = kvctl(&cluster, 1, &["restore", path.to_str().unwrap()], None);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let mut greatest = ahead;
    for turn in 0..3 {
        cluster.crash(1);
        // With a lower stamp, the write would be OK and the older value stay.
        assert_eq!(cluster.ask_line(1, &format!("PUT ahead {turn}")), "OK");
        assert_eq!(cluster.ask_line(1, "GET ahead"), format!("VALUE {turn}"));
        let stamp = stamp_of(&cluster, "ahead");
        assert!(stamp > greatest, "{stamp} in start {turn}, {greatest} before");
        greatest = stamp;
        if turn == 1 {
            cluster.compact(1);
        }
    }
    assert!(cluster.status(1).number("clock_ahead_ms") > 3_000_000, "{:?}", cluster.status(1).lines);
}

fn one_node() -> Cluster {
    let cluster = Cluster::plan(1).start();
    fill(&cluster, 1);
    cluster
}

fn fill(cluster: &Cluster, id: u16) {
    let mut client = cluster.client(id);
    // One by one, so that each is a record of its own.
    (0..KEYS).for_each(|key| assert_eq!(client.ask_line(&format!("PUT key-{key} value-{key}")).unwrap(), "OK"));
}

#[track_caller]
fn assert_all_there(cluster: &Cluster, id: u16) {
    let mut client = cluster.client(id);
    (0..KEYS).for_each(|key| assert_eq!(client.ask_line(&format!("GET key-{key}")).unwrap(), format!("VALUE value-{key}")));
}

/// Starts a node that refuses to start, with this exit code. Returns the reason that it gives.
#[track_caller]
fn refused(cluster: &mut Cluster, id: u16, code: i32) -> String {
    cluster.start(id);
    cluster.await_refused(id, code)
}

/// A start stops at damage in this file. Returns the offset that it names, and checks that both
/// ways out are offered.
#[track_caller]
fn refused_at(cluster: &mut Cluster, file: &Path) -> usize {
    let id = cluster.ids().into_iter().find(|id| file.starts_with(cluster.data_path(*id))).unwrap();
    let reason = refused(cluster, id, DATA);
    let (name, rest) = reason.split_once(" is damaged at byte ").unwrap_or_else(|| panic!("{reason}"));
    assert!(file.ends_with(name), "{file:?}: {reason}");
    assert!(reason.contains("Two ways out: put a good copy of the directory back, or start once with --discard-local-data"), "{reason}");
    rest.split(' ').next().and_then(|offset| offset.parse().ok()).unwrap_or_else(|| panic!("{reason}"))
}

/// A start stops at these contents of a file, and does not change them. Returns the offset named.
#[track_caller]
fn refused_with(cluster: &mut Cluster, file: &Path, bytes: &[u8]) -> usize {
    fs::write(file, bytes).unwrap();
    let offset = refused_at(cluster, file);
    assert!(fs::read(file).unwrap() == bytes, "a refused start has changed {file:?}");
    offset
}

fn flipped(bytes: &[u8], index: usize, bits: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[index] ^= bits;
    bytes
}

#[track_caller]
fn start_whole(cluster: &mut Cluster) {
    cluster.start_ready(1);
    assert_all_there(cluster, 1);
}

/// The one file whose name begins with this.
fn only(dir: &Path, start: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The stamp of a key, as `DUMP` prints it.
fn stamp_of(cluster: &Cluster, key: &str) -> u64 {
    let lines = cluster.ask(1, "DUMP");
    let line = lines.iter().find(|line| line.contains(&format!("{{\"k\":\"{key}\""))).unwrap_or_else(|| panic!("{key}: {lines:?}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["s"].as_str().unwrap().parse().unwrap()
}

/// A backup with one entry of another node, with this stamp.
fn backup_of(key: &str, stamp: u64) -> Vec<u8> {
    let version = Version { stamp: Stamp::from_bits(stamp), origin: Origin { node: NodeId(2), nonce: 2 } };
    backup(VersionVector::default(), vec![Entry::new(key.as_bytes(), Some(b"old"), None, version)])
}
