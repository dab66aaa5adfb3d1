//! `kvcount`: executes requests as one client of one node would send them, so that a profiler can
//! count the instructions that they take.
//!
//! `bench/instructions.sh` runs it under callgrind, which counts inside the functions `counted_…`
//! and nowhere else: from the bytes of a round's requests to the bytes of its replies, by the
//! shipped code, without sockets and in one thread. What other threads of a node do for a write, to
//! replicate it and to log it, is done between them.
//!
//! Equal arguments always give equal instructions: a key has the same position in every run, and
//! the time is an argument.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use kvmesh::data::clock::Now;
use kvmesh::data::key_order::OrderKey;
use kvmesh::process::arguments;
use kvmesh::replication::heartbeat::HeartbeatLoop;
use kvmesh::store::{KeySpread, Store};
use kvmesh::testing::simulated_clients::{SimulatedClient, SimulatedServer};
use kvmesh::testing::simulated_disk::SimulatedDisk;
use kvmesh::testing::simulated_node::{SimulatedNode, config};
use kvmesh::wire::peer::Protocols;
use kvmesh::wire::resp::encoding;
use serde_json::json;

/// Commands of a run: so many that the first ones, which find nothing in its place yet, do not
/// show.
const COMMANDS: usize = 8192;
/// All of them are there before the first round.
const KEYS: usize = 1024;
const VALUE_LEN: usize = 64;
/// Some day in 2023.
const WALL_MS: u64 = 1_700_000_000_000;

/// Execute 8192 commands on a node of its own, in one thread, and print how many that were.
#[derive(FromArgs, ArgsInfo)]
struct Arguments {
    /// get or set
    #[argh(positional)]
    command: String,

    /// text or resp
    #[argh(positional)]
    protocol: String,

    /// commands in a round, 1 to 64
    #[argh(positional)]
    depth: usize,
}

/// The request of one command, and the reply that it must get.
struct Exchange {
    request: fn(&str, &str) -> Vec<u8>,
    reply: fn(&str) -> Vec<u8>,
}

fn main() -> ExitCode {
    let arguments: Arguments = arguments::from_env("kvcount");
    let Some(exchange) = Exchange::named(&arguments.command, &arguments.protocol).filter(|_| (1..=64).contains(&arguments.depth)) else {
        eprintln!("kvcount: expected get or set, text or resp, and a depth from 1 to 64; see kvcount --help");
        return ExitCode::from(2);
    };
    match run(&exchange, arguments.depth) {
        Ok(commands) => {
            println!("{commands}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kvcount: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many commands were executed.
fn run(exchange: &Exchange, depth: usize) -> io::Result<usize> {
    let mut node = start()?;
    let server = SimulatedServer::new(Arc::clone(&node.replica), Arc::clone(&node.replicator))?;
    let mut client = server.connect();
    let value = "v".repeat(VALUE_LEN);
    for place in 0..KEYS {
        client.send(&resp(&["SET", &key(place), &value]), at(0));
        turn(&mut node);
        assert_eq!(client.poll(false), Some(&b"+OK\r\n"[..]));
    }
    let rounds = COMMANDS / depth;
    for round in 0..rounds {
        let keys = (0..depth).map(|place| key(round * depth + place));
        let (requests, replies): (Vec<_>, Vec<_>) = keys.map(|key| ((exchange.request)(&key, &value), (exchange.reply)(&value))).unzip();
        let (requests, replies, now) = (requests.concat(), replies.concat(), at(round));
        counted_send(&mut client, &requests, now);
        turn(&mut node);
        assert_eq!(counted_poll(&mut client), Some(&*replies));
    }
    Ok(rounds * depth)
}

/// Parses, executes, and encodes the replies.
#[inline(never)]
fn counted_send(client: &mut SimulatedClient<'_>, requests: &[u8], now: Now) {
    client.send(requests, now);
}

/// Finds that all writes are acknowledged, and ends the round.
#[inline(never)]
fn counted_poll<'c>(client: &'c mut SimulatedClient<'_>) -> Option<&'c [u8]> {
    client.poll(false)
}

impl Exchange {
    fn named(command: &str, protocol: &str) -> Option<Exchange> {
        Some(match (command, protocol) {
            ("get", "text") => {
                Exchange { request: |key, _| format!("GET {key}\n").into(), reply: |value| format!("VALUE {value}\n").into() }
            }
            ("get", "resp") => {
                Exchange { request: |key, _| resp(&["GET", key]), reply: |value| format!("${VALUE_LEN}\r\n{value}\r\n").into() }
            }
            ("set", "text") => Exchange { request: |key, value| format!("PUT {key} {value}\n").into(), reply: |_| b"OK\n".into() },
            ("set", "resp") => Exchange { request: |key, value| resp(&["SET", key, value]), reply: |_| b"+OK\r\n".into() },
            _ => return None,
        })
    }
}

/// Starts a node of a mesh of one that logs as a node does by default.
fn start() -> io::Result<SimulatedNode> {
    let config = Arc::new(config(1, 1, &json!({ "ack": "local" })));
    let store = Store::repeatable(OrderKey::from_halves([1, 2]), KeySpread::FourShards);
    let node = SimulatedNode::start(config, store, 1, Protocols::OURS, (at(0), Instant::now()), &SimulatedDisk::default())?;
    HeartbeatLoop::default().step(&node.replica, at(0));
    assert!(node.replica.is_open(), "a mesh of one has nobody to wait for");
    Ok(node)
}

/// Lets the replicator and the log take what waits for them.
fn turn(node: &mut SimulatedNode) {
    node.replicate();
    node.log().into_iter().for_each(|(origin, upto)| node.replica.persistence().durable(origin, upto));
}

fn key(place: usize) -> String {
    format!("key:{:012}", place % KEYS)
}

fn resp(words: &[&str]) -> Vec<u8> {
    let mut request = Vec::new();
    encoding::request(words, &mut request);
    request
}

/// When a round comes: one each millisecond.
fn at(round: usize) -> Now {
    Now { wall_ms: WALL_MS + round as u64, elapsed: Duration::from_millis(round as u64) }
}
