//! MULTI, EXEC and WATCH: what counts as a change of a watched key, and what becomes of wrong
//! commands.

use super::commands::{Made, exact, words};
use super::compare::Compare;
use super::servers::Servers;
use super::{Comparison, now_s};

const STATES: [&str; 3] = ["DEL a", "SET a 5", "SET a 5 EX 5000"];

/// Done by another connection, or by the one that watches.
const MEANWHILE: &[&str] = &[
    "GET a",
    "SET a 5",
    "SET a 6",
    "SET a 6 NX",
    "SET a 6 XX",
    "SET a 5 KEEPTTL",
    "SET other 1",
    "SETNX a 6",
    "GETSET a 5",
    "GETDEL a",
    "GETEX a",
    "GETEX a PERSIST",
    "GETEX a EX 9000",
    "GETEX a EXAT 1",
    "MSET a 5 other 6",
    "MSETNX a 5 other 6",
    "MSETNX a 5 b 6",
    "APPEND a x",
    "APPEND a",
    "SETRANGE a 0 5",
    "SETRANGE a 0",
    "INCR a",
    "INCRBY a 0",
    "INCRBYFLOAT a 0",
    "DEL a",
    "UNLINK a",
    "TOUCH a",
    "EXPIRE a 9000",
    "EXPIRE a 9000 NX",
    "EXPIRE a 9000 LT",
    "EXPIRE a -1",
    "PEXPIREAT a 1",
    "PERSIST a",
    "RENAME a a",
    "RENAME a other",
    "RENAME other a",
    "RENAMENX a other",
    "RENAMENX other a",
    "FLUSHALL",
    "FLUSHDB",
    "STRLEN a",
    "INCR other",
    "SET a",
    "SET a 1 BOGUS",
    "LPUSH",
];

#[test]
fn what_a_watch_notices() {
    let Some(servers) = Servers::start() else { return };
    for version in [2, 3] {
        let mut comparison = Comparison::new(&servers, version, "what a watch notices".into());
        for state in STATES {
            for meanwhile in MEANWHILE {
                for by in [0, 1] {
                    for line in ["FLUSHALL", "SET other 7", state] {
                        comparison.step(0, exact(words(line)));
                    }
                    comparison.step(0, exact(words("WATCH a nothing")));
                    let mut command = words(meanwhile);
                    // An empty value.
                    if matches!(*meanwhile, "APPEND a" | "SETRANGE a 0") {
                        command.push(Vec::new());
                    }
                    comparison.step(by, exact(command));
                    for line in ["MULTI", "SET done 1"] {
                        comparison.step(0, exact(words(line)));
                    }
                    exec(&mut comparison);
                    for line in ["GET done", "GET a", "GET other"] {
                        comparison.step(0, exact(words(line)));
                    }
                }
            }
        }
    }
}

/// A watch ends with EXEC, DISCARD, UNWATCH and RESET, and with nothing else.
#[test]
fn how_long_a_watch_lasts() {
    let Some(servers) = Servers::start() else { return };
    let mut comparison = Comparison::new(&servers, 2, "how long a watch lasts".into());
    let between: [&[&str]; 9] = [
        &[],
        &["UNWATCH"],
        &["MULTI", "DISCARD"],
        &["MULTI", "EXEC"],
        &["MULTI", "GET", "EXEC"],
        &["RESET"],
        &["WATCH b"],
        &["WATCH a"],
        &["MULTI x", "DISCARD", "EXEC", "PING", "UNWATCH x", "WATCH"],
    ];
    for lines in between {
        for change_first in [true, false] {
            comparison.step(0, exact(words("SET a 1")));
            comparison.step(0, exact(words("WATCH a")));
            if change_first {
                comparison.step(1, exact(words("INCR a")));
            }
            for line in lines {
                comparison.step(0, Made { words: words(line), compare: Compare::Queued });
            }
            if !change_first {
                comparison.step(1, exact(words("INCR a")));
            }
            for line in ["MULTI", "INCR a"] {
                comparison.step(0, exact(words(line)));
            }
            exec(&mut comparison);
            comparison.step(0, exact(words("GET a")));
        }
    }
    // UNWATCH within a transaction comes too late.
    for line in ["SET a 1", "WATCH a", "SET a 2", "MULTI", "UNWATCH", "SET a 3"] {
        comparison.step(0, exact(words(line)));
    }
    exec(&mut comparison);
    comparison.step(0, exact(words("GET a")));
}

/// Wrong words are found when a command is executed. A wrong name or number of words is found at
/// once, and nothing is executed then.
#[test]
fn what_is_wrong_in_a_transaction() {
    let Some(servers) = Servers::start() else { return };
    let wrong = [
        "SET a b BOGUS",
        "SET a b EX abc",
        "SET a b EX 0",
        "SET a b NX XX",
        "SETEX a 0 b",
        "GETEX a EX -1",
        "GETEX a BOGUS 1",
        "INCR word",
        "INCRBY a abc",
        "INCRBY a 9223372036854775807",
        "DECRBY a -9223372036854775808",
        "INCRBYFLOAT a abc",
        "INCRBYFLOAT word 1",
        "SETRANGE a -1 x",
        "SETRANGE a abc x",
        "GETRANGE a abc 1",
        "EXPIRE a abc",
        "EXPIRE a 1 NX XX",
        "EXPIRE a 1 GT LT",
        "EXPIRE a 9223372036854775807",
        "MSET a b c",
        "MSETNX a b c",
        "RENAME nothing b",
        "SCAN abc",
        "SCAN 0 COUNT 0",
        "FLUSHALL BOGUS",
        "SELECT 1",
        "SELECT abc",
        "AUTH nobody secret",
        "CLIENT NOSUCH",
        "CLIENT ID x",
        "CONFIG NOSUCH",
        "OBJECT NOSUCH",
        "COMMAND NOSUCH",
        "WAIT abc 1",
        "WAIT 1 0",
        "GET",
        "GET a b",
        "SET a",
        "INCR",
        "NOSUCH",
        "NOSUCH a b",
        "MULTI",
        "MULTI x",
        "WATCH a",
        "WATCH",
        "UNWATCH x",
        "EXEC x",
        "DISCARD x",
        "PING a b",
        "HELLO 4",
        "HELLO 9 x",
    ];
    for version in [2, 3] {
        let mut comparison = Comparison::new(&servers, version, "what is wrong in a transaction".into());
        for line in wrong {
            for start in ["FLUSHALL", "SET a 5", "SET word word", "MULTI", "SET before 1"] {
                comparison.step(0, exact(words(start)));
            }
            comparison.step(0, exact(words(line)));
            comparison.step(0, exact(words("SET after 1")));
            exec(&mut comparison);
            comparison.step(0, exact(words("MGET a before after word")));
            // Nothing is left of it.
            comparison.step(0, exact(words("EXEC")));
            comparison.step(0, exact(words("DISCARD")));
        }
    }
}

/// All commands that return data, queued: each reply has the shape that it has outside a
/// transaction.
#[test]
fn what_is_executed_together() {
    let Some(servers) = Servers::start() else { return };
    let at = now_s() + 5_000;
    for version in [2, 3] {
        let mut comparison = Comparison::new(&servers, version, "what is executed together".into());
        for line in [
            "FLUSHALL",
            "MULTI",
            "SET a 5",
            "GET a",
            "GET nothing",
            "INCR a",
            "MSET b 1 c 2",
            "MGET a nothing b",
            "SET a x GET",
            "APPEND a yz",
            "GETRANGE a 1 1",
            "SETNX b 1",
        ] {
            comparison.step(0, exact(words(line)));
        }
        comparison.step(0, exact(words(&format!("EXPIREAT a {at}"))));
        for line in [
            "EXPIRETIME a",
            "PERSIST a",
            "TTL a",
            "TYPE a",
            "EXISTS a b nothing",
            "RENAME a d",
            "DEL b c",
            "DBSIZE",
            "PING",
            "ECHO hello",
            "SELECT 0",
            "INCRBYFLOAT f 0.5",
        ] {
            comparison.step(0, exact(words(line)));
        }
        for line in [
            "KEYS *",
            "GETDEL d",
            "GETEX f",
            "STRLEN f",
            "UNLINK f",
            "RANDOMKEY",
            "FLUSHALL",
            "DBSIZE",
            "WAIT 0 0",
            "CLIENT GETNAME",
            "SCAN 0",
        ] {
            comparison.step(0, Made { words: words(line), compare: if line == "KEYS *" { Compare::Unordered } else { Compare::Exact } });
        }
        exec(&mut comparison);
        // None at all.
        comparison.step(0, exact(words("MULTI")));
        exec(&mut comparison);
    }
}

fn exec(comparison: &mut Comparison) {
    comparison.step(0, Made { words: words("EXEC"), compare: Compare::Queued });
}
