//! Replay of damaged disks: logs that are cut and damaged, and records of which only a part was
//! durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::inbound::Inbound;
use crate::replication::links::handshake;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::persistence::snapshots::{self, NotCompacted};
use crate::replication::replica::Replica;
use crate::replication::status;
use crate::store::Store;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::testing::simulated_node::{SimulatedNode, config, submit};
use crate::wal::disk::Disk;
use crate::wal::files::{SNAPSHOT_TMP, log_name};
use crate::wire::dump::{self, DumpKind, Header, whole_dump};
use crate::wire::frame::seal;
use crate::wire::peer::{BatchWrites, DumpRequest, Hello, Message, Protocol, Protocols, WriteBatch};

const NOW: Now = Now { wall_ms: 1_700_000_000_000, elapsed: Duration::ZERO };
/// The origin of the writes that this node has from elsewhere.
const OTHER: Origin = Origin { node: NodeId(2), nonce: 9 };

fn start(disk: &SimulatedDisk, nonce: u64) -> std::io::Result<SimulatedNode> {
    let config = Arc::new(config(1, 2, &json!({})));
    SimulatedNode::start(config, Store::new(), nonce, Protocols::OURS, (NOW, Instant::now()), disk)
}

impl SimulatedNode {
    fn write(&mut self, key: &str, value: Option<&str>) -> Version {
        let stamp = submit(&self.replica, key, value.map(str::as_bytes), Duration::ZERO);
        self.replicate();
        Version { stamp, origin: self.replica.origin() }
    }

    /// Connects a peer, whose vector covers more than this node's. Returns its connection, and the
    /// request that it is sent.
    fn meet(&self, vector: VersionVector) -> (Inbound, DumpRequest) {
        let replica = &self.replica;
        let hello = Hello { node: OTHER.node, origin: OTHER, vector, ..handshake::hello(replica, NOW) };
        handshake::dialing(replica, 0);
        handshake::dialed(replica, 0, &hello, NOW);
        let inbound = Inbound::accept(replica, 0, &hello, Protocol::OLDEST, NOW);
        let request = replica.links().outbox(0).take().and_then(|batch| batch.request);
        (inbound, request.expect("a request for what is missing"))
    }

    fn compact(&mut self, resume: bool) -> Result<(), NotCompacted> {
        let replica = Arc::clone(&self.replica);
        let mut snapshot = if resume { snapshots::begin_resume(&replica)? } else { snapshots::begin_compaction(&replica)? };
        self.log();
        snapshot.await_log(Instant::now())?;
        let written = loop {
            match snapshot.step() {
                Ok(None) => {}
                Ok(Some(len)) => break Ok(len),
                Err(error) => break Err(error),
            }
        };
        snapshot.end(written)?;
        self.log();
        Ok(())
    }
}

fn entry(key: &str, value: Option<&str>, stamp: u64) -> Entry {
    let stamp = Stamp::from_bits(Stamp::from_wall_ms(NOW.wall_ms).to_bits() - 1_000 + stamp);
    Entry::new(key.as_bytes(), value.map(str::as_bytes), None, Version { stamp, origin: OTHER })
}

fn entries(replica: &Replica) -> BTreeMap<Vec<u8>, Entry> {
    let store = replica.store();
    let all = (0..store.shards_len()).flat_map(|shard| store.scan_shard(shard, |_| true));
    all.map(|entry| (entry.key().to_vec(), entry)).collect()
}

/// Entries and vector that a node has from its disk.
type Known = (BTreeMap<Vec<u8>, Entry>, VersionVector);

/// A log of every kind of record. Returned with it, by the end of each record: what a node knows
/// that has read so many bytes.
fn log_of_every_kind() -> (SimulatedDisk, String, BTreeMap<usize, Known>) {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    node.log();
    let name = log_name(1);
    let (old, new) = (entry("dumped", Some("by a peer"), 1), entry("healed", Some("better than none"), 2));
    node.write("own", Some("first"));
    node.log();
    node.write("gone", Some("soon"));
    node.log();
    let mut lines = Vec::new();
    dump::write_entry(&mut lines, &old);
    dump::write_entry(&mut lines, &entry("dropped", None, 3));
    node.replica.persistence.record(Arc::new(record::lines(&lines)), None);
    node.log();
    node.replica.persistence.record(Arc::new(record::healed(&[new])), None);
    node.log();
    let vector: VersionVector = [(OTHER, old.version().stamp)].into_iter().collect();
    node.replica.persistence.record(Arc::new(record::proven(&Proven { vector, horizon: VersionVector::default() })), None);
    node.log();
    node.replica.persistence.record(Arc::new(record::removed(&[entry("dropped", None, 3)])), None);
    node.log();
    node.write("own", None);
    node.log();
    drop(node);
    let len = disk.bytes(&name).len();
    let mut known: BTreeMap<usize, Known> = BTreeMap::new();
    for end in 0..=len {
        let cut = disk.copy();
        cut.change(&name, |bytes| bytes.truncate(end));
        let shared: Arc<dyn Disk> = Arc::new(cut.clone());
        if crate::wal::log::read(&shared, &name, |_, _| Ok(())).unwrap().torn == 0 {
            let node = start(&cut, 2).unwrap();
            known.insert(end, (entries(&node.replica), node.replica.vector()));
        }
    }
    assert_eq!(known.len(), 1 + 1 + 8, "an empty file, a header, and eight records behind it");
    (disk, name, known)
}

#[test]
fn a_node_whose_log_is_cut_or_damaged_anywhere_starts_with_what_was_whole_or_says_why_not() {
    let (disk, name, known) = log_of_every_kind();
    let ends: Vec<usize> = known.keys().copied().collect();
    let len = disk.bytes(&name).len();
    let (third_last, last) = (ends[ends.len() - 4], ends[ends.len() - 2]);
    for cut in third_last..=len {
        let torn = disk.copy();
        torn.change(&name, |bytes| bytes.truncate(cut));
        let node = start(&torn, 2).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let whole = ends.iter().rfind(|end| **end <= cut).unwrap();
        assert_eq!((entries(&node.replica), node.replica.vector()), known[whole], "cut at {cut}");
    }
    for position in third_last..len {
        for bit in 0..8 {
            let damaged = disk.copy();
            damaged.change(&name, |bytes| bytes[position] ^= 1 << bit);
            match start(&damaged, 2) {
                Ok(node) => {
                    assert!(position >= last, "bit {bit} of byte {position} is passed over");
                    assert_eq!((entries(&node.replica), node.replica.vector()), known[&last], "bit {bit} of byte {position}");
                }
                Err(error) => {
                    let sentence = error.to_string();
                    assert!(
                        position < last && sentence.contains(&name) && sentence.contains("at byte "),
                        "bit {bit} of byte {position}: {sentence}"
                    );
                    assert!(sentence.contains("put a good copy") && sentence.contains("--discard-local-data"), "{sentence}");
                }
            }
        }
    }
}

/// Its checksum is right: that is no damage, and nothing to throw away.
#[test]
fn a_record_of_another_version_is_refused_as_such() {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    node.write("own", Some("a value"));
    node.log();
    drop(node);
    disk.change(&log_name(1), |bytes| seal(bytes, 99, |out| out.extend_from_slice(b"of a later format")));
    let refused = start(&disk, 2).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
    let sentence = refused.to_string();
    assert!(
        sentence.contains("a record of unknown kind 99. Nothing is damaged") && sentence.contains("another version of kvmesh"),
        "{sentence}"
    );
    assert!(!sentence.contains("discard"), "{sentence}");
}

/// The removal of a collected tombstone is durable, and the GC horizon is not: a peer that comes
/// back with the key would be given a delta, and keep it.
#[test]
fn a_tombstone_is_never_gone_without_a_horizon_that_says_so() {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    let tombstone = Entry::new(b"k", None, None, node.write("k", None));
    node.log();
    let durable = disk.bytes(&log_name(1)).len();
    node.replica.store().remove_version(b"k", tombstone.version());
    let horizon: VersionVector = [(tombstone.version().origin, tombstone.version().stamp)].into_iter().collect();
    node.replica.persistence.record_removed(std::slice::from_ref(&tombstone), &horizon);
    node.log();
    drop(node);
    let len = disk.bytes(&log_name(1)).len();
    for cut in durable..=len {
        let torn = disk.copy();
        torn.change(&log_name(1), |bytes| bytes.truncate(cut));
        let node = start(&torn, 2).unwrap();
        let is_there = entries(&node.replica).contains_key(&b"k"[..]);
        let is_said = node.replica.peers.table().horizon.covers(tombstone.version());
        assert!(is_there || is_said, "cut at {cut} of {durable} to {len}");
        assert!(cut < len || !is_there);
    }
}

/// The batches of a pending range are in the log before the snapshot, which claims none of them.
/// The dump's end line, which joins the range, is in the log behind it. Found by the simulator.
#[test]
fn a_range_that_was_joined_after_a_snapshot_is_joined_after_a_restart() {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    let written: Vec<Entry> = (1..=4).map(|n| entry(&format!("key{n}"), Some("a value"), n)).collect();
    let stamps: Vec<Stamp> = written.iter().map(|entry| entry.version().stamp).collect();
    let at = |n: usize| -> VersionVector { [(OTHER, stamps[n - 1])].into_iter().collect() };
    let (mut inbound, request) = node.meet(at(1));
    // The second batch extends the pending range, the third comes when the gap is closed.
    let batch = |from: usize| WriteBatch {
        origin: OTHER,
        after: stamps[from - 1],
        upto: stamps[from],
        writes: BatchWrites::of(OTHER, &written[from..=from]),
    };
    inbound.receive(&node.replica, Message::Writes(batch(1)), NOW).unwrap();
    node.log();
    node.compact(false).unwrap();
    let header = Header::new(DumpKind::Delta, OTHER, at(1), 1, Some(request.id));
    let lines = whole_dump(&header, [written[0].clone()], VersionVector::default());
    inbound.receive(&node.replica, Message::Lines(lines), NOW).unwrap();
    inbound.receive(&node.replica, Message::Writes(batch(2)), NOW).unwrap();
    assert_eq!(node.log().last(), Some(&(OTHER, stamps[2])));
    let known = (entries(&node.replica), node.replica.vector());
    assert_eq!(known.1.get(OTHER), stamps[2]);
    disk.lose_power(|_| 0);
    let node = start(&disk, 2).unwrap();
    assert_eq!((entries(&node.replica), node.replica.vector()), known);
}

/// A write is stamped. Before its batch is in the log a dump has carried it to a peer, and a dump
/// of that peer claims to cover it. After a restart the node held what the write had replaced.
/// Found by the torture run (seed 603, five nodes).
#[test]
fn a_write_that_a_peer_proves_before_its_batch_is_logged_survives_a_restart() {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    node.write("key", Some("older"));
    let theirs = entry("theirs", Some("a value"), 1);
    let (mut inbound, request) = node.meet([(OTHER, theirs.version().stamp)].into_iter().collect());
    let stamp = submit(&node.replica, "key", Some(b"newer"), Duration::ZERO);
    let vector: VersionVector = [(OTHER, theirs.version().stamp), (node.replica.origin(), stamp)].into_iter().collect();
    let header = Header::new(DumpKind::Delta, OTHER, vector, 1, Some(request.id));
    let lines = whole_dump(&header, [theirs], VersionVector::default());
    inbound.receive(&node.replica, Message::Lines(lines), NOW).unwrap();
    node.replicate();
    node.log();
    let known = (entries(&node.replica), node.replica.vector());
    disk.lose_power(|_| 0);
    let node = start(&disk, 2).unwrap();
    assert_eq!((entries(&node.replica), node.replica.vector()), known);
}

#[test]
fn a_snapshot_that_finds_no_space_gives_back_what_it_took_and_the_log_goes_on() {
    let disk = SimulatedDisk::default();
    let mut node = start(&disk, 1).unwrap();
    for n in 0..20 {
        node.write(&format!("key{n}"), Some("a value of some length"));
    }
    node.log();
    disk.set_capacity(Some(disk.used() + 600));
    let failed = node.compact(false).expect_err("no space");
    assert!(matches!(failed, NotCompacted::Failed(_)), "{failed:?}");
    assert!(!disk.names().unwrap().contains(&SNAPSHOT_TMP.to_owned()), "{:?}", disk.names());
    let version = node.write("later", Some("there is space for this"));
    assert_eq!(node.log().last(), Some(&(version.origin, version.stamp)));
    assert!(status::writable(&node.replica).is_ok());
    disk.lose_power(|_| 0);
    assert_eq!(entries(&start(&disk, 2).unwrap().replica).len(), 21);
}

/// A disk was so slow that the new log came after the wait for it had ended. It counts for nothing,
/// and nothing is acknowledged, until there is a snapshot in front.
#[test]
fn a_resumption_that_was_given_up_is_begun_anew() {
    let given_up = || {
        let disk = SimulatedDisk::default();
        let mut node = start(&disk, 1).unwrap();
        node.write("before", Some("1"));
        node.log();
        disk.set_capacity(Some(disk.used()));
        node.write("meanwhile", Some("2"));
        node.log();
        assert!(status::writable(&node.replica).is_err());
        disk.set_capacity(None);
        drop(snapshots::begin_resume(&node.replica).expect("a snapshot that begins"));
        node.log();
        node.write("behind", Some("3"));
        assert_eq!(node.log(), [], "acknowledged by a log without its snapshot");
        (disk, node)
    };
    for resume in [false, true] {
        // Whatever is asked for now: at each of its operations the disk is one that a node starts
        // from.
        for at in 0.. {
            let (disk, mut node) = given_up();
            disk.die_at(disk.operations() + at);
            let done = node.compact(resume);
            if !disk.is_dead() {
                done.expect("a disk without a fault");
                disk.restart_process();
                node.write("after", Some("4"));
                node.log();
                disk.lose_power(|_| 0);
                assert_eq!(entries(&start(&disk, 2).unwrap().replica).len(), 4);
                break;
            }
            disk.restart_process();
            let left = entries(&start(&disk, 2).unwrap_or_else(|error| panic!("operation {at}: {error}")).replica);
            assert!(left.contains_key(&b"before"[..]), "operation {at}: {left:?}");
        }
    }
}
