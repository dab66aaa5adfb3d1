//! Users of a real node: at which addresses it wants them, how a reload changes them, and what
//! becomes of clients that do not say who they are.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, ClusterPlan, DEADLINE, until};
use crate::random::{Random, number_from, seed};
use crate::redis::request;

/// A user whose password is `secret` behind the name.
pub fn user(name: &str, role: &str) -> Value {
    let hash: String = Sha256::digest(format!("{name}-secret").as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "name": name, "secret_sha256": hash, "role": role })
}

/// A node that has its users from a reload on: before that, it can be asked whether it is open.
pub fn node_with_users(users: &[Value]) -> Cluster {
    start_with_users(Cluster::plan(1), users)
}

fn start_with_users(plan: ClusterPlan, users: &[Value]) -> Cluster {
    let mut cluster = plan.start();
    cluster.configure(1, "users", users);
    cluster.write_config(1).expect("a file that can be written");
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied users", "needs_restart none"]);
    cluster
}

#[test]
fn an_address_that_others_can_reach_needs_users() {
    let mut cluster = Cluster::plan(1).build();
    for addr in ["0.0.0.0:0", "[::]:0", "node1.example:7001"] {
        cluster.configure(1, "client_addr", addr);
        cluster.start(1);
        let reason = cluster.await_refused(1, 2);
        for words in ["field \"client_addr\"", addr, "expected an address of this machine alone", "users", "\"insecure\": true"] {
            assert!(reason.contains(words), "{addr}: no {words} in {reason}");
        }
    }
    cluster.configure(1, "client_addr", "0.0.0.0:0");
    for (field, value) in [("insecure", json!(true)), ("users", json!([user("admin", "admin")]))] {
        cluster.configure(1, field, value);
        cluster.start(1);
        cluster.await_log(1, &["clients on 0.0.0.0:"]);
        cluster.stop(1);
        cluster.configure(1, field, if field == "insecure" { json!(false) } else { json!([user("another", "admin")]) });
    }
    // The address of the command line counts like that of the file.
    cluster.configure(1, "client_addr", "127.0.0.1:0");
    cluster.node_mut(1).settings.remove("users");
    cluster.start_with(1, &["--client-addr", "0.0.0.0:0"]);
    assert!(cluster.await_refused(1, 2).contains("--client-addr 0.0.0.0:0: field \"client_addr\""));
}

#[test]
fn a_command_that_there_is_not_cannot_be_disabled() {
    let mut cluster = Cluster::plan(1).set("disabled_commands", json!(["flushall", "flush all"])).build();
    cluster.start(1);
    let reason = cluster.await_refused(1, 2);
    assert!(reason.contains("field \"disabled_commands\": found \"flush all\", expected the name of a command"), "{reason}");
}

#[test]
fn a_reload_changes_what_open_connections_may_do() {
    let mut cluster = node_with_users(&[user("admin", "admin"), user("shop", "write")]);
    let log_in = |cluster: &Cluster, name: &str| {
        let mut client = cluster.client(1);
        assert_eq!(client.ask_line(&format!("AUTH {name} {name}-secret")).unwrap(), "OK");
        client
    };
    let (mut admin, mut shop) = (log_in(&cluster, "admin"), log_in(&cluster, "shop"));
    let mut change = |field: &str, value: Value, applied: &str| {
        cluster.configure(1, field, value);
        cluster.write_config(1).unwrap();
        assert_eq!(admin.ask("RELOAD").unwrap(), [format!("applied {applied}"), "needs_restart none".to_owned()]);
    };
    assert_eq!(shop.ask_line("PUT a 1").unwrap(), "OK");
    change("users", json!([user("admin", "admin"), user("shop", "read")]), "users");
    assert_eq!(shop.ask_line("GET a").unwrap(), "VALUE 1");
    assert!(shop.ask_line("PUT a 2").unwrap().starts_with("ERROR NOPERM "));
    change("disabled_commands", json!(["get"]), "disabled_commands");
    assert!(shop.ask_line("GET a").unwrap().starts_with("ERROR NOPERM nobody may run the 'GET' command"));
    change("disabled_commands", json!([]), "disabled_commands");
    change("users", json!([user("admin", "admin")]), "users");
    assert_eq!(shop.ask_line("GET a").unwrap(), "ERROR NOAUTH Authentication required.");
    let status = admin.status().unwrap();
    assert_eq!(status.number("users"), 1);
    assert!(status.number("commands_denied") >= 3);
    // No hash leaves the node, and no password is in the log.
    let told = [admin.ask("STATUS").unwrap().concat(), cluster.log(1)].concat();
    assert!(!told.contains("-secret") && !told.contains(user("admin", "admin")["secret_sha256"].as_str().unwrap()));
}

#[test]
fn logins_and_refusals_are_in_the_audit_log_and_no_password_is() {
    let cluster = start_with_users(Cluster::plan(1).set("audit_file", "audit.log"), &[user("shop", "read")]);
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line("AUTH shop shop-secret").unwrap(), "OK");
    assert!(client.ask_line("PUT a 1").unwrap().starts_with("ERROR NOPERM "));
    assert!(client.ask_line("AUTH shop a-secret").unwrap().starts_with("ERROR WRONGPASS "));
    // The two words in the wrong order.
    assert!(client.ask_line("AUTH shop-secret shop").unwrap().starts_with("ERROR WRONGPASS "));
    let path = cluster.dir().join("audit.log");
    let text = until("the events", DEADLINE, || {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.matches("login_failed").count() == 2 { Ok(text) } else { Err(text) }
    });
    for words in
        [&["\"login\"", "\"shop\""][..], &["\"denied\"", "\"shop\"", "\"PUT\"", r#""key":"\"a\"""#], &["\"login_failed\"", "\"shop\""]]
    {
        assert!(text.lines().any(|line| words.iter().all(|word| line.contains(word))), "no line with {words:?} in {text}");
    }
    assert!(!text.contains("-secret"), "{text}");
}

#[test]
fn a_client_that_does_not_say_who_it_is_is_closed_after_ten_seconds() {
    let cluster = node_with_users(&[user("admin", "admin")]);
    let (mut silent, mut dripping, begun) = (cluster.client(1), cluster.client(1), Instant::now());
    let mut honest = cluster.client(1);
    assert_eq!(honest.ask_line("AUTH admin admin-secret").unwrap(), "OK");
    until("a client that drips is closed", DEADLINE, || match dripping.ask_line("PING") {
        Ok(pong) if pong == "PONG" => {
            // Not so fast that its bytes are too many.
            std::thread::sleep(Duration::from_millis(100));
            Err(pong)
        }
        Ok(closed) if closed == "ERROR NOAUTH no AUTH came within 10 seconds; this connection is closed" => Ok(()),
        other => panic!("{other:?}"),
    });
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_secs(9), "{elapsed:?}");
    assert_eq!(silent.line().unwrap(), "ERROR NOAUTH no AUTH came within 10 seconds; this connection is closed");
    // The time is over for strangers alone.
    assert_eq!(honest.ask_line("PUT a 1").unwrap(), "OK");
    assert_eq!(honest.status().unwrap().number("newcomers_closed"), 2);
}

/// Whatever comes before AUTH reaches no command: nothing is written, and nothing is told but
/// errors and what anybody may ask.
#[test]
fn arbitrary_bytes_before_auth_reach_no_command() {
    const INPUTS: u64 = 300;
    let cluster = node_with_users(&[user("admin", "admin")]);
    let mut admin = cluster.client(1);
    assert_eq!(admin.ask_line("AUTH admin admin-secret").unwrap(), "OK");
    assert_eq!(admin.ask_line("PUT treasure gold").unwrap(), "OK");
    let before = admin.ask_line("DIGEST").unwrap();
    let seed = seed();
    let mut random = Random::new(seed);
    for _ in 0..number_from("KVMESH_ROUNDS").unwrap_or(INPUTS) {
        let mut client = cluster.client(1);
        let input = stranger(&mut random);
        // It may be closed before all is sent.
        let _ = client.send(&input);
        let _ = client.stream().shutdown(std::net::Shutdown::Write);
        let replies = client.rest_until_closed().unwrap();
        let replies = String::from_utf8_lossy(&replies);
        for line in replies.lines() {
            // The one in between is an alert of TLS.
            let is_harmless = ["-", "ERROR ", "PONG", "\u{15}", "+OK", "OK", "+RESET"].iter().any(|begin| line.starts_with(begin));
            assert!(is_harmless, "KVMESH_SEED={seed}: {:?} gave {line:?}", input.escape_ascii().to_string());
        }
        assert!(!replies.contains("gold"), "KVMESH_SEED={seed}: {:?}", input.escape_ascii().to_string());
    }
    assert_eq!(admin.ask_line("DIGEST").unwrap(), before);
    assert_eq!(admin.status().unwrap().number("writes"), 1);
}

/// Commands in both protocols, whole, cut, and with bytes changed; and bytes of nothing.
fn stranger(random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "GET", "SET", "PUT", "DEL", "FLUSHALL", "MULTI", "EXEC", "DUMP", "RESTORE", "KEYS", "SCAN", "INFO", "STATUS", "CLIENT", "LIST",
        "KILL", "RESET", "COMPACT", "RELOAD", "WATCH", "RENAME", "treasure", "0", "*",
    ];
    let mut input = Vec::new();
    for _ in 0..1 + random.below(6) {
        let words: Vec<&str> = (0..1 + random.below(4)).map(|_| WORDS[random.below(WORDS.len())]).collect();
        match random.below(5) {
            0 | 1 => input.extend(request(&words)),
            2 => input.extend((words.join(" ") + "\n").into_bytes()),
            3 => input.extend(b"PING\n"),
            _ => input.extend((0..random.below(60)).map(|_| random.below(256) as u8)),
        }
    }
    for _ in 0..random.below(3) {
        if !input.is_empty() {
            let place = random.below(input.len());
            input[place] = random.below(256) as u8;
        }
    }
    input.truncate(input.len() - random.below(input.len() / 4 + 1));
    input
}
