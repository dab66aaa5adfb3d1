//! Restores into a mesh in one thread: what reaches the others, what stays deleted, what is
//! refused, and what a restore claims that was broken off.

use std::time::Duration;

use crate::data::clock::Stamp;
use crate::data::entry::{Entry, Expiry};
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::regressions::{ALL, Net};
use crate::replication::replica::Replica;
use crate::replication::status;
use crate::replication::sync::restore::{self, NotRestored, Restored};
use crate::replication::sync::serving;
use crate::store::Keyspace;
use crate::wire::dump::{self, DumpKind, DumpReader, Header, Line, whole_dump};
use crate::wire::peer::Message;

const NODES: usize = 3;

fn net() -> Net {
    let mut net = Net::new(&[0; NODES]);
    net.connect_all();
    net
}

/// Another cluster, whose incarnations have nothing to do with those of the first.
fn other_net() -> Net {
    let mut net = Net::new(&[0; NODES]);
    net.nonce = 1_000;
    (0..NODES).for_each(|node| reborn_open(&mut net, node));
    net.connect_all();
    net
}

/// A node that starts blank and opens without a word of any peer.
fn reborn_open(net: &mut Net, node: usize) {
    net.reborn(node);
    net.elapsed += Duration::from_secs(2);
    net.tick(node);
    assert!(net.replica(node).is_open());
}

/// Lets all nodes speak with each other until nothing is left to send.
fn settle(net: &mut Net) {
    net.settle(50, &ALL);
    assert_converged(net);
}

#[track_caller]
fn assert_converged(net: &Net) {
    for node in 1..NODES {
        assert_eq!(net.replica(node).vector(), net.replica(0).vector());
        assert_eq!(net.replica(node).store().digest(0), net.replica(0).store().digest(0));
    }
    assert!((0..NODES).all(|node| net.replica(node).peers.table().divergences == 0));
}

fn collect(net: &mut Net, node: usize) -> usize {
    net.elapsed += Duration::from_millis(50);
    net.collect(node)
}

/// Lets time pass, long enough for a tombstone.
fn grow_old(net: &mut Net) {
    for _ in 0..6 {
        settle(net);
    }
}

/// The lines of a full dump.
fn backup(replica: &Replica) -> Vec<Vec<u8>> {
    let mut dump = serving::dump(replica);
    let mut lines = Vec::new();
    while dump.write(1000, &mut lines) {}
    cut(&lines)
}

fn cut(lines: &[u8]) -> Vec<Vec<u8>> {
    dump::whole_lines(lines).unwrap().map(<[u8]>::to_vec).collect()
}

fn restore(net: &Net, node: usize, lines: &[Vec<u8>]) -> Result<Restored, NotRestored> {
    let now = net.now(node);
    let mut restore = restore::begin_restore(net.replica(node), now)?;
    let mut reader = DumpReader::default();
    for line in lines {
        match reader.line(line)? {
            Line::Header(header) => restore.begin(header, now)?,
            Line::Entry(entry) => restore.take(entry, now)?,
            Line::End(end) => return restore.end(&end, now),
        }
    }
    Err(NotRestored::Bad("broken off".to_owned()))
}

fn shown(net: &Net, key: &str) -> Vec<Option<String>> {
    (0..NODES).map(|node| net.get(node, key)).collect()
}

fn everywhere(value: Option<&str>) -> Vec<Option<String>> {
    vec![value.map(str::to_owned); NODES]
}

#[test]
fn a_restore_into_a_blank_cluster_reaches_every_node() {
    let mut lost = net();
    for node in 0..NODES {
        lost.put(node, &format!("k{node}"), "1");
    }
    lost.write(1, "k1", None);
    settle(&mut lost);
    let backup = backup(lost.replica(2));

    let mut net = other_net();
    settle(&mut net);
    assert_eq!(restore(&net, 0, &backup), Ok(Restored { entries: 3, merged: 3, dropped: 0 }));
    assert!(net.replica(0).vector().covers_all(&lost.replica(2).vector()));
    settle(&mut net);
    for (key, value) in [("k0", Some("1")), ("k1", None), ("k2", Some("1"))] {
        assert_eq!(shown(&net, key), everywhere(value));
    }
    assert!((0..NODES).all(|node| net.replica(node).store().counts(0).tombstones == 1));
    // Once more, and at another node: nothing is new.
    assert_eq!(restore(&net, 1, &backup), Ok(Restored { entries: 3, merged: 0, dropped: 0 }));
    // New writes are stamped above what was restored.
    net.put(2, "k0", "2");
    settle(&mut net);
    assert_eq!(shown(&net, "k0"), everywhere(Some("2")));
}

#[test]
fn a_horizon_is_restored_with_the_data() {
    let mut lost = net();
    lost.put(0, "k", "1");
    settle(&mut lost);
    let older = backup(lost.replica(0));
    lost.write(1, "k", None);
    lost.put(0, "other", "1");
    grow_old(&mut lost);
    (0..NODES).for_each(|node| assert_eq!(collect(&mut lost, node), 1));
    let newer = backup(lost.replica(2));

    let mut net = other_net();
    restore(&net, 0, &newer).unwrap();
    settle(&mut net);
    for node in 0..NODES {
        assert!(matches!(restore(&net, node, &older), Err(NotRestored::Stale(_))), "node {node}");
    }
    assert_eq!(shown(&net, "k"), everywhere(None));
    assert_eq!(shown(&net, "other"), everywhere(Some("1")));
}

#[test]
fn an_old_backup_into_a_running_cluster_resurrects_nothing_and_is_refused_once_the_deletes_are_collected() {
    let mut net = net();
    net.put(0, "k", "1");
    net.put(1, "kept", "1");
    settle(&mut net);
    let old = backup(net.replica(2));
    net.write(1, "k", None);
    net.put(1, "kept", "2");
    settle(&mut net);
    for node in 0..NODES {
        assert_eq!(restore(&net, node, &old), Ok(Restored { entries: 2, merged: 0, dropped: 0 }));
    }
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));
    assert_eq!(shown(&net, "kept"), everywhere(Some("2")));

    // Two have collected the delete, the third has not yet.
    grow_old(&mut net);
    assert_eq!((collect(&mut net, 1), collect(&mut net, 2)), (1, 1));
    assert_eq!(restore(&net, 0, &old), Ok(Restored { entries: 2, merged: 0, dropped: 0 }));
    let before = net.replica(1).vector();
    match restore(&net, 1, &old) {
        Err(NotRestored::Stale(why)) => assert!(why.contains("deletes made by node 2"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(net.replica(1).vector(), before);
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));

    // A refusal leaves nothing behind: a dump of today is taken.
    let new = backup(net.replica(1));
    restore(&net, 1, &new).unwrap();
    assert_eq!(collect(&mut net, 0), 1);
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));
}

/// A blank node knows of no deletes yet, so it takes any backup; what that brings back goes when it
/// meets the others.
#[test]
fn an_old_backup_into_a_blank_node_is_put_right_by_the_others() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let old = backup(net.replica(2));
    net.write(1, "k", None);
    net.put(1, "kept", "1");
    grow_old(&mut net);
    for node in 0..NODES {
        assert_eq!(collect(&mut net, node), 1);
    }
    let new = backup(net.replica(1));

    reborn_open(&mut net, 0);
    assert_eq!(restore(&net, 0, &old), Ok(Restored { entries: 1, merged: 1, dropped: 0 }));
    assert_eq!(net.get(0, "k").as_deref(), Some("1"));
    net.connect_all();
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));
    assert_eq!(shown(&net, "kept"), everywhere(Some("1")));

    // A newer backup has the effect that the others have.
    reborn_open(&mut net, 0);
    restore(&net, 0, &old).unwrap();
    assert_eq!(restore(&net, 0, &new), Ok(Restored { entries: 1, merged: 1, dropped: 1 }));
    assert_eq!(net.get(0, "k"), None);
}

#[test]
fn a_restore_that_breaks_off_claims_nothing() {
    let mut lost = net();
    for key in 0..10 {
        lost.put(key % NODES, &format!("k{key}"), "1");
    }
    lost.write(0, "gone", None);
    grow_old(&mut lost);
    (0..NODES).for_each(|node| assert_eq!(collect(&mut lost, node), 1));
    let whole = backup(lost.replica(0));
    assert_eq!(whole.len(), 12);

    for len in 1..whole.len() {
        let net = other_net();
        let before = net.replica(0).vector();
        assert_eq!(restore(&net, 0, &whole[..len]), Err(NotRestored::Bad("broken off".to_owned())));
        assert_eq!(net.replica(0).vector(), before);
        assert!(net.replica(0).peers.table().horizon.is_empty());
        assert_eq!(net.replica(0).store().len(), len as u64 - 1);
        assert!(!net.replica(0).peers.table().is_taking());
    }
    // One entry is missing in the middle: the end line does not agree.
    let net = other_net();
    let without = [&whole[..5], &whole[6..]].concat();
    assert!(matches!(restore(&net, 0, &without), Err(NotRestored::Bad(why)) if why.contains("a dump of 9 entries")));
    assert!(net.replica(0).vector().is_empty());
    // What it brought stays, and the whole dump makes it good.
    assert_eq!(restore(&net, 0, &whole), Ok(Restored { entries: 10, merged: 1, dropped: 0 }));
    assert_eq!(net.replica(0).vector(), lost.replica(0).vector());
}

#[test]
fn what_is_out_of_order_or_not_full_is_refused() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let [header, entry, end] = backup(net.replica(0)).try_into().unwrap();
    let other = other_net();
    let order: [&[Vec<u8>]; 3] = [&[entry.clone(), end.clone()], &[end], &[header.clone(), header.clone(), entry]];
    for lines in order {
        assert!(matches!(restore(&other, 0, lines), Err(NotRestored::Bad(_))));
    }
    let delta = String::from_utf8(header).unwrap().replace("\"full\"", "\"delta\"").into_bytes();
    assert!(matches!(restore(&other, 0, &[delta]), Err(NotRestored::Bad(why)) if why.contains("kind full")));
    assert!(other.replica(0).vector().is_empty());
}

#[test]
fn while_a_restore_runs_nothing_is_collected_and_peers_are_asked_all_the_same() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    net.write(0, "k", None);
    grow_old(&mut net);
    let now = net.now(1);
    let mut restoring = restore::begin_restore(net.replica(1), now).unwrap();
    assert!(matches!(restore::begin_restore(net.replica(1), now), Err(NotRestored::Busy(_))));
    assert!(net.replica(1).peers.table().is_moving());
    assert!(status::status(net.replica(1), now).contains(&("dump_from", "a restore".to_owned())));
    assert_eq!(collect(&mut net, 1), 0);
    // Batches of node 0 are lost; the dump that closes the gap is requested and taken.
    net.both(0, 1);
    net.put(0, "a", "1");
    net.put(0, "b", "1");
    net.tick(0);
    net.pump(0, 1);
    net.tick(1);
    assert!(net.replica(1).peers.table().peers[0].catch_up.gap);
    let request = net.flush(1, 0);
    assert!(request.iter().any(|message| matches!(message, Message::Request(_))), "{request:?}");
    net.deliver(1, 0, request);
    net.pump(0, 1);
    assert_eq!(net.get(1, "b").as_deref(), Some("1"));
    assert!(!net.replica(1).peers.table().peers[0].catch_up.gap);
    // The restore goes on meanwhile; a peer's dump that is under way makes the next one wait.
    let now = net.now(1);
    let mut reader = DumpReader::default();
    for line in backup(net.replica(2)) {
        match reader.line(&line).unwrap() {
            Line::Header(header) => restoring.begin(header, now).unwrap(),
            Line::Entry(entry) => restoring.take(entry, now).unwrap(),
            Line::End(end) => assert!(restoring.prove(&end, now).is_ok()),
        }
    }
    drop(restoring);
    net.both(0, 1);
    net.put(0, "c", "1");
    net.put(0, "d", "1");
    net.tick(0);
    net.pump(0, 1);
    net.tick(1);
    assert!(matches!(restore::begin_restore(net.replica(1), net.now(1)), Err(NotRestored::Busy(why)) if why.contains("from node 1")));
}

/// A client that takes its time over a `DUMP` keeps no node from forgetting deletes. In what it
/// reads the key is absent, and the end line has the GC horizon that explains it.
#[test]
fn while_a_client_reads_a_dump_tombstones_go_and_its_end_line_says_so() {
    let mut net = net();
    // Not among the first shards, which the dump's first step may have read.
    let last = net.replica(1).store().shards_len() - 1;
    let key = net.key_where(1, |shard| shard == last);
    net.put(0, &key, "1");
    settle(&mut net);
    let older = backup(net.replica(1));
    net.write(0, &key, None);
    net.put(2, "kept", "1");
    grow_old(&mut net);
    let mut dump = serving::dump(net.replica(1));
    let mut lines = Vec::new();
    assert!(dump.write(1, &mut lines));
    assert_eq!(collect(&mut net, 1), 1);
    while dump.write(1000, &mut lines) {}
    let lines = cut(&lines);
    assert_eq!(lines.len(), 3, "{lines:?}");
    // A node that restores it does not take older ones any more.
    let mut blank = other_net();
    restore(&blank, 0, &lines).unwrap();
    assert!(matches!(restore(&blank, 0, &older), Err(NotRestored::Stale(_))));
    settle(&mut blank);
    assert_eq!((shown(&blank, &key), shown(&blank, "kept")), (everywhere(None), everywhere(Some("1"))));
}

/// A dump as a client may write one: the donor, what its header claims, its entries and its GC
/// horizon.
fn made(node: u16, vector: &[(Origin, Stamp)], entries: &[(&str, Origin, Stamp)], horizon: &[(Origin, Stamp)]) -> Vec<Vec<u8>> {
    let value = EntryOf { value: Some(b"made"), expires: None };
    let entries: Vec<_> = entries.iter().map(|(key, origin, stamp)| (*key, *origin, *stamp, value)).collect();
    made_of(node, vector, &entries, horizon)
}

#[derive(Clone, Copy)]
struct EntryOf {
    value: Option<&'static [u8]>,
    expires: Option<Expiry>,
}

fn made_of(node: u16, vector: &[(Origin, Stamp)], entries: &[(&str, Origin, Stamp, EntryOf)], horizon: &[(Origin, Stamp)]) -> Vec<Vec<u8>> {
    let entries = entries.iter().map(|(key, origin, stamp, EntryOf { value, expires })| {
        let version = Version { stamp: *stamp, origin: *origin };
        Entry::new(key.as_bytes(), *value, *expires, version)
    });
    let header = Header::new(DumpKind::Full, incarnation(node, 1), vector.iter().copied().collect(), entries.len() as u64, None);
    cut(&whole_dump(&header, entries, horizon.iter().copied().collect()))
}

fn incarnation(node: u16, nonce: u64) -> Origin {
    Origin { node: NodeId(node), nonce: u64::MAX - nonce }
}

fn at(net: &Net, ahead_ms: u64) -> Stamp {
    Stamp::from_wall_ms(net.now(0).wall_ms + ahead_ms)
}

/// One header of a megabyte and a half named thirty thousand incarnations, which entered all
/// vectors for good: no HELLO could carry them any more, and no two nodes could connect.
#[test]
fn a_dump_adds_no_incarnations_but_those_of_its_entries_and_not_too_many_of_them() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let before = net.replica(0).vector();
    let now = at(&net, 0);
    let claims = |count| (0..count).map(|nonce| (incarnation(9, nonce), now)).collect::<Vec<_>>();
    let many = made(9, &claims(30_000), &[], &[]);
    assert!(matches!(restore(&net, 0, &many), Err(NotRestored::Bad(why)) if why.contains("30000 incarnations")));
    assert_eq!(net.replica(0).vector(), before);
    // Of a hundred two are named; and of those that are not no delete is taken either.
    let some = made(9, &claims(100), &[("a", incarnation(9, 7), now), ("b", incarnation(9, 8), now)], &[(incarnation(9, 50), now)]);
    assert_eq!(restore(&net, 0, &some), Ok(Restored { entries: 2, merged: 2, dropped: 0 }));
    assert_eq!(net.replica(0).vector().len(), before.len() + 2);
    assert!(net.replica(0).peers.table().horizon.is_empty());
    settle(&mut net);
    assert_eq!(shown(&net, "a"), everywhere(Some("made")));
    // However many dumps come.
    for dump in 0..3 {
        let incarnations: Vec<(Origin, Stamp)> = (0..450).map(|nonce| (incarnation(9, 10_000 * (dump + 1) + nonce), now)).collect();
        let keys: Vec<String> = (0..450).map(|n| format!("{dump}/{n}")).collect();
        let entries: Vec<(&str, Origin, Stamp)> =
            keys.iter().zip(&incarnations).map(|(key, (origin, stamp))| (&**key, *origin, *stamp)).collect();
        assert_eq!(restore(&net, 0, &made(9, &incarnations, &entries, &[])).is_ok(), dump < 2);
    }
    assert!(net.replica(0).vector().len() <= 1_024);
    // A cluster that knows of no incarnation takes those whose writes were all deleted, too, within
    // the same bound.
    let blank = other_net();
    assert!(restore(&blank, 0, &many).is_err());
    assert!(restore(&blank, 0, &some).is_ok());
    assert_eq!(blank.replica(0).vector().len(), 100);
}

/// A dump that claimed what a member was still to write made a node skip those writes, and
/// acknowledge them.
#[test]
fn a_dump_claims_nothing_of_the_present_incarnation_of_a_member() {
    let mut net = net();
    net.put(1, "k", "1");
    settle(&mut net);
    let origin = net.replica(1).origin();
    assert!(restore(&net, 0, &made(2, &[(origin, at(&net, 9_000))], &[], &[])).is_ok());
    net.put(1, "k", "2");
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(Some("2")));
}

/// A GC horizon that no vector covers made every backup too old and every catch-up a full dump, for
/// good.
#[test]
fn a_horizon_beyond_the_vector_of_its_dump_is_refused() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let today = backup(net.replica(0));
    let origin = net.replica(0).origin();
    let far = Stamp::from_bits(u64::MAX);
    for (vector, horizon) in [(Stamp::ZERO, at(&net, 0)), (at(&net, 0), at(&net, 1)), (at(&net, 0), far)] {
        let made = made(1, &[(origin, vector)], &[], &[(origin, horizon)]);
        assert!(matches!(restore(&net, 1, &made), Err(NotRestored::Bad(why)) if why.contains("a horizon of")));
    }
    // Nor is one taken of an incarnation that only this dump knows of, whichever node it names as
    // its donor.
    let (new, now) = (incarnation(2, 5), at(&net, 0));
    for node in [1, 9] {
        restore(&net, 1, &made(node, &[(new, now)], &[("x", new, now)], &[(new, now)])).unwrap();
    }
    assert!(net.replica(1).peers.table().horizon.is_empty());
    assert!(restore(&net, 1, &today).is_ok());
}

/// Each of sixty dumps moved the clock on by almost as much as clocks may be apart.
#[test]
fn however_many_dumps_come_the_clock_goes_no_further_ahead_than_clocks_may_be_apart() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let taken = (1..=10).filter(|n| restore(&net, 0, &made(9, &[(incarnation(9, 1), at(&net, n * 9_900))], &[], &[])).is_ok());
    assert_eq!(taken.count(), 1);
    let entry = |n: u64| made(9, &[(incarnation(9, 1), at(&net, 0))], &[("e", incarnation(9, 1), at(&net, n * 9_950))], &[]);
    assert_eq!((1..=10).filter(|n| restore(&net, 0, &entry(*n)).is_ok()).count(), 1);
    assert!(net.replica(0).clock().last() <= at(&net, 10_000));
}

/// A header that covered everything took away all that the dump did not hold.
#[test]
fn a_dump_drops_nothing_that_its_header_merely_claims() {
    let mut net = net();
    net.put(1, "k", "1");
    settle(&mut net);
    // The writes are of past incarnations.
    for node in 0..NODES {
        reborn_open(&mut net, node);
        net.connect_all();
        settle(&mut net);
    }
    let known = net.replica(0).vector();
    net.put(2, "later", "1");
    settle(&mut net);
    reborn_open(&mut net, 2);
    net.connect_all();
    settle(&mut net);
    let all = net.replica(0).vector();
    // A donor that is no member; a dump without what the members know by now; and one whose claims
    // are accepted, and which knows of no delete.
    for (node, incarnations, is_deleted) in [(9, &all, true), (1, &known, true), (1, &all, false)] {
        let vector: Vec<(Origin, Stamp)> = incarnations.iter().map(|(origin, _)| (origin, at(&net, 5))).collect();
        let entries: Vec<(&str, Origin, Stamp)> = vector.iter().map(|(origin, stamp)| ("other", *origin, *stamp)).collect();
        let made = made(node, &vector, &entries, if is_deleted { &vector } else { &[] });
        match restore(&net, 0, &made) {
            Ok(restored) => assert!(!is_deleted && restored.dropped == 0, "node {node}"),
            Err(NotRestored::Unproven(why)) => assert!(is_deleted && why.contains("keys of this node are deleted"), "node {node}: {why}"),
            Err(other) => panic!("{other:?}"),
        }
        assert!(net.replica(0).peers.table().horizon.is_empty());
        net.elapsed += Duration::from_millis(20);
    }
    settle(&mut net);
    assert_eq!((shown(&net, "k"), shown(&net, "later")), (everywhere(Some("1")), everywhere(Some("1"))));
}

/// A dump hides writes that were superseded before it was made, so it does not prove of those that
/// it holds that none has lost. What a member writes now its own batches bring.
#[test]
fn what_a_restore_brings_is_not_vouched_for() {
    let mut net = net();
    settle(&mut net);
    let stamp = net.put(1, "k", "1");
    assert!(restore(&net, 0, &backup(net.replica(1))).is_ok());
    let messages = net.flush(0, 1);
    let mut acks = messages.iter().filter_map(|message| if let Message::Ack(ack) = message { Some(ack) } else { None });
    assert!(acks.all(|ack| ack.upto < stamp));
    assert_eq!(net.get(0, "k").as_deref(), Some("1"));
}

#[test]
fn a_stamp_too_far_ahead_is_refused() {
    let mut fast = Net::new(&[60_000; NODES]);
    fast.put(0, "k", "1");
    let ahead = backup(fast.replica(0));
    let mut net = other_net();
    net.put(0, "k", "2");
    assert!(matches!(restore(&net, 0, &ahead), Err(NotRestored::Bad(why)) if why.contains("ahead of this node's clock")));
    assert_eq!(net.get(0, "k").as_deref(), Some("2"));
}

#[test]
fn a_node_that_has_not_caught_up_takes_no_restore() {
    let mut net = net();
    net.reborn(0);
    assert!(matches!(restore::begin_restore(net.replica(0), net.now(0)), Err(NotRestored::Loading(_))));
}

/// A claim about all incarnations of a node covers its present one, too.
#[test]
fn what_a_backup_says_of_all_incarnations_of_a_node_is_believed_by_a_blank_cluster_and_no_other() {
    let (all, named, folded) = (Origin::all_incarnations(NodeId(1)), incarnation(1, 8), incarnation(1, 7));
    let lost = net();
    let (early, late) = (at(&lost, 0), at(&lost, 1));
    let vector = [(all, early), (named, late), (incarnation(2, 5), late)];
    let entries = [("a", folded, early), ("b", named, late), ("c", incarnation(2, 5), late)];
    let backup = made(2, &vector, &entries, &[]);
    for is_blank in [true, false] {
        let mut net = other_net();
        (0..25).for_each(|_| settle(&mut net));
        if !is_blank {
            net.put(0, "own", "1");
        }
        settle(&mut net);
        assert_eq!(restore(&net, 1, &backup), Ok(Restored { entries: 3, merged: 3, dropped: 0 }));
        settle(&mut net);
        assert_eq!(shown(&net, "a"), everywhere(Some("made")));
        let vector = net.replica(0).vector();
        assert_eq!((vector.get(all), vector.get(folded)), (if is_blank { early } else { Stamp::ZERO }, early), "{vector:?}");
        assert_eq!(vector.get(named), late);
    }
    // Not where it is younger than what may still be under way.
    let mut net = other_net();
    settle(&mut net);
    let young = at(&net, 0);
    restore(&net, 1, &made(2, &[(all, young)], &[("a", folded, young)], &[])).unwrap();
    assert_eq!((net.replica(1).vector().get(all), net.replica(1).vector().get(folded)), (Stamp::ZERO, young));
}

/// In a cluster that has folded incarnations it cannot be decided whether an entry of another
/// cluster was deleted. It was taken for a deleted one, and the restore for a success.
#[test]
fn an_entry_of_which_it_cannot_be_told_whether_it_was_deleted_is_refused() {
    let mut net = net();
    net.put(0, "own", "1");
    settle(&mut net);
    let (early, late) = (at(&net, 0), at(&net, 1));
    let folded: VersionVector = [(Origin::all_incarnations(NodeId(1)), late)].into_iter().collect();
    (0..NODES).for_each(|node| net.replica(node).coverage.advance().proven(&folded));
    let foreign = made(1, &[(incarnation(1, 7), early)], &[("k", incarnation(1, 7), early)], &[]);
    let refused = restore(&net, 1, &foreign);
    assert!(
        matches!(&refused, Err(NotRestored::Bad(why)) if why.contains("is of an incarnation of node 1 that is folded here")),
        "{refused:?}"
    );
    // An expired entry brings nothing back.
    let gone = EntryOf { value: None, expires: None };
    let spent = EntryOf { value: Some(b"v"), expires: Some(Expiry::from_wall_ms(1)) };
    for (key, of) in [("gone", gone), ("spent", spent)] {
        let lines = made_of(1, &[(incarnation(1, 7), early)], &[(key, incarnation(1, 7), early, of)], &[]);
        assert_eq!(restore(&net, 1, &lines), Ok(Restored { entries: 1, merged: 0, dropped: 0 }));
    }
    // What is here, or has been superseded, is known to have existed.
    net.put(2, "k", "newer");
    settle(&mut net);
    assert_eq!(restore(&net, 1, &foreign), Ok(Restored { entries: 1, merged: 0, dropped: 0 }));
}

/// A node that knows of no other is not a blank cluster. It may not claim what a backup says of all
/// incarnations of the others: from there a full dump dropped all that they had.
#[test]
fn a_node_that_is_cut_off_takes_no_word_for_all_incarnations_of_the_others() {
    let mut net = net();
    for (node, key) in [(0, "a"), (1, "b")] {
        net.put(node, key, "1");
    }
    settle(&mut net);
    grow_old(&mut net);
    net.elapsed += Duration::from_secs(60);
    reborn_open(&mut net, 2);
    let upto = Stamp::from_wall_ms(net.now(2).wall_ms - 30_000);
    let (own, other) = (at(&net, 0), incarnation(3, 1));
    let backup = made(
        3,
        &[(Origin::all_incarnations(NodeId(1)), upto), (Origin::all_incarnations(NodeId(2)), upto), (other, own)],
        &[("c", other, own)],
        &[(other, own)],
    );
    restore(&net, 2, &backup).unwrap();
    net.connect_all();
    settle(&mut net);
    settle(&mut net);
    for key in ["a", "b"] {
        assert_eq!(shown(&net, key), everywhere(Some("1")));
    }
    assert_eq!(shown(&net, "c"), everywhere(Some("made")));
}

/// An entry whose origin stands for all incarnations of a node is no node's write.
#[test]
fn an_entry_of_no_incarnation_is_refused() {
    let net = net();
    let all = Origin::all_incarnations(NodeId(1));
    let now = at(&net, 0);
    let refused = restore(&net, 0, &made(2, &[(all, now)], &[("a", all, now)], &[]));
    assert!(
        matches!(&refused, Err(NotRestored::Bad(why)) if why.starts_with("an entry of 1-0000000000000000, which stands for all incarnations of node 1")),
        "{refused:?}"
    );
}
