//! Keys that are written through all nodes at the same time: of two writes that a majority acknowledged, one before the other began, the earlier one is never
//! what is left (I8), and it is not shown any more where the later one was acknowledged.

use crate::checks::{Evidence, Held, Verdict};
use crate::history::Op;
use crate::keys::Group;
use crate::wire::{Action, Outcome};

pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new("later acknowledged writes win");
    let (mut keys, mut acknowledged, mut looks, mut longest) = (0, 0, 0, 0);
    for (key, ops) in evidence.group(Group::Contended) {
        let writes: Vec<&Op> = ops.iter().copied().filter(|op| op.may_have_happened()).collect();
        keys += 1;
        longest = writes.iter().filter(|op| op.is_done()).map(|op| op.completed - op.invoked).max().unwrap_or(0).max(longest);
        acknowledged += writes.iter().filter(|op| op.is_majority_acked()).count();
        let last_begun = writes.iter().filter(|op| op.is_majority_acked()).map(|op| op.invoked).max().unwrap_or(0);
        for read in ops {
            let Some(shown) = read.shown() else { continue };
            looks += 1;
            let shown = shown.map_or(Held::Nothing, Held::Value);
            verdict.require(may_show(&writes, read, &shown) || showed_a_refused_delete(ops, read, &shown), || {
                format!(
                    "n{} showed {shown:?} under {key} at {} us, although it had acknowledged a later write at a majority",
                    read.node, read.invoked
                )
            });
        }
        for dump in evidence.dumps {
            let held = dump.held(key, evidence.dumped_wall_ms);
            // Those that may have left this: one of them must not be beaten by what is promised.
            let left_it: Vec<&&Op> = writes.iter().filter(|op| left_by(op) == held).collect();
            let was_never_written = held == Held::Nothing && !writes.iter().any(|op| op.is_done());
            let stands = left_it.iter().any(|op| !op.is_majority_acked() || op.completed >= last_begun);
            verdict.require(stands || was_never_written, || {
                let by = left_it.last().map_or("no write".to_owned(), |op| format!("{} at n{}, acknowledged at {} us", op.action, op.node, op.completed));
                format!("n{} holds {held:?} under {key}, left by {by}, and a later write began at {last_begun} us and was acknowledged by a majority", dump.node)
            });
        }
    }
    verdict.looked_at =
        format!("{acknowledged} writes of {keys} keys, {looks} reads of them, the longest write took {} ms", longest / 1_000);
    verdict
}

/// A node that has acknowledged a write at a majority holds that one or a greater version from then on, in this life; and those that a majority had acknowledged
/// before it began are lesser ones.
fn may_show(writes: &[&Op], read: &Op, shown: &Held) -> bool {
    let is_known_here = |op: &&&Op| op.is_majority_acked() && (op.node, op.life) == (read.node, read.life) && op.completed < read.invoked;
    let Some(last_begun) = writes.iter().filter(is_known_here).map(|op| op.invoked).max() else { return true };
    let mut left_it = writes.iter().filter(|op| left_by(op) == *shown && op.invoked <= read.completed);
    left_it.any(|op| !op.is_majority_acked() || op.completed >= last_begun)
}

/// A delete that lost to a concurrent write is judged again, and refused where another one has been quicker by then; it may have shown for a moment.
fn showed_a_refused_delete(ops: &[&Op], read: &Op, shown: &Held) -> bool {
    let may_show = |op: &&Op| op.action == Action::Del && op.outcome == Outcome::Refused("NOTFOUND");
    *shown == Held::Nothing && ops.iter().copied().filter(may_show).any(|op| op.invoked <= read.completed && op.completed >= read.invoked)
}

fn left_by(op: &Op) -> Held {
    match op.action {
        Action::Del => Held::Nothing,
        action => action.number().map_or(Held::Nothing, Held::Value),
    }
}
