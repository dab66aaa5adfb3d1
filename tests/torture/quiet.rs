//! Quiet times: times in which no fault explains a refusal, since every node reports that all is
//! well.
//!
//! That no fault is running is not enough: on a slow machine nodes call each other down. So the
//! nodes are asked before and after. A time is quiet only if their reports leave no room for such a
//! refusal between the two. Otherwise it is not evaluated, which costs a look and no more.

use std::sync::Arc;
use std::time::Duration;

use crate::nodes::{ACK_TIMEOUT, NodeHandle};
use crate::now;
use crate::survey::{self, LinkState};

/// Nodes report times in tenths of a second, rounded.
const ROUNDING: Duration = Duration::from_millis(100);
/// Between the whole mesh and the quiet time: a reply that is sent now may have been decided
/// earlier, by a node that is slow to send it.
const MARGIN: Duration = Duration::from_millis(100);

/// A time in which every node was open and logging, and counted every peer, from start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub from: u64,
    pub until: u64,
}

/// A time that may turn out to have been quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietCandidate {
    from: u64,
    /// No peer can be called lagging before this: it has to be behind for `ack_timeout`.
    until_max: u64,
}

impl QuietCandidate {
    /// Begins while no fault is active. `None` if a node is not well.
    pub fn begin(nodes: &[Arc<NodeHandle>]) -> Option<QuietCandidate> {
        let asked = now();
        let linked = all_linked(nodes)?;
        Some(begun(asked, now(), &linked))
    }

    /// Ends before the next fault. `None` if the time was not quiet, or may not have been.
    pub fn end(self, nodes: &[Arc<NodeHandle>]) -> Option<Quiet> {
        let ends = now();
        let linked = all_linked(nodes)?;
        self.ended(ends, now(), &linked)
    }

    /// A node stays open for all of its incarnation, and only RESUME makes a stopped log go on: two
    /// reports are enough for both. Peers come and go by themselves, so each must have been up all
    /// the time.
    fn ended(self, ends: u64, answered: u64, linked: &[LinkState]) -> Option<Quiet> {
        let since = |linked: &LinkState| answered.saturating_sub(micros(linked.up_for.saturating_sub(ROUNDING)));
        let was_up = linked.iter().all(|linked| since(linked) <= self.from);
        let until = ends.min(self.until_max);
        (was_up && self.from < until).then_some(Quiet { from: self.from, until })
    }
}

fn begun(asked: u64, answered: u64, linked: &[LinkState]) -> QuietCandidate {
    let behind = linked.iter().map(|linked| linked.behind).max().unwrap_or_default() + ROUNDING;
    QuietCandidate { from: answered + micros(MARGIN), until_max: asked + micros(ACK_TIMEOUT.saturating_sub(behind)) }
}

fn all_linked(nodes: &[Arc<NodeHandle>]) -> Option<Vec<LinkState>> {
    nodes.iter().map(|node| survey::is_whole(node).ok()).collect()
}

fn micros(length: Duration) -> u64 {
    length.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn linked(up_ms: u64, behind_ms: u64) -> LinkState {
        LinkState { up_for: Duration::from_millis(up_ms), behind: Duration::from_millis(behind_ms) }
    }

    #[test]
    fn a_time_is_quiet_while_all_peers_stay_up_and_none_can_lag() {
        let hush = begun(10_000 * MS, 10_020 * MS, &[linked(5_000, 0), linked(900, 300)]);
        let (ends, answered) = (10_600 * MS, 10_650 * MS);
        let quiet = Quiet { from: 10_120 * MS, until: ends };
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 1_900), linked(700, 0)]), Some(quiet));
        // One peer was down for a moment, or may have been.
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 0), linked(200, 0)]), None);
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 0), linked(600, 0)]), None);
        // A peer was behind by 300 ms already. It may be called lagging 1.7 s later, less the
        // rounding.
        let long = hush.ended(20_000 * MS, 20_050 * MS, &[linked(15_000, 0)]);
        assert_eq!(long, Some(Quiet { until: 11_600 * MS, ..quiet }));
        assert_eq!(begun(10_000 * MS, 10_020 * MS, &[linked(900, 1_900)]).ended(ends, answered, &[linked(5_000, 0)]), None);
    }
}
