//! The torture run as a user starts it: a short one passes and names every check, and one that
//! cannot pass tells why and leaves its evidence.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::cluster::machine_alone;
use crate::program::{Ended, begin};

/// A run ends half a minute after the minutes that it was given; the machine may be busy.
const LONGEST: Duration = Duration::from_secs(150);
/// Minutes of a short run: with the checks, about 25 seconds.
const SHORT: &str = "0.33";

const CHECKS: [&str; 26] = [
    "the mesh is whole again after each fault",
    "equal digests after healing",
    "acknowledged writes survive",
    "acknowledged local writes survive",
    "no deleted key is back",
    "no value nobody wrote",
    "reads never go back",
    "linearizable through one node",
    "counts are exact",
    "later acknowledged writes win",
    "appended at most once",
    "sums at most the OKs",
    "who read and then wrote is not overtaken",
    "pairs are whole",
    "expired keys are gone, others are not",
    "every request is answered",
    "vectors claim no more than is there",
    "past incarnations are folded",
    "no node ends by itself",
    "nodes stop, close and resume as they should",
    "every client ends",
    "memory and threads return",
    "a faulty peer does not slow local writes",
    "enough writes are acknowledged",
    "every fault has an effect",
    "verdict: ",
];

#[test]
fn a_short_run_passes_and_names_every_check() {
    let _alone = machine_alone();
    let seed = fastrand::u32(..).to_string();
    let dir = tempfile::tempdir().unwrap();
    let ended = run(Path::new(env!("CARGO_BIN_EXE_kvtorture")), &["--seed", &seed, "--minutes", SHORT], &dir);
    println!("{}{}", ended.out, ended.err);
    if ended.code != Some(0) {
        // The evidence is there: it outlives this test.
        panic!("seed {seed}: exit code {:?}; see {}", ended.code, dir.keep().display());
    }
    assert!(ended.out.starts_with(&format!("seed {seed}: ")) && ended.out.contains(&format!("verdict: PASSED, seed {seed}\n")));
    for check in CHECKS {
        assert!(ended.out.contains(check), "the report does not name \"{check}\"");
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "a run that has passed has left {left:?}");
}

/// Nodes that end at once stand for whatever may go wrong.
#[test]
fn a_run_that_fails_says_so_and_leaves_its_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let copied = copy(&dir);
    let server = dir.path().join("kvnode");
    fs::write(&server, "#!/bin/sh\necho out of order\nexit 3\n").unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    let evidence = dir.path().join("evidence");
    let ended = run(&copied, &["--seed", "7", "--minutes", "0.1", "--dir", evidence.to_str().unwrap()], &dir);
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("verdict: FAILED, seed 7: ") && ended.out.contains("n1 has ended by itself"), "{}", ended.out);
    assert!(ended.out.contains(&format!("evidence: {}", evidence.canonicalize().unwrap().display())), "{}", ended.out);
    for file in ["report.txt", "history.jsonl", "node1.log", "node3.json"] {
        assert!(evidence.join(file).is_file(), "there is no {file}");
    }
    assert!(fs::read_to_string(evidence.join("node1.log")).unwrap().contains("out of order"));

    // What an earlier run has left is not overwritten.
    let ended = run(&copied, &["--dir", evidence.to_str().unwrap()], &dir);
    assert!(ended.code == Some(2) && ended.err.contains("is not empty"), "{:?}: {}", ended.code, ended.err);
}

#[test]
fn bad_usage_and_a_missing_server_are_said_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_kvtorture"));
    for (args, words) in [
        (&["--faults", "kill,nonsense"][..], &["nonsense", "flap", "disk-full"][..]),
        (&["--nodes", "6"], &["3, 4 or 5"]),
        (&["--minutes", "soon"], &["minutes"]),
        (&["--seed"], &["--seed"]),
    ] {
        let ended = run(program, args, &dir);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.err);
        assert!(words.iter().all(|word| ended.err.contains(word)), "{args:?}: {}", ended.err);
    }
    let ended = run(&copy(&dir), &["--minutes", SHORT], &dir);
    assert!(ended.code == Some(1) && ended.err.contains("cargo build"), "{:?}: {}", ended.code, ended.err);
}

/// The program without the server beside it.
fn copy(dir: &TempDir) -> PathBuf {
    let copied = dir.path().join("kvtorture");
    fs::copy(env!("CARGO_BIN_EXE_kvtorture"), &copied).unwrap();
    copied
}

/// Runs it to its end; its temporary files go to `dir`.
fn run(program: &Path, args: &[&str], dir: &TempDir) -> Ended {
    begin(Command::new(program).args(args).env("TMPDIR", dir.path()), None).end_within(LONGEST)
}
