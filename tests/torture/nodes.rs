//! The nodes of a run: a cluster that records every start and every pause of a node, and hands the
//! clients' threads what they have to know of a node.
//!
//! Incarnations of a node are numbered from 1 here. Clients read the number before and after they
//! connect, so they know which incarnation has answered.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, pipe};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::checks::Start;
use crate::kit::cluster::{Cluster, fast_settings};
use crate::kit::proxy::{Effects, Link, Mode};
use crate::now;
use crate::schedule::Setting;

/// Time that a write waits for acks, and that a peer may lag before it does not count.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// From SIGTERM to the end of a node, which takes `shutdown_timeout_ms` and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Log lengths at which a log is compacted: every few seconds, or never.
const COMPACT_OFTEN: u64 = 192 << 10;
const COMPACT_NEVER: u64 = 1 << 40;

/// A node as the clients' threads see it: its address, and when it could not answer.
pub struct NodeHandle {
    pub id: u16,
    pub addr: SocketAddr,
    pub incarnation: AtomicU32,
    /// Times in which it stood still or was down, as start and end.
    pub pauses: Mutex<Vec<(u64, u64)>>,
}

impl NodeHandle {
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
static RUNNING: Mutex<BTreeMap<u16, i32>> = Mutex::new(BTreeMap::new());

/// Ends every process at once, for a run that is given up.
pub fn end_all() {
    let running = std::mem::take(&mut *RUNNING.lock());
    for pid in running.into_values() {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

pub struct Nodes {
    cluster: Cluster,
    setting: Setting,
    handles: BTreeMap<u16, Arc<NodeHandle>>,
    /// Threads that carry what a node logs into its file. A file that a node had open itself would
    /// be limited with the others when its disk is to be full.
    loggers: BTreeMap<u16, JoinHandle<()>>,
    starts: Vec<Start>,
}

/// Starting and ending.
impl Nodes {
    /// Nodes that are configured and linked; none is started.
    pub fn new(program: PathBuf, dir: &Path, setting: Setting) -> io::Result<Nodes> {
        let mut settings = fast_settings();
        settings.insert("cluster".into(), "torture".into());
        settings.insert("fsync".into(), if setting.fsyncs_always { "always" } else { "everysec" }.into());
        settings.insert("compact_log_min".into(), if setting.compacts { COMPACT_OFTEN } else { COMPACT_NEVER }.into());
        settings.insert("ack_timeout_ms".into(), (ACK_TIMEOUT.as_millis() as u64).into());
        // A node that comes back must not open without what its peers hold because the machine is
        // busy.
        settings.insert("recovery_wait_ms".into(), 4_000.into());
        settings.insert("tombstone_age_min_ms".into(), 300.into());
        let mut cluster = Cluster::new(program, dir, settings, true, ());
        let members: Vec<u16> = (1..=setting.nodes).collect();
        let mut handles = BTreeMap::new();
        for id in &members {
            cluster.add(*id, &members)?;
            // The shell ignores the signal of a file that reaches its limit, and so does the node
            // that it becomes: the node is to see an error, as on a full disk.
            cluster.node_mut(*id).launch.prelude = "trap '' XFSZ".to_owned();
            let handle = NodeHandle { id: *id, addr: cluster.client_addr(*id), incarnation: AtomicU32::new(0), pauses: Mutex::default() };
            handles.insert(*id, Arc::new(handle));
        }
        Ok(Nodes { cluster, setting, handles, loggers: BTreeMap::new(), starts: Vec::new() })
    }

    /// Begins a new incarnation.
    pub fn start(&mut self, id: u16) -> io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.cluster.path(id, "log"))?;
        let (mut logged, stderr) = pipe()?;
        let logger = thread::Builder::new().name(format!("log-{id}")).spawn(move || {
            // It ends with the node, or with the disk of this machine.
            let _ = io::copy(&mut logged, &mut log);
        })?;
        self.loggers.insert(id, logger);
        let handle = Arc::clone(&self.handles[&id]);
        self.starts.push(Start { node: id, at: now() });
        // Counted before it can answer any client.
        let incarnation = handle.incarnation.fetch_add(1, Ordering::SeqCst) + 1;
        self.cluster.node_mut(id).launch.stderr = Some(stderr);
        let launched = self.cluster.launch(id, &format!("incarnation {incarnation}"));
        self.cluster.node_mut(id).launch.stderr = None;
        launched?;
        RUNNING.lock().extend(self.cluster.process_id(id).map(|pid| (id, pid)));
        handle.end_pause();
        Ok(())
    }

    /// SIGKILL to all of them; none is waited for before the next one dies. Returns how many have
    /// died of it.
    pub fn kill(&mut self, ids: &[u16]) -> u64 {
        for id in ids {
            self.handles[id].begin_pause();
            self.signal(*id, Signal::SIGKILL);
        }
        let is_killed = |status: ExitStatus| status.signal() == Some(Signal::SIGKILL as i32);
        ids.iter().map(|id| u64::from(self.reap(*id).is_some_and(is_killed))).sum()
    }

    /// SIGTERM. An error tells how the node ended instead of with exit code 0.
    pub fn stop(&mut self, id: u16) -> Result<(), String> {
        self.handles[&id].begin_pause();
        self.signal(id, Signal::SIGTERM);
        let status = self.cluster.wait(id, STOP_TIMEOUT);
        self.reap(id);
        match status {
            None => Err(format!("n{id} has not ended {STOP_TIMEOUT:?} after SIGTERM")),
            Some(status) if status.code() == Some(0) => Ok(()),
            Some(status) => Err(format!("n{id} has ended after SIGTERM with {status}")),
        }
    }

    /// Starts of all incarnations so far.
    pub fn starts(&self) -> &[Start] {
        &self.starts
    }

    pub fn pause(&mut self, id: u16) -> io::Result<()> {
        self.handles[&id].begin_pause();
        self.cluster.process(id).map_or(Ok(()), |process| process.pause())
    }

    pub fn resume(&mut self, id: u16) -> io::Result<()> {
        let resumed = self.cluster.process(id).map_or(Ok(()), |process| process.resume());
        self.handles[&id].end_pause();
        resumed
    }

    /// Removes the data of a node that is down. Returns how many files it had.
    pub fn lose_disk(&mut self, id: u16) -> io::Result<u64> {
        Ok(self.cluster.lose_disk(id)? as u64)
    }

    /// Reports nodes that have ended without being killed or stopped by the run.
    pub fn ended_by_themselves(&mut self) -> Vec<String> {
        let status = |id: u16| Some(format!("n{id} has ended by itself: {}", self.cluster.process(id)?.try_wait()?));
        self.handles.keys().copied().filter_map(status).collect()
    }

    /// Ends every process for good.
    pub fn end(&mut self) {
        for id in self.ids() {
            self.reap(id);
        }
    }

    fn signal(&mut self, id: u16, signal: Signal) {
        if let Some(process) = self.cluster.process(id) {
            // A process that has ended by itself is found and reported elsewhere.
            let _ = process.signal(signal);
        }
    }

    /// Ends a process, which may have ended, and waits until all that it logged is in its file.
    fn reap(&mut self, id: u16) -> Option<ExitStatus> {
        // Before the process is waited for: afterwards its id may be another process's.
        RUNNING.lock().remove(&id);
        let status = self.cluster.end(id);
        if let Some(logger) = self.loggers.remove(&id) {
            let _ = logger.join();
        }
        status
    }
}

/// Questions and links.
impl Nodes {
    pub fn ids(&self) -> Vec<u16> {
        self.cluster.ids()
    }

    pub fn handles(&self) -> Vec<Arc<NodeHandle>> {
        self.handles.values().cloned().collect()
    }

    pub fn handle(&self, id: u16) -> &NodeHandle {
        &self.handles[&id]
    }

    pub fn process_id(&self, id: u16) -> Option<i32> {
        self.cluster.process_id(id)
    }

    pub fn set_links(&self, links: &[(u16, u16)], mode: Mode) {
        self.cluster.set_links(links, mode);
    }

    /// Open connections of these links lead nowhere from now on.
    pub fn forget_links(&self, links: &[(u16, u16)]) {
        self.links(links).for_each(Link::forget);
    }

    /// Effects of these links together.
    pub fn effects(&self, links: &[(u16, u16)]) -> Effects {
        self.links(links).map(Link::effects).fold(Effects::default(), |sum, effects| sum.plus(&effects))
    }

    fn links(&self, links: &[(u16, u16)]) -> impl Iterator<Item = &Link> {
        links.iter().map(|(from, to)| self.cluster.link(*from, *to))
    }

    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.cluster.data_path(id)
    }

    /// Everything that a node has logged in all its incarnations.
    pub fn log(&self, id: u16) -> String {
        self.cluster.log(id)
    }

    pub fn setting(&self) -> Setting {
        self.setting
    }
}
