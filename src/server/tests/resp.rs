//! Redis clients: which errors of the mesh they hear, and what becomes of their commands when they
//! are not acknowledged.

use super::*;
use crate::wire::resp::encoding::request;

impl Client {
    pub fn ask(&mut self, words: &[&str]) {
        self.ask_all(&[words]);
    }

    /// Sends requests in one piece, so that they are one round.
    fn ask_all(&mut self, requests: &[&[&str]]) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|words| request(words, &mut bytes));
        self.send(bytes);
    }

    /// The next lines, without their ends; one that begins an error may go on.
    pub fn hear(&mut self, lines: &[&str]) {
        for wanted in lines {
            let line = self.line();
            let line = line.strip_suffix('\r').unwrap_or(&line);
            let is_it = if wanted.starts_with('-') { line.starts_with(wanted) } else { line == *wanted };
            assert!(is_it, "{line:?} instead of {wanted:?}");
        }
    }
}

#[test]
fn a_node_that_has_not_caught_up_says_so_and_answers_what_clients_need_to_wait() {
    let fixture = closed_fixture(any_port(), 2, "");
    let mut client = fixture.connect();
    client.ask(&["PING"]);
    client.ask(&["SELECT", "0"]);
    client.ask(&["AUTH", "default", "any"]);
    client.ask(&["CLIENT", "SETNAME", "me"]);
    client.ask(&["GET", "a"]);
    client.ask(&["SET", "a", "1"]);
    client.hear(&["+PONG", "+OK", "+OK", "+OK", "-LOADING this node is catching up", "-LOADING this node is catching up"]);
    // What cannot be executed is not queued.
    client.ask(&["MULTI"]);
    client.ask(&["SET", "a", "1"]);
    client.ask(&["EXEC"]);
    client.hear(&["+OK", "-LOADING", "-EXECABORT"]);
    client.ask(&["INFO", "persistence"]);
    client.hear(&[]);
    until("loading", || client.line().trim_end() == "loading:1");
    fixture.stop();
}

/// Tombstones stay for ten minutes, and nobody can delete those.
#[test]
fn a_full_node_takes_new_keys_once_the_old_ones_are_deleted() {
    const MAX: usize = 100_000;
    let fixture = fixture(0, &format!(r#", "memory_max": {MAX}"#));
    let mut client = fixture.connect();
    let mut fill = |sort: &str| {
        for taken in 0.. {
            client.ask(&["SET", &format!("{sort}{taken}"), "v"]);
            let line = client.line();
            if line != "+OK\r" {
                client.ask(&["FLUSHALL"]);
                client.hear(&["+OK"]);
                return (taken, line);
            }
        }
        unreachable!("it is full at some time");
    };
    let (at_first, sentence) = fill("a");
    assert!(sentence.ends_with(&format!("and memory_max is {MAX}; nothing was written; DEL still works\r")), "{sentence}");
    let (again, sentence) = fill("b");
    assert!(2 * again >= at_first, "{again} keys after {at_first}");
    assert!(sentence.contains("tombstones of deleted keys") && sentence.contains("for 600 s at least"), "{sentence}");
    // But nobody fills it with deletes.
    let (at_last, _) = fill("c");
    assert!(50 * at_last < at_first, "{at_last} keys after {at_first}");
    let memory = fixture.store.memory();
    assert!(memory.total() <= MAX + MAX / 2 + 200 && memory.values == 0, "{memory:?}");
    fixture.stop();
}

#[test]
fn without_a_quorum_and_without_room_redis_clients_hear_what_redis_says() {
    let fixture = fixture(2, r#", "memory_max": 350"#);
    let mut client = fixture.connect();
    client.ask(&["ACK", "local"]);
    client.ask(&["SET", "a", &"v".repeat(300)]);
    client.ask(&["SET", "b", "1"]);
    client.ask(&["MSET", "b", "1", "c", "2"]);
    client.ask(&["INCR", "n"]);
    client.ask(&["EXPIRE", "a", "100"]);
    client.ask(&["DEL", "a"]);
    client.hear(&["+OK", "+OK", "-OOM the entries take", "-OOM", "-OOM", ":1", ":1"]);
    client.ask(&["ACK", "majority"]);
    fixture.acks.set_up(0, false);
    fixture.acks.set_up(1, false);
    for command in [&["SET", "a", "1"][..], &["INCR", "a"], &["MSET", "a", "1", "b", "2"], &["FLUSHALL"]] {
        client.ask(command);
    }
    client.ask(&["MULTI"]);
    client.ask(&["SET", "a", "1"]);
    client.ask(&["EXEC"]);
    client.hear(&[
        "+OK",
        "-NOREPLICAS 1 of 3 members counts",
        "-NOREPLICAS",
        "-NOREPLICAS",
        "-NOREPLICAS",
        "+OK",
        "+QUEUED",
        "-NOREPLICAS",
    ]);
    assert_eq!(fixture.store.counts(0).keys, 0);
    fixture.stop();
}

#[test]
fn what_is_not_acknowledged_in_time_is_unknown_as_a_whole() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 300"#);
    let mut client = fixture.connect();
    client.ask(&["MULTI"]);
    client.ask(&["SET", "a", "1"]);
    client.ask(&["GET", "a"]);
    client.ask(&["EXEC"]);
    client.ask(&["MSET", "b", "1", "c", "2"]);
    client.ask(&["INCR", "a"]);
    client.ask(&["GET", "a"]);
    client.hear(&["+OK", "+QUEUED", "+QUEUED", "-TIMEOUT the write is applied on this node", "-TIMEOUT", "-TIMEOUT", "$1", "2"]);
    // A long answer of a command that wrote is not given either.
    let value = "v".repeat(400 << 10);
    fixture.store.merge(fixture.foreign("long", Some(&value)), |_| false);
    client.ask(&["GETSET", "long", "short"]);
    client.ask(&["GET", "long"]);
    client.hear(&["-TIMEOUT", "$5", "short"]);
    fixture.stop();
}

#[test]
fn wait_counts_the_peers_that_have_it() {
    let fixture = fixture(2, r#", "ack": "local""#);
    let mut client = fixture.connect();
    client.ask(&["WAIT", "2", "0"]);
    client.hear(&[":2"]);
    client.ask(&["SET", "a", "1"]);
    client.ask(&["WAIT", "0", "0"]);
    client.ask(&["WAIT", "1", "50"]);
    client.hear(&["+OK", ":0", ":0"]);
    fixture.acknowledge(1);
    client.ask(&["WAIT", "2", "50"]);
    client.hear(&[":1"]);
    // Without a bound: until it is so.
    client.ask(&["WAIT", "2", "0"]);
    until("it waits", || fixture.acks.counting_len() > 0);
    assert!(!client.is_answered());
    fixture.acknowledge(0);
    client.hear(&[":2"]);
    // A peer whose acks begin anew.
    fixture.acks.reset(0, true);
    client.ask(&["WAIT", "2", "20"]);
    client.hear(&[":1"]);
    fixture.acks.covered(0, fixture.submit.position());
    client.ask(&["WAIT", "2", "0"]);
    client.hear(&[":2"]);
    client.ask(&["WAITAOF", "1", "1", "0"]);
    client.hear(&["-ERR WAITAOF needs fsync"]);
    fixture.stop();
}

#[test]
fn a_client_that_goes_while_it_waits_is_let_go() {
    let fixture = fixture(2, r#", "ack": "local""#);
    let mut client = fixture.connect();
    client.ask(&["SET", "a", "1"]);
    // Something lies behind it that is not read meanwhile.
    client.ask(&["WAIT", "2", "0"]);
    client.hear(&["+OK"]);
    until("it waits", || fixture.acks.counting_len() > 0);
    client.ask(&["PING"]);
    client.socket.shutdown(Shutdown::Both).unwrap();
    until("its session has ended", || fixture.server.clients_len() == 0);
    fixture.stop();
}
