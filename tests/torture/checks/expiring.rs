//! Keys with an expiry: there until then, and gone from then on, on every node.

use crate::checks::{Evidence, Verdict};
use crate::connection::Action;
use crate::keys::Group;

/// The wall clock by which a key expires, and the clock of the history, may drift apart by this.
const MARGIN_US: u64 = 250_000;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("expired keys are gone, others are not");
    let (mut keys, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Expiring) {
        let put = ops.iter().find_map(|op| match op.action {
            Action::PutExpiring(_, ms) if op.is_done() => Some((*op, u64::from(ms) * 1_000)),
            _ => None,
        });
        let Some((put, lasts)) = put else { continue };
        keys += 1;
        for read in ops.iter().filter(|op| op.action == Action::Get) {
            let Some(found) = read.shown() else { continue };
            looks += 1;
            let is_over = read.invoked > put.completed + lasts + MARGIN_US;
            verdict.require(!is_over || found.is_none(), || {
                format!("n{} showed {key} at {} us, {lasts} us after {} us", read.node, read.invoked, put.completed)
            });
            let must_be_there = read.connection == put.connection && read.completed + MARGIN_US < put.invoked + lasts;
            verdict.require(!must_be_there || found.is_some(), || {
                format!("n{} did not show {key} at {} us, written there at {} us", read.node, read.invoked, put.completed)
            });
        }
    }
    verdict.looked_at = format!("{keys} keys, {looks} reads of them");
    verdict
}
