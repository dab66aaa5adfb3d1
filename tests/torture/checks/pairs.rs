//! Pairs of keys that are written together at one node, in one command or one transaction, and one
//! of them alone at another node. Where they are written together, the two never show two different
//! such writes: a write from elsewhere may change one half, and nothing else does.

use std::collections::HashMap;

use crate::checks::{Evidence, Verdict};
use crate::connection::{Action, Answer, Outcome};
use crate::history::Op;
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("pairs are whole");
    let (mut written, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Pair) {
        let together: HashMap<u64, &Op> =
            ops.iter().filter(|op| is_together(op)).filter_map(|op| Some((op.action.number()?, *op))).collect();
        written += together.len();
        for read in ops {
            let Outcome::Done(Answer::Both(Some(one), Some(other))) = read.outcome else { continue };
            // An incarnation begins with what its disk and its peers give back, which may be a
            // half. Only what was written in this one counts.
            let is_of_this_incarnation =
                |number| together.get(&number).is_some_and(|op| (op.node, op.incarnation) == (read.node, read.incarnation));
            if !is_of_this_incarnation(one) || !is_of_this_incarnation(other) {
                continue;
            }
            looks += 1;
            verdict.require(one == other, || {
                format!(
                    "n{} showed {one} and {other} under {key} and its sibling at {} us, each written as a pair there",
                    read.node, read.completed
                )
            });
        }
    }
    verdict.looked_at = format!("{written} pairs, {looks} reads that showed two halves of them");
    verdict
}

/// Returns whether both keys are written as a whole, if at all.
fn is_together(op: &Op) -> bool {
    matches!(op.action, Action::PutBoth(..)) && op.may_have_happened()
}
