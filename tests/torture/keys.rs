//! Keys of the clients, and values that prove which client wrote them.
//!
//! A value names its key and its number, and is padded to a length that follows from the number. So
//! a value that was cut, mixed up or invented is not taken for one that was written.

use std::fmt;
use std::str::FromStr;

/// The purpose of a key. Each group has its own writers and its own promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Written by several clients through one node only.
    Register,
    /// One writer that moves from node to node, at `majority`.
    Ledger,
    /// One writer at one node, at `local`.
    Local,
    /// Written through all nodes at the same time.
    Contended,
    /// Counted through one node only, at `majority`.
    Counter,
    /// Counted through all nodes at the same time, or by a client that has seen a count elsewhere.
    Sum,
    /// Appended to through all nodes at the same time, or by a client that has read it elsewhere.
    Tokens,
    /// Written at one node, and by a client that has seen that at another node.
    Handover,
    /// Two keys, this one and its sibling, written together at one node, and one of them alone at
    /// another.
    Pair,
    /// Written once, deleted once, and never written again.
    Gone,
    /// Written once, with an expiry.
    Expiring,
    /// Pushes a clock ahead; no client writes it.
    Ahead,
    /// Written by a past incarnation; no client writes it.
    Past,
}

impl Group {
    const ALL: [(Group, &'static str); 13] = [
        (Group::Register, "register"),
        (Group::Ledger, "ledger"),
        (Group::Local, "local"),
        (Group::Contended, "contended"),
        (Group::Counter, "counter"),
        (Group::Sum, "sum"),
        (Group::Tokens, "tokens"),
        (Group::Handover, "handover"),
        (Group::Pair, "pair"),
        (Group::Gone, "gone"),
        (Group::Expiring, "expiring"),
        (Group::Ahead, "ahead"),
        (Group::Past, "past"),
    ];

    /// Returns whether the values of this group are counts.
    pub fn is_counted(self) -> bool {
        matches!(self, Group::Counter | Group::Sum)
    }

    fn name(self) -> &'static str {
        Group::ALL.iter().find(|(group, _)| *group == self).map_or("", |(_, name)| name)
    }
}

/// Owner of keys that one client writes first, and then another client that has seen them.
pub const TAKEN_OVER: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub group: Group,
    /// The node or the writer that it belongs to.
    pub owner: u16,
    pub number: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group.name(), self.owner, self.number)
    }
}

impl FromStr for Key {
    type Err = ();
    fn from_str(text: &str) -> Result<Key, ()> {
        let mut parts = text.split('/');
        let name = parts.next().ok_or(())?;
        let (group, _) = Group::ALL.into_iter().find(|(_, group)| *group == name).ok_or(())?;
        let owner = parts.next().and_then(|owner| owner.parse().ok()).ok_or(())?;
        let number = parts.next().and_then(|number| number.parse().ok()).ok_or(())?;
        if parts.next().is_some() { Err(()) } else { Ok(Key { group, owner, number }) }
    }
}

impl Key {
    /// The value with this number.
    pub fn value(self, number: u64) -> String {
        if self.group.is_counted() {
            return number.to_string();
        }
        let padding = match number {
            number if number.is_multiple_of(61) => 3_000,
            number if number.is_multiple_of(7) => 300,
            number => number as usize % 32,
        };
        format!("{number} {self}:{}", ".".repeat(padding))
    }

    /// The other key of a pair.
    pub fn sibling(self) -> Key {
        Key { number: self.number ^ 1, ..self }
    }

    /// The token that is appended under this number.
    pub fn token(self, number: u64) -> String {
        format!("<{number}>")
    }

    /// The numbers of the tokens that a value is made of; `None` for any other bytes.
    pub fn tokens_in(self, value: &[u8]) -> Option<Box<[u64]>> {
        let inner = std::str::from_utf8(value).ok()?.strip_prefix('<')?.strip_suffix('>')?;
        let numbers: Box<[u64]> = inner.split("><").map(str::parse).collect::<Result<_, _>>().ok()?;
        let is_same = numbers.iter().map(|number| self.token(*number)).collect::<String>().as_bytes() == value;
        is_same.then_some(numbers)
    }

    /// The number of a value that a client may have written under this key; `None` for any other
    /// bytes.
    pub fn number_in(self, value: &[u8]) -> Option<u64> {
        let digits = value.split(|byte| *byte == b' ').next()?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (self.value(number).as_bytes() == value).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_key_and_number_and_nothing_else_is_taken_for_one() {
        for (group, _) in Group::ALL {
            let key = Key { group, owner: 2, number: 9 };
            assert_eq!(key.to_string().parse(), Ok(key));
            for number in [0, 7, 61, 1 << 40] {
                let value = key.value(number);
                assert_eq!(key.number_in(value.as_bytes()), Some(number));
                assert_eq!(key.number_in(&value.as_bytes()[..value.len() - 1]).filter(|_| !group.is_counted()), None);
                let other = Key { number: 8, ..key };
                assert_eq!(other.number_in(value.as_bytes()).filter(|_| !group.is_counted()), None);
            }
        }
        let tokens = Key { group: Group::Tokens, owner: 0, number: 3 };
        assert_eq!(tokens.tokens_in(b"<7><12>").as_deref(), Some(&[7, 12][..]));
        for wrong in [&b""[..], b"<7", b"<7>1", b"<07>", b"<7><", b"<>", b"<7>><8>", b"<+7>", b"<\xff>"] {
            assert_eq!(tokens.tokens_in(wrong), None, "{wrong:?}");
        }
        assert!("ledger/1".parse::<Key>().is_err() && "ledger/1/2/3".parse::<Key>().is_err() && "other/1/2".parse::<Key>().is_err());
    }
}
