//! Secrets: in whatever a node and kvctl show, to whomever, there is no password, no secret of the
//! peers, and no hash of one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{Cluster, DEADLINE, until};
use crate::program::{self, Ended, begin, run};
use crate::redis::request;
use crate::users::user;

/// Texts that were shown, and where.
#[derive(Default)]
struct Shown(Vec<(String, String)>);

impl Shown {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    #[track_caller]
    fn assert_without(&self, secrets: &[&str]) {
        for (place, text) in &self.0 {
            assert!(!text.is_empty(), "{place} shows nothing");
            let found = secrets.iter().find(|secret| text.contains(**secret));
            assert!(found.is_none(), "{place} shows {found:?}: {text}");
        }
    }
}

/// The command line of a process, as everybody on the machine can read it. It is empty until the
/// process has become its program.
#[track_caller]
fn arguments_of(process_id: i32) -> String {
    until("the arguments of a process", DEADLINE, || {
        let arguments = fs::read_to_string(format!("/proc/{process_id}/cmdline")).map_err(|error| error.to_string())?;
        if arguments.contains("\0--") { Ok(arguments) } else { Err(arguments) }
    })
}

/// A file with a new secret, which is returned with its hash.
fn secret_in(path: &Path) -> (String, String) {
    let made = run(Command::new(env!("CARGO_BIN_EXE_kvctl")).arg("genpass").arg(path));
    let hash = made.out.trim_end().strip_prefix("secret_sha256 ").unwrap_or_else(|| panic!("{made:?}")).to_owned();
    (fs::read_to_string(path).unwrap().trim_end().to_owned(), hash)
}

/// Two nodes, whose audit log is one file: lines are written whole.
#[test]
fn nothing_that_a_node_or_kvctl_shows_holds_a_secret() {
    let mut cluster = Cluster::plan(2).set("audit_file", "audit.log").build();
    let file = cluster.dir().join("ann.password");
    let (password, hash) = secret_in(&file);
    let (wrong, wrong_hash) = secret_in(&cluster.dir().join("wrong.password"));
    let peers_file = cluster.dir().join("peers.secret");
    let (peers, peers_hash) = secret_in(&peers_file);
    cluster.configure(1, "users", json!([{ "name": "ann", "secret_sha256": hash, "role": "admin" }]));
    for id in [1, 2] {
        cluster.configure(id, "peer_secret_file", "peers.secret");
    }
    cluster.start_all();
    let addr = cluster.client_addr(1);
    let file = file.to_str().unwrap();
    let kvctl = |args: &[&str]| program::kvctl(&[addr], &[&["--user", "ann", "--password-file", file, "--timeout", "10"], args].concat());
    until("a node that is open", DEADLINE, || {
        let Ended { code, out, err } = run(&mut kvctl(&["count"]));
        if code == Some(0) { Ok(()) } else { Err(format!("{out}{err}")) }
    });

    let mut shown = Shown::default();
    for args in [
        &["status"][..],
        &["--json", "status"],
        &["put", "k", "v"],
        &["get", "k"],
        &["keys"],
        &["digest"],
        &["dump"],
        &["compact"],
        &["reload"],
        &["bench", "--seconds", "0.2", "--clients", "2"],
        &["--help"],
    ] {
        let ended = run(&mut kvctl(args));
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        shown.add(format!("kvctl {args:?}"), ended.outputs());
    }
    // Who is wrong, or unknown, hears why.
    let wrong_file = cluster.dir().join("wrong.password");
    let refused = run(&mut program::kvctl(&[addr], &["--user", "ann", "--password-file", wrong_file.to_str().unwrap(), "count"]));
    assert!(refused.code == Some(1) && refused.err.contains("WRONGPASS"), "{refused:?}");
    shown.add("kvctl with a wrong password", refused.outputs());
    fs::set_permissions(&wrong_file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(&mut program::kvctl(&[addr], &["--user", "ann", "--password-file", wrong_file.to_str().unwrap(), "count"]));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    shown.add("kvctl with an open file", refused.outputs());

    for line in [format!("AUTH ann {wrong}"), format!("AUTH {password} ann"), format!("AUTH {wrong}")] {
        let mut client = cluster.client(1);
        shown.add(format!("the reply to {line}"), client.ask_line(&line).unwrap());
    }
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line(&format!("AUTH ann {password}")).unwrap(), "OK");
    for command in ["STATUS", "PEERS", "HELP"] {
        shown.add(command, client.ask(command).unwrap().join("\n"));
    }
    for command in [
        &["CONFIG", "GET", "*"][..],
        &["INFO"],
        &["CLIENT", "LIST"],
        &["ACL", "WHOAMI"],
        &["ACL", "GETUSER", "ann"],
        &["ACL", "LOG"],
        &["COMMAND", "DOCS", "auth"],
    ] {
        client.send(request(command)).unwrap();
        client.send(request(&["PING"])).unwrap();
        let mut reply = String::new();
        loop {
            let line = client.line().unwrap();
            if line == "+PONG" {
                break;
            }
            reply += &(line + "\n");
        }
        shown.add(format!("{command:?}"), reply);
    }

    // What is wrong in the file is told, and may be a secret in a place that is not its own.
    for (field, value) in [
        ("users", json!([{ "name": "ann", "secret_sha256": format!("{password}0"), "role": "admin" }])),
        ("users", json!([{ "name": "ann", "secret_sha256": [password], "role": "admin" }])),
    ] {
        cluster.configure(1, field, value);
        cluster.write_config(1).unwrap();
        let refused = client.ask_line("RELOAD").unwrap();
        assert!(refused.starts_with("ERROR BADCONFIG "), "{refused}");
        shown.add("BADCONFIG", refused);
    }
    fs::set_permissions(&peers_file, fs::Permissions::from_mode(0o640)).unwrap();
    cluster.configure(1, "users", json!([{ "name": "ann", "secret_sha256": hash, "role": "admin" }]));
    cluster.write_config(1).unwrap();
    let refused = client.ask_line("RELOAD").unwrap();
    assert!(refused.starts_with("ERROR BADCONFIG ") && refused.contains("peer_secret_file"), "{refused}");
    shown.add("BADCONFIG", refused);
    cluster.signal(1, Signal::SIGHUP);
    cluster.await_log(1, &["configuration not reloaded"]);

    let running = begin(&mut kvctl(&["bench", "--seconds", "30", "--clients", "1"]), None);
    shown.add("the arguments of kvctl", arguments_of(running.process.id()));
    shown.add("the arguments of kvnode", arguments_of(cluster.process_id(1).unwrap()));
    drop(running);
    cluster.stop(1);
    shown.add("the log", cluster.log(1));
    shown.add("the audit log", fs::read_to_string(cluster.dir().join("audit.log")).unwrap());
    shown.assert_without(&[&password, &hash, &wrong, &wrong_hash, &peers, &peers_hash]);
}

#[test]
fn sighup_changes_users_and_closes_no_connection() {
    let mut cluster = crate::users::node_with_users(&[user("ann", "admin"), user("bob", "write")]);
    let mut bob = cluster.client(1);
    assert_eq!(bob.ask_line("AUTH bob bob-secret").unwrap(), "OK");
    assert_eq!(bob.ask_line("PUT a 1").unwrap(), "OK");
    cluster.configure(1, "users", json!([user("ann", "admin"), user("bob", "read"), user("eve", "read")]));
    cluster.write_config(1).unwrap();
    cluster.signal(1, Signal::SIGHUP);
    cluster.await_log(1, &["configuration reloaded by SIGHUP: applied users; needs a restart: none"]);
    assert!(bob.ask_line("PUT a 2").unwrap().starts_with("ERROR NOPERM "));
    assert_eq!(bob.ask_line("GET a").unwrap(), "VALUE 1");
    assert_eq!(cluster.client(1).ask_line("AUTH eve eve-secret").unwrap(), "OK");
}
