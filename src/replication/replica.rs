//! The state that a node's threads share, composed of its owners.
//!
//! Each owner keeps its own lock: coverage, peer table, outboxes, acks, persistence, scan order and
//! submit. What takes several of them in one step stands here, or beside this file in a function
//! named for its job. Values in, values out: no sockets, no threads, and time is an argument. The
//! threads of `links`, [`heartbeat`](super::heartbeat) and [`replicator`](super::replicator) call
//! these functions, and so do the tests that drive a whole mesh in one thread.
//! [`crate::lock_order`] has the order of the locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::budget::Permit;
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::data::clock::{Clock, Now};
use crate::data::entry::Entry;
use crate::data::key_order::Order;
use crate::data::version::{Origin, Version, VersionVector};
use crate::process::audit::Audit;
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
use crate::replication::agreed_limits::{AgreedLimits, limits_of};
use crate::replication::coverage::Coverage;
use crate::replication::links::Links;
use crate::replication::links::outbox::EncodedBatch;
use crate::replication::peers::Peers;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::recovery::Stage;
use crate::replication::peers::table::{Decisions, PeerTable};
use crate::replication::persistence::hand_off::Persistence;
use crate::replication::persistence::record::{self, Incarnation};
use crate::replication::scan_order::ScanOrder;
use crate::replication::submit::{Submit, Submitted};
use crate::store::{Merged, Store};
use crate::sync::unbounded::Receiver;
use crate::testing::broken_rules::BrokenRule;
use crate::wal::Wal;
use crate::wire::bytes::Limits;
use crate::wire::peer::{Protocol, Protocols};

/// Log lines a minute of one kind and about one peer. Beyond this they are only counted. It is
/// enough to distinguish a node that comes and goes all the time from one that was restarted a few
/// times.
const LINES_PER_MINUTE: u32 = 10;

/// One node, as a replica of the data: its state, shared by all its threads.
pub struct Replica {
    /// As it was at the start.
    pub(super) config: Arc<Config>,
    /// As it is in force now.
    live: Arc<LiveConfig>,
    audit: Arc<Audit>,
    pub(super) origin: Origin,
    /// The peer protocols that this node speaks.
    pub(super) protocols: Protocols,
    pub(super) clock: Arc<Clock>,
    pub(super) store: Arc<Store>,
    pub(super) submit: Arc<Submit>,
    pub(super) acks: Arc<Acks>,
    pub(super) coverage: Coverage,
    pub(super) links: Arc<Links>,
    pub(super) peers: Peers,
    pub(super) persistence: Persistence,
    pub(super) scan_order: ScanOrder,
    pub(super) agreed_limits: AgreedLimits,
    open: AtomicBool,
    /// The disk was blank, and no peer has said yet whether that was to be expected.
    pub(super) is_unexpectedly_blank: AtomicBool,
    /// Writes of other nodes that lost here to a write of this node which did not know of them:
    /// conflicts, the price of last-writer-wins.
    ///
    /// A write that a dump brought ahead of its batch, and that was overwritten in between, counts
    /// although it was known.
    pub(super) conflicts_won: AtomicU64,
    /// Connections of peers, either way, that were refused because nothing proved who they are.
    pub(super) unproven_refused: AtomicU64,
    /// Limits log lines that peers and clients can cause at will.
    pub(super) log_limit: LogLimit,
    /// Expired values whose memory was freed.
    pub(super) expired: AtomicU64,
    /// When this incarnation began, in elapsed time.
    pub(super) began: Duration,
}

impl Replica {
    /// Creates a node at the beginning of a new incarnation. `store` is empty, and `nonce` must be
    /// fresh random bits. Returns the replicator's end of the write channel, too. Without a
    /// write-ahead log the node keeps nothing.
    pub fn new(config: Arc<Config>, store: Store, nonce: u64, now: Now, wal: Option<Arc<Wal>>) -> (Replica, Receiver<Submitted>) {
        let nonce = if BrokenRule::KeepOrigin.is_on() { config.id.0.into() } else { nonce };
        let origin = Origin { node: config.id, nonce };
        let (clock, store) = (Arc::new(Clock::new(now, config.clock_offset_max / 2)), Arc::new(store));
        let (submit, write_rx) = Submit::new(origin, Arc::clone(&clock), Arc::clone(&store), config.write_room);
        let waits_for_disk = wal.as_ref().is_some_and(|wal| wal.is_waited_for());
        let acks = Arc::new(Acks::new(config.peers.len(), config.majority(), config.ack_timeout, waits_for_disk));
        let links = Arc::new(Links::new(config.peers.len(), config.link_queue_max, Arc::clone(&clock)));
        let replica = Replica {
            persistence: Persistence::new(origin, wal, Arc::clone(&acks), Arc::clone(&links)),
            scan_order: ScanOrder::new(Arc::clone(&store)),
            agreed_limits: AgreedLimits::new(limits_of(&config)),
            origin,
            protocols: Protocols::OURS,
            clock,
            store,
            submit: Arc::new(submit),
            acks,
            coverage: Coverage::new(origin),
            links,
            peers: Peers::new(PeerTable::new(&config, nonce, now)),
            open: AtomicBool::new(false),
            is_unexpectedly_blank: AtomicBool::new(false),
            conflicts_won: AtomicU64::new(0),
            unproven_refused: AtomicU64::new(0),
            log_limit: LogLimit::new(LINES_PER_MINUTE),
            expired: AtomicU64::new(0),
            began: now.elapsed,
            live: LiveConfig::fixed(Config::clone(&config)),
            audit: Audit::off(),
            config,
        };
        (replica, write_rx)
    }

    /// Makes this node heed what a reload of its configuration changes.
    pub fn reloading(self, live: Arc<LiveConfig>) -> Replica {
        let acks = Arc::clone(&self.acks);
        live.add_part(Box::new(move |config| {
            let (acks, timeout) = (Arc::clone(&acks), config.ack_timeout);
            Ok(Box::new(move || acks.set_timeout(timeout)))
        }));
        // A reload may have come before.
        self.acks.set_timeout(live.current().ack_timeout);
        Replica { live, ..self }
    }

    /// Makes this node note what happens in this audit log.
    pub fn audited(self, audit: Arc<Audit>) -> Replica {
        Replica { audit, ..self }
    }

    /// Makes this node speak other protocols, as another build does. For tests only.
    #[cfg(any(test, feature = "testing"))]
    pub fn speaking(mut self, protocols: Protocols) -> Replica {
        self.protocols = protocols;
        self
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub fn live(&self) -> &Arc<LiveConfig> {
        &self.live
    }

    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn submit(&self) -> &Arc<Submit> {
        &self.submit
    }

    pub fn acks(&self) -> &Arc<Acks> {
        &self.acks
    }

    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    pub fn persistence(&self) -> &Persistence {
        &self.persistence
    }

    /// The longest key and value that all members take.
    #[inline]
    pub fn agreed_limits(&self) -> Limits {
        self.agreed_limits.get()
    }

    /// Returns whether clients are served.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Merges an entry. Returns true if it is the newest of its key here now.
    pub(super) fn merge(&self, entry: Entry) -> bool {
        let version = entry.version();
        let merged = self.store.merge(entry, |version| self.coverage.covers(version));
        self.note_merged(version, merged);
        merged == Merged::Won
    }

    /// Counts a conflict that a write of this node has won. A write that lost to a third node's is
    /// not counted: it may just have come late.
    pub(super) fn note_merged(&self, version: Version, merged: Merged) {
        if matches!(merged, Merged::Lost { winner } if winner.origin == self.origin && version.origin != self.origin) {
            self.conflicts_won.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// This node's version vector, its own writes included (I1).
    pub fn vector(&self) -> VersionVector {
        self.coverage.vector(self.submit.position())
    }

    /// The greatest protocol that every member speaks, by its last HELLO. A later format of batches
    /// or files, which do not belong to one connection, waits until this has reached the protocol
    /// that brings it. Until then any member can go back to its former build.
    pub fn spoken_by_all(&self) -> Protocol {
        self.spoken_by(&self.peers.table().peers)
    }

    /// As [`Replica::spoken_by_all`], for a caller that holds the peer table.
    pub(super) fn spoken_by(&self, peers: &[Peer]) -> Protocol {
        let spoken = peers.iter().map(|peer| peer.spoken).fold(self.protocols.max, Protocol::min);
        // A member that speaks none of this build's protocols is refused from now on.
        spoken.max(self.protocols.min)
    }

    /// Hands over a batch of own writes: to the log first, then to every peer with an open
    /// connection. So no peer knows of a write before the log does. `permit` is what the writes
    /// hold of the back-pressure budget until the log has taken them, too.
    pub fn hand_over(&self, batch: &EncodedBatch, permit: Permit) {
        self.persistence.record_own(Arc::clone(&batch.bytes), batch.upto, permit);
        self.links.push(batch);
    }

    /// Notes what has gone wrong between this node and a peer, for PEERS.
    pub fn note_error(&self, peer: usize, sentence: String, elapsed: Duration) {
        self.peers.table().peers[peer].last_error = Some((elapsed, sentence));
    }

    /// Counts a connection that was refused because nothing proved who its other end is.
    pub fn note_unproven(&self) {
        self.unproven_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Logs which incarnation writes from here on.
    pub fn record_incarnation(&self) {
        let (cluster, version) = (self.config.cluster.clone(), env!("CARGO_PKG_VERSION").to_owned());
        let incarnation = Incarnation { cluster, origin: self.origin, version, order: self.scan_order.get() };
        self.persistence.record(Arc::new(record::incarnation(&incarnation)), None);
    }

    /// Takes note of the scan order that a peer knows, if it knows one.
    pub(super) fn learn_scan_order(&self, theirs: Option<Order>) {
        if self.scan_order.learn(theirs) {
            self.record_incarnation();
            self.scan_order.apply();
        }
    }

    /// Returns whether this node's acks may count: it serves clients, and its log takes writes.
    pub(super) fn vouches(&self) -> bool {
        self.is_open() && self.persistence.is_writable()
    }

    /// Changes the peer table and carries out what follows from the change.
    pub(super) fn decide<T>(&self, now: Now, change: impl FnOnce(&mut PeerTable) -> T) -> T {
        let mut table = self.peers.table();
        let result = change(&mut table);
        let traffic = self.links.traffic();
        let Decisions { events, counts, ask, hang_up, open } = table.review(&self.config, (self.origin, &self.vector()), &traffic, now);
        // Still under the lock, so that decisions are carried out in the order in which they were
        // made.
        for (peer, counts) in counts {
            self.acks.set_up(peer, counts);
        }
        if let Some((peer, request)) = ask {
            self.links.outbox(peer).request(request);
        }
        for peer in hang_up {
            self.links.outbox(peer).close();
        }
        if open {
            if self.scan_order.declare(now) {
                self.record_incarnation();
            }
            self.open.store(true, Ordering::Release);
            // The peers learn at once that from now on this node counts.
            self.links.vouch();
        }
        drop(table);
        for event in events {
            let (kind, node) = event.kind();
            if let Some(more) = self.log_limit.admit(kind, node.map_or(0, |node| node.0), now.elapsed) {
                log::log!(event.level(), "{event}{more}");
            }
        }
        result
    }

    /// Starts the recovery from peers. What was before does not count as their silence: nothing
    /// could bring this node forward.
    pub fn begin_recovery(&self, now: Now) {
        self.peers.table().begin_recovery(now);
    }

    /// This node's stage: recovering, open, or open and degraded.
    pub fn stage(&self) -> Stage {
        self.peers.table().stage
    }
}
