//! Folding of past incarnations: which members it takes, what becomes of writes that only some
//! know, and the bounds.

use super::*;
use crate::replication::folding::Folder;
use crate::replication::heartbeat::HeartbeatLoop;

/// Past incarnations of the first node.
const OVER: u64 = 70;

fn over(nonce: u64) -> Version {
    Version { stamp: Stamp::from_wall_ms(BASE - 60_000 + nonce), origin: Origin { node: NodeId(1), nonce: 1_000 + nonce } }
}

/// Three nodes that know of so many of them.
fn with_incarnations(count: u64) -> Net {
    let mut net = Net::new(&[0; 3]);
    for node in 0..3 {
        let vector = (1..=count).map(over).map(|last| (last.origin, last.stamp)).collect();
        net.replica(node).coverage.advance().proven(&vector);
    }
    net.connect_all();
    (0..3).for_each(|node| {
        net.put(node, &format!("own{node}"), "1");
    });
    net
}

/// Lets all nodes speak with each other, and fold.
fn settle(net: &mut Net, rounds: usize) {
    let mut folders = [const { None::<Folder> }; 3].map(Option::unwrap_or_default);
    for _ in 0..rounds {
        net.settle(1, &ALL);
        (0..3).for_each(|node| folders[node].step(net.replica(node), net.now(node)));
    }
}

fn is_folded(net: &Net, node: usize) -> bool {
    net.replica(node).vector().get(Origin::all_incarnations(NodeId(1))) > Stamp::ZERO
}

#[test]
fn all_members_come_to_name_few_incarnations() {
    let mut net = with_incarnations(OVER);
    // One node has missed some of them.
    net.replica(2).coverage.advance().restore((1..=20).map(over).map(|last| (last.origin, last.stamp)).collect());
    settle(&mut net, 60);
    let vector = net.replica(0).vector();
    assert_eq!(vector.len(), 3 + 32 + 1, "{vector:?}");
    assert!((1..=OVER).map(over).all(|last| vector.covers(last)));
    assert_eq!((net.replica(1).vector(), net.replica(2).vector()), (vector.clone(), vector));
    // All goes on as before.
    net.put(0, "k", "2");
    settle(&mut net, 5);
    assert_eq!((net.get(1, "k").as_deref(), net.get(2, "k").as_deref()), (Some("2"), Some("2")));
    assert_eq!(net.replica(1).vector(), net.replica(2).vector());
    // A blank node learns of one entry, too.
    net.reborn(2);
    [(0, 2), (1, 2)].into_iter().for_each(|(a, b)| net.both(a, b));
    settle(&mut net, 40);
    assert_eq!((net.get(2, "own0").as_deref(), net.replica(2).vector().covers(over(1))), (Some("1"), true));
}

/// An incarnation ended half-way, and one member holds a write of it that no vector covers. Once
/// all writes up to there are covered, no dump would bring it to the others any more.
#[test]
fn what_no_vector_covers_is_taken_from_all_members_before() {
    let mut net = with_incarnations(OVER);
    let orphan = Version { stamp: Stamp::from_wall_ms(BASE - 59_990), origin: Origin { node: NodeId(1), nonce: 999 } };
    let entry = Entry::new(b"orphan", Some(b"v"), None, orphan);
    net.replica(2).store().merge(entry, |_| false);
    settle(&mut net, 60);
    for node in 0..3 {
        assert!(is_folded(&net, node));
        assert_eq!(net.get(node, "orphan").as_deref(), Some("v"), "node {}", node + 1);
    }
}

#[test]
fn a_member_that_is_away_pins_all_and_one_that_says_hello_begins_it_anew() {
    let mut net = with_incarnations(OVER);
    net.hang_up(2, 0);
    handshake::hung_up(net.replica(0), peer_index(0, 2), net.now(0));
    let rest = [(0, 1), (1, 0), (1, 2), (2, 1)];
    let mut folder = Folder::default();
    for _ in 0..60 {
        net.settle(1, &rest);
        folder.step(net.replica(0), net.now(0));
    }
    assert!(!is_folded(&net, 0));
    net.both(0, 2);
    for _ in 0..60 {
        net.settle(1, &ALL);
        folder.step(net.replica(0), net.now(0));
        if net.replica(0).peers.table().folding.is_some() {
            break;
        }
    }
    net.both(0, 1);
    assert!(net.replica(0).peers.table().folding.is_none());
    settle(&mut net, 600);
    assert!((0..3).all(|node| is_folded(&net, node)));
}

/// The GC horizon is not folded before all vectors are. To a member that names the incarnations one
/// by one it would be a horizon above what it has, and a reason for a full dump.
#[test]
fn the_horizon_is_folded_when_all_members_have_followed() {
    let mut net = with_incarnations(2 * OVER);
    for last in (1..=2 * OVER).map(over) {
        net.replica(0).peers.table().horizon.advance(last.origin, last.stamp);
    }
    let mut heartbeats = [const { None::<HeartbeatLoop> }; 3].map(Option::unwrap_or_default);
    let mut is_above = false;
    for _ in 0..100 {
        net.settle(1, &ALL);
        (0..3).for_each(|node| heartbeats[node].step(net.replica(node), net.now(node)));
        let horizon = net.replica(0).peers.table().horizon.clone();
        is_above |= !net.replica(1).vector().covers_all(&horizon) || !net.replica(2).vector().covers_all(&horizon);
    }
    let horizon = net.replica(0).peers.table().horizon.clone();
    assert_eq!((horizon.len(), horizon.get(Origin::all_incarnations(NodeId(1)))), (1 + 32, over(2 * OVER - 32).stamp));
    assert!(!is_above);
}

/// Incarnations of a node that is no member, which a backup has brought.
#[test]
fn incarnations_of_former_members_are_folded_by_the_first_member() {
    let mut net = with_incarnations(1);
    for last in (1..=OVER).map(over) {
        let origin = Origin { node: NodeId(9), ..last.origin };
        net.replica(1).coverage.advance().proven(&[(origin, last.stamp)].into_iter().collect());
    }
    settle(&mut net, 80);
    for node in 0..3 {
        assert_eq!(net.replica(node).vector().incarnations(NodeId(9)).count(), 0);
        assert_eq!(net.replica(node).vector().get(Origin::all_incarnations(NodeId(9))), over(OVER).stamp);
    }
}

/// Four thousand incarnations while a member is away. Messages are small all the same, a node that
/// has written goes on, and a node that begins does not write.
#[test]
fn at_the_bound_a_node_that_starts_does_not_write_and_says_why() {
    let net = with_incarnations(4_096);
    let hello = Message::Hello(handshake::hello(net.replica(1), net.now(1)));
    let mut bytes = Vec::new();
    hello.encode(&mut bytes, Protocol::OLDEST);
    assert!(bytes.len() < HELLO_LEN_MAX / 4, "{}", bytes.len());
    assert_eq!(status::writable(net.replica(1)), Ok(()), "it has written");
    let mut net = net;
    net.reborn(2);
    [(0, 2), (1, 2)].into_iter().for_each(|(a, b)| net.both(a, b));
    net.settle(30, &[(0, 2), (2, 0), (1, 2), (2, 1)]);
    let why = status::writable(net.replica(2)).unwrap_err();
    assert!(why.starts_with("the vector names 4098 incarnations, 4096 at most"), "{why}");
    net.hang_up(1, 2);
    assert!(
        status::writable(net.replica(2)).unwrap_err().ends_with("start node 2, or remove what will not come back from every configuration")
    );
    net.connect(1, 2);
    settle(&mut net, 60);
    assert_eq!(status::writable(net.replica(2)), Ok(()));
    assert!((0..3).all(|node| net.replica(node).vector().len() < 100));
}

/// A vector that no HELLO could carry back is refused with a reason, whichever message brings it.
#[test]
fn a_vector_with_too_many_entries_is_refused() {
    let net = with_incarnations(12_000);
    let entries = |from: u64, count: u64| -> VersionVector {
        (from..from + count).map(over).map(|last| (Origin { node: NodeId(2), ..last.origin }, last.stamp)).collect()
    };
    let hello = |vector: VersionVector| Hello { vector, ..handshake::hello(net.replica(1), net.now(1)) };
    assert!(handshake::check_hello(net.replica(0), &hello(entries(1, 7_900)), net.now(0)).is_ok());
    let refused = handshake::check_hello(net.replica(0), &hello(entries(1, 8_000)), net.now(0)).unwrap_err();
    assert_eq!(refused, "a version vector of 8000 entries, which makes 20001 together with this node's; at most 20000 are allowed");
    // Entries that both know count once. A cluster that knows of more, as builds before could come
    // to, goes on.
    assert!(net.knock(1, 0).is_ok());
    let known = with_incarnations(24_000);
    assert!(known.knock(1, 0).is_ok());
}

/// The build before does not know of entries for all incarnations of a node. It would take what a
/// dump lacks for something that its donor does not have.
#[test]
fn nothing_is_folded_beside_a_build_that_does_not_know_of_it_and_none_is_met_afterwards() {
    let mut net = with_incarnations(OVER);
    net.protocols[2] = Protocols { min: Protocol::OLDEST, max: Protocol::CLOCKS };
    net.reborn(2);
    [(0, 2), (1, 2)].into_iter().for_each(|(a, b)| net.both(a, b));
    settle(&mut net, 60);
    assert!(!is_folded(&net, 0));
    net.protocols[2] = Protocols::OURS;
    net.reborn(2);
    [(0, 2), (1, 2)].into_iter().for_each(|(a, b)| net.both(a, b));
    // Ten seconds after a HELLO has ended a folding.
    settle(&mut net, 600);
    assert!((0..3).all(|node| is_folded(&net, node)));
    net.protocols[2] = Protocols { min: Protocol::OLDEST, max: Protocol::CLOCKS };
    net.reborn(2);
    let refused = net.knock(2, 0).unwrap_err();
    assert!(
        refused.starts_with("incarnations are folded here, which the build of node 3 does not know of (it speaks peer protocol 3 to 4"),
        "{refused}"
    );
}
