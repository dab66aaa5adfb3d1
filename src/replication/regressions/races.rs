//! Two threads of a node that meet: the end line of a dump, and what another connection does meanwhile.

use super::*;

/// The end line of a connection that was replaced meanwhile wrote its `gap` over the newer connection's.
#[test]
fn the_end_line_of_a_replaced_connection_leaves_the_newer_ones_gap_alone() {
    let mut net = Net::new(&[0, 0]);
    let (t, d) = (0, 1);
    net.both(t, d);
    net.settle(4, &[(t, d), (d, t)]);
    net.put(t, "v0", "0");
    net.settle(2, &[(t, d), (d, t)]);
    // As if T had collected: D is below its horizon, and gets a full dump.
    let origin = net.mesh(t).origin();
    net.put(t, "v1", "1");
    let v2 = net.put(t, "v2", "2"); // overflows v1
    net.mesh(t).control.lock().horizon.advance(origin, v2);
    net.pump(t, d);
    net.pump(d, t); // D asks
    let dump = net.flush(t, d);
    let Some(Message::Lines(lines)) = dump.into_iter().find(|m| matches!(m, Message::Lines(_))) else { panic!("no dump") };
    let end = lines[..lines.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    net.elapsed += Duration::from_millis(300); // the dump takes some time
    net.deliver(t, d, vec![Message::Lines(lines[..end].to_vec())]);
    let mut old = net.links.remove(&(t, d)).unwrap();
    let mesh = net.mesh(d);
    let now = net.now(d);
    // A shard is busy while the end line looks for what to drop, and has found something in an earlier one.
    let gone = net.key_where(d, |shard| shard < 128);
    let busy = net.key_where(d, |shard| shard >= 128);
    let version = Version { stamp: Stamp::from_bits(1), origin };
    mesh.store().merge(Entry { key: gone.as_bytes().into(), value: Some(b"gone"[..].into()), version }, |_| false);
    std::thread::scope(|scope| {
        let mut ender = None;
        let _ = mesh.store().write::<()>(busy.as_bytes(), |_| {
            let end = lines[end..].to_vec();
            ender = Some(scope.spawn(move || mesh.receive(&mut old, Message::Lines(end), now)));
            wait_until(|| mesh.store().get(gone.as_bytes()).is_none());
            // The link flaps; T wrote meanwhile.
            net.mesh(t).hung_up(place(t, d), net.now(t));
            net.put(t, "v3", "3");
            net.connect(t, d);
            Err(())
        });
        // Whether it is told that it was replaced does not matter here.
        let _ = ender.unwrap().join().unwrap();
    });
    for _ in 0..1200 {
        net.elapsed += Duration::from_millis(50);
        for node in [t, d] {
            net.mesh(node).tick(net.now(node));
        }
        net.pump(t, d);
        net.pump(d, t);
    }
    assert!(net.get(d, "v3").is_some(), "for 60 s D has not asked T, whom it hears and who has what it lacks");
}
