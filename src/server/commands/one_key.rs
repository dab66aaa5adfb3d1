//! Commands on one key: from its kind to its family, alone and as part of an atomic step.

use super::{expiry, keys, strings};
use crate::data::entry::Update;
use crate::server::atomic_step::AtomicStep;
use crate::server::connection::Connection;
use crate::server::evaluation::{Context, Evaluation, Live, RoundTime};
use crate::server::shared::Shared;
use crate::wire::command::{Read, Write};
use crate::wire::reply::Reply;

/// Executes a read.
pub(super) fn read<'c>(connection: &mut Connection<'_>, key: &'c [u8], read: &Read, time: &RoundTime) -> Reply<'c> {
    let lookups = &mut connection.tally.lookups;
    connection.shared.services.store.read(key, |entry| {
        let live = Live::of(entry, time);
        if is_lookup_read(read) {
            lookups.note(live.is_some());
        }
        evaluate_read(read, key, live, time)
    })
}

/// Executes a write. Its reply is not known to be true before the round is settled.
pub(super) fn write<'c>(connection: &mut Connection<'_>, key: &'c [u8], write: &Write<'_>, time: &RoundTime) -> Reply<'c> {
    let Shared { limits, .. } = connection.shared;
    let context = Context { limits, time };
    let mut prebuilt = prebuilt(write, key);
    let evaluate = |entry: Option<&_>| evaluate_write(write, key, &mut prebuilt, Live::of(entry, time), context);
    match connection.writes.single_key(connection.level, key, size(write, key), time, evaluate) {
        Ok(reply) => {
            let is_absent = matches!(reply, Reply::Absent(_));
            // A write that looks, too, says in this way alone that nothing is there.
            if is_lookup_write(write) {
                connection.tally.lookups.note(!is_absent);
            }
            let is_refused = is_absent || matches!(reply, Reply::Error { .. });
            *(if is_refused { &mut connection.tally.refused } else { &mut connection.tally.writes }) += 1;
            reply
        }
        Err(refusal) => connection.refused(refusal),
    }
}

/// Executes a read as part of a step.
pub(super) fn read_in<'c>(step: &mut AtomicStep<'_>, key: &'c [u8], read: &Read) -> Reply<'c> {
    let live = step.current(key);
    let is_there = live.is_some();
    let reply = evaluate_read(read, key, live, step.context().time);
    if is_lookup_read(read) {
        step.lookups.note(is_there);
    }
    reply
}

/// Executes a write as part of a step. `prebuilt` is what [`prebuilt`] made of the same write.
pub(super) fn write_in<'c>(step: &mut AtomicStep<'_>, key: &'c [u8], write: &Write<'_>, prebuilt: &mut Option<Update>) -> Reply<'c> {
    let live = step.current(key);
    let is_there = live.is_some();
    let Evaluation { update, reply } = evaluate_write(write, key, prebuilt, live, step.context());
    if is_lookup_write(write) {
        step.lookups.note(is_there);
    }
    if let Some(update) = update {
        step.put(update);
    }
    reply
}

/// The update that a write brings, built before any lock is taken.
#[inline]
pub(super) fn prebuilt(write: &Write<'_>, key: &[u8]) -> Option<Update> {
    match write {
        Write::String(write) => strings::prebuilt(write, key),
        Write::Key(_) | Write::Expiry(_) => None,
    }
}

/// The bytes of key and value that a write leaves, as far as the command tells.
#[inline]
pub(super) fn size(write: &Write<'_>, key: &[u8]) -> usize {
    key.len()
        + match write {
            Write::String(write) => strings::value_len(write),
            Write::Key(_) | Write::Expiry(_) => 0,
        }
}

#[inline]
fn evaluate_read<'c>(read: &Read, key: &'c [u8], live: Option<Live<'_>>, time: &RoundTime) -> Reply<'c> {
    match read {
        Read::String(read) => strings::read(read, key, live),
        Read::Key(read) => keys::read(*read, key, live),
        Read::Expiry(unit) => expiry::read(*unit, live, time),
    }
}

#[inline]
fn evaluate_write<'c>(
    write: &Write<'_>,
    key: &'c [u8],
    prebuilt: &mut Option<Update>,
    live: Option<Live<'_>>,
    context: Context<'_>,
) -> Evaluation<'c> {
    match write {
        Write::String(write) => strings::write(write, key, prebuilt, live, context),
        Write::Key(write) => keys::write(*write, key, live),
        Write::Expiry(write) => expiry::write(*write, key, live, context.time),
    }
}

/// Returns true if Redis counts a read as a lookup of the key.
#[inline]
fn is_lookup_read(read: &Read) -> bool {
    match read {
        Read::String(_) | Read::Expiry(_) => true,
        Read::Key(read) => keys::is_lookup(*read),
    }
}

/// Returns true if Redis counts a write as a lookup of the key.
#[inline]
fn is_lookup_write(write: &Write<'_>) -> bool {
    match write {
        Write::String(write) => strings::is_lookup(write),
        Write::Key(_) | Write::Expiry(_) => false,
    }
}
