//! All commands that RESP clients may send: found by name, and held against their arity.

use super::spec::{Parser, Spec};
use super::{
    acl, admin, blocking, client_command, command_query, config_get, expiry, handshake, info, introspection, keys, refused, scan, strings,
    transaction,
};
use crate::wire::bytes::Limits;
use crate::wire::command::Request;
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::Words;
use crate::wire::resp::arguments::{Arguments, one_line, up_to_zero, wrong_arity};

/// A family that is not here does not exist.
static FAMILIES: [&[Spec]; 14] = [
    strings::COMMANDS,
    keys::COMMANDS,
    scan::COMMANDS,
    expiry::COMMANDS,
    handshake::COMMANDS,
    client_command::COMMANDS,
    transaction::COMMANDS,
    command_query::COMMANDS,
    config_get::COMMANDS,
    introspection::COMMANDS,
    info::COMMANDS,
    admin::COMMANDS,
    blocking::COMMANDS,
    acl::COMMANDS,
];

/// Redis's limit for words that are shown in the errors about unknown commands.
const SHOWN_LEN_MAX: usize = 128;

/// All commands; subcommands are in them.
pub fn all() -> impl Iterator<Item = &'static Spec> + Clone {
    FAMILIES.into_iter().flatten()
}

/// The command of that name, in upper or lower case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let packed = packed(name)?;
    let mut slot = slot(packed);
    while let Some(spec) = INDEX[slot] {
        // Lengths differ where a name ends in zeros.
        if PACKED[slot] == packed && spec.name.len() == name.len() {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

/// The command of a request and its parser, if there is one that takes so many words.
///
/// Redis looks at nothing else before it queues a command in MULTI: what fails here aborts the
/// transaction; any other error is queued, and is this command's reply to EXEC.
#[inline]
pub fn check(words: Words<'_, '_>) -> Result<(&'static Spec, Parser), Wrong> {
    let name = words.get(0).unwrap_or_default();
    let Some(mut spec) = find(name) else { return Err(no_command(name, words)) };
    if let Some(word) = words.get(1)
        && spec.has_subcommands()
    {
        spec = spec.subcommand(word).ok_or_else(|| no_subcommand(spec, word))?;
    }
    match spec.parser {
        Some(parser) if spec.takes(words.len()) => Ok((spec, parser)),
        // The transaction ends even so.
        _ if spec.name == "exec" => {
            Err(Wrong::new(ErrorCode::ExecAbort, format!("Transaction discarded because of: {}", wrong_arity(spec.name).sentence)))
        }
        _ => Err(wrong_arity(spec.name)),
    }
}

/// The request that words ask for. `now_ms`: milliseconds since 1970.
pub fn parse<'a>(words: Words<'a, '_>, limits: &Limits, now_ms: impl Fn() -> i64) -> Result<Request<'a>, Wrong> {
    let (spec, parser) = check(words)?;
    parser.parse(&Arguments { name: spec.name, words, limits, now_ms: &now_ms })
}

fn no_command(name: &[u8], words: Words<'_, '_>) -> Wrong {
    if let Some(sentence) = refused::refusal(name) {
        return Wrong::new(ErrorCode::Err, sentence);
    }
    // In bytes, for Redis counts and cuts them: `args` may end within a character.
    let mut args = Vec::new();
    for word in words.iter().skip(1) {
        let Some(room @ 1..) = SHOWN_LEN_MAX.checked_sub(args.len()) else { break };
        args.push(b'\'');
        args.extend_from_slice(cut(word, room));
        args.extend_from_slice(b"' ");
    }
    let name = cut(name, SHOWN_LEN_MAX);
    let sentence = [b"unknown command '", name, b"', with args beginning with: ", &args].concat();
    Wrong::new(ErrorCode::Unknown, one_line(&String::from_utf8_lossy(&sentence)))
}

fn no_subcommand(container: &Spec, word: &[u8]) -> Wrong {
    if let Some(sentence) = refused::subcommand_refusal(container.name, word) {
        return Wrong::new(ErrorCode::Err, sentence);
    }
    let shown = String::from_utf8_lossy(cut(word, SHOWN_LEN_MAX));
    let container = container.name.to_ascii_uppercase();
    Wrong::new(ErrorCode::Unknown, one_line(&format!("unknown subcommand '{shown}'. Try {container} HELP.")))
}

fn cut(word: &[u8], len_max: usize) -> &[u8] {
    let word = up_to_zero(word);
    word.get(..len_max).unwrap_or(word)
}

/// Slots of the index: more than twice the number of commands, and a power of two, so that hardly
/// two of them want the same slot.
const SLOTS: usize = 256;

/// The command in each slot; one whose slot is taken is in the next that is free.
static INDEX: [Option<&Spec>; SLOTS] = {
    let mut index: [Option<&Spec>; SLOTS] = [None; SLOTS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            let spec = &FAMILIES[family][row];
            let Some(packed) = packed(spec.name.as_bytes()) else { panic!("a name is too long") };
            let mut slot = slot(packed);
            while index[slot].is_some() {
                slot = (slot + 1) % SLOTS;
            }
            index[slot] = Some(spec);
            row += 1;
        }
        family += 1;
    }
    index
};

/// The names of [`INDEX`].
static PACKED: [u128; SLOTS] = {
    let mut names = [0; SLOTS];
    let mut slot = 0;
    while slot < SLOTS {
        if let Some(spec) = INDEX[slot]
            && let Some(packed) = packed(spec.name.as_bytes())
        {
            names[slot] = packed;
        }
        slot += 1;
    }
    names
};

/// A name in lower case as one number; `None` if it is longer than any command's.
const fn packed(name: &[u8]) -> Option<u128> {
    let mut bytes = [0; 16];
    if name.len() > bytes.len() {
        return None;
    }
    let mut index = 0;
    while index < name.len() {
        bytes[index] = name[index].to_ascii_lowercase();
        index += 1;
    }
    Some(u128::from_le_bytes(bytes))
}

const fn slot(packed: u128) -> usize {
    // The upper bits of a product depend on all bits of its factor (Fibonacci hashing).
    let folded = packed as u64 ^ (packed >> 64) as u64;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize
}
