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
use crate::config::{Config, MEMBERS_MAX};
use crate::data::clock::{Clock, Clocks, Now, Stamp};
use crate::data::key_order::Order;
use crate::data::version::{Origin, Version, VersionVector};
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
use crate::replication::coverage::Coverage;
use crate::replication::links::Links;
use crate::replication::links::outbox::EncodedBatch;
use crate::replication::peers::Peers;
use crate::replication::peers::clocks::is_within;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::recovery::Stage;
use crate::replication::peers::table::{Decisions, PeerTable, QuiescentState};
use crate::replication::persistence::hand_off::Persistence;
use crate::replication::persistence::record::{self, Incarnation};
use crate::replication::scan_order::ScanOrder;
use crate::replication::submit::{Submit, Submitted};
use crate::replication::sync::scan::DumpScan;
use crate::store::Store;
use crate::testing::broken_rules::BrokenRule;
use crate::wal::Wal;
use crate::wire::dump::{DumpKind, Header};
use crate::wire::peer::{Heartbeat, Hello, Protocol, Protocols, QuiescentDigest, Request};
use crate::wire::quoting::shown;

/// Places in a vector that a peer tells, with those that are known here: as many fit into a HELLO, generously counted.
pub(super) const PLACES_MAX: usize = 20_000;

/// Of one kind, and of one peer. A node that comes and goes all the time is told from one that was restarted a few times.
const LINES_PER_MINUTE: u32 = 10;

/// One node's part of the mesh.
pub struct Replica {
    pub(super) config: Arc<Config>,
    pub(super) origin: Origin,
    /// What this node speaks with peers.
    protocols: Protocols,
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

    /// What this node has, its own writes included (I1).
    pub fn vector(&self) -> VersionVector {
        self.coverage.vector(self.submit.position())
    }

    /// Whether this node has the write with this version, or had and superseded it. Every version of its own origin it has issued itself.
    pub(super) fn covers(&self, version: Version) -> bool {
        self.coverage.covers(version)
    }

    /// The first message of a connection, either way.
    pub fn hello(&self, now: Now) -> Hello {
        Hello {
            cluster: self.config.cluster.clone(),
            protocol: self.protocols.min,
            protocols: Some(self.protocols),
            node: self.config.id,
            origin: self.origin,
            members: self.config.members(),
            wall_ms: now.wall_ms,
            clocks: Some(self.clock.read(now.elapsed)),
            durable: self.acks.durable_upto().is_some(),
            vector: self.vector(),
            order: self.scan_order.get(),
        }
    }

    /// Whether a HELLO is one of a peer; its place in the configuration and the protocol to speak if so, else why not.
    pub fn check_hello(&self, hello: &Hello, now: Now) -> Result<(usize, Protocol), String> {
        let id = self.config.id;
        if hello.cluster != self.config.cluster {
            return Err(format!("this is cluster \"{}\", not {}", self.config.cluster, shown(hello.cluster.as_bytes())));
        }
        let protocol = self.protocols.common(hello.spoken()).ok_or_else(|| self.no_common_protocol(hello))?;
        if hello.node == id {
            return Err(format!(
                "this is node {id} itself, or another process with its id: check the addresses and ids in the configurations"
            ));
        }
        let place = self.config.peers.iter().position(|peer| peer.id == hello.node);
        let place = place.ok_or_else(|| format!("node {id} has no node {} in its configuration", hello.node))?;
        if hello.origin.node != hello.node {
            return Err(format!("node {} with an origin of node {}", hello.node, hello.origin.node));
        }
        if hello.origin.is_all_incarnations() {
            return Err(format!("node {} with the origin {}, which stands for all of its lives", hello.node, hello.origin));
        }
        if hello.spoken().max < Protocol::FOLDED && self.has_folded() {
            return Err(format!(
                "lives of nodes are folded here, which the build of node {} does not know of (it speaks peer protocol {}, and {} brings it): upgrade it",
                hello.node,
                hello.spoken(),
                Protocol::FOLDED
            ));
        }
        if !hello.members.contains(&id) {
            return Err(format!("node {} has no node {id} in its configuration", hello.node));
        }
        self.check_clock(place, hello.clocks, hello.wall_ms, true, now)?;
        self.check_vector(&hello.vector, now)?;
        Ok((place, protocol))
    }

    /// Whether a peer's vector may be joined with what is known here: how far ahead it is, and how many places that makes.
    pub(super) fn check_vector(&self, vector: &VersionVector, now: Now) -> Result<(), String> {
        self.check_stamp(vector.greatest(), now)?;
        if self.coverage.len() + vector.len() < PLACES_MAX {
            return Ok(());
        }
        // A cluster that is beyond it already goes on, and so do the present incarnations of its members.
        let mut joined = self.vector();
        let goes_on = joined.len() + MEMBERS_MAX;
        joined.join(vector);
        if joined.len() > PLACES_MAX.max(goes_on) {
            let (told, all) = (vector.len(), joined.len());
            return Err(format!("a vector of {told} places, which makes {all} together with this node's; {PLACES_MAX} are the most"));
        }
        Ok(())
    }

    fn no_common_protocol(&self, hello: &Hello) -> String {
        let (id, peer) = (self.config.id, hello.node);
        let (ours, theirs) = (self.protocols, hello.spoken());
        let (older, from, to) = if ours.max < theirs.min { (id, ours.max, theirs.min) } else { (peer, theirs.max, ours.min) };
        format!(
            "node {id} speaks peer protocol {ours}, and node {peer} speaks {theirs}: none in common. Node {older} runs the older build: upgrade by way of a \
             build that speaks both {from} and {to}"
        )
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

    /// **I9**: no clock is dragged ahead by a bad one. A stamp is held against this node's own reference clock, whatever others have stamped before.
    pub(super) fn check_stamp(&self, stamp: Stamp, now: Now) -> Result<(), String> {
        if stamp >= Stamp::LIMIT {
            return Err(format!("stamp {stamp} is beyond every clock"));
        }
        let (ahead, offset_max) = (self.clock.ahead(stamp, now.elapsed), self.config.clock_offset_max);
        if ahead > offset_max && !self.is_blank() {
            let (ahead, offset_max) = (ahead.as_millis(), offset_max.as_millis());
            return Err(format!(
                "stamp {stamp} is {ahead} ms ahead of this node's clock, and at most {offset_max} are allowed: set the clock right that is wrong (NTP does); \
                 if the clocks are right and what was stamped ahead is to stay, let all members run with a clock_offset_max_ms above {ahead} until that time is over"
            ));
        }
        Ok(())
    }

    /// **I9**: two reference clocks that are too far apart do not meet. What a peer's showed when it said so; its wall clock, of a build that has no other. `is_fresh`: it has not waited behind anything
    /// long. What has may be as late as it seems to be behind: then it is the peer that finds this node's clock ahead.
    pub(super) fn check_clock(&self, peer: usize, clocks: Option<Clocks>, wall_ms: u64, is_fresh: bool, now: Now) -> Result<(), String> {
        let theirs_us = clocks.map_or(wall_ms.saturating_mul(1_000), |clocks| clocks.reference_us);
        let offset_ms = theirs_us.wrapping_sub(self.clock.reference_us(now.elapsed)) as i64 / 1_000;
        let offset_max = self.config.clock_offset_max.as_millis();
        let is_apart = !is_within(&self.config, offset_ms);
        if is_apart && offset_ms < 0 && !is_fresh {
            return Ok(());
        }
        let node = {
            let peer = &mut self.peers.table().peers[peer];
            peer.clocks.compare(offset_ms, wall_ms.wrapping_sub(now.wall_ms) as i64, now);
            peer.id
        };
        if is_apart && !self.is_blank() {
            return Err(format!(
                "the clocks of node {node} and node {} are {offset_ms} ms apart, and at most {offset_max} are allowed: set the one right that is wrong (NTP does)",
                self.config.id
            ));
        }
        Ok(())
    }

    /// A peer has stamped this. To be called before what carries the stamp becomes visible, and after [`Replica::check_stamp`].
    pub(super) fn observe(&self, stamp: Stamp, now: Now) {
        // A node that has nothing yet takes the clock over, however far ahead it is.
        if self.clock.ahead(stamp, now.elapsed) > self.config.clock_offset_max / 2 && self.is_blank() {
            self.clock.take_over(stamp, now.elapsed);
        } else {
            self.tell_jump(self.clock.observe(stamp, now.elapsed));
        }
    }

    /// A peer's clocks have shown this a moment ago.
    pub(super) fn hear_clocks(&self, clocks: Option<Clocks>, now: Now) {
        if let Some(clocks) = clocks {
            self.tell_jump(self.clock.hear(clocks.stamp_us, now.elapsed));
        }
    }

    /// All members stamp at the pace of the fastest: what has raised this node's clock by much the others hear at once.
    fn tell_jump(&self, has_jumped: bool) {
        if has_jumped {
            self.links.beat();
        }
    }

    /// The same of what a client restores, for whose words nobody answers. What this node has stamped or seen already moves nothing.
    pub(super) fn check_restored_stamp(&self, stamp: Stamp, now: Now) -> Result<(), String> {
        if stamp <= self.clock.last() { Ok(()) } else { self.check_stamp(stamp, now) }
    }

    /// A blank node has nothing to lose to a wrong clock, and takes over the mesh's.
    fn is_blank(&self) -> bool {
        self.coverage.is_empty() && self.submit.position() == Stamp::ZERO && self.store.is_empty()
    }

    /// The outgoing connection is being made: batches are queued from here on, and the HELLO that is sent next says from where.
    pub fn dialing(&self, peer: usize) {
        self.links.outbox(peer).open();
    }

    /// The peer has answered the dial with a good HELLO.
    pub fn dialed(&self, peer: usize, hello: &Hello, now: Now) {
        self.observe(hello.vector.greatest(), now);
        self.hear_clocks(hello.clocks, now);
        self.hear_of_incarnations(hello);
        self.learn_scan_order(hello.order);
        self.decide(now, |table| {
            table.peers[peer].spoken = hello.spoken().max;
            table.linked_out(peer, true, now);
        });
    }

    /// A beat is under way, at the end of so many bytes of the outgoing connection.
    pub fn awaits_echo(&self, peer: usize, len: u64) {
        self.peers.table().peers[peer].liveness.await_echo(len);
    }

    /// The outgoing connection has ended, or was not made.
    pub fn hung_up(&self, peer: usize, now: Now) {
        self.links.outbox(peer).close();
        self.decide(now, |table| table.linked_out(peer, false, now));
    }

    /// Own writes, encoded: to the log first, so that no peer knows of a write in front of it there; then to every peer that listens. `room` is what they hold until
    /// the log has taken them, too.
    pub fn hand_over(&self, batch: &EncodedBatch, room: Permit) {
        self.persistence.record_own(Arc::clone(&batch.bytes), batch.upto, room);
        self.links.push(batch);
    }

    /// The next beat of a connection to this peer, on which `said` is what the peer was told of the vector, and all batches up to `upto` have passed.
    pub fn beat(&self, peer: usize, upto: Stamp, said: &mut VersionVector, now: Now) -> Heartbeat {
        let vector = self.vector();
        // After the vector, which may say more than what was noted until then.
        let (mark, durable_mark) = self.persistence.marks();
        let changes = vector.ahead_of(said);
        said.join(&changes);
        let settled = match &self.peers.table().quiescent {
            Some(QuiescentState { vector: settled, digest, before_ms }) if *settled == vector => {
                Some(QuiescentDigest { sum: digest.sum, keys: digest.keys, before_ms: *before_ms })
            }
            _ => None,
        };
        Heartbeat {
            sent: now.elapsed.as_micros() as u64,
            wall_ms: now.wall_ms,
            clocks: Some(self.clock.read(now.elapsed)),
            open: self.vouches(),
            upto,
            vector: changes,
            settled,
            taken: self.links.traffic_with(peer).heard_len(),
            mark,
            durable_mark,
            order: self.scan_order.get(),
        }
    }

    /// Begins to serve a request. Choosing full or delta by the asker's vector, noting vector and horizon, and stopping the collector (until the result is
    /// dropped) is one step under the collector's lock (I6).
    pub fn serve(&self, request: Request) -> Serving<'_> {
        let mut table = self.peers.table();
        table.serving += 1;
        let full = !request.vector.covers_all(&table.horizon);
        let kind = match (request.heal, full) {
            // Below the horizon absence must be proof, which healing does without.
            (_, true) => DumpKind::Full,
            (true, false) => DumpKind::Heal,
            (false, false) => DumpKind::Delta,
        };
        let header = Header::new(kind, self.origin, self.vector(), self.store.len(), Some(request.id));
        let asker = if kind == DumpKind::Delta { request.vector } else { VersionVector::default() };
        Serving { replica: self, scan: DumpScan::new(header, asker, table.horizon.clone()), beside_collector: None }
    }

    /// The same for whoever asks with `DUMP`: everything. A client may take its time, and the collector does not rest meanwhile: in a full dump the absence of a key is proof, whether its tombstone was
    /// there when the dump began or not. The end line has the horizon of the end, as far as the header's vector goes.
    pub fn dump(&self) -> Serving<'_> {
        let table = self.peers.table();
        let vector = self.vector();
        let header = Header::new(DumpKind::Full, self.origin, vector.clone(), self.store.len(), None);
        let scan = DumpScan::new(header, VersionVector::default(), table.horizon.clone());
        Serving { replica: self, scan, beside_collector: Some(vector) }
    }

    /// A reference clock that another member's is too far from gives way to a wall clock that enough members agree with.
    fn rebase_clock(&self, now: Now) {
        let ahead_ms = now.wall_ms.wrapping_sub(self.clock.reference_us(now.elapsed) / 1_000) as i64;
        {
            let mut table = self.peers.table();
            if !table.should_rebase(&self.config, ahead_ms, now) {
                return;
            }
            self.clock.rebase(now);
            table.rebased(ahead_ms);
        }
        log::warn!(
            "this node's clock was {ahead_ms} ms off its wall clock, which other members agree with: it goes by that now (was the machine suspended, or its clock wrong at the start?)"
        );
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

    /// Writes are taken by this node: they can be logged, and its incarnation may begin. An error says
    /// why not, and what helps.
    pub fn writable(&self) -> Result<(), String> {
        self.persistence.writable()?;
        self.may_begin()
    }

    /// This node's acks are worth something: it serves clients, and logs.
    fn vouches(&self) -> bool {
        self.is_open() && self.persistence.is_writable()
    }

    /// The regular look at everything: who lags, who is up, whom to ask, whether to open.
    pub fn tick(&self, now: Now) {
        self.clock.slew(now);
        self.rebase_clock(now);
        self.acks.observe_lag(self.submit.position(), self.submit.written(), now.elapsed);
        self.decide(now, |_| ());
        self.scan_order.apply();
        self.links.beat();
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

    /// Whether this node serves clients, and how well.
    pub fn stage(&self) -> Stage {
        self.peers.table().stage
    }
}

/// A dump being served. The collector rests while it lives, unless it is a client's.
pub struct Serving<'a> {
    replica: &'a Replica,
    scan: DumpScan,
    /// The header's vector, where the collector does not rest.
    beside_collector: Option<VersionVector>,
}

impl<'a> Serving<'a> {
    /// To be made where `serving` was counted, under the same lock.
    pub(super) fn new(replica: &'a Replica, scan: DumpScan) -> Serving<'a> {
        Serving { replica, scan, beside_collector: None }
    }

    /// Appends about `len` bytes of whole lines; whether there is more.
    pub fn write(&mut self, len: usize, out: &mut Vec<u8>) -> bool {
        if let Some(vector) = &self.beside_collector {
            let horizon = self.replica.peers.table().horizon.clone();
            self.scan.set_horizon(horizon.iter().map(|(origin, stamp)| (origin, stamp.min(vector.get(origin)))).collect());
        }
        self.scan.write(&self.replica.store, len, out)
    }

    /// Entries written so far.
    pub fn count(&self) -> u64 {
        self.scan.count()
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if self.beside_collector.is_none() {
            self.replica.peers.table().serving -= 1;
        }
    }
}
