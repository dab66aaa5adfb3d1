//! Commands that concern the node, or all of them.

use std::borrow::Cow;
use std::time::Duration;

use super::{Call, is, shown, syntax, wrong};
use crate::wire::command::{Catalogue, Command, ListFilter};
use crate::wire::reply::Wrong;

/// Beyond this DEBUG SLEEP is refused: a connection that sleeps is one that nobody else has.
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub fn all_commands() -> Command<'static> {
    Command::Catalogue(Catalogue::Info(None))
}

pub fn command_count() -> Command<'static> {
    Command::Catalogue(Catalogue::Count)
}

/// COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]
pub fn command_list<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let filter = match call.len() {
        2 => None,
        5 if is(call.word(2), "FILTERBY") => {
            let (kind, word) = (call.word(3), call.word(4));
            Some(if is(kind, "MODULE") {
                ListFilter::Module
            } else if is(kind, "ACLCAT") {
                ListFilter::Category(lower(word))
            } else if is(kind, "PATTERN") {
                ListFilter::Pattern(word.to_vec())
            } else {
                return Err(syntax());
            })
        }
        _ => return Err(syntax()),
    };
    Ok(Command::Catalogue(Catalogue::List(filter)))
}

/// COMMAND INFO [name …]
pub fn command_info<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let names = call.few(2)?.map(lower).collect();
    Ok(Command::Catalogue(Catalogue::Info((call.len() > 2).then_some(names))))
}

/// COMMAND DOCS [name …]
pub fn command_docs<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    Ok(Command::Catalogue(Catalogue::Docs(call.few(2)?.map(lower).collect())))
}

/// CONFIG GET pattern …: Redis matches them in any case, and names are in lower case.
pub fn config_get<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let lower = |word: &'a [u8]| match word.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(word.to_ascii_lowercase()),
        false => Cow::Borrowed(word),
    };
    Ok(Command::Config { patterns: call.few(2)?.map(lower).collect() })
}

/// INFO [section …]: all of them are few, so that Redis's `default`, `all` and `everything` are the same here.
pub fn info<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let sections: Vec<String> = call.few(1)?.map(lower).collect();
    let wants_all = sections.iter().any(|section| matches!(section.as_str(), "default" | "all" | "everything"));
    Ok(Command::Info { sections: if wants_all { Vec::new() } else { sections } })
}

/// LOLWUT [VERSION n] [anything]
pub fn lolwut<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    if call.len() >= 3 && is(call.word(1), "VERSION") {
        call.integer(2)?;
    }
    Ok(Command::Lolwut)
}

/// WAIT peers timeout
pub fn wait<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    // Fewer than none are always there.
    let peers = usize::try_from(call.integer(1)?).unwrap_or(0);
    Ok(Command::Wait { peers, timeout: timeout(call, 2)? })
}

/// WAITAOF local peers timeout
pub fn waitaof<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let local = match call.integer(1)? {
        0 => false,
        1 => true,
        _ => return Err(wrong("value is out of range, value must between 0 and 1")),
    };
    let peers = usize::try_from(call.integer(2)?).map_err(|_| wrong("value is out of range, must be positive"))?;
    Ok(Command::WaitDurable { local, peers, timeout: timeout(call, 3)? })
}

/// In milliseconds; `None`: for ever.
fn timeout(call: &Call<'_, '_>, place: usize) -> Result<Option<Duration>, Wrong> {
    match call.integer(place).map_err(|_| wrong("timeout is not an integer or out of range"))? {
        0 => Ok(None),
        ms => u64::try_from(ms).map(|ms| Some(Duration::from_millis(ms))).map_err(|_| wrong("timeout is negative")),
    }
}

/// DEBUG SLEEP seconds
pub fn debug_sleep<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let seconds = std::str::from_utf8(call.word(2)).ok().and_then(|word| word.parse().ok());
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|time| *time <= SLEEP_MAX);
    let time = time.ok_or_else(|| wrong(format!("the time to sleep must be a number of seconds from 0 to {}", SLEEP_MAX.as_secs())))?;
    Ok(Command::Sleep { time })
}

/// ACK [level], kvmesh's own.
pub fn ack<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    match call.len() {
        1 => Ok(Command::Ack { level: None }),
        2 => match shown(call.word(1)).parse() {
            Ok(level) => Ok(Command::Ack { level: Some(level) }),
            Err(sentence) => Err(wrong(sentence)),
        },
        _ => Err(syntax()),
    }
}

/// A word that is compared with ours, which are all in lower case.
fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}
