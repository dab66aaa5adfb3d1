//! The arrows of the architecture: which module may know which. A file that imports what it must
//! not fails here, and so does one that no rule names.

use std::path::Path;

use crate::repository::{code_of, texts};

/// The imports that a file may have: path prefixes after `crate::`, and the parts of std that it
/// must not touch.
struct Rule {
    /// A file or a folder of `src`.
    place: &'static str,
    may: &'static [&'static str],
    must_not_std: &'static [&'static str],
}

const NO_IO: &[&str] = &["std::net", "std::thread", "std::fs"];

/// The imports of every file of the replication.
const REPLICATION_MAY: &[&str] = &[
    "net",
    "process::descriptors",
    "process::threads",
    "budget",
    "lock_order",
    "sync",
    "wire::frame",
    "data",
    "testing::broken_hand_overs",
    "testing::broken_rules",
    "store",
    "wire::dump",
    "config",
    "wire::bytes::Limits",
    "wire::challenge",
    "wire::peer",
    "wire::ack_level::AckLevel",
    "wire::quoting",
    "wal",
    "process::audit",
    "process::logging::LogLimit",
    "replication",
];

/// Arrows point down only. The first rule that fits a file counts.
const RULES: &[Rule] = &[
    Rule { place: "testing/broken_rules.rs", may: &["data::entry::Value"], must_not_std: NO_IO },
    Rule { place: "testing/broken_hand_overs.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "testing/mod.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "testing/entries.rs", may: &["data"], must_not_std: NO_IO },
    Rule { place: "testing/wait.rs", may: &[], must_not_std: &["std::net", "std::fs"] },
    Rule { place: "testing/failpoint.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "testing/simulated_disk.rs", may: &["wal::disk"], must_not_std: NO_IO },
    Rule {
        place: "testing/simulated_clients.rs",
        may: &[
            "budget",
            "data::clock",
            "net::tls::NodeTls",
            "process::logging::LogLimit",
            "wire::bytes",
            "replication::replica::Replica",
            "replication::replicator::Replicator",
            "server",
        ],
        must_not_std: &["std::thread", "std::fs"],
    },
    // It wires the parts of a node together, as node.rs does.
    Rule {
        place: "testing/simulated_node.rs",
        may: &["config", "data", "replication", "store", "sync", "testing::simulated_disk", "wal", "wire::peer::Protocols"],
        must_not_std: NO_IO,
    },
    // It names std, parking_lot and crossbeam, and for the tests of interleavings a scheduler.
    Rule { place: "sync.rs", may: &[], must_not_std: &["std::net", "std::fs"] },
    // Guards and ranks.
    Rule { place: "lock_order.rs", may: &["sync"], must_not_std: NO_IO },
    Rule { place: "data/mod.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "process/mod.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "data/clock.rs", may: &["testing::broken_rules"], must_not_std: NO_IO },
    Rule { place: "data/version.rs", may: &["data::clock"], must_not_std: NO_IO },
    Rule { place: "data/progress.rs", may: &["data::clock", "data::version"], must_not_std: NO_IO },
    Rule { place: "data/entry.rs", may: &["data::clock", "data::version"], must_not_std: NO_IO },
    Rule { place: "data/key_order.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "store", may: &["data", "lock_order", "testing::broken_rules", "store"], must_not_std: NO_IO },
    Rule { place: "data/formats.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "data/fsync.rs", may: &[], must_not_std: NO_IO },
    // It says in its errors what stands in a line.
    Rule { place: "wire/dump", may: &["data", "wire::quoting"], must_not_std: NO_IO },
    Rule { place: "wire/frame.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "budget.rs", may: &["sync", "testing::broken_hand_overs"], must_not_std: NO_IO },
    // Of the configuration, which files there are.
    Rule { place: "net", may: &["config", "net", "process::private_file"], must_not_std: &["std::thread"] },
    Rule { place: "net.rs", may: &["process::threads"], must_not_std: &["std::fs"] },
    Rule { place: "process/descriptors.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "process/threads.rs", may: &[], must_not_std: &["std::net"] },
    Rule { place: "process/signals.rs", may: &[], must_not_std: &["std::net", "std::fs"] },
    Rule { place: "process/logging/limit.rs", may: &[], must_not_std: NO_IO },
    Rule {
        place: "process/logging",
        may: &["wire::quoting", "process::signals", "process::threads"],
        must_not_std: &["std::net", "std::fs"],
    },
    Rule {
        place: "process/audit.rs",
        may: &["data::clock::elapsed", "data::version::NodeId", "process::private_file", "process::threads", "wire::quoting"],
        must_not_std: &["std::net::TcpListener", "std::net::TcpStream"],
    },
    Rule { place: "process/private_file.rs", may: &[], must_not_std: &["std::net", "std::thread"] },
    Rule { place: "process/arguments.rs", may: &[], must_not_std: NO_IO },
    Rule { place: "config.rs", may: &["data", "process::private_file"], must_not_std: &["std::net", "std::thread"] },
    Rule {
        place: "config",
        may: &["process::descriptors", "process::logging::LogLevel", "data", "wire::ack_level", "wire::role"],
        must_not_std: &["std::thread", "std::fs"],
    },
    Rule { place: "wire", may: &["data", "wire::frame", "wire::dump", "wire"], must_not_std: NO_IO },
    Rule {
        place: "wal",
        may: &[
            "data",
            "process::descriptors",
            "sync",
            "testing::broken_hand_overs",
            "testing::broken_rules",
            "testing::failpoint",
            "wire::frame",
            "wire::dump",
            "budget",
            "wal",
            "process::logging::LogLimit",
        ],
        must_not_std: &["std::net"],
    },
    // The threads of the links, and what they send through.
    Rule { place: "replication/links/incoming.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    Rule { place: "replication/links/outgoing.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    Rule { place: "replication/links/sender.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    Rule { place: "replication/links/dialed.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    Rule { place: "replication/links/tls_socket.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    Rule { place: "replication/links/unidentified.rs", may: REPLICATION_MAY, must_not_std: &["std::fs"] },
    // It reads what the system says of the memory of the process.
    Rule { place: "replication/status.rs", may: REPLICATION_MAY, must_not_std: &["std::net"] },
    Rule { place: "replication", may: REPLICATION_MAY, must_not_std: &["std::net", "std::fs"] },
    Rule {
        place: "server",
        may: &[
            "budget",
            "net",
            "data",
            "store",
            "wire::dump",
            "config",
            "process::descriptors",
            "wire::ack_level",
            "wire::bytes",
            "wire::command",
            "wire::reply",
            "wire::role",
            "wire::text",
            "wire::quoting",
            "wire::resp",
            "replication::submit",
            "replication::acks",
            // A session that writes alone makes its batch itself.
            "replication::replicator::Replicator",
            // For what is asked beside writing: whether the node is open, STATUS, PEERS, DUMP.
            "replication::replica::Replica",
            "replication::status",
            "replication::persistence::snapshots",
            "replication::sync::restore",
            "replication::sync::serving",
            "process::audit",
            "process::logging::LogLimit",
            "server",
        ],
        must_not_std: &[],
    },
    // Of the configuration, only what bounds every node's.
    Rule {
        place: "client.rs",
        may: &["wire", "data", "wire::dump", "config::KEY_LEN_MAX", "config::VALUE_LEN_MAX", "net::tls", "net::tls_stream"],
        must_not_std: &["std::thread"],
    },
];

/// They wire the rest together, so they may know everyone.
const WIRING: &[&str] = &["lib.rs", "node.rs", "bin"];

/// Files of tests, which may use whatever they test with.
const TESTS: &[&str] = &[
    "interleavings.rs",
    "tests.rs",
    "tests/scans.rs",
    "tests/introspection.rs",
    "regressions.rs",
    "regressions/healing.rs",
    "regressions/races.rs",
    "regressions/recovery.rs",
    "regressions/slow_links.rs",
];

#[test]
fn imports_point_down_only() {
    let files = texts("src", "rs");
    assert!(files.len() > 5, "{files:?}");
    let mut faults = Vec::new();
    for (name, text) in &files {
        let name = Path::new(name);
        if WIRING.iter().any(|place| name.starts_with(place)) || TESTS.iter().any(|test| name.ends_with(test)) {
            continue;
        }
        match RULES.iter().find(|rule| name.starts_with(rule.place)) {
            Some(rule) => faults.extend(broken(text, rule).into_iter().map(|path| format!("{}: {path}", name.display()))),
            None => faults.push(format!("{}: no rule says what it may import; add one", name.display())),
        }
    }
    assert!(faults.is_empty(), "imports against the arrows:\n{}", faults.join("\n"));
}

#[test]
fn a_wrong_import_is_found() {
    let rule = Rule { place: "server", may: &["store", "wire::command"], must_not_std: &["std::net"] };
    let text = "use crate::store::Store;\nuse crate::wire::{command::Reply, peer::Frame};\nfn f() { crate::node::run(); }\n\
                use std::{io, net::TcpStream};\n// use crate::wal;\n#[cfg(test)]\nmod tests {\n    use crate::replication;\n}\n";
    assert_eq!(broken(text, &rule), ["wire::peer::Frame", "node::run", "std::net::TcpStream"]);
}

/// The paths in the code of a file, its tests and comments aside, that the rule does not allow.
fn broken(text: &str, rule: &Rule) -> Vec<String> {
    let code = code_of(text);
    let ours = paths_after(&code, "crate::").into_iter().filter(|path| !rule.may.iter().any(|may| is_under(path, may)));
    let stds = paths_after(&code, "std::").into_iter().map(|path| format!("std::{path}"));
    ours.chain(stds.filter(|path| rule.must_not_std.iter().any(|must_not| is_under(path, must_not)))).collect()
}

fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that begins with `root`, the braces of a `use` written out.
fn paths_after(code: &str, root: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            expand("", &code[at + root.len()..], &mut paths);
        }
    }
    paths
}

/// One path or one brace group, to its end; returns what follows it.
pub fn expand<'a>(prefix: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            match rest.chars().next() {
                Some('}') => return &rest[1..],
                Some(',') => rest = &rest[1..],
                Some(_) => {
                    let after = expand(prefix, rest, paths);
                    // What is no path (a rename, a star) is skipped to the next comma or the end.
                    rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
                }
                None => return rest,
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let path = if prefix.is_empty() { word.to_owned() } else { format!("{prefix}::{word}") };
    match rest.strip_prefix("::") {
        Some(rest) => expand(&path, rest, paths),
        None => {
            paths.push(path.trim_end_matches("::").trim_end_matches("::self").to_owned());
            rest
        }
    }
}
