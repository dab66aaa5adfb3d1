use std::collections::{BTreeMap, HashSet};

use super::*;

/// One that goes on at any store.
#[derive(Default)]
struct Scan {
    cursor: Cursor,
    has_ended: bool,
    met: HashSet<Key>,
}

impl Scan {
    fn step(&mut self, store: &Store, count: usize) {
        if self.has_ended {
            return;
        }
        let next = store.scan(self.cursor, count, 0, |entry| {
            self.met.insert(entry.shared_key());
        });
        self.has_ended = next.is_none();
        // As a client would hand it back, which may take every number for a float.
        let bits = next.unwrap_or_default().to_bits();
        assert!(bits < 1 << 53 && (bits == 0) == self.has_ended);
        self.cursor = Cursor::from_bits(bits as f64 as u64);
    }
}

fn keys_from(store: &Store, count: usize, mut between: impl FnMut(&Store)) -> Vec<(Option<Cursor>, Vec<Key>)> {
    let (mut cursor, mut steps) = (Cursor::default(), Vec::new());
    loop {
        let mut keys = Vec::new();
        let next = store.scan(cursor, count, 0, |entry| keys.push(entry.shared_key()));
        steps.push((next, keys));
        match next {
            Some(next) => cursor = Cursor::from_bits(next.to_bits()),
            None => return steps,
        }
        between(store);
    }
}

#[test]
fn a_scan_meets_every_key_once_and_keeps_to_its_count() {
    let all: Vec<Entry> = (0..5000).map(|n| entry(&n.to_string(), (n % 4 != 0).then_some("v"), n + 1, 1)).collect();
    let store = merged(&all);
    for count in [1, 7, 1000, 100_000] {
        let steps = keys_from(&store, count, |_| {});
        let met: Vec<&Key> = steps.iter().flat_map(|(_, keys)| keys).collect();
        let distinct: HashSet<&Key> = met.iter().copied().collect();
        assert_eq!((met.len(), distinct.len()), (3750, 3750));
        assert!(steps[..steps.len() - 1].iter().all(|(next, keys)| keys.len() == count && next.unwrap().to_bits() < 1 << 53));
    }
}

/// No cursor parts them, and none leads back to them.
#[test]
fn keys_in_one_place_are_met_in_one_step() {
    let store = Store::repeatable(OrderKey::random(), KeySpread::Crowded);
    for n in 0..100 {
        store.merge(entry(&n.to_string(), Some("v"), n + 1, 1), |_| false);
    }
    let steps = keys_from(&store, 1, |_| {});
    assert!(steps.len() <= 8, "{} steps through 8 places", steps.len());
    assert_eq!(steps.iter().map(|(_, keys)| keys.len()).sum::<usize>(), 100);
}

fn merge_all<'a>(store: &Store, entries: impl Iterator<Item = &'a Entry>) {
    for entry in entries {
        store.merge(entry.clone(), |_| false);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u16),
    Delete(u16),
    /// So many keys more.
    Grow(u16),
    /// All of them are gone, without a trace.
    Shrink,
    /// Takes a step of the scan, at one of the two.
    Step {
        at_second: bool,
        count: usize,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..200u16).prop_map(Op::Put),
        (0..200u16).prop_map(Op::Delete),
        (1..400u16).prop_map(Op::Grow),
        Just(Op::Shrink),
        (any::<bool>(), 1..60usize).prop_map(|(at_second, count)| Op::Step { at_second, count }),
        (any::<bool>(), 1..60usize).prop_map(|(at_second, count)| Op::Step { at_second, count }),
    ]
}

proptest! {
    /// In one shard, so that there are cells that are cut in two and joined.
    #[test]
    fn a_scan_at_two_stores_meets_every_key_that_stays(ops in prop::collection::vec(any_op(), 0..60), stays in prop::collection::hash_set(0..1000u16, 0..400), first in any::<u64>(), second in any::<u64>()) {
        let stores = [first, second].map(|order| Store::repeatable(OrderKey::from_halves([order, 0]), KeySpread::OneShard));
        let stays: Vec<Entry> = stays.iter().map(|n| entry(&format!("stays{n}"), Some("v"), 1, 1)).collect();
        merge_all(&stores[0], stays.iter());
        merge_all(&stores[1], stays.iter().rev());
        assert!(stores[1].reorder(stores[0].order()));
        let (mut scan, mut stamp, mut grown) = (Scan::default(), 1, Vec::new());
        for op in ops {
            let mut written = Vec::new();
            stamp += 1;
            match op {
                Op::Put(n) => written.push(entry(&format!("comes{n}"), Some("v"), stamp, 1)),
                Op::Delete(n) => written.push(entry(&format!("comes{n}"), None, stamp, 1)),
                Op::Grow(more) => {
                    written.extend((0..more).map(|n| entry(&format!("grown{stamp}/{n}"), Some("v"), stamp, 1)));
                    grown.extend(written.iter().cloned());
                }
                Op::Shrink => {
                    let gone: HashSet<Key> = grown.drain(..).map(|entry| entry.shared_key()).collect();
                    stores.iter().for_each(|store| drop(store.remove(0, |entry| gone.contains(entry.key()))));
                }
                Op::Step { at_second, count } => scan.step(&stores[usize::from(at_second)], count),
            }
            stores.iter().for_each(|store| merge_all(store, written.iter()));
        }
        for turn in 0.. {
            if scan.has_ended {
                break;
            }
            scan.step(&stores[turn % 2], 40);
        }
        prop_assert!(stays.iter().all(|entry| scan.met.contains(entry.key())));
        prop_assert_eq!(contents(&stores[0]), contents(&stores[1]));
    }

    /// The cells hold what was put there, whatever the positions are.
    #[test]
    fn cells_hold_what_was_put_there_in_order(ops in prop::collection::vec((0..40u32, 0..3u8, any::<bool>()), 0..200), spread in prop_oneof![Just(1u32), Just(1 << 27)], filler in 0..2000u32) {
        let (mut cells, mut set) = (cells::Cells::default(), HashSet::new());
        let ops = (0..filler).map(|n| (n % 40, (n / 40) as u8, true)).chain(ops);
        for (position, key, is_put) in ops {
            let (position, key) = (position.wrapping_mul(spread), [key]);
            let place = cells.locate(position, &key);
            prop_assert_eq!(cells.at(place).is_some(), set.contains(&(position, key)));
            match (cells.at(place).is_some(), is_put) {
                (false, true) => cells.insert(place, position, entry(std::str::from_utf8(&key).unwrap_or("?"), None, 1, 1)),
                (true, false) => drop(cells.remove(place)),
                _ => continue,
            }
            if is_put { assert!(set.insert((position, key))) } else { assert!(set.remove(&(position, key))) }
            prop_assert_eq!(cells.len(), set.len());
        }
        let found: Vec<(u32, Vec<u8>)> = cells.iter_from(0).map(|(position, entry)| (position, entry.key().to_vec())).collect();
        prop_assert!(found.is_sorted_by_key(|(position, _)| *position));
        prop_assert_eq!(found.len(), set.len());
        for (index, (position, key)) in found.iter().enumerate() {
            prop_assert!(set.contains(&(*position, [key[0]])));
            prop_assert_eq!(cells.nth(index).map(Entry::key), Some(&**key));
        }
        let from = found.iter().filter(|(position, _)| *position >= 20u32.wrapping_mul(spread)).count();
        prop_assert_eq!(cells.iter_from(20u32.wrapping_mul(spread)).count(), from);
    }
}

#[test]
fn a_scan_begins_anew_in_another_order_and_misses_nothing() {
    let all: Vec<Entry> = (0..2000).map(|n| entry(&n.to_string(), Some("v"), n + 1, 1)).collect();
    let store = merged(&all);
    let mut scan = Scan::default();
    scan.step(&store, 1500);
    let walk = store.walk();
    assert!(!store.reorder(OrderKey::random()), "a walk is held");
    drop(walk);
    assert!(store.reorder(OrderKey::random()));
    let before = contents(&store);
    while !scan.has_ended {
        scan.step(&store, 100);
    }
    assert_eq!(scan.met.len(), 2000);
    assert_eq!((before.len(), store.counts(0).keys), (2000, 2000));
    assert!(all.iter().all(|entry| store.entry(entry.key()).as_ref() == Some(entry)));
}

/// Reads, writes and steps of a scan go on meanwhile.
#[test]
fn nothing_is_missed_while_the_order_changes() {
    let store = merged(&(0..500).map(|n| entry(&n.to_string(), Some("v"), 1, 1)).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        let store = &store;
        let readers: Vec<_> = (0..2u64)
            .map(|reader| {
                scope.spawn(move || {
                    for n in 0..4000u64 {
                        let key = (n % 500).to_string();
                        assert!(store.entry(key.as_bytes()).is_some(), "{key}");
                        let (two, key) = ([key.as_bytes(), b"0"], entry(&key, Some("w"), 2 + n, 2 + reader as u16));
                        store.merge(key, |_| false);
                        assert!(store.look(Span::Keys(&two), |view| two.iter().all(|key| view.entry(key).is_some())));
                    }
                })
            })
            .collect();
        while readers.iter().any(|reader| !reader.is_finished()) {
            assert!(store.reorder(OrderKey::random()));
        }
    });
    assert_eq!(store.counts(0).keys, 500);
}

#[test]
fn any_number_is_a_cursor() {
    let store = merged(&(0..100).map(|n| entry(&n.to_string(), Some("v"), n + 1, 1)).collect::<Vec<_>>());
    for bits in [u64::MAX, 1, 255, 1 << 52, 0xdead_beef_dead] {
        let mut met = 0;
        store.scan(Cursor::from_bits(bits), 10, 0, |_| met += 1);
        assert!(met <= 10);
    }
}

/// So many draws of each key by lot, and how often each was drawn.
fn drawn(store: &Store, draws: u64, wall_ms: u64) -> BTreeMap<String, f64> {
    let mut times = BTreeMap::new();
    for random in 0..draws {
        let key = store.random_key(random.wrapping_mul(0x9e37_79b9_7f4a_7c15), wall_ms).expect("a key");
        *times.entry(String::from_utf8_lossy(&key).into_owned()).or_default() += 1.0;
    }
    times
}

/// Within seven standard deviations; the draws are the same in every run, only the order of the
/// keys is not.
#[track_caller]
fn assert_even(times: &BTreeMap<String, f64>, keys: usize) {
    assert_eq!(times.len(), keys, "{times:?}");
    let (draws, share) = (times.values().sum::<f64>(), 1.0 / keys as f64);
    let deviation = (draws * share * (1.0 - share)).sqrt();
    assert!(times.values().all(|times| (times - draws * share).abs() <= 7.0 * deviation), "{times:?}");
}

#[test]
fn every_key_is_as_likely_to_be_drawn() {
    for keys in [2, 10, 700] {
        let store = merged(&(0..keys).map(|n| entry(&n.to_string(), Some("v"), 1, 1)).collect::<Vec<_>>());
        assert_even(&drawn(&store, 300 * keys, 0), keys as usize);
    }
    let one = merged(&[entry("k", Some("v"), 1, 1)]);
    assert_even(&drawn(&one, 10, 0), 1);
    assert_eq!(Store::new().random_key(7, 0), None);
}

#[test]
fn live_keys_are_as_likely_among_many_dead_ones() {
    for dead in [40, 4000] {
        let mut all: Vec<Entry> = (0..5).map(|n| entry(&n.to_string(), Some("v"), 1, 1)).collect();
        for n in 0..dead {
            all.push(entry(&format!("gone{n}"), None, 1, 1));
            all.push(expiring(&format!("over{n}"), Some("v"), 1, 100));
        }
        let store = merged(&all);
        assert_even(&drawn(&store, 1000, 100), 5);
        assert!(drawn(&store, 1000, 99).len() > 5);
        for n in 0..5 {
            store.merge(entry(&n.to_string(), None, 2, 1), |_| false);
        }
        assert_eq!(store.random_key(7, 100), None);
    }
}
