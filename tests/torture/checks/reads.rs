//! Reads show what they may, and every request is answered.

use std::collections::HashMap;

use crate::checks::order::is_newer;
use crate::checks::survival::{is_delete, numbered};
use crate::checks::{Evidence, Held, Verdict};
use crate::connection::{Action, Answer, OTHER, Outcome, REPLY_TIMEOUT, UnknownCause};
use crate::history::Op;
use crate::keys::{Group, Key};

/// Refusals of a node that is not well, and of no other. NOREPLICAS is NOQUORUM in RESP. BUSY is
/// among them because the clients are paced.
const EXPLAINED_BY_FAULTS: [&str; 5] = ["NOQUORUM", "NOREPLICAS", "READONLY", "LOADING", "BUSY"];

/// Checks that every value that was read or is left was written under its key, by a write that was
/// not refused and had begun by then.
pub fn nobody_wrote(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("no value nobody wrote");
    let mut writes: HashMap<(Key, u64), &Op> = HashMap::new();
    for op in evidence.ops {
        let Some(number) = op.action.number() else { continue };
        writes.insert((op.key, number), op);
        if matches!(op.action, Action::PutBoth(..)) {
            writes.insert((op.key.sibling(), number), op);
        }
    }
    let mut looks = 0_u64;
    for op in evidence.ops {
        if let Outcome::Done(Answer::Foreign(text)) = &op.outcome {
            verdict.fault(format!("n{} answered {} of {} with {text:?}", op.node, op.action, op.key));
        }
        for (key, number) in shown(op) {
            looks += 1;
            let write = writes.get(&(key, number));
            verdict.require(write.is_some_and(|write| write.may_have_happened() && write.invoked <= op.completed), || {
                let write = write.map_or("no client wrote it".to_owned(), |write| format!("its write was {}", write.outcome));
                format!("n{} showed number {number} under {key} at {} us: {write}", op.node, op.completed)
            });
        }
    }
    for dump in evidence.dumps {
        for name in dump.entries.keys() {
            let Some(key) = std::str::from_utf8(name).ok().and_then(|name| name.parse::<Key>().ok()) else {
                verdict.fault(format!("n{} holds a key that no client wrote: {:?}", dump.node, String::from_utf8_lossy(name)));
                continue;
            };
            looks += 1;
            // The values of these groups are checked elsewhere.
            if key.group.is_counted() || matches!(key.group, Group::Tokens | Group::Ahead | Group::Past) {
                continue;
            }
            let is_known = match dump.held(key, evidence.dumped_wall_ms) {
                Held::Nothing => true,
                Held::Foreign(_) => false,
                Held::Value(number) => writes.get(&(key, number)).is_some_and(|write| write.may_have_happened()),
            };
            verdict.require(is_known, || format!("n{} holds {:?} under {key}", dump.node, dump.held(key, evidence.dumped_wall_ms)));
        }
    }
    verdict.looked_at = format!("{looks} values");
    verdict
}

/// The numbers that a read returned, each under its key.
fn shown(op: &Op) -> impl Iterator<Item = (Key, u64)> {
    let (one, other) = match op.outcome {
        Outcome::Done(Answer::Value(number)) => (number, None),
        Outcome::Done(Answer::Both(one, other)) => (one, other),
        _ => (None, None),
    };
    let one = one.map(|number| (op.key, number));
    one.into_iter().chain(other.map(|number| (op.key.sibling(), number)))
}

/// Checks that reads on one connection, and so on one node, never go back to an older number. The
/// key has one writer of rising numbers, through one node.
pub fn never_go_back(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("reads never go back");
    let mut looks = 0;
    for (key, ops) in evidence.group(Group::Ledger) {
        let writes = numbered(ops);
        // The numbers follow the order of the stamps only where that is promised: not if the writer
        // went on at another node while a third one was restarted.
        let happened: Vec<&Op> = writes.iter().map(|(_, op)| *op).filter(|op| op.may_have_happened()).collect();
        if !happened.is_sorted_by(|one, next| is_newer(evidence, next, one)) {
            continue;
        }
        let mut floors: HashMap<u32, u64> = HashMap::new();
        for read in ops.iter() {
            let Some(shown) = read.shown() else { continue };
            looks += 1;
            let floor = floors.entry(read.connection).or_default();
            let now = match shown {
                Some(number) => Some(number),
                None if *floor == 0 => Some(0),
                // The next delete, if there was one by then.
                None => writes
                    .iter()
                    .find(|(number, write)| {
                        number >= floor && is_delete(write) && write.may_have_happened() && write.invoked <= read.completed
                    })
                    .map(|(number, _)| *number),
            };
            match now {
                Some(number) if number >= *floor => *floor = number,
                _ => verdict.fault(format!(
                    "n{} showed {shown:?} under {key} at {} us, after number {floor} on the same connection",
                    read.node, read.invoked
                )),
            }
        }
    }
    verdict.looked_at = format!("{looks} reads");
    verdict
}

/// Checks that no request waits for ever, and that none is answered with an error that no fault
/// explains.
pub fn are_answered(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("every request is answered");
    let is_quiet = |op: &Op| evidence.quiet.iter().any(|quiet| quiet.from <= op.invoked && op.completed <= quiet.until);
    let mut in_quiet = 0;
    for op in evidence.ops {
        let was_quiet = is_quiet(op);
        in_quiet += u64::from(was_quiet);
        match op.outcome {
            Outcome::Unknown(UnknownCause::Silent) => {
                let until = op.invoked + REPLY_TIMEOUT.as_micros() as u64;
                let pauses = evidence.pauses.get(&op.node).map_or(&[][..], Vec::as_slice);
                let was_paused = pauses.iter().any(|(from, to)| *from <= until && *to >= op.invoked);
                verdict.require(was_paused, || {
                    format!("n{} did not answer {} of {} within {REPLY_TIMEOUT:?}, from {} us", op.node, op.action, op.key, op.invoked)
                });
            }
            Outcome::Refused(OTHER) => verdict.fault(format!("n{} refused {} of {} for no known reason", op.node, op.action, op.key)),
            Outcome::Refused(code) if EXPLAINED_BY_FAULTS.contains(&code) => verdict.require(!was_quiet, || {
                format!("n{} refused {} of {} with {code} at {} us, while nothing was amiss", op.node, op.action, op.key, op.invoked)
            }),
            _ => {}
        }
    }
    verdict.looked_at = format!("{} requests, {in_quiet} of them while nothing was amiss", evidence.ops.len());
    verdict
}
