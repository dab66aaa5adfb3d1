//! Keys that one client writes, and another client that has seen this at another node. The second
//! write is newer (I8), though the first may still wait for its ack. So what its client had seen is
//! not what is left in the end.

use crate::checks::{Evidence, Verdict};
use crate::connection::{self, Action, Answer, Outcome};
use crate::history::Op;
use crate::keys::{Group, TAKEN_OVER};

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("who read and then wrote is not overtaken");
    let mut keys = 0;
    let groups = [Group::Handover, Group::Sum, Group::Tokens].into_iter().flat_map(|group| evidence.group(group));
    for (key, ops) in groups.filter(|(key, _)| key.owner == TAKEN_OVER) {
        let Some((seen, read, write)) = taken_over(ops) else { continue };
        keys += 1;
        for dump in evidence.dumps {
            let held = dump.value(key, evidence.dumped_wall_ms).map(|bytes| connection::answer(key, bytes));
            verdict.require(held.as_ref() != seen, || {
                format!(
                    "n{} holds {held:?} under {key}, which n{} showed at {} us before it took {} there, acknowledged at {} us",
                    dump.node, read.node, read.completed, write.action, write.completed
                )
            });
        }
    }
    verdict.looked_at = format!("{keys} keys");
    verdict
}

/// The answer that a client saw last before it wrote and was answered. `None` for a delete, which a
/// client sees only after it has seen the value. All on one connection: a node that was restarted
/// between may have lost what it had shown.
fn taken_over<'a>(ops: &[&'a Op]) -> Option<(Option<&'a Answer>, &'a Op, &'a Op)> {
    ops.iter().filter(|op| op.is_majority_acked()).find_map(|write| {
        let is_before = |op: &&&Op| op.action == Action::Get && op.connection == write.connection && op.completed <= write.invoked;
        let reads = || ops.iter().filter(is_before).filter_map(|op| Some((seen(op)?, *op)));
        // Before anything was there, there was nothing to see.
        reads().find(|(seen, _)| seen.is_some())?;
        reads().next_back().map(|(seen, read)| (seen, read, *write))
    })
}

/// The answer of a read.
fn seen(read: &Op) -> Option<Option<&Answer>> {
    match &read.outcome {
        Outcome::Done(Answer::Value(None)) => Some(None),
        Outcome::Done(answer) => Some(Some(answer)),
        _ => None,
    }
}
