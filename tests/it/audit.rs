//! The audit log: who came, what administrators did and which peers there were, as lines of JSON.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};

/// The lines of an audit log, which are all whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))).collect()
}

/// Waits until a line has this event and these words in it. Returns it.
#[track_caller]
fn await_event(path: &Path, event: &str, words: &str) -> Value {
    until(&format!("{event} with {words:?} in {}", path.display()), DEADLINE, || {
        let found = lines(path).into_iter().find(|line| line["event"] == event && line.to_string().contains(words));
        found.ok_or_else(|| fs::read_to_string(path).unwrap_or_default())
    })
}

fn path_of(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().join(name)
}

#[test]
fn what_administrators_and_peers_did_is_noted_and_no_value_is() {
    let mut cluster = Cluster::plan(2).build();
    for id in [1, 2] {
        cluster.configure(id, "audit_file", format!("audit{id}.log"));
    }
    cluster.start_all();
    cluster.await_converged();
    let path = path_of(&cluster, "audit1.log");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(await_event(&path, "peer_accepted", "")["peer"], 2);

    let stream = TcpStream::connect(cluster.client_addr(1)).unwrap();
    let addr = stream.local_addr().unwrap().to_string();
    let mut client = Client::over(stream, DEADLINE).unwrap();
    assert_eq!(client.ask_line("PUT a hushhush").unwrap(), "OK");
    assert!(client.ask("COMPACT").unwrap()[0].starts_with("entries "));
    assert!(client.ask("DUMP").unwrap().len() > 2);
    assert_eq!(client.ask("RELOAD").unwrap(), ["applied none", "needs_restart none"]);
    client.send("*1\r\n$8\r\nFLUSHALL\r\n*4\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n$2\r\nID\r\n$6\r\n999999\r\n").unwrap();
    assert_eq!([client.line().unwrap(), client.line().unwrap()], ["+OK", ":0"]);
    client.send("*1\r\n$5\r\nMULTI\r\n*1\r\n$7\r\nFLUSHDB\r\n*1\r\n$4\r\nEXEC\r\n").unwrap();
    assert_eq!([(); 4].map(|()| client.line().unwrap()), ["+OK", "+QUEUED", "*1", "+OK"]);
    client.send("RESTORE\nhushhush\n").unwrap();
    assert!(client.line().unwrap().starts_with("ERROR BADDUMP "));
    for command in ["compact", "dump", "reload", "flushall", "client|kill", "restore"] {
        let line = await_event(&path, "admin", &format!("\"command\":\"{command}\""));
        assert!(line["node"] == 1 && line["client"].is_number() && line["addr"] == addr.as_str(), "{line}");
    }
    let flushes = lines(&path).iter().filter(|line| line["command"] == "flushall").count();
    assert_eq!(flushes, 2, "one of them in a transaction");
    assert_eq!(await_event(&path, "reload", "needs a restart")["addr"], addr.as_str());

    let mut stranger = TcpStream::connect(cluster.peer_addr(1)).unwrap();
    stranger.write_all(&[0; 64]).unwrap();
    let refused = await_event(&path, "peer_refused", "closed a connection from");
    assert_eq!(refused["addr"], stranger.local_addr().unwrap().to_string().as_str());

    cluster.stop(1);
    let found = lines(&path);
    let event = |line: &Value| line["event"].as_str().unwrap().to_owned();
    assert_eq!((event(&found[0]), event(found.last().unwrap())), ("start".to_owned(), "stop".to_owned()));
    assert!(!fs::read_to_string(&path).unwrap().contains("hushhush"));
}

#[test]
fn a_file_that_is_moved_away_is_followed_by_a_new_one_at_sighup() {
    let mut cluster = Cluster::plan(1).set("audit_file", "audit.log").start();
    let (path, moved) = (path_of(&cluster, "audit.log"), path_of(&cluster, "audit.log.1"));
    fs::rename(&path, &moved).unwrap();
    cluster.compact(1);
    await_event(&moved, "admin", "compact");
    cluster.signal(1, Signal::SIGHUP);
    await_event(&path, "reload", "SIGHUP: applied none");
    cluster.compact(1);
    await_event(&path, "admin", "compact");
    assert_eq!(lines(&moved).iter().filter(|line| line["event"] == "admin").count(), 1);

    // Another name, a wrong one, and none.
    let other = path_of(&cluster, "other.log");
    for (file, reply) in [("other.log", "applied audit_file"), ("none/audit.log", "ERROR BADCONFIG audit_file none/audit.log: ")] {
        cluster.configure(1, "audit_file", file);
        cluster.write_config(1).unwrap();
        let found = cluster.ask(1, "RELOAD");
        assert!(found[0].starts_with(reply), "{found:?}");
    }
    cluster.compact(1);
    await_event(&other, "reload_refused", "none/audit.log");
    await_event(&other, "admin", "compact");
    cluster.configure(1, "audit_file", "");
    cluster.write_config(1).unwrap();
    assert_eq!(cluster.ask(1, "RELOAD")[0], "applied audit_file");
    let before = lines(&other).len();
    cluster.compact(1);
    assert_eq!(cluster.status(1).text("audit"), "off");
    cluster.stop(1);
    assert_eq!(lines(&other).len(), before);
}

#[test]
fn a_file_that_others_can_write_refuses_the_start() {
    let mut cluster = Cluster::plan(1).set("audit_file", "audit.log").build();
    let path = path_of(&cluster, "audit.log");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    cluster.start(1);
    let why = cluster.await_refused(1, 2);
    assert!(why.contains("audit_file audit.log: others can write it (mode 0666); expected mode 0600: chmod 600"), "{why}");
    assert_eq!(fs::read(&path).unwrap(), b"");
}
