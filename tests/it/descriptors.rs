//! A node that may have few files open, and files that are taken away from under one: what it acknowledges is on its disk, and nobody waits in vain.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};

/// The log that is there is as good as before.
#[test]
fn a_new_log_that_cannot_begin_keeps_the_old_one_and_no_write_is_refused() {
    let mut cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line("PUT before 1").unwrap(), "OK");
    // No further file can be opened.
    let pid = Pid::from_raw(cluster.process_id(1) as i32);
    let few = Rlimit { current: Some(5), maximum: getrlimit(Resource::Nofile).maximum };
    let allowed = prlimit(pid, Resource::Nofile, few).unwrap();
    for round in 0..3 {
        let reply = client.ask_line("COMPACT").unwrap();
        assert!(reply.starts_with("ERROR BUSY ") && reply.contains("too many open files"), "{reply}");
        assert!(reply.contains("limit 5") && reply.contains("log"), "{reply}");
        assert_eq!(client.ask_line(&format!("PUT meanwhile-{round} 1")).unwrap(), "OK");
        assert_eq!(client.status().unwrap().text("log"), "ok");
    }
    prlimit(pid, Resource::Nofile, allowed).unwrap();
    let reply = client.ask("COMPACT").unwrap();
    assert_eq!(reply[0], "entries 4");
    assert_eq!(client.ask_line("PUT after 1").unwrap(), "OK");
    cluster.kill(1);
    cluster.start(1);
    cluster.await_ready(1);
    assert_eq!(cluster.ask_line(1, "COUNT"), "5");
}

#[test]
fn a_log_that_is_removed_is_noticed_and_resume_begins_another_one() {
    let mut cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "PUT before 1"), "OK");
    let log = cluster.data_path(1).join("log-0000000001");
    fs::remove_file(&log).unwrap();
    await_stopped(&cluster, log.to_str().unwrap());
    let reply = cluster.ask_line(1, "PUT refused 1");
    assert!(reply.starts_with("ERROR READONLY ") && reply.contains("removed") && reply.contains("RESUME"), "{reply}");
    assert_eq!(cluster.ask_line(1, "GET before"), "VALUE 1");

    let reply = cluster.ask(1, "RESUME");
    assert!(reply[0].starts_with("entries "), "{reply:?}");
    assert_eq!(cluster.ask_line(1, "PUT after 1"), "OK");
    cluster.kill(1);
    cluster.start(1);
    cluster.await_ready(1);
    assert_eq!(cluster.ask_line(1, "GET before"), "VALUE 1");
    assert_eq!(cluster.ask_line(1, "GET after"), "VALUE 1");
}

#[test]
fn a_directory_that_is_removed_is_noticed_and_another_one_is_left_alone() {
    let mut cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "PUT before 1"), "OK");
    let (dir, aside) = (cluster.data_path(1), cluster.data_path(1).with_extension("aside"));
    fs::rename(&dir, &aside).unwrap();
    await_stopped(&cluster, dir.to_str().unwrap());
    let refused = |command: &str| {
        let reply = cluster.ask_line(1, command);
        assert!(reply.starts_with("ERROR READONLY ") && reply.contains(dir.to_str().unwrap()), "{command}: {reply}");
        assert!(reply.contains("put it back") && reply.contains("restart"), "{command}: {reply}");
    };
    refused("PUT refused 1");
    refused("RESUME");
    // Somebody else's, for all that this node knows.
    fs::create_dir(&dir).unwrap();
    refused("RESUME");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "a file of this node in another directory");
    fs::remove_dir(&dir).unwrap();

    fs::rename(&aside, &dir).unwrap();
    let reply = cluster.ask(1, "RESUME");
    assert!(reply[0].starts_with("entries "), "{reply:?}");
    assert_eq!(cluster.ask_line(1, "PUT after 1"), "OK");
    cluster.kill(1);
    cluster.start(1);
    cluster.await_ready(1);
    assert_eq!(cluster.ask_line(1, "COUNT"), "2");
}

#[track_caller]
fn await_stopped(cluster: &Cluster, path: &str) {
    until(&format!("the log of n1 stopped, and {path} named"), DEADLINE, || {
        let status = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.status()).map_err(|error| error.to_string())?;
        let log = status.text("log");
        if log.starts_with("stopped: ") && log.contains(path) { Ok(()) } else { Err(log.to_owned()) }
    });
}
