//! Keys that are counted through all nodes at the same time. Two counts may become one, but an INCR
//! is executed once: no count is ever greater than the number of INCRs that were not refused.

use crate::checks::{Evidence, Verdict};
use crate::connection::{self, Action, Answer, Outcome};
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("sums at most the OKs");
    let (mut counted, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Sum) {
        // In rising order, as the operations are.
        let begun: Vec<u64> = ops.iter().filter(|op| op.action == Action::Incr && op.may_have_happened()).map(|op| op.invoked).collect();
        counted += begun.len();
        for op in ops {
            let Outcome::Done(Answer::Count(count)) = op.outcome else { continue };
            looks += 1;
            let most = begun.partition_point(|invoked| *invoked <= op.completed) as u64;
            verdict.require(count <= most, || {
                format!("n{} showed {count} under {key} at {} us, when {most} had been asked for", op.node, op.completed)
            });
        }
        for dump in evidence.dumps {
            let Some(bytes) = dump.value(key, evidence.dumped_wall_ms) else { continue };
            looks += 1;
            let held = connection::answer(key, bytes);
            let fits = matches!(held, Answer::Count(count) if count <= begun.len() as u64);
            verdict.require(fits, || format!("n{} holds {held:?} under {key}, and {} were done or are unknown", dump.node, begun.len()));
        }
    }
    verdict.looked_at = format!("{counted} counts, {looks} values");
    verdict
}
