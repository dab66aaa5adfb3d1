//! Commands on several keys: one step on this node, alone or as part of a transaction.

use super::one_key;
use crate::data::entry::Update;
use crate::replication::submit::WRITE_OVERHEAD;
use crate::server::atomic_step::{AtomicStep, KEYS_MAX};
use crate::server::connection::Connection;
use crate::server::counters::Lookups;
use crate::server::evaluation::{Context, RoundTime};
use crate::server::writes::WriteRefusal;
use crate::store::Span;
use crate::wire::command::{MultiKey, Read, StringRead};
use crate::wire::reply::{ErrorCode, Reply};

/// Executes a command that stands alone.
#[inline(never)]
pub(super) fn execute<'c>(connection: &mut Connection<'_>, command: &'c MultiKey<'_>, time: &RoundTime) -> Reply<'c> {
    let shared = connection.shared;
    let (keys, context) = (command.keys(), Context { limits: &shared.limits, time });
    if keys.len() > KEYS_MAX {
        return WriteRefusal::TooManyKeys(keys.len()).into_reply(&shared.services, connection.level);
    }
    if !command.may_write() {
        let lookups = &mut connection.tally.lookups;
        return shared.services.store.look(Span::Keys(&keys), |view| {
            let mut step = AtomicStep::new(view, context, usize::MAX);
            let reply = run(&mut step, command, &mut []);
            lookups.add(step.lookups);
            reply
        });
    }
    let mut prebuilt = prebuilt(command);
    let written = connection.writes.several(connection.level, Span::Keys(&keys), size(command), time, |view| {
        let mut step = AtomicStep::new(view, context, usize::MAX);
        let reply = run(&mut step, command, &mut prebuilt);
        Ok((step.into_updates(), reply))
    });
    match written {
        Ok(reply) => {
            connection.tally.writes += 1;
            reply
        }
        Err(refusal) => connection.refused(refusal),
    }
}

/// The updates that a command brings, built before any lock is taken; each is taken at most once.
pub(super) fn prebuilt(command: &MultiKey<'_>) -> Vec<Option<Update>> {
    match command {
        MultiKey::Set { pairs, .. } => pairs.iter().map(|(key, value)| Some(Update::put(key, value, None))).collect(),
        _ => Vec::new(),
    }
}

/// The bytes that the updates of a command take, as far as it tells.
pub(super) fn size(command: &MultiKey<'_>) -> usize {
    let values: usize = match command {
        MultiKey::Set { pairs, .. } => pairs.iter().map(|(_, value)| value.len()).sum(),
        _ => 0,
    };
    values + command.keys().iter().map(|key| key.len() + WRITE_OVERHEAD).sum::<usize>()
}

/// Executes a command as part of a step. `prebuilt` is what [`prebuilt`] made of it.
pub(super) fn run<'c>(step: &mut AtomicStep<'_>, command: &'c MultiKey<'_>, prebuilt: &mut [Option<Update>]) -> Reply<'c> {
    match command {
        MultiKey::Get(keys) => {
            const GET: Read = Read::String(StringRead::Get);
            Reply::Array(keys.iter().map(|key| one_key::read_in(step, key, &GET)).collect())
        }
        MultiKey::Exists(keys) => {
            let there = keys.iter().filter(|key| step.current(key).is_some()).count();
            step.lookups.add(Lookups { hits: there as u64, misses: (keys.len() - there) as u64 });
            Reply::Integer(there as i64)
        }
        MultiKey::Delete(keys) => {
            let mut deleted = 0;
            for key in keys {
                if step.current(key).is_some() {
                    step.put(Update::delete(key));
                    deleted += 1;
                }
            }
            Reply::Integer(deleted)
        }
        MultiKey::Set { pairs, only_absent } => {
            if *only_absent && pairs.iter().any(|(key, _)| step.current(key).is_some()) {
                return Reply::Integer(0);
            }
            for (index, (key, value)) in pairs.iter().enumerate() {
                let prebuilt = prebuilt.get_mut(index).and_then(Option::take);
                step.put(prebuilt.unwrap_or_else(|| Update::put(key, value, None)));
            }
            if *only_absent { Reply::Integer(1) } else { Reply::Ok }
        }
        MultiKey::Rename { from, to, only_absent } => rename(step, from, to, *only_absent),
    }
}

fn rename(step: &mut AtomicStep<'_>, from: &[u8], to: &[u8], only_absent: bool) -> Reply<'static> {
    let Some(live) = step.current(from) else { return Reply::error(ErrorCode::Err, "no such key") };
    if only_absent && step.current(to).is_some() {
        return Reply::Integer(0);
    }
    if from != to {
        let moved = Update::put(to, live.value(), live.expires());
        step.put(moved);
        step.put(Update::delete(from));
    }
    if only_absent { Reply::Integer(1) } else { Reply::Ok }
}
