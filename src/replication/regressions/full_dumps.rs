//! The end of a full dump: what it proves is carried out in pieces, and nothing waits for that.

use super::*;

/// As many as go to many shards.
const KEYS: usize = 40;

/// T gives D a full dump, of which all but the end line has come. D holds a key that T has proven
/// deleted. Returns the end line.
fn begun(net: &mut Net, t: usize, d: usize) -> Vec<u8> {
    net.both(t, d);
    net.settle(4, &[(t, d), (d, t)]);
    for n in 0..KEYS {
        net.write(t, &format!("k{n}"), Some(b"1"));
        net.pump(t, d);
    }
    let origin = net.replica(t).origin();
    net.put(t, "v1", "1");
    let v2 = net.put(t, "v2", "2"); // overflows v1
    // As if T had collected: D is below its GC horizon.
    net.replica(t).peers.table().horizon.advance(origin, v2);
    net.pump(t, d);
    let request = net.flush(d, t);
    net.deliver(d, t, request);
    let messages = net.flush(t, d);
    let (lines, end) = split_end(lines_of(&messages).expect("a dump"));
    net.deliver(t, d, vec![Message::Lines(lines.to_vec())]);
    let version = Version { stamp: Stamp::from_bits(1), origin };
    net.replica(d).store().merge(Entry::new(b"gone", Some(b"1"), None, version), |_| false);
    assert!(!net.replica(d).vector().covers_all(&net.replica(t).vector()));
    end.to_vec()
}

/// Applies an end line, and does none of the work that it leaves.
fn end(net: &mut Net, t: usize, d: usize, end: Vec<u8>) {
    let now = net.now(d);
    let inbound = net.links.get_mut(&(t, d)).unwrap();
    inbound.receive(net.nodes[d].replica, Message::Lines(end), now).unwrap();
    assert!(inbound.has_work());
}

/// The whole store was gone through, twice, at the end line of a full dump, and the set of its keys
/// was freed. With ten million keys the donor heard nothing for some seconds.
#[test]
fn a_donor_is_answered_while_its_dump_is_proven() {
    let (mut net, t, d) = (Net::new(&[0, 0]), 0, 1);
    let end_line = begun(&mut net, t, d);
    end(&mut net, t, d, end_line);
    let (donor, replica) = (net.replica(t).vector(), net.replica(d));
    let (mut pieces, mut echoes) = (0, 0);
    while net.links[&(t, d)].has_work() {
        // All pieces together take longer than any peer may be silent.
        net.elapsed += Duration::from_millis(100);
        net.tick_all();
        let heartbeat = net.flush(t, d);
        let now = net.now(d);
        let inbound = net.links.get_mut(&(t, d)).unwrap();
        heartbeat.into_iter().for_each(|message| inbound.receive(replica, message, now).unwrap());
        inbound.work(replica, 1, now);
        pieces += 1;
        let answer = net.flush(d, t);
        echoes += usize::from(answer.iter().any(|message| matches!(message, Message::Echo { .. })));
        net.deliver(d, t, answer);
        let is_proven = replica.vector().covers_all(&donor);
        assert!(!is_proven || net.get(d, "gone").is_none(), "claimed before it was done");
        let table = replica.peers.table();
        assert!(is_proven || table.transfer().is_some(), "given up after {pieces} pieces");
        assert!(is_proven || !table.may_collect(&replica.config.members()), "tombstones may go");
    }
    assert!(pieces > KEYS && echoes == pieces, "{pieces} {echoes}");
    assert!(replica.vector().covers_all(&donor) && replica.peers.table().transfer().is_none());
    assert_eq!(replica.peers.table().proving, 0);
    assert_eq!((net.get(d, "v1").as_deref(), net.get(d, "gone")), (Some("1"), None));
}

/// Drops that are neither in the log nor in front of what proves them would be forgotten.
#[test]
fn a_dump_that_has_ended_is_proven_although_its_connection_ends() {
    let (mut net, t, d) = (Net::new(&[0, 0]), 0, 1);
    let end_line = begun(&mut net, t, d);
    end(&mut net, t, d, end_line);
    let (now, replica) = (net.now(d), net.replica(d));
    net.links.get_mut(&(t, d)).unwrap().work(replica, 1, now);
    net.hang_up(t, d);
    assert!(net.replica(d).vector().covers_all(&net.replica(t).vector()));
    assert_eq!((net.get(d, "gone"), net.replica(d).peers.table().proving), (None, 0));
}

/// Nothing but the end of the first dump says that it is the next donor's turn.
#[test]
fn the_next_donor_is_asked_as_soon_as_a_dump_is_taken() {
    let mut net = Net::new(&[0, 0, 0]);
    net.connect_all();
    net.settle(4, &ALL);
    for node in [P, T] {
        net.put(node, &format!("{node}1"), "1");
        net.put(node, &format!("{node}2"), "2"); // overflows the first
        net.pump(node, D);
    }
    let asks = |messages: &[Message]| messages.iter().any(|message| matches!(message, Message::Request(_)));
    let (request, none) = (net.flush(D, P), net.flush(D, T));
    assert!(asks(&request) && !asks(&none), "one at a time");
    net.deliver(D, P, request);
    net.elapsed += Duration::from_millis(50);
    let dump = net.flush(P, D);
    assert!(lines_of(&dump).is_some());
    let lines = dump.into_iter().filter(|message| matches!(message, Message::Lines(_))).collect();
    net.deliver(P, D, lines);
    assert!(asks(&net.flush(D, T)), "it waits for a heartbeat");
}
