//! The dump that this node takes from a peer: whom to ask, whether it gets on, what its end means.

use std::time::Duration;

use crate::config::Config;
use crate::data::clock::Now;
use crate::data::version::{Origin, VersionVector};
use crate::replication::links::traffic::Traffic;
use crate::replication::peers::events::Event;
use crate::replication::peers::folding::Folding;
use crate::replication::peers::liveness::APART_MAX;
use crate::replication::peers::peer::Peer;
use crate::wire::peer::DumpRequest;

/// Dumps from peers; one at a time.
pub struct Transfers {
    current: Option<Transfer>,
    requests: u64,
}

/// A dump that was asked for, and has not ended.
pub struct Transfer {
    /// The donor.
    pub peer: usize,
    pub epoch: u64,
    /// The number of the request, unique among this node's.
    pub id: u64,
    pub heal: bool,
    started: Duration,
    progressed: Duration,
    /// Bytes of the peer that had arrived when it last progressed.
    heard_len: u64,
    pub entries: u64,
}

impl Transfers {
    /// `nonce`: random bits of this incarnation. What a former one asked for must not be taken for
    /// an answer to this one.
    pub fn new(nonce: u64) -> Transfers {
        Transfers { current: None, requests: nonce }
    }

    /// The dump that is being taken.
    pub fn current(&self) -> Option<&Transfer> {
        self.current.as_ref()
    }

    /// When a peer last brought this node forward. A line of the dump that is being taken does
    /// while it arrives.
    pub fn progressed(&self, peers: &[Peer], peer: usize) -> Duration {
        let arriving = self.current.as_ref().filter(|transfer| transfer.peer == peer).map(|_| peers[peer].liveness.arriving());
        peers[peer].catch_up.progressed.max(arriving.unwrap_or_default())
    }

    /// A line of the dump that is being taken has come.
    pub fn line_came(&mut self, peers: &mut [Peer], entries: u64, heard_len: u64, now: Now) {
        if let Some(transfer) = &mut self.current {
            (transfer.progressed, transfer.heard_len, transfer.entries) = (now.elapsed, heard_len, entries);
            peers[transfer.peer].catch_up.progressed = now.elapsed;
        }
    }

    /// The outgoing connection to a peer began or ended. A request that nothing has come of may be
    /// lost with the connection.
    pub fn linked_out(&mut self, peers: &mut [Peer], peer: usize, now: Now) {
        let is_lost = |transfer: &Transfer| transfer.peer == peer && transfer.progressed == transfer.started;
        if self.current.as_ref().is_some_and(is_lost) {
            self.give_up(peers, now);
        }
    }

    /// The dump has been taken whole. Returns how long it took.
    pub fn taken(&mut self, peers: &mut [Peer], folding: Option<&mut Folding>, now: Now) -> Option<Duration> {
        if let (Some(folding), Some(Transfer { peer, started, heal: false, .. })) = (folding, &self.current) {
            folding.took(*peer, *started);
        }
        self.end(peers, now)
    }

    fn end(&mut self, peers: &mut [Peer], now: Now) -> Option<Duration> {
        let transfer = self.current.take()?;
        let took = now.elapsed.saturating_sub(transfer.started);
        peers[transfer.peer].catch_up.dump_ended(took, transfer.heal, now);
        Some(took)
    }

    /// Gives the dump up, which is no progress of its donor.
    fn give_up(&mut self, peers: &mut [Peer], now: Now) {
        let before = self.current.as_ref().map(|transfer| (transfer.peer, peers[transfer.peer].catch_up.progressed));
        self.end(peers, now);
        if let Some((peer, progressed)) = before {
            peers[peer].catch_up.progressed = progressed;
        }
    }

    /// Gives up a dump that has stalled, or whose connection is gone. Returns what to log, if it
    /// has stalled.
    pub fn review_current(&mut self, config: &Config, peers: &mut [Peer], traffic: &[Traffic], now: Now) -> Option<Event> {
        let transfer = self.current.as_ref()?;
        let peer = &peers[transfer.peer];
        let moved = transfer.progressed.max(peer.liveness.arriving());
        let is_stalled = now.elapsed.saturating_sub(moved) > config.peer_timeout
            || traffic[transfer.peer].heard_len.saturating_sub(transfer.heard_len) > APART_MAX;
        let is_lost = !peer.linked_in || peer.epoch != transfer.epoch;
        let stalled = is_stalled.then_some(Event::Stalled(peer.id));
        if is_stalled || is_lost {
            self.give_up(peers, now);
        }
        stalled
    }

    /// Asks a peer, if one should be asked and no dump is being taken.
    pub fn review_wishes(
        &mut self,
        peers: &mut [Peer],
        folding: Option<&Folding>,
        own: (Origin, &VersionVector),
        traffic: &[Traffic],
        now: Now,
    ) -> Option<(usize, DumpRequest, Event)> {
        let wishes: Vec<(usize, &'static str)> =
            (0..peers.len()).filter_map(|peer| Some((peer, reason_to_ask(peers, peer, folding, own)?))).collect();
        if let Some(transfer) = &self.current {
            // Waiting for its turn is no lack of progress while the turn of another gets on; not
            // serving is.
            let (donor, progressed) = (transfer.peer, self.progressed(peers, transfer.peer));
            for (peer, _) in wishes.into_iter().filter(|(peer, _)| *peer != donor) {
                let catch_up = &mut peers[peer].catch_up;
                catch_up.progressed = progressed.max(catch_up.progressed);
            }
            return None;
        }
        let (peer, why) = wishes.into_iter().find(|(peer, _)| peers[*peer].catch_up.may_ask(now))?;
        self.requests = self.requests.wrapping_add(1);
        let Peer { epoch, id: node, ref catch_up, .. } = peers[peer];
        let (id, heal, started, heard_len) = (self.requests, catch_up.heal, now.elapsed, traffic[peer].heard_len);
        self.current = Some(Transfer { peer, epoch, id, heal, started, progressed: started, heard_len, entries: 0 });
        Some((peer, DumpRequest { id, vector: own.1.clone(), heal }, Event::Asked { node, why }))
    }
}

/// Why a peer should be asked for a dump, if it should: the two have diverged, batches of it are
/// missing, it has writes of origins that do not send to this node themselves, or incarnations are
/// to be folded.
fn reason_to_ask(
    peers: &[Peer],
    asked: usize,
    folding: Option<&Folding>,
    (origin, vector): (Origin, &VersionVector),
) -> Option<&'static str> {
    let peer = &peers[asked];
    if !peer.linked_in || !peer.linked_out {
        return None;
    }
    if peer.catch_up.heal {
        return Some("its data differs at an equal vector");
    }
    if peer.catch_up.gap {
        return Some("writes of it are missing here");
    }
    // A peer whose gap cannot be closed, because it cannot be asked, does not count.
    let sends =
        |other: Origin| peers.iter().any(|peer| peer.linked_in && (peer.linked_out || !peer.catch_up.gap) && peer.origin == Some(other));
    let is_missing = |(other, stamp): &(Origin, _)| *stamp > vector.get(*other) && *other != origin && !sends(*other);
    let mut ahead = peer.vector.iter().filter(is_missing).peekable();
    if ahead.peek().is_some() {
        let is_folded = ahead.all(|(other, _)| other.is_all_incarnations());
        return Some(if is_folded { "it has folded past incarnations" } else { "it has writes of others that are missing here" });
    }
    folding.is_some_and(|folding| folding.wants(asked)).then_some("past incarnations are to be folded here")
}
