//! Programs that a test runs to their end, beside the nodes of a cluster.

use std::fs::{self, File};
use std::io::{Write, stderr};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{DEADLINE, kvnode};
use crate::kit::process::Process;

/// A program that runs; its outputs go to files.
pub struct Program {
    pub process: Process,
    out: File,
    err: File,
}

/// Exit code and outputs of a program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Starts a program, with this file as its stdin.
pub fn begin(command: &mut Command, stdin: Option<&Path>) -> Program {
    let [out, err] = [(); 2].map(|()| tempfile::tempfile().expect("a file for the output"));
    let stdin = stdin.map_or_else(Stdio::null, |path| File::open(path).expect("a file for stdin").into());
    let second = |file: &File| file.try_clone().expect("a second handle");
    command.stdin(stdin).stdout(second(&out)).stderr(second(&err));
    Program { process: Process::start(command).expect("the program starts"), out, err }
}

/// Runs a program without an input to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    begin(command, None).end()
}

impl Program {
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal).expect("a signal to a program that runs");
    }

    /// Stdout so far.
    pub fn out(&self) -> String {
        text(&self.out)
    }

    /// Stderr so far.
    pub fn err(&self) -> String {
        text(&self.err)
    }

    #[track_caller]
    pub fn end(self) -> Ended {
        self.end_within(2 * DEADLINE)
    }

    /// Waits for the end. A program that is late is told to end, so that it can tidy up, and then
    /// the test fails.
    #[track_caller]
    pub fn end_within(mut self, timeout: Duration) -> Ended {
        let status = self.process.wait(timeout);
        if status.is_none() {
            self.signal(Signal::SIGTERM);
            self.process.wait(DEADLINE);
        }
        let (out, err) = (self.out(), self.err());
        let status = status.unwrap_or_else(|| panic!("a program has not ended after {timeout:?}: {out}{err}"));
        Ended { code: status.code(), out, err }
    }
}

/// Everything in a file. Its offset, which the program that writes it shares, stays.
fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().expect("the length of a file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("a file that does not shrink");
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Ended {
    pub fn outputs(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl Process {
    /// Waits for the end of a program that a test has started.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        self.wait(DEADLINE).unwrap_or_else(|| panic!("a program has not ended after {DEADLINE:?}"))
    }
}

/// `kvctl` with these arguments, for these nodes.
pub fn kvctl(nodes: &[SocketAddr], args: &[&str]) -> Command {
    let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    command.args(["-n", &nodes.join(",")]).args(args);
    command
}

/// Looks for a program that a test needs. Without it the test is skipped: a line says so, and
/// `.ci/run` fails on that line.
pub fn is_there(program: &str, package: &str) -> bool {
    let is_there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        skip(&format!("there is no {program} here (apt-get install {package})"));
    }
    is_there
}

/// Says that a test is skipped. Not by a macro: a test that passes keeps what those print.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    stderr().write_all(format!("\nSKIPPED {test}: {reason}\n").as_bytes()).expect("stderr");
}

/// Runs `kvnode` outside a cluster, in this directory, to its end.
#[track_caller]
pub fn run_kvnode(args: &[&str], dir: &TempDir) -> Ended {
    run(Command::new(kvnode()).args(args).current_dir(dir.path()))
}

/// Runs `kvnode` outside a cluster with this configuration, `node.json`, to its end.
#[track_caller]
pub fn run_configured(config: &Value, args: &[&str]) -> Ended {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("node.json"), config.to_string()).expect("a configuration");
    run_kvnode(&[&["--config", "node.json"], args].concat(), &dir)
}
