//! A node: the order in which its parts start, and the order in which they stop.
//!
//! Owns the threads that are not per connection. The only file that knows all parts. Start and stop
//! are one function each; a failure in mid-start runs the same stop.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::live::{LiveConfig, PutInForce, ReadConfig};
use crate::config::{Config, PeerAuth, PeerTls};
use crate::data::clock::{Now, elapsed};
use crate::net::tls::{LoadedTls, NodeTls};
use crate::net::{Acceptor, listen};
use crate::process::audit::{self, Audit, AuditEvent, AuditKind};
use crate::process::descriptors::in_words;
use crate::process::logging::{self, LogLimit, abort_on_panic};
use crate::process::signals::{self, Signal};
use crate::process::threads::{join_all, schedule_as_batch};
use crate::replication::heartbeat::run_heartbeat;
use crate::replication::links::handshake;
use crate::replication::links::incoming::PeerLinks;
use crate::replication::links::outgoing::run_peer_out;
use crate::replication::persistence::replay::{self, with_ways_out};
use crate::replication::persistence::snapshots::run_snapshots;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::server::{self, Server};
use crate::store::Store;
use crate::wal::Wal;
use crate::wal::disk::{Directory, Disk};
use crate::wal::files::{self, Files};
use crate::wal::writer::Writer;

/// Why a node did not start, or failed, by what helps.
#[derive(Debug)]
pub enum NodeFailure {
    /// The system: a port is taken, the disk is full, or no thread can be started. A retry may
    /// succeed.
    System(io::Error),
    /// The configuration names another node's data.
    Configuration(io::Error),
    /// The data are damaged, incomplete, or of another version. A person has to decide.
    Data(io::Error),
}

impl NodeFailure {
    /// Sorts an error of reading the disk by its kind.
    fn of_data(error: io::Error) -> NodeFailure {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::Unsupported => NodeFailure::Data(error),
            io::ErrorKind::InvalidInput => NodeFailure::Configuration(error),
            _ => NodeFailure::of_system(error),
        }
    }

    /// Adds what helps to an error of the system.
    fn of_system(error: io::Error) -> NodeFailure {
        let kind = error.kind();
        let way_out = match kind {
            io::ErrorKind::PermissionDenied => {
                "the user that runs this node must be able to read and write it (chown -R); or choose another data_dir in the configuration"
            }
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
                "choose another data_dir in the configuration"
            }
            io::ErrorKind::IsADirectory => "a file of this node belongs there: move the directory away",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space",
            // The system returns this when no further thread can be started.
            io::ErrorKind::WouldBlock => {
                "no further thread can be started: raise the number of processes and threads that are allowed (ulimit -u; systemd: TasksMax)"
            }
            _ => return NodeFailure::System(error),
        };
        NodeFailure::System(io::Error::new(kind, format!("{error}; {way_out}")))
    }
}

impl From<io::Error> for NodeFailure {
    fn from(error: io::Error) -> NodeFailure {
        NodeFailure::of_system(error)
    }
}

impl fmt::Display for NodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (NodeFailure::System(error) | NodeFailure::Configuration(error) | NodeFailure::Data(error)) = self;
        error.fmt(f)
    }
}

/// Log lines a minute about signals that ask for a reload, of each outcome.
const SIGHUP_LINES_PER_MINUTE: u32 = 10;

/// The least time that the write-ahead log gets at the stop to make everything durable, and the
/// audit log to be written.
const LOG_GRACE: Duration = Duration::from_secs(1);

/// Runs a node until SIGINT or SIGTERM, and then stops it. A second signal ends the process at
/// once. SIGHUP reloads the configuration, which `read` reads.
///
/// `discard`: local data are put aside first, and the node comes back blank.
pub fn run(config: Config, read: ReadConfig, discard: bool, stop_with_stdin: bool) -> Result<(), NodeFailure> {
    abort_on_panic();
    signals::block(signals::NODE)?;
    if let Err(error) = schedule_as_batch() {
        log::warn!("SCHED_BATCH is not set, which costs throughput: {error}");
    }
    let live = LiveConfig::new(config, read);
    logging::set_level(live.current().log_level);
    live.add_part(Box::new(|config| {
        let level = config.log_level;
        Ok(Box::new(move || logging::set_level(level)))
    }));
    let (audit, audit_thread) = start_audit(&live)?;
    let ended = run_until_stopped(&live, &audit, discard, stop_with_stdin);
    let why = ended.as_ref().err().map(NodeFailure::to_string);
    audit.note(AuditEvent { detail: why.as_deref(), ..AuditEvent::of(AuditKind::Stop) });
    audit.end(Some(audit_thread), Instant::now() + LOG_GRACE);
    ended
}

fn run_until_stopped(live: &Arc<LiveConfig>, audit: &Arc<Audit>, discard: bool, stop_with_stdin: bool) -> Result<(), NodeFailure> {
    let (stop_tx, stop_rx) = bounded(1);
    let signal_tx = stop_tx.clone();
    let mut was_asked = false;
    let (reloaded, audited, sighup_limit) = (Arc::clone(live), Arc::clone(audit), LogLimit::new(SIGHUP_LINES_PER_MINUTE));
    signals::watch(signals::NODE, move |signal| match signal {
        Signal::SIGHUP => reload(&reloaded, &audited, &sighup_limit),
        // The second signal ends the process without a word: the first stop may be stuck.
        _ => {
            if std::mem::replace(&mut was_asked, true) {
                #[expect(clippy::exit, reason = "the first signal's orderly stop may be stuck")]
                std::process::exit(130);
            }
            let _ = signal_tx.try_send(());
        }
    })?;
    if stop_with_stdin {
        watch_stdin(stop_tx)?;
    }
    let Some(node) = Node::start(Arc::clone(live), Arc::clone(audit), discard, || !stop_rx.is_empty())? else {
        log::info!("stopped while reading the disk");
        return Ok(());
    };
    // Never disconnected: the thread `signals` holds the sending end.
    let _ = stop_rx.recv();
    log::info!("stopping");
    node.stop(Instant::now() + live.current().shutdown_timeout);
    log::info!("stopped");
    Ok(())
}

/// Reloads the configuration, since a signal asks for it.
fn reload(live: &LiveConfig, audit: &Audit, limit: &LogLimit) {
    match live.reload() {
        Ok(reloaded) => {
            audit.note(AuditEvent { detail: Some(&format!("SIGHUP: {reloaded}")), ..AuditEvent::of(AuditKind::Reload) });
            if let Some(more) = limit.admit("SIGHUP", 0, elapsed()) {
                log::info!("configuration reloaded by SIGHUP: {reloaded}{more}");
            }
        }
        Err(why) => {
            audit.note(AuditEvent { detail: Some(&format!("SIGHUP: {why}")), ..AuditEvent::of(AuditKind::ReloadRefused) });
            if let Some(more) = limit.admit("SIGHUP refused", 0, elapsed()) {
                log::warn!("configuration not reloaded: {why}; this node goes on as it was{more}");
            }
        }
    }
}

/// Starts the thread `stdin`, which asks for an orderly stop once standard input ends. It ends with
/// the process.
///
/// A supervisor holds the other end of a pipe. The pipe ends with the supervisor, even if that is
/// killed with SIGKILL. Unlike a second signal, the end of the pipe never cuts a stop short.
fn watch_stdin(stop_tx: Sender<()>) -> io::Result<()> {
    let wait = move || {
        // A read error ends standard input, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        log::info!("standard input has ended, and this node stops with it");
        let _ = stop_tx.try_send(());
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(wait).map(drop)
}

/// A running node. [`Node::stop`] ends it.
pub struct Node {
    replica: Arc<Replica>,
    client_addr: SocketAddr,
    peer_addr: SocketAddr,
    server: Option<Server>,
    links: Arc<PeerLinks>,
    /// Dropped at the stop: the threads that wait on the receiving ends wake up.
    stop_tx: Option<Sender<()>>,
    peer_accept: Option<Acceptor>,
    heartbeat: Option<JoinHandle<()>>,
    replicator: Option<JoinHandle<()>>,
    peer_outs: Vec<JoinHandle<()>>,
    snapshot: Option<JoinHandle<()>>,
    wal: Arc<Wal>,
    log: Option<JoinHandle<()>>,
}

/// The ports, files and channels that are open before the first thread starts.
struct Opened {
    tls: Arc<NodeTls>,
    client_listener: TcpListener,
    peer_listener: TcpListener,
    disk: Arc<dyn Disk>,
    files: Files,
    replicator: Arc<Replicator>,
    stop_rx: Receiver<()>,
}

impl Node {
    /// Starts the parts in order.
    ///
    /// Both ports are bound first, so that a port in use costs nothing. The disk is read before the
    /// node speaks to peers: its version vector is the first thing that it sends them. Clients are
    /// answered all along, with LOADING. `None` if `should_stop` became true while the disk was
    /// read.
    pub fn start(
        live: Arc<LiveConfig>,
        audit: Arc<Audit>,
        discard: bool,
        should_stop: impl Fn() -> bool,
    ) -> Result<Option<Node>, NodeFailure> {
        let config = Config::clone(&live.current());
        let wrong_file = |why: String| NodeFailure::Configuration(io::Error::new(io::ErrorKind::InvalidInput, why));
        let tls = NodeTls::new(load_tls(&config).map_err(wrong_file)?);
        live.add_part(Box::new({
            let tls = Arc::clone(&tls);
            move |config: &Config| -> Result<PutInForce, String> {
                let (tls, loaded) = (Arc::clone(&tls), load_tls(config)?);
                Ok(Box::new(move || tls.replace(loaded)))
            }
        }));
        server::check_config(&config).map_err(wrong_file)?;
        let client_listener = bind("client_addr", &config.client_addr).map_err(NodeFailure::System)?;
        let peer_listener = bind("peer_addr", &config.peer_addr).map_err(NodeFailure::System)?;
        let (client_addr, peer_addr) = (client_listener.local_addr()?, peer_listener.local_addr()?);
        // Never 0, which is the nonce of no incarnation.
        let nonce = getrandom::u64().map_err(io::Error::other)?.max(1);
        let directory = Directory::open(&config.data_dir)?;
        let was_used = directory.was_used();
        let config = Arc::new(Config { data_dir: directory.absolute_path().to_owned(), ..config });
        let disk: Arc<dyn Disk> = Arc::new(directory);
        if discard {
            let discarded = files::discard(&*disk)?;
            log::warn!(
                "local data discarded: {discarded} files in {} are *.discarded now, and this node comes back blank",
                config.data_dir.display()
            );
        }
        let files = Files::find(&*disk).map_err(with_ways_out).map_err(NodeFailure::of_data)?;
        let wal = Arc::new(Wal::new(Arc::clone(&disk), config.fsync, config.write_room, &files));
        let (replica, write_rx) = Replica::new(Arc::clone(&config), Store::new(), nonce, Now::read(), Some(Arc::clone(&wal)));
        let replica = Arc::new(replica.reloading(live).audited(audit));
        let replicator = Arc::new(Replicator::new(replica.origin(), write_rx));
        log::info!(
            "node {} of cluster \"{}\" starts as {}: clients on {client_addr}, peers on {peer_addr}, data in {}",
            config.id,
            config.cluster,
            replica.origin(),
            config.data_dir.display()
        );
        let version = format!("version {} as {}", env!("CARGO_PKG_VERSION"), replica.origin());
        replica.audit().note(AuditEvent { detail: Some(&version), ..AuditEvent::of(AuditKind::Start) });
        if let Some(warning) = tls.warning(Duration::from_millis(Now::read().wall_ms)) {
            log::warn!("this node's TLS certificate: {warning}");
        }
        if config.tls.as_ref().is_some_and(|tls| tls.peers == PeerTls::Accept) {
            log::warn!(
                "peers may connect without TLS: tls.peers is \"accept\", which is for the time in which a cluster changes; \
                 set it to \"required\" once all members have it"
            );
        }
        if config.peer_auth == PeerAuth::Accept {
            log::warn!(
                "peers that prove nothing are believed: peer_auth is \"accept\", which is for the time in which a cluster gets its secret; \
                 set it to \"required\" once all members have it"
            );
        }
        if files.is_blank() && !discard {
            handshake::suspect_blank_disk(&replica);
            if was_used {
                log::warn!(
                    "this node starts blank, although one has been started in data_dir {} before: its file \"lock\" is there, and no data. It takes what its peers hold",
                    config.data_dir.display()
                );
            }
        }
        let (stop_tx, stop_rx) = bounded(0);
        let mut node = Node {
            links: PeerLinks::new(Arc::clone(&replica), Arc::clone(&tls)),
            replica,
            client_addr,
            peer_addr,
            server: None,
            stop_tx: Some(stop_tx),
            peer_accept: None,
            heartbeat: None,
            replicator: None,
            peer_outs: Vec::new(),
            snapshot: None,
            wal,
            log: None,
        };
        let opened = Opened { tls, client_listener, peer_listener, disk, files, replicator, stop_rx };
        match node.start_threads(opened, should_stop) {
            Ok(()) => Ok(Some(node)),
            Err(failure) => {
                node.stop(Instant::now() + config.shutdown_timeout);
                match failure {
                    NodeFailure::System(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
                    failure => Err(failure),
                }
            }
        }
    }

    /// Starts every part that has a thread, in order. After an error those that run must be
    /// stopped.
    fn start_threads(&mut self, opened: Opened, should_stop: impl Fn() -> bool) -> Result<(), NodeFailure> {
        let Opened { tls, client_listener, peer_listener, disk, files, replicator, stop_rx } = opened;
        let (replica, wal) = (&self.replica, &self.wal);
        let config = Arc::clone(replica.config());
        self.server = Some(Server::start(client_listener, Arc::clone(replica), Arc::clone(&replicator), Arc::clone(&tls))?);
        let began = Instant::now();
        let replayed = replay::replay(replica, &disk, &files, &should_stop).map_err(NodeFailure::of_data)?;
        log::info!(
            "read {} entries from {} in {:.3} s: a snapshot of {} bytes and {} of logs",
            replayed.entries,
            config.data_dir.display(),
            began.elapsed().as_secs_f64(),
            replayed.snapshot_len,
            replayed.older_len + replayed.last.len
        );
        let writer = Writer::open(Arc::clone(wal), &files, replayed.older_len, &replayed.last, replayed.snapshot_len, Instant::now())?;
        self.log = Some(spawn("log", replica, move |replica| {
            writer.run(|origin, upto| replica.persistence().durable(origin, upto));
        })?);
        replica.record_incarnation();
        replica.begin_recovery(Now::read());
        self.replicator = Some(spawn("replicator", replica, move |replica| replicator.run(replica))?);
        self.peer_accept = Some(self.links.accept_peers(peer_listener)?);
        for (index, peer) in config.peers.iter().enumerate() {
            let name = format!("peer-out:{}", peer.id);
            let tls = Arc::clone(&tls);
            self.peer_outs.push(spawn(&name, replica, move |replica| run_peer_out(replica, index, &tls))?);
        }
        let (to_compact, snapshot_stop) = (Arc::clone(wal), stop_rx.clone());
        self.snapshot = Some(spawn("snapshot", replica, move |replica| run_snapshots(replica, &to_compact, &snapshot_stop))?);
        self.heartbeat = Some(spawn("heartbeat", replica, move |replica| run_heartbeat(replica, &stop_rx))?);
        Ok(())
    }

    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// Stops the parts in order: sessions finish their round, their writes are sent to the peers,
    /// then everything ends. What is not done by the deadline is left undone.
    pub fn stop(mut self, deadline: Instant) {
        // 1. No more clients, no more writes. Clients that do not read get half of the time.
        drop(self.stop_tx.take());
        if let Some(server) = self.server.take() {
            let now = Instant::now();
            let left = server.stop(now + deadline.saturating_duration_since(now) / 2);
            if left > 0 {
                log::warn!("clients cut off at the stop: {left} were still in a round");
            }
        }
        // 2. The replicator hands over what it has, the links send it.
        self.replica.submit().close();
        join_all(self.replicator.take(), deadline, "replicator");
        for peer in 0..self.replica.config().peers.len() {
            self.replica.links().outbox(peer).stop();
        }
        join_all(std::mem::take(&mut self.peer_outs), deadline, "peer-out");
        // 3. No more peers.
        join_all(self.heartbeat.take(), deadline, "heartbeat");
        if let Some(accept) = self.peer_accept.take() {
            accept.stop(deadline);
        }
        self.links.stop(deadline);
        // 4. Nothing is handed to the log any more: what waits is written and made durable.
        self.wal.close();
        join_all(self.log.take(), deadline.max(Instant::now() + LOG_GRACE), "log");
        join_all(self.snapshot.take(), deadline, "snapshot");
    }
}

/// Starts the thread `audit`. A file that cannot be written refuses the start: who asks for an
/// audit log is not to be without one unawares. At a reload it refuses that.
fn start_audit(live: &LiveConfig) -> Result<(Arc<Audit>, JoinHandle<()>), NodeFailure> {
    let config = live.current();
    let (audit, thread) = audit::start(config.id)?;
    match audit.prepare(&config.audit_file) {
        Ok(put_in_force) => put_in_force(),
        Err(why) => {
            audit.end(Some(thread), Instant::now() + LOG_GRACE);
            return Err(NodeFailure::Configuration(io::Error::other(why)));
        }
    }
    let reopened = Arc::clone(&audit);
    live.add_part(Box::new(move |config| reopened.prepare(&config.audit_file)));
    Ok((audit, thread))
}

/// Reads the files for TLS that a configuration names. An error names one of them.
fn load_tls(config: &Config) -> Result<Option<LoadedTls>, String> {
    config.tls.as_ref().map(|tls| LoadedTls::of(config, tls)).transpose().map_err(|why| format!("tls: {why}"))
}

/// Binds an address of the configuration. An error names its field and says what to do.
fn bind(field: &str, addr: &str) -> io::Result<TcpListener> {
    let explain = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there already; is this node running? Stop it, or choose another port".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
            io::ErrorKind::PermissionDenied => format!("{error}; ports below 1024 are for root: choose another port"),
            _ => in_words(&error),
        };
        io::Error::new(error.kind(), format!("cannot listen on {field} {addr}: {what}"))
    };
    let resolved = addr.to_socket_addrs().map_err(explain)?.next();
    let resolved = resolved.ok_or_else(|| explain(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address")))?;
    listen(resolved).map_err(explain)
}

fn spawn(name: &str, replica: &Arc<Replica>, work: impl FnOnce(&Arc<Replica>) + Send + 'static) -> io::Result<JoinHandle<()>> {
    let replica = Arc::clone(replica);
    thread::Builder::new().name(name.to_owned()).spawn(move || work(&replica))
}
