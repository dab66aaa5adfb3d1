//! Recovery: a node that catches up, and when it opens.

use super::*;

// A node asks its peers for dumps in this order.
const T: usize = 0;
const P: usize = 1;

/// Two donors whose dumps made no progress excused each other, and the node never opened.
#[test]
fn two_donors_that_never_serve_do_not_keep_a_node_recovering() {
    let mut net = Net::new(&[0, 0, 0]);
    net.put(P, "p", "1");
    net.put(T, "t", "1");
    net.reborn(D);
    net.both(P, D);
    net.both(T, D);
    for _ in 0..100 {
        net.elapsed += Duration::from_millis(50);
        net.tick_all();
        for donor in [P, T] {
            let to_donor = net.flush(D, donor).into_iter().filter(|m| !matches!(m, Message::Request(_))).collect();
            net.deliver(D, donor, to_donor);
            net.pump(donor, D);
        }
        if net.replica(D).is_open() {
            return;
        }
    }
    panic!("still recovering after 5 s; recovery_wait is 1.5 s");
}

/// A peer that is restarted again and again kept another node, which had caught up with all others,
/// from opening.
#[test]
fn a_peer_that_crash_loops_does_not_keep_a_node_recovering() {
    let mut net = Net::new(&[0, 0, 0]);
    net.put(P, "p", "1");
    net.reborn(D);
    net.both(P, D);
    for _ in 0..4 {
        net.reborn(T);
        net.connect(T, D);
        net.settle(5, &[(P, D), (D, P), (T, D)]);
        net.elapsed += Duration::from_millis(100);
        net.hang_up(T, D);
        for _ in 0..8 {
            net.elapsed += Duration::from_millis(100);
            net.settle(1, &[(P, D), (D, P)]);
        }
        if net.replica(D).is_open() {
            assert!(net.get(D, "p").is_some());
            return;
        }
    }
    panic!("still recovering after 4 s although all of P is here; recovery_wait is 1.5 s");
}

/// A peer whose dump has to wait for another one's is waited for as long as that makes progress.
#[test]
fn a_donor_that_waits_for_its_turn_is_waited_for() {
    let mut net = Net::new(&[0, 0, 0]);
    for n in 0..40 {
        net.put(T, &format!("t{n}"), "1");
    }
    net.put(P, "p", "1");
    net.reborn(D);
    net.both(T, D);
    net.both(P, D);
    net.settle(2, &[(D, T), (D, P), (P, D)]);
    let dump = net.flush(T, D);
    let lines = lines_of(&dump).expect("T is asked first");
    // A line every 300 ms, twelve seconds in all; recovery_wait is 1.5 s.
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        net.elapsed += Duration::from_millis(300);
        net.deliver(T, D, vec![Message::Lines(line.to_vec())]);
        assert!(net.get(D, "p").is_some() || !net.replica(D).is_open(), "open without P's write");
        net.settle(1, &[(D, P), (P, D), (D, T)]);
        let rest = net.flush(T, D);
        net.deliver(T, D, rest);
    }
    net.settle(5, &[(D, P), (P, D), (D, T), (T, D)]);
    assert!(net.replica(D).is_open() && net.get(D, "p").is_some() && net.get(D, "t39").is_some());
}
