//! Acknowledged writes: each is there at the end, or a later one of its key is.

use crate::checks::order::is_newer;
use crate::checks::{Evidence, Held, Verdict};
use crate::connection::Action;
use crate::history::Op;
use crate::keys::Group;

/// Checks the writers at `majority`, which go through node after node.
pub fn majority(evidence: &Evidence<'_>) -> Verdict {
    check(evidence, Group::Ledger, "acknowledged writes survive", |_| true)
}

/// Checks the writers at `local`. A node that lost its disk may have lost what had not reached
/// another node; so may one that was killed, without `fsync: always`.
pub fn local(evidence: &Evidence<'_>) -> Verdict {
    let is_safe = |op: &Op| {
        !evidence.losses.iter().any(|loss| (loss.node, loss.incarnation) == (op.node, op.incarnation) && op.completed >= loss.safe)
    };
    check(evidence, Group::Local, "acknowledged local writes survive", is_safe)
}

fn check(evidence: &Evidence<'_>, group: Group, name: &'static str, is_safe: impl Fn(&Op) -> bool) -> Verdict {
    let mut verdict = Verdict::new(name);
    let (mut keys, mut acknowledged, mut excused) = (0, 0, 0);
    for (key, ops) in evidence.group(group) {
        keys += 1;
        let writes: Vec<&Op> = ops.iter().copied().filter(|op| op.action.is_write()).collect();
        let done = writes.iter().filter(|op| op.is_done());
        acknowledged += done.clone().count();
        excused += done.filter(|op| !is_safe(op)).count();
        let allowed = allowed(evidence, &writes, &is_safe);
        for dump in evidence.dumps {
            let held = dump.held(key, evidence.dumped_wall_ms);
            verdict.require(allowed.contains(&held), || {
                format!("n{} holds {held:?} under {key}, allowed are {allowed:?}: {}", dump.node, described(&writes))
            });
        }
    }
    verdict.looked_at = format!("{acknowledged} acknowledged writes of {keys} keys, {excused} of them excused");
    verdict
}

/// Returns what may be left: the value of any write than which no write that must be there is
/// certain to be newer.
fn allowed(evidence: &Evidence<'_>, writes: &[&Op], is_safe: impl Fn(&Op) -> bool) -> Vec<Held> {
    let must_be_there: Vec<&&Op> = writes.iter().filter(|op| op.is_done() && is_safe(op)).collect();
    let nothing_before = must_be_there.is_empty().then_some(Held::Nothing);
    let may_stand = |op: &&&Op| op.may_have_happened() && !must_be_there.iter().any(|safe| is_newer(evidence, safe, op));
    nothing_before.into_iter().chain(writes.iter().filter(may_stand).map(|op| Held::left_by(op))).collect()
}

/// The last operations, for the report.
fn described(writes: &[&Op]) -> String {
    const SHOWN: usize = 5;
    let last = &writes[writes.len().saturating_sub(SHOWN)..];
    let one = |op: &&Op| format!("{} at n{} incarnation {}, {} us: {}", op.action, op.node, op.incarnation, op.invoked, op.outcome);
    last.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The number of each write. A writer numbers its writes of a key from 1, deletes included.
pub fn numbered<'a>(ops: &[&'a Op]) -> Vec<(u64, &'a Op)> {
    ops.iter().filter(|op| op.action.is_write()).enumerate().map(|(index, op)| (index as u64 + 1, *op)).collect()
}

/// Returns whether this write is a delete.
pub fn is_delete(op: &Op) -> bool {
    op.action == Action::Del
}
