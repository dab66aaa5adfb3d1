//! Commands that wait, each for its own connection alone.

use std::time::{Duration, Instant};

use super::spec::Spec;
use crate::replication::acks::{HeldIn, ReplicaCount};
use crate::server::connection::Connection;
use crate::wire::command::{Blocking, Command};
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, wrong};

/// The longest DEBUG SLEEP: a connection that sleeps is one that no other client has.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// A session that waits for long looks up this often: whether the client is still there, whether
/// the node stops.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("wait", 3, "noscript", parse_wait)
        .categories("connection")
        .tips("request_policy:all_shards response_policy:agg_min")
        .docs("generic", "3.0.0", "O(1)")
        .help("numreplicas timeout", "Waits until so many other nodes have the writes of this connection."),
    Spec::command("waitaof", 4, "noscript", parse_waitaof)
        .categories("connection")
        .docs("generic", "7.2.0", "O(1)")
        .help("numlocal numreplicas timeout", "Waits until the writes of this connection are on the disks of so many nodes."),
    Spec::container("debug", "admin noscript loading stale", "server", "1.0.0", &DEBUG),
];

static DEBUG: [Spec; 1] = [Spec::command("debug|sleep", 3, "admin noscript loading stale", parse_sleep)
    .docs("server", "1.0.0", "O(1)")
    .help("seconds", "Has this connection alone sleep for so many seconds.")];

/// Waits, and answers. Without `may_wait`, as in a transaction, it answers how things stand now.
pub(super) fn answer(connection: &Connection<'_>, command: Blocking, may_wait: bool) -> Reply<'static> {
    let services = &connection.shared.services;
    match command {
        Blocking::Wait { peers, timeout } => {
            let held = wait(connection, HeldIn::Memory, 0, peers, timeout, may_wait);
            Reply::Integer(held.peers as i64)
        }
        Blocking::WaitDurable { local, peers, timeout } => match services.acks.durable_upto() {
            None => {
                let sentence = format!(
                    "WAITAOF needs fsync \"always\": this node has \"{}\", and nobody is told when the disk has a write",
                    services.config.fsync
                );
                Reply::error(ErrorCode::Err, sentence)
            }
            Some(_) => {
                let held = wait(connection, HeldIn::Disk, usize::from(local), peers, timeout, may_wait);
                Reply::Array(vec![Reply::Integer(i64::from(held.here)), Reply::Integer(held.peers as i64)])
            }
        },
        Blocking::Sleep { time } => {
            let until = Instant::now() + if may_wait { time } else { Duration::ZERO };
            while !connection.is_over() && Instant::now() < until {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()).min(LOOK_PAUSE));
            }
            Reply::Ok
        }
    }
}

/// Waits until this connection's writes are held by so many peers, and by this node if `local`.
fn wait(connection: &Connection<'_>, what: HeldIn, local: usize, peers: usize, timeout: Option<Duration>, may_wait: bool) -> ReplicaCount {
    let acks = &connection.shared.services.acks;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let are_enough = |holders: ReplicaCount| holders.peers >= peers && usize::from(holders.here) >= local;
    loop {
        let look = Instant::now() + if may_wait { LOOK_PAUSE } else { Duration::ZERO };
        let until = deadline.map_or(look, |deadline| deadline.min(look));
        let holders = acks.await_replica_count(what, connection.writes.last(), until, are_enough);
        let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if are_enough(holders) || !may_wait || is_late() || connection.is_over() {
            return holders;
        }
    }
}

/// `WAIT peers timeout`
fn parse_wait<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    // Fewer than none are always there.
    let peers = usize::try_from(words.integer(1)?).unwrap_or(0);
    Ok(Blocking::Wait { peers, timeout: parse_timeout(words, 2)? }.into())
}

/// `WAITAOF local peers timeout`
fn parse_waitaof<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let local = match words.integer(1)? {
        0 => false,
        1 => true,
        _ => return Err(wrong("value is out of range, value must between 0 and 1")),
    };
    let peers = usize::try_from(words.integer(2)?).map_err(|_| wrong("value is out of range, must be positive"))?;
    Ok(Blocking::WaitDurable { local, peers, timeout: parse_timeout(words, 3)? }.into())
}

/// A time-out in milliseconds; `None`, written 0, is for ever.
fn parse_timeout(words: &Arguments<'_, '_>, index: usize) -> Result<Option<Duration>, Wrong> {
    match words.integer(index).map_err(|_| wrong("timeout is not an integer or out of range"))? {
        0 => Ok(None),
        ms => u64::try_from(ms).map(|ms| Some(Duration::from_millis(ms))).map_err(|_| wrong("timeout is negative")),
    }
}

/// `DEBUG SLEEP seconds`
fn parse_sleep<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let seconds = std::str::from_utf8(words.word(2)).ok().and_then(|word| word.parse().ok());
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|time| *time <= SLEEP_MAX);
    let time = time.ok_or_else(|| wrong(format!("the time to sleep must be a number of seconds from 0 to {}", SLEEP_MAX.as_secs())))?;
    Ok(Blocking::Sleep { time }.into())
}
