//! A node that may open few files, and files that are removed under a node: what it acknowledges is
//! on its disk, and no client waits in vain.

use std::fs;

use rustix::process::Resource;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::kit::process::limit;

/// Leaves little for the clients of one node of three.
const FEW: u64 = 64;

#[test]
fn with_few_descriptors_there_are_fewer_clients_and_everything_else_goes_on() {
    let mut cluster = Cluster::plan(3).build();
    cluster.limit_open_files(1, FEW);
    cluster.start_all();
    cluster.await_healed();
    let clients_max = cluster.status(1).number("clients_max");
    assert!((4..FEW).contains(&clients_max), "{clients_max}");
    cluster.await_log(1, &["WARN", "clients_max", &format!("is {clients_max}"), &format!("{FEW} open files"), "ulimit -Hn"]);

    // As many clients as are allowed are served, and the next one is refused at once.
    let mut clients = Vec::new();
    until("a client too many", DEADLINE, || {
        let mut client = Client::connect(cluster.client_addr(1)).map_err(|error| error.to_string())?;
        match client.ask_line("PING").map_err(|error| error.to_string())?.as_str() {
            "PONG" => clients.push(client),
            refusal => return if refusal.starts_with("ERROR BUSY ") { Ok(()) } else { Err(refusal.to_owned()) },
        }
        // No more waiting: the next client comes at once.
        if clients.len() as u64 <= clients_max { Err(format!("{} clients", clients.len())) } else { Ok(()) }
    });
    assert!(clients.len() as u64 <= clients_max, "{} clients, {clients_max} at most", clients.len());
    until("as many clients as there may be", DEADLINE, || {
        // Connections of earlier clients may only just have ended.
        let mut client = Client::connect(cluster.client_addr(1)).map_err(|error| error.to_string())?;
        if client.ask_line("PING").is_ok_and(|reply| reply == "PONG") {
            clients.push(client);
        }
        if clients.len() as u64 == clients_max { Ok(()) } else { Err(format!("{} clients", clients.len())) }
    });

    // Peers come and go, logs begin and snapshots are written.
    let client = &mut clients[0];
    cluster.kill(2);
    cluster.start(2);
    cluster.await_sees(2, 1, "up");
    until("n1 sees n2", DEADLINE, || {
        let lines = client.ask("PEERS").map_err(|error| error.to_string())?;
        if lines.iter().any(|line| line.starts_with("peer 2 up") && line.contains("counted yes")) {
            Ok(())
        } else {
            Err(format!("{lines:?}"))
        }
    });
    for round in 0..3 {
        assert_eq!(client.ask_line(&format!("PUT round-{round} 1")).unwrap(), "OK");
        let reply = client.ask("COMPACT").unwrap();
        assert!(reply[0].starts_with("entries "), "{reply:?}");
    }
    assert_eq!(client.status().unwrap().number("accept_errors"), 0);
}

#[test]
fn a_limit_that_leaves_nothing_for_clients_is_refused_in_words() {
    let mut cluster = Cluster::plan(3).build();
    cluster.limit_open_files(1, 20);
    cluster.start(1);
    let reason = cluster.await_refused(1, 2);
    assert!(reason.contains("20 open files") && reason.contains("ulimit -n"), "{reason}");
}

/// Limits the open files of node 1, which runs. Returns the limit before.
#[cfg(target_os = "linux")]
fn limit_now(cluster: &Cluster, current: Option<u64>) -> Option<u64> {
    limit(cluster.process_id(1).unwrap(), Resource::Nofile, current).unwrap()
}

/// The old log is as good as before. Only Linux changes the limits of another process.
#[cfg(target_os = "linux")]
#[test]
fn a_new_log_that_cannot_begin_keeps_the_old_one_and_no_write_is_refused() {
    let mut cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line("PUT before 1").unwrap(), "OK");
    // No further file can be opened.
    let allowed = limit_now(&cluster, Some(5));
    for round in 0..3 {
        let reply = client.ask_line("COMPACT").unwrap();
        assert!(reply.starts_with("ERROR BUSY ") && reply.contains("too many open files"), "{reply}");
        assert!(reply.contains("limit 5") && reply.contains("log"), "{reply}");
        assert_eq!(client.ask_line(&format!("PUT meanwhile-{round} 1")).unwrap(), "OK");
        assert_eq!(client.status().unwrap().text("log"), "ok");
    }
    limit_now(&cluster, allowed);
    let reply = client.ask("COMPACT").unwrap();
    assert_eq!(reply[0], "entries 4");
    assert_eq!(client.ask_line("PUT after 1").unwrap(), "OK");
    cluster.crash(1);
    assert_eq!(cluster.ask_line(1, "COUNT"), "5");
}

/// However the descriptors were used up.
#[cfg(target_os = "linux")]
#[test]
fn who_connects_when_no_descriptor_is_left_is_told_so_at_once() {
    let mut cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line("PING").unwrap(), "PONG");
    let open = fs::read_dir(format!("/proc/{}/fd", cluster.process_id(1).unwrap())).unwrap();
    let highest = open.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
    limit_now(&cluster, Some(highest + 1));
    let mut clients = Vec::new();
    // Some numbers below the highest are free.
    let use_up = |clients: &mut Vec<Client>| {
        let mut refusals = 0;
        while refusals < 5 {
            let mut client = Client::connect(cluster.client_addr(1)).unwrap();
            let reply = client.ask_line("PING").unwrap();
            if reply == "PONG" {
                clients.push(client);
                assert!(clients.len() as u64 <= highest, "{} clients", clients.len());
            } else {
                assert!(
                    reply.starts_with("ERROR BUSY ") && reply.contains(&format!("too many open files; limit {}", highest + 1)),
                    "{reply}"
                );
                refusals += 1;
            }
        }
    };
    use_up(&mut clients);
    assert_eq!(client.ask_line("PUT meanwhile 1").unwrap(), "OK");
    clients.clear();
    until("clients that are served again", DEADLINE, || {
        let reply = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.ask_line("PING"));
        if matches!(reply.as_deref(), Ok("PONG")) { Ok(()) } else { Err(format!("{reply:?}")) }
    });
    // It does not keep a node from stopping, either.
    use_up(&mut clients);
    cluster.stop(1);
}

#[test]
fn a_log_that_is_removed_is_noticed_and_resume_begins_another_one() {
    let mut cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "PUT before 1"), "OK");
    for name in ["log-0000000001", "snapshot-0000000002.jsonl"] {
        let path = cluster.data_path(1).join(name);
        fs::remove_file(&path).unwrap();
        cluster.await_log_stopped(1, path.to_str().unwrap());
        let reply = cluster.ask_line(1, "PUT refused 1");
        assert!(reply.starts_with("ERROR READONLY ") && reply.contains("removed") && reply.contains("RESUME"), "{reply}");
        assert_eq!(cluster.ask_line(1, "GET before"), "VALUE 1");

        cluster.resume_log(1);
        assert_eq!(cluster.ask_line(1, "PUT after 1"), "OK");
    }
    cluster.crash(1);
    assert_eq!(cluster.ask_line(1, "GET before"), "VALUE 1");
    assert_eq!(cluster.ask_line(1, "GET after"), "VALUE 1");
}

#[test]
fn a_directory_that_is_removed_is_noticed_and_another_one_is_left_alone() {
    let mut cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "PUT before 1"), "OK");
    let (dir, aside) = (cluster.data_path(1), cluster.data_path(1).with_extension("aside"));
    fs::rename(&dir, &aside).unwrap();
    cluster.await_log_stopped(1, dir.to_str().unwrap());
    let refused = |command: &str| {
        let reply = cluster.ask_line(1, command);
        assert!(reply.starts_with("ERROR READONLY ") && reply.contains(dir.to_str().unwrap()), "{command}: {reply}");
        assert!(reply.contains("put it back") && reply.contains("restart"), "{command}: {reply}");
    };
    refused("PUT refused 1");
    refused("RESUME");
    // It may be another program's, for all that this node knows.
    fs::create_dir(&dir).unwrap();
    refused("RESUME");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "a file of this node in another directory");
    fs::remove_dir(&dir).unwrap();

    fs::rename(&aside, &dir).unwrap();
    cluster.resume_log(1);
    assert_eq!(cluster.ask_line(1, "PUT after 1"), "OK");
    cluster.crash(1);
    assert_eq!(cluster.ask_line(1, "COUNT"), "2");
}
