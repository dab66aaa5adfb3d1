//! Replay: reads what the disk holds into an empty store and an empty vector.
//!
//! The rules are those of the live side: entries enter by merge, unless covered, and the vector
//! advances as [`Progress`] says (**I5**). Pending ranges are kept by origin, not by connection:
//! what a batch says of its origin's writes stays true.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;

use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::data::key_order::Order;
use crate::data::progress::Progress;
use crate::data::version::{Origin, VersionVector};
use crate::replication::persistence::record::{Incarnation, Record};
use crate::replication::replica::Replica;
use crate::store::Store;
use crate::testing::broken_rules::BrokenRule;
use crate::wal::disk::Disk;
use crate::wal::files::{Files, snapshot_name};
use crate::wal::log::{FoundLog, read};
use crate::wal::snapshot;
use crate::wire::dump::Header;

/// Ways out of damage, for an operator. Appended to what is damaged, and where.
const WAYS_OUT: &str = "put a good copy of the directory back, or start once with --discard-local-data: then this node comes back blank and takes everything from its \
                        peers, and what only it had is lost";

/// Adds the ways out to an error that reports damage; returns any other error as it is.
pub fn with_ways_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => io::Error::new(error.kind(), format!("{error}. Two ways out: {WAYS_OUT}")),
        _ => error,
    }
}

/// Bytes of records that are handed over at a time. Each hand-over may cost both threads a turn of
/// the scheduler, which is long on a machine that is busy.
const BATCH_LEN: usize = 256 << 10;

/// Batches that were read and are not merged yet. Beyond this, reading waits.
const BATCHES_AHEAD: usize = 4;

/// A summary of what was found on the disk.
#[derive(Debug, Default)]
pub struct Replayed {
    pub snapshot_len: u64,
    pub entries: u64,
    /// Bytes of the logs before the last one.
    pub older_len: u64,
    pub last: FoundLog,
}

/// The state that a replay builds up.
struct Replay<'a> {
    store: &'a Store,
    progress: Progress,
    horizon: VersionVector,
    /// The greatest stamp of any entry.
    greatest: Stamp,
    order: Option<Order>,
}

/// Reads the disk into this replica, which is new: store, vector, GC horizon, clock. `should_stop`
/// is asked now and then; stopping is `Interrupted`. Damage is `InvalidData` with the file, the
/// position, and the ways out. An error that only a look at the configuration or at another program
/// helps has another kind.
pub fn replay(replica: &Replica, disk: &Arc<dyn Disk>, files: &Files, should_stop: impl Fn() -> bool) -> io::Result<Replayed> {
    let mut lens = Vec::new();
    for generation in &files.logs {
        lens.push(disk.read(&files.log_name(*generation))?.1);
    }
    let snapshot_len = files.snapshot.map_or(Ok(0), |generation| disk.read(&snapshot_name(generation)).map(|(_, len)| len))?;
    let total = lens.iter().sum::<u64>() + snapshot_len;
    let progress = |read: u64| {
        replica.persistence.note_replay(Some((read, total)));
        if should_stop() { Err(io::Error::from(io::ErrorKind::Interrupted)) } else { Ok(()) }
    };
    let replayed = replay_files(replica, disk, files, progress).map_err(with_ways_out);
    replica.persistence.note_replay(None);
    replayed
}

fn replay_files(replica: &Replica, disk: &Arc<dyn Disk>, files: &Files, progress: impl Fn(u64) -> io::Result<()>) -> io::Result<Replayed> {
    let mut replay = Replay {
        store: &replica.store,
        progress: Progress::default(),
        horizon: VersionVector::default(),
        greatest: Stamp::ZERO,
        order: None,
    };
    let mut replayed = Replayed::default();
    if let Some(generation) = files.snapshot {
        // Before the first entry there is nothing to move.
        let begin = |header: &Header| {
            if let Some(order) = header.order {
                replica.store.reorder(order.key);
            }
        };
        let take = |entry| {
            replica.store.merge(entry, |_| false);
        };
        let loaded = snapshot::load(disk, generation, begin, take, |read, _| progress(read))?;
        check_node(replica, loaded.header.origin)?;
        replica.persistence.note_snapshot(loaded.header.is_folded());
        replay.greatest = loaded.greatest;
        replay.progress = Progress::from(loaded.header.vector);
        replay.order = loaded.header.order;
        replay.horizon = loaded.end.horizon;
        replayed.snapshot_len = loaded.len;
    }
    let mut read_before = replayed.snapshot_len;
    for (index, generation) in files.logs.iter().enumerate() {
        let name = files.log_name(*generation);
        let is_last = index + 1 == files.logs.len();
        let found =
            replay.read_log(disk, &name, |incarnation| check_incarnation(replica, incarnation), |read| progress(read_before + read))?;
        if found.torn > 0 {
            let path = disk.path(&name);
            if !is_last {
                let what = format!("{path} is damaged at byte {}: no whole record begins there, and later files are there", found.len);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            log::warn!(
                "{path}: cut off {} bytes behind the last whole record, at byte {}: they were never acknowledged",
                found.torn,
                found.len
            );
        }
        read_before += found.len;
        replayed.older_len += replayed.last.len;
        replayed.last = found;
    }
    replayed.entries = replica.store.len();
    take_replayed(replica, replay);
    Ok(replayed)
}

/// Takes over what the disk held. The clock is above all of it before anything can be written.
fn take_replayed(replica: &Replica, replay: Replay<'_>) {
    let Replay { progress, horizon, greatest, order, .. } = replay;
    let vector = progress.into_vector();
    if !BrokenRule::ClockStartsOver.is_on() {
        replica.clock.take_over(greatest.max(vector.greatest()).max(horizon.greatest()), replica.began);
    }
    let mut table = replica.peers.table();
    replica.coverage.advance().restore(vector);
    table.horizon = horizon;
    replica.scan_order.restore(order);
}

/// Refuses a directory of another node or cluster as `InvalidInput`: nothing is wrong with it, and
/// it is not to be thrown away.
fn check_incarnation(replica: &Replica, Incarnation { cluster, origin, .. }: &Incarnation) -> io::Result<()> {
    if *cluster != replica.config.cluster {
        let what = format!("this directory is one of cluster \"{cluster}\", not of \"{}\": check data_dir", replica.config.cluster);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    check_node(replica, *origin)
}

fn check_node(replica: &Replica, origin: Origin) -> io::Result<()> {
    if origin.node == replica.config.id {
        return Ok(());
    }
    let what = format!("this directory is one of node {}, not of node {}: check data_dir", origin.node, replica.config.id);
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

impl Replay<'_> {
    /// Reads one log. One thread reads and decodes, another one merges.
    fn read_log(
        &mut self,
        disk: &Arc<dyn Disk>,
        name: &str,
        check_incarnation: impl Fn(&Incarnation) -> io::Result<()>,
        progress: impl Fn(u64) -> io::Result<()>,
    ) -> io::Result<FoundLog> {
        thread::scope(|scope| {
            // The sender is dropped when this ends, however it does: then the other thread ends,
            // too.
            let (batch_tx, batch_rx) = bounded(BATCHES_AHEAD);
            thread::Builder::new()
                .name("replay".to_owned())
                .spawn_scoped(scope, move || batch_rx.into_iter().flatten().for_each(|record| self.apply(record)))?;
            let (mut batch, mut batch_len) = (Vec::new(), 0);
            let mut stopped = Ok(());
            let mut records = 0u64;
            let found = read(disk, name, |body, read| {
                records += 1;
                if records % 256 == 1 {
                    stopped = progress(read);
                }
                let record = Record::decode(body)?;
                if let (Ok(()), Record::Incarnation(incarnation)) = (&stopped, &record) {
                    stopped = check_incarnation(incarnation);
                }
                if stopped.is_err() {
                    return Err("not read any further".to_owned());
                }
                batch.push(record);
                batch_len += body.len();
                if batch_len >= BATCH_LEN {
                    batch_len = 0;
                    // Fails only when the other thread has panicked.
                    batch_tx.send(std::mem::take(&mut batch)).map_err(|_| "the thread that merges has ended".to_owned())?;
                }
                Ok(())
            });
            // If this fails, the scope reports the panic.
            let _ = batch_tx.send(batch);
            stopped.and(found)
        })
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Writes(batch) => {
                for write in batch.writes.iter() {
                    self.greatest = self.greatest.max(write.version.stamp);
                    self.store.merge_write(write, |version| self.progress.vector().covers(version));
                }
                self.progress.batch(batch.origin, batch.after, batch.upto);
            }
            Record::Lines(entries) => entries.into_iter().for_each(|entry| self.merge(entry)),
            Record::Healed(entries) => entries.into_iter().for_each(|entry| {
                self.greatest = self.greatest.max(entry.version().stamp);
                self.store.heal(entry);
            }),
            Record::Removed(entries) => entries.iter().for_each(|entry| self.store.remove_version(entry.key(), entry.version())),
            Record::Proven(proven) => {
                self.progress.proven(&proven.vector);
                self.horizon.join(&proven.horizon);
            }
            // The incarnation was checked before.
            Record::Incarnation(Incarnation { order, .. }) => {
                if let Some(order) = order {
                    self.store.reorder(order.key);
                }
                self.order = order.or(self.order);
            }
        }
    }

    fn merge(&mut self, entry: Entry) {
        self.greatest = self.greatest.max(entry.version().stamp);
        self.store.merge(entry, |version| self.progress.vector().covers(version));
    }
}

#[cfg(test)]
mod tests;
