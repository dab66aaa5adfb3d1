//! The two servers that are compared: a real redis-server, and a node.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;

use super::wire::Answer;
use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::kit::process::Process;
use crate::program::skip;

/// The default of `value_len_max`, and the same limit in Redis: errors begin at the same lengths.
pub const VALUE_LEN_MAX: usize = 16 << 20;

/// A server that was named is shared by all tests. Each of them has it alone, because they delete
/// all keys.
static NAMED_SERVER: Mutex<()> = Mutex::new(());

pub struct Servers {
    pub redis: Redis,
    pub tested: SocketAddr,
    _node: Option<Cluster>,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Servers {
    /// Starts both. `None` without a redis-server, and the test says SKIPPED.
    /// `KVMESH_REDIS_ADDR=host:port` is tested in place of a node: another redis-server, to test
    /// these tests.
    pub fn start() -> Option<Servers> {
        let redis = Redis::start()?;
        if let Ok(named) = std::env::var("KVMESH_REDIS_ADDR") {
            let turn = NAMED_SERVER.lock();
            let tested = named.to_socket_addrs().ok().and_then(|mut addrs| addrs.next());
            let tested = tested.unwrap_or_else(|| panic!("KVMESH_REDIS_ADDR: expected host:port, found {named:?}"));
            return Some(Servers { redis, tested, _node: None, _turn: Some(turn) });
        }
        // The disk is not tested here, and would only take time.
        let node = Cluster::plan(1).patient().set("fsync", "never").start();
        Some(Servers { redis, tested: node.client_addr(1), _node: Some(node), _turn: None })
    }

    /// Returns whether the tested server is a node, and not a redis-server that stands in for it.
    pub fn tests_a_node(&self) -> bool {
        self._node.is_some()
    }

    /// Connects to both servers.
    #[track_caller]
    pub fn connect(&self, version: u8) -> Both {
        let mut both = Both { redis: open(self.redis.addr), tested: open(self.tested) };
        both.speak(version);
        both
    }

    /// Both by name, for tests that ask the same of each.
    pub fn each(&self) -> [(&'static str, SocketAddr); 2] {
        [("redis-server", self.redis.addr), ("kvmesh", self.tested)]
    }
}

#[track_caller]
pub fn open(addr: SocketAddr) -> Client {
    Client::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"))
}

pub struct Both {
    pub redis: Client,
    pub tested: Client,
}

impl Both {
    #[track_caller]
    pub fn speak(&mut self, version: u8) {
        if version != 2 {
            for connection in [&mut self.redis, &mut self.tested] {
                let answer = ask(connection, &["HELLO".to_owned(), version.to_string()]);
                assert!(!answer.is_error(), "HELLO {version}: {answer:?}");
            }
        }
    }

    /// Sends the same to both, one after the other.
    #[track_caller]
    pub fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> (Answer, Answer) {
        (ask(&mut self.redis, words), ask(&mut self.tested, words))
    }
}

#[track_caller]
pub fn ask(connection: &mut Client, words: &[impl AsRef<[u8]>]) -> Answer {
    connection.ask_words(words).unwrap_or_else(|error| panic!("{}: {error}", shown(words)))
}

/// The words as a person would type them.
pub fn shown(words: &[impl AsRef<[u8]>]) -> String {
    const WORD: usize = 200;
    let word = |word: &[u8]| {
        let text = word[..word.len().min(WORD)].escape_ascii();
        if word.len() > WORD { format!("\"{text}…\" ({} bytes)", word.len()) } else { format!("\"{text}\"") }
    };
    words.iter().map(|bytes| word(bytes.as_ref())).collect::<Vec<_>>().join(" ")
}

/// A real redis-server, of the machine's package. Dropping it ends it.
pub struct Redis {
    pub addr: SocketAddr,
    process: Process,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Option<Redis> {
        // Between the choice of a port and the start, another process may have taken it.
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            if let Some(redis) = Redis::spawn()?.answering() {
                return Some(redis);
            }
        }
        panic!("redis-server has not started {TRIES} times");
    }

    /// `None` if there is no such program.
    fn spawn() -> Option<Redis> {
        let dir = tempfile::Builder::new().prefix("kvmesh-redis-").tempdir().expect("a directory");
        let addr = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port");
        let log = File::create(dir.path().join("log")).expect("a log file");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &addr.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--databases", "1", "--daemonize", "no"])
            .args(["--proto-max-bulk-len", &VALUE_LEN_MAX.to_string()])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        match Process::start(&mut command) {
            Ok(process) => Some(Redis { addr, process, dir }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skip("there is no redis-server here to compare with (apt-get install redis-server)");
                None
            }
            Err(error) => panic!("redis-server: {error}"),
        }
    }

    /// Waits until it, and no other server, answers at its address; `None` if it has ended.
    fn answering(mut self) -> Option<Redis> {
        let own = format!("process_id:{}\r\n", self.process.id());
        until("an answer of redis-server", DEADLINE, || {
            if let Some(status) = self.process.try_wait() {
                eprintln!("redis-server: {status}: {}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
                return Ok(false);
            }
            let asked = Client::open(self.addr, Duration::from_secs(1)).and_then(|mut client| client.ask_words(&["INFO", "server"]));
            match asked {
                Ok(info) if info.text().is_some_and(|text| text.contains(&own)) => Ok(true),
                Ok(info) => Err(format!("{info:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .then_some(self)
    }
}
