use super::*;
use crate::data::clock::Stamp;
use crate::data::entry::{Expiry, Key};
use crate::data::version::{NodeId, Origin};
use proptest::prelude::*;
use rapidhash::v3::rapidhash_v3;

mod scans;

fn entry(key: &str, value: Option<&str>, stamp: u64, node: u16) -> Entry {
    let origin = Origin { node: NodeId(node), nonce: u64::from(node) };
    let version = Version { stamp: Stamp::from_bits(stamp), origin };
    Entry::new(key.as_bytes(), value.map(str::as_bytes), None, version)
}

fn expiring(key: &str, value: Option<&str>, stamp: u64, expires: u64) -> Entry {
    Entry::new(key.as_bytes(), value.map(str::as_bytes), Some(Expiry::from_wall_ms(expires)), entry(key, value, stamp, 1).version())
}

fn contents(store: &Store) -> Vec<Entry> {
    let mut all: Vec<Entry> = (0..store.shards_len()).flat_map(|shard| store.scan_shard(shard, |_| true)).collect();
    all.sort_by(|a, b| a.key().cmp(b.key()));
    all
}

/// Few keys, stamps and nodes, so that collisions are common; the value follows from the version,
/// as in the mesh.
fn any_entry() -> impl Strategy<Value = Entry> {
    (0..4u8, 0..8u64, 1..4u16).prop_map(|(key, stamp, node)| {
        let value = format!("{stamp}/{node}");
        entry(&format!("key{key}"), (stamp % 3 != 0).then_some(value.as_str()), stamp, node)
    })
}

fn merged(entries: &[Entry]) -> Store {
    let store = Store::new();
    for entry in entries {
        store.merge(entry.clone(), |_| false);
    }
    store
}

proptest! {
    #[test]
    fn merge_commutes_and_is_idempotent(entries in prop::collection::vec(any_entry(), 0..40), seed in any::<u64>()) {
        let store = merged(&entries);
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|entry| rapidhash_v3(format!("{seed}{entry:?}").as_bytes()));
        shuffled.extend(entries.iter().take(7).cloned());
        let other = merged(&shuffled);
        prop_assert_eq!(contents(&store), contents(&other));
        prop_assert_eq!(store.digest(0), other.digest(0));
        prop_assert_eq!(store.counts(0), other.counts(0));
        prop_assert_eq!(store.memory(), other.memory());
    }

    #[test]
    fn merge_associates(a in prop::collection::vec(any_entry(), 0..20), b in prop::collection::vec(any_entry(), 0..20), c in prop::collection::vec(any_entry(), 0..20)) {
        let left = merged(&[contents(&merged(&[a.clone(), b.clone()].concat())), c.clone()].concat());
        let right = merged(&[a, contents(&merged(&[b, c].concat()))].concat());
        prop_assert_eq!(contents(&left), contents(&right));
    }

    /// Overwritten or not: and what a reader holds stays what it was.
    #[test]
    fn writes_of_batches_are_merged_as_entries_are(entries in prop::collection::vec((any_entry(), prop::option::of(1..3u64), any::<bool>()), 0..60)) {
        let (store, by_reference) = (Store::new(), Store::new());
        let mut shown = Vec::new();
        for (entry, expires, is_read) in &entries {
            let expires = expires.filter(|_| !entry.is_tombstone()).map(Expiry::from_wall_ms);
            let write = EntryRef { key: entry.key(), value: entry.value(), expires, version: entry.version() };
            prop_assert_eq!(by_reference.merge_write(write, |_| false), store.merge(write.to_entry(), |_| false));
            prop_assert_eq!(by_reference.memory(), store.memory());
            if *is_read {
                shown.push((by_reference.entry(entry.key()).unwrap(), store.entry(entry.key()).unwrap()));
            }
        }
        prop_assert_eq!(contents(&by_reference), contents(&store));
        prop_assert!(shown.iter().all(|(shown, same)| shown == same));
        for now in 0..4 {
            prop_assert_eq!(by_reference.counts(now), store.counts(now));
        }
        let spend = |store: &Store| (0..store.shards_len()).map(|shard| store.expire_values(shard, 2)).sum::<usize>();
        prop_assert_eq!(spend(&by_reference), spend(&store));
        prop_assert_eq!(by_reference.memory(), store.memory());
    }

    #[test]
    fn the_counts_and_the_digest_are_those_of_a_plain_map(entries in prop::collection::vec(any_entry(), 0..60)) {
        let store = merged(&entries);
        let mut plain = std::collections::BTreeMap::new();
        for entry in entries {
            let newest = plain.entry(entry.shared_key()).or_insert(entry.clone());
            if entry.version() > newest.version() {
                *newest = entry;
            }
        }
        let mut digest = Digest::default();
        for entry in plain.values() {
            if let Some(value) = entry.value() {
                digest.add(entry.key(), value, None);
            }
        }
        prop_assert_eq!(store.digest(0), digest);
        prop_assert_eq!(store.counts(0).keys, digest.keys as usize);
        prop_assert_eq!(store.counts(0).tombstones, plain.len() - digest.keys as usize);
        prop_assert_eq!(contents(&store), plain.into_values().collect::<Vec<_>>());
    }
}

#[test]
fn merge_says_what_became_of_the_entry() {
    let store = Store::new();
    let (old, new) = (entry("k", Some("old"), 1, 1), entry("k", None, 2, 1));
    assert_eq!(store.merge(new.clone(), |_| true), Merged::Covered);
    assert_eq!(store.merge(old.clone(), |_| false), Merged::Won);
    assert_eq!(store.merge(new.clone(), |_| false), Merged::Won);
    assert_eq!(store.merge(new.clone(), |_| false), Merged::Same);
    assert_eq!(store.merge(old, |_| false), Merged::Lost { winner: new.version() });
    assert_eq!(store.get(b"k"), None);
}

#[test]
fn healing_adds_and_prefers_the_greater_bytes() {
    let store = merged(&[entry("k", Some("b"), 5, 1), entry("gone", None, 6, 1)]);
    assert!(!store.heal(entry("k", Some("a"), 5, 1)));
    assert!(store.heal(entry("k", Some("c"), 5, 1)));
    assert!(store.heal(entry("gone", Some("back"), 6, 1)));
    assert!(!store.heal(entry("gone", None, 6, 1)));
    assert_eq!(store.get(b"k").as_deref(), Some(&b"c"[..]));
}

#[test]
fn a_refused_write_changes_nothing_and_a_removed_entry_is_gone() {
    let store = merged(&[entry("k", Some("v"), 1, 1), entry("dead", None, 1, 1)]);
    assert_eq!(store.write(b"k", |current| Err::<Entry, _>(current.cloned())), Err(Some(entry("k", Some("v"), 1, 1))));
    for shard in 0..store.shards_len() {
        store.collect(shard, |_| true);
    }
    assert_eq!(store.counts(0), Counts { keys: 1, tombstones: 0 });
    for shard in 0..store.shards_len() {
        store.remove(shard, |_| true);
    }
    assert!(store.is_empty());
    assert_eq!(store.memory(), Memory::default());
}

#[test]
fn memory_is_told_apart_by_what_takes_it() {
    let store = merged(&[entry("k", Some("a long value"), 1, 1), entry("dead", None, 1, 1)]);
    let of = |values, tombstones| Memory { values, tombstones };
    let (live, dead, gone) = (footprint_of(13, false), footprint_of(4, false), footprint_of(1, false));
    assert_eq!(store.memory(), of(live, dead));
    store.merge(entry("k", None, 2, 1), |_| false);
    assert_eq!(store.memory(), of(0, dead + gone));
    assert_eq!(store.entry(b"k").unwrap().size(), 1);
    store.merge(entry("dead", Some(""), 2, 1), |_| false);
    assert_eq!(store.memory(), of(dead, gone));
    (0..store.shards_len()).for_each(|shard| drop(store.collect(shard, |_| true)));
    assert_eq!(store.memory(), of(dead, 0));
}

#[test]
fn the_digest_is_the_specified_one() {
    // Written down so that a change of the hash, which would make old and new nodes disagree, fails
    // here.
    let store = merged(&[entry("a", Some("1"), 1, 1), entry("b", Some(""), 2, 1)]);
    assert_eq!((store.digest(0).sum, store.digest(0).keys), (DIGEST_OF_A1_AND_B, 2));
}
const DIGEST_OF_A1_AND_B: u64 = 14_149_382_231_522_247_967;

#[test]
fn what_has_expired_is_not_counted_and_its_value_is_let_go_in_place() {
    let store = merged(&[entry("a", Some("1"), 1, 1), expiring("b", Some("22"), 2, 100), expiring("c", Some("3"), 3, 200)]);
    let full = store.memory();
    assert_eq!(store.counts(99), Counts { keys: 3, tombstones: 0 });
    assert_eq!(store.counts(100), Counts { keys: 2, tombstones: 0 });
    assert_eq!(store.counts(200).keys, 1);
    assert_eq!((store.expiring(99), store.expiring(100), store.expiring(200)), ((2, 51), (1, 100), (0, 0)));
    assert_eq!((store.digest(99).keys, store.digest(100).keys), (3, 2));
    let of_shards = |before: u64| (0..store.shards_len()).map(|shard| store.digest_shard(shard, before).keys).sum::<u64>();
    assert_eq!((of_shards(199), of_shards(u64::MAX)), (2, 1));
    let spend = |upto| (0..store.shards_len()).map(|shard| store.expire_values(shard, upto)).sum::<usize>();
    assert_eq!((spend(99), spend(150), spend(150)), (0, 1, 0));
    assert!(store.memory().total() < full.total() && store.memory().tombstones > 0);
    assert_eq!(store.counts(150), Counts { keys: 2, tombstones: 1 });
    assert_eq!(store.entry(b"b"), Some(expiring("b", None, 2, 100)));
    // The same version once more, with its value, changes nothing; and the next write is like any
    // other.
    assert_eq!(store.merge(expiring("b", Some("22"), 2, 100), |_| false), Merged::Same);
    store.merge(entry("b", Some("22"), 4, 1), |_| false);
    assert_eq!(store.counts(1000), Counts { keys: 2, tombstones: 0 });
    for shard in 0..store.shards_len() {
        store.remove(shard, |_| true);
    }
    assert_eq!((store.memory(), store.counts(0)), (Memory::default(), Counts::default()));
    assert_eq!(spend(u64::MAX), 0);
}

/// Positions are 32 bits of a hash: of many keys some share one.
#[test]
fn keys_at_one_position_expire_each_at_its_time() {
    let store = Store::repeatable(OrderKey::from_halves([1, 2]), KeySpread::Crowded);
    let version = |key: u64, step: u64| 1 + key + 100 * step;
    let ends = |key: u64, step: u64| 100 + (key + step) % 3;
    for step in 0..3 {
        for key in 0..40 {
            let entry = expiring(&key.to_string(), Some("v"), version(key, step), ends(key, step));
            let (key, value, expires, version) = (entry.key(), entry.value(), entry.expires(), entry.version());
            // The first is put there, the others take its memory.
            assert_eq!(store.merge_write(EntryRef { key, value, expires, version }, |_| false), Merged::Won);
        }
        for upto in 99..103 {
            let left = (0..40).filter(|key| ends(*key, step) > upto);
            let sum: u64 = left.clone().map(|key| ends(key, step) - upto).sum();
            assert_eq!(store.expiring(upto), (left.clone().count(), sum / left.count().max(1) as u64));
        }
    }
    let shards = || 0..store.shards_len();
    let removed: usize = shards().map(|shard| store.remove(shard, |entry| entry.key().ends_with(b"7")).len()).sum();
    assert_eq!(removed, 4);
    for upto in 99..103 {
        shards().for_each(|shard| _ = store.expire_values(shard, upto));
        let over = (0..40).filter(|key| key % 10 != 7 && ends(*key, 2) <= upto).count() as u64;
        assert_eq!(store.counts(0), Counts { keys: 36 - over as usize, tombstones: over as usize });
    }
    assert_eq!(store.memory().values, 0);
}

#[test]
fn the_counts_follow_every_change_of_an_expiry() {
    let store = Store::new();
    let mut stamp = 0;
    for value in [Some("v"), None] {
        for expires in [None, Some(10), Some(20)] {
            for (other_value, other_expires) in [(Some("w"), None), (Some("w"), Some(10)), (None, None), (Some("w"), Some(20))] {
                for (value, expires) in [(value, expires), (other_value, other_expires)] {
                    stamp += 1;
                    let expires = expires.filter(|_| value.is_some()).map(Expiry::from_wall_ms);
                    let version = entry("k", value, stamp, 1).version();
                    store.merge(Entry::new(b"k", value.map(str::as_bytes), expires, version), |_| false);
                    let live = |now| usize::from(value.is_some() && expires.is_none_or(|expires| !expires.is_over(now)));
                    for now in [0, 10, 20] {
                        assert_eq!(store.counts(now).keys, live(now));
                    }
                }
            }
        }
    }
    assert_eq!(store.memory().total(), footprint(&store.entry(b"k").unwrap()));
}

#[test]
fn a_transaction_sees_and_changes_all_its_keys_in_one_step() {
    let store = merged(&[entry("a", Some("1"), 1, 1), entry("b", Some("2"), 2, 1)]);
    std::thread::scope(|scope| {
        let store = &store;
        for writer in 1..3 {
            scope.spawn(move || {
                for step in 0..500 {
                    let keys: [&[u8]; 2] = if writer == 1 { [b"a", b"b"] } else { [b"b", b"a"] };
                    store
                        .transact(Span::Keys(&keys), |view| {
                            let stamp = keys.iter().map(|key| view.entry(key).unwrap().version().stamp.to_bits()).max().unwrap();
                            let value = format!("{writer}/{step}");
                            Ok::<_, ()>((["a", "b"].map(|key| entry(key, Some(&value), stamp + 1, 1)).to_vec(), ()))
                        })
                        .unwrap();
                }
            });
        }
        scope.spawn(move || {
            for _ in 0..500 {
                store.look(Span::All, |view| {
                    let value = |key: &[u8]| view.entry(key).unwrap().shared_value().unwrap();
                    assert!(view.counts(0).keys == 2 && (*value(b"a") == *value(b"b") || *value(b"a") == *b"1"));
                });
            }
        });
    });
    assert_eq!(store.entry(b"a").unwrap().version().stamp.to_bits(), 1002);
}

#[test]
fn healing_leaves_what_has_only_let_its_value_go() {
    let store = merged(&[expiring("k", Some("v"), 1, 100)]);
    for shard in 0..store.shards_len() {
        store.expire_values(shard, 100);
    }
    assert!(!store.heal(expiring("k", Some("v"), 1, 100)));
    assert!(store.heal(expiring("k", Some("v"), 1, 200)));
}
