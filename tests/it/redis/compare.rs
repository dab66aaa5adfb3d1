//! When two replies are equal, and which differences are meant.

use super::wire::{Answer, Reply};

/// How the replies to a command are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compare {
    /// Byte for byte.
    Exact,
    /// Arrays without an order.
    Unordered,
    /// Numbers from two clocks: at most this far apart, and byte for byte if one of them is
    /// negative.
    Near(i64),
    /// A null, or a bulk string: any key.
    AnyKey,
    /// A step of SCAN: a cursor and some keys, or an error byte for byte.
    ScanStep,
    /// The array of EXEC, whose elements are compared as their commands are.
    Queued,
}

pub fn equal(compare: Compare, redis: &Answer, tested: &Answer) -> bool {
    if redis.raw == tested.raw {
        return true;
    }
    match compare {
        Compare::Exact | Compare::Queued => false,
        Compare::Unordered => same_kind(redis, tested) && sorted(redis).is_some() && sorted(redis) == sorted(tested),
        Compare::Near(tolerance) => match (redis.int(), tested.int()) {
            (Some(a), Some(b)) => a >= 0 && b >= 0 && a.abs_diff(b) <= tolerance.unsigned_abs(),
            _ => false,
        },
        Compare::AnyKey => same_kind(redis, tested) && matches!(redis.reply, Reply::Bulk(_)),
        Compare::ScanStep => is_scan_step(redis) && is_scan_step(tested),
    }
}

/// Returns whether both are arrays, sets, bulk strings…, by their first byte.
fn same_kind(a: &Answer, b: &Answer) -> bool {
    a.raw[0] == b.raw[0]
}

fn sorted(answer: &Answer) -> Option<Vec<Vec<u8>>> {
    let mut raw: Vec<Vec<u8>> = answer.elements()?.into_iter().map(|element| element.raw).collect();
    raw.sort();
    Some(raw)
}

fn is_scan_step(answer: &Answer) -> bool {
    let Reply::Array(parts) = &answer.reply else { return false };
    let [cursor, keys] = &parts[..] else { return false };
    let keys_are = |keys: &[Answer]| keys.iter().all(|key| matches!(key.reply, Reply::Bulk(_)));
    let Reply::Bulk(digits) = &cursor.reply else { return false };
    std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u64>().is_ok())
        && matches!(&keys.reply, Reply::Array(keys) if keys_are(keys))
}

/// Returns whether this difference is meant: the tables "What differs" of docs/redis.md have a row
/// for each of these lines.
///
/// A difference that leaves other data behind than Redis has cannot be listed here alone: every
/// later reply would differ, too. The random commands leave such commands out.
pub fn is_listed_difference(command: &[Vec<u8>], redis: &Answer, kvmesh: &Answer) -> bool {
    let Some(name) = command.first() else { return false };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if name == "exec"
        && let (Some(redis), Some(kvmesh)) = (redis.elements(), kvmesh.elements())
    {
        let mut pairs = redis.iter().zip(&kvmesh);
        return redis.len() == kvmesh.len() && pairs.all(|(redis, kvmesh)| redis.raw == kvmesh.raw || is_shown_as_text(redis, kvmesh));
    }
    let Reply::Error(sentence) = &kvmesh.reply else { return false };
    match name.as_str() {
        // Sentences are text: bytes in them that are not UTF-8 are shown as U+FFFD.
        _ if is_shown_as_text(redis, kvmesh) => true,
        // Keys and values have limits of their own.
        _ if !redis.is_error() && (sentence.starts_with("ERR the key has ") || sentence.starts_with("ERR the value has ")) => true,
        // A command that the mesh cannot keep is refused in a sentence that names it, where Redis
        // would have done it or found fault with its words.
        name if super::refused::NAMES.contains(&name) => super::refused::is_refusal(name, sentence),
        _ => false,
    }
}

fn is_shown_as_text(redis: &Answer, kvmesh: &Answer) -> bool {
    redis.is_error() && kvmesh.is_error() && String::from_utf8_lossy(&redis.raw).as_bytes() == kvmesh.raw
}
