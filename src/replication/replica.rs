//! The state that a node's threads share, and the doors to it.
//!
//! Owns the vector, the outboxes and the peer table's lock. Everything here is values in, values out: no sockets, no threads, and time is an argument. The
//! threads of link.rs, listener.rs, heartbeat.rs and replicator.rs call these functions, and so do the tests that drive a whole mesh in one thread.
//!
//! Lock order: control, then a shard, then `seen` or the sequencer; the order's, an outbox's and the ack table's lock are the last, nothing is locked under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::budget::Permit;
use crate::config::Config;
use crate::data::clock::{Clock, Now};
use crate::data::entry::Entry;
use crate::data::key_order::Order;
use crate::data::version::{Origin, Version, VersionVector};
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
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
use crate::testing::broken_rules::BrokenRule;
use crate::wal::Wal;
use crate::wire::peer::{Protocol, Protocols};

/// Of one kind, and of one peer. A node that comes and goes all the time is told from one that was restarted a few times.
const LINES_PER_MINUTE: u32 = 10;

/// One node's part of the mesh.
pub struct Replica {
    pub(super) config: Arc<Config>,
    pub(super) origin: Origin,
    /// What this node speaks with peers.
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
    open: AtomicBool,
    /// The disk was blank, and nobody has said yet whether that was to be expected.
    pub(super) is_oddly_blank: AtomicBool,
    /// Writes of other nodes that lost here to a write of this node which did not know of them: last-writer-wins has its price, and this counts it. (One that a dump
    /// brought ahead of its batch, and that was overwritten in between, counts although it was known.)
    pub(super) conflicts_won: AtomicU64,
    /// Peers and clients decide how often something is to be logged.
    pub(super) said: LogLimit,
    /// Values that were let go because they had expired.
    pub(super) expired: AtomicU64,
    /// When this incarnation began, in elapsed time.
    pub(super) began: Duration,
}

impl Replica {
    /// A node that begins a new incarnation, with a store that is empty: `nonce` must be fresh random bits. Returns the channel for the replicator, too. Without a write-ahead log it keeps
    /// nothing.
    pub fn new(config: Arc<Config>, store: Store, nonce: u64, now: Now, wal: Option<Arc<Wal>>) -> (Replica, Receiver<Submitted>) {
        let nonce = if BrokenRule::KeepOrigin.is_on() { config.id.0.into() } else { nonce };
        let origin = Origin { node: config.id, nonce };
        let (clock, store) = (Arc::new(Clock::new(now, config.clock_offset_max / 2)), Arc::new(store));
        let (submit, write_rx) = Submit::new(origin, Arc::clone(&clock), Arc::clone(&store), config.write_room);
        let waits_for_disk = wal.as_ref().is_some_and(|wal| wal.is_waited_for());
        let acks = Arc::new(Acks::new(config.peers.len(), config.majority(), config.ack_timeout, waits_for_disk));
        let links = Arc::new(Links::new(config.peers.len(), config.link_queue_max));
        let replica = Replica {
            persistence: Persistence::new(origin, wal, Arc::clone(&acks), Arc::clone(&links)),
            scan_order: ScanOrder::new(Arc::clone(&store)),
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
            is_oddly_blank: AtomicBool::new(false),
            conflicts_won: AtomicU64::new(0),
            said: LogLimit::new(LINES_PER_MINUTE),
            expired: AtomicU64::new(0),
            began: now.elapsed,
            config,
        };
        (replica, write_rx)
    }

    /// For tests: as a build does that speaks these.
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

    /// Whether clients are served.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether the entry is the newest of its key here now.
    pub(super) fn merge(&self, entry: Entry) -> bool {
        let version = entry.version();
        let merged = self.store.merge(entry, |version| self.covers(version));
        self.note_merged(version, merged);
        merged == Merged::Won
    }
    /// What lost to a third node's write may just have come late.
    pub(super) fn note_merged(&self, version: Version, merged: Merged) {
        if matches!(merged, Merged::Lost { winner } if winner.origin == self.origin && version.origin != self.origin) {
            self.conflicts_won.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What this node has, its own writes included (I1).
    pub fn vector(&self) -> VersionVector {
        self.coverage.vector(self.submit.position())
    }

    /// Whether this node has the write with this version, or had and superseded it. Every version of its own origin it has issued itself.
    pub(super) fn covers(&self, version: Version) -> bool {
        self.coverage.covers(version)
    }

    /// The greatest protocol that every member speaks, by its last HELLO. A later format of what is not of one connection, a batch or a file, may be written
    /// only when this has reached the protocol that brings it: until then any member can go back to the build that it had.
    pub fn spoken_by_all(&self) -> Protocol {
        self.spoken_by(&self.peers.table().peers)
    }

    /// The same, where the lock is held.
    pub(super) fn spoken_by(&self, peers: &[Peer]) -> Protocol {
        let spoken = peers.iter().map(|peer| peer.spoken).fold(self.protocols.max, Protocol::min);
        // Whoever speaks none of this build's is no longer met.
        spoken.max(self.protocols.min)
    }

    /// Own writes, encoded: to the log first, so that no peer knows of a write in front of it there; then to every peer that listens. `room` is what they hold until
    /// the log has taken them, too.
    pub fn hand_over(&self, batch: &EncodedBatch, room: Permit) {
        self.persistence.record_own(Arc::clone(&batch.bytes), batch.upto, room);
        self.links.push(batch);
    }

    /// What has gone wrong between this node and a peer, for PEERS.
    pub fn note_error(&self, peer: usize, sentence: String, elapsed: Duration) {
        self.peers.table().peers[peer].last_error = Some((elapsed, sentence));
    }

    /// A record that says who writes from here on, for the disk to know.
    pub fn record_incarnation(&self) {
        let (cluster, version) = (self.config.cluster.clone(), env!("CARGO_PKG_VERSION").to_owned());
        let incarnation = Incarnation { cluster, origin: self.origin, version, order: self.scan_order.get() };
        self.persistence.record(Arc::new(record::incarnation(&incarnation)), None, None);
    }

    /// A peer knows of this scan order, or of none.
    pub(super) fn learn_scan_order(&self, theirs: Option<Order>) {
        if self.scan_order.learn(theirs) {
            self.record_incarnation();
            self.scan_order.apply();
        }
    }

    /// This node's acks are worth something: it serves clients, and logs.
    pub(super) fn vouches(&self) -> bool {
        self.is_open() && self.persistence.is_writable()
    }

    /// Changes the peer table and carries out what follows from the change.
    pub(super) fn decide<T>(&self, now: Now, change: impl FnOnce(&mut PeerTable) -> T) -> T {
        let mut table = self.peers.table();
        let result = change(&mut table);
        let traffic = self.links.traffic();
        let Decisions { events, counts, ask, hang_up, open } = table.review(&self.config, (self.origin, &self.vector()), &traffic, now);
        // Still under the lock, so that two decisions are carried out in the order they were made in.
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
            // The peers are to know at once: from now on this node counts.
            self.links.vouch();
        }
        drop(table);
        for event in events {
            let (kind, node) = event.kind();
            if let Some(more) = self.said.admit(kind, node.map_or(0, |node| node.0), now.elapsed) {
                log::log!(event.level(), "{event}{more}");
            }
        }
        result
    }

    /// Recovery from the peers begins now: until here nobody could bring this node forward.
    pub fn begin_recovery(&self, now: Now) {
        self.peers.table().begin_recovery(now);
    }

    /// Whether this node serves clients, and how well.
    pub fn stage(&self) -> Stage {
        self.peers.table().stage
    }
}
