//! A cluster as the tests use it: what they do to it, ask of it and wait for.
//!
//! Adds to the [`Cluster`] of the kit. Whatever goes wrong here is a failure of the test, so these
//! functions panic. Every wait has a deadline. A failing test prints the state of each node.

use std::env;
use std::fs;
use std::io::PipeWriter;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde_json::{Map, Value};

use crate::client::{Client, Status};
use crate::kit::client::word_after;
pub use crate::kit::cluster::Cluster;
use crate::kit::cluster::fast_settings;
use crate::kit::process::Process;
use crate::kit::proxy::{Mode, PIECE_LEN};
use crate::kit::wait::poll_until;

/// Generous: it passes only where something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// From SIGTERM to the end of a node.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// A node that finds its port taken is started this often at most.
const STARTS_MAX: usize = 5;
/// Precedes the output of a node that is started again because its port was taken.
const AGAIN: &str = "again";

/// Tests run beside each other, except those that measure or load.
static MACHINE: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held for its drop alone")]
enum Share {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The machine, for a test that loads it without a [`Cluster`]: no cluster runs until this drops.
pub fn machine_alone() -> impl Sized {
    Share::Alone(MACHINE.write())
}

/// Polls until `probe` returns a value. Panics with its last error once the deadline has passed.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, probe: impl FnMut() -> Result<T, String>) -> T {
    let polled = poll_until(Instant::now() + deadline, probe);
    polled.unwrap_or_else(|last| panic!("waited {deadline:?} for: {what}; last: {last}"))
}

/// How a cluster is made.
pub struct ClusterPlan {
    size: u16,
    settings: Map<String, Value>,
    links: bool,
    alone: bool,
}

impl ClusterPlan {
    /// Sets a configuration field of every node.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> ClusterPlan {
        self.settings.insert(field.into(), value.into());
        self
    }

    /// Puts a link, which can have faults, between each node and every peer that it dials.
    pub fn links(mut self) -> ClusterPlan {
        self.links = true;
        self
    }

    /// Lets no other cluster run meanwhile.
    pub fn alone(mut self) -> ClusterPlan {
        self.alone = true;
        self
    }

    /// Bears a machine that stutters for a second: for tests that allow no error of a node.
    pub fn patient(self) -> ClusterPlan {
        self.set("peer_timeout_ms", 4_000).set("ack_timeout_ms", 8_000).set("recovery_wait_ms", 10_000)
    }

    /// A cluster whose nodes are configured and not started.
    pub fn build(self) -> Cluster {
        let share = if self.alone { Share::Alone(MACHINE.write()) } else { Share::Shared(MACHINE.read()) };
        let dir = tempfile::Builder::new().prefix("kvmesh-test-").tempdir().expect("a directory for the cluster");
        let path = dir.path().to_owned();
        let mut cluster = Cluster::new(kvnode(), &path, self.settings, self.links, (dir, share));
        let members: Vec<u16> = (1..=self.size).collect();
        members.iter().for_each(|id| cluster.add(*id, &members).expect("free ports"));
        cluster
    }

    /// A cluster that is open, with equal data, and whose nodes count each other.
    pub fn start(self) -> Cluster {
        let mut cluster = self.build();
        cluster.start_all();
        cluster.await_converged();
        cluster.await_whole();
        cluster
    }
}

/// Configuring, starting, ending.
impl Cluster {
    pub fn plan(size: u16) -> ClusterPlan {
        ClusterPlan { size, settings: fast_settings(), links: false, alone: false }
    }

    /// Changes the members that a node lists from its next start on.
    pub fn set_members(&mut self, id: u16, members: &[u16]) {
        self.node_mut(id).members = members.to_vec();
    }

    /// Changes a configuration field of one node from its next start on.
    pub fn configure(&mut self, id: u16, field: &str, value: impl Into<Value>) {
        self.node_mut(id).settings.insert(field.into(), value.into());
    }

    /// Changes the program of a node from its next start on; `None` is this build's `kvnode`.
    pub fn set_program(&mut self, id: u16, program: Option<PathBuf>) {
        self.node_mut(id).launch.program = program.unwrap_or_else(kvnode);
    }

    /// Lets a node die at an operation on its disk, such as `before:rename:2`, from its next start
    /// on; `None` is nowhere.
    pub fn set_failpoint(&mut self, id: u16, failpoint: Option<String>) {
        self.node_mut(id).launch.env = failpoint.into_iter().map(|failpoint| ("KVMESH_FAILPOINT", failpoint)).collect();
    }

    /// Limits the files that a node may have open, from its next start on.
    pub fn limit_open_files(&mut self, id: u16, limit: u64) {
        self.node_mut(id).launch.prelude = format!("ulimit -n {limit}");
    }

    /// Redirects the log of a node from its next start on. The waits here do not read it then.
    pub fn set_stderr(&mut self, id: u16, stderr: PipeWriter) {
        self.node_mut(id).launch.stderr = Some(stderr);
    }

    pub fn start(&mut self, id: u16) {
        self.start_with(id, &[]);
    }

    pub fn start_all(&mut self) {
        self.ids().into_iter().for_each(|id| self.start(id));
    }

    /// Starts a node with more arguments, this time.
    pub fn start_with(&mut self, id: u16, args: &[&'static str]) {
        assert!(self.process(id).is_none(), "n{id} runs already");
        self.node_mut(id).launch.args = args.to_vec();
        self.launch(id, &start_of(id)).expect("kvnode starts");
    }

    /// SIGKILL, as a power cut ends a node.
    #[track_caller]
    pub fn kill(&mut self, id: u16) {
        self.end(id).unwrap_or_else(|| panic!("n{id} does not run"));
    }

    pub fn kill_all(&mut self) {
        self.ids().into_iter().for_each(|id| self.kill(id));
    }

    /// Ends a node as an operator does: SIGTERM, and exit code 0 in time.
    #[track_caller]
    pub fn stop(&mut self, id: u16) {
        self.signal(id, Signal::SIGTERM);
        let status = self.await_exit(id, STOP_TIMEOUT);
        assert_eq!(status.code(), Some(0), "n{id} after SIGTERM: {status}");
    }

    /// The exit status of a node that may have ended; `None` while it runs.
    pub fn try_exit(&mut self, id: u16) -> Option<ExitStatus> {
        self.wait(id, Duration::ZERO)
    }

    #[track_caller]
    pub fn await_exit(&mut self, id: u16, deadline: Duration) -> ExitStatus {
        self.wait(id, deadline).unwrap_or_else(|| panic!("n{id} has not ended after {deadline:?}"))
    }

    /// The reason that a node gives for ending with this exit code instead of starting.
    #[track_caller]
    pub fn await_refused(&mut self, id: u16, code: i32) -> String {
        let status = self.await_exit(id, DEADLINE);
        let log = self.log_of_this_start(id);
        assert!(status.code() == Some(code) && !log.contains("panicked"), "n{id}: {status}, not {code}: {log}");
        log.lines().find_map(|line| line.strip_prefix("kvnode: ")).unwrap_or_else(|| panic!("no reason in {log}")).to_owned()
    }

    #[track_caller]
    fn running(&mut self, id: u16) -> &mut Process {
        self.process(id).unwrap_or_else(|| panic!("n{id} does not run"))
    }

    #[track_caller]
    pub fn signal(&mut self, id: u16, signal: Signal) {
        self.running(id).signal(signal).unwrap_or_else(|error| panic!("{signal} to n{id}: {error}"));
    }

    #[track_caller]
    pub fn pause(&mut self, id: u16) {
        self.running(id).pause().unwrap_or_else(|error| panic!("n{id}: {error}"));
    }

    #[track_caller]
    pub fn resume(&mut self, id: u16) {
        self.running(id).resume().unwrap_or_else(|error| panic!("n{id}: {error}"));
    }

    /// Starts a node and waits until it is open.
    #[track_caller]
    pub fn start_ready(&mut self, id: u16) {
        self.start(id);
        self.await_ready(id);
    }

    /// Restarts a node in order, with what its configuration says by now.
    #[track_caller]
    pub fn restart(&mut self, id: u16) {
        self.stop(id);
        self.start_ready(id);
    }

    /// Kills a node and starts it again.
    #[track_caller]
    pub fn crash(&mut self, id: u16) {
        self.kill(id);
        self.start_ready(id);
    }

    /// The disk of a node that is down is lost.
    #[track_caller]
    pub fn wipe(&mut self, id: u16) {
        self.lose_disk(id).unwrap_or_else(|error| panic!("the disk of n{id}: {error}"));
    }
}

/// Links.
impl Cluster {
    /// Open connections from one node to another lead nowhere: see `Link::forget`.
    pub fn forget(&self, from: u16, to: u16) {
        self.link(from, to).forget();
    }

    /// Lets bytes from one node to another pass at this rate, in bytes a second.
    pub fn narrow(&self, from: u16, to: u16, rate: u32) {
        self.link(from, to).set(Mode::Narrow(Duration::from_secs_f64(PIECE_LEN as f64 / f64::from(rate))));
    }

    pub fn cut(&self, a: u16, b: u16) {
        self.set_links(&[(a, b), (b, a)], Mode::Cut);
    }

    pub fn stall(&self, a: u16, b: u16) {
        self.set_links(&[(a, b), (b, a)], Mode::Stall);
    }

    pub fn join(&self, a: u16, b: u16) {
        self.set_links(&[(a, b), (b, a)], Mode::Pass);
    }

    /// Cuts a node off from all others. Returns once they see it down.
    #[track_caller]
    pub fn cut_off(&self, id: u16) {
        self.others(id).for_each(|other| self.cut(other, id));
        for other in self.others(id) {
            self.await_sees(other, id, "down");
        }
    }

    /// Joins a node with all others.
    pub fn join_all(&self, id: u16) {
        self.others(id).for_each(|other| self.join(other, id));
    }

    fn others(&self, id: u16) -> impl Iterator<Item = u16> {
        self.ids().into_iter().filter(move |other| *other != id)
    }
}

/// Asking.
impl Cluster {
    pub fn peer_addr(&self, id: u16) -> SocketAddr {
        self.node(id).peer_addr
    }

    pub fn client_addrs(&self) -> Vec<SocketAddr> {
        self.ids().into_iter().map(|id| self.client_addr(id)).collect()
    }

    pub fn ip(&self) -> IpAddr {
        self.client_addr(1).ip()
    }

    #[track_caller]
    pub fn client(&self, id: u16) -> Client {
        Client::connect(self.client_addr(id)).unwrap_or_else(|error| panic!("n{id} at {}: {error}", self.client_addr(id)))
    }

    /// A client that writes at this ack level.
    #[track_caller]
    pub fn client_at(&self, id: u16, level: &str) -> Client {
        let mut client = self.client(id);
        assert_eq!(client.ask_line(&format!("ACK {level}")).expect("a reply"), "OK");
        client
    }

    /// Writes all that a node knows into a snapshot.
    #[track_caller]
    pub fn compact(&self, id: u16) {
        let reply = self.ask(id, "COMPACT");
        assert!(reply[0].starts_with("entries "), "n{id}> COMPACT: {reply:?}");
    }

    /// Lets a node go on whose log is stopped.
    #[track_caller]
    pub fn resume_log(&self, id: u16) {
        let reply = self.ask(id, "RESUME");
        assert!(reply[0].starts_with("entries "), "n{id}> RESUME: {reply:?}");
    }

    /// Asks one command on a connection of its own; the `END` of a long reply is left off.
    #[track_caller]
    pub fn ask(&self, id: u16, command: &str) -> Vec<String> {
        self.client(id).ask(command).unwrap_or_else(|error| panic!("n{id}> {command}: {error}"))
    }

    #[track_caller]
    pub fn ask_line(&self, id: u16, command: &str) -> String {
        self.client(id).ask_line(command).unwrap_or_else(|error| panic!("n{id}> {command}: {error}"))
    }

    #[track_caller]
    pub fn status(&self, id: u16) -> Status {
        self.client(id).status().unwrap_or_else(|error| panic!("n{id}> STATUS: {error}"))
    }

    /// The log of a node since the last start that a test asked for.
    pub fn log_of_this_start(&self, id: u16) -> String {
        let mut log = self.log(id);
        log.split_off(log.rfind(&format!("--- {}\n", start_of(id))).unwrap_or(0))
    }
}

/// Waiting.
impl Cluster {
    /// Waits until a node is open to clients.
    #[track_caller]
    pub fn await_ready(&mut self, id: u16) {
        self.await_state(id, "open");
    }

    #[track_caller]
    pub fn await_state(&mut self, id: u16, state: &str) {
        until(&format!("n{id} {state}"), DEADLINE, || {
            let found = self.state(id)?;
            if found == state { Ok(()) } else { Err(found) }
        });
    }

    /// Waits until a node does not wait for its peers any more, with a majority or without.
    #[track_caller]
    pub fn await_served(&mut self, id: u16) {
        until(&format!("n{id} no longer recovering"), DEADLINE, || {
            let found = self.state(id)?;
            if found == "recovering" { Err(found) } else { Ok(()) }
        });
    }

    /// Waits until a node answers at all, open or not.
    #[track_caller]
    pub fn await_answer(&mut self, id: u16) {
        until(&format!("an answer of n{id}"), DEADLINE, || self.state(id));
    }

    fn state(&mut self, id: u16) -> Result<String, String> {
        self.revive(id);
        Ok(self.try_status(id)?.text("state").to_owned())
    }

    fn try_status(&self, id: u16) -> Result<Status, String> {
        Client::connect(self.client_addr(id)).and_then(|mut client| client.status()).map_err(|error| format!("n{id}: {error}"))
    }

    fn try_ask(&self, id: u16, command: &str) -> Result<Vec<String>, String> {
        Client::connect(self.client_addr(id)).and_then(|mut client| client.ask(command)).map_err(|error| format!("n{id}: {error}"))
    }

    /// Starts a node again that has found its port taken, which is no fault of its own. Panics if
    /// it has ended for any other reason.
    #[track_caller]
    pub fn revive(&mut self, id: u16) {
        let Some(status) = self.running(id).try_wait() else { return };
        let log = self.log_of_this_start(id);
        let starts = 1 + log.matches(&format!("--- {AGAIN}\n")).count();
        assert!(log.contains("listens there already") && starts < STARTS_MAX, "n{id} has ended: {status}");
        self.launch(id, AGAIN).expect("kvnode starts");
    }

    /// Waits until all nodes that run are open, with equal vectors and equal digests.
    #[track_caller]
    pub fn await_converged(&mut self) {
        let ids = self.ids();
        let running: Vec<u16> = ids.into_iter().filter(|id| self.process(*id).is_some_and(|process| !process.is_paused())).collect();
        self.await_converged_among(&running);
    }

    #[track_caller]
    pub fn await_converged_among(&mut self, ids: &[u16]) {
        assert!(!ids.is_empty(), "no node runs");
        until("equal vectors and digests", DEADLINE, || {
            let mut held = Vec::new();
            for id in ids {
                self.revive(*id);
                held.push(self.state_and_data(*id)?);
            }
            let is_equal = held.iter().all(|(state, data)| state == "open" && *data == held[0].1);
            if is_equal { Ok(()) } else { Err(format!("{held:?}")) }
        });
    }

    /// The state of a node, and what it holds, as its vector and its digest.
    fn state_and_data(&self, id: u16) -> Result<(String, (Value, Vec<String>)), String> {
        let status = self.try_status(id)?;
        let vector = serde_json::from_str(status.text("vector")).map_err(|error| format!("n{id}: vector: {error}"))?;
        Ok((status.text("state").to_owned(), (vector, self.try_ask(id, "DIGEST")?)))
    }

    /// Waits until a node sees a peer `up` or `down`, in the words of `PEERS`.
    #[track_caller]
    pub fn await_sees(&self, id: u16, peer: u16, state: &str) {
        self.await_peer(id, peer, state, |line| word_after(line, &peer.to_string()) == Some(state));
    }

    /// Waits until a node counts a peer for a majority, or does not: `wanted` is "yes" or "no". A
    /// peer that has just opened is counted once it has announced that.
    #[track_caller]
    pub fn await_counted(&self, id: u16, peer: u16, wanted: &str) {
        let is_up = |line: &str| word_after(line, &peer.to_string()) == Some("up");
        self.await_peer(id, peer, &format!("up, counted {wanted}"), |line| is_up(line) && word_after(line, "counted") == Some(wanted));
    }

    #[track_caller]
    fn await_peer(&self, id: u16, peer: u16, what: &str, is_so: impl Fn(&str) -> bool) {
        until(&format!("n{id}: peer {peer} {what}"), DEADLINE, || {
            let lines = self.try_ask(id, "PEERS")?;
            let mut of_peer = lines.iter().filter(|line| line.starts_with(&format!("peer {peer} ")));
            if of_peer.any(|line| is_so(line)) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    /// Waits until every node counts every other.
    #[track_caller]
    pub fn await_whole(&self) {
        for id in self.ids() {
            for peer in self.others(id) {
                self.await_counted(id, peer, "yes");
            }
        }
    }

    /// Waits until each of these nodes sees every other up.
    #[track_caller]
    pub fn await_mesh(&self, ids: &[u16]) {
        for id in ids {
            for peer in ids.iter().filter(|peer| *peer != id) {
                self.await_sees(*id, *peer, "up");
            }
        }
    }

    /// Waits until all nodes see each other up and hold the same.
    #[track_caller]
    pub fn await_healed(&mut self) {
        self.await_mesh(&self.ids());
        self.await_converged();
    }

    #[track_caller]
    pub fn await_reply(&self, id: u16, command: &str, wanted: &str) {
        until(&format!("n{id}> {command}: {wanted}"), DEADLINE, || {
            let lines = self.try_ask(id, command)?;
            if lines == [wanted] { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    /// Waits until a number in the status of a node is this one.
    #[track_caller]
    pub fn await_number(&self, id: u16, name: &str, wanted: u64) {
        until(&format!("n{id}: {name} {wanted}"), DEADLINE, || {
            let found = self.try_status(id)?.number(name);
            if found == wanted { Ok(()) } else { Err(found.to_string()) }
        });
    }

    /// Waits until the log of a node says that it is stopped, with this text in the reason.
    #[track_caller]
    pub fn await_log_stopped(&self, id: u16, reason: &str) {
        until(&format!("the log of n{id} stopped: {reason}"), DEADLINE, || {
            let log = self.try_status(id)?.text("log").to_owned();
            if log.starts_with("stopped: ") && log.contains(reason) { Ok(()) } else { Err(log) }
        });
    }

    /// Waits for a line with all of these words, in any case, in the log since the start.
    #[track_caller]
    pub fn await_log(&self, id: u16, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        until(&format!("a log line of n{id} with {words:?}"), DEADLINE, || {
            let log = self.log_of_this_start(id);
            let found = log.lines().find(|line| words.iter().all(|word| line.to_lowercase().contains(word)));
            found.map(str::to_owned).ok_or_else(|| "no such line".into())
        })
    }
}

/// Copies the files of a directory, as a backup of a node's disk does.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory for the copies");
    for file in fs::read_dir(from).expect("a directory").map(|file| file.expect("a file")) {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// Precedes the output of a node in its log when a test starts it.
fn start_of(id: u16) -> String {
    format!("start of n{id}")
}

/// Names the program that is tested instead of this build's `kvnode`: the one that ships.
const PROGRAM: &str = "KVMESH_KVNODE";

/// The `kvnode` that is tested.
pub fn kvnode() -> PathBuf {
    env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_kvnode").into()).into()
}

/// Returns whether the `kvnode` that is tested obeys the switches of the feature `testing`.
pub fn has_switches() -> bool {
    env::var_os(PROGRAM).is_none()
}
