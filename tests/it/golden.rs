//! Golden scripts: what a user types and sees, as files that one can read. See `scripts/`.
//!
//! A script opens with a comment that says why it exists. `n1> SET a 1` sends a line on the connection to node 1 that the script keeps open; the lines below it are
//! the exact reply, a trailing `…` in one standing for any rest. `n1~> …` repeats the command until that is the reply. A line that begins with a
//! lower-case letter is an order: `kill n2`, `start n2`, `stop n2`, `wipe n2`, `pause n2`, `resume n2`, `cut n1 n2`, `stall n1 n2`, `join n1 n2`, `await converged`,
//! `await n2 ready`, `await n1 sees n2 down`.

use std::collections::BTreeMap;
use std::fs;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, repository_path, until};

#[test]
fn basic_operations() {
    run("basic-operations");
}

#[test]
fn errors() {
    run("errors");
}

#[test]
fn quoting() {
    run("quoting");
}

#[test]
fn numbers_and_expiry() {
    run("numbers-and-expiry");
}

#[test]
fn fault_and_recovery() {
    run("fault-and-recovery");
}

#[test]
fn cut_link() {
    run("cut-link");
}

/// Every file is run by a test above: one that nobody runs proves nothing.
#[test]
fn every_script_is_run() {
    let dir = fs::read_dir(repository_path("tests/it/scripts")).unwrap();
    let mut names: Vec<String> = dir.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["basic-operations.txt", "cut-link.txt", "errors.txt", "fault-and-recovery.txt", "numbers-and-expiry.txt", "quoting.txt"]
    );
}

fn run(name: &str) {
    let file = format!("tests/it/scripts/{name}.txt");
    let text = fs::read_to_string(repository_path(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(text.starts_with("# "), "{file} must open with why it exists");
    let mut script = Script { cluster: Cluster::plan(3).links().start(), clients: BTreeMap::new() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let place = format!("{file}:{}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((node, command)) = line.split_once("> ") else {
            script.order(line, &place);
            continue;
        };
        let mut wanted = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| is_reply(line)) {
            wanted.push(line);
        }
        match node.strip_suffix('~') {
            Some(node) => script.ask_until(node_id(node, &place), command, &wanted, &place),
            None => script.ask(node_id(node, &place), command, &wanted, &place),
        }
    }
    script.end();
}

/// Replies begin with a capital or a digit, everything else in a script does not.
fn is_reply(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit() || matches!(first, '{' | '-'))
}

struct Script {
    cluster: Cluster,
    /// Kept open across lines, made anew after the node was down.
    clients: BTreeMap<u16, Client>,
}

impl Script {
    fn ask(&mut self, id: u16, command: &str, wanted: &[&str], place: &str) {
        let reply = self.reply(id, command).unwrap_or_else(|error| panic!("{place}: n{id}> {command}: {error}"));
        assert!(matches(&reply, wanted), "{place}: n{id}> {command}\nexpected: {wanted:#?}\nfound: {reply:#?}");
    }

    fn ask_until(&mut self, id: u16, command: &str, wanted: &[&str], place: &str) {
        until(&format!("{place}: n{id}> {command}: {wanted:?}"), DEADLINE, || {
            let reply = self.reply(id, command).map_err(|error| {
                // The next try dials again.
                self.clients.remove(&id);
                error.to_string()
            })?;
            if matches(&reply, wanted) { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }

    fn reply(&mut self, id: u16, command: &str) -> std::io::Result<Vec<String>> {
        let addr = self.cluster.client_addr(id);
        let client = match self.clients.entry(id) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Client::connect(addr)?),
        };
        client.reply(command)
    }

    /// A connection to a node that was down is made anew.
    fn order(&mut self, line: &str, place: &str) {
        if let [order, node] = line.split(' ').collect::<Vec<_>>()[..]
            && matches!(order, "kill" | "start" | "stop")
        {
            self.clients.remove(&node_id(node, place));
        }
        order(&mut self.cluster, line, place);
    }

    /// Nothing was said beyond what the script has read.
    fn end(mut self) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            self.ask(id, "PING", &["PONG"], "after the last line");
        }
    }
}

/// One order to the cluster.
pub fn order(cluster: &mut Cluster, line: &str, place: &str) {
    let id = |word: &str| node_id(word, place);
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["await", "converged"] => cluster.await_converged(),
        ["await", node, "ready"] => cluster.await_ready(id(node)),
        ["await", node, "sees", peer, state @ ("up" | "down")] => cluster.await_sees(id(node), id(peer), state),
        ["cut", a, b] => cluster.cut(id(a), id(b)),
        ["stall", a, b] => cluster.stall(id(a), id(b)),
        ["join", a, b] => cluster.join(id(a), id(b)),
        ["pause", node] => cluster.pause(id(node)),
        ["resume", node] => cluster.resume(id(node)),
        ["kill", node] => cluster.kill(id(node)),
        ["start", node] => cluster.start(id(node)),
        ["stop", node] => cluster.stop(id(node)),
        ["wipe", node] => cluster.wipe(id(node)),
        _ => panic!("{place}: no such order: {line}"),
    }
}

fn node_id(word: &str, place: &str) -> u16 {
    let id = word.strip_prefix('n').and_then(|digits| digits.parse().ok());
    id.unwrap_or_else(|| panic!("{place}: expected a node such as n1, found {word:?}"))
}

fn matches(reply: &[String], wanted: &[&str]) -> bool {
    let same = |(line, wanted): (&String, &&str)| match wanted.strip_suffix('…') {
        Some(prefix) => line.starts_with(prefix),
        None => line == wanted,
    };
    reply.len() == wanted.len() && reply.iter().zip(wanted).all(same)
}
