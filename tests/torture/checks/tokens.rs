//! Keys that are appended to through all nodes at the same time. Of two concurrent appends one may
//! win. But an append is executed once, so no value that is ever shown or left has a token twice,
//! or one that no client has sent.

use std::collections::{HashMap, HashSet};

use crate::checks::{Evidence, Verdict};
use crate::connection::{self, Action, Answer, Outcome};
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("appended at most once");
    let (mut appended, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Tokens) {
        let sent: HashMap<u64, u64> = ops
            .iter()
            .filter(|op| op.may_have_happened())
            .filter_map(|op| match op.action {
                Action::Append(number) => Some((number, op.invoked)),
                _ => None,
            })
            .collect();
        appended += sent.len();
        let mut look = |answer: &Answer, until: u64, subject: String| {
            looks += 1;
            match answer {
                Answer::Tokens(numbers) => {
                    let mut known = HashSet::new();
                    let twice = numbers.iter().find(|number| !known.insert(**number));
                    let invented = numbers.iter().find(|number| sent.get(number).is_none_or(|invoked| *invoked > until));
                    verdict.require(twice.is_none(), || format!("{subject} {numbers:?} under {key}, with {twice:?} twice"));
                    verdict
                        .require(invented.is_none(), || format!("{subject} {numbers:?} under {key}, and no client had sent {invented:?}"));
                }
                other => verdict.fault(format!("{subject} {other:?} under {key}")),
            }
        };
        for op in ops.iter().filter(|op| op.action == Action::Get) {
            match &op.outcome {
                Outcome::Done(Answer::Value(None)) => {}
                Outcome::Done(answer) => look(answer, op.completed, format!("n{} showed at {} us", op.node, op.completed)),
                _ => {}
            }
        }
        for dump in evidence.dumps {
            if let Some(bytes) = dump.value(key, evidence.dumped_wall_ms) {
                look(&connection::answer(key, bytes), u64::MAX, format!("n{} holds", dump.node));
            }
        }
    }
    verdict.looked_at = format!("{appended} appends, {looks} values");
    verdict
}
