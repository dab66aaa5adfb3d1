//! MULTI to EXEC: the commands that were queued, in one step.
//!
//! The commands that concern data are planned and applied while every key that they name, or every
//! key, is locked. The others are executed behind that, since they may look at the store
//! themselves.

use std::cell::Cell;

use super::key_specs;
use super::spec::Spec;
use super::{multi_key, one_key, scan};
use crate::data::entry::Update;
use crate::replication::submit::WRITE_OVERHEAD;
use crate::server::atomic_step::{AtomicStep, KEYS_MAX};
use crate::server::authorization::{Scope, first_key_of_command, is_command_within};
use crate::server::connection::Connection;
use crate::server::counters::Lookups;
use crate::server::evaluation::{Context, RoundTime};
use crate::server::multi_queue::Watch;
use crate::server::writes::WriteRefusal;
use crate::store::{Span, View};
use crate::wire::command::{Command, ConnectionCommand, DataCommand, KeyspaceCommand, OtherCommand, SessionCommand};
use crate::wire::reply::{ErrorCode, Reply, Wrong};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::session("multi", 1, "noscript loading stale fast allow_busy", |_| Ok(SessionCommand::Multi))
        .categories("transaction")
        .docs("transactions", "1.2.0", "O(1)")
        .help("", "Queues the commands that follow, until EXEC."),
    Spec::session("exec", 1, "noscript loading stale skip_slowlog", |_| Ok(SessionCommand::Exec))
        .categories("transaction")
        .docs("transactions", "1.2.0", "Depends on the queued commands")
        .help("", "Executes the queued commands in one step on this node."),
    Spec::session("discard", 1, "noscript loading stale fast allow_busy", |_| Ok(SessionCommand::Discard))
        .categories("transaction")
        .docs("transactions", "2.0.0", "O(N) where N is the number of queued commands")
        .help("", "Forgets the queued commands."),
    Spec::session("watch", -2, "noscript loading stale fast allow_busy", |words| Ok(SessionCommand::Watch { keys: words.keys()? }))
        .keys(key_specs::ALL_LOOKED_UP)
        .categories("transaction")
        .docs("transactions", "2.2.0", "O(N) where N is the number of keys")
        .help("key...", "Has EXEC execute nothing if one of the keys is written before."),
    Spec::command("unwatch", 1, "noscript loading stale fast allow_busy", |_| Ok(ConnectionCommand::Unwatch.into()))
        .categories("transaction")
        .docs("transactions", "2.2.0", "O(1)")
        .help("", "Forgets the watched keys."),
];

/// The outcome of a queued command in the step.
enum Outcome<'q> {
    Done(Reply<'static>),
    /// It is no part of the step, and to be executed behind it.
    Other(&'q OtherCommand<'q>),
}

/// Executes EXEC. `execute_other` executes a command that is no part of the step, without waiting.
#[inline(never)]
pub(super) fn exec(
    connection: &mut Connection<'_>,
    time: &RoundTime,
    execute_other: impl Fn(&mut Connection<'_>, &OtherCommand<'_>) -> Reply<'static>,
) -> Reply<'static> {
    let (requests, watch) = match connection.transaction.take() {
        Ok(taken) => taken,
        Err(reply) => return reply,
    };
    let mut commands = requests.commands(&connection.shared.limits, time);
    if connection.authorization.is_checked() {
        // The rights may have changed since the commands were queued.
        for (command, needed) in commands.iter_mut().zip(requests.needed()) {
            let Ok(queued) = &*command else { continue };
            if let Err(denied) = connection.authorization.check(needed, &|user| is_command_within(queued, user)) {
                connection.note_denied(denied, needed, first_key_of_command(queued), "multi");
                *command = Err(denied.wrong_at_exec(needed));
            }
        }
    }
    let outcomes = match execute_step(connection, &commands, &watch, time) {
        Ok(Some(outcomes)) => outcomes,
        Ok(None) => return Reply::NullArray,
        Err(refusal) => return connection.refused(refusal),
    };
    if commands.iter().any(|command| matches!(command, Ok(Command::Data(DataCommand::Keyspace(KeyspaceCommand::Flush))))) {
        connection.audit_command("flushall");
    }
    let mut left = connection.shared.services.config.write_room;
    let reply = |outcome| match outcome {
        Outcome::Done(reply) => reply,
        Outcome::Other(_) if left == 0 => {
            Reply::error(ErrorCode::TooBig, "the replies of this transaction take too much; this command is not executed")
        }
        Outcome::Other(command) => {
            let reply = execute_other(connection, command);
            left = left.saturating_sub(reply.own_size());
            reply
        }
    };
    Reply::Array(outcomes.into_iter().map(reply).collect())
}

/// Executes the commands on data, in one step. `None` where a watched key has changed.
fn execute_step<'q>(
    connection: &mut Connection<'_>,
    commands: &'q [Result<Command<'q>, Wrong>],
    watch: &Watch,
    time: &RoundTime,
) -> Result<Option<Vec<Outcome<'q>>>, WriteRefusal> {
    let data = || commands.iter().filter_map(|command| if let Ok(Command::Data(command)) = command { Some(command) } else { None });
    let mut keys: Vec<&[u8]> = watch.keys().collect();
    let mut is_all = false;
    for command in data() {
        match command {
            DataCommand::Read { key, .. } | DataCommand::Write { key, .. } => keys.push(key),
            DataCommand::MultiKey(command) => keys.extend(command.keys()),
            DataCommand::Keyspace(_) => is_all = true,
        }
    }
    if keys.len() > KEYS_MAX {
        return Err(WriteRefusal::TooManyKeys(keys.len()));
    }
    let span = if is_all { Span::All } else { Span::Keys(&keys) };
    let mut prebuilt: Vec<_> = data().map(prebuilt).collect();
    let shared = connection.shared;
    let (context, write_room) = (Context { limits: &shared.limits, time }, shared.services.config.write_room);
    let (lookups, scope) = (Cell::new(Lookups::default()), connection.authorization.scope());
    let mut run_all = |view: &View<'_>| -> Result<_, WriteRefusal> {
        if watch.has_changed(view, time) {
            return Ok((Vec::new(), None));
        }
        let mut step = AtomicStep::new(view, context, write_room);
        let mut prebuilt = prebuilt.iter_mut();
        let outcomes = commands.iter().map(|command| match command {
            Ok(Command::Data(command)) => {
                let prebuilt = prebuilt.next().map_or(&mut [][..], |prebuilt| prebuilt);
                Outcome::Done(run(&mut step, command, prebuilt, &scope).into_owned())
            }
            Ok(Command::Other(command)) => Outcome::Other(command),
            Err(wrong) => Outcome::Done(wrong.clone().into_reply()),
        });
        let outcomes = outcomes.collect();
        if step.is_too_large() {
            return Err(WriteRefusal::TooLarge { len: None, room: write_room });
        }
        // Of the last run, if there are several: only that one counts.
        lookups.set(step.lookups);
        Ok((step.into_updates(), Some(outcomes)))
    };
    if !data().any(DataCommand::may_write) {
        let done = shared.services.store.look(span, |view| run_all(view).map(|(_, outcomes)| outcomes));
        connection.tally.lookups.add(lookups.get());
        return done;
    }
    let len = data().map(size).fold(0, usize::saturating_add);
    let done = connection.writes.several(connection.level, span, len, time, run_all)?;
    connection.tally.lookups.add(lookups.get());
    connection.tally.writes += 1;
    Ok(done)
}

/// Executes one command as part of a step.
fn run<'c>(step: &mut AtomicStep<'_>, command: &'c DataCommand<'_>, prebuilt: &mut [Option<Update>], scope: &Scope) -> Reply<'c> {
    if step.is_too_large() {
        return Reply::Null;
    }
    let reply = match command {
        DataCommand::Read { key, read } => one_key::read_in(step, key, read),
        DataCommand::Write { key, write } => one_key::write_in(step, key, write, prebuilt.first_mut().unwrap_or(&mut None)),
        DataCommand::MultiKey(command) => multi_key::run(step, command, prebuilt),
        DataCommand::Keyspace(command) => scan::run(step, command, scope),
    };
    step.charge(reply.own_size());
    reply
}

/// The updates that a command brings, built before any lock is taken.
fn prebuilt(command: &DataCommand<'_>) -> Vec<Option<Update>> {
    match command {
        DataCommand::Write { key, write } => vec![one_key::prebuilt(write, key)],
        DataCommand::MultiKey(command) => multi_key::prebuilt(command),
        DataCommand::Read { .. } | DataCommand::Keyspace(_) => Vec::new(),
    }
}

/// The bytes that the updates of a command take, as far as it tells.
fn size(command: &DataCommand<'_>) -> usize {
    match command {
        DataCommand::Read { key, .. } => key.len() + WRITE_OVERHEAD,
        DataCommand::Write { key, write } => one_key::size(write, key) + WRITE_OVERHEAD,
        DataCommand::MultiKey(command) => multi_key::size(command),
        DataCommand::Keyspace(_) => 0,
    }
}
