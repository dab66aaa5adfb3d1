//! What the nodes say of themselves, and what the system says of their processes. Every question has a deadline.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use kvmesh::client::{self, Client};
use kvmesh::data::version::VersionVector;
use kvmesh::wire::dump::{Line, parse_line};

use crate::checks::Dumped;
use crate::nodes::Place;

const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const DUMP_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_PAUSE: Duration = Duration::from_millis(25);

/// Polls until `probe` gives a value; what it said last when the deadline passes.
pub fn until<T, E>(deadline: Instant, mut probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => return Err(last),
            Err(_) => thread::sleep(POLL_PAUSE),
        }
    }
}

/// STATUS by its names.
pub struct Status(HashMap<String, String>);

impl Status {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub fn vector(&self) -> Result<VersionVector, String> {
        serde_json::from_str(self.text("vector")).map_err(|error| format!("a vector that cannot be read: {error}"))
    }
}

fn connect(place: &Place, timeout: Duration) -> Result<Client, String> {
    Client::connect(&[place.addr.to_string()], timeout).map_err(|error| format!("n{}: {error}", place.id))
}

fn lines(place: &Place, command: &str) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    connect(place, ASK_TIMEOUT)?
        .call_lines::<client::Error>(command.as_bytes(), |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .map_err(|error| format!("n{} {command}: {error}", place.id))?;
    Ok(lines)
}

pub fn status(place: &Place) -> Result<Status, String> {
    let lines = lines(place, "STATUS")?;
    Ok(Status(
        lines.iter().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
    ))
}

/// The fingerprint of what does not expire before this time.
pub fn digest(place: &Place, before_ms: u64) -> Result<String, String> {
    let mut client = connect(place, ASK_TIMEOUT)?;
    let said = client.call(format!("DIGEST {before_ms}").as_bytes()).map_err(|error| format!("n{} DIGEST: {error}", place.id))?;
    Ok(String::from_utf8_lossy(said).into_owned())
}

/// A PING that is answered in this time.
pub fn answers(place: &Place, timeout: Duration) -> bool {
    connect(place, timeout).is_ok_and(|mut client| client.call(b"PING").is_ok_and(|reply| reply == b"PONG"))
}

/// RESUME; an error is the node's refusal.
pub fn resume(place: &Place) -> Result<(), String> {
    lines(place, "RESUME").map(|_| ())
}

pub fn dump(place: &Place) -> Result<Dumped, String> {
    let (mut vector, mut entries, mut is_whole) = (None, HashMap::new(), false);
    let mut wrong = None;
    connect(place, DUMP_TIMEOUT)?
        .call_lines::<client::Error>(b"DUMP", |line| {
            match parse_line(line) {
                Ok(Line::Header(header)) => vector = Some(header.vector),
                Ok(Line::Entry(entry)) => drop(entries.insert(entry.shared_key(), entry)),
                Ok(Line::End(_)) => is_whole = true,
                Err(what) => wrong = Some(what),
            }
            Ok(())
        })
        .map_err(|error| format!("n{} DUMP: {error}", place.id))?;
    match (wrong, vector) {
        (None, Some(vector)) if is_whole => Ok(Dumped { node: place.id, vector, entries }),
        (wrong, _) => Err(format!("n{}: a dump that is not whole {}", place.id, wrong.unwrap_or_default())),
    }
}

/// How a node stands with its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Since the last of them came up.
    pub up_for: Duration,
    /// How far the slowest of them is behind.
    pub behind: Duration,
}

/// Open, logging, and connected both ways with every peer, each of which counts. An error says what is missing.
pub fn is_whole(place: &Place) -> Result<Linked, String> {
    let status = status(place)?;
    if status.text("state") != "open" || status.text("log") != "ok" {
        return Err(format!("n{} is {}, its log is {}", place.id, status.text("state"), status.text("log")));
    }
    linked(&lines(place, "PEERS")?).map_err(|line| format!("n{} says: {line}", place.id))
}

/// An error is the line of a peer with which something is amiss.
fn linked(peers: &[String]) -> Result<Linked, &String> {
    let mut linked = Linked { up_for: Duration::MAX, behind: Duration::ZERO };
    for line in peers {
        let is_well = line.contains(" up ") && line.contains("link_out connected link_in connected") && line.contains("counted yes");
        let (Some(up_for), Some(behind), true) = (seconds(line, " for_s "), seconds(line, " lag_s "), is_well) else { return Err(line) };
        linked = Linked { up_for: linked.up_for.min(up_for), behind: linked.behind.max(behind) };
    }
    Ok(linked)
}

/// What a line says behind this name.
fn seconds(line: &str, name: &str) -> Option<Duration> {
    let (_, rest) = line.split_once(name)?;
    Duration::try_from_secs_f64(rest.split(' ').next()?.parse().ok()?).ok()
}

/// Of a process, as the system counts.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub threads: u64,
    pub resident_kib: u64,
}

pub fn size(process_id: i32) -> Result<Size, String> {
    let text = fs::read_to_string(format!("/proc/{process_id}/status")).map_err(|error| format!("process {process_id}: {error}"))?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    match (number("Threads:"), number("VmRSS:")) {
        (Some(threads), Some(resident_kib)) => Ok(Size { threads, resident_kib }),
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
        let expected = Linked { up_for: Duration::from_millis(800), behind: Duration::from_millis(1_400) };
        assert_eq!(linked(&[one.clone(), other]), Ok(expected));
        for lame in [peer("down", "1.0", "no", "0.0"), peer("up", "1.0", "no", "3.0"), peer("up", "x", "yes", "0.0")] {
            assert_eq!(linked(&[one.clone(), lame.clone()]), Err(&lame));
        }
    }
}
