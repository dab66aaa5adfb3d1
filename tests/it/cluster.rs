//! The harness: a cluster of real `kvnode` processes on loopback, and the faults that a test may do to it.
//!
//! Owns the processes (none outlives the test), their configuration files, logs and addresses. Every wait polls and has a deadline; when a test
//! fails, the end of every node's log and what it says of itself are printed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{PipeWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::client::{Client, Status};
use crate::kit::proxy::{Link, Mode, PIECE_LEN};

/// Generous: it is only waited out when something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The processes under test share the machine with the tests.
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// A node that finds its port taken is started this often at most.
const STARTS_MAX: usize = 5;

/// Tests run beside each other, except those that measure or load.
static MACHINE: RwLock<()> = RwLock::new(());

/// Held for its drop alone.
#[expect(dead_code)]
enum Share {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// For what loads the machine without a [`Cluster`]: no cluster runs until this is dropped.
pub fn machine_alone() -> impl Drop {
    struct Alone(#[expect(dead_code)] RwLockWriteGuard<'static, ()>);
    impl Drop for Alone {
        fn drop(&mut self) {}
    }
    Alone(MACHINE.write())
}

/// Polls until `probe` gives a value; panics with what it said last when `deadline` has passed.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if started.elapsed() > deadline => panic!("waited {deadline:?} for: {what}; last: {last}"),
            Err(_) => thread::sleep(POLL_PAUSE),
        }
    }
}

/// What a cluster is to look like.
pub struct Plan {
    size: u16,
    settings: Map<String, Value>,
    links: bool,
    alone: bool,
}

impl Plan {
    /// A configuration field of every node.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Plan {
        self.settings.insert(field.into(), value.into());
        self
    }

    /// Every node dials its peers through a [`Link`], which can be cut.
    pub fn links(mut self) -> Plan {
        self.links = true;
        self
    }

    /// No other cluster runs meanwhile.
    pub fn alone(mut self) -> Plan {
        self.alone = true;
        self
    }

    /// For tests that allow no error: a machine that stutters for a second is no fault of the nodes.
    pub fn patient(self) -> Plan {
        self.set("peer_timeout_ms", 4_000).set("ack_timeout_ms", 8_000).set("recovery_wait_ms", 10_000)
    }

    /// Configured, nothing started.
    pub fn build(self) -> Cluster {
        let share = if self.alone { Share::Alone(MACHINE.write()) } else { Share::Shared(MACHINE.read()) };
        let dir = tempfile::Builder::new().prefix("kvmesh-test-").tempdir().expect("a directory for the cluster");
        let mut cluster = Cluster {
            ip: loopback_ip(),
            dir,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            settings: self.settings,
            with_links: self.links,
            _share: share,
        };
        let members: Vec<u16> = (1..=self.size).collect();
        for id in &members {
            cluster.add(*id, &members);
        }
        cluster
    }

    /// Every node started, ready, and of one mind.
    pub fn start(self) -> Cluster {
        let mut cluster = self.build();
        for id in cluster.ids() {
            cluster.start(id);
        }
        cluster.await_converged();
        cluster.await_whole();
        cluster
    }
}

pub struct Cluster {
    /// An address of this cluster's own, so that its ports never meet those of others, nor anybody's outgoing connections.
    ip: IpAddr,
    nodes: BTreeMap<u16, Node>,
    /// By (who dials, whom).
    links: BTreeMap<(u16, u16), Link>,
    settings: Map<String, Value>,
    with_links: bool,
    dir: TempDir,
    _share: Share,
}

struct Node {
    client_addr: SocketAddr,
    peer_addr: SocketAddr,
    /// Whom its configuration lists, itself included.
    members: Vec<u16>,
    settings: Map<String, Value>,
    /// Of the command line, beside the configuration.
    args: Vec<&'static str>,
    /// What is started in place of this build's `kvnode`.
    program: Option<PathBuf>,
    /// Where it is to die, if anywhere: see the feature `testing`.
    failpoint: Option<String>,
    /// How many files it may have open, if not as many as this process.
    open_files: Option<u64>,
    /// Where its log goes instead of the file.
    stderr: Option<PipeWriter>,
    process: Option<Child>,
    paused: bool,
    /// Since the last start that a test asked for.
    starts: usize,
    /// Where in the log that start begins.
    log_start: usize,
}

/// Configuring, starting, ending.
impl Cluster {
    pub fn plan(size: u16) -> Plan {
        let fast = json!({ "heartbeat_ms": 100, "peer_timeout_ms": 1_000, "ack_timeout_ms": 2_000, "recovery_wait_ms": 2_000,
            "write_timeout_ms": 1_000, "reconnect_pause_max_ms": 200, "shutdown_timeout_ms": 1_000 });
        let Value::Object(settings) = fast else { unreachable!("an object is written above") };
        Plan { size, settings, links: false, alone: false }
    }

    /// One more node, configured and not started. It does not change what the others list.
    pub fn add(&mut self, id: u16, members: &[u16]) {
        // Held until both are chosen, so that they differ.
        let held = [self.listener(), self.listener()];
        let [client_addr, peer_addr] = held.map(|listener| listener.local_addr().expect("the address of a listener"));
        let node = Node {
            client_addr,
            peer_addr,
            members: members.to_vec(),
            settings: Map::new(),
            args: Vec::new(),
            program: None,
            failpoint: None,
            open_files: None,
            stderr: None,
            process: None,
            paused: false,
            starts: 0,
            log_start: 0,
        };
        self.nodes.insert(id, node);
    }

    /// What this node lists from its next start on.
    pub fn set_members(&mut self, id: u16, members: &[u16]) {
        self.node_mut(id).members = members.to_vec();
    }

    /// A configuration field of one node, from its next start on.
    pub fn configure(&mut self, id: u16, field: &str, value: impl Into<Value>) {
        self.node_mut(id).settings.insert(field.into(), value.into());
    }

    pub fn start(&mut self, id: u16) {
        self.start_with(id, &[]);
    }

    /// The program that it is from its next start on; `None` for this build's `kvnode`.
    pub fn set_program(&mut self, id: u16, program: Option<PathBuf>) {
        self.node_mut(id).program = program;
    }

    /// At which operation on its disk it dies from its next start on, such as `before:rename:2`; `None` for nowhere.
    pub fn set_failpoint(&mut self, id: u16, failpoint: Option<String>) {
        self.node_mut(id).failpoint = failpoint;
    }

    /// How many files it may have open from its next start on.
    pub fn limit_open_files(&mut self, id: u16, limit: u64) {
        self.node_mut(id).open_files = Some(limit);
    }

    /// Where its log goes from its next start on, instead of into the file that the waits of this harness read.
    pub fn set_stderr(&mut self, id: u16, stderr: PipeWriter) {
        self.node_mut(id).stderr = Some(stderr);
    }

    /// How it has ended, if it has.
    pub fn try_exit(&mut self, id: u16) -> Option<ExitStatus> {
        let process = self.node_mut(id).process.as_mut().unwrap_or_else(|| panic!("n{id} does not run"));
        process.try_wait().expect("the state of a process")?;
        Some(self.take_process(id).wait().expect("the end of a process that has ended"))
    }

    /// With these on the command line, this time.
    pub fn start_with(&mut self, id: u16, args: &[&'static str]) {
        let node = self.node(id);
        assert!(node.process.is_none(), "n{id} runs already");
        self.write_config(id);
        let log_start = self.log(id).len();
        let node = self.node_mut(id);
        node.args = args.to_vec();
        node.starts = 0;
        node.log_start = log_start;
        self.spawn(id);
    }

    /// Writes the node's configuration file, as every start does.
    pub fn write_config(&mut self, id: u16) {
        let config = self.config(id);
        fs::write(self.config_path(id), serde_json::to_string_pretty(&config).expect("JSON")).expect("a configuration file");
    }

    fn spawn(&mut self, id: u16) {
        let mut log = OpenOptions::new().create(true).append(true).open(self.log_path(id)).expect("a log file");
        writeln!(log, "--- start of n{id}").expect("a line in the log");
        let stdout = log.try_clone().expect("a second handle of the log");
        let program = self.node(id).program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_kvnode").into());
        let mut command = match self.node(id).open_files {
            None => Command::new(program),
            Some(limit) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(program);
                command
            }
        };
        let stderr = match &self.node(id).stderr {
            Some(stderr) => Stdio::from(stderr.try_clone().expect("a second handle of the pipe")),
            None => Stdio::from(log),
        };
        let process = command
            .arg("--config")
            .arg(self.config_path(id))
            .args(&self.node(id).args)
            .current_dir(self.dir.path())
            .env("RUST_LOG", "info")
            .envs(self.node(id).failpoint.iter().map(|failpoint| ("KVMESH_FAILPOINT", failpoint)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("kvnode starts");
        let node = self.node_mut(id);
        node.process = Some(process);
        node.starts += 1;
    }

    /// As a power cut ends it.
    pub fn kill(&mut self, id: u16) {
        let mut process = self.take_process(id);
        process.kill().expect("SIGKILL");
        process.wait().expect("the end of a killed process");
    }

    /// As an operator ends it: SIGTERM, and exit 0 before the deadline.
    pub fn stop(&mut self, id: u16) {
        self.signal(id, Signal::SIGTERM);
        let status = self.await_exit(id, Duration::from_secs(8));
        assert_eq!(status.code(), Some(0), "n{id} after SIGTERM: {status}");
    }

    /// Waits for a process that is about to end.
    #[track_caller]
    pub fn await_exit(&mut self, id: u16, deadline: Duration) -> ExitStatus {
        let mut process = self.take_process(id);
        let asked = Instant::now();
        loop {
            match process.try_wait().expect("the state of a process") {
                Some(status) => return status,
                None if asked.elapsed() > deadline => {
                    // Back among those that the end of the test kills, and shows.
                    self.node_mut(id).process = Some(process);
                    panic!("n{id} has not ended after {deadline:?}");
                }
                None => thread::sleep(POLL_PAUSE),
            }
        }
    }

    pub fn signal(&self, id: u16, signal: Signal) {
        let pid = i32::try_from(self.process_id(id)).expect("a process id");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to n{id}: {error}"));
    }

    pub fn process_id(&self, id: u16) -> u32 {
        self.node(id).process.as_ref().unwrap_or_else(|| panic!("n{id} does not run")).id()
    }

    /// Returns when none of its threads does anything any more: the signal alone only asks for that.
    pub fn pause(&mut self, id: u16) {
        self.signal(id, Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.process_id(id));
        until("all threads stopped", DEADLINE, || {
            let stats = fs::read_dir(&threads).map_err(|error| error.to_string())?.flatten();
            let states = stats.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
            // Behind the name, which is in parentheses.
            let running = states.filter(|stat| !stat.is_empty() && !stat.contains(") T ")).count();
            if running == 0 { Ok(()) } else { Err(format!("{running} of n{id} go on")) }
        });
        self.node_mut(id).paused = true;
    }

    pub fn resume(&mut self, id: u16) {
        self.signal(id, Signal::SIGCONT);
        self.node_mut(id).paused = false;
    }

    /// Graceful, and back with what the configuration says by now.
    pub fn restart(&mut self, id: u16) {
        self.stop(id);
        self.start(id);
        self.await_ready(id);
    }

    /// Its disk is lost: to be done while it is down.
    pub fn wipe(&mut self, id: u16) {
        assert!(self.node(id).process.is_none(), "n{id} runs");
        let data = self.data_path(id);
        if data.exists() {
            fs::remove_dir_all(data).expect("an empty data directory");
        }
    }

    fn config(&mut self, id: u16) -> Value {
        let node = self.node(id);
        let (client_addr, peer_addr) = (node.client_addr, node.peer_addr);
        let settings = self.settings.clone().into_iter().chain(node.settings.clone());
        let others: Vec<u16> = node.members.iter().copied().filter(|member| *member != id).collect();
        let peers: Vec<Value> = others.into_iter().map(|peer| json!({ "id": peer, "addr": self.dialled(id, peer).to_string() })).collect();
        let mut config = json!({ "id": id, "client_addr": client_addr.to_string(), "peer_addr": peer_addr.to_string(),
            "data_dir": data_dir(id), "peers": peers });
        for (field, value) in settings {
            config[field] = value;
        }
        config
    }

    /// Where this node is told that its peer is.
    fn dialled(&mut self, id: u16, peer: u16) -> SocketAddr {
        let target = self.node(peer).peer_addr;
        if !self.with_links {
            return target;
        }
        if let Some(link) = self.links.get(&(id, peer)) {
            return link.addr();
        }
        let link = Link::to(target, self.listener()).expect("a link");
        let addr = link.addr();
        self.links.insert((id, peer), link);
        addr
    }

    /// At a port of the system's choice that none of the nodes calls its own: those that are down do not hold theirs.
    fn listener(&self) -> TcpListener {
        loop {
            let listener = TcpListener::bind((self.ip, 0)).expect("a free port");
            let addr = listener.local_addr().expect("the address of a listener");
            if self.nodes.values().all(|node| node.client_addr != addr && node.peer_addr != addr) {
                return listener;
            }
        }
    }
}

/// Links.
impl Cluster {
    /// Both directions of dialling.
    pub fn set_link(&self, a: u16, b: u16, mode: Mode) {
        for pair in [(a, b), (b, a)] {
            let link =
                self.links.get(&pair).unwrap_or_else(|| panic!("no link from n{} to n{}: is the plan without links()?", pair.0, pair.1));
            link.set(mode);
        }
    }

    /// Only what `from` has dialled: see [`Link::forget`].
    pub fn forget(&self, from: u16, to: u16) {
        self.links.get(&(from, to)).unwrap_or_else(|| panic!("no link from n{from} to n{to}: is the plan without links()?")).forget();
    }

    /// What `from` sends to `to` passes at so many bytes a second.
    pub fn narrow(&self, from: u16, to: u16, rate: u32) {
        let pause = Duration::from_secs_f64(PIECE_LEN as f64 / f64::from(rate));
        let link = self.links.get(&(from, to));
        link.unwrap_or_else(|| panic!("no link from n{from} to n{to}: is the plan without links()?")).set(Mode::Narrow(pause));
    }

    pub fn cut(&self, a: u16, b: u16) {
        self.set_link(a, b, Mode::Cut);
    }

    pub fn stall(&self, a: u16, b: u16) {
        self.set_link(a, b, Mode::Stall);
    }

    pub fn join(&self, a: u16, b: u16) {
        self.set_link(a, b, Mode::Pass);
    }
}

/// Asking.
impl Cluster {
    pub fn ids(&self) -> Vec<u16> {
        self.nodes.keys().copied().collect()
    }

    pub fn client_addr(&self, id: u16) -> SocketAddr {
        self.node(id).client_addr
    }

    pub fn peer_addr(&self, id: u16) -> SocketAddr {
        self.node(id).peer_addr
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Where it keeps its files, unless it was configured otherwise.
    pub fn data_path(&self, id: u16) -> PathBuf {
        self.dir.path().join(data_dir(id))
    }

    /// Started, and refused in words and with this exit code: what it said.
    #[track_caller]
    pub fn await_refused(&mut self, id: u16, code: i32) -> String {
        let status = self.await_exit(id, DEADLINE);
        let log = self.log_of_this_start(id);
        assert!(status.code() == Some(code) && !log.contains("panicked"), "n{id}: {status}, not {code}: {log}");
        log.lines().find_map(|line| line.strip_prefix("kvnode: ")).unwrap_or_else(|| panic!("no reason in {log}")).to_owned()
    }

    /// Where the configurations, the data and the logs are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_path(&self, id: u16) -> PathBuf {
        self.dir.path().join(format!("node{id}.json"))
    }

    #[track_caller]
    pub fn client(&self, id: u16) -> Client {
        Client::connect(self.client_addr(id)).unwrap_or_else(|error| panic!("n{id} at {}: {error}", self.client_addr(id)))
    }

    /// One command on a connection of its own; the `END` of a long reply is left off.
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

    /// What it has logged since the last start that was asked for.
    pub fn log_of_this_start(&self, id: u16) -> String {
        self.log(id).split_off(self.node(id).log_start)
    }

    fn log(&self, id: u16) -> String {
        // Before the first start there is none.
        fs::read(self.log_path(id)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_path(&self, id: u16) -> PathBuf {
        self.dir.path().join(format!("node{id}.log"))
    }

    fn node(&self, id: u16) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    fn node_mut(&mut self, id: u16) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    fn take_process(&mut self, id: u16) -> Child {
        let node = self.node_mut(id);
        node.paused = false;
        node.process.take().unwrap_or_else(|| panic!("n{id} does not run"))
    }
}

/// Waiting.
impl Cluster {
    /// Open to clients.
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

    /// No longer waiting for anybody, with a majority or without.
    #[track_caller]
    pub fn await_served(&mut self, id: u16) {
        until(&format!("n{id} no longer recovering"), DEADLINE, || {
            let found = self.state(id)?;
            if found == "recovering" { Err(found) } else { Ok(()) }
        });
    }

    /// From when on it answers at all, open or not.
    #[track_caller]
    pub fn await_answer(&mut self, id: u16) {
        until(&format!("an answer of n{id}"), DEADLINE, || self.state(id));
    }

    fn state(&mut self, id: u16) -> Result<String, String> {
        self.revive(id);
        let status = Client::connect(self.client_addr(id)).and_then(|mut client| client.status());
        Ok(status.map_err(|error| error.to_string())?.text("state").to_owned())
    }

    /// Starts a node again that has found its port taken, which is nobody's fault; any other end is a failure of the test.
    #[track_caller]
    pub fn revive(&mut self, id: u16) {
        let node = self.node_mut(id);
        let starts = node.starts;
        let process = node.process.as_mut().unwrap_or_else(|| panic!("n{id} does not run"));
        let Some(status) = process.try_wait().expect("the state of a process") else { return };
        let log = self.log_of_this_start(id);
        assert!(log.contains("listens there already") && starts < STARTS_MAX, "n{id} has ended: {status}");
        self.take_process(id).wait().expect("the end of a process that has ended");
        self.spawn(id);
    }

    /// All that run are open, with equal vectors and equal digests.
    #[track_caller]
    pub fn await_converged(&mut self) {
        let running: Vec<u16> = self.nodes.iter().filter(|(_, node)| node.process.is_some() && !node.paused).map(|(id, _)| *id).collect();
        self.await_converged_among(&running);
    }

    #[track_caller]
    pub fn await_converged_among(&mut self, ids: &[u16]) {
        assert!(!ids.is_empty(), "no node runs");
        until("equal vectors and digests", DEADLINE, || {
            let mut places = Vec::new();
            for id in ids {
                self.revive(*id);
                places.push(self.place(*id).map_err(|error| format!("n{id}: {error}"))?);
            }
            let equal = places.iter().all(|place| place.1 == places[0].1);
            let open = places.iter().all(|place| place.0 == "open");
            if equal && open { Ok(()) } else { Err(format!("{places:?}")) }
        });
    }

    /// State, and what it holds: vector and digest.
    fn place(&self, id: u16) -> Result<(String, (Value, String)), String> {
        let mut client = Client::connect(self.client_addr(id)).map_err(|error| error.to_string())?;
        let status = client.status().map_err(|error| error.to_string())?;
        let vector = serde_json::from_str(status.text("vector")).map_err(|error| format!("vector: {error}"))?;
        let digest = client.ask_line("DIGEST").map_err(|error| error.to_string())?;
        Ok((status.text("state").to_owned(), (vector, digest)))
    }

    /// `state` is `up` or `down`, in the words of `PEERS`.
    #[track_caller]
    pub fn await_sees(&self, id: u16, peer: u16, state: &str) {
        let wanted = format!("peer {peer} {state}");
        until(&format!("n{id}: {wanted}"), DEADLINE, || {
            let lines = Client::connect(self.client_addr(id)).and_then(|mut client| client.ask("PEERS"));
            let lines = lines.map_err(|error| error.to_string())?;
            if lines.iter().any(|line| *line == wanted || line.starts_with(&format!("{wanted} "))) {
                Ok(())
            } else {
                Err(format!("{lines:?}"))
            }
        });
    }

    /// `wanted`: whether this node counts the peer for a majority, "yes" or "no". A peer that has just opened is counted once its word of that has come.
    #[track_caller]
    pub fn await_counted(&self, id: u16, peer: u16, wanted: &str) {
        until(&format!("n{id}: peer {peer} up, counted {wanted}"), DEADLINE, || {
            let lines = Client::connect(self.client_addr(id)).and_then(|mut client| client.ask("PEERS"));
            let lines = lines.map_err(|error| error.to_string())?;
            let is_it = |line: &String| line.starts_with(&format!("peer {peer} up ")) && line.contains(&format!(" counted {wanted} "));
            if lines.iter().any(is_it) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    /// Each counts each other.
    #[track_caller]
    pub fn await_whole(&self) {
        for id in self.ids() {
            for peer in self.ids().into_iter().filter(|peer| *peer != id) {
                self.await_counted(id, peer, "yes");
            }
        }
    }

    /// Every one of these sees every other up.
    #[track_caller]
    pub fn await_mesh(&self, ids: &[u16]) {
        for id in ids {
            for peer in ids.iter().filter(|peer| *peer != id) {
                self.await_sees(*id, *peer, "up");
            }
        }
    }

    #[track_caller]
    pub fn await_reply(&self, id: u16, command: &str, wanted: &str) {
        until(&format!("n{id}> {command}: {wanted}"), DEADLINE, || {
            let line = Client::connect(self.client_addr(id)).and_then(|mut client| client.ask_line(command));
            let line = line.map_err(|error| error.to_string())?;
            if line == wanted { Ok(()) } else { Err(line) }
        });
    }

    /// A line that holds all of these words, in any case, has been logged since the start.
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

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_evidence();
        }
        for node in self.nodes.values_mut() {
            if let Some(mut process) = node.process.take() {
                // It may have ended by itself.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

impl Cluster {
    fn print_evidence(&self) {
        const TAIL: usize = 60;
        for (id, node) in &self.nodes {
            let runs = if node.paused {
                "paused"
            } else if node.process.is_some() {
                "runs"
            } else {
                "is down"
            };
            eprintln!("======== n{id} {runs}, clients {}, peers {}, lists {:?}", node.client_addr, node.peer_addr, node.members);
            for command in ["STATUS", "PEERS"] {
                if node.process.is_some() && !node.paused {
                    match self.ask_briefly(*id, command) {
                        Ok(lines) => lines.iter().for_each(|line| eprintln!("  {command}: {line}")),
                        Err(error) => eprintln!("  {command}: {error}"),
                    }
                }
            }
            let log = self.log(*id);
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                eprintln!("  [{id}] {line}");
            }
        }
    }

    fn ask_briefly(&self, id: u16, command: &str) -> std::io::Result<Vec<String>> {
        let mut client = Client::connect(self.client_addr(id))?;
        client.set_reply_timeout(Duration::from_secs(1))?;
        client.ask(command)
    }
}

fn data_dir(id: u16) -> String {
    format!("data/node{id}")
}

/// Somewhere in 127.0.0.0/8, away from 127.0.0.1, where that is all routed to this machine. Outgoing connections take their ports at 127.0.0.1,
/// so nobody takes one of ours while a node is down.
fn loopback_ip() -> IpAddr {
    static WHOLE_NET: OnceLock<bool> = OnceLock::new();
    if !*WHOLE_NET.get_or_init(|| TcpListener::bind((Ipv4Addr::new(127, 99, 99, 99), 0)).is_ok()) {
        return Ipv4Addr::LOCALHOST.into();
    }
    let bits = random_bits();
    Ipv4Addr::new(127, 1 + (bits % 254) as u8, (bits >> 8) as u8, 1 + ((bits >> 16) % 254) as u8).into()
}

pub fn random_bits() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

/// A file of the repository.
pub fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs `kvnode` outside a cluster, to its end, its output in a file; the deadline is the test's.
pub fn run_kvnode(args: &[&str], dir: &TempDir) -> (ExitStatus, String) {
    let path = dir.path().join("output");
    let output = File::create(&path).expect("a file for the output");
    let both = output.try_clone().expect("a second handle");
    let mut process = Command::new(env!("CARGO_BIN_EXE_kvnode"))
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(both)
        .spawn()
        .expect("kvnode starts");
    let started = Instant::now();
    let status = loop {
        match process.try_wait().expect("the state of a process") {
            Some(status) => break status,
            None if started.elapsed() > Duration::from_secs(10) => {
                process.kill().expect("SIGKILL");
                process.wait().expect("the end of a killed process");
                panic!("kvnode {args:?} has not ended: {}", fs::read_to_string(&path).unwrap_or_default());
            }
            None => thread::sleep(POLL_PAUSE),
        }
    };
    (status, fs::read_to_string(&path).expect("the output"))
}
