//! I1, from outside: a version vector claims no write that its node cannot show, or show to be
//! superseded.
//!
//! The *universe* is every version that was ever seen anywhere: in every dump, and in the logs of
//! all incarnations of all nodes, which are read while they grow. A version that a vector covers
//! must be in that node's dump, under this or a greater version. It may be absent if some known
//! version that is no older deleted the key or has expired: tombstones are collected.

use std::collections::HashMap;

use kvmesh::data::entry::{Entry, Expiry, Key};
use kvmesh::data::version::Version;

use crate::checks::NodeDump;

/// With more versions of one key than this, the superseded ones are forgotten, so that a long run
/// fits into memory.
const VERSIONS_KEPT: usize = 32;

#[derive(Clone, Copy)]
struct Known {
    version: Version,
    /// Time at which it leaves nothing to read: 0 for a tombstone, never for a plain value.
    ends_ms: u64,
}

/// The result of a comparison.
pub struct Compared {
    /// Number of known versions that the vector claims.
    pub claimed: usize,
    /// Claims that the dump does not show. They are only suspects where a log lags behind the
    /// memory of its node, until a slow disk has synced: the write that superseded one may not be
    /// known yet.
    pub faults: Vec<String>,
}

/// Every known version of every key.
#[derive(Default)]
pub struct Universe {
    /// In rising order of version, each once.
    versions: HashMap<Key, Vec<Known>>,
    len: usize,
}

impl Universe {
    pub fn add(&mut self, entry: &Entry) {
        let ends_ms = if entry.is_tombstone() { 0 } else { entry.expires().map_or(u64::MAX, Expiry::wall_ms) };
        let known = Known { version: entry.version(), ends_ms };
        let versions = self.versions.entry(Key::from(entry.key())).or_default();
        match versions.binary_search_by_key(&entry.version(), |known| known.version) {
            // An expired value becomes a tombstone under the same version.
            Ok(index) => versions[index].ends_ms = versions[index].ends_ms.min(ends_ms),
            Err(index) => {
                versions.insert(index, known);
                self.len += 1;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets, of keys with many versions, those that are older than one that every node has seen.
    /// Only a vector that goes back could still claim one of them alone. `dumps` are those of all
    /// nodes.
    pub fn forget_superseded(&mut self, dumps: &[NodeDump]) {
        for versions in self.versions.values_mut().filter(|versions| versions.len() > VERSIONS_KEPT) {
            let is_everywhere = |known: &Known| dumps.iter().all(|dump| dump.vector.covers(known.version));
            if let Some(newest) = versions.iter().rposition(is_everywhere) {
                versions.drain(..newest);
                versions.shrink_to_fit();
            }
        }
    }

    /// Compares one dump with every known version.
    pub fn compare(&self, dump: &NodeDump, wall_ms: u64) -> Compared {
        let (mut claimed, mut faults) = (0, Vec::new());
        for (key, versions) in &self.versions {
            claimed += versions.iter().filter(|known| dump.vector.covers(known.version)).count();
            let Some(newest) = versions.iter().rev().find(|known| dump.vector.covers(known.version)) else { continue };
            match dump.entries.get(key) {
                Some(entry) if entry.version() >= newest.version => {}
                Some(entry) => faults.push(format!(
                    "n{} claims to have seen {:?} of {}, and holds the older {:?}",
                    dump.node,
                    newest.version,
                    String::from_utf8_lossy(key),
                    entry.version()
                )),
                None => {
                    let is_gone = versions.iter().any(|known| known.version >= newest.version && known.ends_ms <= wall_ms);
                    if !is_gone {
                        let (version, key) = (newest.version, String::from_utf8_lossy(key));
                        faults.push(format!("n{} claims to have seen {version:?} of {key}, and holds nothing", dump.node));
                    }
                }
            }
        }
        Compared { claimed, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvmesh::data::clock::Stamp;
    use kvmesh::data::version::{NodeId, Origin};

    fn entry(stamp: u64, value: Option<&str>) -> Entry {
        let version = Version { stamp: Stamp::from_bits(stamp), origin: Origin { node: NodeId(1), nonce: 7 } };
        Entry::new(b"k", value.map(str::as_bytes), None, version)
    }

    fn faults(known: &[Entry], seen: u64, held: Option<Entry>) -> usize {
        let mut universe = Universe::default();
        known.iter().chain(known).for_each(|entry| universe.add(entry));
        assert_eq!(universe.len(), known.len());
        let vector = [(entry(seen, None).version().origin, Stamp::from_bits(seen))].into_iter().collect();
        let dump = NodeDump { node: 1, vector, entries: held.into_iter().map(|entry| (entry.shared_key(), entry)).collect() };
        universe.compare(&dump, 1_000).faults.len()
    }

    #[test]
    fn a_claim_needs_the_write_or_what_superseded_it() {
        let known = [entry(5, Some("a")), entry(9, Some("b"))];
        assert_eq!(faults(&known, 9, Some(entry(9, Some("b")))), 0);
        assert_eq!(faults(&known, 5, Some(entry(9, Some("b")))), 0);
        assert_eq!(faults(&known, 4, None), 0);
        assert_eq!(faults(&known, 9, Some(entry(5, Some("a")))), 1);
        assert_eq!(faults(&known, 9, None), 1);
    }

    #[test]
    fn what_is_not_there_must_have_been_deleted_or_have_expired() {
        assert_eq!(faults(&[entry(5, Some("a")), entry(9, None)], 9, None), 0);
        assert_eq!(faults(&[entry(5, None), entry(9, Some("a"))], 9, None), 1);
        let expired = Entry::new(b"k", Some(b"a"), Some(Expiry::from_wall_ms(900)), entry(9, None).version());
        assert_eq!(faults(&[expired], 9, None), 0);
        let lasting = Entry::new(b"k", Some(b"a"), Some(Expiry::from_wall_ms(1_100)), entry(9, None).version());
        assert_eq!(faults(&[lasting], 9, None), 1);
    }

    #[test]
    fn what_every_node_has_seen_superseded_is_forgotten_and_nothing_else() {
        let mut universe = Universe::default();
        (1..=100).for_each(|stamp| universe.add(&entry(stamp, Some("a"))));
        let seen = |stamp: u64| {
            let vector = [(entry(stamp, None).version().origin, Stamp::from_bits(stamp))].into_iter().collect();
            NodeDump { node: 1, vector, entries: HashMap::new() }
        };
        universe.forget_superseded(&[seen(90), seen(80)]);
        assert_eq!(universe.versions.values().next().unwrap().first().unwrap().version, entry(80, None).version());
        let compared = universe.compare(&seen(90), 0);
        assert_eq!((compared.claimed, compared.faults.len()), (11, 1));
    }
}
