//! `run-cluster.sh` and `kvctl cluster`, which it becomes: real nodes under a real supervisor, and
//! what becomes of them when a node, the supervisor, its reader or its terminal goes away.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::kit::process::Process;
use crate::program::{Program, begin};
use crate::repository::repository_path;

/// A signal to the supervisor alone stops everything within this time.
const STOP_BOUND: Duration = Duration::from_secs(8);

/// A supervisor that runs.
struct SupervisorProcess(Program);

impl SupervisorProcess {
    /// `kvctl cluster` with the configurations of this cluster, in its directory.
    fn start(cluster: &mut Cluster, args: &[&str]) -> SupervisorProcess {
        write_configs(cluster);
        SupervisorProcess::spawn(kvctl_cluster(cluster).args(args))
    }

    fn spawn(command: &mut Command) -> SupervisorProcess {
        SupervisorProcess(begin(command, None))
    }

    fn stdout(&self) -> String {
        self.0.out()
    }

    fn stderr(&self) -> String {
        self.0.err()
    }

    #[track_caller]
    fn await_line(&mut self, words: &str) -> String {
        until(&format!("a line with {words:?}"), DEADLINE, || {
            let stdout = self.stdout();
            match stdout.lines().find(|line| line.contains(words)) {
                Some(line) => Ok(line.to_owned()),
                None => Err(format!("{:?}\n{stdout}\n{}", self.0.process.try_wait(), self.stderr())),
            }
        })
    }

    /// Waits until a node is ready, and returns its process id, as it is printed.
    #[track_caller]
    fn await_ready(&mut self, number: u16) -> Pid {
        let line = self.await_line(&format!("Node {number} is ready: clients on "));
        Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Waits for its end, which must come in time after a signal. Its exit code.
    #[track_caller]
    fn ended(&mut self) -> Option<i32> {
        let asked = Instant::now();
        let status = self.0.process.ended();
        assert!(asked.elapsed() < STOP_BOUND, "{:?}: {}", asked.elapsed(), self.stdout());
        status.code()
    }
}

fn write_configs(cluster: &mut Cluster) {
    for id in cluster.ids() {
        // Wherever the nodes are started.
        let data = cluster.data_path(id);
        cluster.configure(id, "data_dir", data.to_str().unwrap());
        cluster.write_config(id).unwrap();
    }
}

fn kvctl_cluster(cluster: &Cluster) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    command.current_dir(cluster.dir()).args(["cluster", "--config-dir", "."]);
    command
}

/// Not even a zombie counts: the test's own parent may leave those.
#[track_caller]
fn await_gone(pids: &[Pid]) {
    for pid in pids {
        until(&format!("the end of process {pid}"), STOP_BOUND, || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        });
    }
}

#[test]
fn all_nodes_are_started_prefixed_and_stopped_in_order() {
    let mut cluster = Cluster::plan(3).build();
    let mut supervisor = SupervisorProcess::start(&mut cluster, &[]);
    let pids = [1, 2, 3].map(|id| supervisor.await_ready(id));
    for id in 1..=3 {
        let line = supervisor.await_line(&format!("Node {id} is ready"));
        assert!(line.contains(&format!("clients on {},", cluster.client_addr(id))), "{line}");
        supervisor.await_line(&format!("[{id}] ["));
    }
    supervisor.await_line(&format!("kill -9 {}        (node 2)", pids[1]));
    supervisor.await_line("Bring it back, in another terminal:  kvctl cluster --config-dir . 2");
    supervisor.await_line("Stop:         Ctrl-C");
    cluster.await_mesh(&[1, 2, 3]);
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");

    // Further signals change nothing: a node that gets a second one leaves without handing over.
    for _ in 0..3 {
        supervisor.signal(Signal::SIGINT);
    }
    assert_eq!(supervisor.ended(), Some(0), "{}", supervisor.stdout());
    await_gone(&pids);
    let stdout = supervisor.stdout();
    assert!(stdout.contains("\nStopping …\n"), "{stdout}");
    for id in 1..=3 {
        let last = stdout.lines().rfind(|line| line.starts_with(&format!("[{id}] "))).unwrap();
        assert!(last.ends_with("] stopped"), "{last}");
    }
    assert_eq!(supervisor.stderr(), "");
}

#[test]
fn each_of_four_signals_stops_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut cluster = Cluster::plan(1).build();
        let mut supervisor = SupervisorProcess::start(&mut cluster, &[]);
        let pid = supervisor.await_ready(1);
        supervisor.signal(signal);
        assert_eq!(supervisor.ended(), Some(0), "{signal}: {}", supervisor.stdout());
        assert!(supervisor.stdout().contains("] stopped\n"), "{signal}: {}", supervisor.stdout());
        await_gone(&[pid]);
    }
}

#[test]
fn a_signal_while_nodes_wait_for_each_other_stops_them() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 60_000).build();
    let mut supervisor = SupervisorProcess::start(&mut cluster, &["2"]);
    supervisor.await_line("node 2 of cluster");
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.ended(), Some(0), "{}", supervisor.stdout());
    assert!(!supervisor.stdout().contains("is ready"), "{}", supervisor.stdout());
    assert!(cluster.data_path(2).exists() && !cluster.data_path(1).exists());
}

#[test]
fn a_node_that_is_killed_is_reported_and_comes_back_in_another_terminal() {
    let mut cluster = Cluster::plan(3).build();
    let mut all = SupervisorProcess::start(&mut cluster, &[]);
    let pids = [1, 2, 3].map(|id| all.await_ready(id));
    cluster.await_mesh(&[1, 2, 3]);
    kill(pids[1], Signal::SIGKILL).unwrap();
    let line = all.await_line("Node 2 has ended");
    let wanted = "Node 2 has ended: killed by SIGKILL. To start it again, in another terminal: kvctl cluster --config-dir . 2";
    assert_eq!(line, wanted);
    cluster.await_sees(1, 2, "down");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(3, "SET b 1"), "OK");

    let mut one = SupervisorProcess::start(&mut cluster, &["2"]);
    let pid = one.await_ready(2);
    assert!(!one.stdout().contains("Node 1 is ready"), "{}", one.stdout());
    assert_eq!(cluster.ask_line(2, "GET a"), "VALUE 1");
    one.signal(Signal::SIGINT);
    assert_eq!(one.ended(), Some(0));
    await_gone(&[pid]);
    assert_eq!(cluster.ask_line(1, "PING"), "PONG");

    // A node that is stopped, as by Ctrl-Z, is stopped in order all the same.
    kill(pids[0], Signal::SIGSTOP).unwrap();
    all.signal(Signal::SIGTERM);
    assert_eq!(all.ended(), Some(0), "{}", all.stdout());
    await_gone(&pids);
}

#[test]
fn the_last_node_that_ends_does_not_end_the_supervisor() {
    let mut cluster = Cluster::plan(1).build();
    let mut supervisor = SupervisorProcess::start(&mut cluster, &[]);
    // Its parent has blocked this signal, and has not passed that on.
    kill(supervisor.await_ready(1), Signal::SIGQUIT).unwrap();
    supervisor.await_line("Node 1 has ended: killed by SIGQUIT.");
    supervisor.await_line("None of these nodes is running any more.");
    assert!(supervisor.0.process.try_wait().is_none());
    supervisor.signal(Signal::SIGINT);
    assert_eq!(supervisor.ended(), Some(0));
    assert!(!supervisor.stdout().contains("Stopping"), "{}", supervisor.stdout());
}

#[test]
fn nodes_stop_in_order_when_the_supervisor_is_killed() {
    let mut cluster = Cluster::plan(2).build();
    let mut supervisor = SupervisorProcess::start(&mut cluster, &[]);
    let pids = [1, 2].map(|id| supervisor.await_ready(id));
    cluster.await_mesh(&[1, 2]);
    let mut client = cluster.client(1);
    assert_eq!(client.ask_line("ACK local").unwrap(), "OK");
    assert_eq!(client.ask_line("SET a 1").unwrap(), "OK");
    supervisor.signal(Signal::SIGKILL);
    assert_eq!(supervisor.0.process.ended().signal(), Some(Signal::SIGKILL as i32));
    await_gone(&pids);
    // Nothing holds the ports or the data any more.
    let mut supervisor = SupervisorProcess::start(&mut cluster, &[]);
    for id in [1, 2] {
        supervisor.await_ready(id);
    }
    assert_eq!(cluster.ask_line(2, "GET a"), "VALUE 1");
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.ended(), Some(0));
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_started() {
    let mut cluster = Cluster::plan(2).build();
    write_configs(&mut cluster);
    let refused = |args: &[&str], code: i32, words: &str| {
        let mut supervisor = SupervisorProcess::spawn(kvctl_cluster(&cluster).args(args));
        assert_eq!(supervisor.ended(), Some(code), "{args:?}: {}", supervisor.stderr());
        assert!(supervisor.stderr().contains(words), "{args:?}: {}", supervisor.stderr());
        assert_eq!(supervisor.stdout(), "", "{args:?}");
        assert!(!cluster.data_path(1).exists() && !cluster.data_path(2).exists(), "{args:?}");
    };
    refused(&["3"], 2, "found \"3\", expected nothing or one of 1 2");
    refused(&["1", "2"], 2, "one word too many");
    let taken = TcpListener::bind(cluster.client_addr(2)).unwrap();
    refused(&[], 1, &format!("address in use: something listens on {}", taken.local_addr().unwrap()));
    refused(&["2"], 1, "does node 2 run in another terminal?");
    drop(taken);
    fs::write(cluster.config_path(2), "{ \"id\": \"two\" }").unwrap();
    refused(&[], 2, "node2.json");
    for id in [1, 2] {
        fs::remove_file(cluster.config_path(id)).unwrap();
    }
    refused(&[], 2, "holds no node1.json");
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    let mut supervisor = SupervisorProcess::spawn(nowhere.arg("cluster").current_dir(cluster.dir()));
    assert_eq!(supervisor.ended(), Some(2));
    assert!(supervisor.stderr().contains("cannot read the folder config"), "{}", supervisor.stderr());
}

#[test]
fn a_node_that_does_not_start_takes_the_others_along_and_decides_the_exit_code() {
    let mut cluster = Cluster::plan(2).build();
    write_configs(&mut cluster);
    let not_started = |cluster: &Cluster, code: i32, reason: &str| {
        let mut supervisor = SupervisorProcess::spawn(&mut kvctl_cluster(cluster));
        assert_eq!(supervisor.ended(), Some(code), "{}{}", supervisor.stdout(), supervisor.stderr());
        let (stdout, stderr) = (supervisor.stdout(), supervisor.stderr());
        assert!(
            stderr.contains("kvctl: node 2 did not start (exit code ") && stderr.contains("the lines of [2] above say why"),
            "{stderr}"
        );
        assert!(stdout.lines().any(|line| line.starts_with("[2] kvnode: ") && line.contains(reason)), "{stdout}");
        assert!(!stdout.contains("is ready") && stdout.contains("] stopped"), "{stdout}");
        assert!(Client::connect(cluster.client_addr(1)).is_err());
    };
    let taken = TcpListener::bind(cluster.peer_addr(2)).unwrap();
    not_started(&cluster, 1, "cannot listen on peer_addr");
    drop(taken);

    // Another process holds the directory: this one.
    let data = cluster.data_path(2);
    fs::create_dir_all(&data).unwrap();
    let held = File::open(&data).unwrap();
    held.try_lock().unwrap();
    not_started(&cluster, 1, "data_dir");
    drop(held);

    fs::write(data.join("log-0000000003"), "no log").unwrap();
    not_started(&cluster, 3, "");
}

/// A program in place of `kvnode`: a copy of `kvctl` runs what lies beside it.
fn with_kvnode(cluster: &Cluster, script: &str) -> Command {
    let kvctl = cluster.dir().join("kvctl");
    fs::copy(env!("CARGO_BIN_EXE_kvctl"), &kvctl).unwrap();
    write_program(&cluster.dir().join("kvnode"), script);
    let mut command = Command::new(kvctl);
    command.current_dir(cluster.dir()).args(["cluster", "--config-dir", "."]);
    command
}

fn write_program(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_node_that_does_not_stop_is_killed_and_the_exit_code_says_so() {
    let mut cluster = Cluster::plan(1).build();
    write_configs(&mut cluster);
    let script = "#!/bin/sh\ntrap '' TERM\necho \"process $$\"\nwhile :; do sleep 0.1; done\n";
    let mut supervisor = SupervisorProcess::spawn(&mut with_kvnode(&cluster, script));
    let line = supervisor.await_line("[1] process ");
    // Long enough for a first report.
    let waiting = supervisor.await_line("Waiting for node 1 since 10 s: ");
    assert!(waiting.contains("cannot connect"), "{waiting}");
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.ended(), Some(1), "{}", supervisor.stdout());
    supervisor.await_line("Node 1 has not stopped within 6 s and is killed.");
    await_gone(&[Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap())]);
}

#[test]
fn output_that_floods_without_a_line_end_delays_nothing() {
    let mut cluster = Cluster::plan(2).build();
    write_configs(&mut cluster);
    let script = "#!/bin/sh\ncase $* in *node1*) exec tr '\\0' x </dev/zero;; *) exec sh -c 'printf begun; exec sleep 60';; esac\n";
    let mut command = with_kvnode(&cluster, script);
    let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped())).unwrap();
    let mut lines = BufReader::new(process.child.stdout.take().unwrap());
    for _ in 0..100 {
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).unwrap();
        assert!(line.starts_with(b"[1] xxx") && line.len() < 100 << 10, "{} bytes", line.len());
    }
    // Nobody reads on: the pipe is full.
    process.signal(Signal::SIGTERM).unwrap();
    let asked = Instant::now();
    // A program that is no node has inherited blocked signals, and is killed.
    assert_eq!(process.ended().code(), Some(1));
    assert!(asked.elapsed() < STOP_BOUND);
    let mut rest = Vec::new();
    lines.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_missing_node_program_is_named() {
    let mut cluster = Cluster::plan(1).build();
    write_configs(&mut cluster);
    let mut command = with_kvnode(&cluster, "");
    fs::remove_file(cluster.dir().join("kvnode")).unwrap();
    let mut supervisor = SupervisorProcess::spawn(&mut command);
    assert_eq!(supervisor.ended(), Some(1));
    assert!(supervisor.stderr().contains("cannot start") && supervisor.stderr().contains("kvnode"), "{}", supervisor.stderr());
}

#[test]
fn a_reader_who_leaves_ends_neither_the_nodes_nor_the_orderly_stop() {
    let mut cluster = Cluster::plan(1).build();
    write_configs(&mut cluster);
    let mut process = Process::start(kvctl_cluster(&cluster).stdin(Stdio::null()).stdout(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("[1] "), "{line}");
    until("a node that serves", DEADLINE, || {
        let answer = Client::connect(cluster.client_addr(1)).and_then(|mut client| client.ask_line("SET a 1"));
        match answer.map_err(|error| error.to_string())? {
            line if line == "OK" => Ok(()),
            line => Err(line),
        }
    });
    process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(process.ended().code(), Some(0));
    assert!(Client::connect(cluster.client_addr(1)).is_err());
}

/// A terminal, and a process that leads a session on it.
fn on_terminal(command: Command) -> (PtyMaster, Process) {
    // No other process may hold it: the terminal goes away when it is closed here.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = File::options().read(true).write(true).open(ptsname_r(&master).unwrap()).unwrap();
    let stream = || Stdio::from(slave.try_clone().unwrap());
    let mut setsid = Command::new("setsid");
    setsid.arg("--ctty").arg(command.get_program()).args(command.get_args());
    setsid.current_dir(command.get_current_dir().unwrap());
    (master, Process::start(setsid.stdin(stream()).stdout(stream()).stderr(stream())).unwrap())
}

#[track_caller]
fn await_line(terminal: &mut impl BufRead, words: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(terminal.read_line(&mut line).is_ok_and(|len| len > 0), "no line with {words:?}");
        if line.contains(words) {
            return line;
        }
    }
}

#[test]
fn ctrl_c_reaches_the_nodes_by_way_of_the_supervisor_alone() {
    let mut cluster = Cluster::plan(2).build();
    write_configs(&mut cluster);
    let (terminal, mut process) = on_terminal(kvctl_cluster(&cluster));
    let mut terminal = BufReader::new(terminal);
    await_line(&mut terminal, "Stop:         Ctrl-C");
    // Twice, as an impatient user.
    terminal.get_mut().write_all(b"\x03\x03").unwrap();
    for words in ["Stopping …", "] stopped", "] stopped"] {
        await_line(&mut terminal, words);
    }
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn a_terminal_that_goes_away_stops_everything() {
    let mut cluster = Cluster::plan(2).build();
    write_configs(&mut cluster);
    let (terminal, mut process) = on_terminal(kvctl_cluster(&cluster));
    let mut terminal = BufReader::new(terminal);
    let pids: Vec<Pid> = (1..=2)
        .map(|id| await_line(&mut terminal, &format!("Node {id} is ready")))
        .map(|line| Pid::from_raw(line.trim_end().rsplit(' ').next().unwrap().parse().unwrap()))
        .collect();
    drop(terminal);
    assert_eq!(process.ended().code(), Some(0));
    await_gone(&pids);
}

/// `run-cluster.sh` with programs of this build, behind a `cargo` that is this script.
struct Script {
    cluster: Cluster,
    dir: TempDir,
}

impl Script {
    fn new(size: u16, cargo: Option<&str>) -> Script {
        let mut cluster = Cluster::plan(size).build();
        write_configs(&mut cluster);
        let dir = tempfile::tempdir().unwrap();
        let tools = dir.path().join("tools");
        fs::create_dir_all(&tools).unwrap();
        for tool in ["bash", "sh", "env", "sed", "dirname", "sleep", "true", "touch", "cat"] {
            symlink(find(tool), tools.join(tool)).unwrap();
        }
        if let Some(cargo) = cargo {
            write_program(&tools.join("cargo"), cargo);
        }
        Script { cluster, dir }
    }

    /// As after a build.
    fn built(self) -> Script {
        let release = self.dir.path().join("target/release");
        fs::create_dir_all(&release).unwrap();
        for program in [env!("CARGO_BIN_EXE_kvctl"), env!("CARGO_BIN_EXE_kvnode")] {
            symlink(program, release.join(Path::new(program).file_name().unwrap())).unwrap();
        }
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(repository_path("run-cluster.sh"));
        command
            .args(args)
            .current_dir(self.cluster.dir())
            .env("PATH", self.dir.path().join("tools"))
            .env("KVMESH_CONFIG_DIR", ".")
            .env("CARGO_TARGET_DIR", self.dir.path().join("target"))
            .env_remove("CARGO_BUILD_TARGET_DIR");
        command
    }

    fn start(&self, args: &[&str]) -> SupervisorProcess {
        SupervisorProcess::spawn(&mut self.command(args))
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let mut supervisor = self.start(args);
        assert_eq!(supervisor.ended(), Some(code), "{args:?}: {}{}", supervisor.stdout(), supervisor.stderr());
        (supervisor.stdout(), supervisor.stderr())
    }
}

fn find(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|path| path.exists()).unwrap_or_else(|| panic!("no {tool}"))
}

const CARGO_IS_DONE: Option<&str> = Some("#!/bin/sh\necho \"$@\" >\"$CARGO_TARGET_DIR/arguments\"\n");

#[test]
fn the_script_builds_and_becomes_the_supervisor() {
    let script = Script::new(3, CARGO_IS_DONE).built();
    let mut all = script.start(&[]);
    let pids = [1, 2, 3].map(|id| all.await_ready(id));
    assert_eq!(
        fs::read_to_string(script.dir.path().join("target/arguments")).unwrap(),
        "build --quiet --locked --release --bin kvnode --bin kvctl\n"
    );
    let again = format!("KVMESH_CONFIG_DIR={} ./run-cluster.sh 2", script.cluster.dir().display());
    all.await_line(&format!("Bring it back, in another terminal:  {again}"));
    all.await_line(&format!("{}/target/release/kvctl -n ", script.dir.path().display()));
    kill(pids[1], Signal::SIGKILL).unwrap();
    let line = all.await_line("Node 2 has ended");
    assert_eq!(line, format!("Node 2 has ended: killed by SIGKILL. To start it again, in another terminal: {again}"));
    let mut one = script.start(&["2"]);
    let pid = one.await_ready(2);
    for supervisor in [&mut one, &mut all] {
        supervisor.signal(Signal::SIGTERM);
        assert_eq!(supervisor.ended(), Some(0), "{}", supervisor.stdout());
        assert_eq!(supervisor.stderr(), "");
    }
    await_gone(&pids);
    await_gone(&[pid]);
}

#[test]
fn the_script_refuses_what_it_cannot_build_or_run() {
    let unbuilt = Script::new(1, None);
    let (_, stderr) = unbuilt.ends(&[], 1);
    assert!(stderr.contains("no cargo to build it with: https://rustup.rs"), "{stderr}");

    let broken = Script::new(1, Some("#!/bin/sh\necho 'error: no' >&2\nexit 101\n"));
    let (stdout, stderr) = broken.ends(&[], 1);
    assert_eq!(stdout, "Building (the first time takes some minutes) …\n");
    assert_eq!(stderr, "error: no\nrun-cluster: the build failed; nothing was started\n");

    // Before the build.
    let (stdout, stderr) = broken.ends(&["2"], 2);
    assert!(stdout.is_empty() && stderr.contains("node2.json"), "{stderr}");
    let mut nowhere = SupervisorProcess::spawn(broken.command(&[]).env("KVMESH_CONFIG_DIR", "nowhere"));
    assert_eq!((nowhere.ended(), nowhere.stdout()), (Some(2), String::new()));

    for help in ["-h", "--help"] {
        let (stdout, stderr) = broken.ends(&[help], 0);
        assert!(stdout.starts_with("Runs the mesh on this machine") && stdout.contains("KVMESH_CONFIG_DIR"), "{stdout}");
        assert!(!stdout.contains("kvctl cluster"), "{stdout}");
        assert_eq!(stderr, "");
    }
    let built = Script::new(1, CARGO_IS_DONE).built();
    let (_, stderr) = built.ends(&["1", "1"], 2);
    assert!(stderr.contains("one word too many"), "{stderr}");
    fs::remove_file(built.cluster.config_path(1)).unwrap();
    let (_, stderr) = built.ends(&[], 2);
    assert!(stderr.contains("holds no node1.json"), "{stderr}");
}

#[test]
fn the_script_needs_no_cargo_where_everything_is_built() {
    let script = Script::new(1, None).built();
    let mut supervisor = script.start(&[]);
    supervisor.await_ready(1);
    supervisor.signal(Signal::SIGINT);
    assert_eq!(supervisor.ended(), Some(0));
    assert_eq!(supervisor.stderr(), "");
}

#[test]
fn a_signal_during_the_build_stops_the_compilers() {
    // A compiler is a child of cargo.
    let cargo = "#!/bin/sh\nsh -c 'echo $$ >\"$CARGO_TARGET_DIR/compiler\"; exec sleep 60' &\nwait\ntouch \"$CARGO_TARGET_DIR/went-on\"\n";
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let script = Script::new(1, Some(cargo)).built();
        let mut supervisor = script.start(&[]);
        supervisor.await_line("Building what has changed …");
        let compiler = fs::read_to_string(script.dir.path().join("target/compiler")).unwrap();
        let compiler = Pid::from_raw(compiler.trim().parse().unwrap());
        supervisor.signal(signal);
        assert_eq!(supervisor.ended(), Some(0), "{signal}");
        await_gone(&[compiler]);
        assert_eq!((supervisor.stdout().lines().count(), supervisor.stderr()), (1, String::new()), "{signal}");
        assert!(!script.dir.path().join("target/went-on").exists() && !script.cluster.data_path(1).exists());
    }
}

#[test]
fn a_background_job_of_a_script_is_stopped_by_sigint_too() {
    let building = Some("#!/bin/sh\nexec sleep 60\n");
    for (cargo, words) in [(CARGO_IS_DONE, "Node 1 is ready"), (building, "Building what has changed")] {
        let script = Script::new(1, cargo).built();
        let mut command = script.command(&[]);
        // A shell without job control starts its background jobs with SIGINT ignored.
        let mut ignoring = Command::new("sh");
        ignoring.args(["-c", "trap '' INT QUIT; exec \"$0\" \"$@\""]).arg(command.get_program());
        ignoring.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command = ignoring;
        let mut supervisor = SupervisorProcess::spawn(command.current_dir(script.cluster.dir()));
        supervisor.await_line(words);
        supervisor.signal(Signal::SIGINT);
        assert_eq!(supervisor.ended(), Some(0), "{words}: {}", supervisor.stdout());
    }
}
