//! Counters that are counted through one node only, at `majority`. An acknowledged count is there
//! exactly once, one of unknown outcome at most once.

use crate::checks::{Evidence, Held, Verdict};
use crate::connection::{Action, Answer, Outcome};
use crate::history::Op;
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("counts are exact");
    let mut counted = 0;
    for (key, ops) in evidence.group(Group::Counter) {
        let incs = || ops.iter().filter(|op| op.action == Action::Incr);
        let mut counts: Vec<(u64, &Op)> = incs().filter_map(|op| Some((count(op)?, *op))).collect();
        let unknown = incs().filter(|op| op.is_unknown()).count() as u64;
        let done = counts.len() as u64;
        counted += done;
        counts.sort_by_key(|(count, _)| *count);
        for pair in counts.windows(2) {
            let ((one, first), (two, second)) = (pair[0], pair[1]);
            verdict.require(one < two, || format!("{key} was {one} twice, at {} us and {} us", first.invoked, second.invoked));
        }
        // From the greatest down: a count that began after another was answered is not lower.
        let mut earliest = u64::MAX;
        for (count, op) in counts.iter().rev() {
            verdict.require(op.invoked <= earliest, || {
                format!("{key} was counted to {count} at {} us, after a greater count was received", op.invoked)
            });
            earliest = earliest.min(op.completed);
        }
        for dump in evidence.dumps {
            let held = match dump.held(key, evidence.dumped_wall_ms) {
                Held::Value(count) => Some(count),
                Held::Nothing => Some(0),
                Held::Foreign(_) => None,
            };
            let fits = held.is_some_and(|held| (done..=done + unknown).contains(&held));
            verdict.require(fits, || {
                format!("n{} holds {held:?} under {key}: {done} counts were acknowledged, and {unknown} are unknown", dump.node)
            });
        }
    }
    verdict.looked_at = format!("{counted} acknowledged counts");
    verdict
}

fn count(op: &Op) -> Option<u64> {
    match op.outcome {
        Outcome::Done(Answer::Count(count)) => Some(count),
        _ => None,
    }
}
