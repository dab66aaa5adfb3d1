//! Taking a dump: its entries one by one, and at the end line what it proves.
//!
//! Owns what is known of a dump between its header and its end line. The same for a dump that a peer sends ([`inbound`](crate::replication::inbound)) and for one that a client
//! restores ([`sync::restore`](crate::replication::sync::restore)): entries enter through the one door, whose versions the vector does not cover; the end line must agree with what came; then, and not before, a full
//! dump drops what it proves deleted, hands over its horizon (**I6**), and its vector is joined (**I5**). Never reads a socket or a file.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::data::clock::{Now, Stamp};
use crate::data::entry::{Entry, Key};
use crate::data::version::{Origin, Version};
use crate::replication::coverage::Advance;
use crate::replication::links::handshake;
use crate::replication::peers::table::PeerTable;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::dump::{DumpKind, EndLine, Header};
use crate::wire::quoting::shown;

/// Keys that are named in the log when two nodes are found to differ; beyond this they are only counted.
const NAMED_MAX: u64 = 20;

/// Incarnations that entries of a restored dump may be of, if they are not told by its vector alone.
const NAMED_LIVES_MAX: usize = 4_096;

/// The most keys that room is made for on a mere announcement.
const ENTRIES_BELIEVED: u64 = 1 << 22;

/// A dump that is being taken.
pub(in crate::replication) struct Incoming {
    header: Header,
    /// Entries that came so far.
    count: u64,
    /// A full dump's keys, to find those that it lacks.
    held: Option<HashSet<Key>>,
    /// Of the incarnations that the header's vector covers the greatest stamp that an entry has, of at most [`NAMED_LIVES_MAX`]; only where a client restores it.
    named: Option<BTreeMap<Origin, Stamp>>,
    /// Whether entries are of more lives.
    is_more: bool,
    /// Entries are merged past the vector, which covers them.
    heals: bool,
    /// Entries that healing changed.
    healed: u64,
}

impl Incoming {
    /// `is_restored`: a client brings it, and nobody answers for what it says.
    pub fn begin(replica: &Replica, header: Header, is_restored: bool, now: Now) -> Result<Incoming, String> {
        let named = is_restored.then(BTreeMap::new);
        check_stamp(replica, is_restored, header.vector.greatest(), now)?;
        if !is_restored {
            handshake::check_vector(replica, &header.vector, now)?;
        }
        stamps::observe(replica, header.vector.greatest(), now);
        let held = (header.kind == DumpKind::Full).then(|| HashSet::with_capacity(header.entries.min(ENTRIES_BELIEVED) as usize));
        let heals = header.kind == DumpKind::Heal;
        Ok(Incoming { count: 0, header, held, named, is_more: false, heals, healed: 0 })
    }

    /// One entry: clock, then merge. Returns whether the entry changed anything.
    pub fn take(&mut self, replica: &Replica, entry: Entry, now: Now) -> Result<bool, String> {
        check_stamp(replica, self.named.is_some(), entry.version().stamp, now)?;
        let Version { stamp, origin } = entry.version();
        if origin.is_all_incarnations() {
            return Err(format!("an entry of {origin}, which stands for all lives of node {}, and is none", origin.node));
        }
        if let Some(named) = &mut self.named
            && self.header.vector.get(origin) > Stamp::ZERO
        {
            self.is_more |= named.len() == NAMED_LIVES_MAX && !named.contains_key(&origin);
            if !self.is_more {
                let greatest = named.entry(origin).or_default();
                *greatest = stamp.max(*greatest);
            }
        }
        if self.named.is_some() && !can_tell(replica, &entry, now) {
            return Err(format!(
                "its entry of key {} is of a life of node {} that is folded here, and nobody here has seen it: whether it was deleted since cannot be told; \
                 kvctl restore --as-new-writes writes all keys anew",
                shown(entry.key()),
                origin.node
            ));
        }
        self.count += 1;
        stamps::observe(replica, entry.version().stamp, now);
        let key = entry.shared_key();
        if !self.heals {
            let is_kept = replica.merge(entry);
            if let Some(held) = &mut self.held {
                // Not with its value, where that has not become the store's.
                held.insert(if is_kept { key } else { Key::from(&*key) });
            }
            return Ok(is_kept);
        }
        let healed = replica.store.heal(entry.clone());
        if healed {
            replica.persistence.record(Arc::new(record::healed(&[entry])), None, None);
            self.healed += 1;
            if self.healed <= NAMED_MAX {
                log::error!("healed key {}: it was older here, or missing", shown(&key));
            }
        }
        Ok(healed)
    }

    /// Whether its entries are merged as when healing.
    pub fn heals(&self) -> bool {
        self.heals
    }

    /// Checks what the end line claims of the donor's GC horizon. (That the end line belongs to what
    /// came, the dump's reader has checked.)
    pub fn check(&self, end: &EndLine) -> Result<(), String> {
        let beyond = end.horizon.ahead_of(&self.header.vector);
        match beyond.iter().next() {
            None => Ok(()),
            Some((origin, stamp)) => Err(format!("a horizon of {stamp} for {origin}, which the vector in its header does not cover")),
        }
    }

    /// Whether a full dump lacks a key although its header's vector covers the version: its donor has proved it deleted.
    pub fn lacks(&self, entry: &Entry) -> bool {
        self.held.as_ref().is_some_and(|held| !held.contains(entry.key())) && self.header.vector.covers(entry.version())
    }

    /// Of the incarnations that its header's vector covers the greatest stamp that an entry of a restored dump has. `None` if those are too many to tell.
    pub fn named(&self) -> Option<&BTreeMap<Origin, Stamp>> {
        self.named.as_ref().filter(|_| !self.is_more)
    }

    /// After [`Incoming::check`]: a full dump's drops. What it proves comes last, by [`Replica::join_proven`]. Returns what was dropped.
    pub fn drop_absent(&self, replica: &Replica) -> Vec<Entry> {
        if self.held.is_none() {
            return Vec::new();
        }
        let _walk = replica.store.walk();
        (0..replica.store.shards_len()).flat_map(|shard| replica.store.remove(shard, |entry| self.lacks(entry))).collect()
    }

    /// Once more, when the vector is joined: between its shard's turn and that, a live batch may have brought back what is gone. From the vector on, none can.
    /// Returns how many that were.
    pub fn drop_late(&self, replica: &Replica) -> usize {
        let late = self.drop_absent(replica);
        replica.persistence.record_dropped(&late);
        late.len()
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Entries that came so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn healed(&self) -> u64 {
        self.healed
    }
}

fn check_stamp(replica: &Replica, is_restored: bool, stamp: Stamp, now: Now) -> Result<(), String> {
    if is_restored { stamps::check_restored_stamp(replica, stamp, now) } else { stamps::check_stamp(replica, stamp, now) }
}

/// Whether it is known here that an entry was there, or was not. What is said of all incarnations of its node may cover it although it is of another cluster, or of a state that was lost: then neither it nor
/// what superseded it is here, and no delete of it is known or forgotten. What is over brings nothing back.
fn can_tell(replica: &Replica, entry: &Entry, now: Now) -> bool {
    let version = entry.version();
    let is_folded = replica.coverage.covers_by_folding(version);
    let soon = now.wall_ms.saturating_add(replica.config.clock_offset_max.as_millis() as u64);
    !is_folded || !entry.is_live(|| soon) || replica.store.entry(entry.key()).is_some_and(|held| held.version() >= version)
}

/// What a dump's end line proves is so from now on, here and in the log, where the drops come right before it: a line of a dropped entry that is logged later
/// is covered by then. Both locks are held by the caller: the collector's, for the horizon.
///
/// A dump hides writes that were superseded before it was made. So what it brings did not come one by one, of no peer; but of `live`, a peer that sent the dump on the connection of its
/// batches, only up to where those began.
///
/// Of this node's own present writes it says nothing: their own batches do. A donor can know of one by a dump from here before its batch is in this log, and behind a record that covers it
/// the batch would be skipped when the log is read.
pub(in crate::replication) fn join_proven(
    replica: &Replica,
    table: &mut PeerTable,
    coverage: &mut Advance<'_>,
    proven: Proven,
    dropped: &[Entry],
    live: Option<(usize, Stamp)>,
) {
    let Proven { vector, horizon } = proven;
    let proven = Proven { vector: vector.without(replica.origin), horizon };
    let mut records = if BrokenRule::DropsNotLogged.is_on() { Vec::new() } else { record::removed(dropped) };
    records.extend(record::proven(&proven));
    replica.persistence.record(Arc::new(records), None, None);
    table.horizon.join(&proven.horizon);
    coverage.proven(&proven.vector);
    for (peer, outbox) in replica.links.outboxes().enumerate() {
        let Some(origin) = outbox.known_origin() else { continue };
        let position = match live {
            Some((sender, start)) if peer == sender => start,
            _ => coverage.get(origin),
        };
        outbox.received_in_dump(origin, position);
        replica.persistence.record(Arc::default(), Some((origin, position)), None);
    }
}
