//! Proofs: what proves to the tombstone GC that a peer has a delete, and what does not (I6 a).

use super::*;

fn cut(net: &mut Net, a: usize, b: usize) {
    for (from, to) in [(a, b), (b, a)] {
        net.hang_up(from, to);
        handshake::hung_up(net.replica(from), peer_index(from, to), net.now(from));
    }
}

/// The vector of a peer that was away counted as a proof although another peer had lost its disk
/// since, and the first one had received that one's writes meanwhile. A node forgot a delete
/// without having received a write that the delete deleted. An old copy of the lost disk brought
/// the write back, on all nodes and for good.
#[test]
fn the_word_of_a_peer_that_is_away_proves_nothing_once_another_has_lost_its_disk() {
    const A: usize = 0;
    const B: usize = 1;
    const C: usize = 2;
    let mut net = Net::new(&[0, 0, 0]);
    net.connect_all();
    net.put(A, "k", "v0");
    net.settle(6, &ALL);
    cut(&mut net, A, C);
    cut(&mut net, B, C);
    // C, cut off, writes; a majority of others deletes.
    net.put(C, "k", "w");
    net.elapsed += Duration::from_millis(2);
    net.delete(A, "k");
    net.settle(6, &[(A, B), (B, A)]);
    cut(&mut net, A, B);
    // C's write reaches B, from which A receives nothing any more.
    net.both(B, C);
    net.settle(6, &[(B, C), (C, B)]);
    assert_eq!((net.get(B, "k"), net.get(C, "k")), (None, None));
    cut(&mut net, B, C);
    net.reborn(C);
    net.both(A, C);
    net.settle(60, &[(A, C), (C, A)]);
    assert!(net.replica(C).vector().covers_all(&net.replica(A).vector()), "C has caught up with A");
    assert_eq!(net.collect(A), 0, "A forgets a delete, and has not heard of the write of C that it deleted");
    // With B back, A receives it.
    net.both(A, B);
    net.both(B, C);
    net.settle(30, &ALL);
    assert_eq!(net.collect(A), 1);
}

/// A node whose disk was full sent its vector all the same. A peer that believed it forgot a delete
/// that the node did not know any more after a restart.
#[test]
fn what_a_peer_has_on_no_disk_proves_nothing() {
    let (mut net, disk, mut writer) = Net::with_a_log(Fsync::Always);
    let replica = net.replica(1);
    let mut marking = None;
    let mut settle = |net: &mut Net, rounds| {
        for _ in 0..rounds {
            replica.persistence.mark(&mut marking, || replica.submit.position());
            net.settle(1, &[(0, 1), (1, 0)]);
            writer.step(Duration::ZERO, Instant::now, &mut |origin, upto| replica.persistence().durable(origin, upto));
        }
    };
    net.delete(0, "first");
    settle(&mut net, 20);
    assert_eq!(net.collect(0), 1);
    disk.set_capacity(Some(disk.used()));
    let stamp = net.delete(0, "second");
    settle(&mut net, 20);
    assert!(!replica.persistence().is_writable() && replica.vector().get(net.replica(0).origin()) >= stamp, "merged, and not logged");
    assert_eq!(net.collect(0), 0, "the peer would not know the delete any more after a restart");
}
