//! Answers that take space or time: written when everything before them is, and piece by piece where they would be too long to be held
//! as a whole.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::data::clock::{Now, wall_ms};
use crate::data::entry::{Entry, Update};
use crate::replication::acks::{Held, Holders};
use crate::replication::persistence::snapshots::{Compacted, NotCompacted};
use crate::replication::submit::WRITE_OVERHEAD;
use crate::server::execute::Executor;
use crate::server::judge::{Live, Moment};
use crate::server::outgoing::Outgoing;
use crate::server::session_room::{NoRoom, Share};
use crate::server::wire::Wire;
use crate::server::writes::Place;
use crate::server::{Services, Shared, introspect};
use crate::store::{Cursor, Keyspace, Span, View};
use crate::wire::command::Command;
use crate::wire::quoting::shown;
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::encoding::write_array_head;
use crate::wire::resp::glob;
use crate::wire::text::{HELP_NOTES, VERBS, VerbSpec, write_reply};

/// Long answers leave in pieces of this size.
const CHUNK_LEN: usize = 64 << 10;
/// What the name of a key has around it in a reply, at most, where it is not in quotes.
const NAME_OVERHEAD: usize = 32;
/// Bytes of a dump that are made ready at a time.
const DUMP_STEP_LEN: usize = 64 << 10;
/// Keys that FLUSHALL deletes in one step.
const FLUSH_STEP: usize = 512;
/// Who waits for long looks up this often: whether the client is still there, whether the node stops.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Such an answer.
pub(crate) enum Long {
    /// Known, and large.
    Reply(Reply<'static>),
    Keys {
        prefix: Vec<u8>,
        limit: usize,
    },
    Matching {
        pattern: Vec<u8>,
    },
    Flush,
    Digest {
        before: Option<u64>,
    },
    Wait {
        peers: usize,
        timeout: Option<Duration>,
    },
    WaitDurable {
        local: bool,
        peers: usize,
        timeout: Option<Duration>,
    },
    Sleep(Duration),
    Status,
    Peers,
    Info(Vec<String>),
    Dump,
    Compact,
    Resume,
    Help(Option<String>),
}

impl Long {
    /// Of the commands whose answer is one.
    pub fn of(command: &Command<'_>) -> Long {
        match command {
            Command::Keys { prefix, limit } => Long::Keys { prefix: prefix.to_vec(), limit: limit.unwrap_or(usize::MAX) },
            Command::Matching { pattern } => Long::Matching { pattern: pattern.to_vec() },
            Command::Flush => Long::Flush,
            Command::Digest { before } => Long::Digest { before: *before },
            Command::Wait { peers, timeout } => Long::Wait { peers: *peers, timeout: *timeout },
            Command::WaitDurable { local, peers, timeout } => Long::WaitDurable { local: *local, peers: *peers, timeout: *timeout },
            Command::Sleep { time } => Long::Sleep(*time),
            Command::Status => Long::Status,
            Command::Peers => Long::Peers,
            Command::Info { sections } => Long::Info(sections.clone()),
            Command::Dump => Long::Dump,
            Command::Compact => Long::Compact,
            Command::Resume => Long::Resume,
            Command::Help { verb } => Long::Help(verb.clone()),
            other => panic!("the answer to {other:?} is a short one"),
        }
    }
}

/// Writes a long answer.
pub(crate) fn write(outgoing: Outgoing<'_, '_>, executor: &mut Executor<'_>, long: Long, wire: Wire) -> io::Result<()> {
    let shared = executor.shared;
    let services = &shared.services;
    match long {
        Long::Keys { prefix, limit } => buffered(outgoing, |out| {
            write_keys(out, shared, &prefix, limit)?;
            write_reply(out, &Reply::End)
        }),
        Long::Matching { pattern } => match matching_keys(shared, &pattern, wire) {
            Ok(mut names) => buffered(outgoing, |out| {
                write_array_head(out, names.count)?;
                names.write(out)
            }),
            Err(NoRoom) => {
                let sentence = "these keys, or the replies that other clients have not taken yet, take all the memory that this node has for them; use SCAN, or try again later";
                buffered(outgoing, |out| wire.write(out, &Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }))
            }
        },
        Long::Dump => buffered(outgoing, |out| {
            let mut dump = services.replica.dump();
            let mut lines = Vec::new();
            while {
                lines.clear();
                // After a large value.
                lines.shrink_to(2 * DUMP_STEP_LEN);
                let more = dump.write(DUMP_STEP_LEN, &mut lines);
                out.get_mut().set_copied(lines.capacity());
                out.write_all(&lines)?;
                more
            } {}
            write_reply(out, &Reply::End)
        }),
        long => {
            let reply = answer(executor, long, true);
            buffered(outgoing.holding(&reply), |out| wire.write(out, &reply))
        }
    }
}

type Out<'s, 'a> = BufWriter<Outgoing<'s, 'a>>;

fn buffered<'s, 'a>(outgoing: Outgoing<'s, 'a>, write: impl FnOnce(&mut Out<'s, 'a>) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(CHUNK_LEN, outgoing);
    let written = write(&mut out).and_then(|()| out.flush());
    // Without another try at what could not be written: that would wait for the client once more.
    drop(out.into_parts());
    written
}

/// The answer as a value. Without `may_wait` a command that waits says how it stands now.
pub(crate) fn answer(executor: &mut Executor<'_>, long: Long, may_wait: bool) -> Reply<'static> {
    let shared = executor.shared;
    let services = &shared.services;
    match long {
        Long::Reply(reply) => reply,
        Long::Flush => flush(executor),
        Long::Digest { before } => {
            let soon = || wall_ms().saturating_add(services.config.clock_offset_max.as_millis() as u64);
            let digest = services.store.digest(before.unwrap_or_default().max(soon()));
            Reply::Digest { sum: digest.sum, keys: digest.keys }
        }
        Long::Wait { peers, timeout } => {
            let held = wait(executor, Held::Received, 0, peers, timeout, may_wait);
            Reply::Integer(held.peers as i64)
        }
        Long::WaitDurable { local, peers, timeout } => match services.acks.durable_upto() {
            None => {
                let sentence = format!(
                    "WAITAOF needs fsync \"always\": this node has \"{}\", and nobody is told when the disk has a write",
                    services.config.fsync
                );
                Reply::error(ErrorCode::Err, sentence)
            }
            Some(_) => {
                let held = wait(executor, Held::Durable, usize::from(local), peers, timeout, may_wait);
                Reply::Array(vec![Reply::Integer(i64::from(held.here)), Reply::Integer(held.peers as i64)])
            }
        },
        Long::Sleep(time) => {
            let until = Instant::now() + if may_wait { time } else { Duration::ZERO };
            while !is_over(executor) && Instant::now() < until {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()).min(LOOK_PAUSE));
            }
            Reply::Ok
        }
        Long::Status => {
            let lines = services.replica.status(Now::read()).into_iter().chain(status(shared));
            Reply::Text(lines.fold(String::new(), |mut text, (name, value)| {
                let _ = writeln!(text, "{name} {value}");
                text
            }))
        }
        Long::Peers => Reply::Text(services.replica.peers(Now::read()).into_iter().map(|line| line + "\n").collect()),
        Long::Info(sections) => introspect::info(shared, &sections),
        Long::Compact => compacted(services.replica.compact()),
        Long::Resume => compacted(services.replica.resume()),
        Long::Help(None) => {
            let lines = VERBS.iter().map(help_line).chain(HELP_NOTES.map(str::to_owned));
            Reply::Text(lines.map(|line| line + "\n").collect())
        }
        Long::Help(Some(word)) => match VerbSpec::find(word.as_bytes()) {
            Some(spec) => Reply::Text(help_line(spec) + "\n"),
            None => Reply::error(ErrorCode::Unknown, format!("{} is no command; HELP lists them", shown(word.as_bytes()))),
        },
        Long::Keys { .. } | Long::Matching { .. } | Long::Dump => {
            Reply::error(ErrorCode::Err, "this is answered piece by piece, and not as a value")
        }
    }
}

fn compacted(compacted: Result<Compacted, NotCompacted>) -> Reply<'static> {
    match compacted {
        Ok(Compacted { entries, len, took }) => Reply::Text(format!("entries {entries}\nbytes {len}\ntook_ms {}\n", took.as_millis())),
        Err(NotCompacted::ReadOnly(why)) => Reply::error(ErrorCode::ReadOnly, why),
        Err(NotCompacted::Failed(why)) => Reply::error(ErrorCode::Busy, why),
    }
}

/// Names of keys, as the reply has them: piece by piece, so that those that are written take nothing any more. They are copies, which keep no values alive.
struct Names<'a> {
    pieces: VecDeque<Vec<u8>>,
    count: usize,
    /// Invariant: what the pieces take.
    share: Share<'a>,
}

impl<'a> Names<'a> {
    fn new(shared: &'a Shared) -> Names<'a> {
        Names { pieces: VecDeque::new(), count: 0, share: Share::none(&shared.reply_room) }
    }

    /// The live keys of one shard that are wanted, at most so many, taken out of it at one moment: so a key that is there all along is met once, whatever moves meanwhile, and what is done
    /// with them happens outside of the lock.
    fn take(
        &mut self,
        services: &Services,
        shard: usize,
        now_ms: u64,
        max: usize,
        wire: Wire,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(), NoRoom> {
        let entries = services.store.scan_shard(shard, |entry| entry.is_live(|| now_ms));
        for key in entries.iter().map(Entry::key).filter(|key| wanted(key)).take(max) {
            let len = key.len() + NAME_OVERHEAD;
            if self.pieces.back().is_none_or(|piece| piece.len() + len > piece.capacity()) {
                self.share.set(self.share.len() + CHUNK_LEN)?;
                self.pieces.push_back(Vec::with_capacity(CHUNK_LEN));
            }
            let Some(piece) = self.pieces.back_mut() else { continue };
            let capacity = piece.capacity();
            wire.encode(&Reply::Key(key), piece);
            // One of a very long name, or of many bytes in quotes.
            self.share.set(self.share.len() + piece.capacity() - capacity)?;
            self.count += 1;
        }
        Ok(())
    }

    fn write(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        while let Some(piece) = self.pieces.pop_front() {
            out.write_all(&piece)?;
            // Less is always granted.
            let _ = self.share.set(self.share.len() - piece.capacity());
        }
        Ok(())
    }
}

/// Shard by shard, while the client takes its time.
fn write_keys(out: &mut Out<'_, '_>, shared: &Shared, prefix: &[u8], limit: usize) -> io::Result<()> {
    let (_walk, mut names, now_ms) = (shared.services.store.walk(), Names::new(shared), wall_ms());
    for shard in 0..shared.services.store.shards_len() {
        let left = limit - names.count;
        if left == 0 {
            break;
        }
        let taken = names.take(&shared.services, shard, now_ms, left, Wire::Text, |key| key.starts_with(prefix));
        taken.map_err(|NoRoom| out.get_ref().no_room(names.share.len()))?;
        names.write(out)?;
    }
    Ok(())
}

/// All of them before the first is written, as an array says first how long it is.
fn matching_keys<'a>(shared: &'a Shared, pattern: &[u8], wire: Wire) -> Result<Names<'a>, NoRoom> {
    let (_walk, mut names, now_ms) = (shared.services.store.walk(), Names::new(shared), wall_ms());
    for shard in 0..shared.services.store.shards_len() {
        names.take(&shared.services, shard, now_ms, usize::MAX, wire, |key| glob::matches(pattern, key))?;
    }
    Ok(names)
}

/// Deletes all keys, in steps: each is one step on this node, and waited for before the next one. A key that is made meanwhile may stay.
fn flush(executor: &mut Executor<'_>) -> Reply<'static> {
    let shared = executor.shared;
    let config = &shared.services.config;
    let (step_len, key_len_max) = (config.write_room / 2, config.key_len_max);
    let (mut next, mut has_begun) = (Some(Cursor::default()), false);
    let so_far = "the deletes so far are applied on this node and will still spread, and keys are left";
    while let Some(cursor) = next {
        let moment = Moment::default();
        let (mut keys, mut len) = (Vec::with_capacity(FLUSH_STEP), 0);
        next = shared.services.store.scan_while(cursor, moment.wall_ms(), |entry| {
            len += entry.key().len() + WRITE_OVERHEAD;
            keys.push(entry.shared_key());
            keys.len() < FLUSH_STEP && len + key_len_max + WRITE_OVERHEAD <= step_len
        });
        let span: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let plan = |view: &View<'_>| {
            let live = keys.iter().filter(|key| Live::of(view.entry(key), &moment).is_some());
            Ok((live.map(|key| Update::delete(key)).collect(), ()))
        };
        if let Err(refusal) = executor.writes.several(executor.level, Span::Keys(&span), len, &moment, plan) {
            let refused = executor.refused(refusal);
            let Reply::Error { code, sentence } = refused else { return refused };
            let sentence = if has_begun { sentence.replace("nothing was written", so_far).into() } else { sentence };
            return Reply::Error { code, sentence };
        }
        has_begun = true;
        executor.place(Place { reply: 0..0, wire: Wire::Text });
        if !executor.settle(&mut Vec::new()) {
            return Reply::error(ErrorCode::Timeout, format!("{so_far}; they were not acknowledged in time"));
        }
        if shared.is_stopping() && next.is_some() {
            return Reply::error(ErrorCode::Busy, format!("this node is stopping; {so_far}"));
        }
    }
    Reply::Ok
}

/// Waits until this connection's writes are held by so many peers, and by this node if `local`.
fn wait(executor: &Executor<'_>, what: Held, local: usize, peers: usize, timeout: Option<Duration>, may_wait: bool) -> Holders {
    let acks = &executor.shared.services.acks;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let look = Instant::now() + if may_wait { LOOK_PAUSE } else { Duration::ZERO };
        let until = deadline.map_or(look, |deadline| deadline.min(look));
        let holders =
            acks.await_holders(what, executor.writes.last(), until, |holders| holders.peers >= peers && usize::from(holders.here) >= local);
        let is_met = holders.peers >= peers && usize::from(holders.here) >= local;
        if is_met || !may_wait || deadline.is_some_and(|deadline| Instant::now() >= deadline) || is_over(executor) {
            return holders;
        }
    }
}

/// Nobody is there any more who could hear an answer.
fn is_over(executor: &Executor<'_>) -> bool {
    executor.shared.is_stopping() || executor.client.is_killed() || executor.client.is_gone()
}

fn help_line(spec: &VerbSpec) -> String {
    format!("{:<25} {}", spec.usage, spec.sentence)
}

/// The lines that the server adds to STATUS: what clients did, and every limit of the configuration.
fn status(shared: &Shared) -> impl Iterator<Item = (&'static str, String)> {
    let (config, counters) = (&shared.services.config, &shared.counters);
    let counted = [
        ("clients", shared.clients.len() as u64),
        ("commands", counters.commands.load(Ordering::Relaxed)),
        ("writes", counters.writes.load(Ordering::Relaxed)),
        ("writes_refused", counters.writes_refused.load(Ordering::Relaxed)),
        ("writes_unknown", counters.writes_unknown.load(Ordering::Relaxed)),
        ("replies_waiting_bytes", shared.reply_room.taken() as u64),
        ("clients_deaf", counters.clients_deaf.load(Ordering::Relaxed)),
        ("accept_errors", counters.accept_errors.load(Ordering::Relaxed)),
    ];
    let ack = ("ack", config.ack.to_string());
    counted.into_iter().chain(config.limits()).map(|(name, value)| (name, value.to_string())).chain([ack])
}
