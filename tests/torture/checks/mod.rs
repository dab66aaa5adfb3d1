//! What must hold of the history, and of what the nodes hold at the end. Each check is a function of the evidence; none asks a node.

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

/// Faults that a check keeps in words; the others are counted.
const FAULTS_SHOWN: usize = 10;

/// What one check found.
pub struct Verdict {
    pub name: &'static str,
    /// How much was looked at.
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

    /// What is wrong, a line each.
    pub fn faults(&self) -> Vec<String> {
        let more = self.faults_len - self.faults.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        self.faults.iter().cloned().chain(more).collect()
    }
}

/// What one node holds, by a DUMP: the vector was noted before the entries were read.
pub struct Dumped {
    pub node: u16,
    pub vector: VersionVector,
    pub entries: HashMap<Bytes, Entry>,
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Value(u64),
    Foreign(String),
}

impl Dumped {
    /// The bytes under a key, if there are any for readers.
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

/// The end of an incarnation that may have taken `local` writes with it: those that were acknowledged after `safe`.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub node: u16,
    pub life: u32,
    pub safe: u64,
}

/// A node's next life began: no sooner than `at`, and the one before had ended by then.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub node: u16,
    pub at: u64,
}

/// Every node held everything that any node had held at `from`; it was certain at `until`.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    pub from: u64,
    pub until: u64,
}

pub struct Evidence<'a> {
    pub ops: &'a [Op],
    /// Each in the order of invocation.
    pub by_key: HashMap<Key, Vec<&'a Op>>,
    /// At the end, after healing.
    pub dumps: &'a [Dumped],
    /// When those were taken.
    pub dumped_wall_ms: u64,
    pub losses: &'a [Loss],
    pub settled: &'a [Settled],
    pub starts: &'a [Start],
    /// When each node could not answer: it stood still, or was down.
    pub pauses: &'a HashMap<u16, Vec<(u64, u64)>>,
    /// When nothing was amiss with any of them.
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

/// All checks of the history.
pub fn all(evidence: &Evidence) -> Vec<Verdict> {
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

/// Of each key that is written through one node only, each incarnation of that node by itself.
fn linearizable(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new("linearizable through one node");
    let (mut keys, mut searched) = (0, 0);
    for (key, ops) in evidence.group(Group::Register) {
        keys += 1;
        let mut earlier: HashSet<u64> = HashSet::new();
        let lives: std::collections::BTreeSet<u32> = ops.iter().map(|op| op.life).collect();
        for (place, life) in lives.into_iter().enumerate() {
            let of_life: Vec<&Op> = ops.iter().copied().filter(|op| op.life == life).collect();
            searched += of_life.len();
            match linearizable::check(&of_life, (place > 0).then_some(&earlier)) {
                Found::Legal => {}
                Found::Illegal => {
                    verdict.fault(format!("{key} in life {life}: no order of its {} operations explains what was heard", of_life.len()))
                }
                Found::Undecided => {
                    verdict.fault(format!("{key} in life {life}: undecided after a long search of {} operations", of_life.len()))
                }
            }
            earlier.extend(of_life.iter().filter(|op| op.may_have_happened()).filter_map(|op| op.action.number()));
        }
    }
    verdict.looked_at = format!("{searched} operations on {keys} keys");
    verdict
}
