//! What a command does to one key: a pure function of the command, of what is there, and of the time.
//!
//! The one definition of every such command, whichever protocol it came by and whether it stands alone or in a transaction. Called under the key's lock: it never waits
//! and never looks anywhere else. The meaning and the words of errors are Redis's, but for the *strict* forms, which are those of the text protocol.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use crate::data::clock::Now;
use crate::data::entry::{Entry, Expiry, Update};
use crate::store;
use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Action, ExpireOnly, ExpiryUnit, Lifetime, Only, Set, SetAnswer};
use crate::wire::quoting::shown;
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::decimal::{self, NotAdded};
use crate::wire::resp::request::integer;

/// A part of a value of so many bytes is shared with it.
const RANGE_LEN_SHARED: usize = 16 << 10;

/// The time of a round: read when it is first asked for, and the same from then on.
#[derive(Default)]
pub(crate) struct Moment {
    now: Cell<Option<Now>>,
}

impl Moment {
    /// A time that was read already.
    #[cfg(feature = "testing")]
    pub fn at(now: Now) -> Moment {
        Moment { now: Cell::new(Some(now)) }
    }

    pub fn wall_ms(&self) -> u64 {
        self.now().wall_ms
    }

    pub fn elapsed(&self) -> Duration {
        self.now().elapsed
    }

    fn now(&self) -> Now {
        let now = self.now.get().unwrap_or_else(Now::read);
        self.now.set(Some(now));
        now
    }
}

/// A key that is there.
#[derive(Clone, Copy)]
pub(crate) struct Live<'e>(&'e Entry);

impl<'e> Live<'e> {
    pub fn of(entry: Option<&'e Entry>, moment: &Moment) -> Option<Live<'e>> {
        entry.filter(|entry| entry.is_live(|| moment.wall_ms())).map(Live)
    }

    pub fn value(self) -> &'e [u8] {
        self.0.value().unwrap_or_default()
    }

    /// Of the value from `start` to `end`; both are included, and negative ones count from the end. Large parts are shared, small ones are copied: they would keep much more than they are.
    fn range(self, start: i64, end: i64) -> Reply<'static> {
        let range = range(self.value().len(), start, end);
        match self.0.shared_value() {
            Some(value) if range.len() >= RANGE_LEN_SHARED => Reply::Value(value.slice(range)),
            _ => Reply::Bytes(self.value()[range].to_vec().into()),
        }
    }

    /// Without a copy.
    pub fn reply(self) -> Reply<'static> {
        self.0.shared_value().map_or(Reply::Null, Reply::Value)
    }

    pub fn expires(self) -> Option<Expiry> {
        self.0.expires()
    }
}

/// What a command comes to.
pub(crate) struct Verdict<'c> {
    /// `None`: nothing is written.
    pub effect: Option<Update>,
    pub reply: Reply<'c>,
}

impl<'c> Verdict<'c> {
    fn reply(reply: Reply<'c>) -> Verdict<'c> {
        Verdict { effect: None, reply }
    }

    fn write(effect: Update, reply: Reply<'c>) -> Verdict<'c> {
        Verdict { effect: Some(effect), reply }
    }
}

/// The key with the value that a command brings, copied before any lock is taken: it may have megabytes.
pub(crate) fn brought(key: &[u8], action: &Action<'_>) -> Option<Update> {
    match action {
        // With room for an expiry, where there will be one. (Where it is to be kept and there is none, it is copied once more.)
        Action::Set(set) => {
            let is_endless = matches!(set.lifetime, Lifetime::Endless);
            Some(Update::put(key, &set.value, (!is_endless).then_some(Expiry::from_wall_ms(0))))
        }
        _ => None,
    }
}

/// The bytes of the value that a command leaves, as far as the command tells.
pub(crate) fn size(action: &Action<'_>) -> usize {
    /// An integer's digits, or those of a usual fraction.
    const NUMBER_LEN: usize = 32;
    match action {
        Action::Set(set) => set.value.len(),
        Action::Append { tail } => tail.len(),
        Action::Overwrite { bytes, .. } if bytes.is_empty() => 0,
        Action::Overwrite { offset, bytes } => offset.saturating_add(bytes.len()),
        Action::Add { .. } | Action::AddDecimal { .. } => NUMBER_LEN,
        _ => 0,
    }
}

/// `brought` is what [`brought`] made of the same key and action; taken if it is needed.
pub(crate) fn judge<'c>(
    key: &'c [u8],
    action: &Action<'_>,
    brought: &mut Option<Update>,
    current: Option<Live<'_>>,
    limits: &Limits,
    moment: &Moment,
) -> Verdict<'c> {
    let absent = || Verdict::reply(Reply::Absent(Bytes::Borrowed(key)));
    let number = |number: usize| Verdict::reply(Reply::Integer(number as i64));
    match action {
        Action::Get => current.map_or_else(absent, |live| Verdict::reply(live.reply())),
        Action::Exists => number(usize::from(current.is_some())),
        Action::Len => number(current.map_or(0, |live| live.value().len())),
        Action::Range { start, end } => Verdict::reply(current.map_or(Reply::Bytes(Bytes::default()), |live| live.range(*start, *end))),
        Action::Expiry(unit) => Verdict::reply(Reply::Integer(left(current, *unit, moment))),
        Action::Type => Verdict::reply(Reply::Status(if current.is_some() { "string" } else { "none" })),
        Action::Encoding => current.map_or_else(absent, |live| Verdict::reply(Reply::Bytes(encoding(live.value()).as_bytes().into()))),
        Action::Footprint => {
            current.map_or_else(absent, |live| number(store::footprint_of(key.len() + live.value().len(), live.expires().is_some())))
        }
        Action::Set(set) => judge_set(key, set, brought, current, moment),
        Action::Delete { strict: true } => match current {
            Some(_) => Verdict::write(Update::delete(key), Reply::Ok),
            None => absent(),
        },
        Action::Delete { strict: false } => match current {
            Some(_) => Verdict::write(Update::delete(key), Reply::Integer(1)),
            None => number(0),
        },
        Action::GetDelete => match current {
            Some(live) => Verdict::write(Update::delete(key), live.reply()),
            None => absent(),
        },
        Action::GetWrong { wrong } => current.map_or_else(absent, |_| Verdict::reply(wrong.clone().into_reply())),
        Action::GetExpire { lifetime } => {
            let Some(live) = current else { return absent() };
            Verdict { effect: expire(key, live, *lifetime, moment), reply: live.reply() }
        }
        Action::Append { tail } => {
            let before = current.map_or(&[][..], Live::value);
            let Some(len) = checked_len(before.len(), tail.len(), limits) else { return too_long() };
            let value = [before, tail].concat();
            Verdict::write(kept(key, current, &value), Reply::Integer(len))
        }
        Action::Overwrite { offset, bytes } => {
            let before = current.map_or(&[][..], Live::value);
            if bytes.is_empty() {
                return number(before.len());
            }
            let Some(end) = checked_len(*offset, bytes.len(), limits) else { return too_long() };
            let end = end as usize;
            let mut value = before.to_vec();
            value.resize(before.len().max(end), 0);
            value[*offset..end].copy_from_slice(bytes);
            let len = value.len() as i64;
            Verdict::write(kept(key, current, &value), Reply::Integer(len))
        }
        Action::Add { by } => {
            let not = |sentence: &'static str| Verdict::reply(Reply::Error { code: ErrorCode::NotNumber, sentence: sentence.into() });
            let Some(before) = current.map_or(Some(0), |live| integer(live.value())) else {
                return not("value is not an integer or out of range");
            };
            let Some(sum) = before.checked_add(*by) else { return not("increment or decrement would overflow") };
            let mut digits = itoa::Buffer::new();
            Verdict::write(kept(key, current, digits.format(sum).as_bytes()), Reply::Integer(sum))
        }
        Action::AddDecimal { by } => match decimal::add(current.map_or(&b"0"[..], Live::value), by) {
            Ok(sum) if sum.len() > limits.value_len_max => too_long(),
            Ok(sum) => Verdict::write(kept(key, current, &sum), Reply::Bytes(sum.into())),
            Err(why) => {
                let sentence = match why {
                    NotAdded::CurrentIsNoNumber | NotAdded::IncrementIsNoNumber => "value is not a valid float",
                    NotAdded::NotFinite => "increment would produce NaN or Infinity",
                };
                Verdict::reply(Reply::Error { code: ErrorCode::NotNumber, sentence: sentence.into() })
            }
        },
        Action::Expire { at, only } => match current {
            Some(live) if may_expire(live, *at, *only) => {
                Verdict { effect: expire(key, live, Lifetime::Until(*at), moment), reply: Reply::Integer(1) }
            }
            _ => number(0),
        },
        Action::Persist => match current {
            Some(live) if live.expires().is_some() => {
                Verdict { effect: expire(key, live, Lifetime::Endless, moment), reply: Reply::Integer(1) }
            }
            _ => number(0),
        },
    }
}

fn judge_set<'c>(key: &'c [u8], set: &Set<'_>, brought: &mut Option<Update>, current: Option<Live<'_>>, moment: &Moment) -> Verdict<'c> {
    let refused = match set.only {
        Only::Always => false,
        Only::IfAbsent => current.is_some(),
        Only::IfPresent => current.is_none(),
    };
    let former = || current.map_or(Reply::Absent(Bytes::Borrowed(key)), |live| live.reply());
    if refused {
        return Verdict::reply(match set.answer {
            SetAnswer::Strict => strict_refusal(key, set.only),
            SetAnswer::OkOrNull => Reply::Null,
            SetAnswer::Number => Reply::Integer(0),
            SetAnswer::Former => former(),
        });
    }
    let reply = match set.answer {
        SetAnswer::Strict | SetAnswer::OkOrNull => Reply::Ok,
        SetAnswer::Number => Reply::Integer(1),
        SetAnswer::Former => former(),
    };
    // Taken already, if this is judged once more.
    let mut put = |expires| match brought.take() {
        Some(effect) => effect.expiring(expires),
        None => Update::put(key, &set.value, expires),
    };
    let effect = match set.lifetime {
        Lifetime::Endless => put(None),
        Lifetime::Kept => put(current.and_then(Live::expires)),
        Lifetime::Until(at) => match future(at, moment) {
            Some(expires) => put(Some(expires)),
            // Over before it has begun: nobody could ever see it.
            None => Update::delete(key),
        },
    };
    Verdict::write(effect, reply)
}

fn strict_refusal(key: &[u8], only: Only) -> Reply<'static> {
    match only {
        Only::IfAbsent => {
            Reply::error(ErrorCode::Exists, format!("key {} exists; use UPD to change it, PUT to set it either way", shown(key)))
        }
        _ => {
            Reply::error(ErrorCode::NotFound, format!("key {} does not exist; use SET to create it, PUT to set it either way", shown(key)))
        }
    }
}

/// The value with the lifetime that it has.
fn kept(key: &[u8], current: Option<Live<'_>>, value: &[u8]) -> Update {
    Update::put(key, value, current.and_then(Live::expires))
}

/// The same value with another lifetime.
fn expire(key: &[u8], live: Live<'_>, lifetime: Lifetime, moment: &Moment) -> Option<Update> {
    let expires = match lifetime {
        Lifetime::Kept => return None,
        Lifetime::Endless => {
            live.expires()?;
            None
        }
        Lifetime::Until(at) => match future(at, moment) {
            Some(expires) => Some(expires),
            None => return Some(Update::delete(key)),
        },
    };
    Some(Update::put(key, live.value(), expires))
}

/// `None` for what is over.
fn future(at: i64, moment: &Moment) -> Option<Expiry> {
    let at = u64::try_from(at).ok().filter(|at| *at > moment.wall_ms())?;
    Some(Expiry::from_wall_ms(at))
}

fn may_expire(live: Live<'_>, at: i64, only: ExpireOnly) -> bool {
    let present = live.expires().map(|expires| i64::try_from(expires.wall_ms()).unwrap_or(i64::MAX));
    !(only.endless && present.is_some()
        || only.expiring && present.is_none()
        || only.later && present.is_none_or(|present| at <= present)
        || only.earlier && present.is_some_and(|present| at >= present))
}

fn left(current: Option<Live<'_>>, unit: ExpiryUnit, moment: &Moment) -> i64 {
    let Some(live) = current else { return -2 };
    let Some(expires) = live.expires() else { return -1 };
    let ms = if unit.absolute { expires.wall_ms() } else { expires.wall_ms().saturating_sub(moment.wall_ms()) };
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    if unit.milliseconds { ms } else { ms.saturating_add(500) / 1000 }
}

/// Both ends are included; negative ones count from the end.
fn range(len: usize, start: i64, end: i64) -> Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_end = |place: i64| if place < 0 { len.saturating_add(place).max(0) } else { place };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

/// As Redis keeps what was just SET. How it came about is not part of an entry, and the other nodes could not say it.
fn encoding(value: &[u8]) -> &'static str {
    const EMBEDDED_LEN_MAX: usize = 44;
    if integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_LEN_MAX {
        "embstr"
    } else {
        "raw"
    }
}

fn checked_len(before: usize, more: usize, limits: &Limits) -> Option<i64> {
    before.checked_add(more).filter(|len| *len <= limits.value_len_max).map(|len| len as i64)
}

fn too_long() -> Verdict<'static> {
    Verdict::reply(Reply::Error { code: ErrorCode::TooBig, sentence: "string exceeds maximum allowed size (proto-max-bulk-len)".into() })
}
