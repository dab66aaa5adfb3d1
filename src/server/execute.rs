//! What commands other than writes come to. Short answers are values; long ones are written piece by piece, so that no answer is ever held
//! as a whole.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{Now, wall_ms};
use crate::entry::Value;
use crate::protocol::command::{Command, ErrorCode, Reply};
use crate::protocol::help::{HELP, Help, Verb, WORDS};
use crate::protocol::quoting::shown;
use crate::protocol::text::write_reply;
use crate::replication::compaction::{Compacted, NotCompacted};
use crate::server::writes::not_found;
use crate::server::{Services, Shared};
use crate::store::Keyspace;

/// Values from here on are written from where they are stored instead of being copied into the replies of a round.
const VALUE_LEN_LONG: usize = 256 << 10;

/// Bytes of a dump that are made ready at a time.
const DUMP_STEP_LEN: usize = 64 << 10;

/// What a command comes to.
pub(super) enum Answer {
    Reply(Reply<'static>),
    /// To be written when all replies before it are.
    Long(Long),
}

/// An answer that takes space or time.
pub(super) enum Long {
    Value(Value),
    Keys { prefix: Vec<u8>, limit: usize },
    Status,
    Peers,
    Digest,
    Dump,
    Compact,
    Resume,
    Help(Option<String>),
}

/// What may be asked of a node that has not caught up.
pub(super) fn is_for_closed_nodes(command: &Command<'_>) -> bool {
    // RESTORE is refused where the lines behind it are looked after.
    matches!(command, Command::Ping | Command::Status | Command::Help { .. } | Command::Quit | Command::Ack { .. } | Command::Restore)
}

/// Answers a command that neither writes nor concerns its own connection only.
pub(super) fn answer(services: &Services, command: Command<'_>) -> Answer {
    let long = match command {
        Command::Get { key } => match live_value(services, &key) {
            Some(value) if value.len() >= VALUE_LEN_LONG => Long::Value(value),
            Some(value) => return Answer::Reply(Reply::Value(value)),
            None => return Answer::Reply(Reply::Error { code: ErrorCode::NotFound, sentence: not_found(&key).into() }),
        },
        Command::Exists { key } => return Answer::Reply(Reply::Integer(live_value(services, &key).is_some().into())),
        Command::Count => return Answer::Reply(Reply::Integer(services.store.counts(wall_ms()).keys as u64)),
        Command::Ping => return Answer::Reply(Reply::Pong),
        Command::Keys { prefix, limit } => Long::Keys { prefix: prefix.into_owned(), limit: limit.unwrap_or(usize::MAX) },
        Command::Status => Long::Status,
        Command::Peers => Long::Peers,
        Command::Digest => Long::Digest,
        Command::Dump => Long::Dump,
        Command::Compact => Long::Compact,
        Command::Resume => Long::Resume,
        Command::Help { verb } => Long::Help(verb),
        Command::Write { .. } | Command::Ack { .. } | Command::Restore | Command::Quit => {
            panic!("the session has not done its part of {command:?}")
        }
    };
    Answer::Long(long)
}

fn live_value(services: &Services, key: &[u8]) -> Option<Value> {
    services.store.read(key, |entry| entry.filter(|entry| entry.is_live(wall_ms)).and_then(|entry| entry.value.clone()))
}

/// Writes a long answer. `out` is buffered.
pub(super) fn write_long(out: &mut impl io::Write, shared: &Shared, long: Long) -> io::Result<()> {
    let services = &shared.services;
    match long {
        Long::Value(value) => return write_reply(out, &Reply::Value(value)),
        Long::Digest => {
            let digest = services.store.digest(wall_ms() + services.config.clock_offset_max.as_millis() as u64);
            return write_reply(out, &Reply::Digest { sum: digest.sum, keys: digest.keys });
        }
        Long::Keys { prefix, limit } => write_keys(out, services, &prefix, limit)?,
        Long::Status => {
            for (name, value) in services.mesh.status(Now::read()).into_iter().chain(status(shared)) {
                write_reply(out, &Reply::Line(&format!("{name} {value}")))?;
            }
        }
        Long::Peers => {
            for line in services.mesh.peers(Now::read()) {
                write_reply(out, &Reply::Line(&line))?;
            }
        }
        Long::Dump => {
            let mut dump = services.mesh.dump();
            let mut lines = Vec::new();
            while {
                lines.clear();
                let more = dump.write(DUMP_STEP_LEN, &mut lines);
                out.write_all(&lines)?;
                more
            } {}
        }
        Long::Compact => return write_compacted(out, services.mesh.compact()),
        Long::Resume => return write_compacted(out, services.mesh.resume()),
        Long::Help(None) => {
            for help in &HELP {
                write_reply(out, &Reply::Line(&help_line(help)))?;
            }
            for line in WORDS {
                write_reply(out, &Reply::Line(line))?;
            }
        }
        Long::Help(Some(word)) => match Verb::parse(word.as_bytes()) {
            Some(verb) => write_reply(out, &Reply::Line(&help_line(verb.help())))?,
            None => {
                let sentence = format!("{} is no command; HELP lists them", shown(word.as_bytes()));
                return write_reply(out, &Reply::Error { code: ErrorCode::Unknown, sentence: sentence.into() });
            }
        },
    }
    write_reply(out, &Reply::End)
}

fn write_compacted(out: &mut impl io::Write, compacted: Result<Compacted, NotCompacted>) -> io::Result<()> {
    let compacted = match compacted {
        Ok(compacted) => compacted,
        Err(why) => {
            let (code, sentence) = match why {
                NotCompacted::ReadOnly(why) => (ErrorCode::ReadOnly, why),
                NotCompacted::Failed(why) => (ErrorCode::Busy, why),
            };
            return write_reply(out, &Reply::Error { code, sentence: sentence.into() });
        }
    };
    let Compacted { entries, len, took } = compacted;
    for (name, number) in [("entries", entries), ("bytes", len), ("took_ms", took.as_millis() as u64)] {
        write_reply(out, &Reply::Line(&format!("{name} {number}")))?;
    }
    write_reply(out, &Reply::End)
}

/// Shard by shard: no lock is held while the client takes its time, and a key that is there all along is listed once.
fn write_keys(out: &mut impl io::Write, services: &Services, prefix: &[u8], limit: usize) -> io::Result<()> {
    let (mut left, now_ms) = (limit, wall_ms());
    for shard in 0..services.store.shards_len() {
        if left == 0 {
            break;
        }
        let entries = services.store.scan_shard(shard, |entry| {
            let listed = left > 0 && entry.is_live(|| now_ms) && entry.key.starts_with(prefix);
            left -= usize::from(listed);
            listed
        });
        for entry in entries {
            write_reply(out, &Reply::Key(&entry.key))?;
        }
    }
    Ok(())
}

fn help_line(help: &Help) -> String {
    format!("{:<25} {}", help.usage, help.sentence)
}

/// What the server itself adds to STATUS: what clients did, and every choice of the configuration that bounds something.
fn status(shared: &Shared) -> impl Iterator<Item = (&'static str, String)> {
    let (config, counters) = (&shared.services.config, &shared.counters);
    let ms = |duration: Duration| duration.as_millis() as u64;
    let lines = [
        ("clients", shared.clients.len() as u64),
        ("commands", counters.commands.load(Ordering::Relaxed)),
        ("writes", counters.writes.load(Ordering::Relaxed)),
        ("writes_refused", counters.writes_refused.load(Ordering::Relaxed)),
        ("writes_unknown", counters.writes_unknown.load(Ordering::Relaxed)),
        ("accept_errors", counters.accept_errors.load(Ordering::Relaxed)),
        ("clients_max", config.clients_max as u64),
        ("key_len_max", config.key_len_max as u64),
        ("value_len_max", config.value_len_max as u64),
        ("memory_max", config.memory_max as u64),
        ("link_queue_max", config.link_queue_max as u64),
        ("write_room", config.write_room as u64),
        ("compact_factor", config.compact_factor),
        ("compact_log_min", config.compact_log_min as u64),
        ("heartbeat_ms", ms(config.heartbeat)),
        ("peer_timeout_ms", ms(config.peer_timeout)),
        ("ack_timeout_ms", ms(config.ack_timeout)),
        ("recovery_wait_ms", ms(config.recovery_wait)),
        ("write_timeout_ms", ms(config.write_timeout)),
        ("clock_offset_max_ms", ms(config.clock_offset_max)),
        ("tombstone_age_min_ms", ms(config.tombstone_age_min)),
        ("reconnect_pause_max_ms", ms(config.reconnect_pause_max)),
        ("shutdown_timeout_ms", ms(config.shutdown_timeout)),
    ];
    let ack = ("ack", config.ack.to_string());
    lines.into_iter().map(|(name, value)| (name, value.to_string())).chain([ack])
}
