//! A mesh whose nodes have two builds: upgraded one by one and put back one by one, under load.

use std::env;
use std::path::PathBuf;

use kvmesh::wire::peer::{Protocol, Protocols};

use crate::cluster::Cluster;
use crate::impostors::configure;
use crate::writers::{Ledger, Writers};

/// Names the program of the build before, which `tests/versions.sh` makes of the history. Without
/// it, this build takes its own place, and does not go back: a rolling restart.
pub const OLD_PROGRAM: &str = "KVMESH_OLD_KVNODE";

/// Each step leads from one mix of builds to the next. Meanwhile, a client that writes at a node
/// that stays gets nothing but `OK` and keeps its connection. Nothing that was acknowledged is
/// lost, nothing that was deleted comes back, and in each mix all nodes become equal.
#[test]
fn a_rolling_upgrade_and_the_way_back_cost_nothing_but_the_connections_to_the_node_that_restarts() {
    let old = env::var_os(OLD_PROGRAM).map(PathBuf::from);
    println!("the build before: {old:?}");
    // So that tombstones are collected while builds are mixed.
    let mut cluster = Cluster::plan(3).set("tombstone_age_min_ms", 500).alone().patient().build();
    for id in cluster.ids() {
        set_build(&mut cluster, id, old.clone());
        cluster.start(id);
    }
    cluster.await_converged();
    cluster.await_whole();
    let forward = [1, 2, 3].map(|id| (id, None));
    let back = old.iter().flat_map(|old| [1, 2, 3].map(|id| (id, Some(old.clone()))));
    let mut news = if old.is_some() { Vec::new() } else { cluster.ids() };
    let mut outcomes: Vec<Ledger> = Vec::new();
    for (number, (id, program)) in forward.into_iter().chain(back).enumerate() {
        news.retain(|new| *new != id);
        if program.is_none() {
            news.push(id);
        }
        outcomes.push(step(&mut cluster, number, id, program));
        for outcomes in &outcomes {
            outcomes.assert_kept(&cluster);
        }
        let spoken = if news.len() == 3 { Protocols::OURS.max } else { Protocol::OLDEST };
        for id in &news {
            assert_eq!(cluster.status(*id).text("protocol_of_all"), spoken.to_string(), "n{id} among {news:?}");
        }
    }
}

/// This build has a secret, and believes the build before, which knows of none.
fn set_build(cluster: &mut Cluster, id: u16, program: Option<PathBuf>) {
    if program.is_none() {
        configure(cluster, id, "accept", &["a secret of the members, of many words"]);
    } else {
        cluster.node_mut(id).settings.clear();
    }
    cluster.set_program(id, program);
}

/// One node is stopped under load and started with this program. It keeps its disk. The second node
/// loses its own, so that a blank node of each build takes everything from both.
fn step(cluster: &mut Cluster, number: usize, id: u16, program: Option<PathBuf>) -> Ledger {
    let load = Writers::staying(cluster, &[(1, "majority"), (2, "majority"), (3, "majority")]);
    let roaming = Writers::roaming(cluster, &format!("step-{number}"), &[1, 2, 3]);
    load.await_progress(200);
    // A snapshot for the other build, and a log behind it.
    assert!(cluster.ask(id, "COMPACT")[0].starts_with("entries "));
    load.await_progress(50);
    let broken = [0, 1, 2].map(|writer| load.broken_connections(writer));
    cluster.stop(id);
    if id == 2 {
        cluster.wipe(id);
    }
    roaming.await_progress(100);
    let promises = load.promises();
    set_build(cluster, id, program);
    cluster.start(id);
    promises.assert_served(cluster, id);
    cluster.await_ready(id);
    cluster.await_whole();
    load.await_progress(100);
    for writer in (0..3).filter(|writer| writer + 1 != usize::from(id)) {
        assert_eq!(load.broken_connections(writer), broken[writer], "a connection to n{} broke when n{id} restarted", writer + 1);
    }
    let load = load.end();
    let outcomes = roaming.end();
    load.assert_codes_are(&["LOADING"]);
    outcomes.assert_codes_are(&["LOADING"]);
    cluster.await_converged();
    load.assert_kept(cluster);
    outcomes
}
