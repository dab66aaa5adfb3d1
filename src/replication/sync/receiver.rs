//! The receiver of a dump: it takes the entries one by one, and at the end line what the dump
//! proves.
//!
//! Owns what is known of a dump between its header and its end line, for a dump that a peer sends
//! ([`inbound`](crate::replication::inbound)) and for one that a client restores
//! ([`sync::restore`](crate::replication::sync::restore)). Entries enter by the merge that all
//! writes enter by, unless the vector covers their version. The end line must agree with what came.
//! Then, and not before, a full dump drops what it proves deleted ([`ending`](super::ending)),
//! hands over its GC horizon (**I6**), and its vector is joined (**I5**). Never reads a socket or a
//! file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::data::clock::{Now, Stamp};
use crate::data::entry::{Entry, Key};
use crate::data::version::{Origin, Version};
use crate::replication::coverage::Advance;
use crate::replication::links::DueAck;
use crate::replication::links::handshake;
use crate::replication::peers::table::PeerTable;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::replication::sync::held_keys::HeldKeys;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::dump::{DumpKind, EndLine, Header};
use crate::wire::quoting::shown;

/// Keys that are named in the log when two nodes are found to differ. Beyond this they are only
/// counted.
const NAMED_MAX: u64 = 20;

/// Incarnations, of those that a restored dump's vector names, whose entries are noted. Beyond this
/// the dump may claim nothing by its entries.
const NAMED_INCARNATIONS_MAX: usize = 4_096;

/// A dump that is being taken.
pub(in crate::replication) struct DumpReceiver {
    header: Header,
    /// Entries that have come so far.
    count: u64,
    /// The keys of a full dump, to find those that it lacks. `None` for any other dump.
    held: Option<HeldKeys>,
    /// The greatest stamp of an entry, for each incarnation that the header's vector names and that
    /// has an entry; for at most [`NAMED_INCARNATIONS_MAX`]. Only for a dump that a client
    /// restores.
    named: Option<BTreeMap<Origin, Stamp>>,
    /// There are entries of more incarnations than that.
    is_more: bool,
    /// Entries are merged although the vector covers them.
    heals: bool,
    /// Entries that healing changed.
    healed: u64,
}

impl DumpReceiver {
    /// Begins to take a dump. `is_restored`: a client sends it, and no member answers for what it
    /// says.
    pub fn begin(replica: &Replica, header: Header, is_restored: bool, now: Now) -> Result<DumpReceiver, String> {
        let named = is_restored.then(BTreeMap::new);
        check_stamp(replica, is_restored, header.vector.greatest(), now)?;
        if !is_restored {
            handshake::check_vector(replica, &header.vector, now)?;
        }
        stamps::observe(replica, header.vector.greatest(), now);
        let held = (header.kind == DumpKind::Full).then(|| HeldKeys::new(replica.store.order()));
        let heals = header.kind == DumpKind::Heal;
        Ok(DumpReceiver { count: 0, header, held, named, is_more: false, heals, healed: 0 })
    }

    /// Takes one entry: clock, then merge. Returns whether the entry changed anything.
    pub fn take(&mut self, replica: &Replica, entry: Entry, now: Now) -> Result<bool, String> {
        check_stamp(replica, self.named.is_some(), entry.version().stamp, now)?;
        let Version { stamp, origin } = entry.version();
        if origin.is_all_incarnations() {
            return Err(format!("an entry of {origin}, which stands for all incarnations of node {}, and is none", origin.node));
        }
        if let Some(named) = &mut self.named
            && self.header.vector.get(origin) > Stamp::ZERO
        {
            self.is_more |= named.len() == NAMED_INCARNATIONS_MAX && !named.contains_key(&origin);
            if !self.is_more {
                let greatest = named.entry(origin).or_default();
                *greatest = stamp.max(*greatest);
            }
        }
        if self.named.is_some() && !can_place(replica, &entry, now) {
            return Err(format!(
                "its entry of key {} is of an incarnation of node {} that is folded here, and is not known here: whether it was deleted since cannot be told; \
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
                // Without its value, unless that has become the store's: the key shares its memory.
                held.insert(if is_kept { key } else { Key::from(&*key) });
            }
            return Ok(is_kept);
        }
        let healed = replica.store.heal(entry.clone());
        if healed {
            replica.persistence.record(Arc::new(record::healed(&[entry])), None);
            self.healed += 1;
            if self.healed <= NAMED_MAX {
                log::error!("healed key {}: it was older here, or missing", shown(&key));
            }
        }
        Ok(healed)
    }

    /// Returns whether entries are merged although the vector covers them.
    pub fn heals(&self) -> bool {
        self.heals
    }

    /// Checks what the end line claims of the donor's GC horizon. (The dump's reader has checked
    /// that the end line belongs to what came.)
    pub fn check(&self, end: &EndLine) -> Result<(), String> {
        let beyond = end.horizon.ahead_of(&self.header.vector);
        match beyond.iter().next() {
            None => Ok(()),
            Some((origin, stamp)) => Err(format!("a horizon of {stamp} for {origin}, which the vector in its header does not cover")),
        }
    }

    /// Returns whether a full dump lacks the key of `entry` although its header's vector covers the
    /// version: its donor has proven it deleted.
    pub fn lacks(&self, entry: &Entry) -> bool {
        self.header.vector.covers(entry.version()) && self.held.as_ref().is_some_and(|held| !held.contains(entry.key()))
    }

    /// The greatest stamp of an entry, for each incarnation that the header's vector of a restored
    /// dump names and that has an entry. `None` if there are too many.
    pub fn named(&self) -> Option<&BTreeMap<Origin, Stamp>> {
        self.named.as_ref().filter(|_| !self.is_more)
    }

    /// Frees memory of the keys that the dump held, about so many. Returns whether there is more.
    pub fn free_some(&mut self, entries: usize) -> bool {
        self.held.as_mut().is_some_and(|held| held.free_some(entries))
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Entries that have come so far.
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

/// Returns whether it is known here that an entry existed, or did not.
///
/// What is claimed of all incarnations of a node may cover the entry although it belongs to another
/// cluster, or to a state that was lost. Then neither the entry nor what superseded it is here, and
/// no delete of it is known or forgotten. An entry that has expired brings nothing back.
fn can_place(replica: &Replica, entry: &Entry, now: Now) -> bool {
    let version = entry.version();
    let is_folded = replica.coverage.covers_by_folding(version);
    let soon = now.wall_ms.saturating_add(replica.config.clock_offset_max.as_millis() as u64);
    !is_folded || !entry.is_live(|| soon) || replica.store.entry(entry.key()).is_some_and(|held| held.version() >= version)
}

/// Applies what a complete dump proves, here and in the log. In the log the drops come right before
/// it, as the records `removed`: a line of a dropped entry that is logged later is covered by then.
/// The caller holds both locks; the peer table's is for the GC horizon.
///
/// A dump hides writes that were superseded before it was made. So no write that it brings counts
/// as received one by one, whichever peer made it. `live` names a peer that sent the dump on the
/// connection of its batches, and the stamp where those began: its writes behind that stamp did
/// come one by one.
///
/// A dump proves nothing of this node's own present writes: their own batches do. A donor can know
/// of an own write, by a dump from here, before its batch is in this node's log. Behind a record
/// that covers it the batch would be skipped when the log is replayed.
///
/// Returns the acks that are due by that, to be sent once the locks are released.
pub(in crate::replication) fn join_proven<'a>(
    replica: &'a Replica,
    table: &mut PeerTable,
    coverage: &mut Advance<'_>,
    proven: Proven,
    removed: Vec<u8>,
    live: Option<(usize, Stamp)>,
) -> Vec<DueAck<'a>> {
    let Proven { vector, horizon } = proven;
    let proven = Proven { vector: vector.without(replica.origin), horizon };
    let mut records = if BrokenRule::DropsNotLogged.is_on() { Vec::new() } else { removed };
    records.extend(record::proven(&proven));
    replica.persistence.record(Arc::new(records), None);
    table.horizon.join(&proven.horizon);
    coverage.proven(&proven.vector);
    let mut due = Vec::new();
    for (peer, outbox) in replica.links.outboxes().enumerate() {
        let Some(origin) = outbox.known_origin() else { continue };
        let position = match live {
            Some((sender, start)) if peer == sender => start,
            _ => coverage.get(origin),
        };
        outbox.received_in_dump(origin, position);
        due.push(replica.persistence.record_reaching(Arc::default(), (origin, position), None));
    }
    due
}
