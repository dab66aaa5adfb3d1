//! What a node knows of its peers, and what it decides from that: who is up, whom to ask for a dump, when to open, what may be collected.
//!
//! Pure: plain values in, decisions out, no locks, no sockets, no clock of its own. One lock in replica.rs guards it; it is the "collector's lock" of the
//! invariants.

use std::fmt;
use std::time::Duration;

use log::Level;

use crate::config::Config;
use crate::data::clock::Now;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::lock_order::{Locked, Mutex, Rank};
use crate::replication::folding::Folding;
use crate::replication::links::traffic::Traffic;
use crate::store::Digest;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::peer::{Heartbeat, Hello, MESSAGE_LEN_MAX, Protocol, Request};

/// Peer time-outs without progress after which a connection is given up. More than one: a peer that is merely slow should not lose its place in the stream.
const HANG_UP_AFTER: u32 = 3;

/// Peer time-outs for which what leaves counts as progress where the peer does not tell what it takes. Beyond this, it is given up.
const LEAVING_PATIENCE: u32 = 100;

/// So many bytes of a peer within a time-out are more than its beats and acks: something long arrives, and what the peer has said since waits behind it. A link that carries less than that is too slow
/// for what is long.
const BULK_LEN: u64 = 4 << 10;

/// More bytes than can lie between two beats, or two parts of a dump: the longest message, and what else the peer had in hand. Beyond this, bytes are no progress.
const APART_MAX: u64 = MESSAGE_LEN_MAX as u64 + (4 << 20);

/// After a folding of incarnations that a HELLO has ended: all members are asked for dumps anew, and where one comes and goes that would never stop.
const FOLD_PAUSE: Duration = Duration::from_secs(10);

/// How often the pause doubles before a peer is asked again whose dump was refused: with the defaults up to about a minute.
const REFUSED_DOUBLINGS_MAX: u32 = 5;

/// The peer table of one node, behind its lock.
pub struct Peers(Mutex<PeerTable>);

/// The peer table, locked. What needs it locked takes this.
pub type LockedTable<'a> = Locked<'a, PeerTable>;

impl Peers {
    pub fn new(table: PeerTable) -> Peers {
        Peers(Mutex::new(Rank::PeerTable, table))
    }

    /// Locks the table. Acks of peers wait meanwhile, so nothing long is done under it.
    pub fn table(&self) -> LockedTable<'_> {
        self.0.lock()
    }
}

/// Everything that this node knows of its peers, and what it has decided from that.
pub struct PeerTable {
    pub peers: Vec<Peer>,
    pub stage: Stage,
    /// The dump that this node takes; one at a time.
    pub taking: Option<Taking>,
    /// Connections of which lines are being merged at this moment. The dump may be given up meanwhile, and be taken no more.
    pub merging: usize,
    /// Whether a client is restoring one. None begins while `taking`, and a peer is asked all the same while it goes on.
    pub restoring: bool,
    /// Dumps that this node serves to peers, and the snapshot that it writes: the collector rests meanwhile.
    pub serving: usize,
    /// The greatest collected stamp of each origin: a node below it can no longer learn every delete from entries alone.
    pub horizon: VersionVector,
    /// When the data was last at rest.
    pub settled: Option<Settled>,
    pub divergences: u64,
    pub collected: u64,
    /// Incarnations that are to be folded once all peers have been asked.
    pub folding: Option<Folding>,
    /// Not to be thought of before.
    pub fold_after: Duration,
    requests: u64,
    /// When a peer last said HELLO: what any of them said of its vector before that proves nothing. The one that says HELLO may have lost its disk, and then its writes may be with a peer that had
    /// not heard of them, or not said so, before.
    greeted: Option<Duration>,
    /// When all was last looked at, and until when a pause of this process itself (a stop signal, a starved machine) excuses the silence of peers.
    looked: Duration,
    excused: Duration,
}

/// Data at rest.
pub struct Settled {
    pub vector: VersionVector,
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
    /// Its present incarnation, from its last HELLO.
    pub origin: Option<Origin>,
    /// The greatest protocol that it speaks, by its last HELLO; of one that was never heard, the oldest.
    pub spoken: Protocol,
    pub members: Vec<NodeId>,
    /// Its newest known vector. A HELLO replaces it, lower or not.
    pub vector: VersionVector,
    /// Its vector at its last HELLO: what this node must cover to have caught up with it.
    target: VersionVector,
    /// A vector of it that this node waits to cover, and that waits to be durable there; and the last one that was both. The collector believes only the latter, and only while the peer is up.
    candidate: Option<Candidate>,
    proven: Option<VersionVector>,
    /// When this node sent the beat that the peer echoed last, on the present connections.
    echoed: Option<Duration>,
    /// Bytes of the outgoing connection that it says that it has read; 0 of a build that does not say so.
    taken: u64,
    /// Where in the outgoing connection the first beat ends that is not answered yet.
    awaited: Option<u64>,
    /// When it last showed, by an echo or a beat, that it takes what this node says; or when the outgoing connection began or ended.
    took: Duration,
    /// Since when its beats show that it takes nothing, and when the last of them came.
    idle_since: Option<Duration>,
    beat_at: Duration,
    /// When something long of it last arrived.
    arriving: Duration,
    /// Since when its bytes are counted for that, and how many had arrived by then.
    counted_since: Duration,
    counted_from: u64,
    /// Bytes of it that had arrived at its last beat.
    heard_len_at_beat: u64,
    pub round_trip: Duration,
    /// Whether it serves clients, by its last beat: while it catches up it vouches for nothing, and does not count towards a quorum.
    pub open: bool,
    pub up: bool,
    /// Whether it was last reported as one that counts.
    counts: bool,
    /// Since when it is up or down.
    pub since: Duration,
    /// Batches are missing between what this node has seen and what the peer sends.
    pub gap: bool,
    /// Its data differs at an equal vector.
    heal: bool,
    /// A divergence is not looked at before.
    heal_after: Duration,
    /// When it last brought this node forward, or was found to be there at all.
    progressed: Duration,
    /// Not to be asked before.
    ask_after: Duration,
    /// Dumps of it that were refused, in a row.
    pub dumps_refused: u32,
    /// Its reference clock minus this node's, by the last comparison.
    pub clock_offset_ms: i64,
    /// The same of the wall clocks.
    pub wall_offset_ms: i64,
    /// When they were compared last.
    pub compared: Option<Duration>,
    /// Its wall clock when it was heard last, milliseconds since 1970; 0 if never. A HELLO replaces it, lower or not.
    pub wall_ms: u64,
    /// What went wrong last, and when.
    pub last_error: Option<(Duration, String)>,
    /// How often a second process took this peer's place, in a row.
    replaced: u32,
}

/// What a peer has said of its vector, on its way to be a proof (I6 a).
struct Candidate {
    vector: VersionVector,
    /// The peer's disk has all of it once a beat says so of this mark.
    mark: u64,
    is_durable: bool,
}

/// The dump being taken.
pub struct Taking {
    pub peer: usize,
    pub epoch: u64,
    pub id: u64,
    pub heal: bool,
    started: Duration,
    progressed: Duration,
    /// Bytes of the peer that had arrived by then.
    heard_len: u64,
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

impl Event {
    /// A name for events that differ only in their numbers and words, and the node that it is about.
    pub fn kind(&self) -> (&'static str, Option<NodeId>) {
        match self {
            Event::Up(node) => ("up", Some(*node)),
            Event::Down(node, _) => ("down", Some(*node)),
            Event::Contested(node) => ("contested", Some(*node)),
            Event::Opened { .. } => ("opened", None),
            Event::Whole => ("whole", None),
            Event::Asked { node, .. } => ("asked", Some(*node)),
            Event::Stalled(node) => ("stalled", Some(*node)),
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

/// What to do after a [`PeerTable::review`].
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

impl PeerTable {
    pub fn new(config: &Config, nonce: u64, now: Now) -> PeerTable {
        let peer = |id| Peer {
            id,
            epoch: 0,
            linked_in: false,
            linked_out: false,
            origin: None,
            spoken: Protocol::OLDEST,
            members: Vec::new(),
            vector: VersionVector::default(),
            target: VersionVector::default(),
            candidate: None,
            proven: None,
            echoed: None,
            taken: 0,
            awaited: None,
            took: now.elapsed,
            idle_since: None,
            beat_at: now.elapsed,
            arriving: Duration::ZERO,
            counted_since: now.elapsed,
            counted_from: 0,
            heard_len_at_beat: 0,
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
            dumps_refused: 0,
            clock_offset_ms: 0,
            wall_offset_ms: 0,
            compared: None,
            wall_ms: 0,
            last_error: None,
            replaced: 0,
        };
        PeerTable {
            peers: config.peers.iter().map(|configured| peer(configured.id)).collect(),
            stage: Stage::Recovering,
            taking: None,
            merging: 0,
            restoring: false,
            serving: 0,
            horizon: VersionVector::default(),
            settled: None,
            divergences: 0,
            collected: 0,
            folding: None,
            fold_after: Duration::ZERO,
            // Not from 0: what a former incarnation asked for must not be taken for an answer to this one.
            requests: nonce,
            greeted: None,
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
        if !BrokenRule::CountAbsent.is_on() {
            self.greeted = Some(now.elapsed);
            self.peers.iter_mut().for_each(Peer::disprove);
        }
        if self.folding.take().is_some() {
            self.fold_after = now.elapsed + FOLD_PAUSE;
        }
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
        peer.disprove();
        peer.echoed = None;
        peer.open = false;
        peer.heard_len_at_beat = 0;
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
            // Of a former incarnation of this node.
            return;
        }
        if Some(sent) > peer.echoed {
            peer.echoed = Some(sent);
            peer.awaited = None;
            peer.shows_progress(now);
        }
        peer.round_trip = now.elapsed.saturating_sub(sent);
    }

    /// A beat of the peer: whether it serves clients, and how far it is. The collector takes its word only if it comes after the answer to a beat that this node has sent since the last HELLO of any
    /// peer: if the disk behind that HELLO had been lost, this says what the peer had taken from it.
    pub fn heard_beat(&mut self, peer: usize, beat: &Heartbeat) {
        let peer = &mut self.peers[peer];
        peer.vector.join(&beat.vector);
        peer.open = beat.open;
        if peer.candidate.is_none() && peer.echoed > self.greeted && peer.proven.as_ref() != Some(&peer.vector) {
            peer.candidate = Some(Candidate { vector: peer.vector.clone(), mark: beat.mark, is_durable: false });
        }
        if let Some(candidate) = &mut peer.candidate {
            candidate.is_durable |= candidate.mark <= beat.durable_mark;
        }
    }

    /// The outgoing connection began or ended: echoes of an earlier one count no longer.
    pub fn linked_out(&mut self, peer: usize, linked: bool, now: Now) {
        self.peers[peer].linked_out = linked;
        self.peers[peer].echoed = None;
        self.peers[peer].awaited = None;
        self.peers[peer].shows_progress(now);
        // A request that nothing has come of may be lost with the connection.
        if self.taking.as_ref().is_some_and(|taking| taking.peer == peer && taking.progressed == taking.started) {
            self.dump_failed(now);
        }
    }

    /// A line of the dump that is being taken has come.
    pub fn dump_progressed(&mut self, entries: u64, heard_len: u64, now: Now) {
        if let Some(taking) = &mut self.taking {
            taking.progressed = now.elapsed;
            taking.heard_len = heard_len;
            taking.entries = entries;
            self.peers[taking.peer].progressed = now.elapsed;
        }
    }

    /// The dump has been taken whole.
    pub fn dump_taken(&mut self, now: Now) -> Option<Duration> {
        if let (Some(folding), Some(Taking { peer, started, heal: false, .. })) = (&mut self.folding, &self.taking) {
            folding.took(*peer, *started);
        }
        self.dump_ended(now)
    }

    /// The dump has ended, well or not. The next request waits at least as long as this one took: a link that flaps, or is too slow, does not make its
    /// donor scan without pause.
    fn dump_ended(&mut self, now: Now) -> Option<Duration> {
        let taking = self.taking.take()?;
        let took = now.elapsed.saturating_sub(taking.started);
        let peer = &mut self.peers[taking.peer];
        peer.ask_after = peer.ask_after.max(now.elapsed + took);
        peer.progressed = now.elapsed;
        if taking.heal {
            peer.heal = false;
        }
        // A dump may change data without moving the vector: look again before comparing.
        self.settled = None;
        Some(took)
    }

    /// The dump that is being taken is given up. That is no progress.
    fn dump_failed(&mut self, now: Now) {
        let before = self.taking.as_ref().map(|taking| (taking.peer, self.peers[taking.peer].progressed));
        self.dump_ended(now);
        if let Some((peer, progressed)) = before {
            self.peers[peer].progressed = progressed;
        }
    }

    /// What came of a dump was refused. Each time in a row the next request waits for twice as long. Returns which node's and the pause, if that is news.
    pub fn dump_refused(&mut self, peer: usize, timeout: Duration, now: Now) -> Option<(NodeId, Duration)> {
        let peer = &mut self.peers[peer];
        let pause = timeout * (1 << peer.dumps_refused.min(REFUSED_DOUBLINGS_MAX));
        peer.ask_after = now.elapsed + pause;
        peer.dumps_refused = peer.dumps_refused.saturating_add(1);
        (peer.dumps_refused == 1).then_some((peer.id, pause))
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
    pub fn review(&mut self, config: &Config, origin: Origin, vector: &VersionVector, traffic: &[Traffic], now: Now) -> Decisions {
        let mut decisions = Decisions::default();
        self.review_links(config, traffic, now, &mut decisions);
        self.review_dumps(config, origin, vector, traffic, now, &mut decisions);
        self.review_stage(config, vector, now, &mut decisions);
        self.review_proofs(vector);
        decisions
    }

    /// Whether this node has what the peer had at its HELLO, over links that work both ways.
    pub fn caught_up(&self, peer: usize, vector: &VersionVector) -> bool {
        let peer = &self.peers[peer];
        peer.up && vector.covers_all(&peer.target)
    }

    /// Whether a dump is being taken, a peer's or a client's.
    pub fn is_taking(&self) -> bool {
        self.taking.is_some() || self.restoring
    }

    /// Whether the collector may work at all (I6): nobody is served or taken from, nobody that is up disagrees on the members.
    pub fn may_collect(&self, members: &[NodeId]) -> bool {
        let is_at_rest = self.serving == 0 && self.merging == 0 && !self.is_taking();
        is_at_rest && self.peers.iter().all(|peer| !peer.up || peer.members == members)
    }

    /// Whether data may change although vectors stand still.
    pub fn is_moving(&self) -> bool {
        self.serving > 0 || self.merging > 0 || self.is_taking() || self.peers.iter().any(|peer| peer.gap)
    }

    /// Whether every member is proven to cover a tombstone (I6 a).
    pub fn all_cover(&self, version: Version) -> bool {
        self.peers.iter().all(|peer| peer.proof().is_some_and(|proof| proof.covers(version)))
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

    /// A peer is up when both directions made progress within the time-out: its bytes arrive, and it shows that this node's do.
    fn review_links(&mut self, config: &Config, traffic: &[Traffic], now: Now, decisions: &mut Decisions) {
        if now.elapsed.saturating_sub(self.looked) > config.peer_timeout / 2 {
            // What the peers sent meanwhile is still to be read.
            self.excused = now.elapsed + config.peer_timeout;
        }
        self.looked = now.elapsed;
        let excused = now.elapsed < self.excused;
        for (place, peer) in self.peers.iter_mut().enumerate() {
            peer.note_bulk(&traffic[place], config.peer_timeout, now);
            let moved = peer.moved(config.peer_timeout);
            let recent = |at: Duration| now.elapsed.saturating_sub(at) < config.peer_timeout || (excused && peer.up);
            let trouble = match (peer.linked_in, peer.linked_out, peer.echoed) {
                (false, _, _) => Some("its connection to this node ended"),
                (_, false, _) => Some("the connection to it ended"),
                _ if !recent(traffic[place].heard) => Some("nothing heard from it"),
                (_, _, None) => Some("no beat answered yet"),
                _ if !recent(moved) => Some("it does not answer"),
                _ => None,
            };
            // A network that swallows what is sent says nothing for as long as the kernel has patience: rather dial anew.
            let ago = |at: Duration| now.elapsed.saturating_sub(at);
            let leaves = peer.taken == 0 && ago(peer.took) <= LEAVING_PATIENCE * config.peer_timeout;
            let moved = if leaves { moved.max(traffic[place].leaving) } else { moved };
            if peer.linked_out && ago(moved) > HANG_UP_AFTER * config.peer_timeout {
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
        vector: &VersionVector,
        traffic: &[Traffic],
        now: Now,
        decisions: &mut Decisions,
    ) {
        if let Some(taking) = &self.taking {
            let peer = &self.peers[taking.peer];
            let moved = taking.progressed.max(peer.arriving);
            let stalled = now.elapsed.saturating_sub(moved) > config.peer_timeout
                || traffic[taking.peer].heard_len.saturating_sub(taking.heard_len) > APART_MAX;
            if stalled {
                decisions.events.push(Event::Stalled(peer.id));
            }
            if stalled || !peer.linked_in || peer.epoch != taking.epoch {
                self.dump_failed(now);
            }
        }
        let wishes: Vec<(usize, &'static str)> =
            (0..self.peers.len()).filter_map(|peer| Some((peer, self.wish(peer, origin, vector)?))).collect();
        if let Some(taking) = &self.taking {
            // Waiting for its turn is no lack of progress while the turn of another gets on; not serving is.
            let progressed = self.progressed(taking.peer);
            for (peer, _) in wishes.into_iter().filter(|(peer, _)| *peer != taking.peer) {
                self.peers[peer].progressed = progressed.max(self.peers[peer].progressed);
            }
            return;
        }
        if let Some((peer, why)) = wishes.into_iter().find(|(peer, _)| now.elapsed >= self.peers[*peer].ask_after) {
            self.requests = self.requests.wrapping_add(1);
            let Peer { epoch, heal, id: node, .. } = self.peers[peer];
            let id = self.requests;
            let (started, heard_len) = (now.elapsed, traffic[peer].heard_len);
            self.taking = Some(Taking { peer, epoch, id, heal, started, progressed: started, heard_len, entries: 0 });
            decisions.ask = Some((peer, Request { id, vector: vector.clone(), heal }));
            decisions.events.push(Event::Asked { node, why });
        }
    }

    /// Why a peer should be asked for a dump, if it should: the two have diverged, batches of it are missing, it has writes of origins that do not send to this node themselves, or incarnations are to be
    /// folded.
    fn wish(&self, place: usize, origin: Origin, vector: &VersionVector) -> Option<&'static str> {
        let peer = &self.peers[place];
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
        let mut ahead =
            peer.vector.iter().filter(|(other, stamp)| *stamp > vector.get(*other) && *other != origin && !sends(*other)).peekable();
        if ahead.peek().is_some() {
            let is_folded = ahead.all(|(other, _)| other.is_all_incarnations());
            return Some(if is_folded { "it has folded lives that are over" } else { "it has writes of others that are missing here" });
        }
        let folds = |folding: &Folding| folding.wants(place);
        self.folding.as_ref().is_some_and(folds).then_some("lives that are over are to be folded here")
    }

    /// When a peer last brought this node forward. A line of the dump that is being taken does while it arrives.
    fn progressed(&self, peer: usize) -> Duration {
        let arriving = self.taking.as_ref().filter(|taking| taking.peer == peer).map(|_| self.peers[peer].arriving);
        self.peers[peer].progressed.max(arriving.unwrap_or_default())
    }

    fn review_stage(&mut self, config: &Config, vector: &VersionVector, now: Now, decisions: &mut Decisions) {
        let (caught_up, missing): (Vec<usize>, Vec<usize>) = (0..self.peers.len()).partition(|peer| self.caught_up(*peer, vector));
        let majority = 1 + caught_up.len() >= config.majority();
        match self.stage {
            Stage::Recovering => {
                let waits = |peer: &usize| now.elapsed.saturating_sub(self.progressed(*peer)) < config.recovery_wait;
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
        let agrees = |peer: &&Peer| is_within(config, peer.clock_offset_ms);
        let (agreeing, apart): (Vec<&Peer>, Vec<&Peer>) = self.compared(config, now).partition(agrees);
        if 1 + agreeing.len() >= config.majority() { Vec::new() } else { apart.iter().map(|peer| peer.id).collect() }
    }

    /// Whether this node's reference clock is the one that is wrong: another member's is too far from it, its own wall clock is far from it, too, and that agrees with the wall clocks of enough members.
    /// Then the machine was suspended, or the wall clock was wrong when the node began and is right now.
    pub fn should_rebase(&self, config: &Config, wall_ahead_ms: i64, now: Now) -> bool {
        // By half of what is allowed: beyond that, no floor is taken, and acks do not count.
        let is_far = |offset_ms: i64| !is_within(config, offset_ms.saturating_mul(2));
        let is_apart = self.compared(config, now).any(|peer| is_far(peer.clock_offset_ms));
        let agreeing = self.compared(config, now).filter(|peer| is_within(config, peer.wall_offset_ms)).count();
        is_far(wall_ahead_ms) && is_apart && 1 + agreeing >= config.majority()
    }

    /// The reference clock was set forward by so much; back, if it is less than nothing.
    pub fn rebased(&mut self, ahead_ms: i64) {
        self.peers.iter_mut().for_each(|peer| peer.clock_offset_ms = peer.clock_offset_ms.saturating_sub(ahead_ms));
    }

    /// The peers whose clocks were heard of not long ago.
    fn compared<'c>(&'c self, config: &Config, now: Now) -> impl Iterator<Item = &'c Peer> {
        let patience = config.recovery_wait + 2 * config.reconnect_pause_max;
        self.peers.iter().filter(move |peer| peer.compared.is_some_and(|at| now.elapsed.saturating_sub(at) < patience))
    }

    /// Of each peer the newest vector counts that is durable there and that this node covers in every origin. A busy mesh never stands still, so one vector is held until it is both, and then the
    /// next.
    fn review_proofs(&mut self, vector: &VersionVector) {
        for peer in &mut self.peers {
            let is_proof = |candidate: &mut Candidate| {
                candidate.is_durable && (vector.covers_all(&candidate.vector) || BrokenRule::CollectUncovered.is_on())
            };
            if let Some(candidate) = peer.candidate.take_if(is_proof) {
                peer.proven = Some(candidate.vector);
            }
        }
    }
}

/// Whether clocks that are so far apart may meet.
pub fn is_within(config: &Config, offset_ms: i64) -> bool {
    u128::from(offset_ms.unsigned_abs()) <= config.clock_offset_max.as_millis()
}

impl Peer {
    /// A beat ends at this place of the outgoing connection.
    pub fn awaits_echo(&mut self, len: u64) {
        self.awaited.get_or_insert(len);
    }

    /// It says in a beat how many bytes of this node it has read, when `heard_len` of it have arrived here. More of them are progress as long as no beat is among them that it
    /// does not answer: one that takes the rest of the stream for a part of one message reads for ever.
    pub fn tells_taken(&mut self, taken: u64, heard_len: u64, now: Now) {
        (self.beat_at, self.heard_len_at_beat) = (now.elapsed, heard_len);
        let taken = if BrokenRule::CountWhatLeaves.is_on() { 0 } else { taken };
        let takes_more = std::mem::replace(&mut self.taken, taken) != taken;
        if takes_more && self.awaited.is_none_or(|awaited| taken < awaited) {
            self.shows_progress(now);
        } else {
            self.idle_since.get_or_insert(now.elapsed);
        }
    }

    fn shows_progress(&mut self, now: Now) {
        self.took = now.elapsed;
        self.idle_since = None;
    }

    /// When the outgoing connection last moved, as far as is known. While something long arrives nothing is known, since the peer's beats wait behind it; unless those that do come have shown for
    /// so long that it takes nothing.
    fn moved(&self, timeout: Duration) -> Duration {
        let is_idle = self.idle_since.is_some_and(|since| self.beat_at.saturating_sub(since) >= timeout);
        if is_idle { self.took } else { self.took.max(self.arriving) }
    }

    /// Notes whether something long arrives.
    fn note_bulk(&mut self, traffic: &Traffic, timeout: Duration, now: Now) {
        let is_bulk = traffic.heard_len.saturating_sub(self.counted_from) >= BULK_LEN;
        if is_bulk && traffic.heard_len.saturating_sub(self.heard_len_at_beat) <= APART_MAX {
            self.arriving = now.elapsed;
        }
        let is_new = traffic.heard_len < self.counted_from;
        if is_new || is_bulk || now.elapsed.saturating_sub(self.counted_since) > timeout {
            (self.counted_since, self.counted_from) = (now.elapsed, traffic.heard_len);
        }
    }

    /// What it is proven to have on its disk, for as long as it is up.
    pub fn proof(&self) -> Option<&VersionVector> {
        self.proven.as_ref().filter(|_| self.up || BrokenRule::CountAbsent.is_on())
    }

    /// Whether it has said that it speaks no protocol so late.
    pub fn is_of_build_before(&self, protocol: Protocol) -> bool {
        self.origin.is_some() && self.spoken < protocol
    }

    fn disprove(&mut self) {
        (self.candidate, self.proven) = (None, None);
    }
}
