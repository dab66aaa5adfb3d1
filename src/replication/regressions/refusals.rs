//! Messages of a peer that no node can take.

use super::*;
use crate::replication::sync::scan::DumpScan;
use crate::wire::dump::{DumpKind, Header};

/// Delivers messages that may be refused; returns the first refusal.
fn try_deliver(net: &mut Net, from: usize, to: usize, messages: Vec<Message>) -> Result<(), String> {
    let now = net.now(to);
    let inbound = net.links.get_mut(&(from, to)).unwrap();
    messages.into_iter().try_for_each(|message| take(inbound, net.nodes[to].replica, message, now))
}

fn entry(origin: Origin, stamp: Stamp, key_len: usize) -> Entry {
    Entry::new(&vec![b'k'; key_len], None, None, Version { stamp, origin })
}

#[test]
fn a_key_that_this_node_takes_not_from_its_clients_is_refused_of_a_peer() {
    let mut net = Net::new(&[0, 0]);
    net.both(0, 1);
    net.settle(4, &[(0, 1), (1, 0)]);
    let origin = net.replica(0).origin();
    let len_max = net.replica(1).config().key_len_max;
    for (key_len, is_taken) in [(len_max, true), (len_max + 1, false)] {
        let (after, upto) = (net.replica(1).vector().get(origin), Stamp::from_wall_ms(net.now(0).wall_ms));
        let batch = WriteBatch { origin, after, upto, writes: BatchWrites::of(origin, &[entry(origin, upto, key_len)]) };
        let received = try_deliver(&mut net, 0, 1, vec![Message::Writes(batch)]);
        assert_eq!(received.is_ok(), is_taken, "{received:?}");
        net.elapsed += Duration::from_millis(5);
    }
    assert_eq!(net.replica(1).store().len(), 1);
}

/// A dump that cannot be taken would be equal if it were requested again.
#[test]
fn a_dump_that_was_refused_is_not_asked_for_again_and_again() {
    let mut net = Net::new(&[0, 0]);
    let mut asked = 0;
    net.put(0, "k", "1");
    net.connect(1, 0);
    for _ in 0..100 {
        // The node that refuses closes the connection, and is dialled again at once.
        if !net.links.contains_key(&(0, 1)) {
            net.connect(0, 1);
        }
        net.settle(1, &[(1, 0)]);
        net.elapsed += Duration::from_millis(100);
        net.replica(0).links().outbox(0).heartbeat();
        let messages = net.flush(0, 1);
        if !messages.iter().any(|message| matches!(message, Message::Lines(_))) {
            try_deliver(&mut net, 0, 1, messages).unwrap();
            continue;
        }
        asked += 1;
        let taking = net.replica(1).peers.table().transfer().map(|transfer| transfer.id);
        let far = [(net.replica(0).origin(), Stamp::from_wall_ms(net.now(0).wall_ms))].into_iter().collect();
        let header = Header::new(DumpKind::Delta, net.replica(0).origin(), VersionVector::default(), 1, taking);
        let mut scan = DumpScan::new(header, VersionVector::default(), far);
        let mut lines = Vec::new();
        while scan.write(net.replica(0).store(), 1000, &mut lines) {}
        let refused = try_deliver(&mut net, 0, 1, vec![Message::Lines(lines)]).unwrap_err();
        assert!(refused.contains("a horizon of"), "{refused}");
        net.hang_up(0, 1);
    }
    assert!((2..8).contains(&asked), "asked {asked} times in 12 s");
    assert!(net.replica(1).peers.table().horizon.is_empty());
    // In the end the peer is asked again, and a good dump is taken.
    net.both(0, 1);
    net.settle(1_000, &[(0, 1), (1, 0)]);
    assert!(net.replica(1).vector().covers_all(&net.replica(0).vector()));
    assert_eq!(net.replica(1).peers.table().peers[0].catch_up.refused(), 0);
}

#[test]
fn a_hello_that_lists_more_members_than_a_mesh_has_is_refused() {
    let net = Net::new(&[0, 0]);
    let hello = Hello { members: (1..=8).map(NodeId).collect(), ..handshake::hello(net.replica(1), net.now(1)) };
    let refused = handshake::check_hello(net.replica(0), &hello, net.now(0)).unwrap_err();
    assert_eq!(refused, "node 2 lists 8 members, and a mesh has at most 7");
}
