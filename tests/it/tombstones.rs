//! Deletes stay deleted: when a tombstone may be collected, when it must not, and what a member
//! meets that was away meanwhile.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::cluster::{Cluster, ClusterPlan};

const KEYS: usize = 40;
/// Age at which a tombstone may be collected here, if all members have it.
const AGE_MIN: Duration = Duration::from_millis(300);

fn plan() -> ClusterPlan {
    Cluster::plan(3).set("tombstone_age_min_ms", AGE_MIN.as_millis() as u64)
}

#[test]
fn a_tombstone_goes_once_every_member_has_it() {
    let mut cluster = plan().start();
    put_all(&mut cluster.client(1), "1");
    cluster.await_converged();
    delete_half(&mut cluster.client(2));
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
    }
    cluster.await_converged();
    for id in 1..=3 {
        assert_half_deleted(&cluster, id);
        assert_eq!(cluster.status(id).number("keys"), KEYS as u64 / 2);
    }
    // The key is free again, and a write now is newer than the delete.
    assert_eq!(cluster.ask_line(3, "SET k0 again"), "OK");
    cluster.await_reply(1, "GET k0", "VALUE again");
}

#[test]
fn a_young_tombstone_stays() {
    let mut cluster = Cluster::plan(3).start();
    put_all(&mut cluster.client(1), "1");
    delete_half(&mut cluster.client(1));
    cluster.await_converged();
    for id in 1..=3 {
        assert_tombstones_stay(&cluster, id);
    }
}

/// A killed member pins tombstones as much as one that is cut off: what its next incarnation holds
/// is not known.
#[test]
fn a_member_that_is_away_holds_the_tombstones() {
    let mut cluster = plan().links().start();
    put_all(&mut cluster.client(1), "1");
    cluster.await_converged();
    cluster.cut_off(3);
    delete_half(&mut cluster.client(1));
    cluster.await_reply(2, "EXISTS k0", "0");
    cluster.await_reply(2, &format!("EXISTS k{}", KEYS - 2), "0");
    for id in 1..=2 {
        assert_tombstones_stay(&cluster, id);
    }
    // The member that is away does not have the deletes yet.
    assert_eq!(cluster.ask_line(3, "GET k0"), "VALUE 1");

    cluster.join_all(3);
    cluster.await_healed();
    for id in 1..=3 {
        assert_half_deleted(&cluster, id);
        cluster.await_number(id, "tombstones", 0);
    }
    cluster.await_converged();
}

#[test]
fn a_blank_node_takes_what_the_others_have_and_gives_what_only_it_has() {
    let mut cluster = plan().set("recovery_wait_ms", 500).links().start();
    put_all(&mut cluster.client(1), "1");
    delete_half(&mut cluster.client(1));
    for id in 1..=3 {
        cluster.await_number(id, "tombstones", 0);
    }
    // It begins an incarnation of its own, out of reach, and writes before it meets the others.
    cluster.kill(3);
    cluster.wipe(3);
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.start(3);
    cluster.await_state(3, "degraded");
    let mut client = cluster.client_at(3, "local");
    assert_eq!(client.ask_line("SET of-its-own 1").unwrap(), "OK");
    // The others delete and collect nothing meanwhile, but they do go on.
    assert_eq!(cluster.ask_line(1, "SET later 1"), "OK");

    cluster.join_all(3);
    cluster.await_healed();
    for id in 1..=3 {
        assert_half_deleted(&cluster, id);
        assert_eq!(cluster.ask_line(id, "GET of-its-own"), "VALUE 1");
        assert_eq!(cluster.ask_line(id, "GET later"), "VALUE 1");
        assert_eq!(cluster.ask_line(id, "COUNT"), format!("{}", KEYS / 2 + 2));
    }
}

/// The hard case: the tombstones were collected when the member returns that still holds the keys.
/// Its version vector is below the GC horizon, so it is sent everything, and drops what the others
/// have proved deleted.
#[test]
fn a_member_that_was_removed_and_returns_with_old_data_resurrects_nothing() {
    let mut cluster = plan().links().start();
    put_all(&mut cluster.client(1), "1");
    cluster.await_converged();
    cluster.cut_off(3);
    // It receives nothing more, and has one write that no other node has.
    let mut lonely = cluster.client(3);
    assert_eq!(lonely.ask_line("ACK local").unwrap(), "OK");
    assert_eq!(lonely.ask_line("SET only-three 3").unwrap(), "OK");

    // The others stop counting it: nothing pins the tombstones now.
    for id in 1..=2 {
        cluster.set_members(id, &[1, 2]);
        cluster.restart(id);
        cluster.await_mesh(&[1, 2]);
    }
    delete_half(&mut cluster.client(1));
    cluster.await_number(1, "tombstones", 0);
    cluster.await_number(2, "tombstones", 0);

    // It is listed again, and returns with what it held.
    for id in 1..=2 {
        cluster.set_members(id, &[1, 2, 3]);
        cluster.restart(id);
        cluster.await_mesh(&[1, 2]);
    }
    assert_eq!(cluster.ask_line(3, "GET k0"), "VALUE 1");
    cluster.join_all(3);
    cluster.await_healed();
    for id in 1..=3 {
        assert_half_deleted(&cluster, id);
        assert_eq!(cluster.ask_line(id, "GET only-three"), "VALUE 3");
        assert_eq!(cluster.ask_line(id, "COUNT"), format!("{}", KEYS / 2 + 1));
    }
}

fn put_all(client: &mut Client, value: &str) {
    client.pipeline((0..KEYS).map(|key| format!("PUT k{key} {value}")));
}

/// Deletes the even keys.
fn delete_half(client: &mut Client) {
    client.pipeline((0..KEYS).step_by(2).map(|key| format!("DEL k{key}")));
}

#[track_caller]
fn assert_half_deleted(cluster: &Cluster, id: u16) {
    let mut client = cluster.client(id);
    for key in 0..KEYS {
        let wanted = if key % 2 == 0 { "0" } else { "1" };
        assert_eq!(client.ask_line(&format!("EXISTS k{key}")).unwrap(), wanted, "n{id}> EXISTS k{key}");
    }
}

/// Watches for several times the minimum age. There is no event to wait for: nothing must happen.
#[track_caller]
fn assert_tombstones_stay(cluster: &Cluster, id: u16) {
    let watched = Instant::now();
    while watched.elapsed() < 4 * AGE_MIN {
        assert_eq!(cluster.status(id).number("tombstones"), KEYS as u64 / 2, "n{id} has collected tombstones");
        std::thread::sleep(AGE_MIN / 6);
    }
}
