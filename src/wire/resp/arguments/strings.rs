//! Commands on the values of keys.

use super::expiry::{self, Since, Unit};
use super::{Call, is, syntax, wrong, wrong_arity};
use crate::wire::bytes::Bytes;
use crate::wire::command::{Action, Command, Lifetime, Only, Set, SetAnswer, Several};
use crate::wire::reply::Wrong;

pub fn get<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Get)
}

/// SET key value [NX | XX] [GET] [EX n | PX n | EXAT n | PXAT n | KEEPTTL]
pub fn set<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut only = Only::Always;
    let mut answer = SetAnswer::OkOrNull;
    let mut keeps = false;
    let mut given = None;
    let mut place = 3;
    while place < call.len() {
        let word = call.word(place);
        if is(word, "NX") && only != Only::IfPresent {
            only = Only::IfAbsent;
        } else if is(word, "XX") && only != Only::IfAbsent {
            only = Only::IfPresent;
        } else if is(word, "GET") {
            answer = SetAnswer::Former;
        } else if is(word, "KEEPTTL") && given.is_none() {
            keeps = true;
        } else if !keeps {
            given = Some(given_expiry(call, place, given)?);
            place += 1;
        } else {
            return Err(syntax());
        }
        place += 1;
    }
    let lifetime = match given {
        Some(given) => given.lifetime(call)?,
        None if keeps => Lifetime::Kept,
        None => Lifetime::Endless,
    };
    write(call, 2, only, lifetime, answer)
}

pub fn setnx<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    write(call, 2, Only::IfAbsent, Lifetime::Endless, SetAnswer::Number)
}

/// SETEX key expiry value
pub fn setex<'a>(call: &Call<'a, '_>, unit: Unit) -> Result<Command<'a>, Wrong> {
    let lifetime = Given { place: 2, unit, since: Since::Now }.lifetime(call)?;
    write(call, 3, Only::Always, lifetime, SetAnswer::OkOrNull)
}

pub fn getset<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    write(call, 2, Only::Always, Lifetime::Endless, SetAnswer::Former)
}

/// kvmesh's own, strict as in the text protocol: the key must exist.
pub fn upd<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    write(call, 2, Only::IfPresent, Lifetime::Endless, SetAnswer::Strict)
}

/// kvmesh's own: whether the key exists or not.
pub fn put<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    write(call, 2, Only::Always, Lifetime::Endless, SetAnswer::Strict)
}

pub fn getdel<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::GetDelete)
}

/// GETEX key [EX n | PX n | EXAT n | PXAT n | PERSIST]
pub fn getex<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut persists = false;
    let mut given = None;
    let mut place = 2;
    while place < call.len() {
        if is(call.word(place), "PERSIST") && given.is_none() {
            persists = true;
        } else if !persists {
            given = Some(given_expiry(call, place, given)?);
            place += 1;
        } else {
            return Err(syntax());
        }
        place += 1;
    }
    let action = match given.map(|given| given.lifetime(call)) {
        Some(Ok(lifetime)) => Action::GetExpire { lifetime },
        Some(Err(wrong)) => Action::GetWrong { wrong },
        None if persists => Action::GetExpire { lifetime: Lifetime::Endless },
        None => Action::Get,
    };
    one(call.key(1)?, action)
}

pub fn mget<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    Ok(Command::Several(Several::Get(call.keys()?)))
}

/// MSET key value [key value …]
pub fn mset<'a>(call: &Call<'a, '_>, only_absent: bool) -> Result<Command<'a>, Wrong> {
    if call.len().is_multiple_of(2) {
        return Err(wrong_arity(call.spec));
    }
    let mut pairs = Vec::with_capacity(call.len() / 2);
    let mut words = call.rest(1);
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        pairs.push((call.as_key(key)?, call.as_value(value)?));
    }
    Ok(Command::Several(Several::Set { pairs, only_absent }))
}

pub fn append<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Append { tail: call.value(2)? })
}

pub fn strlen<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Len)
}

/// GETRANGE key start end
pub fn getrange<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Range { start: call.integer(2)?, end: call.integer(3)? })
}

/// SETRANGE key offset value. Of no bytes nothing is too long, wherever they would go.
pub fn setrange<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let offset = usize::try_from(call.integer(2)?).map_err(|_| wrong("offset is out of range"))?;
    let bytes = call.data(3);
    let len = offset.checked_add(bytes.len()).filter(|len| *len <= call.limits.value_len_max);
    if len.is_none() && !bytes.is_empty() {
        return Err(wrong("string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    one(call.key(1)?, Action::Overwrite { offset, bytes })
}

pub fn add<'a>(call: &Call<'a, '_>, by: i64) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Add { by })
}

pub fn incrby<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    add(call, call.integer(2)?)
}

pub fn decrby<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    add(call, call.integer(2)?.checked_neg().ok_or_else(|| wrong("decrement would overflow"))?)
}

/// Whether `by` is a number is for execution to say, with the value it is added to: Redis says the same of both.
pub fn incrbyfloat<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::AddDecimal { by: call.data(2) })
}

/// An expiry among the options of SET and GETEX. Its number is looked at behind all options, as Redis does it.
#[derive(Clone, Copy)]
struct Given {
    /// Of the number.
    place: usize,
    unit: Unit,
    since: Since,
}

impl Given {
    fn lifetime(self, call: &Call<'_, '_>) -> Result<Lifetime, Wrong> {
        expiry::lifetime(call, self.place, self.unit, self.since)
    }
}

/// Of several the last counts; they must be of the same kind.
fn given_expiry(call: &Call<'_, '_>, place: usize, before: Option<Given>) -> Result<Given, Wrong> {
    let kinds = [
        ("EX", Unit::Seconds, Since::Now),
        ("PX", Unit::Milliseconds, Since::Now),
        ("EXAT", Unit::Seconds, Since::Epoch),
        ("PXAT", Unit::Milliseconds, Since::Epoch),
    ];
    let word = call.word(place);
    let (_, unit, since) = kinds.into_iter().find(|(name, ..)| is(word, name)).ok_or_else(syntax)?;
    let is_other = before.is_some_and(|before| (before.unit, before.since) != (unit, since));
    if is_other || place + 1 >= call.len() {
        return Err(syntax());
    }
    Ok(Given { place: place + 1, unit, since })
}

/// The key is at 1.
fn write<'a>(call: &Call<'a, '_>, value: usize, only: Only, lifetime: Lifetime, answer: SetAnswer) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Set(Set { value: call.value(value)?, only, lifetime, answer }))
}

pub(super) fn one<'a>(key: Bytes<'a>, action: Action<'a>) -> Result<Command<'a>, Wrong> {
    Ok(Command::One { key, action })
}
