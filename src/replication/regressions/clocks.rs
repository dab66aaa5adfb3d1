//! Clocks that are wrong, and machines that sleep: which stamps are issued, and which acks count.

use super::*;
use crate::replication::stamps;

const HOUR_MS: u64 = 3_600_000;

/// X is acknowledged. A node that learns of it, by whatever message, stamps above it from then on,
/// and goes on at its pace.
#[test]
fn all_members_stamp_at_the_pace_of_the_fastest() {
    let mut net = Net::new(&[0, 3000, 0]);
    net.both(T, D);
    net.both(P, D);
    let x = net.put(T, "k", "X");
    net.pump(T, D);
    net.pump(D, T);
    assert!(is_acked(&net, T, x));
    // D's clock has jumped: it announces that at once, and not with its next heartbeat.
    net.pump(D, P);
    net.elapsed += Duration::from_secs(2);
    let w = net.put(P, "k", "w");
    assert!(w.wall_ms() >= x.wall_ms() + 2000, "{w} after {x}");
}

/// A machine is suspended while others write, and its stamp clock has stood still. It wakes, and a
/// write of it reaches a peer before anything else happens.
#[test]
fn an_ack_does_not_count_for_a_write_whose_clock_has_stood_still() {
    let mut net = Net::new(&[0, 0, 0]);
    net.connect_all();
    net.settle(4, &ALL);
    net.elapsed += Duration::from_millis(900);
    net.slept[P] = Duration::from_millis(900);
    let x = net.put(T, "k", "X");
    net.pump(T, D);
    net.pump(D, T);
    assert!(is_acked(&net, T, x));
    let w = net.put(P, "k", "w");
    assert!(w < x);
    net.pump(P, D);
    net.pump(D, P);
    assert!(!is_acked(&net, P, w), "w is acknowledged at {{P, D}} and lost to X, which was acknowledged before it began");
    // It has received the others' clocks by now.
    net.elapsed += Duration::from_millis(1);
    let later = net.put(P, "k", "later");
    net.pump(P, D);
    net.pump(D, P);
    assert!(later > x && is_acked(&net, P, later));
}

/// A write waits for long on a machine that is awake: time has passed for it, too, and its late ack
/// counts.
#[test]
fn an_ack_that_comes_late_counts() {
    let mut net = Net::new(&[0, 0, 0]);
    net.both(P, D);
    net.settle(4, &[(P, D), (D, P)]);
    let began = net.now(P).elapsed;
    let w = net.put(P, "k", "w");
    net.elapsed += Duration::from_millis(400);
    net.pump(P, D);
    net.elapsed += Duration::from_millis(400);
    net.pump(D, P);
    assert!(net.replica(P).acks().open_round(AckLevel::Majority).is_met(Written::at(w, began)));
}

/// A wall clock that steps for a while is no reason to refuse a peer, and no stamp follows it.
#[test]
fn a_wall_clock_that_is_wrong_for_seconds_changes_nothing() {
    let mut net = Net::new(&[0, 0, 0]);
    let all = [(T, D), (D, T), (P, D), (D, P)];
    net.both(T, D);
    net.both(P, D);
    net.settle(10, &all);
    let before = net.put(T, "k", "before");
    net.offsets[T] = HOUR_MS;
    net.settle(250, &all);
    assert!(net.knock(T, D).is_ok());
    let during = net.put(T, "k", "during");
    assert!(during.wall_ms() - before.wall_ms() < 6_000, "{before}, {during}");
    net.offsets[T] = 0;
    net.settle(10, &all);
    assert_eq!(net.get(D, "k").as_deref(), Some("during"));
}

/// Two nodes whose clocks are an hour apart, and no third that could decide which is wrong: neither
/// opens, and each names the other.
#[test]
fn of_two_that_differ_neither_opens_and_with_a_third_the_two_that_agree_do() {
    let mut net = Net::closed(&[0, HOUR_MS, 0]);
    net.both(T, D);
    net.elapsed += Duration::from_secs(2);
    for (node, other) in [(T, "node 3"), (D, "node 2")] {
        net.tick(node);
        assert!(!net.replica(node).is_open());
        let loading = status::loading(net.replica(node), net.now(node));
        assert!(loading.starts_with("the clock of this node is more than 10000 ms from that of ") && loading.contains(other), "{loading}");
    }
    net.both(P, D);
    net.both(P, T);
    for (from, to) in [(P, D), (D, P), (P, D), (D, P)] {
        net.pump(from, to);
    }
    net.tick_all();
    assert_eq!([P, T, D].map(|node| net.replica(node).is_open()), [true, false, true]);
}

/// A node follows stamps that are far ahead on its own disk. From peers it takes no more than is
/// allowed, in all.
#[test]
fn stamps_are_held_against_the_reference_clock_however_many_come() {
    let net = Net::new(&[0, 0]);
    let (replica, now) = (net.replica(0), net.now(0));
    net.submit(0, "k", Some(b"v"));
    for ahead_ms in (0..60).map(|n| n * 9_000) {
        let stamp = Stamp::from_wall_ms(now.wall_ms + ahead_ms);
        match stamps::check_stamp(replica, stamp, now) {
            Ok(()) => stamps::observe(replica, stamp, now),
            Err(why) => {
                assert!(ahead_ms > 10_000, "{why}");
                assert!(
                    why.contains(&format!("is {ahead_ms} ms ahead of this node's clock")) && why.contains("clock_offset_max_ms above"),
                    "{why}"
                );
            }
        }
    }
    assert!(replica.clock().last().wall_ms() <= now.wall_ms + 10_000);
}

/// A heartbeat on a narrow link has waited behind a large value. Its clock shows how late it is,
/// and not that its sender's clock is wrong.
#[test]
fn a_heartbeat_that_comes_late_refuses_no_peer() {
    let mut net = Net::new(&[0, 0, 0]);
    net.both(T, D);
    net.put(T, "own", "v");
    net.put(D, "own", "v");
    net.tick(T);
    let late: Vec<Message> = net.flush(T, D).into_iter().filter(|message| matches!(message, Message::Heartbeat(_))).collect();
    assert!(!late.is_empty());
    net.elapsed += Duration::from_secs(15);
    net.deliver(T, D, late);
    // A clock that is ahead is not explained by lateness.
    net.offsets[T] = 60_000;
    net.reborn(T);
    let hello = handshake::hello(net.replica(T), net.now(T));
    assert!(handshake::check_hello(net.replica(D), &hello, net.now(D)).is_err());
}

/// A machine's clocks have stood still for longer than clocks may differ, and its wall clock is
/// right. With the first member that it meets it follows the wall clock.
#[test]
fn a_machine_that_was_suspended_for_long_comes_back_by_its_wall_clock() {
    let mut net = Net::new(&[0, 0, 0]);
    for node in [P, T, D] {
        net.put(node, "own", "v");
    }
    net.elapsed += Duration::from_secs(60);
    net.slept[P] = Duration::from_secs(60);
    for node in [T, D] {
        let refused = net.knock(P, node).unwrap_err();
        assert!(refused.contains("node 1 and node ") && refused.contains("-60000 ms apart"), "{refused}");
        net.tick(node);
        assert!(net.knock(node, P).is_err());
    }
    net.tick(P);
    net.both(P, D);
    net.both(P, T);
    assert!(net.put(P, "k", "w").wall_ms() >= BASE + 60_000);
}

/// A node begins with a clock that is an hour ahead, and the clock is set right before the node has
/// written anything. Then it opens, and its stamps and the clocks that it sends are like those of
/// the others.
#[test]
fn a_clock_that_was_wrong_at_the_start_and_is_set_right_leaves_nothing_behind() {
    let mut net = Net::closed(&[HOUR_MS, 0, 0]);
    for node in [T, D] {
        net.put(node, "own", "v");
    }
    net.elapsed += Duration::from_secs(2);
    for (node, other) in [(P, T), (P, D), (T, P), (D, P)] {
        let met = net.knock(other, node);
        assert!(met.is_err() || node == P, "a blank node refuses no peer");
    }
    net.tick(P);
    assert!(!net.replica(P).is_open());
    net.offsets[P] = 0;
    for other in [T, D] {
        net.knock(other, P).unwrap();
    }
    net.tick(P);
    net.both(P, D);
    net.both(P, T);
    let clocks = net.replica(P).clock().read(net.now(P).elapsed);
    let soon_us = (net.now(P).wall_ms + 1_000) * 1_000;
    assert!(clocks.stamp_us < soon_us && clocks.reference_us < soon_us, "{clocks:?}");
    let w = net.put(P, "k", "w");
    net.pump(P, D);
    assert!(w.wall_ms() < net.now(P).wall_ms + 1_000);
    assert_eq!(net.get(D, "k").as_deref(), Some("w"));
    // Its bound equals that of the others again.
    assert!(stamps::check_stamp(net.replica(P), Stamp::from_wall_ms(net.now(P).wall_ms + 20_000), net.now(P)).is_err());
}

/// A machine that was suspended for less than clocks may differ, and for more than floors are
/// taken, would acknowledge nothing for minutes.
#[test]
fn a_machine_that_was_suspended_for_seconds_follows_its_wall_clock_at_once() {
    let mut net = Net::new(&[0, 0, 0]);
    for node in [P, T, D] {
        net.put(node, "own", "v");
    }
    net.elapsed += Duration::from_secs(8);
    net.slept[P] = Duration::from_secs(8);
    net.both(P, D);
    net.both(P, T);
    net.tick(P);
    let clocks = net.replica(P).clock().read(net.now(P).elapsed);
    assert!(clocks.reference_us >= net.now(P).wall_ms * 1_000 - 1_000, "{clocks:?}");
}

/// Two of three machines were suspended, for different times: each is too far from the third, which
/// is right, and not too far from the other.
#[test]
fn two_machines_that_were_suspended_do_not_outvote_the_third() {
    let mut net = Net::new(&[0, 0, 0]);
    for node in [P, T, D] {
        net.put(node, "own", "v");
    }
    net.elapsed += Duration::from_secs(60);
    (net.slept[P], net.slept[T]) = (Duration::from_secs(17), Duration::from_secs(12));
    for (node, other) in [(P, T), (T, P), (P, D), (T, D), (D, P), (D, T)] {
        let met = net.knock(other, node);
        assert_eq!(met.is_err(), node == D || other == D);
    }
    net.tick_all();
    net.both(P, D);
    net.both(T, D);
    net.both(P, T);
}

/// A clock drifts by a hundredth of the time. The others refuse its node once it is too far off,
/// name it, and go on with each other.
#[test]
fn a_clock_that_drifts_is_refused_by_name_and_the_others_go_on() {
    let mut net = Net::new(&[0, 0, 0]);
    for node in [P, T, D] {
        net.put(node, "own", "v");
    }
    let mut refused_at = None;
    for second in 0..1_500 {
        net.elapsed += Duration::from_secs(1);
        net.offsets[P] += 10;
        let hello = handshake::hello(net.replica(P), net.now(P));
        let refused = [T, D].map(|node| handshake::check_hello(net.replica(node), &hello, net.now(node)));
        for (node, other) in [(T, D), (D, T), (P, D), (P, T)] {
            net.tick(node);
            let met = net.knock(other, node);
            assert!(met.is_ok() || node == P, "{met:?}");
        }
        if let [Err(one), Err(other)] = refused {
            assert!(
                one.contains("the clocks of node 1 and node 2 are ") && other.contains("the clocks of node 1 and node 3 are "),
                "{one}"
            );
            refused_at.get_or_insert(second);
        }
    }
    assert!((1_000..1_400).contains(&refused_at.unwrap()), "{refused_at:?}");
    // The stamps that it has issued by then have moved no other clock by more than half of what is
    // allowed.
    assert!(net.replica(D).clock().read(net.now(D).elapsed).stamp_us <= (net.now(D).wall_ms + 5_001) * 1_000);
}
