//! Members that come, go and are replaced, as an operator does it: a configuration and a rolling
//! restart, under load.

use crate::cluster::Cluster;
use crate::writers::Writers;

/// From three to four, and back to three, as docs/operations.md describes it.
#[test]
fn a_member_is_added_and_retired_under_load() {
    let mut cluster = Cluster::plan(3).alone().patient().start();
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority"), (3, "majority")]);
    load.await_progress(200);

    // The new node first: a majority of four is three, so it must be there when the others begin to
    // count it.
    cluster.add(4, &[1, 2, 3, 4]).unwrap();
    cluster.start(4);
    cluster.await_answer(4);
    for id in 1..=3 {
        cluster.set_members(id, &[1, 2, 3, 4]);
        rolling_step(&mut cluster, &load, id);
        cluster.await_sees(4, id, "up");
    }
    cluster.await_ready(4);
    cluster.await_mesh(&[1, 2, 3, 4]);
    load.await_progress(200);
    cluster.await_sees(1, 4, "up");
    let lines = cluster.ask(4, "PEERS");
    assert_eq!(lines.iter().filter(|line| line.starts_with("peer ")).count(), 3, "{lines:?}");

    // The node that goes, last: it is needed as long as another node counts it.
    for id in 1..=3 {
        cluster.set_members(id, &[1, 2, 3]);
        rolling_step(&mut cluster, &load, id);
    }
    cluster.stop(4);
    load.await_progress(200);
    finish(&mut cluster, load);
}

#[test]
fn a_member_is_replaced_by_a_blank_machine_under_load() {
    let mut cluster = Cluster::plan(3).alone().patient().start();
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority")]);
    load.await_progress(200);
    cluster.kill(3);
    cluster.wipe(3);
    load.await_progress(200);
    let promises = load.promises();
    cluster.start(3);
    promises.assert_served(&mut cluster, 3);
    cluster.await_mesh(&[1, 2, 3]);
    load.await_progress(200);
    finish(&mut cluster, load);
}

/// One step of a rolling restart: down, up, caught up, seen by the others; only then the next.
fn rolling_step(cluster: &mut Cluster, load: &Writers, id: u16) {
    cluster.restart(id);
    for other in (1..=3).filter(|other| *other != id) {
        cluster.await_sees(other, id, "up");
        cluster.await_sees(id, other, "up");
    }
    load.await_progress(100);
}

fn finish(cluster: &mut Cluster, load: Writers) {
    let load = load.end();
    load.assert_codes_are(&["LOADING"]);
    cluster.await_converged();
    for id in 1..=3 {
        load.assert_kept_by(cluster, id);
    }
}
