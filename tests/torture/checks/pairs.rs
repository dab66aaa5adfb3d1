//! Pairs of keys that are written together at one node, in one command or one transaction, and one of them alone at another node. Where they are written together they
//! are never of two different such writes: what comes from elsewhere may change one half, and nothing else does.

use std::collections::HashMap;

use crate::checks::{Evidence, Verdict};
use crate::connection::{Action, Answer, Outcome};
use crate::history::Op;
use crate::keys::Group;

pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new("pairs are whole");
    let (mut written, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Pair) {
        let together: HashMap<u64, &Op> =
            ops.iter().filter(|op| is_together(op)).filter_map(|op| Some((op.action.number()?, *op))).collect();
        written += together.len();
        for read in ops {
            let Outcome::Done(Answer::Both(Some(one), Some(other))) = read.outcome else { continue };
            // An incarnation begins with what its node's disk and its peers give back, which may be a half: only what was written in this one counts.
            let is_of_this_life = |number| together.get(&number).is_some_and(|op| (op.node, op.life) == (read.node, read.life));
            if !is_of_this_life(one) || !is_of_this_life(other) {
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

/// Executed as a whole, if at all.
fn is_together(op: &Op) -> bool {
    matches!(op.action, Action::PutBoth(..)) && op.may_have_happened()
}
