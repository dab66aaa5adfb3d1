//! SET and EXPIRE with every set of their options, on keys in every state.

use super::commands::{Made, exact, words};
use super::compare::Compare;
use super::servers::Servers;
use super::{Comparison, now_s};
use crate::random::{Random, seed};

/// The state before: nothing, a value, a value that expires.
const STATES: [&[&str]; 3] = [&["DEL a"], &["SET a before"], &["SET a before PXAT LATER"]];

#[test]
fn every_set_of_options_of_set() {
    with_both_versions(|comparison, random, later_ms| {
        let options = ["NX", "XX", "GET", "KEEPTTL", "EX 5000", "PX 5000000", "EXAT SECONDS", "PXAT AFTER"];
        for subset in 0..1_usize << options.len() {
            let mut chosen: Vec<&str> = (0..options.len()).filter(|bit| subset >> bit & 1 == 1).map(|bit| options[bit]).collect();
            random.shuffle(&mut chosen);
            for state in STATES {
                let set = format!("SET a after {}", chosen.join(" "));
                let relative = chosen.iter().any(|option| option.starts_with("EX ") || option.starts_with("PX "));
                follow(comparison, state, &set, relative, later_ms);
            }
        }
        // Wrong values and words, each at each position.
        for number in [
            "0",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "abc",
            "1.5",
            "+5",
            "''",
            "9223372036854775",
            "1",
        ] {
            for option in ["EX", "PX", "EXAT", "PXAT", "ex", "KEEPTTL", "NX"] {
                // A time that is over at once, without one, and one that is far away.
                let number = if number == "''" { "" } else { number };
                let command = ["SET", "a", "v", option, number].iter().map(|word| word.as_bytes().to_vec()).collect();
                comparison.step(0, exact(words("DEL a")));
                if number == "1" && matches!(option, "EX" | "PX" | "ex") {
                    continue;
                }
                comparison.step(0, exact(command));
                comparison.step(0, exact(words("GET a")));
            }
        }
        for tail in [
            "EX",
            "PX 5000 EX",
            "GET GET",
            "NX NX",
            "XX NX GET",
            "KEEPTTL KEEPTTL",
            "EX 5000 EX 6000",
            "BOGUS",
            "NXX",
            "EX NX",
            "NX EX",
            "5000",
            "EX 5000 5000",
            "get xx",
        ] {
            follow(comparison, STATES[1], &format!("SET a after {tail}"), true, later_ms);
        }
    });
}

#[test]
fn every_set_of_options_of_getex() {
    with_both_versions(|comparison, random, later_ms| {
        let options = ["PERSIST", "EX 5000", "PX 5000000", "EXAT SECONDS", "PXAT AFTER", "KEEPTTL"];
        for subset in 0..1_usize << options.len() {
            let mut chosen: Vec<&str> = (0..options.len()).filter(|bit| subset >> bit & 1 == 1).map(|bit| options[bit]).collect();
            random.shuffle(&mut chosen);
            for state in STATES {
                follow(comparison, state, &format!("GETEX a {}", chosen.join(" ")), true, later_ms);
            }
        }
        for tail in [
            "EXAT 1",
            "PXAT 1",
            "EX 0",
            "EX -1",
            "PX 0",
            "PX -5",
            "EXAT 0",
            "EXAT -1",
            "EX abc",
            "EX",
            "PX 9223372036854775807",
            "EX 9223372036854775807",
        ] {
            follow(comparison, STATES[2], &format!("GETEX a {tail}"), true, later_ms);
        }
    });
}

#[test]
fn every_set_of_options_of_expire() {
    with_both_versions(|comparison, random, later_ms| {
        let options = ["NX", "XX", "GT", "LT"];
        let times = [
            "EXPIRE a 5000",
            "EXPIRE a -1",
            "EXPIRE a 0",
            "PEXPIRE a 5000000",
            "EXPIREAT a SECONDS",
            "EXPIREAT a SOONER",
            "PEXPIREAT a AFTER",
            "PEXPIREAT a LATER",
            "PEXPIREAT a 1",
        ];
        for time in times {
            for subset in 0..1_usize << options.len() {
                let mut chosen: Vec<&str> = (0..options.len()).filter(|bit| subset >> bit & 1 == 1).map(|bit| options[bit]).collect();
                random.shuffle(&mut chosen);
                for state in STATES {
                    let relative = time.starts_with("EXPIRE ") || time.starts_with("PEXPIRE ");
                    follow(comparison, state, &format!("{time} {}", chosen.join(" ")), relative, later_ms);
                }
            }
        }
        let numbers = [
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775807",
            "9223372036854775",
            "-9223372036854775",
            "-9223372036854776",
            "abc",
            "1.5",
        ];
        for number in numbers {
            for name in ["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"] {
                // Redis's own sum for EXPIRETIME overflows there.
                let compare = if name == "PEXPIREAT" && number == "9223372036854775807" { "PEXPIRETIME a" } else { "EXPIRETIME a" };
                for state in STATES {
                    prepare(comparison, state, later_ms);
                    comparison.step(0, exact(words(&format!("{name} a {number}"))));
                    comparison.step(0, Made { words: words(compare), compare: Compare::Near(60_000) });
                    comparison.step(0, exact(words("GET a")));
                }
            }
        }
        for tail in ["BOGUS", "NX BOGUS", "NX NX", "GT GT", "xx lt"] {
            follow(comparison, STATES[2], &format!("EXPIRE a 5000 {tail}"), true, later_ms);
        }
    });
}

fn with_both_versions(check: impl Fn(&mut Comparison, &mut Random, i64)) {
    let Some(servers) = Servers::start() else { return };
    let seed = seed();
    for version in [2, 3] {
        let mut comparison = Comparison::new(&servers, version, format!("KVMESH_SEED={seed}"));
        comparison.step(0, exact(words("FLUSHALL")));
        check(&mut comparison, &mut Random::new(seed), (now_s() + 3_000) * 1_000 + 321);
        println!("{} commands in RESP{version}", comparison.count);
    }
}

fn prepare(comparison: &mut Comparison, state: &[&str], later_ms: i64) {
    for line in state {
        comparison.step(0, exact(words(&with_times(line, later_ms))));
    }
}

/// Sends the command, and compares all that can be seen of what it has done.
fn follow(comparison: &mut Comparison, state: &[&str], command: &str, relative: bool, later_ms: i64) {
    prepare(comparison, state, later_ms);
    comparison.step(0, exact(words(&with_times(command, later_ms))));
    comparison.step(0, exact(words("GET a")));
    let tolerance = |near| if relative { Compare::Near(near) } else { Compare::Exact };
    comparison.step(0, Made { words: words("PEXPIRETIME a"), compare: tolerance(60_000) });
    comparison.step(0, Made { words: words("EXPIRETIME a"), compare: tolerance(60) });
    comparison.step(0, Made { words: words("TTL a"), compare: Compare::Near(60) });
    comparison.step(0, Made { words: words("PTTL a"), compare: Compare::Near(60_000) });
}

/// Replaces SOONER by a time before LATER, which is the expiry of a key that has one; SECONDS and
/// AFTER are behind it.
fn with_times(line: &str, later_ms: i64) -> String {
    let seconds = later_ms / 1_000;
    line.replace("LATER", &later_ms.to_string())
        .replace("SOONER", &(seconds - 1_000).to_string())
        .replace("SECONDS", &(seconds + 1_000).to_string())
        .replace("AFTER", &(later_ms + 2_000_777).to_string())
}
