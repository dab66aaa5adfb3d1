//! The peer table: everything that a node knows of its peers, and what follows from it.

use std::time::Duration;

use crate::config::Config;
use crate::data::clock::Now;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::links::traffic::Traffic;
use crate::replication::peers::events::Event;
use crate::replication::peers::folding::Folding;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::recovery::Stage;
use crate::replication::peers::transfers::{Transfer, Transfers};
use crate::store::Digest;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::peer::{DumpRequest, Heartbeat, Hello};

/// After a folding of incarnations that a HELLO has ended. All members are asked for dumps anew,
/// and where one comes and goes that would never stop.
const FOLD_PAUSE: Duration = Duration::from_secs(10);

/// Everything that this node knows of its peers, and what it has decided from that. Peers are
/// numbered by their position in the configuration.
pub struct PeerTable {
    pub peers: Vec<Peer>,
    pub stage: Stage,
    /// The dump that this node takes from a peer.
    transfers: Transfers,
    /// Connections of which lines are being merged at this moment. The dump may be given up
    /// meanwhile, and be taken no more.
    pub merging: usize,
    /// Full dumps whose end line has come, and which are not taken yet.
    pub proving: usize,
    /// A client is restoring a dump. None begins while one is taken from a peer; but a peer is
    /// asked while a restore goes on.
    pub restoring: bool,
    /// Dumps that this node serves to peers, and the snapshot that it writes. The tombstone GC
    /// rests meanwhile.
    pub serving: usize,
    /// The GC horizon: the greatest collected stamp of each origin. A node below it can no longer
    /// learn every delete from entries alone.
    pub horizon: VersionVector,
    /// The data when it was last quiescent.
    pub quiescent: Option<QuiescentState>,
    pub divergences: u64,
    pub collected: u64,
    /// Past incarnations that are to be folded once all peers have been asked.
    pub folding: Option<Folding>,
    /// No folding begins before this time.
    pub fold_after: Duration,
    /// Time of the last HELLO of any peer. What a peer said of its vector before proves nothing:
    /// the peer that says HELLO may have lost its disk, and its writes may then be with another one
    /// that had not heard of them before, or not said so.
    greeted: Option<Duration>,
    /// When everything was last looked at, and until when a pause of this process itself (a stop
    /// signal, a starved machine) excuses the silence of peers.
    looked: Duration,
    excused: Duration,
}

/// The data of a node whose version vector stands still.
pub struct QuiescentState {
    pub vector: VersionVector,
    /// Digest of all that does not expire before `before_ms`.
    pub digest: Digest,
    pub before_ms: u64,
}

/// Actions that follow from a [`PeerTable::review`].
#[derive(Default)]
pub struct Decisions {
    pub events: Vec<Event>,
    /// Peers that begin or cease to count towards a quorum.
    pub counts: Vec<(usize, bool)>,
    pub ask: Option<(usize, DumpRequest)>,
    /// Peers whose outgoing connection leads nowhere.
    pub hang_up: Vec<usize>,
    pub open: bool,
}

impl PeerTable {
    /// `nonce`: random bits of this incarnation.
    pub fn new(config: &Config, nonce: u64, now: Now) -> PeerTable {
        PeerTable {
            peers: config.peers.iter().map(|configured| Peer::new(configured.id, now)).collect(),
            stage: Stage::Recovering,
            transfers: Transfers::new(nonce),
            merging: 0,
            proving: 0,
            restoring: false,
            serving: 0,
            horizon: VersionVector::default(),
            quiescent: None,
            divergences: 0,
            collected: 0,
            folding: None,
            fold_after: Duration::ZERO,
            greeted: None,
            looked: now.elapsed,
            excused: Duration::ZERO,
        }
    }

    /// The disk has been read: from now on the peers are waited for.
    pub fn begin_recovery(&mut self, now: Now) {
        self.looked = now.elapsed;
        for peer in &mut self.peers {
            peer.catch_up.progressed = now.elapsed;
            peer.liveness.begin(now);
        }
    }

    /// An incoming connection whose HELLO was found good. `gap`: the peer has writes of its own
    /// that are missing here. Returns its epoch.
    pub fn accept(&mut self, peer: usize, hello: &Hello, gap: bool, now: Now) -> (u64, Option<Event>) {
        if !BrokenRule::CountAbsent.is_on() {
            self.greeted = Some(now.elapsed);
            self.peers.iter_mut().for_each(|peer| peer.proof.withdraw());
        }
        if self.folding.take().is_some() {
            self.fold_after = now.elapsed + FOLD_PAUSE;
        }
        let peer = &mut self.peers[peer];
        let is_contested = peer.accepted(hello, gap, now);
        (peer.epoch, is_contested.then_some(Event::Contested(peer.id)))
    }

    /// An incoming connection has ended. One that was replaced changes nothing.
    pub fn closed(&mut self, peer: usize, epoch: u64) {
        let peer = &mut self.peers[peer];
        if peer.epoch == epoch || BrokenRule::EndOfReplaced.is_on() {
            (peer.linked_in, peer.catch_up.gap) = (false, false);
        }
    }

    /// A heartbeat of the peer: whether it serves clients, how far it is, and how many bytes of
    /// this node it has read by the time that `heard_len` of its own have arrived.
    pub fn heartbeat(&mut self, peer: usize, heartbeat: &Heartbeat, heard_len: u64, now: Now) {
        let peer = &mut self.peers[peer];
        peer.vector.join(&heartbeat.vector);
        peer.open = heartbeat.open;
        peer.wall_ms = heartbeat.wall_ms;
        peer.proof.heard(&peer.vector, heartbeat, peer.liveness.echoed() > self.greeted);
        peer.liveness.heartbeat(heartbeat.taken, heard_len, now);
    }

    /// The outgoing connection began or ended.
    pub fn linked_out(&mut self, peer: usize, linked: bool, now: Now) {
        self.peers[peer].linked_out = linked;
        self.peers[peer].liveness.linked_out(now);
        self.change_transfers(|transfers, peers| transfers.linked_out(peers, peer, now));
    }

    /// The dump that is being taken from a peer.
    pub fn transfer(&self) -> Option<&Transfer> {
        self.transfers.current()
    }

    /// A line has come of the dump that is being taken.
    pub fn dump_progressed(&mut self, entries: u64, heard_len: u64, now: Now) {
        self.transfers.line_came(&mut self.peers, entries, heard_len, now);
    }

    /// The dump has been taken whole. Returns how long it took.
    pub fn dump_taken(&mut self, now: Now) -> Option<Duration> {
        let mut folding = self.folding.take();
        let took = self.change_transfers(|transfers, peers| transfers.taken(peers, folding.as_mut(), now));
        self.folding = folding;
        took
    }

    /// Changes the dumps that are taken from peers.
    fn change_transfers<T>(&mut self, change: impl FnOnce(&mut Transfers, &mut [Peer]) -> T) -> T {
        let was_taking = self.transfers.current().is_some();
        let changed = change(&mut self.transfers, &mut self.peers);
        if was_taking && self.transfers.current().is_none() {
            // A dump may change data without moving the vector: look again before comparing.
            self.quiescent = None;
        }
        changed
    }

    /// A dump of the peer was refused. Returns the node and the pause before it is asked again, if
    /// that is news.
    pub fn dump_refused(&mut self, peer: usize, timeout: Duration, now: Now) -> Option<(NodeId, Duration)> {
        let peer = &mut self.peers[peer];
        peer.catch_up.dump_refused(timeout, now).map(|pause| (peer.id, pause))
    }

    /// Equal quiescent vectors, unequal data. Returns true if that is news. If healing fails, it is
    /// tried again after `pause`.
    pub fn diverged(&mut self, peer: usize, pause: Duration, now: Now) -> bool {
        let is_news = self.peers[peer].catch_up.diverged(pause, now);
        self.divergences += u64::from(is_news);
        is_news
    }

    /// Everything that follows from the state as it is now. `own` is this node's origin and vector;
    /// `traffic` is that with each peer.
    pub fn review(&mut self, config: &Config, own: (Origin, &VersionVector), traffic: &[Traffic], now: Now) -> Decisions {
        let mut decisions = Decisions::default();
        self.review_links(config, traffic, now, &mut decisions);
        decisions.events.extend(self.change_transfers(|transfers, peers| transfers.review_current(config, peers, traffic, now)));
        if let Some((peer, request, event)) = self.transfers.review_wishes(&mut self.peers, self.folding.as_ref(), own, traffic, now) {
            decisions.ask = Some((peer, request));
            decisions.events.push(event);
        }
        // Between the join of a full dump's vector and its last drops, a node that opens would show
        // keys that it has proven deleted.
        if self.proving == 0
            && let Some((stage, event)) = self.stage.review(config, &self.peers, &self.transfers, own.1, now)
        {
            decisions.open = self.stage == Stage::Recovering;
            self.stage = stage;
            decisions.events.push(event);
        }
        self.peers.iter_mut().for_each(|peer| peer.proof.review(own.1));
        decisions
    }

    fn review_links(&mut self, config: &Config, traffic: &[Traffic], now: Now, decisions: &mut Decisions) {
        if now.elapsed.saturating_sub(self.looked) > config.peer_timeout / 2 {
            // What the peers sent meanwhile is still to be read.
            self.excused = now.elapsed + config.peer_timeout;
        }
        self.looked = now.elapsed;
        let is_excused = now.elapsed < self.excused;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let look = peer.liveness.look(config, (peer.linked_in, peer.linked_out), &traffic[index], is_excused, now);
            if look.is_hung {
                decisions.hang_up.push(index);
            }
            let counts = look.trouble.is_none() && peer.open;
            if peer.counts != counts {
                peer.counts = counts;
                decisions.counts.push((index, counts));
            }
            if peer.liveness.set_up(look.trouble.is_none(), now) {
                decisions.events.push(look.trouble.map_or(Event::Up(peer.id), |why| Event::Down(peer.id, why)));
            }
        }
    }

    /// A dump is being taken, a peer's or a client's.
    pub fn is_taking(&self) -> bool {
        self.transfers.current().is_some() || self.restoring
    }

    /// The tombstone GC may work at all (**I6**): no dump is served or taken, and no peer that is
    /// up disagrees on the members.
    pub fn may_collect(&self, members: &[NodeId]) -> bool {
        let is_at_rest = self.serving == 0 && self.merging == 0 && self.proving == 0 && !self.is_taking();
        is_at_rest && self.peers.iter().all(|peer| !peer.is_up() || peer.members == members)
    }

    /// Data may change although vectors stand still.
    pub fn is_moving(&self) -> bool {
        self.serving > 0 || self.merging > 0 || self.proving > 0 || self.is_taking() || self.peers.iter().any(|peer| peer.catch_up.gap)
    }

    /// Every member is proven to cover a tombstone (**I6** a).
    pub fn all_cover(&self, version: Version) -> bool {
        self.peers.iter().all(|peer| peer.proof().is_some_and(|proof| proof.covers(version)))
    }

    /// The earliest of all members' wall clocks, each as it was heard last, in milliseconds since
    /// 1970. What expires before then has expired for every member.
    pub fn all_clocks_ms(&self, now: Now) -> u64 {
        self.peers.iter().map(|peer| peer.wall_ms).fold(now.wall_ms, u64::min)
    }

    /// The earliest wall clock of the members that are up. `None` unless they are a majority
    /// together with this node.
    pub fn majority_clocks_ms(&self, majority: usize, now: Now) -> Option<u64> {
        let up = || self.peers.iter().filter(|peer| peer.is_up());
        (1 + up().count() >= majority).then(|| up().map(|peer| peer.wall_ms).fold(now.wall_ms, u64::min))
    }

    /// This node's reference clock was set forward by `ahead_ms`; back, if that is negative.
    pub fn rebased(&mut self, ahead_ms: i64) {
        self.peers.iter_mut().for_each(|peer| peer.clocks.rebased(ahead_ms));
    }
}
