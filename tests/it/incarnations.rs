//! Nodes that were started many times: the version vectors that they exchange stay small, and past
//! incarnations are folded safely.

use std::env;
use std::path::PathBuf;

use kvmesh::data::entry::Entry;
use kvmesh::data::version::VersionVector;

use crate::backup::kvctl;
use crate::cluster::{Cluster, ClusterPlan, DEADLINE, copy_files, until};
use crate::kit::backup::{backup, past_versions};
use crate::versions::OLD_PROGRAM;

/// Past incarnations of each node.
const INCARNATIONS: u32 = 300;

fn plan() -> ClusterPlan {
    Cluster::plan(3).set("tombstone_age_min_ms", 300)
}

/// Restores a backup of a cluster whose three nodes have had so many past incarnations, and have
/// written one key in each.
fn restore(cluster: &Cluster, incarnations: u32) {
    let entry = |(node, number, version)| Entry::new(format!("life/{node}/{number}").as_bytes(), Some(b"v"), None, version);
    let path = cluster.path(1, "backup.jsonl");
    std::fs::write(&path, backup(VersionVector::default(), past_versions(&[1, 2, 3], incarnations).map(entry).collect())).unwrap();
    let done = kvctl(cluster, 2, &["restore", path.to_str().unwrap()], None);
    let (entries, report) = (3 * incarnations, "covered 0\ndropped 0\n");
    assert_eq!((done.code, done.out, &*done.err), (Some(0), format!("entries {entries}\nmerged {entries}\n{report}"), ""));
}

/// Waits until each node names at most 64 past incarnations, the present one, and one entry for
/// those that are folded.
fn await_few_incarnations(cluster: &Cluster, ids: &[u16]) {
    for id in ids {
        until("few incarnations", DEADLINE, || {
            let named = cluster.status(*id).number("vector_len");
            if named <= 3 * (64 + 2) { Ok(()) } else { Err(format!("n{id} names {named} incarnations")) }
        });
    }
}

fn await_equal(cluster: &Cluster) -> String {
    until("equal digests", DEADLINE, || {
        let digests: Vec<String> = cluster.ids().into_iter().map(|id| cluster.ask_line(id, "DIGEST")).collect();
        if digests.iter().all(|digest| *digest == digests[0]) { Ok(digests[0].clone()) } else { Err(format!("{digests:?}")) }
    })
}

#[test]
fn nodes_that_were_started_often_name_few_lives_and_an_old_copy_brings_nothing_back() {
    // A copy from before, which names all incarnations: none is old enough to be folded.
    let mut cluster = plan().set("tombstone_age_min_ms", 7_200_000).start();
    restore(&cluster, INCARNATIONS);
    cluster.await_converged();
    assert_eq!(cluster.status(3).number("vector_len"), 900);
    cluster.stop(3);
    let (data, copy) = (cluster.data_path(3), cluster.data_path(3).with_extension("copy"));
    copy_files(&data, &copy);
    for id in 1..=3 {
        cluster.configure(id, "tombstone_age_min_ms", 300);
        if id < 3 {
            cluster.restart(id);
        } else {
            cluster.start(id);
        }
    }
    cluster.await_mesh(&[1, 2, 3]);
    await_few_incarnations(&cluster, &[1, 2, 3]);
    cluster.await_converged();
    let digest = await_equal(&cluster);
    assert!(digest.ends_with(" 900"), "{digest}");
    // On disk, too.
    cluster.kill_all();
    cluster.start_all();
    cluster.await_mesh(&[1, 2, 3]);
    await_few_incarnations(&cluster, &[1, 2, 3]);
    assert_eq!(await_equal(&cluster), digest);
    // A key of a folded incarnation and one of a named incarnation are deleted, and the tombstones
    // are collected.
    for key in ["life/1/1", "life/2/300"] {
        assert_eq!(cluster.ask_line(1, &format!("DEL {key}")), "OK");
    }
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
    }
    cluster.stop(3);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    cluster.start(3);
    cluster.await_healed();
    await_few_incarnations(&cluster, &[3]);
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "COUNT"), "898");
        assert_eq!(cluster.ask_line(id, "EXISTS life/1/1"), "0");
        assert_eq!(cluster.status(id).number("divergences"), 0);
    }
}

/// As many as there may be, none old enough to be folded. Nodes still report to each other, and to
/// a user, how far they are. A node that starts then tells why it does not write.
#[test]
fn at_the_bound_nodes_still_speak_and_one_that_starts_refuses_writes() {
    let mut cluster = plan().patient().set("tombstone_age_min_ms", 7_200_000).start();
    restore(&cluster, 4_096 / 3);
    cluster.await_converged();
    assert_eq!(cluster.status(3).number("vector_len"), 4_095);
    for id in 1..=3 {
        cluster.restart(id);
    }
    cluster.await_mesh(&[1, 2, 3]);
    cluster.await_whole();
    assert_eq!(cluster.ask_line(1, "SET last 1"), "OK");
    cluster.await_converged();
    let refused = cluster.ask_line(2, "SET more 1");
    assert!(refused.starts_with("ERROR READONLY the vector names 4096 incarnations, 4096 at most"), "{refused}");
    assert_eq!((cluster.ask_line(2, "GET last"), cluster.ask_line(1, "SET more 1")), ("VALUE 1".to_owned(), "OK".to_owned()));
    cluster.await_log(2, &["incarnations; with 4096 a node that starts does not write", "are folded while all members are up"]);
    for args in [&["status"][..], &["peers"], &["--json", "status"]] {
        let done = kvctl(&cluster, 2, args, None);
        assert_eq!((done.code, &*done.err), (Some(0), ""), "{args:?}");
    }
    // A blank node takes it all.
    cluster.stop(3);
    cluster.wipe(3);
    cluster.start_ready(3);
    cluster.await_converged();
    // Now they are older than the minimum: they are folded, and the node writes.
    for id in 1..=3 {
        cluster.configure(id, "tombstone_age_min_ms", 300);
        cluster.restart(id);
    }
    await_few_incarnations(&cluster, &[1, 2, 3]);
    assert_eq!(cluster.ask_line(2, "SET again 1"), "OK");
    cluster.await_converged();
}

/// Until all members have a build that knows of folding, any of them can go back. Afterwards none
/// can, and the log tells why.
#[test]
fn nothing_is_folded_beside_the_build_before_and_it_is_not_met_afterwards() {
    let Some(old) = env::var_os(OLD_PROGRAM).map(PathBuf::from) else {
        println!("not run: there is no build before; tests/versions.sh makes it");
        return;
    };
    let mut cluster = plan().patient().build();
    cluster.set_program(3, Some(old.clone()));
    cluster.start_all();
    cluster.await_mesh(&[1, 2, 3]);
    cluster.await_whole();
    restore(&cluster, INCARNATIONS);
    await_equal(&cluster);
    assert_eq!(cluster.ask_line(3, "DEL life/1/1"), "OK");
    let digest = await_equal(&cluster);
    assert!(digest.ends_with(" 899"), "{digest}");
    // The new nodes go back, with all incarnations by name, and return.
    for program in [Some(old.clone()), None] {
        for id in [1, 2] {
            assert!(cluster.status(id).number("vector_len") >= 900);
            cluster.stop(id);
            cluster.set_program(id, program.clone());
            cluster.start(id);
            cluster.await_mesh(&[1, 2, 3]);
            cluster.await_whole();
            assert_eq!(await_equal(&cluster), digest);
        }
    }
    cluster.stop(3);
    cluster.set_program(3, None);
    cluster.start(3);
    cluster.await_mesh(&[1, 2, 3]);
    await_few_incarnations(&cluster, &[1, 2, 3]);
    cluster.await_converged();
    assert_eq!(await_equal(&cluster), digest);
    // On disk, a snapshot with folded incarnations has a header that the build before does not
    // read.
    let data = cluster.data_path(3);
    until("a snapshot", DEADLINE, || {
        let names: Vec<_> = std::fs::read_dir(&data).unwrap().map(|file| file.unwrap().path()).collect();
        let is_snapshot = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
        let head = names.iter().find(is_snapshot).map(|path| std::fs::read_to_string(path).unwrap_or_default());
        if head.is_some_and(|head| head.starts_with(r#"{"dump":"kvmesh","format":2,"#)) { Ok(()) } else { Err(format!("{names:?}")) }
    });
    cluster.stop(3);
    cluster.set_program(3, Some(old));
    cluster.start(3);
    assert!(!cluster.await_exit(3, DEADLINE).success());
    // A blank node of that build is refused by the others.
    cluster.wipe(3);
    cluster.start(3);
    cluster.await_log(3, &["incarnations are folded here", "upgrade it"]);
    cluster.stop(3);
    cluster.set_program(3, None);
    cluster.start(3);
    cluster.await_healed();
    assert_eq!(await_equal(&cluster), digest);
    assert_eq!(cluster.ask_line(3, "EXISTS life/1/1"), "0");
    for id in 1..=3 {
        assert_eq!(cluster.status(id).number("divergences"), 0);
    }
}
