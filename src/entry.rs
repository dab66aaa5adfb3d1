//! What the mesh agrees on: keys, values, versions, and the vector that says which writes a node has.
//!
//! Pure data with a total order. Never touches time, sockets or the map that entries live in.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, de};

use crate::clock::Stamp;

/// Any bytes, the empty key included. Shared, so that the map, the channel and a dump hold one copy.
pub type Key = Arc<[u8]>;
/// Any bytes, the empty value included.
pub type Value = Arc<[u8]>;

/// A member of the mesh, as its configuration numbers it. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who wrote: one life of one node. The nonce is minted at every start, so a node that was wiped, restored or copied can never issue a
/// version twice. Written `2-9f86d081884c7d65`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub node: NodeId,
    pub nonce: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.node, self.nonce)
    }
}

impl FromStr for Origin {
    type Err = String;
    fn from_str(text: &str) -> Result<Origin, String> {
        let malformed = || format!("\"{text}\" is not an origin; expected one like \"2-9f86d081884c7d65\"");
        let (node, nonce) = text.split_once('-').ok_or_else(malformed)?;
        let node = node.parse().map_err(|_| malformed())?;
        let nonce = u64::from_str_radix(nonce, 16).map_err(|_| malformed())?;
        Ok(Origin { node: NodeId(node), nonce })
    }
}

/// Names one write for ever. Ordered by stamp, then by origin: of two versions of a key the greater one wins, on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub stamp: Stamp,
    pub origin: Origin,
}

/// When an entry expires: milliseconds since 1970, by the wall clock of whoever looks. Part of the write, so that every node agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry(NonZeroU64);

impl Expiry {
    /// The first millisecond of 1970 is the earliest.
    pub fn from_wall_ms(wall_ms: u64) -> Expiry {
        Expiry(NonZeroU64::new(wall_ms).unwrap_or(NonZeroU64::MIN))
    }

    pub const fn wall_ms(self) -> u64 {
        self.0.get()
    }

    /// Whether it is over at this time.
    pub const fn is_over(self, wall_ms: u64) -> bool {
        self.wall_ms() <= wall_ms
    }
}

/// What a write leaves under its key (**I3**): a value that may expire, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    pub value: Option<Value>,
    /// Invariant: `None` where there is no value.
    pub expires: Option<Expiry>,
}

impl Effect {
    pub const DELETE: Effect = Effect { value: None, expires: None };

    pub fn put(value: Value, expires: Option<Expiry>) -> Effect {
        Effect { value: Some(value), expires }
    }

    /// Bytes of the value.
    pub fn size(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }

    pub fn is_delete(&self) -> bool {
        self.value.is_none()
    }
}

/// One register: a key and the newest thing known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// `None` is a tombstone: the key was deleted at this version, or has expired and its value was let go.
    pub value: Option<Value>,
    /// From then on it is like a tombstone to everybody who reads, and later becomes one in place, under the same version: that is no write, so it can beat none.
    pub expires: Option<Expiry>,
    pub version: Version,
}

impl Entry {
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Whether there is something for readers at this time, which is asked for only where it matters.
    pub fn is_live(&self, wall_ms: impl FnOnce() -> u64) -> bool {
        self.value.is_some() && self.expires.is_none_or(|expires| !expires.is_over(wall_ms()))
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

/// How far a node has come with every origin.
///
/// **I1**: `seen[o] = s` at a node means that it holds, or has held and superseded, every write of `o` with a stamp up to `s`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenVector(BTreeMap<Origin, Stamp>);

impl SeenVector {
    /// The position of one origin; [`Stamp::ZERO`] if it was never heard of.
    pub fn get(&self, origin: Origin) -> Stamp {
        self.0.get(&origin).copied().unwrap_or(Stamp::ZERO)
    }

    /// Moves one origin forward; never back.
    pub fn advance(&mut self, origin: Origin, stamp: Stamp) {
        if stamp > self.get(origin) {
            self.0.insert(origin, stamp);
        }
    }

    /// The pointwise maximum.
    pub fn join(&mut self, other: &SeenVector) {
        for (origin, stamp) in other.iter() {
            self.advance(origin, stamp);
        }
    }

    /// Whether the write with this version is among those seen.
    pub fn covers(&self, version: Version) -> bool {
        version.stamp <= self.get(version.origin)
    }

    /// Whether this is at least `other` in every origin.
    pub fn covers_all(&self, other: &SeenVector) -> bool {
        other.iter().all(|(origin, stamp)| stamp <= self.get(origin))
    }

    /// The greatest stamp in it.
    pub fn greatest(&self) -> Stamp {
        self.0.values().copied().max().unwrap_or(Stamp::ZERO)
    }

    /// What in `self` is ahead of `older`.
    pub fn ahead_of(&self, older: &SeenVector) -> SeenVector {
        SeenVector(self.0.iter().filter(|(origin, stamp)| **stamp > older.get(**origin)).map(|(o, s)| (*o, *s)).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (Origin, Stamp)> + '_ {
        self.0.iter().map(|(origin, stamp)| (*origin, *stamp))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// JSON carries stamps and origins as strings: its numbers lose bits above 2^53.
macro_rules! serde_as_string {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!("a string that holds one ", stringify!($name)))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}
serde_as_string!(Stamp, Origin);

impl Serialize for SeenVector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for SeenVector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SeenVector, D::Error> {
        BTreeMap::deserialize(deserializer).map(SeenVector)
    }
}

impl FromIterator<(Origin, Stamp)> for SeenVector {
    fn from_iter<I: IntoIterator<Item = (Origin, Stamp)>>(pairs: I) -> SeenVector {
        let mut vector = SeenVector::default();
        for (origin, stamp) in pairs {
            vector.advance(origin, stamp);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: u16, nonce: u64) -> Origin {
        Origin { node: NodeId(node), nonce }
    }

    #[test]
    fn the_stamp_decides_and_the_origin_breaks_ties() {
        let version = |stamp, node| Version { stamp: Stamp::from_bits(stamp), origin: origin(node, 1) };
        assert!(version(2, 1) > version(1, 9));
        assert!(version(2, 2) > version(2, 1));
    }

    #[test]
    fn a_vector_covers_up_to_its_stamp_and_nothing_of_a_stranger() {
        let vector: SeenVector = [(origin(1, 7), Stamp::from_bits(10))].into_iter().collect();
        let version = |nonce, stamp| Version { stamp: Stamp::from_bits(stamp), origin: origin(1, nonce) };
        assert!(vector.covers(version(7, 10)));
        assert!(!vector.covers(version(7, 11)));
        assert!(!vector.covers(version(8, 1)));
    }

    #[test]
    fn vectors_survive_json_with_all_64_bits() {
        let vector: SeenVector = [(origin(3, u64::MAX), Stamp::from_bits((1 << 53) + 1))].into_iter().collect();
        let json = serde_json::to_string(&vector).unwrap();
        assert_eq!(json, r#"{"3-ffffffffffffffff":"9007199254740993"}"#);
        assert_eq!(serde_json::from_str::<SeenVector>(&json).unwrap(), vector);
        assert!(serde_json::from_str::<SeenVector>(r#"{"3":"1"}"#).is_err());
    }
}
