//! Questions to the nodes, and to the system about their processes. Every question has a deadline.

use std::io;
use std::time::{Duration, Instant};

use kvmesh::data::version::VersionVector;
use kvmesh::wire::dump::{DumpReader, Line};

use crate::checks::NodeDump;
use crate::kit::client::{Client, Limit, Status, word_after};
use crate::kit::process::status_number;
use crate::nodes::NodeHandle;

const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const DUMP_TIMEOUT: Duration = Duration::from_secs(3);

/// Restores a backup into a node. The backup is made once the node waits for it.
pub fn restore(node: &NodeHandle, timeout: Duration, backup: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<(), String> {
    ask(node, timeout, |client| {
        client.send("RESTORE\n")?;
        client.send(backup()?)?;
        accepted(client.long_reply()?)
    })
    .map(drop)
}

/// Asks a node on a connection of its own. An error names the node.
fn ask<T>(node: &NodeHandle, timeout: Duration, question: impl FnOnce(&mut Client) -> io::Result<T>) -> Result<T, String> {
    let asked = Client::open(node.addr, timeout).and_then(|mut client| {
        client.set_limit(Limit::Until(Instant::now() + timeout));
        question(&mut client)
    });
    asked.map_err(|error| format!("n{}: {error}", node.id))
}

/// The lines of a reply. The refusal of a node is an error.
fn accepted(lines: Vec<String>) -> io::Result<Vec<String>> {
    if lines[0].starts_with("ERROR") { Err(io::Error::other(lines[0].clone())) } else { Ok(lines) }
}

pub fn status(node: &NodeHandle) -> Result<Status, String> {
    ask(node, ASK_TIMEOUT, Client::status)
}

pub fn vector(node: &NodeHandle) -> Result<VersionVector, String> {
    serde_json::from_str(status(node)?.text("vector")).map_err(|error| format!("n{}: vector: {error}", node.id))
}

/// The digest of all that does not expire before this time.
pub fn digest(node: &NodeHandle, before_ms: u64) -> Result<String, String> {
    ask(node, ASK_TIMEOUT, |client| client.ask_line(&format!("DIGEST {before_ms}")))
}

/// Returns whether a node answers PING in this time.
pub fn answers(node: &NodeHandle, timeout: Duration) -> bool {
    ask(node, timeout, |client| client.ask_line("PING")).is_ok_and(|reply| reply == "PONG")
}

pub fn resume(node: &NodeHandle) -> Result<(), String> {
    ask(node, ASK_TIMEOUT, |client| accepted(client.ask("RESUME")?)).map(drop)
}

pub fn dump(node: &NodeHandle) -> Result<NodeDump, String> {
    let lines = ask(node, DUMP_TIMEOUT, |client| accepted(client.ask("DUMP")?))?;
    let (mut reader, mut vector, mut entries) = (DumpReader::default(), None, Vec::new());
    for line in lines {
        match reader.line(line.as_bytes()).map_err(|what| format!("n{}: a dump with a wrong line: {what}", node.id))? {
            Line::Header(header) => vector = Some(header.vector),
            Line::Entry(entry) => entries.push((entry.shared_key(), entry)),
            Line::End(_) => {}
        }
    }
    let vector = vector.filter(|_| reader.has_ended()).ok_or_else(|| format!("n{}: a dump that is not whole", node.id))?;
    Ok(NodeDump { node: node.id, vector, entries: entries.into_iter().collect() })
}

/// State of a node's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Time since the last of its peers came up.
    pub up_for: Duration,
    /// Lag of its slowest peer.
    pub behind: Duration,
}

/// Succeeds if a node is open and logging, and connected both ways with every peer, and counts
/// each. An error tells what is missing.
pub fn is_whole(node: &NodeHandle) -> Result<LinkState, String> {
    let status = status(node)?;
    if status.text("state") != "open" || status.text("log") != "ok" {
        return Err(format!("n{} is {}, its log is {}", node.id, status.text("state"), status.text("log")));
    }
    linked(&ask(node, ASK_TIMEOUT, |client| client.ask("PEERS"))?).map_err(|line| format!("n{}: {line}", node.id))
}

/// An error is the line of a peer that is not well.
fn linked(peers: &[String]) -> Result<LinkState, &String> {
    let mut linked = LinkState { up_for: Duration::MAX, behind: Duration::ZERO };
    for line in peers {
        let is_linked = ["link_out", "link_in"].iter().all(|name| word_after(line, name) == Some("connected"));
        let is_well = is_linked && line.contains(" up ") && word_after(line, "counted") == Some("yes");
        let seconds = |name| Duration::try_from_secs_f64(word_after(line, name)?.parse().ok()?).ok();
        let (Some(up_for), Some(behind), true) = (seconds("for_s"), seconds("lag_s"), is_well) else { return Err(line) };
        linked = LinkState { up_for: linked.up_for.min(up_for), behind: linked.behind.max(behind) };
    }
    Ok(linked)
}

/// Threads and memory of a process, as the system counts them.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSize {
    pub threads: u64,
    pub resident_kib: u64,
}

pub fn size(process_id: i32) -> Result<ProcessSize, String> {
    let number = |name| status_number(process_id, name);
    match (number("Threads:"), number("VmRSS:")) {
        (Some(threads), Some(resident_kib)) => Ok(ProcessSize { threads, resident_kib }),
        _ => Err(format!("process {process_id} has no size")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(up: &str, for_s: &str, counted: &str, lag_s: &str) -> String {
        format!(
            "peer 2 {up} for_s {for_s} addr 127.0.0.1:1 link_out connected link_in connected heard_s_ago 0.1 round_trip_ms 0.20 clock_offset_ms 0 \
             counted {counted} lag_writes 3 lag_s {lag_s} received none durable none queued_bytes 0 overflows 0 tombstones_waiting 0 protocol 3"
        )
    }

    #[test]
    fn the_peer_that_is_worst_off_is_what_counts() {
        let (one, other) = (peer("up", "12.3", "yes", "0.0"), peer("up", "0.8", "yes", "1.4"));
        let expected = LinkState { up_for: Duration::from_millis(800), behind: Duration::from_millis(1_400) };
        assert_eq!(linked(&[one.clone(), other]), Ok(expected));
        for lame in [peer("down", "1.0", "no", "0.0"), peer("up", "1.0", "no", "3.0"), peer("up", "x", "yes", "0.0")] {
            assert_eq!(linked(&[one.clone(), lame.clone()]), Err(&lame));
        }
    }
}
