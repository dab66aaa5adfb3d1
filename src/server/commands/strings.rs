//! Commands on the values of keys.
//!
//! The meaning and the words of errors are Redis's, but for the *strict* forms, which are those of
//! the text protocol.

use std::ops::Range;

use super::expiry::{self, Since, Unit};
use super::key_specs;
use super::spec::Spec;
use crate::data::entry::{Expiry, Update};
use crate::server::evaluation::{Context, Evaluation, Live, RoundTime};
use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Command, Lifetime, MultiKey, Only, Set, SetAnswer, StringRead, StringWrite};
use crate::wire::quoting::shown;
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, syntax, wrong};
use crate::wire::resp::decimal::{self, NotAdded};
use crate::wire::resp::request::integer;

/// A part of a value of so many bytes is shared with it; a smaller one is copied, since it would
/// keep much more than it is.
const RANGE_LEN_SHARED: usize = 16 << 10;
/// The bytes of an integer's digits, or of those of a usual fraction.
const NUMBER_LEN: usize = 32;

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("get", 2, "readonly fast", |words| read_of(words, StringRead::Get))
        .keys(key_specs::READ)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Returns the value of a key."),
    Spec::command("set", -3, "write denyoom", parse_set).keys(key_specs::SET).categories("string").docs("string", "1.0.0", "O(1)").help(
        "key value [NX|XX] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
        "Sets the value of a key, whether it exists or not, and when it expires.",
    ),
    Spec::command("setnx", 3, "write denyoom fast", |words| set(words, 2, Only::IfAbsent, Lifetime::Endless, SetAnswer::Number))
        .keys(key_specs::CREATED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key value", "Sets the value of a key that does not exist."),
    Spec::command("setex", 4, "write denyoom", |words| parse_setex(words, Unit::Seconds))
        .keys(key_specs::WRITTEN)
        .categories("string")
        .docs("string", "2.0.0", "O(1)")
        .help("key seconds value", "Sets the value of a key, and in how many seconds it expires."),
    Spec::command("psetex", 4, "write denyoom", |words| parse_setex(words, Unit::Milliseconds))
        .keys(key_specs::WRITTEN)
        .categories("string")
        .docs("string", "2.6.0", "O(1)")
        .help("key milliseconds value", "Sets the value of a key, and in how many milliseconds it expires."),
    Spec::command("getset", 3, "write denyoom fast", |words| set(words, 2, Only::Always, Lifetime::Endless, SetAnswer::Former))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key value", "Sets the value of a key and returns the former one."),
    Spec::command("getdel", 2, "write fast", |words| write_of(words, StringWrite::GetDelete))
        .keys(key_specs::TAKEN)
        .categories("string")
        .docs("string", "6.2.0", "O(1)")
        .help("key", "Returns the value of a key and deletes it."),
    Spec::command("getex", -2, "write fast", parse_getex)
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "6.2.0", "O(1)")
        .help(
            "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]",
            "Returns the value of a key and changes when it expires.",
        ),
    Spec::command("mget", -2, "readonly fast", |words| Ok(MultiKey::Get(words.keys()?).into()))
        .keys(key_specs::ALL_READ)
        .categories("string")
        .tips("request_policy:multi_shard")
        .docs("string", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Returns the values of several keys, as they are at one moment on this node."),
    Spec::command("mset", -3, "write denyoom", |words| parse_mset(words, false))
        .keys(key_specs::PAIRS_WRITTEN)
        .categories("string")
        .tips("request_policy:multi_shard response_policy:all_succeeded")
        .docs("string", "1.0.1", "O(N) where N is the number of keys")
        .help("(key value)...", "Sets the values of several keys in one step on this node."),
    Spec::command("msetnx", -3, "write denyoom", |words| parse_mset(words, true))
        .keys(key_specs::PAIRS_CREATED)
        .categories("string")
        .tips("request_policy:multi_shard response_policy:agg_min")
        .docs("string", "1.0.1", "O(N) where N is the number of keys")
        .help("(key value)...", "Sets the values of several keys, if none of them exists."),
    Spec::command("append", 3, "write denyoom fast", parse_append)
        .keys(key_specs::EXTENDED)
        .categories("string")
        .docs("string", "2.0.0", "O(N) where N is the length of the value")
        .help("key value", "Adds bytes to the end of a value."),
    Spec::command("strlen", 2, "readonly fast", |words| read_of(words, StringRead::Len))
        .keys(key_specs::LOOKED_UP)
        .categories("string")
        .docs("string", "2.2.0", "O(1)")
        .help("key", "Returns the length of a value."),
    Spec::command("getrange", 4, "readonly", parse_getrange)
        .keys(key_specs::READ)
        .categories("string")
        .docs("string", "2.4.0", "O(N) where N is the length of the answer")
        .help("key start end", "Returns some bytes of a value."),
    Spec::command("substr", 4, "readonly", parse_getrange)
        .keys(key_specs::READ)
        .categories("string")
        .docs("string", "1.0.0", "O(N) where N is the length of the answer")
        .help("key start end", "Returns some bytes of a value, as GETRANGE does."),
    Spec::command("setrange", 4, "write denyoom", parse_setrange)
        .keys(key_specs::ALTERED)
        .categories("string")
        .docs("string", "2.2.0", "O(N) where N is the length of the value")
        .help("key offset value", "Overwrites some bytes of a value."),
    Spec::command("incr", 2, "write denyoom fast", |words| write_of(words, StringWrite::Add { by: 1 }))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Adds one to the integer that is the value of a key."),
    Spec::command("decr", 2, "write denyoom fast", |words| write_of(words, StringWrite::Add { by: -1 }))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Subtracts one from the integer that is the value of a key."),
    Spec::command("incrby", 3, "write denyoom fast", |words| write_of(words, StringWrite::Add { by: words.integer(2)? }))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key increment", "Adds to the integer that is the value of a key."),
    Spec::command("decrby", 3, "write denyoom fast", parse_decrby)
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key decrement", "Subtracts from the integer that is the value of a key."),
    Spec::command("incrbyfloat", 3, "write denyoom fast", |words| write_of(words, StringWrite::AddDecimal { by: words.data(2) }))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "2.6.0", "O(1)")
        .help("key decimal", "Adds a decimal to the number that is the value of a key."),
    Spec::command("upd", 3, "write denyoom fast", |words| set(words, 2, Only::IfPresent, Lifetime::Endless, SetAnswer::Strict))
        .keys(key_specs::CHANGED)
        .categories("string")
        .docs("string", "0.1.0", "O(1)")
        .help("key value", "Changes the value of a key; an error if there is no such key."),
    Spec::command("put", 3, "write denyoom fast", |words| set(words, 2, Only::Always, Lifetime::Endless, SetAnswer::Strict))
        .keys(key_specs::WRITTEN)
        .categories("string")
        .docs("string", "0.1.0", "O(1)")
        .help("key value", "Sets the value of a key, whether it exists or not."),
];

/// The reply to a read of a key.
pub(super) fn read<'c>(read: &StringRead, key: &'c [u8], live: Option<Live<'_>>) -> Reply<'c> {
    match read {
        StringRead::Get => live.map_or_else(|| absent(key), |live| live.reply()),
        StringRead::GetWithBadExpiry(wrong) => live.map_or_else(|| absent(key), |_| wrong.clone().into_reply()),
        StringRead::Len => Reply::Integer(live.map_or(0, |live| live.value().len()) as i64),
        StringRead::Range { start, end } => live.map_or(Reply::Bytes(Bytes::default()), |live| part(live, *start, *end)),
    }
}

/// Evaluates a write. `prebuilt` is what [`prebuilt`] made of the same write; taken if it is
/// needed.
#[inline]
pub(super) fn write<'c>(
    write: &StringWrite<'_>,
    key: &'c [u8],
    prebuilt: &mut Option<Update>,
    live: Option<Live<'_>>,
    context: Context<'_>,
) -> Evaluation<'c> {
    let Context { limits, time } = context;
    match write {
        StringWrite::Set(set) => write_set(set, key, prebuilt, live, time),
        StringWrite::GetDelete => match live {
            Some(live) => Evaluation::write(Update::delete(key), live.reply()),
            None => Evaluation::reply(absent(key)),
        },
        StringWrite::GetExpire { lifetime } => match live {
            Some(live) => Evaluation { update: expiry::changed(key, live, *lifetime, time), reply: live.reply() },
            None => Evaluation::reply(absent(key)),
        },
        StringWrite::Append { tail } => {
            let before = live.map_or(&[][..], Live::value);
            let Some(len) = checked_len(before.len(), tail.len(), limits) else { return too_long() };
            Evaluation::write(with_value(key, live, &[before, tail].concat()), Reply::Integer(len))
        }
        StringWrite::Overwrite { offset, bytes } => overwrite(key, live, *offset, bytes, limits),
        StringWrite::Add { by } => {
            let not = |sentence: &'static str| Evaluation::reply(Reply::Error { code: ErrorCode::NotNumber, sentence: sentence.into() });
            let Some(before) = live.map_or(Some(0), |live| integer(live.value())) else {
                return not("value is not an integer or out of range");
            };
            let Some(sum) = before.checked_add(*by) else { return not("increment or decrement would overflow") };
            let mut digits = itoa::Buffer::new();
            Evaluation::write(with_value(key, live, digits.format(sum).as_bytes()), Reply::Integer(sum))
        }
        StringWrite::AddDecimal { by } => match decimal::add(live.map_or(&b"0"[..], Live::value), by) {
            Ok(sum) if sum.len() > limits.value_len_max => too_long(),
            Ok(sum) => Evaluation::write(with_value(key, live, &sum), Reply::Bytes(sum.into())),
            Err(why) => {
                let sentence = match why {
                    NotAdded::CurrentIsNoNumber | NotAdded::IncrementIsNoNumber => "value is not a valid float",
                    NotAdded::NotFinite => "increment would produce NaN or Infinity",
                };
                Evaluation::reply(Reply::Error { code: ErrorCode::NotNumber, sentence: sentence.into() })
            }
        },
    }
}

/// The update that a write brings, built before any lock is taken: its value may have megabytes.
#[inline]
pub(super) fn prebuilt(write: &StringWrite<'_>, key: &[u8]) -> Option<Update> {
    let StringWrite::Set(set) = write else { return None };
    // With room for an expiry, where there will be one. (Where it is to be kept and there is none,
    // the value is copied once more.)
    let is_endless = matches!(set.lifetime, Lifetime::Endless);
    Some(Update::put(key, &set.value, (!is_endless).then_some(Expiry::from_wall_ms(0))))
}

/// The bytes of the value that a write leaves, as far as the command tells.
#[inline]
pub(super) fn value_len(write: &StringWrite<'_>) -> usize {
    match write {
        StringWrite::Set(set) => set.value.len(),
        StringWrite::Append { tail } => tail.len(),
        StringWrite::Overwrite { bytes, .. } if bytes.is_empty() => 0,
        StringWrite::Overwrite { offset, bytes } => offset.saturating_add(bytes.len()),
        StringWrite::Add { .. } | StringWrite::AddDecimal { .. } => NUMBER_LEN,
        StringWrite::GetDelete | StringWrite::GetExpire { .. } => 0,
    }
}

/// Returns true if a write also returns the value that it finds.
#[inline]
pub(super) fn is_lookup(write: &StringWrite<'_>) -> bool {
    match write {
        StringWrite::Set(set) => set.answer == SetAnswer::Former,
        StringWrite::GetDelete | StringWrite::GetExpire { .. } => true,
        StringWrite::Append { .. } | StringWrite::Overwrite { .. } | StringWrite::Add { .. } | StringWrite::AddDecimal { .. } => false,
    }
}

#[inline]
fn write_set<'c>(set: &Set<'_>, key: &'c [u8], prebuilt: &mut Option<Update>, live: Option<Live<'_>>, time: &RoundTime) -> Evaluation<'c> {
    let is_refused = match set.only {
        Only::Always => false,
        Only::IfAbsent => live.is_some(),
        Only::IfPresent => live.is_none(),
    };
    let former = || live.map_or_else(|| absent(key), |live| live.reply());
    if is_refused {
        return Evaluation::reply(match set.answer {
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
    // Taken already, if this is evaluated once more.
    let mut put = |expires| match prebuilt.take() {
        Some(update) => update.expiring(expires),
        None => Update::put(key, &set.value, expires),
    };
    let update = match set.lifetime {
        Lifetime::Endless => put(None),
        Lifetime::Kept => put(live.and_then(Live::expires)),
        Lifetime::Until(at) => match expiry::future(at, time) {
            Some(expires) => put(Some(expires)),
            // Over before it has begun: no client could ever see it.
            None => Update::delete(key),
        },
    };
    Evaluation::write(update, reply)
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

fn overwrite<'c>(key: &'c [u8], live: Option<Live<'_>>, offset: usize, bytes: &[u8], limits: &Limits) -> Evaluation<'c> {
    let before = live.map_or(&[][..], Live::value);
    if bytes.is_empty() {
        return Evaluation::number(before.len());
    }
    let Some(end) = checked_len(offset, bytes.len(), limits) else { return too_long() };
    let end = end as usize;
    let mut value = before.to_vec();
    value.resize(before.len().max(end), 0);
    value[offset..end].copy_from_slice(bytes);
    let len = value.len() as i64;
    Evaluation::write(with_value(key, live, &value), Reply::Integer(len))
}

/// The error NOTFOUND in text, null in RESP.
fn absent(key: &[u8]) -> Reply<'_> {
    Reply::Absent(Bytes::Borrowed(key))
}

/// Another value with the lifetime that the key has.
fn with_value(key: &[u8], live: Option<Live<'_>>, value: &[u8]) -> Update {
    Update::put(key, value, live.and_then(Live::expires))
}

/// The part of a value from `start` to `end`; both are included, and negative ones count from the
/// end.
fn part(live: Live<'_>, start: i64, end: i64) -> Reply<'static> {
    let range = range(live.value().len(), start, end);
    match live.shared_value() {
        Some(value) if range.len() >= RANGE_LEN_SHARED => Reply::Value(value.slice(range)),
        _ => Reply::Bytes(live.value()[range].to_vec().into()),
    }
}

fn range(len: usize, start: i64, end: i64) -> Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_start = |index: i64| if index < 0 { len.saturating_add(index).max(0) } else { index };
    let (start, end) = (from_start(start), from_start(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

fn checked_len(before: usize, more: usize, limits: &Limits) -> Option<i64> {
    before.checked_add(more).filter(|len| *len <= limits.value_len_max).map(|len| len as i64)
}

fn too_long() -> Evaluation<'static> {
    Evaluation::reply(Reply::Error { code: ErrorCode::TooBig, sentence: "string exceeds maximum allowed size (proto-max-bulk-len)".into() })
}

/// `SET key value [NX | XX] [GET] [EX n | PX n | EXAT n | PXAT n | KEEPTTL]`
fn parse_set<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut only = Only::Always;
    let mut answer = SetAnswer::OkOrNull;
    let mut keeps = false;
    let mut given = None;
    let mut index = 3;
    while index < words.len() {
        let word = words.word(index);
        if is(word, "NX") && only != Only::IfPresent {
            only = Only::IfAbsent;
        } else if is(word, "XX") && only != Only::IfAbsent {
            only = Only::IfPresent;
        } else if is(word, "GET") {
            answer = SetAnswer::Former;
        } else if is(word, "KEEPTTL") && given.is_none() {
            keeps = true;
        } else if !keeps {
            given = Some(GivenExpiry::parse(words, index, given)?);
            index += 1;
        } else {
            return Err(syntax());
        }
        index += 1;
    }
    let lifetime = match given {
        Some(given) => given.lifetime(words)?,
        None if keeps => Lifetime::Kept,
        None => Lifetime::Endless,
    };
    set(words, 2, only, lifetime, answer)
}

/// `SETEX key expiry value`
fn parse_setex<'a>(words: &Arguments<'a, '_>, unit: Unit) -> Result<Command<'a>, Wrong> {
    let lifetime = GivenExpiry { index: 2, unit, since: Since::Now }.lifetime(words)?;
    set(words, 3, Only::Always, lifetime, SetAnswer::OkOrNull)
}

/// `GETEX key [EX n | PX n | EXAT n | PXAT n | PERSIST]`
fn parse_getex<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut persists = false;
    let mut given = None;
    let mut index = 2;
    while index < words.len() {
        if is(words.word(index), "PERSIST") && given.is_none() {
            persists = true;
        } else if !persists {
            given = Some(GivenExpiry::parse(words, index, given)?);
            index += 1;
        } else {
            return Err(syntax());
        }
        index += 1;
    }
    match given.map(|given| given.lifetime(words)) {
        Some(Ok(lifetime)) => write_of(words, StringWrite::GetExpire { lifetime }),
        Some(Err(wrong)) => read_of(words, StringRead::GetWithBadExpiry(wrong)),
        None if persists => write_of(words, StringWrite::GetExpire { lifetime: Lifetime::Endless }),
        None => read_of(words, StringRead::Get),
    }
}

/// `MSET key value [key value …]`
fn parse_mset<'a>(words: &Arguments<'a, '_>, only_absent: bool) -> Result<Command<'a>, Wrong> {
    if words.len().is_multiple_of(2) {
        return Err(words.wrong_arity());
    }
    let mut pairs = Vec::with_capacity(words.len() / 2);
    let mut rest = words.rest(1);
    while let (Some(key), Some(value)) = (rest.next(), rest.next()) {
        pairs.push((words.as_key(key)?, words.as_value(value)?));
    }
    Ok(MultiKey::Set { pairs, only_absent }.into())
}

/// `APPEND key value`
fn parse_append<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let key = words.key(1)?;
    Ok(Command::write(key, StringWrite::Append { tail: words.value(2)? }))
}

/// `GETRANGE key start end`
fn parse_getrange<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let key = words.key(1)?;
    let read = StringRead::Range { start: words.integer(2)?, end: words.integer(3)? };
    Ok(Command::read(key, read))
}

/// `SETRANGE key offset value`. Of no bytes nothing is too long, wherever they would go.
fn parse_setrange<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let offset = usize::try_from(words.integer(2)?).map_err(|_| wrong("offset is out of range"))?;
    let bytes = words.data(3);
    let len = offset.checked_add(bytes.len()).filter(|len| *len <= words.limits.value_len_max);
    if len.is_none() && !bytes.is_empty() {
        return Err(wrong("string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    write_of(words, StringWrite::Overwrite { offset, bytes })
}

fn parse_decrby<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let by = words.integer(2)?.checked_neg().ok_or_else(|| wrong("decrement would overflow"))?;
    write_of(words, StringWrite::Add { by })
}

/// An expiry among the options of SET and GETEX. Its number is looked at behind all options, as
/// Redis does it.
#[derive(Clone, Copy)]
struct GivenExpiry {
    /// The index of the number.
    index: usize,
    unit: Unit,
    since: Since,
}

impl GivenExpiry {
    /// The expiry at an index. Of several the last counts; they must be of the same kind.
    fn parse(words: &Arguments<'_, '_>, index: usize, before: Option<GivenExpiry>) -> Result<GivenExpiry, Wrong> {
        let kinds = [
            ("EX", Unit::Seconds, Since::Now),
            ("PX", Unit::Milliseconds, Since::Now),
            ("EXAT", Unit::Seconds, Since::Epoch),
            ("PXAT", Unit::Milliseconds, Since::Epoch),
        ];
        let word = words.word(index);
        let (_, unit, since) = kinds.into_iter().find(|(name, ..)| is(word, name)).ok_or_else(syntax)?;
        let is_other = before.is_some_and(|before| (before.unit, before.since) != (unit, since));
        if is_other || index + 1 >= words.len() {
            return Err(syntax());
        }
        Ok(GivenExpiry { index: index + 1, unit, since })
    }

    fn lifetime(self, words: &Arguments<'_, '_>) -> Result<Lifetime, Wrong> {
        expiry::parse_lifetime(words, self.index, self.unit, self.since)
    }
}

/// A SET of the key at 1 to the value at an index.
fn set<'a>(words: &Arguments<'a, '_>, value: usize, only: Only, lifetime: Lifetime, answer: SetAnswer) -> Result<Command<'a>, Wrong> {
    let key = words.key(1)?;
    let set = Set { value: words.value(value)?, only, lifetime, answer };
    Ok(Command::write(key, StringWrite::Set(set)))
}

/// A read of the key at 1.
fn read_of<'a>(words: &Arguments<'a, '_>, read: StringRead) -> Result<Command<'a>, Wrong> {
    Ok(Command::read(words.key(1)?, read))
}

/// A write to the key at 1.
fn write_of<'a>(words: &Arguments<'a, '_>, write: StringWrite<'a>) -> Result<Command<'a>, Wrong> {
    Ok(Command::write(words.key(1)?, write))
}
