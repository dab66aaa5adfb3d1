//! The write-ahead log on a disk that dies, loses power, fills up and is damaged. What runs is the
//! shipped code; [`SimulatedDisk`] and the clock alone are replaced, and the writer is stepped by
//! hand.

mod damage;
mod failures;
mod resumes;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::data::fsync::Fsync;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::store::Store;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::wal::disk::Disk;
use crate::wal::files::{Files, resuming_log_name};
use crate::wal::log::{self, FoundLog};
use crate::wal::snapshot::{self, LoadedSnapshot, SnapshotWriter};
use crate::wal::writer::Writer;
use crate::wal::{QueuedRecords, Wal};
use crate::wire::dump::{DumpKind, Header, whole_dump};
use crate::wire::frame::{HEAD_LEN, seal};

const ORIGIN: Origin = Origin { node: NodeId(1), nonce: 7 };

/// Reads a snapshot into a store.
fn load_into(store: &Store, disk: &Arc<dyn Disk>, generation: u64) -> io::Result<LoadedSnapshot> {
    let take = |entry| {
        store.merge(entry, |_| false);
    };
    snapshot::load(disk, generation, |_| (), take, |_, _| Ok(()))
}

/// The lines of a full dump of a store.
fn dump_of(store: &Store, vector: VersionVector) -> Vec<u8> {
    let entries = (0..store.shards_len()).flat_map(|shard| store.scan_shard(shard, |_| true));
    whole_dump(&Header::new(DumpKind::Full, ORIGIN, vector, 0, None), entries, VersionVector::default())
}

/// The record of a number, as every incarnation makes it: sizes and kinds differ.
fn record(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let filling = (number * number * 37 % 300) as usize;
    seal(&mut bytes, (number % 5) as u8, |out| {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend((0..filling).map(|place| (number as usize * 31 + place) as u8));
    });
    bytes
}

fn entry(number: u64) -> Entry {
    let value = (!number.is_multiple_of(4)).then(|| format!("value {number}").into_bytes());
    Entry::new(number.to_string().as_bytes(), value.as_deref(), None, Version { stamp: Stamp::from_bits(number), origin: ORIGIN })
}

/// The claims that the world outside has heard: numbers are handed over one after another, across
/// all incarnations.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    handed_over: u64,
    /// The writer had its turn with them.
    stepped: u64,
    reached: u64,
}

/// One incarnation of a process, which begins as node.rs begins it. Numbered records stand for
/// everything that a node merges and logs.
struct Incarnation {
    disk: SimulatedDisk,
    wal: Arc<Wal>,
    writer: Writer,
    store: Store,
    /// The greatest number that is merged: what the vector would say.
    last: u64,
    now: Instant,
}

impl Incarnation {
    /// Reads the disk and goes on with it. Panics if that holds anything but records 1, 2, 3 and so
    /// on.
    fn start(disk: &SimulatedDisk, fsync: Fsync) -> io::Result<Incarnation> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let files = Files::find(&*shared)?;
        let wal = Arc::new(Wal::new(Arc::clone(&shared), fsync, 1 << 20, &files));
        let store = Store::new();
        let (mut last, mut snapshot_len, mut older_len, mut found) = (0, 0, 0, FoundLog::default());
        if let Some(generation) = files.snapshot {
            let loaded = load_into(&store, &shared, generation)?;
            last = loaded.header.vector.get(ORIGIN).to_bits();
            snapshot_len = loaded.len;
            for number in 1..=last {
                assert_eq!(store.entry(number.to_string().as_bytes()), Some(entry(number)), "snapshot {generation} claims {last}");
            }
        }
        for generation in &files.logs {
            assert_eq!(found.torn, 0, "a torn log with another behind it: {files:?}");
            older_len += found.len;
            found = log::read(&shared, &files.log_name(*generation), |body, _| {
                last += 1;
                assert_eq!(body, &record(last)[HEAD_LEN..], "log {generation}, where record {last} should be");
                store.merge(entry(last), |_| false);
                Ok(())
            })?;
        }
        let writer = Writer::open(Arc::clone(&wal), &files, older_len, &found, snapshot_len, Instant::now())?;
        Ok(Incarnation { disk: disk.clone(), wal, writer, store, last, now: Instant::now() })
    }

    /// Merges and hands over so many records.
    fn append(&mut self, count: u64, promised: &mut Promised) {
        for _ in 0..count {
            self.last += 1;
            self.store.merge(entry(self.last), |_| false);
            let reached = Some((ORIGIN, Stamp::from_bits(self.last)));
            self.wal.append(QueuedRecords { bytes: Arc::new(record(self.last)), reached, permit: None });
        }
        promised.handed_over = promised.handed_over.max(self.last);
    }

    /// A turn of the writer; whether there can be more. An error if the process has died in it.
    fn step(&mut self, promised: &mut Promised) -> io::Result<bool> {
        let now = self.now;
        let more = self.writer.step(Duration::ZERO, || now, &mut |origin, stamp| {
            assert_eq!(origin, ORIGIN);
            promised.reached = promised.reached.max(stamp.to_bits());
        });
        self.alive()?;
        promised.stepped = promised.stepped.max(self.last);
        Ok(more)
    }

    fn alive(&self) -> io::Result<()> {
        if self.disk.is_dead() { Err(io::Error::other("the process is dead")) } else { Ok(()) }
    }

    /// Writes a snapshot, to compact or to resume after a full disk, as replication does it, while
    /// records go on coming.
    fn write_snapshot(&mut self, is_resuming: bool, promised: &mut Promised) -> io::Result<()> {
        // In the queue before the switch, and not written yet.
        self.append(1, promised);
        let generation = self.wal.switch(is_resuming);
        let vector: VersionVector = [(ORIGIN, Stamp::from_bits(self.last))].into_iter().collect();
        self.append(1, promised);
        self.step(promised)?;
        self.wal.await_switch(generation, Instant::now()).map_err(|why| io::Error::other(format!("{why:?}")))?;
        let shared = Arc::clone(self.wal.disk());
        let lines = dump_of(&self.store, vector);
        // In two steps, between which another record comes.
        let (first, second) = lines.split_at(lines.len() / 2);
        let mut writer = SnapshotWriter::create(&*shared, generation)?;
        writer.append(first)?;
        self.append(1, promised);
        self.step(promised)?;
        writer.append(second)?;
        let len = writer.finish(is_resuming.then(|| resuming_log_name(generation)))?;
        self.alive()?;
        self.wal.snapshot_written(generation, len, Duration::ZERO);
        self.step(promised).map(|_| ())
    }

    fn stop(mut self, promised: &mut Promised) -> io::Result<()> {
        self.wal.close();
        while self.step(promised)? {}
        Ok(())
    }
}

/// Checks what a start finds, and that it can go on from there.
fn check_start(disk: &SimulatedDisk, at_least: u64, promised: &Promised, fsync: Fsync, what: &str) {
    let mut process = Incarnation::start(disk, fsync).unwrap_or_else(|error| panic!("{what}: the start is refused: {error}"));
    let found = process.last;
    assert!(found >= at_least, "{what}: {found} records are left, and {at_least} were promised: {promised:?}");
    assert!(found <= promised.handed_over, "{what}: {found} records are there, and never were more than {}", promised.handed_over);
    let mut again = Promised::default();
    process.append(2, &mut again);
    process.step(&mut again).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(again.reached, found + 2, "{what}: the next process does not report");
    process.stop(&mut again).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(Incarnation::start(disk, fsync).unwrap_or_else(|error| panic!("{what}: {error}")).last, found + 2, "{what}");
}
