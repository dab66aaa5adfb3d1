//! The cost of one faulty node for the others: how long `local` writes take there, beside the same
//! load without any fault.

use hdrhistogram::Histogram;

use crate::checks::Verdict;
use crate::history::Op;
use crate::keys::Group;

/// Coarse, because the machine may be small and busy. A node that waits for its faulty peer exceeds
/// it.
const P99_MAX_US: u64 = 2_000_000;
/// Longer latencies are counted as this.
const LONGEST_US: u64 = 60_000_000;
/// With fewer samples, the 99th percentile means nothing.
const SAMPLES_MIN: u64 = 100;

/// A time in which one node was faulty, or none.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub from: u64,
    pub until: u64,
    pub faulty: Option<u16>,
}

#[derive(Default)]
pub struct Phases(Vec<Phase>);

impl Phases {
    pub fn add(&mut self, phase: Phase) {
        self.0.push(phase);
    }

    pub fn check(&self, ops: &[Op]) -> Verdict {
        let mut verdict = Verdict::new("a faulty peer does not slow local writes");
        let (mut calm, mut faulty) = (histogram(), histogram());
        for op in ops.iter().filter(|op| op.key.group == Group::Local && op.is_done()) {
            // Phases are in order and do not overlap.
            let index = self.0.partition_point(|phase| phase.until < op.invoked);
            let Some(phase) = self.0.get(index).filter(|phase| phase.from <= op.invoked) else { continue };
            match phase.faulty {
                None => calm.saturating_record(op.completed - op.invoked),
                Some(node) if node != op.node => faulty.saturating_record(op.completed - op.invoked),
                Some(_) => {}
            }
        }
        let (beside, without) = (faulty.value_at_quantile(0.99), calm.value_at_quantile(0.99));
        verdict.looked_at =
            format!("p99 {beside} us of {} writes beside one faulty node, {without} us of {} without faults", faulty.len(), calm.len());
        verdict.require(faulty.len() < SAMPLES_MIN || beside <= P99_MAX_US, || {
            format!("p99 is {beside} us, at most {P99_MAX_US} are accepted")
        });
        verdict
    }
}

fn histogram() -> Histogram<u64> {
    // Cannot fail: the bounds are far apart, and three digits are enough for them.
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("legal bounds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Action, Answer, Outcome};
    use crate::keys::Key;
    use kvmesh::wire::ack_level::AckLevel;

    fn write(node: u16, invoked: u64, took: u64) -> Op {
        let key = Key { group: Group::Local, owner: node, number: 0 };
        let (action, outcome) = (Action::Put(1), Outcome::Done(Answer::Written));
        let level = AckLevel::Local;
        Op { client: 0, connection: 0, node, incarnation: 1, key, action, level, invoked, completed: invoked + took, outcome }
    }

    #[test]
    fn slow_writes_count_only_at_the_other_nodes_while_one_is_faulty() {
        let phases = Phases(vec![Phase { from: 0, until: 1_000, faulty: None }, Phase { from: 1_001, until: 2_000, faulty: Some(2) }]);
        let slow = 3_000_000;
        let ops = |node: u16, from: u64| (0..200).map(move |number| write(node, from + number, slow)).collect::<Vec<_>>();
        assert!(!phases.check(&ops(1, 1_100)).holds());
        assert!(phases.check(&ops(2, 1_100)).holds() && phases.check(&ops(1, 100)).holds() && phases.check(&ops(1, 2_100)).holds());
    }
}
