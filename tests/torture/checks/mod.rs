//! The checks: what must hold of the history, and of what the nodes hold at the end. Each check is
//! a function of the evidence; none asks a node.

mod contended;
mod counters;
pub mod coverage;
mod expiring;
mod gone;
mod handover;
pub mod linearizable;
mod order;
mod pairs;
mod reads;
mod sums;
mod survival;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{HashMap, HashSet};

use kvmesh::data::entry::{Entry, Key as Bytes};
use kvmesh::data::version::VersionVector;

use crate::history::Op;
use crate::keys::{Group, Key};
use crate::quiet::Quiet;

use linearizable::Found;

/// Violations that a verdict keeps in words; the others are counted.
const FAULTS_SHOWN: usize = 10;

/// The result of one check.
pub struct Verdict {
    pub name: &'static str,
    /// How much was checked.
    pub looked_at: String,
    faults: Vec<String>,
    faults_len: usize,
}

impl Verdict {
    pub fn new(name: &'static str) -> Verdict {
        Verdict { name, looked_at: String::new(), faults: Vec::new(), faults_len: 0 }
    }

    pub fn fault(&mut self, what: String) {
        self.faults_len += 1;
        if self.faults.len() < FAULTS_SHOWN {
            self.faults.push(what);
        }
    }

    pub fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fault(what());
        }
    }

    pub fn holds(&self) -> bool {
        self.faults_len == 0
    }

    /// The violations, a line each.
    pub fn faults(&self) -> Vec<String> {
        let more = self.faults_len - self.faults.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        self.faults.iter().cloned().chain(more).collect()
    }
}

/// The data of one node, by DUMP. The vector was noted before the entries were read.
pub struct NodeDump {
    pub node: u16,
    pub vector: VersionVector,
    pub entries: HashMap<Bytes, Entry>,
}

/// The state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Value(u64),
    Foreign(String),
}

impl Held {
    /// The state that a write leaves.
    fn left_by(write: &Op) -> Held {
        write.action.number().map_or(Held::Nothing, Held::Value)
    }
}

impl NodeDump {
    /// The bytes under a key, if readers see any.
    pub fn value(&self, key: Key, wall_ms: u64) -> Option<&[u8]> {
        self.entries.get(key.to_string().as_bytes()).filter(|entry| entry.is_live(|| wall_ms))?.value()
    }

    pub fn held(&self, key: Key, wall_ms: u64) -> Held {
        match self.value(key, wall_ms) {
            None => Held::Nothing,
            Some(value) => match key.number_in(value) {
                Some(number) => Held::Value(number),
                None => Held::Foreign(String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned()),
            },
        }
    }
}

/// The end of an incarnation that may have cost `local` writes: those that were acknowledged after
/// `safe`.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub node: u16,
    pub incarnation: u32,
    pub safe: u64,
}

/// The start of a node's next incarnation, no sooner than `at`. The one before had ended by then.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub node: u16,
    pub at: u64,
}

/// Every node held everything that any node had held at `from`; that was certain at `until`.
#[derive(Clone, Copy, Debug)]
pub struct Converged {
    pub from: u64,
    pub until: u64,
}

pub struct Evidence<'a> {
    pub ops: &'a [Op],
    /// Each in the order of invocation.
    pub by_key: HashMap<Key, Vec<&'a Op>>,
    /// Taken at the end, after healing.
    pub dumps: &'a [NodeDump],
    /// Wall clock when the dumps were taken.
    pub dumped_wall_ms: u64,
    pub losses: &'a [Loss],
    pub converged: &'a [Converged],
    pub starts: &'a [Start],
    /// Times in which each node could not answer: it stood still, or was down.
    pub pauses: &'a HashMap<u16, Vec<(u64, u64)>>,
    /// Times in which all nodes were well.
    pub quiet: &'a [Quiet],
}

impl<'a> Evidence<'a> {
    pub fn index(ops: &'a [Op]) -> HashMap<Key, Vec<&'a Op>> {
        let mut by_key: HashMap<Key, Vec<&Op>> = HashMap::new();
        ops.iter().for_each(|op| by_key.entry(op.key).or_default().push(op));
        by_key
    }

    fn group(&self, group: Group) -> impl Iterator<Item = (Key, &[&'a Op])> {
        self.by_key.iter().filter(move |(key, _)| key.group == group).map(|(key, ops)| (*key, ops.as_slice()))
    }
}

/// Runs all checks of the history.
pub fn all(evidence: &Evidence<'_>) -> Vec<Verdict> {
    vec![
        survival::majority(evidence),
        survival::local(evidence),
        gone::check(evidence),
        reads::nobody_wrote(evidence),
        reads::never_go_back(evidence),
        linearizable(evidence),
        counters::check(evidence),
        contended::check(evidence),
        tokens::check(evidence),
        sums::check(evidence),
        handover::check(evidence),
        pairs::check(evidence),
        expiring::check(evidence),
        reads::are_answered(evidence),
    ]
}

/// Checks each key that is written through one node only, each incarnation of that node by itself.
fn linearizable(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("linearizable through one node");
    let (mut keys, mut searched) = (0, 0);
    for (key, ops) in evidence.group(Group::Register) {
        keys += 1;
        let mut earlier: HashSet<u64> = HashSet::new();
        let incarnations: std::collections::BTreeSet<u32> = ops.iter().map(|op| op.incarnation).collect();
        for (index, incarnation) in incarnations.into_iter().enumerate() {
            let of_incarnation: Vec<&Op> = ops.iter().copied().filter(|op| op.incarnation == incarnation).collect();
            searched += of_incarnation.len();
            match linearizable::check(&of_incarnation, (index > 0).then_some(&earlier)) {
                Found::Legal => {}
                Found::Illegal => verdict.fault(format!(
                    "{key} in incarnation {incarnation}: no order of its {} operations explains what was read",
                    of_incarnation.len()
                )),
                Found::Undecided => verdict.fault(format!(
                    "{key} in incarnation {incarnation}: undecided after a long search of {} operations",
                    of_incarnation.len()
                )),
            }
            earlier.extend(of_incarnation.iter().filter(|op| op.may_have_happened()).filter_map(|op| op.action.number()));
        }
    }
    verdict.looked_at = format!("{searched} operations on {keys} keys");
    verdict
}
