//! Sessions that wait for acks, and the threads that bring them, in many orders of their steps.

use super::*;
use crate::data::version::{NodeId, Origin};
use crate::testing::interleavings::{explore, finds};

/// Two peers that are up, and two members for a majority.
fn acks(waits_for_disk: bool) -> Acks {
    let acks = Acks::new(2, 2, Duration::from_secs(60), waits_for_disk);
    acks.set_up(0, true);
    acks.set_up(1, true);
    acks
}

fn stamp(bits: u64) -> Stamp {
    Stamp::from_bits(bits)
}

fn written(bits: u64) -> Written {
    Written::at(stamp(bits), Duration::ZERO)
}

fn acknowledge(acks: &Acks, peer: usize, upto: u64) {
    let (origin, upto) = (Origin { node: NodeId(1), nonce: 1 }, stamp(upto));
    acks.acknowledge(peer, &Ack { origin, from: Stamp::ZERO, upto, received: upto, clocks: None }, Duration::ZERO);
}

fn far() -> Deadline {
    Deadline::within(Duration::from_secs(3_600))
}

/// Sessions of every level wait for one write and then for the next, while two peers and the disk
/// acknowledge them.
fn sessions_wait() {
    let acks = acks(true);
    thread::scope(|scope| {
        for levels in [[AckLevel::Majority, AckLevel::Local], [AckLevel::All, AckLevel::Majority]] {
            let acks = &acks;
            scope.spawn(move || {
                for (level, upto) in levels.into_iter().zip(1..) {
                    let round = acks.open_round(level);
                    assert_eq!(round.wait(written(upto), &far()), AckOutcome::Reached);
                    assert!(round.is_met(written(upto)), "woken, and the level is not reached");
                }
            });
        }
        for peer in 0..2 {
            let acks = &acks;
            scope.spawn(move || (1..=2).for_each(|upto| acknowledge(acks, peer, upto)));
        }
        scope.spawn(|| (1..=2).for_each(|upto| acks.durable(stamp(upto))));
    });
    assert_eq!(acks.waiting_len(), 0);
    assert!(!acks.is_awaited());
}

#[test]
fn no_session_sleeps_on_when_its_level_is_reached() {
    explore(sessions_wait);
    finds(BrokenHandOver::SessionQueuesLater, "deadlock", sessions_wait);
}

/// A session waits for all members; one of two peers acknowledges, and the other is given up: since
/// it is down, or since it lags.
fn a_peer_is_given_up(give_up: impl FnOnce(&Acks) + Send) {
    let acks = acks(false);
    acks.observe_lag(stamp(1), 1, Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(acks.open_round(AckLevel::All).wait(written(1), &far()), AckOutcome::Reached));
        scope.spawn(|| acknowledge(&acks, 0, 1));
        scope.spawn(|| give_up(&acks));
    });
    assert_eq!(acks.waiting_len(), 0);
}

fn a_peer_goes_down() {
    a_peer_is_given_up(|acks| acks.set_up(1, false));
}

/// It is the acknowledging peer that may lag, too, for the one look.
fn a_peer_lags() {
    a_peer_is_given_up(|acks| acks.observe_lag(stamp(1), 1, Duration::from_secs(61)));
}

#[test]
fn who_waits_for_all_members_is_answered_when_one_is_given_up() {
    explore(a_peer_goes_down);
    explore(a_peer_lags);
    finds(BrokenHandOver::GivingUpWakesNobody, "deadlock", a_peer_goes_down);
}

/// A session gives up its first write at once, or not, as the ack comes. Then it waits for another.
fn a_session_gives_up() {
    let acks = acks(false);
    let is_second_sent = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let first = acks.open_round(AckLevel::Majority).wait(written(1), &Deadline::within(Duration::ZERO));
            assert!(first == AckOutcome::TimedOut || acks.open_round(AckLevel::Majority).is_met(written(1)));
            let second = acks.open_round(AckLevel::Majority).wait(written(2), &far());
            assert_eq!(second, AckOutcome::Reached);
            assert!(is_second_sent.load(Ordering::SeqCst), "answered before the ack");
        });
        scope.spawn(|| {
            acknowledge(&acks, 0, 1);
            thread::yield_now();
            is_second_sent.store(true, Ordering::SeqCst);
            acknowledge(&acks, 0, 2);
        });
    });
    assert_eq!(acks.waiting_len(), 0);
    assert!(!acks.is_awaited());
}

#[test]
fn a_session_that_gave_up_is_not_answered_by_what_came_too_late() {
    explore(a_session_gives_up);
    finds(BrokenHandOver::NewsOfLastWait, "answered before the ack", a_session_gives_up);
}

/// One caller waits until both peers hold a write, and another one does not wait.
fn holders_are_counted() {
    let acks = acks(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let held = acks.await_replica_count(HeldIn::Memory, stamp(1), far().at(), |held| held.peers == 2);
            assert_eq!(held, ReplicaCount { here: true, peers: 2 });
        });
        scope.spawn(|| acks.await_replica_count(HeldIn::Memory, stamp(1), Instant::now(), |held| held.peers == 2));
        scope.spawn(|| acknowledge(&acks, 0, 1));
        scope.spawn(|| acks.covered(1, stamp(1)));
    });
    assert!(!acks.is_awaited());
}

#[test]
fn who_counts_holders_hears_of_every_one() {
    explore(holders_are_counted);
    finds(BrokenHandOver::CountersNotTold, "deadlock", holders_are_counted);
}
