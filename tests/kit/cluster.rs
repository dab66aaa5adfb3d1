//! A cluster of real `kvnode` processes on loopback, with the files and the links between them.
//!
//! Owns the processes (none outlives the cluster), their configuration files, logs and addresses.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, PipeWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::client::{Client, Limit};
use super::process::Process;
use super::proxy::{Link, Mode};

/// Configuration fields that make nodes fast to notice what happens to them.
pub fn fast_settings() -> Map<String, Value> {
    let fast = json!({ "heartbeat_ms": 100, "peer_timeout_ms": 1_000, "ack_timeout_ms": 2_000, "recovery_wait_ms": 2_000,
        "write_timeout_ms": 1_000, "reconnect_pause_max_ms": 200, "shutdown_timeout_ms": 1_000 });
    let Value::Object(settings) = fast else { unreachable!("an object is written above") };
    settings
}

pub struct Cluster {
    /// An address of this cluster's own. Its ports never meet those of others, nor any outgoing
    /// connections, which have their ports at 127.0.0.1.
    ip: IpAddr,
    dir: PathBuf,
    program: PathBuf,
    settings: Map<String, Value>,
    with_links: bool,
    nodes: BTreeMap<u16, Node>,
    /// By the node that dials and the peer that it dials.
    links: BTreeMap<(u16, u16), Link>,
    /// Dropped once the nodes have ended.
    _guard: Box<dyn Any>,
}

pub struct Node {
    pub client_addr: SocketAddr,
    pub peer_addr: SocketAddr,
    /// Members that its configuration lists, itself included.
    pub members: Vec<u16>,
    /// Configuration fields of this node alone.
    pub settings: Map<String, Value>,
    pub launch: Launch,
    process: Option<Process>,
}

/// How the process of a node is started from its next start on.
pub struct Launch {
    pub program: PathBuf,
    /// Shell command that runs in the process before it becomes the program.
    pub prelude: String,
    /// Arguments beside the configuration.
    pub args: Vec<&'static str>,
    pub env: Vec<(&'static str, String)>,
    /// Where its log goes instead of the file.
    pub stderr: Option<PipeWriter>,
}

impl Cluster {
    /// A cluster without nodes, whose files go to `dir`. With links, every node dials its peers
    /// through a [`Link`].
    pub fn new(program: PathBuf, dir: &Path, settings: Map<String, Value>, with_links: bool, guard: impl Any) -> Cluster {
        let (nodes, links) = (BTreeMap::new(), BTreeMap::new());
        Cluster { ip: loopback_ip(), dir: dir.to_owned(), program, settings, with_links, nodes, links, _guard: Box::new(guard) }
    }

    /// Adds a node, configured and not started. The others do not list it for that.
    pub fn add(&mut self, id: u16, members: &[u16]) -> io::Result<()> {
        // Both are held until both are chosen, so that they differ.
        let (clients, peers) = (self.listener()?, self.listener()?);
        let launch = Launch { program: self.program.clone(), prelude: ":".to_owned(), args: Vec::new(), env: Vec::new(), stderr: None };
        let node = Node {
            client_addr: clients.local_addr()?,
            peer_addr: peers.local_addr()?,
            members: members.to_vec(),
            settings: Map::new(),
            launch,
            process: None,
        };
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Writes the configuration file of a node, as every start does.
    pub fn write_config(&mut self, id: u16) -> io::Result<()> {
        fs::write(self.config_path(id), serde_json::to_string_pretty(&self.config(id)?)?)
    }

    /// Starts the process of a node. `note` precedes its output in the log.
    pub fn launch(&mut self, id: u16, note: &str) -> io::Result<()> {
        self.write_config(id)?;
        let mut log = OpenOptions::new().create(true).append(true).open(self.path(id, "log"))?;
        writeln!(log, "--- {note}")?;
        let launch = &self.node(id).launch;
        let stderr = match &launch.stderr {
            Some(stderr) => Stdio::from(stderr.try_clone()?),
            None => Stdio::from(log.try_clone()?),
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{} && exec \"$0\" \"$@\"", launch.prelude)])
            .arg(&launch.program)
            .arg("--config")
            .arg(self.config_path(id))
            .args(&launch.args)
            .current_dir(&self.dir)
            .env("RUST_LOG", "info")
            .env_remove("KVMESH_FAILPOINT")
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(stderr);
        self.node_mut(id).process = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// The process of a node, unless it has not been started, or its end has been seen.
    pub fn process(&mut self, id: u16) -> Option<&mut Process> {
        self.node_mut(id).process.as_mut()
    }

    pub fn process_id(&self, id: u16) -> Option<i32> {
        self.node(id).process.as_ref().map(Process::id)
    }

    /// SIGKILL, as a power cut ends it. `None` if no process runs.
    pub fn end(&mut self, id: u16) -> Option<ExitStatus> {
        self.node_mut(id).process.take()?.kill().ok()
    }

    /// Waits for the end of a process. `None` if it still runs after `timeout`.
    pub fn wait(&mut self, id: u16, timeout: Duration) -> Option<ExitStatus> {
        let node = self.node_mut(id);
        let status = node.process.as_mut()?.wait(timeout)?;
        node.process = None;
        Some(status)
    }

    /// The disk of a node that is down is lost. Returns how many files that were.
    pub fn lose_disk(&mut self, id: u16) -> io::Result<usize> {
        assert!(self.process(id).is_none(), "n{id} runs");
        let data = self.data_path(id);
        if !data.exists() {
            return Ok(0);
        }
        let files = fs::read_dir(&data)?.count();
        fs::remove_dir_all(data)?;
        Ok(files)
    }

    fn config(&mut self, id: u16) -> io::Result<Value> {
        let members = self.node(id).members.clone();
        let peers = members.into_iter().filter(|peer| *peer != id);
        let peers =
            peers.map(|peer| Ok(json!({ "id": peer, "addr": self.dialled(id, peer)?.to_string() }))).collect::<io::Result<Vec<_>>>()?;
        let node = self.node(id);
        let mut config = json!({ "id": id, "client_addr": node.client_addr.to_string(), "peer_addr": node.peer_addr.to_string(),
            "data_dir": data_dir(id), "peers": peers });
        for (field, value) in self.settings.iter().chain(&node.settings) {
            config[field] = value.clone();
        }
        Ok(config)
    }

    /// The address at which this node is to find its peer.
    fn dialled(&mut self, id: u16, peer: u16) -> io::Result<SocketAddr> {
        let target = self.node(peer).peer_addr;
        if !self.with_links {
            return Ok(target);
        }
        if !self.links.contains_key(&(id, peer)) {
            self.links.insert((id, peer), Link::to(target, self.listener()?)?);
        }
        Ok(self.link(id, peer).addr())
    }

    /// A listener at a port of the system's choice that is not the port of a node: a node that is
    /// down does not hold its own.
    fn listener(&self) -> io::Result<TcpListener> {
        loop {
            let listener = TcpListener::bind((self.ip, 0))?;
            let addr = listener.local_addr()?;
            if self.nodes.values().all(|node| node.client_addr != addr && node.peer_addr != addr) {
                return Ok(listener);
            }
        }
    }
}

/// Questions and links.
impl Cluster {
    pub fn ids(&self) -> Vec<u16> {
        self.nodes.keys().copied().collect()
    }

    #[track_caller]
    pub fn node(&self, id: u16) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    #[track_caller]
    pub fn node_mut(&mut self, id: u16) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    pub fn client_addr(&self, id: u16) -> SocketAddr {
        self.node(id).client_addr
    }

    #[track_caller]
    pub fn link(&self, from: u16, to: u16) -> &Link {
        self.links.get(&(from, to)).unwrap_or_else(|| panic!("no link from n{from} to n{to}: is the cluster without links?"))
    }

    #[track_caller]
    pub fn set_links(&self, links: &[(u16, u16)], mode: Mode) {
        links.iter().for_each(|(from, to)| self.link(*from, *to).set(mode));
    }

    /// Where a node keeps its files, unless it is configured otherwise.
    pub fn data_path(&self, id: u16) -> PathBuf {
        self.dir.join(data_dir(id))
    }

    pub fn config_path(&self, id: u16) -> PathBuf {
        self.path(id, "json")
    }

    /// Everything that a node has logged; nothing before its first start.
    pub fn log(&self, id: u16) -> String {
        fs::read(self.path(id, "log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Directory of the configuration files, the data and the logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, id: u16, extension: &str) -> PathBuf {
        self.dir().join(format!("node{id}.{extension}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.nodes.iter().for_each(|(id, node)| self.print_evidence(*id, node));
        }
    }
}

impl Cluster {
    fn print_evidence(&self, id: u16, node: &Node) {
        const TAIL: usize = 60;
        let state = match &node.process {
            None => "is down",
            Some(process) if process.is_paused() => "is paused",
            Some(_) => "runs",
        };
        eprintln!("======== n{id} {state}, clients {}, peers {}, lists {:?}", node.client_addr, node.peer_addr, node.members);
        for command in ["STATUS", "PEERS"].into_iter().filter(|_| state == "runs") {
            let asked = Client::open(node.client_addr, Duration::from_secs(1)).and_then(|mut client| {
                client.set_limit(Limit::Until(Instant::now() + Duration::from_secs(1)));
                client.ask(command)
            });
            match asked {
                Ok(lines) => lines.iter().for_each(|line| eprintln!("  {command}: {line}")),
                Err(error) => eprintln!("  {command}: {error}"),
            }
        }
        let log = self.log(id);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].iter().for_each(|line| eprintln!("  [{id}] {line}"));
    }
}

/// Where a node keeps its files, as its configuration has it.
fn data_dir(id: u16) -> String {
    format!("data/node{id}")
}

/// An address in 127.0.0.0/8 away from 127.0.0.1, where all of that is routed to this machine.
fn loopback_ip() -> IpAddr {
    let bits = fastrand::u32(..).to_le_bytes();
    let own = Ipv4Addr::new(127, 1 + bits[0] % 254, bits[1], 1 + bits[2] % 254);
    if TcpListener::bind((own, 0)).is_ok() { own.into() } else { Ipv4Addr::LOCALHOST.into() }
}
