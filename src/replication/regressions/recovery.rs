//! A node that catches up: what it may vouch for meanwhile, and when it opens.

use super::*;

// A node asks its peers for dumps in this order.
const T: usize = 0;
const P: usize = 1;

/// What came in live frames while the node was RECOVERING, but behind a gap, was vouched for once the node was open.
#[test]
fn a_run_taken_while_recovering_is_not_vouched_for_after_opening() {
    let mut net = Net::new(&[5000, 0, 5000]);
    net.both(T, D);
    net.both(P, D);
    net.both(P, T);
    let all = [(T, D), (D, T), (P, D), (D, P), (P, T), (T, P)];
    net.settle(4, &all);
    net.put(P, "a", "1");
    net.settle(2, &all);
    // X: acknowledged at majority {T, D}; its frame to P is slow.
    let position = net.mesh(T).submit().position();
    let x = net.put(T, "k", "X");
    net.pump(T, D);
    net.pump(D, T);
    {
        let round = net.mesh(T).acks().open_round(AckLevel::Majority, position);
        assert!(acked!(net, round, x), "X is not acked");
    }
    // D restarts, blank. It asks T first.
    net.reborn(D);
    net.both(T, D);
    net.both(P, D);
    net.pump(D, T); // request, beat
    net.pump(D, P); // beat
    net.pump(P, D); // beat, echo: P is up at D
    // w begins after X was acknowledged.
    assert!(net.mesh(P).acks().quorum(AckLevel::Majority).is_ok());
    let mesh: &Mesh = net.mesh(P);
    let round = mesh.acks().open_round(AckLevel::Majority, mesh.submit().position());
    let w = net.put(P, "k", "w");
    assert!(w < x);
    net.pump(P, D); // live, behind D's gap; D is recovering and lacks X
    assert!(!net.mesh(D).is_open());
    assert_eq!(net.get(D, "k").as_deref(), Some("w"));
    net.pump(T, D); // T's dump: X beats w at D; D has caught up with both, and opens
    assert_eq!(net.get(D, "k").as_deref(), Some("X"));
    net.mesh(D).tick(net.now(D));
    assert!(net.mesh(D).is_open());
    net.mesh(P).tick(net.now(P));
    net.pump(P, D); // a beat: the run joins
    net.pump(D, P); // the ack
    println!("k at D: {:?}, w: {:?}", net.get(D, "k"), round.poll(&[w]));
    assert!(round.poll(&[w]) != Some(Waited::Met), "I8: w is acknowledged at {{P, D}} and lost to X, acknowledged before it began");
}

/// The same without a gap: `is_open` was asked after the merge, and the node opened between the two.
#[test]
fn a_frame_merged_while_recovering_is_not_vouched_for_if_the_node_opens_before_it_passes() {
    let mut net = Net::new(&[5000, 0, 5000]);
    let all = [(T, D), (D, T), (P, D), (D, P), (P, T), (T, P)];
    net.both(T, D);
    net.both(P, D);
    net.both(P, T);
    net.settle(4, &all);
    let position = net.mesh(T).submit().position();
    let x = net.put(T, "k", "X");
    net.pump(T, D);
    net.pump(D, T);
    {
        let round = net.mesh(T).acks().open_round(AckLevel::Majority, position);
        assert!(acked!(net, round, x), "X is not acked");
    }
    net.reborn(D);
    net.both(T, D);
    net.both(P, D);
    net.pump(D, T);
    net.pump(D, P);
    net.pump(P, D);
    let mesh: &Mesh = net.mesh(P);
    assert!(mesh.acks().quorum(AckLevel::Majority).is_ok());
    let round = mesh.acks().open_round(AckLevel::Majority, mesh.submit().position());
    let wall_ms = net.now(P).wall_ms;
    let write = |key: &[u8]| {
        mesh.submit().write::<()>(key, 32, wall_ms, &Deadline::within(Duration::ZERO), |_| Ok(Effect::put(key, b"w", None))).unwrap()
    };
    let w = write(b"k");
    let k = net.shard_of(D, "k");
    let busy = net.key_where(D, |shard| shard != k);
    write(busy.as_bytes());
    let submitted: Vec<Submitted> = net.lives[P].rx.try_iter().collect();
    let room = mesh.submit().held(submitted.iter().map(|submitted| submitted.reserved).sum());
    let writes: Vec<_> = submitted.into_iter().map(|submitted| submitted.entry).collect();
    mesh.hand_over(&net.lives[P].framer.frame(&writes), room);
    let frames = net.flush(P, D);
    let mut rest = Vec::new();
    for message in net.flush(T, D) {
        match message {
            Message::Lines(lines) => {
                let header = lines.iter().position(|b| *b == b'\n').unwrap() + 1;
                rest.push(Message::Lines(lines[header..].to_vec()));
                net.deliver(T, D, vec![Message::Lines(lines[..header].to_vec())]);
            }
            other => net.deliver(T, D, vec![other]),
        }
    }
    let at_d = net.mesh(D);
    let now = net.now(D);
    let mut from_p = net.links.remove(&(P, D)).unwrap();
    std::thread::scope(|scope| {
        // The frame's second write finds its shard busy.
        let _ = at_d.store().write::<()>(busy.as_bytes(), |_| {
            let from_p = &mut from_p;
            scope.spawn(move || frames.into_iter().for_each(|message| at_d.receive(from_p, message, now).unwrap()));
            wait_until(|| at_d.store().get(b"k").is_some());
            net.deliver(T, D, rest);
            Err(())
        });
    });
    net.links.insert((P, D), from_p);
    assert!(at_d.is_open());
    net.pump(D, P);
    println!("k at D: {:?}, w: {:?}", net.get(D, "k"), round.poll(&[w]));
    assert!(round.poll(&[w]) != Some(Waited::Met), "I8: w is acknowledged at {{P, D}} and lost to X, acknowledged before it began");
}

/// Two donors whose dumps did not get on excused each other, and the node never opened.
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
        for node in [P, T, D] {
            net.mesh(node).tick(net.now(node));
        }
        for donor in [P, T] {
            let to_donor = net.flush(D, donor).into_iter().filter(|m| !matches!(m, Message::Request(_))).collect();
            net.deliver(D, donor, to_donor);
            net.pump(donor, D);
        }
        if net.mesh(D).is_open() {
            return;
        }
    }
    panic!("still recovering after 5 s; recovery_wait is 1.5 s");
}

/// A peer that is restarted again and again kept another node, which had caught up with everybody else, from opening.
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
        let inbound = net.links.remove(&(T, D)).unwrap();
        net.mesh(D).closed(&inbound, net.now(D));
        for _ in 0..8 {
            net.elapsed += Duration::from_millis(100);
            net.settle(1, &[(P, D), (D, P)]);
        }
        if net.mesh(D).is_open() {
            assert!(net.get(D, "p").is_some());
            return;
        }
    }
    panic!("still recovering after 4 s although all of P is here; recovery_wait is 1.5 s");
}

/// A peer whose dump has to wait for another one's is waited for as long as that gets on.
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
    let lines = net.flush(T, D).into_iter().find_map(|message| match message {
        Message::Lines(lines) => Some(lines),
        _ => None,
    });
    let lines = lines.expect("T is asked first");
    // A line every 300 ms, twelve seconds in all; recovery_wait is 1.5 s.
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        net.elapsed += Duration::from_millis(300);
        net.deliver(T, D, vec![Message::Lines(line.to_vec())]);
        assert!(net.get(D, "p").is_some() || !net.mesh(D).is_open(), "open without P's write");
        net.settle(1, &[(D, P), (P, D), (D, T)]);
        let rest = net.flush(T, D);
        net.deliver(T, D, rest);
    }
    net.settle(5, &[(D, P), (P, D), (D, T), (T, D)]);
    assert!(net.mesh(D).is_open() && net.get(D, "p").is_some() && net.get(D, "t39").is_some());
}
