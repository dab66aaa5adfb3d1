//! Restores into a mesh in one thread: what reaches the others, what stays deleted, what is refused, and what a broken-off one claims.

use std::time::Duration;

use crate::dump::{Line, parse_line};
use crate::protocol::peer::Message;
use crate::replication::collector::Collector;
use crate::replication::mesh::Mesh;
use crate::replication::regressions::Net;
use crate::replication::restore::{NotRestored, Restored};
use crate::store::Keyspace;

const NODES: usize = 3;

fn net() -> Net {
    let mut net = Net::new(&[0; NODES]);
    connect(&mut net);
    net
}

fn connect(net: &mut Net) {
    for a in 0..NODES {
        (a + 1..NODES).for_each(|b| net.both(a, b));
    }
}

/// Another cluster, whose lives have nothing to do with those of the first.
fn other_net() -> Net {
    let mut net = Net::new(&[0; NODES]);
    net.nonce = 1_000;
    (0..NODES).for_each(|node| reborn_open(&mut net, node));
    connect(&mut net);
    net
}

/// A node that starts blank and opens without having heard from anybody.
fn reborn_open(net: &mut Net, node: usize) {
    net.reborn(node);
    net.elapsed += Duration::from_secs(2);
    net.mesh(node).tick(net.now(node));
    assert!(net.mesh(node).is_open());
}

/// Everybody speaks with everybody until nothing is left to say.
fn settle(net: &mut Net) {
    for _ in 0..20 {
        net.elapsed += Duration::from_millis(50);
        for a in 0..NODES {
            net.mesh(a).tick(net.now(a));
            (0..NODES).filter(|b| *b != a).for_each(|b| net.pump(a, b));
        }
    }
    assert_converged(net);
}

#[track_caller]
fn assert_converged(net: &Net) {
    for node in 1..NODES {
        assert_eq!(net.mesh(node).vector(), net.mesh(0).vector());
        assert_eq!(net.mesh(node).store().digest(0), net.mesh(0).store().digest(0));
    }
    assert!((0..NODES).all(|node| net.mesh(node).control.lock().divergences == 0));
}

/// All tombstones that may go, whatever shard they are in.
fn collect(net: &mut Net, node: usize) -> usize {
    net.elapsed += Duration::from_millis(50);
    let mut collector = Collector::default();
    (0..net.mesh(node).store().shards_len()).map(|_| collector.step(net.mesh(node), net.now(node))).sum()
}

/// Long enough for a tombstone.
fn grow_old(net: &mut Net) {
    for _ in 0..6 {
        settle(net);
    }
}

fn backup(mesh: &Mesh) -> Vec<Line> {
    let mut dump = mesh.dump();
    let mut lines = Vec::new();
    while dump.write(1000, &mut lines) {}
    lines.split_inclusive(|byte| *byte == b'\n').map(|line| parse_line(&line[..line.len() - 1]).unwrap()).collect()
}

fn restore(net: &Net, node: usize, lines: &[Line]) -> Result<Restored, NotRestored> {
    let now = net.now(node);
    let mut restore = net.mesh(node).begin_restore(now)?;
    for line in lines {
        match line {
            Line::Header(header) => restore.begin(header.clone(), now)?,
            Line::Entry(entry) => restore.take(entry.clone(), now)?,
            Line::End(end) => return restore.end(end, now),
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
    let backup = backup(lost.mesh(2));

    let mut net = other_net();
    settle(&mut net);
    assert_eq!(restore(&net, 0, &backup), Ok(Restored { entries: 3, merged: 3, dropped: 0 }));
    assert!(net.mesh(0).vector().covers_all(&lost.mesh(2).vector()));
    settle(&mut net);
    for (key, value) in [("k0", Some("1")), ("k1", None), ("k2", Some("1"))] {
        assert_eq!(shown(&net, key), everywhere(value));
    }
    assert!((0..NODES).all(|node| net.mesh(node).store().counts(0).tombstones == 1));
    // Once more, and at another node: nothing is new.
    assert_eq!(restore(&net, 1, &backup), Ok(Restored { entries: 3, merged: 0, dropped: 0 }));
    // And life goes on above what was restored.
    net.put(2, "k0", "2");
    settle(&mut net);
    assert_eq!(shown(&net, "k0"), everywhere(Some("2")));
}

#[test]
fn a_horizon_is_restored_with_the_data() {
    let mut lost = net();
    lost.put(0, "k", "1");
    settle(&mut lost);
    let older = backup(lost.mesh(0));
    lost.write(1, "k", None);
    lost.put(0, "other", "1");
    grow_old(&mut lost);
    (0..NODES).for_each(|node| assert_eq!(collect(&mut lost, node), 1));
    let newer = backup(lost.mesh(2));

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
    let old = backup(net.mesh(2));
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
    let before = net.mesh(1).vector();
    match restore(&net, 1, &old) {
        Err(NotRestored::Stale(why)) => assert!(why.contains("deletes made by node 2"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(net.mesh(1).vector(), before);
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));

    // A refusal leaves nothing behind: one from today is taken.
    let new = backup(net.mesh(1));
    restore(&net, 1, &new).unwrap();
    assert_eq!(collect(&mut net, 0), 1);
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));
}

/// A blank node knows of no deletes yet, so it takes any backup; what that brings back goes when it meets the others.
#[test]
fn an_old_backup_into_a_blank_node_is_put_right_by_the_others() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let old = backup(net.mesh(2));
    net.write(1, "k", None);
    net.put(1, "kept", "1");
    grow_old(&mut net);
    for node in 0..NODES {
        assert_eq!(collect(&mut net, node), 1);
    }
    let new = backup(net.mesh(1));

    reborn_open(&mut net, 0);
    assert_eq!(restore(&net, 0, &old), Ok(Restored { entries: 1, merged: 1, dropped: 0 }));
    assert_eq!(net.get(0, "k").as_deref(), Some("1"));
    connect(&mut net);
    settle(&mut net);
    assert_eq!(shown(&net, "k"), everywhere(None));
    assert_eq!(shown(&net, "kept"), everywhere(Some("1")));

    // A newer backup does the same as the others do.
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
    let whole = backup(lost.mesh(0));
    assert_eq!(whole.len(), 12);

    for len in 1..whole.len() {
        let net = other_net();
        let before = net.mesh(0).vector();
        assert_eq!(restore(&net, 0, &whole[..len]), Err(NotRestored::Bad("broken off".to_owned())));
        assert_eq!(net.mesh(0).vector(), before);
        assert!(net.mesh(0).control.lock().horizon.is_empty());
        assert_eq!(net.mesh(0).store().len(), len as u64 - 1);
        assert!(!net.mesh(0).control.lock().is_taking());
    }
    // One entry is missing in the middle: the end line does not agree.
    let net = other_net();
    let without = [&whole[..5], &whole[6..]].concat();
    assert!(matches!(restore(&net, 0, &without), Err(NotRestored::Bad(why)) if why.contains("a dump of 9 entries")));
    assert!(net.mesh(0).vector().is_empty());
    // What it brought stays, and the whole one makes it good.
    assert_eq!(restore(&net, 0, &whole), Ok(Restored { entries: 10, merged: 1, dropped: 0 }));
    assert_eq!(net.mesh(0).vector(), lost.mesh(0).vector());
}

#[test]
fn what_is_out_of_order_or_not_full_is_refused() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    let [header, entry, end] = backup(net.mesh(0)).try_into().unwrap();
    let other = other_net();
    let order: [&[Line]; 3] = [&[entry.clone(), end.clone()], &[end], &[header.clone(), header.clone(), entry]];
    for lines in order {
        assert!(matches!(restore(&other, 0, lines), Err(NotRestored::Bad(_))));
    }
    let Line::Header(mut delta) = header else { panic!("{header:?}") };
    delta.kind = crate::dump::Kind::Delta;
    assert!(matches!(restore(&other, 0, &[Line::Header(delta)]), Err(NotRestored::Bad(why)) if why.contains("kind full")));
    assert!(other.mesh(0).vector().is_empty());
}

#[test]
fn while_a_restore_runs_no_other_dump_is_taken_and_nothing_is_collected() {
    let mut net = net();
    net.put(0, "k", "1");
    settle(&mut net);
    net.write(0, "k", None);
    grow_old(&mut net);
    let now = net.now(1);
    let restore = net.mesh(1).begin_restore(now).unwrap();
    assert!(matches!(net.mesh(1).begin_restore(now), Err(NotRestored::Busy(_))));
    assert!(net.mesh(1).control.lock().is_moving());
    assert!(net.mesh(1).status(now).contains(&("dump_from", "a restore".to_owned())));
    assert_eq!(collect(&mut net, 1), 0);
    // Frames of node 0 are lost; the dump that closes the gap is asked for when the restore is over.
    net.both(0, 1);
    net.put(0, "a", "1");
    net.put(0, "b", "1");
    net.mesh(0).tick(net.now(0));
    net.pump(0, 1);
    net.mesh(1).tick(net.now(1));
    assert!(net.mesh(1).control.lock().peers[0].gap);
    let asks = |messages: &[Message]| messages.iter().any(|message| matches!(message, Message::Request(_)));
    assert!(!asks(&net.flush(1, 0)));
    drop(restore);
    net.mesh(1).tick(net.now(1));
    let messages = net.flush(1, 0);
    assert!(asks(&messages), "{messages:?}");
    assert!(matches!(net.mesh(1).begin_restore(net.now(1)), Err(NotRestored::Busy(why)) if why.contains("from node 1")));
}

/// A dump hides writes that were superseded before it was made, so nobody knows whether those that it proves lost.
#[test]
fn what_a_restore_brings_is_not_vouched_for() {
    let mut net = net();
    settle(&mut net);
    let stamp = net.put(1, "k", "1");
    assert!(restore(&net, 0, &backup(net.mesh(1))).is_ok());
    let messages = net.flush(0, 1);
    let ack = messages.iter().find_map(|message| if let Message::Ack(ack) = message { Some(ack) } else { None }).unwrap();
    assert_eq!((ack.from, ack.upto), (stamp, stamp));
}

#[test]
fn a_stamp_too_far_ahead_is_refused() {
    let mut fast = Net::new(&[60_000; NODES]);
    fast.put(0, "k", "1");
    let ahead = backup(fast.mesh(0));
    let mut net = other_net();
    net.put(0, "k", "2");
    assert!(matches!(restore(&net, 0, &ahead), Err(NotRestored::Bad(why)) if why.contains("ahead of this node's clock")));
    assert_eq!(net.get(0, "k").as_deref(), Some("2"));
}

#[test]
fn a_node_that_has_not_caught_up_takes_no_restore() {
    let mut net = net();
    net.reborn(0);
    assert!(matches!(net.mesh(0).begin_restore(net.now(0)), Err(NotRestored::Loading(_))));
}
