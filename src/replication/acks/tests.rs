use super::*;
use crate::clock::Clock;
use crate::entry::NodeId;

mod model;

const WINNER: Origin = Origin { node: NodeId(2), nonce: 1 };

fn stamp(bits: u64) -> Stamp {
    Stamp::from_bits(bits)
}

fn ack(upto: u64) -> Ack {
    let origin = Origin { node: NodeId(1), nonce: 1 };
    let (upto, none) = (stamp(upto), Stamp::ZERO);
    Ack { origin, from: none, upto, received: upto, beaten: Vec::new(), winner: none }
}

fn acks() -> Acks {
    Acks::new(2, 2, Duration::from_secs(60), false)
}

#[test]
fn a_write_that_lost_here_counts_as_beaten_when_its_winner_is_acknowledged() {
    let acks = acks();
    let round = acks.open_round(AckLevel::Majority, stamp(1));
    acks.note_losing(WINNER, stamp(9), vec![stamp(1), stamp(3)]);
    acks.acknowledged(WINNER, stamp(8));
    assert_eq!(round.poll(&[stamp(3)]), None);
    acks.acknowledged(WINNER, stamp(9));
    assert_eq!(round.poll(&[stamp(3)]), Some(Waited::Beaten(vec![stamp(3)])));
}

#[test]
fn an_ack_takes_out_the_rounds_that_it_meets_and_leaves_the_others() {
    let acks = acks();
    acks.set_up(0, true);
    acks.set_up(1, true);
    // The last one has overtaken others on its way.
    let rounds = [(AckLevel::All, 1, 2), (AckLevel::Majority, 3, 4), (AckLevel::Majority, 5, 9), (AckLevel::Majority, 1, 3)];
    std::thread::scope(|scope| {
        let waits = rounds.map(|(level, floor, stamp_of)| {
            let round = acks.open_round(level, stamp(floor));
            scope.spawn(move || round.wait(&[stamp(stamp_of)], &Deadline::within(Duration::from_secs(60))))
        });
        while acks.waiting_len() < 4 {
            std::thread::yield_now();
        }
        let floors = |acks: &Acks| acks.table.lock().open.iter().map(|open| open.place.floor).collect::<Vec<_>>();
        assert_eq!(floors(&acks), [stamp(1), stamp(1), stamp(3), stamp(5)]);
        acks.acknowledge(0, &ack(8));
        assert_eq!(floors(&acks), [stamp(1), stamp(5)]);
        acks.acknowledge(1, &ack(9));
        assert_eq!(waits.map(|waits| waits.join().unwrap()), [const { Waited::Met }; 4]);
    });
    assert!(acks.table.lock().open.is_empty());
}

#[test]
fn what_lost_is_remembered_until_no_round_is_open_that_could_have_written_it() {
    let acks = acks();
    let rounds = [5, 2, 7].map(|floor| acks.open_round(AckLevel::Majority, stamp(floor)));
    acks.note_beaten(&[stamp(2), stamp(3), stamp(6), stamp(8)]);
    let beaten = || acks.table.lock().beaten.iter().copied().collect::<Vec<_>>();
    let [first, lowest, last] = rounds;
    assert_eq!(lowest.poll(&[stamp(3)]), Some(Waited::Beaten(vec![stamp(3)])));
    assert_eq!(beaten(), [stamp(3), stamp(6), stamp(8)]);
    drop(lowest);
    assert_eq!(beaten(), [stamp(6), stamp(8)]);
    drop(last);
    assert_eq!(beaten(), [stamp(6), stamp(8)]);
    drop(first);
    assert_eq!(beaten(), []);
}

#[test]
fn a_round_that_is_not_met_in_time_stays_open() {
    let acks = acks();
    let round = acks.open_round(AckLevel::Majority, stamp(1));
    assert_eq!(round.wait(&[stamp(2)], &Deadline::within(Duration::ZERO)), Waited::TimedOut);
    assert_eq!(acks.waiting_len(), 0);
    acks.note_beaten(&[stamp(2)]);
    assert_eq!(round.wait(&[stamp(2)], &Deadline::within(Duration::ZERO)), Waited::Beaten(vec![stamp(2)]));
    acks.acknowledge(0, &ack(3));
    assert_eq!(round.wait(&[stamp(3)], &Deadline::within(Duration::ZERO)), Waited::Met);
}

#[test]
fn no_session_sleeps_on_when_its_round_is_met_or_beaten() {
    let (acks, clock, sessions) = (acks(), Clock::default(), AtomicUsize::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let round = acks.open_round(AckLevel::Majority, clock.last());
                    let mut own = clock.issue(1);
                    loop {
                        match round.wait(&[own], &Deadline::within(Duration::from_secs(60))) {
                            Waited::Met => break,
                            Waited::Beaten(beaten) => assert_eq!(beaten, [own]),
                            Waited::TimedOut => panic!("{own} was acknowledged"),
                        }
                        own = clock.issue(1);
                    }
                }
                sessions.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for peer in 0..2 {
            let (acks, clock, sessions) = (&acks, &clock, &sessions);
            scope.spawn(move || {
                for n in 0.. {
                    let upto = clock.last();
                    let beaten = if n % 3 == 0 { vec![upto] } else { Vec::new() };
                    acks.acknowledge(peer, &Ack { beaten, ..ack(upto.to_bits()) });
                    if sessions.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                    std::thread::yield_now();
                }
            });
        }
    });
    let table = acks.table.lock();
    assert!(table.open.is_empty() && table.beaten.is_empty());
}

/// The session is woken, and has not looked yet when a write is stamped above its own.
#[test]
fn what_has_met_its_level_is_done_whatever_beats_it_before_its_session_looks() {
    let acks = acks();
    for n in 1..50 {
        std::thread::scope(|scope| {
            let round = acks.open_round(AckLevel::Majority, stamp(10 * n));
            let waits = scope.spawn(move || round.wait(&[stamp(10 * n + 1)], &Deadline::within(Duration::from_secs(60))));
            while acks.waiting_len() == 0 {
                std::thread::yield_now();
            }
            acks.acknowledge(0, &ack(10 * n + 1));
            acks.note_beaten(&[stamp(10 * n + 1)]);
            assert_eq!(waits.join().unwrap(), Waited::Met);
        });
    }
}
