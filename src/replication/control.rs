//! What a node knows of its peers, and what it decides from that: who is up, whom to ask for a dump, when to open, what may be collected.
//!
//! Pure: plain values in, decisions out, no locks, no sockets, no clock of its own. One lock in mesh.rs guards it; it is the "collector's lock" of the
//! invariants.

use std::fmt;
use std::time::Duration;

use log::Level;

use crate::clock::Now;
use crate::config::Config;
use crate::entry::{NodeId, Origin, SeenVector, Version};
use crate::protocol::peer::{Hello, Protocol, Request};
use crate::sabotage::Sabotage;
use crate::store::Digest;

/// Peer time-outs without an answer after which a connection is given up. More than one: a peer that is merely slow should not lose its place in the stream.
const HANG_UP_AFTER: u32 = 3;

/// Peer time-outs for which the parts of a long message count as progress, although neither a beat is answered nor a line of a dump is whole. With the defaults,
/// enough for the longest legal message at 1.7 MB a second. Beyond this, whoever sends or takes bytes without end is given up.
const LONG_MESSAGE_PATIENCE: u32 = 100;

/// All of it.
pub struct Control {
    pub peers: Vec<Peer>,
    pub stage: Stage,
    /// The dump that this node takes; one at a time.
    pub taking: Option<Taking>,
    /// Whether a client is restoring one. Invariant: not while `taking`.
    pub restoring: bool,
    /// Dumps that this node serves.
    pub serving: usize,
    /// The greatest collected stamp of each origin: a node below it can no longer learn every delete from entries alone.
    pub horizon: SeenVector,
    /// When the data was last at rest.
    pub settled: Option<Settled>,
    pub divergences: u64,
    pub collected: u64,
    requests: u64,
    /// When all was last looked at, and until when a pause of this process itself (a stop signal, a starved machine) excuses the silence of peers.
    looked: Duration,
    excused: Duration,
}

/// Data at rest.
pub struct Settled {
    pub vector: SeenVector,
    /// Of all that does not expire before `before_ms`.
    pub digest: Digest,
    pub before_ms: u64,
}

/// Whether clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Catching up; clients hear LOADING.
    Recovering,
    /// Serving. `degraded`: opened without having heard from a majority.
    Open { degraded: bool },
}

/// One peer, as far as decisions go.
pub struct Peer {
    pub id: NodeId,
    /// Counts its incoming connections: what an older one still delivers is told apart by it.
    pub epoch: u64,
    pub linked_in: bool,
    pub linked_out: bool,
    /// Since when, or since when not.
    linked_out_since: Duration,
    /// Its present life, from its last HELLO.
    pub origin: Option<Origin>,
    /// The greatest protocol that it speaks, by its last HELLO; of one that was never heard, the oldest.
    pub spoken: Protocol,
    pub members: Vec<NodeId>,
    /// Its newest known vector. A HELLO replaces it, lower or not.
    pub vector: SeenVector,
    /// Its vector at its last HELLO: what this node must cover to have caught up with it.
    target: SeenVector,
    /// A vector of it that this node is waiting to cover, and the last one that it did. The collector believes only the latter.
    candidate: Option<SeenVector>,
    pub proven: Option<SeenVector>,
    /// When this node sent the beat that the peer echoed last, on the present connections.
    echoed: Option<Duration>,
    pub round_trip: Duration,
    /// Whether it serves clients, by its last beat: while it catches up it vouches for nothing, and does not count towards a quorum.
    pub open: bool,
    pub up: bool,
    /// Whether it was last reported as one that counts.
    counts: bool,
    /// Since when it is up or down.
    pub since: Duration,
    /// Frames are missing between what this node has seen and what the peer sends.
    pub gap: bool,
    /// Its data differs at an equal vector.
    heal: bool,
    /// A divergence is not looked at before.
    heal_after: Duration,
    /// When it last brought this node forward, or was found to be there at all.
    progressed: Duration,
    /// Not to be asked before.
    ask_after: Duration,
    /// Its reference clock minus this node's, by the last comparison.
    pub clock_offset_ms: i64,
    /// When the two were compared last.
    pub compared: Option<Duration>,
    /// Its wall clock when it was heard last, milliseconds since 1970; 0 if never. A HELLO replaces it, lower or not.
    pub wall_ms: u64,
    /// How often a second process took this peer's place, in a row.
    replaced: u32,
}

/// When something last moved on the connections with a peer.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes of it arrived.
    pub heard: Duration,
    /// More of a long message of it arrived, which is not whole yet. What comes after it, its echoes too, waits for its end.
    pub arriving: Duration,
    /// More of a long message to it left, of which some still waits. What is said after it, this node's beats too, waits for its end.
    pub leaving: Duration,
}

/// The dump being taken.
pub struct Taking {
    pub peer: usize,
    pub epoch: u64,
    pub id: u64,
    pub heal: bool,
    started: Duration,
    progressed: Duration,
    pub entries: u64,
}

/// What happened, to be logged once the lock is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Up(NodeId),
    Down(NodeId, &'static str),
    Contested(NodeId),
    Opened { degraded: bool, caught_up: Vec<NodeId>, missing: Vec<NodeId> },
    Whole,
    Asked { node: NodeId, why: &'static str },
    Stalled(NodeId),
}

impl Event {
    pub fn level(&self) -> Level {
        match self {
            Event::Contested(_) => Level::Error,
            Event::Down(..) | Event::Stalled(_) | Event::Opened { degraded: true, .. } => Level::Warn,
            Event::Up(_) | Event::Opened { .. } | Event::Whole | Event::Asked { .. } => Level::Info,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Up(node) => write!(f, "node {node} is up"),
            Event::Down(node, why) => write!(f, "node {node} is down: {why}"),
            Event::Contested(node) => {
                write!(f, "two processes keep replacing each other as node {node}: check the ids in their configurations, and stop one")
            }
            Event::Opened { degraded: false, caught_up, missing } if missing.is_empty() => {
                write!(f, "open to clients; caught up with {}", names(caught_up))
            }
            Event::Opened { degraded: false, caught_up, missing } => {
                write!(f, "open to clients; caught up with {}, without hearing from {}", names(caught_up), names(missing))
            }
            Event::Opened { degraded: true, missing, .. } => write!(
                f,
                "open to clients, DEGRADED: this is less than a majority; nothing heard from {}, whose writes may be missing here",
                names(missing)
            ),
            Event::Whole => f.write_str("no longer degraded: caught up with a majority"),
            Event::Asked { node, why } => write!(f, "asking node {node} for a dump: {why}"),
            Event::Stalled(node) => write!(f, "the dump from node {node} makes no progress; given up, to be asked for again"),
        }
    }
}

/// "node 2", "nodes 2 and 3", "nobody".
pub fn names(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "nobody".to_owned(),
        [one] => format!("node {one}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(NodeId::to_string).collect();
            format!("nodes {} and {last}", first.join(", "))
        }
    }
}

/// What to do after a [`Control::review`].
#[derive(Default)]
pub struct Decisions {
    pub events: Vec<Event>,
    /// Peers that begin or cease to count towards a quorum.
    pub counts: Vec<(usize, bool)>,
    pub ask: Option<(usize, Request)>,
    /// Peers whose outgoing connection leads nowhere.
    pub hang_up: Vec<usize>,
    pub open: bool,
}

impl Control {
    pub fn new(config: &Config, nonce: u64, now: Now) -> Control {
        let peer = |id| Peer {
            id,
            epoch: 0,
            linked_in: false,
            linked_out: false,
            linked_out_since: now.elapsed,
            origin: None,
            spoken: Protocol::OLDEST,
            members: Vec::new(),
            vector: SeenVector::default(),
            target: SeenVector::default(),
            candidate: None,
            proven: None,
            echoed: None,
            round_trip: Duration::ZERO,
            open: false,
            up: false,
            counts: false,
            since: now.elapsed,
            gap: false,
            heal: false,
            heal_after: Duration::ZERO,
            progressed: now.elapsed,
            ask_after: Duration::ZERO,
            clock_offset_ms: 0,
            compared: None,
            wall_ms: 0,
            replaced: 0,
        };
        Control {
            peers: config.peers.iter().map(|configured| peer(configured.id)).collect(),
            stage: Stage::Recovering,
            taking: None,
            restoring: false,
            serving: 0,
            horizon: SeenVector::default(),
            settled: None,
            divergences: 0,
            collected: 0,
            // Not from 0: what a former life asked for must not be taken for an answer to this one.
            requests: nonce,
            looked: now.elapsed,
            excused: Duration::ZERO,
        }
    }

    /// The disk has been read: from now on the peers are waited for.
    pub fn begin_recovery(&mut self, now: Now) {
        self.looked = now.elapsed;
        for peer in &mut self.peers {
            peer.progressed = now.elapsed;
            peer.since = now.elapsed;
        }
    }

    /// An incoming connection whose HELLO was found good. `gap`: the peer has writes of its own that are missing here. Returns its epoch.
    pub fn accept(&mut self, peer: usize, hello: &Hello, gap: bool, now: Now) -> (u64, Option<Event>) {
        let peer = &mut self.peers[peer];
        let contested = peer.linked_in && peer.origin.is_some_and(|origin| origin != hello.origin);
        peer.replaced = if contested { peer.replaced + 1 } else { 0 };
        peer.epoch += 1;
        peer.linked_in = true;
        peer.origin = Some(hello.origin);
        peer.spoken = hello.spoken().max;
        peer.members = hello.members.clone();
        peer.vector = hello.vector.clone();
        peer.target = hello.vector.clone();
        peer.candidate = None;
        peer.proven = None;
        peer.echoed = None;
        peer.open = false;
        peer.gap = gap;
        peer.heal = false;
        if peer.epoch == 1 {
            // Only the first: one that is restarted again and again brings nobody forward.
            peer.progressed = now.elapsed;
        }
        peer.wall_ms = hello.wall_ms;
        let event = (peer.replaced >= 3 && peer.replaced % 100 == 3).then_some(Event::Contested(peer.id));
        (peer.epoch, event)
    }

    /// The peer has answered a beat that was sent at `sent`.
    pub fn echoed(&mut self, peer: usize, sent: Duration, now: Now) {
        let peer = &mut self.peers[peer];
        if sent > now.elapsed {
            // Of a former life of this node.
            return;
        }
        peer.echoed = peer.echoed.max(Some(sent));
        peer.round_trip = now.elapsed.saturating_sub(sent);
    }

    /// The outgoing connection began or ended: echoes of an earlier one count no longer.
    pub fn linked_out(&mut self, peer: usize, linked: bool, now: Now) {
        self.peers[peer].linked_out = linked;
        self.peers[peer].linked_out_since = now.elapsed;
        self.peers[peer].echoed = None;
    }

    /// A line of the dump that is being taken has come.
    pub fn dump_progressed(&mut self, entries: u64, now: Now) {
        if let Some(taking) = &mut self.taking {
            taking.progressed = now.elapsed;
            taking.entries = entries;
            self.peers[taking.peer].progressed = now.elapsed;
        }
    }

    /// The dump has ended, well or not. The next request waits at least as long as this one took: a link that flaps, or is too slow, does not make its
    /// donor scan without pause.
    pub fn dump_ended(&mut self, now: Now) -> Option<Duration> {
        let taking = self.taking.take()?;
        let took = now.elapsed.saturating_sub(taking.started);
        let peer = &mut self.peers[taking.peer];
        peer.ask_after = now.elapsed + took;
        peer.progressed = now.elapsed;
        if taking.heal {
            peer.heal = false;
        }
        // A dump may change data without moving the vector: look again before comparing.
        self.settled = None;
        Some(took)
    }

    /// Equal vectors at rest, unequal data. Returns whether that is news; were healing to fail, it would be tried again after `pause`.
    pub fn diverged(&mut self, peer: usize, pause: Duration, now: Now) -> bool {
        let peer = &mut self.peers[peer];
        let news = !peer.heal && now.elapsed >= peer.heal_after;
        if news {
            self.divergences += 1;
            peer.heal = true;
            peer.heal_after = now.elapsed + pause;
        }
        news
    }

    /// Everything that follows from the state as it is now. `traffic` is of each peer; `vector` is this node's own.
    pub fn review(&mut self, config: &Config, origin: Origin, vector: &SeenVector, traffic: &[Traffic], now: Now) -> Decisions {
        let mut decisions = Decisions::default();
        self.review_links(config, traffic, now, &mut decisions);
        self.review_dumps(config, origin, vector, traffic, now, &mut decisions);
        self.review_stage(config, vector, traffic, now, &mut decisions);
        self.review_proofs(vector);
        decisions
    }

    /// Whether this node has what the peer had at its HELLO, over links that work both ways.
    pub fn caught_up(&self, peer: usize, vector: &SeenVector) -> bool {
        let peer = &self.peers[peer];
        peer.up && vector.covers_all(&peer.target)
    }

    /// Whether a dump is being taken, a peer's or a client's.
    pub fn is_taking(&self) -> bool {
        self.taking.is_some() || self.restoring
    }

    /// Whether the collector may work at all (I6): nobody is served or taken from, nobody that is up disagrees on the members.
    pub fn may_collect(&self, members: &[NodeId]) -> bool {
        self.serving == 0 && !self.is_taking() && self.peers.iter().all(|peer| !peer.up || peer.members == members)
    }

    /// Whether data may change although vectors stand still.
    pub fn is_moving(&self) -> bool {
        self.serving > 0 || self.is_taking() || self.peers.iter().any(|peer| peer.gap)
    }

    /// Whether every member is proven to cover a tombstone (I6 a).
    pub fn all_cover(&self, version: Version) -> bool {
        self.peers.iter().all(|peer| peer.covers(version))
    }

    /// How late it is by the clocks of all members, each as it was heard last: what expires before then has expired for everybody.
    pub fn all_clocks_ms(&self, now: Now) -> u64 {
        self.peers.iter().map(|peer| peer.wall_ms).fold(now.wall_ms, u64::min)
    }

    /// The same by those that are up, who must be a majority together with this node.
    pub fn majority_clocks_ms(&self, majority: usize, now: Now) -> Option<u64> {
        let up = || self.peers.iter().filter(|peer| peer.up);
        (1 + up().count() >= majority).then(|| up().map(|peer| peer.wall_ms).fold(now.wall_ms, u64::min))
    }

    /// A peer is up when both directions made progress within the time-out: its bytes arrive, and it answers this node's beats.
    fn review_links(&mut self, config: &Config, traffic: &[Traffic], now: Now, decisions: &mut Decisions) {
        if now.elapsed.saturating_sub(self.looked) > config.peer_timeout / 2 {
            // What the peers sent meanwhile is still to be read.
            self.excused = now.elapsed + config.peer_timeout;
        }
        self.looked = now.elapsed;
        let excused = now.elapsed < self.excused;
        for (place, peer) in self.peers.iter_mut().enumerate() {
            let recent = |at: Duration| now.elapsed.saturating_sub(at) < config.peer_timeout || (excused && peer.up);
            let trouble = match (peer.linked_in, peer.linked_out, peer.echoed) {
                (false, _, _) => Some("its connection to this node ended"),
                (_, false, _) => Some("the connection to it ended"),
                _ if !recent(traffic[place].heard) => Some("nothing heard from it"),
                (_, _, None) => Some("no beat answered yet"),
                (_, _, Some(echoed)) if !recent(echoed) => Some("it does not answer"),
                _ => None,
            };
            // A network that swallows what is sent says nothing for as long as the kernel has patience: rather dial anew.
            let answered = peer.linked_out_since.max(peer.echoed.unwrap_or_default());
            let moved = answered.max(traffic[place].arriving).max(traffic[place].leaving);
            if peer.linked_out && is_over(config.peer_timeout, HANG_UP_AFTER, answered, moved, now) {
                decisions.hang_up.push(place);
            }
            let counts = trouble.is_none() && peer.open;
            if peer.counts != counts {
                peer.counts = counts;
                decisions.counts.push((place, counts));
            }
            if peer.up == trouble.is_none() {
                continue;
            }
            peer.up = trouble.is_none();
            peer.since = now.elapsed;
            decisions.events.push(trouble.map_or(Event::Up(peer.id), |why| Event::Down(peer.id, why)));
        }
    }

    fn review_dumps(
        &mut self,
        config: &Config,
        origin: Origin,
        vector: &SeenVector,
        traffic: &[Traffic],
        now: Now,
        decisions: &mut Decisions,
    ) {
        if let Some(taking) = &self.taking {
            let peer = &self.peers[taking.peer];
            let moved = taking.progressed.max(traffic[taking.peer].arriving);
            let stalled = is_over(config.peer_timeout, 1, taking.progressed, moved, now);
            if stalled {
                decisions.events.push(Event::Stalled(peer.id));
            }
            if stalled || !peer.linked_in || peer.epoch != taking.epoch {
                let progressed = peer.progressed;
                let place = taking.peer;
                self.dump_ended(now);
                // Failing is no progress.
                self.peers[place].progressed = progressed;
            }
        }
        let wishes: Vec<(usize, &'static str)> =
            (0..self.peers.len()).filter_map(|peer| Some((peer, self.wish(peer, origin, vector)?))).collect();
        if let Some(taking) = &self.taking {
            // Waiting for its turn is no lack of progress while the turn of another gets on; not serving is.
            let progressed = self.progressed(taking.peer, traffic);
            for (peer, _) in wishes.into_iter().filter(|(peer, _)| *peer != taking.peer) {
                self.peers[peer].progressed = progressed.max(self.peers[peer].progressed);
            }
            return;
        }
        if self.restoring {
            return;
        }
        if let Some((peer, why)) = wishes.into_iter().find(|(peer, _)| now.elapsed >= self.peers[*peer].ask_after) {
            self.requests = self.requests.wrapping_add(1);
            let Peer { epoch, heal, id: node, .. } = self.peers[peer];
            let id = self.requests;
            self.taking = Some(Taking { peer, epoch, id, heal, started: now.elapsed, progressed: now.elapsed, entries: 0 });
            decisions.ask = Some((peer, Request { id, vector: vector.clone(), heal }));
            decisions.events.push(Event::Asked { node, why });
        }
    }

    /// Why a peer should be asked for a dump, if it should: the two have diverged, frames of it are missing, or it has writes of origins that do not
    /// send to this node themselves.
    fn wish(&self, peer: usize, origin: Origin, vector: &SeenVector) -> Option<&'static str> {
        let peer = &self.peers[peer];
        if !peer.linked_in || !peer.linked_out {
            return None;
        }
        if peer.heal {
            return Some("its data differs at an equal vector");
        }
        if peer.gap {
            return Some("writes of it are missing here");
        }
        // One whose gap cannot be closed, because it cannot be asked, does not count.
        let sends =
            |other: Origin| self.peers.iter().any(|peer| peer.linked_in && (peer.linked_out || !peer.gap) && peer.origin == Some(other));
        let ahead = peer.vector.iter().any(|(other, stamp)| stamp > vector.get(other) && other != origin && !sends(other));
        ahead.then_some("it has writes of others that are missing here")
    }

    /// When a peer last brought this node forward. A line of the dump that is being taken does while it arrives.
    fn progressed(&self, peer: usize, traffic: &[Traffic]) -> Duration {
        let arriving = self.taking.as_ref().filter(|taking| taking.peer == peer).map(|_| traffic[peer].arriving);
        self.peers[peer].progressed.max(arriving.unwrap_or_default())
    }

    fn review_stage(&mut self, config: &Config, vector: &SeenVector, traffic: &[Traffic], now: Now, decisions: &mut Decisions) {
        let (caught_up, missing): (Vec<usize>, Vec<usize>) = (0..self.peers.len()).partition(|peer| self.caught_up(*peer, vector));
        let majority = 1 + caught_up.len() >= config.majority();
        match self.stage {
            Stage::Recovering => {
                let waits = |peer: &usize| now.elapsed.saturating_sub(self.progressed(*peer, traffic)) < config.recovery_wait;
                if missing.iter().any(waits) || !self.disputed(config, now).is_empty() {
                    return;
                }
                self.stage = Stage::Open { degraded: !majority };
                decisions.open = true;
                let ids = |peers: Vec<usize>| peers.into_iter().map(|peer| self.peers[peer].id).collect();
                decisions.events.push(Event::Opened { degraded: !majority, caught_up: ids(caught_up), missing: ids(missing) });
            }
            Stage::Open { degraded: true } if majority => {
                self.stage = Stage::Open { degraded: false };
                decisions.events.push(Event::Whole);
            }
            Stage::Open { .. } => {}
        }
    }

    /// The members whose clocks are too far from this node's, unless enough others agree with this one: then it is those that are wrong (**I9**). A node whose clock is wrong does not open, so
    /// that nothing is stamped by it.
    pub fn disputed(&self, config: &Config, now: Now) -> Vec<NodeId> {
        let patience = config.recovery_wait + 2 * config.reconnect_pause_max;
        let is_recent = |peer: &&Peer| peer.compared.is_some_and(|at| now.elapsed.saturating_sub(at) < patience);
        let agrees = |peer: &&Peer| u128::from(peer.clock_offset_ms.unsigned_abs()) <= config.clock_offset_max.as_millis();
        let (agreeing, apart): (Vec<&Peer>, Vec<&Peer>) = self.peers.iter().filter(is_recent).partition(agrees);
        if 1 + agreeing.len() >= config.majority() { Vec::new() } else { apart.iter().map(|peer| peer.id).collect() }
    }

    /// Of each peer the newest vector counts that this node covers in every origin. A busy mesh never stands still, so one vector is held until it is
    /// covered, and then the next.
    fn review_proofs(&mut self, vector: &SeenVector) {
        for peer in self.peers.iter_mut().filter(|peer| peer.epoch > 0) {
            if vector.covers_all(&peer.vector) || Sabotage::CollectUncovered.is_on() {
                peer.proven = Some(peer.vector.clone());
                peer.candidate = None;
            } else if peer.candidate.as_ref().is_some_and(|candidate| vector.covers_all(candidate)) {
                peer.proven = peer.candidate.replace(peer.vector.clone());
            } else if peer.candidate.is_none() {
                peer.candidate = Some(peer.vector.clone());
            }
        }
    }
}

/// Whether the patience with a peer is over: nothing has `moved` for so many time-outs, or nothing but parts of long messages for far too long.
fn is_over(timeout: Duration, timeouts: u32, progressed: Duration, moved: Duration, now: Now) -> bool {
    let ago = |at: Duration| now.elapsed.saturating_sub(at);
    ago(moved) > timeouts * timeout || ago(progressed) > LONG_MESSAGE_PATIENCE * timeout
}

impl Peer {
    /// Whether it is proven to cover a version.
    pub fn covers(&self, version: Version) -> bool {
        self.proven.as_ref().is_some_and(|proven| proven.covers(version))
    }
}
