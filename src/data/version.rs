//! Node ids, origins, versions, and the version vector: how writes are named, and how much of them
//! a node has.
//!
//! Pure values with a total order. Never touches time, sockets, or the entries that versions name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};

use crate::data::clock::Stamp;

/// A member of the mesh, as its configuration numbers it. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One incarnation of one node, as a writer.
///
/// The nonce is minted at every start. So a node that was wiped, restored or copied can never issue
/// a version twice. Written `2-9f86d081884c7d65`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub node: NodeId,
    pub nonce: u64,
}

impl Origin {
    /// Makes the origin that stands in a vector for every incarnation of a node. No incarnation has
    /// this nonce. Written `2-0000000000000000`.
    pub const fn all_incarnations(node: NodeId) -> Origin {
        Origin { node, nonce: 0 }
    }

    /// Returns whether it stands for every incarnation of its node, and is none itself.
    pub const fn is_all_incarnations(self) -> bool {
        self.nonce == 0
    }
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

/// The name of one write, for ever. Ordered by stamp, then by origin: of two versions of a key the
/// greater one wins, on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub stamp: Stamp,
    pub origin: Origin,
}

impl Version {
    /// The version of an entry that has none yet.
    pub(super) const NONE: Version = Version { stamp: Stamp::ZERO, origin: Origin { node: NodeId(0), nonce: 0 } };
}

/// A version vector: of each origin the stamp up to which a node has its writes.
///
/// **I1**: `vector[o] = s` at a node means that it holds, or has held and superseded, every write
/// of `o` with a stamp up to `s`. An entry for [`Origin::all_incarnations`] of a node claims the
/// same of each of its incarnations: so past incarnations are folded into one entry
/// (`replication::folding`).
///
/// Invariant: an incarnation has an entry of its own only where that claims more than the entry for
/// all incarnations of its node. So equal knowledge is an equal vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector(BTreeMap<Origin, Stamp>);

impl VersionVector {
    /// Returns how far one origin has come; [`Stamp::ZERO`] if neither it nor its node was ever
    /// heard of.
    pub fn get(&self, origin: Origin) -> Stamp {
        let entry = |origin: Origin| self.0.get(&origin).copied().unwrap_or(Stamp::ZERO);
        entry(origin).max(entry(Origin::all_incarnations(origin.node)))
    }

    /// Moves one origin forward; never back.
    pub fn advance(&mut self, origin: Origin, stamp: Stamp) {
        if stamp <= self.get(origin) {
            return;
        }
        if origin.is_all_incarnations() {
            let included: Vec<Origin> =
                self.incarnations(origin.node).filter(|(_, upto)| *upto <= stamp).map(|(incarnation, _)| incarnation).collect();
            for incarnation in included {
                self.0.remove(&incarnation);
            }
        }
        self.0.insert(origin, stamp);
    }

    /// Returns the incarnations of one node that have entries of their own, and how far each has
    /// come.
    pub fn incarnations(&self, node: NodeId) -> impl Iterator<Item = (Origin, Stamp)> + '_ {
        let (first, last) = (Origin { node, nonce: 1 }, Origin { node, nonce: u64::MAX });
        self.0.range(first..=last).map(|(origin, stamp)| (*origin, *stamp))
    }

    /// Returns whether this origin has an entry of its own.
    pub fn names(&self, origin: Origin) -> bool {
        self.0.contains_key(&origin)
    }

    /// Returns the entries for all incarnations of a node.
    pub fn folded(&self) -> impl Iterator<Item = (Origin, Stamp)> + '_ {
        self.iter().filter(|(origin, _)| origin.is_all_incarnations())
    }

    /// Returns the vector without the entry of one origin.
    pub fn without(mut self, origin: Origin) -> VersionVector {
        self.0.remove(&origin);
        self
    }

    /// Joins another vector: of each origin the greater stamp is kept.
    pub fn join(&mut self, other: &VersionVector) {
        for (origin, stamp) in other.iter() {
            self.advance(origin, stamp);
        }
    }

    /// Returns whether the write with this version is included.
    pub fn covers(&self, version: Version) -> bool {
        version.stamp <= self.get(version.origin)
    }

    /// Returns whether this is at least `other` in every origin.
    pub fn covers_all(&self, other: &VersionVector) -> bool {
        other.iter().all(|(origin, stamp)| stamp <= self.get(origin))
    }

    /// Returns the greatest stamp of any entry.
    pub fn greatest(&self) -> Stamp {
        self.0.values().copied().max().unwrap_or(Stamp::ZERO)
    }

    /// Returns the entries that claim more than `older` does.
    pub fn ahead_of(&self, older: &VersionVector) -> VersionVector {
        VersionVector(self.0.iter().filter(|(origin, stamp)| **stamp > older.get(**origin)).map(|(o, s)| (*o, *s)).collect())
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

/// Serializes as a string, as JSON carries stamps and origins: its numbers lose bits above 2^53.
macro_rules! serde_as_string {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct StringVisitor;
                impl de::Visitor<'_> for StringVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!("a string that holds one ", stringify!($name)))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(StringVisitor)
            }
        }
    )*};
}
serde_as_string!(Stamp, Origin);

impl Serialize for VersionVector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for VersionVector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<VersionVector, D::Error> {
        BTreeMap::<Origin, Stamp>::deserialize(deserializer).map(VersionVector::from_iter)
    }
}

impl FromIterator<(Origin, Stamp)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Origin, Stamp)>>(pairs: I) -> VersionVector {
        let mut vector = VersionVector::default();
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
    fn a_vector_covers_up_to_its_stamp_and_nothing_of_an_unknown_origin() {
        let vector: VersionVector = [(origin(1, 7), Stamp::from_bits(10))].into_iter().collect();
        let version = |nonce, stamp| Version { stamp: Stamp::from_bits(stamp), origin: origin(1, nonce) };
        assert!(vector.covers(version(7, 10)));
        assert!(!vector.covers(version(7, 11)));
        assert!(!vector.covers(version(8, 1)));
    }

    /// The order of the entries does not matter.
    #[test]
    fn an_entry_for_all_incarnations_counts_for_each_of_them() {
        let entries =
            [(origin(1, 7), 10), (Origin::all_incarnations(NodeId(1)), 20), (origin(1, 8), 30), (origin(1, 9), 20), (origin(2, 7), 10)];
        let vector = |from: usize| -> VersionVector {
            let rotated = entries.iter().cycle().skip(from).take(entries.len());
            rotated.map(|(origin, stamp)| (*origin, Stamp::from_bits(*stamp))).collect()
        };
        let stamp = Stamp::from_bits;
        for from in 0..entries.len() {
            let vector = vector(from);
            assert_eq!(vector, folded(&[(1, 0, 20), (1, 8, 30), (2, 7, 10)]));
            assert_eq!(vector.incarnations(NodeId(1)).collect::<Vec<_>>(), [(origin(1, 8), stamp(30))]);
            assert!(vector.covers(Version { stamp: stamp(20), origin: origin(1, 77) }));
            assert!(!vector.covers(Version { stamp: stamp(21), origin: origin(1, 77) }));
            assert!(!vector.covers(Version { stamp: stamp(11), origin: origin(2, 7) }));
            let listed = folded(&[(1, 7, 10), (1, 8, 30), (1, 9, 20), (2, 7, 10)]);
            assert!(vector.covers_all(&listed) && !listed.covers_all(&vector));
            assert_eq!((vector.ahead_of(&listed), listed.ahead_of(&vector)), (folded(&[(1, 0, 20)]), VersionVector::default()));
        }
        let json = r#"{"1-0000000000000000":"20","1-0000000000000007":"20"}"#;
        assert_eq!(serde_json::from_str::<VersionVector>(json).unwrap(), folded(&[(1, 0, 20)]));
    }

    fn folded(entries: &[(u16, u64, u64)]) -> VersionVector {
        VersionVector(entries.iter().map(|(node, nonce, stamp)| (origin(*node, *nonce), Stamp::from_bits(*stamp))).collect())
    }

    #[test]
    fn vectors_survive_json_with_all_64_bits() {
        let vector: VersionVector = [(origin(3, u64::MAX), Stamp::from_bits((1 << 53) + 1))].into_iter().collect();
        let json = serde_json::to_string(&vector).unwrap();
        assert_eq!(json, r#"{"3-ffffffffffffffff":"9007199254740993"}"#);
        assert_eq!(serde_json::from_str::<VersionVector>(&json).unwrap(), vector);
        assert!(serde_json::from_str::<VersionVector>(r#"{"3":"1"}"#).is_err());
    }
}
