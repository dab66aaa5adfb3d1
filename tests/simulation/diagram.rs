//! The diagram of a run: a space-time diagram, as in Lamport, "Time, Clocks, and the Ordering of
//! Events in a Distributed System" (1978).
//!
//! Nodes are lines, time runs down, messages are arrows from their send to their receive. Recording
//! never changes a run: it draws no random number, schedules no event and adds nothing to the
//! trace. Each step has a row of its own, in the order in which it happened, so no two texts
//! overlap and no arrow points up. The rows are not to scale; the left margin has the times.
//! Heartbeats, their echoes, and acks that acknowledge nothing new are left out.

mod drawing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::simulation::Violation;
use crate::simulation::clients::SimulatedCommand;
use crate::simulation::history::{ClientRound, ReplyOutcome};
use drawing::Drawing;
use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{Origin, Version};
use kvmesh::replication::replica::Replica;
use kvmesh::store::Store;
use kvmesh::wire::dump;
use kvmesh::wire::frame::{FrameHead, HEAD_LEN};
use kvmesh::wire::peer::{Ack, Message, Protocol};

/// Steps that are kept while a run goes on. Beyond this, the oldest are forgotten.
const KEPT_MAX: usize = 200_000;
/// Steps that are drawn. Of a longer window, the last ones are.
pub const DRAWN_MAX: usize = 400;
/// Steps that are drawn unless a window is asked for, and how many of them lie before a conflict.
const DRAWN: usize = 80;
const BEFORE_CONFLICT: usize = 30;
/// The lines of a violation that are shown, and their length in bytes.
const LINES_MAX: usize = 4;
const LINE_LEN: usize = 120;

/// The part of a run that is drawn. Without `until`: up to the violation or, in a run without one,
/// around the first write that arrives where a newer one is.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiagramWindow {
    pub until: Option<Duration>,
    pub len: Option<Duration>,
}

/// The recorder of one run.
#[derive(Default)]
pub struct Diagram {
    steps: VecDeque<DiagramStep>,
    /// The key and the value of each write, by which it is called. A delete has no value.
    writes: BTreeMap<(Origin, Stamp), (String, Option<String>)>,
    /// Messages on their way, by connection, in the order in which they were sent.
    under_way: BTreeMap<u64, VecDeque<Sent>>,
    /// The last ack that was sent on each connection.
    acked: BTreeMap<u64, (Stamp, Stamp)>,
    sent: u64,
    /// When a write first arrived where a newer one was.
    first_conflict: Option<Duration>,
    /// Nodes whose log has writes that are not synced yet.
    unsynced: BTreeSet<usize>,
}

struct DiagramStep {
    at: Duration,
    /// The node of the step. `None` if it concerns all nodes.
    node: Option<usize>,
    kind: StepKind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A request of this client, its replies, or the end of its connection.
    Request(usize),
    Reply(usize),
    Send(DrawnMessage),
    Receive(DrawnMessage),
    /// Writes that the log holds are on the disk.
    Synced,
    Connection,
    Fault,
    /// A link that was cut carries messages again.
    Mended(usize),
    Down,
    Up,
    Paused,
    Resumed,
    Note,
    /// A check has failed.
    Failed,
}

/// A message from node to node. Its number joins its send and its receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawnMessage {
    number: u64,
    from: usize,
    to: usize,
    kind: MessageKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageKind {
    Batch,
    Ack,
    /// A part of a dump, or the request for one.
    Dump,
}

/// A message on its way, and its text; `None` if it is not drawn.
type Sent = Option<(DrawnMessage, String)>;

/// The writes that a message brings, and what its receiver holds of them just before the merge.
pub struct BeforeMerge(Vec<Brought>);

struct Brought {
    key: Vec<u8>,
    version: Version,
    held: Option<Version>,
    is_covered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MergeVerdict {
    Stored,
    Won(Version),
    Superseded(Version),
    Covered,
}

impl BeforeMerge {
    pub fn of(message: &Message, replica: &Replica) -> BeforeMerge {
        let vector = replica.vector();
        let brought = |key: &[u8], version| Brought {
            key: key.to_vec(),
            version,
            held: replica.store().entry(key).map(|entry| entry.version()),
            is_covered: vector.covers(version),
        };
        let mut writes: Vec<Brought> = match message {
            Message::Writes(batch) => batch.writes.iter().map(|write| brought(write.key, write.version)).collect(),
            Message::Lines(lines) => {
                dump::entries(lines).unwrap_or_default().iter().map(|entry| brought(entry.key(), entry.version())).collect()
            }
            _ => Vec::new(),
        };
        // Only the last one of several writes of a key counts; the others are no conflict.
        let last: BTreeMap<Vec<u8>, Version> = writes.iter().map(|brought| (brought.key.clone(), brought.version)).collect();
        writes.retain(|brought| last[&brought.key] == brought.version);
        BeforeMerge(writes)
    }
}

impl Brought {
    /// Tells from the entry after the merge what the merge has decided.
    fn verdict(&self, store: &Store) -> MergeVerdict {
        let after = store.entry(&self.key).map(|entry| entry.version());
        match (self.held, after) {
            _ if self.is_covered => MergeVerdict::Covered,
            (held, Some(after)) if after == self.version => held.map_or(MergeVerdict::Stored, MergeVerdict::Won),
            (_, Some(after)) => MergeVerdict::Superseded(after),
            (_, None) => MergeVerdict::Covered,
        }
    }
}

impl Diagram {
    pub fn step(&mut self, at: Duration, node: Option<usize>, kind: StepKind, text: String) {
        if self.steps.len() == KEPT_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(DiagramStep { at, node, kind, text });
    }

    /// Names a write that was issued, by its key and value.
    pub fn name(&mut self, entry: &Entry) {
        let Version { stamp, origin } = entry.version();
        self.writes.insert((origin, stamp), (shortened(entry.key()), entry.value().map(shortened)));
    }

    fn name_of(&self, version: Version) -> String {
        match self.writes.get(&(version.origin, version.stamp)) {
            Some((key, Some(value))) => format!("{key}={value}"),
            Some((key, None)) => format!("{key} deleted,"),
            None => "a write".to_owned(),
        }
    }

    fn value_of(&self, version: Version) -> &str {
        let write = self.writes.get(&(version.origin, version.stamp));
        write.map_or("another write", |(_, value)| value.as_deref().unwrap_or("a delete"))
    }

    /// Records the requests of a round.
    pub fn asked(&mut self, now: Duration, node: usize, client: usize, commands: &[SimulatedCommand]) {
        let commands: Vec<String> = commands.iter().map(words).collect();
        self.step(now, Some(node), StepKind::Request(client), format!("c{}: {}", client + 1, commands.join("; ")));
    }

    /// Records the replies of a round.
    pub fn answered(&mut self, now: Duration, client: usize, round: &ClientRound) {
        let outcomes: Vec<String> = round.outcomes.iter().map(outcome_words).collect();
        let took_ms = (now - round.began).as_secs_f64() * 1_000.0;
        let may_write = round.commands.iter().any(|command| command.footprint.may_write);
        let how = if may_write && now > round.began { format!(" ({}, {took_ms:.1} ms)", round.level) } else { String::new() };
        let text = format!("c{} gets {}{how}", client + 1, outcomes.join("; "));
        self.step(now, Some(round.machine), StepKind::Reply(client), text);
    }

    /// Records that a link is cut, and when it will be mended. Being cut once more replaces that
    /// time.
    pub fn cut(&mut self, now: Duration, from: usize, to: usize, until: Duration) {
        let kind = StepKind::Mended(to);
        self.steps.retain(|step| !(step.at > now && step.node == Some(from) && step.kind == kind));
        if until > now {
            self.step(now, Some(from), StepKind::Fault, format!("link to n{} is cut", to + 1));
        }
        self.step(until, Some(from), kind, format!("link to n{} is mended", to + 1));
    }

    /// Records that all faults are over, and that no link is cut any more.
    pub fn heal(&mut self, now: Duration) {
        self.steps.retain(|step| step.at <= now);
        self.step(now, None, StepKind::Note, "no more faults and requests; everything is mended".to_owned());
    }

    /// Records the messages that leave on a connection. `bytes` holds whole messages.
    pub fn sent(&mut self, now: Duration, connection: u64, ends: (usize, usize), mut bytes: &[u8], protocol: Protocol) {
        let (from, to) = ends;
        while let Some(head) = bytes.first_chunk::<HEAD_LEN>() {
            let Some((body, rest)) = bytes[HEAD_LEN..].split_at_checked(FrameHead::decode(*head).len) else { return };
            bytes = rest;
            let Ok(message) = Message::decode(body, protocol) else { return };
            if matches!(message, Message::Hello(_)) {
                continue;
            }
            self.sent += 1;
            let number = self.sent;
            let sent = self.describe(connection, &message).map(|(kind, text)| (DrawnMessage { number, from, to, kind }, text));
            if let Some((message, text)) = &sent {
                self.step(now, Some(from), StepKind::Send(*message), text.clone());
            }
            self.under_way.entry(connection).or_default().push_back(sent);
        }
    }

    /// Describes a message. `None` if it is not drawn.
    fn describe(&mut self, connection: u64, message: &Message) -> Option<(MessageKind, String)> {
        match message {
            Message::Writes(batch) => {
                let writes: Vec<String> = batch.writes.iter().map(|write| self.name_of(write.version)).collect();
                (!writes.is_empty()).then(|| (MessageKind::Batch, writes.join("; ")))
            }
            Message::Ack(ack) => self.describe_ack(connection, ack).map(|text| (MessageKind::Ack, text)),
            Message::Request(request) => {
                let what = if request.heal { "everything, to heal" } else { "what it lacks" };
                Some((MessageKind::Dump, format!("asks for {what}")))
            }
            Message::Lines(lines) if lines.is_empty() => None,
            Message::Lines(lines) => {
                let (is_first, is_last) = (lines.starts_with(b"{\"dump\""), memchr::memmem::find(lines, b"{\"end\"").is_some());
                let count = dump::entries(lines).map_or(0, |entries| entries.len());
                let part = match (is_first, is_last) {
                    (true, true) => "whole dump",
                    (true, false) => "dump begins",
                    (false, true) => "dump ends",
                    (false, false) => "dump",
                };
                Some((MessageKind::Dump, format!("{part}, {count} {}", if count == 1 { "entry" } else { "entries" })))
            }
            Message::Heartbeat(_) | Message::Echo { .. } | Message::Hello(_) | Message::Refused(_) => None,
            // Nodes of a simulation prove nothing.
            Message::Challenge(_) | Message::AuthenticatedHello(_) => None,
        }
    }

    /// Describes an ack by the last write that it acknowledges. `None` if it says nothing new.
    fn describe_ack(&mut self, connection: u64, ack: &Ack) -> Option<String> {
        let before = self.acked.insert(connection, (ack.upto, ack.received)).unwrap_or((Stamp::ZERO, Stamp::ZERO));
        if (ack.upto, ack.received) == before {
            return None;
        }
        let (stamp, words) = if ack.upto > before.0 { (ack.upto, "ack") } else { (ack.received, "in memory") };
        let (&(origin, stamp), _) = self.writes.range((ack.origin, Stamp::ZERO)..=(ack.origin, stamp)).next_back()?;
        Some(format!("{words} up to {}", self.name_of(Version { stamp, origin }).trim_end_matches(',')))
    }

    /// Records that the next message of a connection was received, and merged or refused.
    pub fn received(&mut self, now: Duration, connection: u64, before: &BeforeMerge, store: &Store, result: &Result<(), String>) {
        let Some(Some((message, text))) = self.under_way.get_mut(&connection).and_then(VecDeque::pop_front) else { return };
        let DrawnMessage { from, to, kind, .. } = message;
        let verdicts: Vec<MergeVerdict> = before.0.iter().map(|brought| brought.verdict(store)).collect();
        if kind == MessageKind::Batch && verdicts.iter().any(|verdict| matches!(verdict, MergeVerdict::Superseded(_))) {
            self.first_conflict.get_or_insert(now);
        }
        let text = match (kind, result) {
            (_, Err(why)) => format!("refused: {why}"),
            (MessageKind::Batch, Ok(())) => {
                let merged = before
                    .0
                    .iter()
                    .zip(&verdicts)
                    .map(|(brought, verdict)| format!("{} {}", self.name_of(brought.version), self.verdict_words(*verdict)));
                merged.collect::<Vec<String>>().join("; ")
            }
            (MessageKind::Dump, Ok(())) if !verdicts.is_empty() => {
                let count = |is: fn(&MergeVerdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count();
                let won = count(|verdict| matches!(verdict, MergeVerdict::Stored | MergeVerdict::Won(_)));
                let superseded = count(|verdict| matches!(verdict, MergeVerdict::Superseded(_)));
                format!("{text}: {won} won, {superseded} superseded")
            }
            (MessageKind::Ack | MessageKind::Dump, Ok(())) => text,
        };
        if !verdicts.is_empty() {
            self.logs(to);
        }
        self.step(now, Some(to), StepKind::Receive(message), format!("n{}: {text}", from + 1));
    }

    fn verdict_words(&self, verdict: MergeVerdict) -> String {
        match verdict {
            MergeVerdict::Stored => "stored".to_owned(),
            MergeVerdict::Won(over) => format!("won over {}", self.value_of(over)),
            MergeVerdict::Superseded(by) => format!("superseded by {}", self.value_of(by)),
            MergeVerdict::Covered => "covered".to_owned(),
        }
    }

    /// Notes that writes wait for the log of a node.
    pub fn logs(&mut self, node: usize) {
        self.unsynced.insert(node);
    }

    /// Records that the log of a node is on the disk, if writes waited for that.
    pub fn synced(&mut self, now: Duration, node: usize) {
        if self.unsynced.remove(&node) {
            self.step(now, Some(node), StepKind::Synced, String::new());
        }
    }

    /// Draws the window as an SVG document.
    pub fn draw(mut self, seed: u64, nodes: usize, window: DiagramWindow, violation: Option<&Violation>) -> String {
        if let Some(Violation { check, at, what }) = violation {
            self.steps.retain(|step| step.at <= *at);
            for line in wrapped(&format!("FAILED {check}: {what}")) {
                self.step(*at, None, StepKind::Failed, line);
            }
        }
        // Links are mended at times that were recorded before.
        self.steps.make_contiguous().sort_by_key(|step| step.at);
        let steps: Vec<DiagramStep> = self.steps.into();
        let anchor = self.first_conflict.filter(|_| violation.is_none());
        let drawn = window.choose(&steps, anchor);
        let seconds = |step: Option<&DiagramStep>| step.map_or(0.0, |step| step.at.as_secs_f64());
        let (from, to) = (seconds(steps[drawn.clone()].first()), seconds(steps[drawn.clone()].last()));
        Drawing::new(&steps, drawn, nodes).svg(&format!("kvsim, seed {seed}: {nodes} nodes, from {from:.3} s to {to:.3} s"))
    }
}

impl DiagramWindow {
    /// Chooses the steps to draw, from all steps in the order of time.
    fn choose(&self, steps: &[DiagramStep], conflict: Option<Duration>) -> Range<usize> {
        let last = steps.last().map_or(Duration::ZERO, |step| step.at);
        let end_of = |until: Duration| steps.partition_point(|step| step.at <= until);
        let start_of = |from: Duration| steps.partition_point(|step| step.at < from);
        let (start, end) = match (self.until, self.len, conflict) {
            (None, Some(len), Some(conflict)) => (start_of(conflict.saturating_sub(len / 2)), end_of(conflict + len / 2)),
            (None, None, Some(conflict)) => {
                let start = start_of(conflict).saturating_sub(BEFORE_CONFLICT);
                (start, (start + DRAWN).min(steps.len()))
            }
            (until, Some(len), _) => {
                let until = until.unwrap_or(last);
                (start_of(until.saturating_sub(len)), end_of(until))
            }
            (until, None, _) => {
                let end = end_of(until.unwrap_or(last));
                (end.saturating_sub(DRAWN), end)
            }
        };
        start.max(end.saturating_sub(DRAWN_MAX))..end
    }
}

/// The words of a request, in either protocol.
fn words(command: &SimulatedCommand) -> String {
    let text = String::from_utf8_lossy(&command.bytes);
    let words: Vec<String> = if command.is_resp {
        text.split("\r\n").skip(2).step_by(2).map(|word| shortened(word.as_bytes())).collect()
    } else {
        text.split_whitespace().map(|word| shortened(word.as_bytes())).collect()
    };
    words.join(" ")
}

fn outcome_words(outcome: &ReplyOutcome) -> String {
    match outcome {
        ReplyOutcome::Done(None) => "OK".to_owned(),
        ReplyOutcome::Done(Some(value)) => shortened(value),
        ReplyOutcome::Nothing => "nothing to do".to_owned(),
        ReplyOutcome::Refused(code) => code.clone(),
        ReplyOutcome::Unknown => "TIMEOUT".to_owned(),
    }
}

/// The beginning of a key or a value, printable.
fn shortened(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() > 14 { format!("{}…", &text[..13]) } else { text }
}

/// Breaks a text between words, and keeps the first few lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < LINE_LEN => line.extend([word, " "]),
            _ => lines.push(format!("{word} ")),
        }
    }
    lines.truncate(LINES_MAX);
    lines
}

#[cfg(test)]
mod tests;
