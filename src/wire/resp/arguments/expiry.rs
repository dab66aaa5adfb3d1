//! When keys expire.

use super::strings::one;
use super::{Call, is, shown, wrong};
use crate::wire::command::{Action, Command, ExpireOnly, ExpiryUnit, Lifetime};
use crate::wire::reply::Wrong;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// What an expiry is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Now,
    /// 1970.
    Epoch,
}

/// The expiry of a key that is written, which must be after 1970.
pub fn lifetime(call: &Call<'_, '_>, place: usize, unit: Unit, since: Since) -> Result<Lifetime, Wrong> {
    let given = call.integer(place)?;
    let at = in_ms(given, unit).filter(|ms| *ms > 0).and_then(|ms| from_epoch(call, ms, since)).filter(|at| *at > 0);
    at.map(Lifetime::Until).ok_or_else(|| invalid(call))
}

/// EXPIRE key expiry [NX | XX | GT | LT …], and its kin. The expiry may be over.
pub fn expire<'a>(call: &Call<'a, '_>, unit: Unit, since: Since) -> Result<Command<'a>, Wrong> {
    let only = expire_only(call)?;
    let given = call.integer(2)?;
    let at = in_ms(given, unit).and_then(|ms| from_epoch(call, ms, since)).ok_or_else(|| invalid(call))?;
    one(call.key(1)?, Action::Expire { at, only })
}

fn expire_only(call: &Call<'_, '_>) -> Result<ExpireOnly, Wrong> {
    let mut only = ExpireOnly::default();
    for word in call.rest(3) {
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

pub fn ttl<'a>(call: &Call<'a, '_>, unit: Unit, since: Since) -> Result<Command<'a>, Wrong> {
    let unit = ExpiryUnit { absolute: since == Since::Epoch, milliseconds: unit == Unit::Milliseconds };
    one(call.key(1)?, Action::Expiry(unit))
}

pub fn persist<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Persist)
}

fn in_ms(given: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Seconds => given.checked_mul(1000),
        Unit::Milliseconds => Some(given),
    }
}

fn from_epoch(call: &Call<'_, '_>, ms: i64, since: Since) -> Option<i64> {
    match since {
        Since::Now => ms.checked_add((call.now_ms)()),
        Since::Epoch => Some(ms),
    }
}

fn invalid(call: &Call<'_, '_>) -> Wrong {
    wrong(format!("invalid expire time in '{}' command", call.spec.name))
}
