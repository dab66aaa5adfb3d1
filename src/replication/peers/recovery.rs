//! From the start to the first client: when a node opens.

use crate::config::Config;
use crate::data::clock::Now;
use crate::data::version::{NodeId, VersionVector};
use crate::replication::peers::clocks;
use crate::replication::peers::events::Event;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::transfers::Transfers;

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Catching up; clients hear LOADING.
    Recovering,
    /// Serving clients. `degraded`: opened without having caught up with a majority.
    Open { degraded: bool },
}

impl Stage {
    /// Opens, if no peer is worth waiting for any more; or finds that the node is whole again.
    /// Returns the new stage and what happened, if anything did.
    pub fn review(self, config: &Config, peers: &[Peer], transfers: &Transfers, own: &VersionVector, now: Now) -> Option<(Stage, Event)> {
        let (caught_up, missing): (Vec<usize>, Vec<usize>) = (0..peers.len()).partition(|peer| peers[*peer].is_caught_up_with(own));
        let majority = 1 + caught_up.len() >= config.majority();
        match self {
            Stage::Recovering => {
                let waits = |peer: &usize| now.elapsed.saturating_sub(transfers.progressed(peers, *peer)) < config.recovery_wait;
                if missing.iter().any(waits) || !disputed(config, peers, now).is_empty() {
                    return None;
                }
                let ids = |indexes: Vec<usize>| indexes.into_iter().map(|peer| peers[peer].id).collect();
                let event = Event::Opened { degraded: !majority, caught_up: ids(caught_up), missing: ids(missing) };
                Some((Stage::Open { degraded: !majority }, event))
            }
            Stage::Open { degraded: true } if majority => Some((Stage::Open { degraded: false }, Event::Whole)),
            Stage::Open { .. } => None,
        }
    }
}

/// The members whose clocks are too far from this node's, unless enough others agree with this
/// node: then it is those that are wrong (**I9**). A node whose clock is wrong does not open, so
/// that it stamps nothing.
pub fn disputed(config: &Config, peers: &[Peer], now: Now) -> Vec<NodeId> {
    let (agreeing, apart): (Vec<&Peer>, Vec<&Peer>) = compared(config, peers, now).partition(|peer| peer.clocks.agrees(config));
    if 1 + agreeing.len() >= config.majority() { Vec::new() } else { apart.iter().map(|peer| peer.id).collect() }
}

/// It is this node's reference clock that is wrong: another member's is far from it, its own wall
/// clock is far from it, too, and that agrees with the wall clocks of enough members. Then the
/// machine was suspended, or the wall clock was wrong when the node began and is right now.
/// `wall_ahead_ms`: own wall clock minus own reference clock.
pub fn should_rebase(config: &Config, peers: &[Peer], wall_ahead_ms: i64, now: Now) -> bool {
    let is_apart = compared(config, peers, now).any(|peer| peer.clocks.is_far(config));
    let agreeing = compared(config, peers, now).filter(|peer| peer.clocks.walls_agree(config)).count();
    clocks::is_far(config, wall_ahead_ms) && is_apart && 1 + agreeing >= config.majority()
}

/// The peers whose clocks were compared with this node's not long ago.
fn compared<'p>(config: &Config, peers: &'p [Peer], now: Now) -> impl Iterator<Item = &'p Peer> {
    peers.iter().filter(move |peer| peer.clocks.is_recent(config, now))
}
