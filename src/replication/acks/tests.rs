use super::*;
use crate::data::clock::{Clock, Clocks, Now};
use crate::data::version::{NodeId, Origin};
use crate::testing::wait::until;

mod model;

fn stamp(bits: u64) -> Stamp {
    Stamp::from_bits(bits)
}

fn ack(upto: u64) -> Ack {
    let origin = Origin { node: NodeId(1), nonce: 1 };
    let upto = stamp(upto);
    Ack { origin, from: Stamp::ZERO, upto, received: upto, clocks: None }
}

/// A write that was stamped at once.
fn written(bits: u64) -> Written {
    Written::at(stamp(bits), Duration::ZERO)
}

fn acks() -> Acks {
    Acks::new(2, 2, Duration::from_secs(60), false)
}

#[test]
fn an_ack_wakes_the_sessions_whose_level_it_meets_and_no_others() {
    let acks = acks();
    acks.set_up(0, true);
    acks.set_up(1, true);
    // The last one has overtaken others on its way.
    let rounds = [(AckLevel::All, 2), (AckLevel::Majority, 4), (AckLevel::Majority, 9), (AckLevel::Majority, 3)];
    thread::scope(|scope| {
        let waits = rounds.map(|(level, upto)| {
            let round = acks.open_round(level);
            scope.spawn(move || round.wait(written(upto), &Deadline::within(Duration::from_secs(60))))
        });
        until("four sessions wait", || acks.waiting_len() == 4);
        let waiting = |acks: &Acks| acks.table.lock().waiting.stamps();
        assert_eq!(waiting(&acks), [stamp(2), stamp(3), stamp(4), stamp(9)]);
        acks.acknowledge(0, &ack(8), Duration::ZERO);
        assert_eq!(waiting(&acks), [stamp(2), stamp(9)]);
        acks.acknowledge(1, &ack(9), Duration::ZERO);
        assert_eq!(waits.map(|waits| waits.join().unwrap()), [AckOutcome::Reached; 4]);
    });
    assert_eq!(acks.table.lock().waiting.len(), 0);
    assert!(!acks.is_awaited());
}

/// `all` is every member that counts. A member that is up and has not come, within the time-out, to
/// where this node stood does not count.
#[test]
fn all_waits_for_no_peer_that_lags_nor_goes_on_waiting_when_one_begins_to() {
    let acks = acks();
    acks.set_up(0, true);
    acks.set_up(1, true);
    let look = |position, seconds| acks.observe_lag(stamp(position), 0, Duration::from_secs(seconds));
    thread::scope(|scope| {
        let round = acks.open_round(AckLevel::All);
        look(2, 0);
        acks.acknowledge(0, &ack(2), Duration::ZERO);
        assert!(!round.is_met(written(2)));
        let waits = scope.spawn(move || round.wait(written(2), &Deadline::within(Duration::from_secs(60))));
        until("a session waits", || acks.waiting_len() == 1);
        look(2, 61);
        assert_eq!(waits.join().unwrap(), AckOutcome::Reached);
    });
    let round = acks.open_round(AckLevel::All);
    assert!(!round.is_met(written(3)), "and never fewer than a majority");
    acks.acknowledge(0, &ack(3), Duration::ZERO);
    assert!(round.is_met(written(3)));
    // It has caught up, and counts again at once.
    acks.set_up(0, false);
    assert!(acks.quorum(AckLevel::Majority).is_err());
    acks.acknowledge(1, &ack(2), Duration::ZERO);
    assert!(acks.quorum(AckLevel::Majority).is_ok());
    acks.set_up(0, true);
    look(3, 62);
    assert!(!round.is_met(written(3)));
}

#[test]
fn a_round_that_is_not_met_in_time_can_be_asked_again() {
    let acks = acks();
    let round = acks.open_round(AckLevel::Majority);
    assert_eq!(round.wait(written(2), &Deadline::within(Duration::ZERO)), AckOutcome::TimedOut);
    assert_eq!(acks.waiting_len(), 0);
    assert!(acks.is_awaited() && !round.is_met(written(2)));
    acks.acknowledge(0, &ack(3), Duration::ZERO);
    assert!(round.is_met(written(3)) && !round.is_met(written(4)));
    assert_eq!(round.wait(written(3), &Deadline::within(Duration::ZERO)), AckOutcome::Reached);
}

#[test]
fn no_session_sleeps_on_when_its_round_is_met() {
    let (acks, clock, sessions) = (acks(), Clock::new(Now { wall_ms: 1, elapsed: Duration::ZERO }, Duration::ZERO), AtomicUsize::new(8));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let round = acks.open_round(AckLevel::Majority);
                    assert_eq!(
                        round.wait(Written::at(clock.issue(Duration::ZERO), Duration::ZERO), &Deadline::within(Duration::from_secs(60))),
                        AckOutcome::Reached
                    );
                }
                sessions.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for peer in 0..2 {
            let (acks, clock, sessions) = (&acks, &clock, &sessions);
            scope.spawn(move || {
                while sessions.load(Ordering::Relaxed) > 0 {
                    acks.acknowledge(peer, &ack(clock.last().to_bits()), Duration::ZERO);
                    thread::yield_now();
                }
            });
        }
    });
    assert_eq!(acks.table.lock().waiting.len(), 0);
}

/// The write was stamped at 1 000 ms by its node's clock, and ten milliseconds have passed there.
#[test]
fn an_ack_counts_if_its_senders_clock_has_come_no_further_than_time_has_passed() {
    for (stamp_us, counts) in [(900_000, true), (1_060_000, true), (1_060_001, false), (5_000_000, false)] {
        let acks = acks();
        let round = acks.open_round(AckLevel::Majority);
        let stamp = Stamp::from_wall_ms(1_000);
        let clocks = Some(Clocks { reference_us: 0, stamp_us });
        acks.acknowledge(0, &Ack { clocks, ..ack(stamp.to_bits()) }, Duration::from_millis(510));
        assert_eq!(round.is_met(Written::at(stamp, Duration::from_millis(500))), counts, "{stamp_us}");
    }
}
