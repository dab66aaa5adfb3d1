//! Nodes of several builds in one mesh: which protocols they speak with each other, and how they
//! refuse a build with which they have none in common.

use super::*;

const OLD: Protocols = Protocols { min: Protocol::OLDEST, max: Protocol::OLDEST };
const NEW: Protocols = Protocols { min: Protocol::OLDEST, max: Protocol::CLOCKS };
const NEWEST: Protocols = Protocols { min: Protocol::CLOCKS, max: Protocol::CLOCKS };

impl Net {
    /// Three nodes of one build.
    fn of(protocols: Protocols) -> Net {
        let mut net = Net::closed(&[0, 0, 0]);
        (0..3).for_each(|node| {
            net.protocols[node] = protocols;
            net.reborn(node);
        });
        net
    }

    /// Starts another build on a node, which meets the others.
    fn restart_with(&mut self, node: usize, protocols: Protocols) {
        self.protocols[node] = protocols;
        self.reborn(node);
        for other in (0..self.offsets.len()).filter(|other| *other != node) {
            self.both(node, other);
        }
    }

    fn spoken(&self, from: usize, to: usize) -> Protocol {
        self.links[&(from, to)].protocol()
    }
}

#[test]
fn each_two_speak_the_greatest_protocol_that_both_do() {
    let mut net = Net::of(OLD);
    net.restart_with(0, NEW);
    net.restart_with(1, NEW);
    net.both(0, 2);
    for (from, to, protocol) in [(0, 1, NEW.max), (1, 0, NEW.max), (0, 2, OLD.max), (2, 0, OLD.max), (1, 2, OLD.max), (2, 1, OLD.max)] {
        assert_eq!(net.spoken(from, to), protocol, "{from} to {to}");
    }
}

/// Nodes are upgraded one by one, one is put back, and one is silent for a while.
#[test]
fn a_new_format_is_written_only_when_all_members_speak_it() {
    let mut net = Net::of(OLD);
    for node in 0..3 {
        assert_eq!(net.replica(0).spoken_by_all(), OLD.max);
        net.restart_with(node, NEW);
    }
    assert_eq!([0, 1, 2].map(|node| net.replica(node).spoken_by_all()), [NEW.max; 3]);
    net.restart_with(1, OLD);
    assert_eq!([0, 1, 2].map(|node| net.replica(node).spoken_by_all()), [OLD.max; 3]);
    net.restart_with(1, NEW);
    assert_eq!(net.replica(0).spoken_by_all(), NEW.max);
    // The end of a connection says nothing of the build. A member that has never said HELLO may be
    // of any.
    net.hang_up(1, 0);
    assert_eq!(net.replica(0).spoken_by_all(), NEW.max);
    net.reborn(0);
    net.both(0, 1);
    assert_eq!(net.replica(0).spoken_by_all(), OLD.max);
}

/// The answer to a dial names the protocols, too: whichever side dials first.
#[test]
fn an_answer_says_what_its_sender_speaks() {
    let mut net = Net::new(&[0, 0]);
    net.protocols = vec![NEW, NEW];
    net.reborn(0);
    net.reborn(1);
    net.connect(0, 1);
    assert_eq!([0, 1].map(|node| net.replica(node).spoken_by_all()), [NEW.max; 2]);
}

#[test]
fn without_a_common_protocol_both_ranges_and_the_older_side_are_named() {
    let mut net = Net::new(&[0, 0]);
    net.protocols = vec![NEWEST, OLD];
    net.reborn(0);
    net.reborn(1);
    let (newest, old) = (handshake::hello(net.replica(0), net.now(0)), handshake::hello(net.replica(1), net.now(1)));
    let at_the_newest = handshake::check_hello(net.replica(0), &old, net.now(0)).unwrap_err();
    let at_the_old = handshake::check_hello(net.replica(1), &newest, net.now(1)).unwrap_err();
    let way_out = "none in common. Node 2 runs the older build: upgrade by way of a build that speaks both 3 and 4";
    assert_eq!(at_the_newest, format!("node 1 speaks peer protocol 4, and node 2 speaks 3: {way_out}"));
    assert_eq!(at_the_old, format!("node 2 speaks peer protocol 3, and node 1 speaks 4: {way_out}"));
    // Builds without a range look at the number alone.
    assert_eq!((newest.protocol, old.protocol), (NEWEST.min, OLD.min));
    let without_range = Hello { protocols: None, ..old.clone() };
    assert_eq!(handshake::check_hello(net.replica(0), &without_range, net.now(0)).unwrap_err(), at_the_newest);
    // A range that is none has nothing in common with any.
    let no_range = Hello { protocols: Some(Protocols { min: NEW.max, max: OLD.min }), ..old };
    let refused = handshake::check_hello(net.replica(0), &no_range, net.now(0)).unwrap_err();
    assert!(refused.contains("node 2 speaks 4 to 3: none in common"), "{refused}");
}

/// The shipped protocols reach builds that know of no range.
#[test]
fn this_build_speaks_with_the_one_before() {
    let mut net = Net::new(&[0, 0]);
    let hello = Hello { protocols: None, ..handshake::hello(net.replica(1), net.now(1)) };
    assert_eq!(handshake::check_hello(net.replica(0), &hello, net.now(0)), Ok((peer_index(0, 1), Protocol::OLDEST)));
    assert_eq!(handshake::hello(net.replica(0), net.now(0)).protocol, Protocol::OLDEST);
    net.restart_with(0, NEW);
    assert_eq!(handshake::hello(net.replica(0), net.now(0)).protocol, Protocol::OLDEST);
}
