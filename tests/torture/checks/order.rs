//! Which of two writes of a key is certain to have the newer stamp, and so to win (I8).

use crate::checks::Evidence;
use crate::history::Op;

/// An ack counts if the clock in it is no further above the write's stamp than the time that has passed at the writer, and this.
const ACK_LEAD_US: u64 = 50_000;
/// A stamp clock that is ahead runs slower by a thousandth, which is taken off a beat late: twice that covers it.
const SLOWER: u64 = 500;

/// False where either may be the newer one. Both have the same key.
pub fn is_newer(evidence: &Evidence, later: &Op, earlier: &Op) -> bool {
    // One of unknown outcome may be stamped at any time: it is completed never.
    if earlier.completed >= later.invoked {
        return false;
    }
    // A node stamps above everything that it has stamped, in this incarnation; at what level, and what became of it, does not matter.
    if (earlier.node, earlier.life) == (later.node, later.life) {
        return true;
    }
    if !earlier.is_majority_acked() || !later.is_majority_acked() {
        return false;
    }
    // A member that has acknowledged both runs on from the earlier stamp until it acknowledges the later one, and shows its clock in that ack. What the later one
    // took from its first byte to its reply is no less than what the writer has measured.
    let ack_delay = later.completed - later.invoked;
    let allowed = ACK_LEAD_US + ack_delay + (later.completed - earlier.invoked) / SLOWER;
    earlier.completed + allowed < later.invoked && !is_restarted_between(evidence, earlier, later)
}

/// A clock does not run on from a stamp while its node is down: the member that has acknowledged both may have been restarted between. It cannot be the node of the
/// later write, which stamps above what its disk or its peers give back. A node that stood still is no excuse: its clock runs on.
fn is_restarted_between(evidence: &Evidence, earlier: &Op, later: &Op) -> bool {
    let mut starts = evidence.starts.iter().filter(|start| start.node != later.node);
    starts.any(|start| earlier.invoked <= start.at && start.at <= later.completed)
}
