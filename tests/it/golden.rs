//! Golden scripts: what a user types and sees, as files that one can read. See `scripts/`.
//!
//! A script opens with a comment that says which promise it shows, and runs against three nodes.
//! `with memory_max 4000`, before anything else, sets a configuration field of all of them.
//!
//! `n1> SET a 1` sends a line on the connection to node 1 that the script keeps open. The lines
//! below it, up to an empty line or the next command, are the exact reply; a trailing `…` in one
//! stands for any rest, and `…` alone for any lines. `n1~> …` repeats the command until that is the
//! reply. `n1*> SET a 1` sends the same words as RESP, on the same connection, and shows the reply
//! as redis-cli does. `n1> RESTORE` sends the dump that `backup n2` has taken.
//!
//! Other lines are orders: `kill n2`, `start n2`, `stop n2`, `wipe n2`, `remove-log n2`, `pause
//! n2`, `resume n2`, `cut n1 n2`, `stall n1 n2`, `join n1 n2`, `backup n2`, `await converged`,
//! `await n2 ready`, `await n1 sees n2 down`, `await n1 status members_up 2`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::repository::{self, repository_path};

/// A test for each script.
macro_rules! scripts {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run(&file_name(stringify!($name)));
        })+

        const SCRIPTS: &[&str] = &[$(stringify!($name)),+];
    };
}

// In reading order.
scripts! {
    basic_operations
    create_only
    update_only
    numbers_and_expiry
    quoting
    errors
    help
    limits
    two_protocols
    several_keys
    transactions
    newest_write_wins
    counters
    read_then_write
    expiry
    ack_levels
    wait
    local_works_alone
    unknown_outcome
    paused_node
    cut_link
    fault_and_recovery
    deletes_stay_deleted
    wiped_node
    restart_of_all
    degraded
    compaction
    removed_log
    restore
    restore_into_blank
    stale_backup
}

fn file_name(test: &str) -> String {
    format!("{}.txt", test.replace('_', "-"))
}

/// A script that no test runs proves nothing.
#[test]
fn every_script_is_run() {
    let dir = fs::read_dir(repository_path("tests/it/scripts")).unwrap();
    let mut names: Vec<String> = dir.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut run: Vec<String> = SCRIPTS.iter().map(|test| file_name(test)).collect();
    run.sort();
    assert_eq!(names, run);
}

fn run(name: &str) {
    let file = format!("tests/it/scripts/{name}");
    let text = repository::text(&file);
    assert!(text.starts_with("# "), "{file} must open with why it exists");
    let mut plan = Cluster::plan(3).links();
    for setting in text.lines().filter_map(|line| line.strip_prefix("with ")) {
        let (field, value) = setting.split_once(' ').unwrap_or_else(|| panic!("{file}: {setting:?} is no field and value"));
        plan = plan.set(field, serde_json::from_str::<Value>(value).unwrap_or_else(|error| panic!("{file}: {setting}: {error}")));
    }
    let mut script = Script { cluster: plan.start(), clients: BTreeMap::new(), backup: Vec::new() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let place = format!("{file}:{}", number + 1);
        if line.is_empty() || line.starts_with(['#']) || line.starts_with("with ") {
            continue;
        }
        let Some(command) = Command::parse(line) else {
            script.order(line, &place);
            continue;
        };
        let mut wanted = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| is_reply(line)) {
            wanted.push(line);
        }
        script.ask(&command, &wanted, &place);
    }
    script.end();
}

/// A line that is sent to a node.
struct Command<'s> {
    node: u16,
    words: &'s str,
    /// Repeated until the reply is the one that is wanted.
    is_repeated: bool,
    is_resp: bool,
}

impl Command<'_> {
    fn parse(line: &str) -> Option<Command<'_>> {
        let (prompt, words) = line.split_once("> ")?;
        let node = prompt.strip_prefix('n')?.trim_end_matches(['~', '*']).parse().ok()?;
        Some(Command { node, words, is_repeated: prompt.contains('~'), is_resp: prompt.contains('*') })
    }
}

/// First words of orders.
const ORDERS: [&str; 12] = ["await", "backup", "cut", "join", "kill", "pause", "remove-log", "resume", "stall", "start", "stop", "wipe"];

fn is_reply(line: &str) -> bool {
    let is_order = || ORDERS.contains(&line.split(' ').next().unwrap_or_default());
    !(line.is_empty() || line.starts_with('#') || Command::parse(line).is_some() || is_order())
}

struct Script {
    cluster: Cluster,
    /// Kept open across lines, made anew after the node was down.
    clients: BTreeMap<u16, Client>,
    /// The lines of the last dump that was taken.
    backup: Vec<String>,
}

impl Script {
    fn ask(&mut self, command: &Command<'_>, wanted: &[&str], place: &str) {
        let Command { node, words, is_repeated, .. } = command;
        if *is_repeated {
            until(&format!("{place}: n{node}> {words}: {wanted:?}"), DEADLINE, || {
                let reply = self.reply(command).map_err(|error| {
                    // The next try dials again.
                    self.clients.remove(node);
                    error.to_string()
                })?;
                if matches(&reply, wanted) { Ok(()) } else { Err(format!("{reply:?}")) }
            });
        } else {
            let reply = self.reply(command).unwrap_or_else(|error| panic!("{place}: n{node}> {words}: {error}"));
            assert!(matches(&reply, wanted), "{place}: n{node}> {words}\nexpected: {wanted:#?}\nfound: {reply:#?}");
        }
    }

    fn reply(&mut self, command: &Command<'_>) -> io::Result<Vec<String>> {
        let addr = self.cluster.client_addr(command.node);
        let client = match self.clients.entry(command.node) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Client::connect(addr)?),
        };
        if command.is_resp {
            return resp_reply(client, command.words);
        }
        if command.words == "RESTORE" {
            client.send(["RESTORE".to_owned()].iter().chain(&self.backup).map(|line| format!("{line}\n")).collect::<String>())?;
            let reply = client.long_reply()?;
            if reply[0].starts_with("ERROR") {
                // After an error of RESTORE the node closes the connection.
                self.clients.remove(&command.node);
            }
            return Ok(reply);
        }
        client.reply(command.words)
    }

    fn order(&mut self, line: &str, place: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["backup", node] => self.backup = self.cluster.ask(node_id(node, place), "DUMP"),
            [order @ ("kill" | "start" | "stop"), node] => {
                // A connection to a node that was down is made anew.
                self.clients.remove(&node_id(node, place));
                self::order(&mut self.cluster, &format!("{order} {node}"), place);
            }
            _ => order(&mut self.cluster, line, place),
        }
    }

    /// No node has sent more than the script has read.
    fn end(mut self) {
        for node in self.clients.keys().copied().collect::<Vec<_>>() {
            let ping = Command { node, words: "PING", is_repeated: false, is_resp: false };
            self.ask(&ping, &["PONG"], "after the last line");
        }
    }
}

/// Sends the words as an array of bulk strings, and reads the reply as redis-cli shows it.
fn resp_reply(client: &mut Client, words: &str) -> io::Result<Vec<String>> {
    let words: Vec<&str> = words.split(' ').collect();
    let bulks: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    client.send(format!("*{}\r\n{bulks}", words.len()))?;
    resp_value(client)
}

fn resp_value(client: &mut Client) -> io::Result<Vec<String>> {
    let line = client.line()?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| io::Error::other("an empty line in RESP"))?;
    Ok(match (kind, rest) {
        ("+", word) => vec![word.to_owned()],
        ("-", error) => vec![format!("(error) {error}")],
        (":", number) => vec![format!("(integer) {number}")],
        ("$" | "*", "-1") => vec!["(nil)".to_owned()],
        ("$", _) => vec![format!("{:?}", client.line()?)],
        ("*", "0") => vec!["(empty array)".to_owned()],
        ("*", count) => {
            let count: usize = count.parse().map_err(io::Error::other)?;
            let mut lines = Vec::new();
            for number in 1..=count {
                lines.push(format!("{number}) {}", resp_value(client)?.join(" ")));
            }
            lines
        }
        _ => return Err(io::Error::other(format!("{line:?} is no reply of RESP"))),
    })
}

/// One order to the cluster.
pub fn order(cluster: &mut Cluster, line: &str, place: &str) {
    let id = |word: &str| node_id(word, place);
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["await", "converged"] => cluster.await_converged(),
        ["await", node, "status", field, ref value @ ..] => await_status(cluster, id(node), field, &value.join(" ")),
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
        ["remove-log", node] => remove_log(&cluster.data_path(id(node))),
        _ => panic!("{place}: no such order: {line}"),
    }
}

fn node_id(word: &str, place: &str) -> u16 {
    let id = word.strip_prefix('n').and_then(|digits| digits.parse().ok());
    id.unwrap_or_else(|| panic!("{place}: expected a node such as n1, found {word:?}"))
}

fn remove_log(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a data directory") {
        let path = entry.expect("a file").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")) {
            fs::remove_file(path).expect("a log that can be removed");
        }
    }
}

fn await_status(cluster: &Cluster, node: u16, field: &str, wanted: &str) {
    until(&format!("n{node}: {field} {wanted}"), DEADLINE, || {
        let status = Client::connect(cluster.client_addr(node)).and_then(|mut client| client.status());
        let status = status.map_err(|error| error.to_string())?;
        let found = status.text(field);
        if found == wanted { Ok(()) } else { Err(format!("{field} {found}")) }
    });
}

fn matches(reply: &[String], wanted: &[&str]) -> bool {
    match wanted {
        [] => reply.is_empty(),
        ["…", rest @ ..] => (0..=reply.len()).any(|skipped| matches(&reply[skipped..], rest)),
        [line, rest @ ..] => reply.split_first().is_some_and(|(first, reply)| {
            let is_same = match line.strip_suffix('…') {
                Some(start) => first.starts_with(start),
                None => first == line,
            };
            is_same && matches(reply, rest)
        }),
    }
}
