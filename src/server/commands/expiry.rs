//! When keys expire. The time is part of an entry: readers look at the clock, and no delete is
//! written because of it.

use super::key_specs;
use super::spec::Spec;
use crate::data::entry::{Expiry, Update};
use crate::server::evaluation::{Evaluation, Live, RoundTime};
use crate::wire::command::{Command, ExpireOnly, ExpiryUnit, ExpiryWrite, Lifetime};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, shown, wrong};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("expire", -3, "write fast", |words| parse_expire(words, Unit::Seconds, Since::Now))
        .keys(key_specs::ALTERED)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key seconds [NX|XX|GT|LT]", "Sets in how many seconds a key expires."),
    Spec::command("pexpire", -3, "write fast", |words| parse_expire(words, Unit::Milliseconds, Since::Now))
        .keys(key_specs::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.6.0", "O(1)")
        .help("key milliseconds [NX|XX|GT|LT]", "Sets in how many milliseconds a key expires."),
    Spec::command("expireat", -3, "write fast", |words| parse_expire(words, Unit::Seconds, Since::Epoch))
        .keys(key_specs::ALTERED)
        .categories("keyspace")
        .docs("generic", "1.2.0", "O(1)")
        .help("key unix-time-seconds [NX|XX|GT|LT]", "Sets at what time a key expires, in seconds since 1970."),
    Spec::command("pexpireat", -3, "write fast", |words| parse_expire(words, Unit::Milliseconds, Since::Epoch))
        .keys(key_specs::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.6.0", "O(1)")
        .help("key unix-time-milliseconds [NX|XX|GT|LT]", "Sets at what time a key expires, in milliseconds since 1970."),
    Spec::command("ttl", 2, "readonly fast", |words| parse_ttl(words, Unit::Seconds, Since::Now))
        .keys(key_specs::READ)
        .categories("keyspace")
        .tips("nondeterministic_output")
        .docs("generic", "1.0.0", "O(1)")
        .help("key", "Returns in how many seconds a key expires."),
    Spec::command("pttl", 2, "readonly fast", |words| parse_ttl(words, Unit::Milliseconds, Since::Now))
        .keys(key_specs::READ)
        .categories("keyspace")
        .tips("nondeterministic_output")
        .docs("generic", "2.6.0", "O(1)")
        .help("key", "Returns in how many milliseconds a key expires."),
    Spec::command("expiretime", 2, "readonly fast", |words| parse_ttl(words, Unit::Seconds, Since::Epoch))
        .keys(key_specs::READ)
        .categories("keyspace")
        .docs("generic", "7.0.0", "O(1)")
        .help("key", "Returns at what time a key expires, in seconds since 1970."),
    Spec::command("pexpiretime", 2, "readonly fast", |words| parse_ttl(words, Unit::Milliseconds, Since::Epoch))
        .keys(key_specs::READ)
        .categories("keyspace")
        .docs("generic", "7.0.0", "O(1)")
        .help("key", "Returns at what time a key expires, in milliseconds since 1970."),
    Spec::command("persist", 2, "write fast", |words| Ok(Command::write(words.key(1)?, ExpiryWrite::Persist)))
        .keys(key_specs::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.2.0", "O(1)")
        .help("key", "Has a key never expire."),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// The time that an expiry is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Now,
    /// 1970.
    Epoch,
}

/// The reply to TTL and its kin.
pub(super) fn read(unit: ExpiryUnit, live: Option<Live<'_>>, time: &RoundTime) -> Reply<'static> {
    const ABSENT: i64 = -2;
    const ENDLESS: i64 = -1;
    let Some(live) = live else { return Reply::Integer(ABSENT) };
    let Some(expires) = live.expires() else { return Reply::Integer(ENDLESS) };
    let ms = if unit.absolute { expires.wall_ms() } else { expires.wall_ms().saturating_sub(time.wall_ms()) };
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Reply::Integer(if unit.milliseconds { ms } else { ms.saturating_add(500) / 1000 })
}

/// Evaluates a change of the expiry.
pub(super) fn write(write: ExpiryWrite, key: &[u8], live: Option<Live<'_>>, time: &RoundTime) -> Evaluation<'static> {
    let lifetime = match (write, live) {
        (ExpiryWrite::Expire { at, only }, Some(live)) if may_expire(live, at, only) => Lifetime::Until(at),
        (ExpiryWrite::Persist, Some(live)) if live.expires().is_some() => Lifetime::Endless,
        _ => return Evaluation::number(0),
    };
    Evaluation { update: live.and_then(|live| changed(key, live, lifetime, time)), reply: Reply::Integer(1) }
}

/// The update that gives a key another lifetime; `None` if that is the lifetime that it has.
pub(super) fn changed(key: &[u8], live: Live<'_>, lifetime: Lifetime, time: &RoundTime) -> Option<Update> {
    let expires = match lifetime {
        Lifetime::Kept => return None,
        Lifetime::Endless => {
            live.expires()?;
            None
        }
        Lifetime::Until(at) => match future(at, time) {
            Some(expires) => Some(expires),
            None => return Some(Update::delete(key)),
        },
    };
    Some(Update::put(key, live.value(), expires))
}

/// The expiry at a time; `None` if that time is over.
pub(super) fn future(at: i64, time: &RoundTime) -> Option<Expiry> {
    let at = u64::try_from(at).ok().filter(|at| *at > time.wall_ms())?;
    Some(Expiry::from_wall_ms(at))
}

fn may_expire(live: Live<'_>, at: i64, only: ExpireOnly) -> bool {
    let present = live.expires().map(|expires| i64::try_from(expires.wall_ms()).unwrap_or(i64::MAX));
    !(only.endless && present.is_some()
        || only.expiring && present.is_none()
        || only.later && present.is_none_or(|present| at <= present)
        || only.earlier && present.is_some_and(|present| at >= present))
}

/// The expiry of a key that is written, which must be after 1970.
pub(super) fn parse_lifetime(words: &Arguments<'_, '_>, index: usize, unit: Unit, since: Since) -> Result<Lifetime, Wrong> {
    let given = words.integer(index)?;
    let at = in_ms(given, unit).filter(|ms| *ms > 0).and_then(|ms| from_epoch(words, ms, since)).filter(|at| *at > 0);
    at.map(Lifetime::Until).ok_or_else(|| invalid(words))
}

/// `EXPIRE key expiry [NX | XX | GT | LT …]`, and its kin. The expiry may be over.
fn parse_expire<'a>(words: &Arguments<'a, '_>, unit: Unit, since: Since) -> Result<Command<'a>, Wrong> {
    let only = parse_only(words)?;
    let given = words.integer(2)?;
    let at = in_ms(given, unit).and_then(|ms| from_epoch(words, ms, since)).ok_or_else(|| invalid(words))?;
    Ok(Command::write(words.key(1)?, ExpiryWrite::Expire { at, only }))
}

fn parse_only(words: &Arguments<'_, '_>) -> Result<ExpireOnly, Wrong> {
    let mut only = ExpireOnly::default();
    for word in words.rest(3) {
        let option = if is(word, "NX") {
            &mut only.endless
        } else if is(word, "XX") {
            &mut only.expiring
        } else if is(word, "GT") {
            &mut only.later
        } else if is(word, "LT") {
            &mut only.earlier
        } else {
            return Err(wrong(format!("Unsupported option {}", shown(word))));
        };
        *option = true;
    }
    if only.endless && (only.expiring || only.later || only.earlier) {
        return Err(wrong("NX and XX, GT or LT options at the same time are not compatible"));
    }
    if only.later && only.earlier {
        return Err(wrong("GT and LT options at the same time are not compatible"));
    }
    Ok(only)
}

fn parse_ttl<'a>(words: &Arguments<'a, '_>, unit: Unit, since: Since) -> Result<Command<'a>, Wrong> {
    let unit = ExpiryUnit { absolute: since == Since::Epoch, milliseconds: unit == Unit::Milliseconds };
    Ok(Command::read(words.key(1)?, unit))
}

fn in_ms(given: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Seconds => given.checked_mul(1000),
        Unit::Milliseconds => Some(given),
    }
}

fn from_epoch(words: &Arguments<'_, '_>, ms: i64, since: Since) -> Option<i64> {
    match since {
        Since::Now => ms.checked_add((words.now_ms)()),
        Since::Epoch => Some(ms),
    }
}

fn invalid(words: &Arguments<'_, '_>) -> Wrong {
    wrong(format!("invalid expire time in '{}' command", words.name))
}
