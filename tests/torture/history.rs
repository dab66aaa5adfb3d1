//! The history: every operation of the clients with its invocation, completion and outcome.
//!
//! Each client has a recorder of its own, and records an operation before its request leaves, so
//! one that is never answered is recorded too. Times are microseconds of one monotonic clock.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvmesh::wire::ack_level::AckLevel;
use parking_lot::Mutex;
use serde_json::json;

use crate::connection::{Action, Answer, Outcome, UnknownCause};
use crate::keys::Key;
use crate::now;

/// Operations of all clients together, about a gigabyte. Beyond this the clients end, and the
/// report tells so.
const OPERATIONS_MAX: u64 = 10_000_000;

#[derive(Clone, Debug)]
pub struct Op {
    pub client: u16,
    /// Number of the connection, unique in the run.
    pub connection: u32,
    pub node: u16,
    pub incarnation: u32,
    pub key: Key,
    pub action: Action,
    pub level: AckLevel,
    pub invoked: u64,
    /// `u64::MAX` without a reply.
    pub completed: u64,
    pub outcome: Outcome,
}

impl Op {
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_))
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// Returns whether it is a write that has happened, or may have, by all that its client knows.
    pub fn may_have_happened(&self) -> bool {
        self.action.is_write() && !matches!(self.outcome, Outcome::Refused(_))
    }

    /// Returns whether it is a write that a majority has acknowledged.
    pub fn is_majority_acked(&self) -> bool {
        self.action.is_write() && self.is_done() && self.level != AckLevel::Local
    }

    /// The number that a read returned, if it was answered.
    pub fn shown(&self) -> Option<Option<u64>> {
        match self.outcome {
            Outcome::Done(Answer::Value(shown)) => Some(shown),
            _ => None,
        }
    }
}

#[derive(Default)]
pub struct History {
    recorders: Mutex<Vec<Recorder>>,
    connections: AtomicU32,
    operations: AtomicU64,
}

/// The operations of one client.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Op>>>);

impl History {
    pub fn recorder(&self) -> Recorder {
        let recorder = Recorder::default();
        self.recorders.lock().push(recorder.clone());
        recorder
    }

    pub fn next_connection(&self) -> u32 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts so many more operations. Returns whether they may be recorded.
    pub fn takes(&self, operations: usize) -> bool {
        self.operations.fetch_add(operations as u64, Ordering::Relaxed) < OPERATIONS_MAX
    }

    pub fn is_full(&self) -> bool {
        self.operations.load(Ordering::Relaxed) >= OPERATIONS_MAX
    }

    /// Removes and returns all operations, in the order of invocation.
    pub fn take(&self) -> Vec<Op> {
        let mut all: Vec<Op> = self.recorders.lock().iter().flat_map(|recorder| std::mem::take(&mut *recorder.0.lock())).collect();
        all.sort_by_key(|op| op.invoked);
        all
    }
}

impl Recorder {
    /// Records an operation. Returns its index.
    pub fn invoke(&self, op: Op) -> usize {
        let mut ops = self.0.lock();
        ops.push(op);
        ops.len() - 1
    }

    /// Records the outcome of an operation, unless the run has taken the history by now.
    pub fn complete(&self, index: usize, outcome: Outcome) {
        if let Some(op) = self.0.lock().get_mut(index) {
            if !matches!(outcome, Outcome::Unknown(_)) {
                op.completed = now();
            }
            op.outcome = outcome;
        }
    }
}

/// How often each outcome was received.
#[derive(Default)]
pub struct Tally {
    pub done_writes: u64,
    pub done_reads: u64,
    pub refused: HashMap<&'static str, u64>,
    pub unknown: HashMap<&'static str, u64>,
}

impl Tally {
    pub fn of(ops: &[Op]) -> Tally {
        let mut tally = Tally::default();
        for op in ops {
            match op.outcome {
                Outcome::Done(_) if op.action.is_write() => tally.done_writes += 1,
                Outcome::Done(_) => tally.done_reads += 1,
                Outcome::Refused(code) => *tally.refused.entry(code).or_default() += 1,
                Outcome::Unknown(why) => {
                    let why = match why {
                        UnknownCause::TimedOut => "TIMEOUT",
                        UnknownCause::Broken => "broken connection",
                        UnknownCause::Silent => "no reply",
                        UnknownCause::Pending => "run over",
                    };
                    *tally.unknown.entry(why).or_default() += 1;
                }
            }
        }
        tally
    }
}

/// Writes the history as lines of JSON, one operation a line.
pub fn write(ops: &[Op], out: &mut impl Write) -> io::Result<()> {
    for op in ops {
        let completed = (op.completed != u64::MAX).then_some(op.completed);
        let line = json!({
            "invoked_us": op.invoked, "completed_us": completed, "client": op.client, "connection": op.connection, "node": op.node,
            "incarnation": op.incarnation, "key": op.key.to_string(), "action": op.action.to_string(), "level": op.level, "outcome": op.outcome.to_string(),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
