//! The replicator's thread and sessions that make batches in its place, in many orders of their
//! steps. What runs is a whole node without its other threads.

use super::tests::{batches, node};
use super::*;
use crate::sync::thread;
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::testing::interleavings::{explore, finds};
use crate::testing::simulated_node::submit;
use crate::wire::ack_level::AckLevel;

const SESSIONS: usize = 2;
/// Writes of each, two by two: a session that pipelines hands over several at once.
const WRITES: usize = 4;

/// Sessions that take each other for gone, beside the thread.
fn sessions_beside_the_thread() {
    let node = node();
    let (replica, replicator) = (&node.replica, &node.replicator);
    // Somebody waits, so the thread does not pause.
    let _round = replica.acks().open_round(AckLevel::Majority);
    thread::scope(|scope| {
        scope.spawn(|| replicator.run(replica));
        let sessions = [(); SESSIONS].map(|()| {
            scope.spawn(|| {
                for _ in 0..WRITES / 2 {
                    submit(replica, "key", Some(b"v"), Duration::ZERO);
                    submit(replica, "key", Some(b"v"), Duration::ZERO);
                    replicator.hand_over_early(replica);
                }
            })
        });
        sessions.into_iter().for_each(|session| session.join().unwrap());
        replica.submit().close();
    });
    let (mut after, mut count) = (Stamp::ZERO, 0);
    for (begin, stamps) in batches(&node) {
        assert_eq!(begin, after, "a batch does not begin where the last one has ended");
        (after, count) = (*stamps.last().unwrap(), count + stamps.len());
    }
    assert_eq!((after, count), (replica.submit().position(), SESSIONS * WRITES), "a write was not handed over");
}

#[test]
fn interleavings_of_sessions_and_the_replicator() {
    explore(sessions_beside_the_thread);
    finds(BrokenHandOver::TakenUnlocked, "no batch that a peer takes", sessions_beside_the_thread);
}
