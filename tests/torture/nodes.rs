//! The processes under torture: their configuration, their incarnations, and the links between them.
//!
//! Owns every process (none outlives the run) and every link. Each start is a new *life* of a node, numbered from 1; clients read the number before and after
//! they connect, so they know which incarnation has answered.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::checks::Start;
use crate::kit::proxy::{Effects, Link, Mode};
use crate::now;
use crate::plan::Setting;

/// How long a write waits for acks, and how long a peer may be behind before it does not count.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// From SIGTERM to the end; a node takes `shutdown_timeout_ms` and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// With these, logs are compacted every few seconds, or never.
const COMPACT_OFTEN: u64 = 192 << 10;
const COMPACT_NEVER: u64 = 1 << 40;

/// Where the clients find a node, and what they have to know of its fate.
pub struct Place {
    pub id: u16,
    pub addr: SocketAddr,
    pub life: AtomicU32,
    /// When it stood still, or was down: from, and until when.
    pub pauses: Mutex<Vec<(u64, u64)>>,
}

impl Place {
    fn begin_pause(&self) {
        self.pauses.lock().push((now(), u64::MAX));
    }

    fn end_pause(&self) {
        if let Some((_, until)) = self.pauses.lock().last_mut() {
            *until = now();
        }
    }
}

/// The processes that run, for [`end_all`].
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Ends every process at once, whoever owns it: for a run that is given up.
pub fn end_all() {
    for pid in RUNNING.lock().drain(..) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

pub struct Nodes {
    program: PathBuf,
    dir: PathBuf,
    setting: Setting,
    nodes: Vec<Node>,
    /// By (who dials, whom).
    links: BTreeMap<(u16, u16), Link>,
    starts: Vec<Start>,
}

struct Node {
    place: Arc<Place>,
    peer_addr: SocketAddr,
    process: Option<Process>,
}

struct Process {
    child: Child,
    /// Carries what the node says into its log: a pipe has no limit that a full disk could reach.
    logging: JoinHandle<()>,
}

/// Starting and ending.
impl Nodes {
    /// Configured and linked; nothing is started.
    pub fn new(program: PathBuf, dir: &Path, setting: Setting) -> io::Result<Nodes> {
        // An address of this run's own, where the system has one, so that its ports never meet those of others, nor anybody's outgoing connections.
        let ip = loopback_ip();
        let mut nodes = Nodes { program, dir: dir.to_owned(), setting, nodes: Vec::new(), links: BTreeMap::new(), starts: Vec::new() };
        // All held until all are chosen, so that they differ.
        let mut held = Vec::new();
        for id in 1..=setting.nodes {
            let (clients, peers) = (TcpListener::bind((ip, 0))?, TcpListener::bind((ip, 0))?);
            let place = Place { id, addr: clients.local_addr()?, life: AtomicU32::new(0), pauses: Mutex::default() };
            nodes.nodes.push(Node { place: Arc::new(place), peer_addr: peers.local_addr()?, process: None });
            held.push((clients, peers));
        }
        for from in nodes.ids() {
            for to in nodes.ids().into_iter().filter(|to| *to != from) {
                let link = Link::to(nodes.node(to).peer_addr, TcpListener::bind((ip, 0))?)?;
                nodes.links.insert((from, to), link);
            }
        }
        for id in nodes.ids() {
            fs::write(nodes.path(id, "json"), serde_json::to_string_pretty(&nodes.config(id))?)?;
        }
        Ok(nodes)
    }

    fn config(&self, id: u16) -> Value {
        let peers = self.ids().into_iter().filter(|peer| *peer != id);
        let peers: Vec<Value> = peers.map(|peer| json!({ "id": peer, "addr": self.links[&(id, peer)].addr().to_string() })).collect();
        let node = self.node(id);
        // Fast, but for `recovery_wait_ms`: a node that comes back must not open without what its peers hold because the machine is busy.
        json!({
            "id": id, "cluster": "torture", "client_addr": node.place.addr.to_string(), "peer_addr": node.peer_addr.to_string(),
            "data_dir": self.data_dir(id), "peers": peers,
            "fsync": if self.setting.fsyncs_always { "always" } else { "everysec" },
            "compact_log_min": if self.setting.compacts { COMPACT_OFTEN } else { COMPACT_NEVER },
            "heartbeat_ms": 100, "peer_timeout_ms": 1_000, "ack_timeout_ms": ACK_TIMEOUT.as_millis() as u64, "recovery_wait_ms": 4_000,
            "write_timeout_ms": 1_000, "reconnect_pause_max_ms": 200, "shutdown_timeout_ms": 1_000, "tombstone_age_min_ms": 300,
        })
    }

    /// A new incarnation.
    pub fn start(&mut self, id: u16) -> io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.path(id, "log"))?;
        let place = Arc::clone(&self.node(id).place);
        self.starts.push(Start { node: id, at: now() });
        // Counted before it can answer anybody.
        writeln!(log, "--- life {}", place.life.fetch_add(1, Ordering::SeqCst) + 1)?;
        // The shell ignores the signal of a file that reaches its limit, and so does what it becomes: the node is to see an error, as on a full disk.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\" 2>&1"])
            .arg(&self.program)
            .arg("--config")
            .arg(self.path(id, "json"))
            .env("RUST_LOG", "info")
            .env_remove("KVMESH_FAILPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let said = child.stdout.take();
        let logging = thread::Builder::new().name(format!("log-{id}")).spawn(move || {
            if let Some(mut said) = said {
                // The log ends with the node, or with the disk of this machine.
                let _ = io::copy(&mut said, &mut log);
            }
        });
        let logging = match logging {
            Ok(logging) => logging,
            Err(error) => {
                let _ = (child.kill(), child.wait());
                return Err(error);
            }
        };
        RUNNING.lock().extend(i32::try_from(child.id()));
        self.node_mut(id).process = Some(Process { child, logging });
        place.end_pause();
        Ok(())
    }

    /// SIGKILL to all of them, none waited for before the next one dies. How many have died of it.
    pub fn kill(&mut self, ids: &[u16]) -> u64 {
        let mut died = 0;
        for id in ids {
            self.node(*id).place.begin_pause();
            self.signal(*id, Signal::SIGKILL);
        }
        for id in ids {
            died += u64::from(self.reap(*id).is_some_and(|status| status.signal() == Some(Signal::SIGKILL as i32)));
        }
        died
    }

    /// SIGTERM. An error says how it has not ended with exit code 0.
    pub fn stop(&mut self, id: u16) -> Result<(), String> {
        self.node(id).place.begin_pause();
        self.signal(id, Signal::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP_TIMEOUT && self.node_mut(id).process.as_mut().is_some_and(|process| !process.has_ended()) {
            thread::sleep(POLL_PAUSE);
        }
        let is_running = self.node_mut(id).process.as_mut().is_some_and(|process| !process.has_ended());
        if is_running {
            self.signal(id, Signal::SIGKILL);
            self.reap(id);
            return Err(format!("n{id} has not ended {STOP_TIMEOUT:?} after SIGTERM"));
        }
        match self.reap(id) {
            Some(status) if status.code() == Some(0) => Ok(()),
            status => Err(format!("n{id} has ended after SIGTERM with {status:?}")),
        }
    }

    /// Of all incarnations so far.
    pub fn starts(&self) -> &[Start] {
        &self.starts
    }

    pub fn pause(&self, id: u16) {
        self.node(id).place.begin_pause();
        self.signal(id, Signal::SIGSTOP);
    }

    pub fn resume(&self, id: u16) {
        self.signal(id, Signal::SIGCONT);
        self.node(id).place.end_pause();
    }

    /// The disk of a node that is down is lost. How many files that were.
    pub fn wipe(&self, id: u16) -> io::Result<u64> {
        let files = fs::read_dir(self.data_dir(id))?.count() as u64;
        fs::remove_dir_all(self.data_dir(id))?;
        Ok(files)
    }

    /// Those that have ended though nobody made them.
    pub fn ended_by_themselves(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process
                && let Ok(Some(status)) = process.child.try_wait()
            {
                ended.push(format!("n{} has ended by itself: {status}", node.place.id));
            }
        }
        ended
    }

    /// Every process, ended for good.
    pub fn end(&mut self) {
        for id in self.ids() {
            self.signal(id, Signal::SIGKILL);
            self.reap(id);
        }
    }

    fn signal(&self, id: u16, signal: Signal) {
        if let Some(process) = &self.node(id).process {
            // One that has ended by itself is found and named elsewhere.
            let _ = i32::try_from(process.child.id()).map(|pid| kill(Pid::from_raw(pid), signal));
        }
    }

    fn reap(&mut self, id: u16) -> Option<ExitStatus> {
        let mut process = self.node_mut(id).process.take()?;
        // Before it is waited for: then its number may be another's.
        RUNNING.lock().retain(|pid| i64::from(*pid) != i64::from(process.child.id()));
        let status = process.child.wait().ok();
        let _ = process.logging.join();
        status
    }
}

impl Process {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asking, and links.
impl Nodes {
    pub fn ids(&self) -> Vec<u16> {
        (1..=self.nodes.len() as u16).collect()
    }

    pub fn places(&self) -> Vec<Arc<Place>> {
        self.nodes.iter().map(|node| Arc::clone(&node.place)).collect()
    }

    pub fn place(&self, id: u16) -> &Place {
        &self.node(id).place
    }

    pub fn process_id(&self, id: u16) -> Option<i32> {
        self.node(id).process.as_ref().and_then(|process| i32::try_from(process.child.id()).ok())
    }

    pub fn set_links(&self, links: &[(u16, u16)], mode: Mode) {
        for link in links.iter().filter_map(|ends| self.links.get(ends)) {
            link.set(mode);
        }
    }

    /// Open connections of these links lead nowhere from now on.
    pub fn forget_links(&self, links: &[(u16, u16)]) {
        links.iter().filter_map(|ends| self.links.get(ends)).for_each(Link::forget);
    }

    /// Effects of these links together.
    pub fn effects(&self, links: &[(u16, u16)]) -> Effects {
        let each = links.iter().filter_map(|ends| self.links.get(ends)).map(Link::effects);
        each.fold(Effects::default(), |sum, effects| sum.plus(&effects))
    }

    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.dir.join(format!("data/node{id}"))
    }

    /// All that the node has said in all its incarnations.
    pub fn log(&self, id: u16) -> io::Result<String> {
        fs::read(self.path(id, "log")).map(|said| String::from_utf8_lossy(&said).into_owned())
    }

    pub fn setting(&self) -> Setting {
        self.setting
    }

    fn path(&self, id: u16, extension: &str) -> PathBuf {
        self.dir.join(format!("node{id}.{extension}"))
    }

    /// Ids come from [`Nodes::ids`].
    fn node(&self, id: u16) -> &Node {
        &self.nodes[usize::from(id) - 1]
    }

    fn node_mut(&mut self, id: u16) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }
}

/// Somewhere in 127.0.0.0/8, away from 127.0.0.1, where that is all routed to this machine.
fn loopback_ip() -> IpAddr {
    let bits = fastrand::u32(..).to_le_bytes();
    let own = Ipv4Addr::new(127, 1 + bits[0] % 254, bits[1], 1 + bits[2] % 254);
    if TcpListener::bind((own, 0)).is_ok() { own.into() } else { Ipv4Addr::LOCALHOST.into() }
}
