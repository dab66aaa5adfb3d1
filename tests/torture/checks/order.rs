//! The order of two writes of a key: whether one is certain to have the newer stamp, and so to win
//! (I8).

use crate::checks::Evidence;
use crate::history::Op;

/// An ack counts if its clock is ahead of the write's stamp by no more than the time that has
/// passed at the writer, and this.
const ACK_LEAD_US: u64 = 50_000;
/// A stamp clock that is ahead runs slower by a thousandth, which takes effect a heartbeat late:
/// twice that covers it.
const SLOWER: u64 = 500;

/// Returns whether `later` is certain to be newer; false where either may be. Both have the same
/// key.
pub fn is_newer(evidence: &Evidence<'_>, later: &Op, earlier: &Op) -> bool {
    // A write of unknown outcome may be stamped at any time: it never completes.
    if earlier.completed >= later.invoked {
        return false;
    }
    // A node stamps above everything that it has stamped in this incarnation, whatever the level
    // and the outcome.
    if (earlier.node, earlier.incarnation) == (later.node, later.incarnation) {
        return true;
    }
    if !earlier.is_majority_acked() || !later.is_majority_acked() {
        return false;
    }
    // A member that has acknowledged both runs on from the earlier stamp until it acknowledges the
    // later one, and shows its clock in that ack. The later write took no less than its writer has
    // measured from its first byte to its reply.
    let ack_delay = later.completed - later.invoked;
    let allowed = ACK_LEAD_US + ack_delay + (later.completed - earlier.invoked) / SLOWER;
    earlier.completed + allowed < later.invoked && !is_restarted_between(evidence, earlier, later)
}

/// Returns whether the member that has acknowledged both may have been restarted between: a clock
/// does not run on from a stamp while its node is down. It cannot be the node of the later write,
/// which stamps above what its disk or its peers give back. A node that stood still is no excuse:
/// its clock runs on.
fn is_restarted_between(evidence: &Evidence<'_>, earlier: &Op, later: &Op) -> bool {
    let mut starts = evidence.starts.iter().filter(|start| start.node != later.node);
    starts.any(|start| earlier.invoked <= start.at && start.at <= later.completed)
}
