//! The walk: the commands of the documents, typed against three real nodes.
//!
//! A block that a reader may paste, `console` or `sh`, is run, or the line before it says why not:
//! `<!-- not run: needs three machines -->`. In a `console` block, `$ ` begins a command, and what
//! stands below it must be printed: `…` alone stands for any lines, at the end of a line for any
//! rest, and a number with a point for any other. A `text` block whose lines begin with `[1] [` is
//! a log: its lines must be in the log of the node that they name, digits and the module aside.
//! `<!-- meanwhile: kill n1; start n1 -->` gives orders of the golden scripts between two blocks.
//!
//! Not run as it stands: `./run-cluster.sh` and `kill`, for which the harness starts and kills
//! nodes; `telnet`, for which this file speaks; and the ports, which the system chooses.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::golden;
use crate::program::{self, run};
use crate::repository::{text, texts};

/// Stands for a reader's shell: `kvctl` asks node 1 unless it is told otherwise, `redis-cli` is on
/// a terminal, and some `nc` is there.
const SHELL: &str = r#"
kvctl() { if [[ $1 == -n ]]; then command kvctl "$@"; else command kvctl -n localhost:7001 "$@"; fi; }
redis-cli() { command redis-cli -h localhost --no-raw "$@"; }
nc() { exec 3<>"/dev/tcp/$1/$2"; cat >&3; cat <&3; }
"#;

/// Commands with such a word are not repeated until they print what is shown.
const WRITES: [&str; 7] = ["set", "upd", "put", "del", "incr", "incrby", "restore"];

#[test]
fn the_readme_prints_what_it_shows() {
    walk_from_the_start("README.md");
}

#[test]
fn the_quick_start_prints_what_it_shows() {
    walk_from_the_start("docs/quick-start.md");
}

/// Walks a page that starts the nodes itself, and speaks as `redis-cli`, too.
fn walk_from_the_start(page: &str) {
    if program::is_there("redis-cli", "redis-tools") {
        walk(page, Cluster::plan(3).patient().set("recovery_wait_ms", 3_000).build());
    }
}

#[test]
fn redis_cli_prints_what_its_page_shows() {
    if program::is_there("redis-cli", "redis-tools") {
        walk("docs/redis.md", Cluster::plan(3).start());
    }
}

#[test]
fn kvctl_prints_what_its_page_shows() {
    walk("docs/kvctl.md", Cluster::plan(3).start());
}

#[test]
fn backup_and_restore_do_what_their_page_shows() {
    walk("docs/backup.md", Cluster::plan(3).start());
}

#[test]
fn commands_answer_as_their_page_shows() {
    walk("docs/commands.md", Cluster::plan(3).start());
}

#[test]
fn a_node_reports_what_the_operators_page_shows() {
    walk("docs/operations.md", Cluster::plan(3).start());
}

/// Every page is walked by a test of this file, unless it has no command that is run.
#[test]
fn every_command_in_the_documents_is_run_or_says_why_not() {
    for page in texts("", "md").into_keys() {
        let commands = steps(&page, &text(&page)).iter().filter(|step| matches!(step, Step::Command { .. })).count();
        assert_eq!(commands > 0, WALKED.contains(&&*page), "{page} has {commands} commands to run");
    }
}

const WALKED: &[&str] =
    &["README.md", "docs/backup.md", "docs/commands.md", "docs/kvctl.md", "docs/operations.md", "docs/quick-start.md", "docs/redis.md"];

/// Types the commands of a page, in their order.
fn walk(page: &str, cluster: Cluster) {
    assert!(WALKED.contains(&page), "{page} is not listed as one that is walked");
    let mut walk = Walk { cluster, processes: BTreeMap::new(), dir: tempfile::tempdir().expect("a directory") };
    for step in steps(page, &text(page)) {
        walk.take(page, &step);
    }
}

/// One thing that the page says.
#[derive(Debug, PartialEq)]
enum Step<'p> {
    Command { line: usize, command: &'p str, shown: Vec<&'p str> },
    Log { line: usize, shown: &'p str },
    Order { line: usize, order: &'p str },
}

/// The commands, log lines and orders of a page. Panics at a block that a reader may paste and that
/// nothing runs.
fn steps<'p>(page: &str, text: &'p str) -> Vec<Step<'p>> {
    let (mut steps, mut block, mut before) = (Vec::new(), None, "");
    for (line, text) in text.lines().enumerate().map(|(index, text)| (index + 1, text)) {
        match (block, text.strip_prefix("```")) {
            (None, Some(kind)) => {
                let is_excused = before.strip_prefix("<!-- not run: ").is_some_and(|why| why.ends_with(" -->"));
                assert!(is_excused || kind != "sh", "{page}:{line}: no test runs this block, and nothing says why");
                block = Some(if is_excused { "not run" } else { kind });
            }
            (None, None) => {
                if let Some(orders) = text.strip_prefix("<!-- meanwhile: ").and_then(|orders| orders.strip_suffix(" -->")) {
                    steps.extend(orders.split("; ").map(|order| Step::Order { line, order }));
                }
            }
            (Some(_), Some(_)) => block = None,
            (Some("console"), None) => match (text.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step::Command { line, command, shown: Vec::new() }),
                (None, Some(Step::Command { shown, .. })) => shown.push(text),
                (None, _) => panic!("{page}:{line}: {text:?} stands below no command"),
            },
            (Some("text"), None) if is_logged(text) => steps.push(Step::Log { line, shown: text }),
            (Some("not run"), None) => {}
            (Some(kind), None) => assert!(!text.starts_with("$ "), "{page}:{line}: a command in a block of {kind:?}; no test runs those"),
        }
        before = text;
    }
    steps
}

/// A line of a log as `run-cluster.sh` shows it: `[1] [2026-…] …`.
fn is_logged(line: &str) -> bool {
    line.strip_prefix('[').and_then(|rest| rest.split_once("] [")).is_some_and(|(id, _)| id.parse::<u16>().is_ok())
}

struct Walk {
    cluster: Cluster,
    /// The nodes by the process ids that the page shows.
    processes: BTreeMap<String, u16>,
    /// Where the commands are typed.
    dir: TempDir,
}

impl Walk {
    fn take(&mut self, page: &str, step: &Step<'_>) {
        match step {
            Step::Log { line, shown } => self.find_logged(*line, shown),
            Step::Order { line, order } => golden::order(&mut self.cluster, order, &format!("{page}:{line}")),
            Step::Command { line, command, shown } => {
                let words: Vec<&str> = command.split(' ').collect();
                match words[..] {
                    ["./run-cluster.sh"] => self.start(&[1, 2, 3], shown),
                    ["./run-cluster.sh", id] => self.start(&[id.parse().expect("a node's number")], shown),
                    ["kill", "-9", ref processes @ ..] => processes.iter().for_each(|process| {
                        let id = self.processes.get(*process).unwrap_or_else(|| panic!("line {line}: no node has process {process}"));
                        self.cluster.kill(*id);
                    }),
                    ["telnet", "localhost", port] => self.speak(*line, port, shown),
                    _ => self.run(*line, command, shown),
                }
            }
        }
    }

    fn start(&mut self, ids: &[u16], shown: &[&str]) {
        ids.iter().for_each(|id| self.cluster.start(*id));
        ids.iter().for_each(|id| self.cluster.await_ready(*id));
        if ids.len() > 1 {
            self.cluster.await_whole();
        }
        for (id, process) in shown.iter().filter_map(|line| line.strip_prefix("Node ")?.split_once(" is ready: ")) {
            let (_, process) = process.split_once("process ").expect("a process id");
            self.processes.insert(process.to_owned(), id.parse().expect("a node's number"));
        }
    }

    /// A line of the page for this cluster: its ports are those that the system has chosen.
    fn here(&self, text: &str) -> String {
        let text = text.replace("localhost", &self.cluster.ip().to_string());
        (1..=3).fold(text, |text, id| text.replace(&format!("700{id}"), &self.cluster.client_addr(id).port().to_string()))
    }

    fn speak(&self, line: usize, port: &str, shown: &[&str]) {
        let (["Trying 127.0.0.1...", "Connected to localhost.", _, dialogue @ ..], Some("Connection closed by foreign host.")) =
            (shown, shown.last().copied())
        else {
            panic!("line {line}: telnet shows something else: {shown:?}");
        };
        let id = port.strip_prefix("700").and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("line {line}: no node has port {port}"));
        let mut client = Client::connect(self.cluster.client_addr(id)).expect("a node listens");
        let mut left = &dialogue[..dialogue.len() - 1];
        while let Some((command, rest)) = left.split_first() {
            // What was written through another node may be a moment on its way.
            left = until(&format!("line {line}: the reply to {command}, as shown in {rest:?}"), DEADLINE, || {
                let reply = client.reply(command).map_err(|error| error.to_string())?;
                let shown = &rest[..reply.len().min(rest.len())];
                if is_shown(&reply, shown, false) { Ok(&rest[shown.len()..]) } else { Err(format!("{reply:?}")) }
            });
        }
    }

    fn run(&self, line: usize, command: &str, shown: &[&str]) {
        let shown: Vec<String> = shown.iter().map(|line| self.here(line)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        let is_write = command.split(' ').any(|word| WRITES.contains(&word));
        let is_time = command.split(' ').any(|word| word == "ttl");
        until(&format!("line {line}: {command}\nto print {shown:#?}"), DEADLINE, || {
            let printed = self.shell(command);
            let is_right = is_shown(&printed, &shown, is_time);
            assert!(is_right || !is_write, "line {line}: {command}\nexpected: {shown:#?}\nfound: {printed:#?}");
            if is_right { Ok(()) } else { Err(format!("{printed:?}")) }
        });
    }

    /// Runs a command in a shell. Returns what it printed on stdout and stderr.
    fn shell(&self, command: &str) -> Vec<String> {
        let kvctl = Path::new(env!("CARGO_BIN_EXE_kvctl")).parent().expect("a directory");
        let paths = env::var_os("PATH").unwrap_or_default();
        let paths = env::join_paths([kvctl.to_owned()].into_iter().chain(env::split_paths(&paths))).expect("a PATH");
        let shell = self.here(&format!("exec 2>&1; {SHELL}{command}"));
        let mut bash = Command::new("bash");
        bash.args(["-c", &shell]).env("PATH", paths).current_dir(self.dir.path());
        run(&mut bash).out.lines().map(str::to_owned).collect()
    }

    fn find_logged(&self, line: usize, shown: &str) {
        let (id, logged) = shown.strip_prefix('[').and_then(|rest| rest.split_once("] ")).expect("a line of run-cluster.sh");
        let (id, wanted) = (id.parse().expect("a node's number"), sentence(logged));
        until(&format!("line {line}: node {id} to log {shown:?}"), DEADLINE, || {
            let log = self.cluster.log_of_this_start(id);
            let is_there = log.lines().any(|line| sentence(line) == wanted);
            if is_there { Ok(()) } else { Err("no such line".to_owned()) }
        });
    }
}

/// The level and the words of a log line, without its time, its module and its digits.
fn sentence(line: &str) -> (Option<String>, String) {
    let (head, words) = line.split_once("] ").unwrap_or(("", line));
    let level = head.split_whitespace().nth(1).map(str::to_owned);
    // Of a path, the end.
    let words = words.split(' ').map(|word| word.find("/data/").map_or(word, |start| &word[start + 1..]));
    let mut text = String::new();
    for c in words.flat_map(|word| word.chars().chain([' '])) {
        match c {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            other => text.push(other),
        }
    }
    (level, text)
}

/// Compares what was printed with what a page shows. `is_time`: a whole number is one of seconds,
/// of which some may have passed.
fn is_shown(printed: &[String], shown: &[&str], is_time: bool) -> bool {
    match shown {
        [] => printed.is_empty(),
        ["…", rest @ ..] => (0..=printed.len()).any(|skipped| is_shown(&printed[skipped..], rest, is_time)),
        [line, rest @ ..] => printed.split_first().is_some_and(|(first, printed)| {
            let is_same = match line.strip_suffix('…') {
                Some(start) => first.starts_with(start),
                None => is_same_line(first, line, is_time),
            };
            is_same && is_shown(printed, rest, is_time)
        }),
    }
}

fn is_same_line(printed: &str, shown: &str, is_time: bool) -> bool {
    let is_decimal = |word: &str| word.contains('.') && word.parse::<f64>().is_ok();
    let seconds = |word: &str| if is_time { word.parse::<u64>().ok() } else { None };
    let is_same_word = |(printed, shown): (&str, &str)| match (seconds(printed), seconds(shown)) {
        (Some(printed), Some(shown)) => (shown.saturating_sub(60)..=shown).contains(&printed),
        _ => printed == shown || is_decimal(printed) && is_decimal(shown),
    };
    let (printed, shown): (Vec<&str>, Vec<&str>) = (printed.split(' ').collect(), shown.split(' ').collect());
    printed.len() == shown.len() && printed.into_iter().zip(shown).all(is_same_word)
}

#[test]
fn a_page_that_shows_something_else_is_found() {
    let printed = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let peers = printed(&["peer 2 down for_s 0.3"]);
    assert!(is_shown(&peers, &["peer 2 down for_s 1.8"], false));
    assert!(!is_shown(&peers, &["peer 2 up for_s 1.8"], false));
    assert!(!is_shown(&peers, &["peer 3 down for_s 1.8"], false));
    assert!(!is_shown(&peers, &[], false) && !is_shown(&[], &["OK"], false));
    let three = printed(&["a", "b", "c d"]);
    assert!(is_shown(&three, &["…"], false) && is_shown(&three, &["…", "c …"], false) && is_shown(&three, &["a", "…"], false));
    assert!(!is_shown(&three, &["…", "b"], false) && !is_shown(&three, &["a", "b"], false));
    assert!(is_shown(&printed(&["(integer) 599"]), &["(integer) 600"], true));
    assert!(!is_shown(&printed(&["(integer) 599"]), &["(integer) 600"], false) && !is_shown(&printed(&["601"]), &["600"], true));
    let line = |words: &str| format!("[2026-11-30T16:03:40.911Z INFO  kvmesh::node] {words}");
    assert_eq!(sentence(&line("node 2 is up")), sentence("[2027-01-01T00:00:00.000Z INFO  elsewhere] node 13 is up"));
    assert_ne!(sentence(&line("node 2 is up")), sentence(&line("node 2 is down")));
    assert_eq!(
        steps(
            "page",
            "# A page\n```console\n$ one 1\nyes\n$ two\n```\n```text\n[1] [now] logged\nshown\n```\n<!-- meanwhile: kill n1; start n1 -->\n"
        ),
        [
            Step::Command { line: 3, command: "one 1", shown: vec!["yes"] },
            Step::Command { line: 5, command: "two", shown: vec![] },
            Step::Log { line: 8, shown: "[1] [now] logged" },
            Step::Order { line: 11, order: "kill n1" },
            Step::Order { line: 11, order: "start n1" },
        ]
    );
    assert_eq!(steps("page", "<!-- not run: needs root -->\n```sh\nrm -r data\n```\n"), []);
}

#[test]
#[should_panic(expected = "no test runs this block")]
fn a_block_that_nothing_runs_is_found() {
    steps("page", "```sh\nrm -r data\n```\n");
}

#[test]
#[should_panic(expected = "a command in a block of \"text\"")]
fn a_command_outside_of_a_console_is_found() {
    steps("page", "```text\n$ rm -r data\n```\n");
}
