//! The command line of `kvsim`. What it simulates has tests of its own, beside it.

use std::fs;
use std::process::{Command, Output};

fn kvsim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvsim")).args(arguments).output().expect("kvsim runs")
}

#[test]
fn a_diagram_is_drawn_of_one_seed_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.svg");
    let path = path.to_str().unwrap();
    for (arguments, says) in [
        (&["--diagram", path][..], "kvsim: --diagram draws one run: give --seeds 1, and its seed with --from\n"),
        (&["--diagram", path, "--seeds", "2"], "kvsim: --diagram draws one run: give --seeds 1, and its seed with --from\n"),
        (&["--seeds", "1", "--window-ms", "5"], "kvsim: --until-ms and --window-ms choose a part of a diagram: give --diagram\n"),
        (
            &["--seeds", "1", "--diagram", "/nowhere/run.svg"],
            "kvsim: cannot write /nowhere/run.svg: No such file or directory (os error 2)\n",
        ),
    ] {
        let output = kvsim(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stderr), says, "{arguments:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !fs::exists(path).unwrap(), "{arguments:?}");
    }
    let output = kvsim(&["--script", "--seeds", "1", "--diagram", path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(fs::read_to_string(path).unwrap().contains("PUT color red"));
}
