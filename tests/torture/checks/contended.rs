//! Keys that are written through all nodes at the same time. Of two writes, one may be certain to
//! be the newer. Once that one was acknowledged by a majority, the older one is never what is left,
//! and the node that acknowledged it does not show the older one any more (I8).

use crate::checks::order::is_newer;
use crate::checks::{Evidence, Held, Verdict};
use crate::history::Op;
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("later acknowledged writes win");
    let (mut keys, mut acknowledged, mut looks, mut longest) = (0, 0, 0, 0);
    for (key, ops) in evidence.group(Group::Contended) {
        let writes: Vec<&Op> = ops.iter().copied().filter(|op| op.may_have_happened()).collect();
        keys += 1;
        longest = writes.iter().filter(|op| op.is_done()).map(|op| op.completed - op.invoked).max().unwrap_or(0).max(longest);
        acknowledged += writes.iter().filter(|op| op.is_majority_acked()).count();
        for read in ops {
            let Some(shown) = read.shown() else { continue };
            looks += 1;
            let shown = shown.map_or(Held::Nothing, Held::Value);
            verdict.require(may_show(evidence, &writes, read, &shown), || {
                format!(
                    "n{} showed {shown:?} under {key} at {} us, although it had acknowledged a later write at a majority",
                    read.node, read.invoked
                )
            });
        }
        for dump in evidence.dumps {
            let held = dump.held(key, evidence.dumped_wall_ms);
            // Writes that may have left this. One of them must not be older than what a majority
            // has.
            let left_it: Vec<&&Op> = writes.iter().filter(|op| Held::left_by(op) == held).collect();
            let was_never_written = held == Held::Nothing && !writes.iter().any(|op| op.is_done());
            let newer = |op: &Op| writes.iter().copied().find(|later| later.is_majority_acked() && is_newer(evidence, later, op));
            let stands = left_it.iter().any(|op| newer(op).is_none());
            verdict.require(stands || was_never_written, || {
                let described = |op: &Op| format!("{} at n{} from {} to {} us", op.action, op.node, op.invoked, op.completed);
                let by = left_it.last().map_or("no write".to_owned(), |op| described(op));
                let superseded_by = left_it.last().and_then(|op| newer(op)).map_or("nothing".to_owned(), described);
                format!("n{} holds {held:?} under {key}, left by {by}, which is older than {superseded_by}", dump.node)
            });
        }
    }
    verdict.looked_at =
        format!("{acknowledged} writes of {keys} keys, {looks} reads of them, the longest write took {} ms", longest / 1_000);
    verdict
}

/// Returns whether a node may show this. Once it has acknowledged a write at a majority, it holds
/// that one or a newer one for the rest of its incarnation, and none that is certain to be older.
fn may_show(evidence: &Evidence<'_>, writes: &[&Op], read: &Op, shown: &Held) -> bool {
    let is_known_here =
        |op: &&&Op| op.is_majority_acked() && (op.node, op.incarnation) == (read.node, read.incarnation) && op.completed < read.invoked;
    let known: Vec<&&Op> = writes.iter().filter(is_known_here).collect();
    let mut left_it = writes.iter().filter(|op| Held::left_by(op) == *shown && op.invoked <= read.completed);
    known.is_empty() || left_it.any(|op| !known.iter().any(|known| is_newer(evidence, known, op)))
}
