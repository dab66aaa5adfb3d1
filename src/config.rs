//! The configuration of a node: `config/nodeN.json` -> [`Config`].
//!
//! Owns every default and every limit on a limit, in one table (`fields`): a `Config` that was
//! built here is valid, and nothing checks it again. Reads one file, and the secrets that it names;
//! never resolves a host name (each dial does), never touches the data directory.

mod addr;
mod exposure;
mod fields;
pub mod live;
mod peer_auth;
mod refusal;
mod section;
#[cfg(test)]
mod tests;
mod tls;
mod users;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::data::version::NodeId;
use crate::process::private_file::open_to_others;
use addr::{Use, parse_addr};
use fields::{CLUSTER_EXPECTED, CLUSTER_LEN_MAX};
use peer_auth::SECRET_FILE_LEN_MAX;
use refusal::{quoted, shortened};
use section::{Json, Object, Section};

pub use fields::{Config, FIELDS, Field, KEY_LEN_MAX, VALUE_LEN_MAX};
pub use peer_auth::{PeerAuth, PeerSecrets};
pub use refusal::{ConfigError, ConfigRefusal};
pub use section::{FieldKind, PeerConfig};
pub use tls::{ClientCerts, ClientTls, PeerTls, TlsConfig};
pub use users::{SecretHash, UserConfig};

/// The most members of a mesh. Every member holds everything and is connected to every other one:
/// beyond this many, that costs more than it gives.
pub const MEMBERS_MAX: usize = 7;

/// Bytes of a write batch beside one key and one value of the greatest size, generously counted.
const WRITE_OVERHEAD: usize = 1024;
/// Bytes of a configuration file. A longer one is refused rather than read to its end.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The folder that the programs look into for configurations, relative to where they are started.
pub const CONFIG_DIR: &str = "config";

/// Lists the `*.json` of a folder, sorted by name. They are not read.
pub fn config_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut paths = paths.filter(|path| path.as_ref().map_or(true, is_json)).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

impl Config {
    /// Reads and checks one file, and the file of secrets that it names.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let source_name = path.display().to_string();
        let mut config = match read(path) {
            Ok(text) => Config::from_json(&text, &source_name)?,
            Err(error) => return Err(ConfigError::Unreadable { source_name, error }),
        };
        if let Some(secret_file) = &config.peer_secret_file {
            config.peer_secrets =
                read_secrets(secret_file).map_err(|refusal| ConfigError::Field { source_name, refusal: Box::new(refusal) })?;
        }
        Ok(config)
    }

    /// `source_name` is what errors call the text: the file's name.
    pub fn from_json(text: &str, source_name: &str) -> Result<Config, ConfigError> {
        let source_name = source_name.to_owned();
        match serde_json::from_str(text) {
            Ok(Json::Object(object)) => {
                Config::from_object(object).map_err(|refusal| ConfigError::Field { source_name, refusal: Box::new(refusal) })
            }
            Ok(other) => Err(ConfigError::NotAnObject { source_name, found: other.to_string() }),
            Err(error) => Err(ConfigError::NotJson { source_name, error }),
        }
    }

    /// Replaces the addresses by those of the command line, and checks them like the file's own.
    /// `None` keeps an address.
    pub fn with_addrs(mut self, client_addr: Option<String>, peer_addr: Option<String>) -> Result<Config, ConfigError> {
        let options = [("--client-addr", &client_addr), ("--peer-addr", &peer_addr)];
        let given = options.into_iter().filter_map(|(option, addr)| Some(format!("{option} {}", shortened(addr.as_ref()?))));
        let source_name = given.collect::<Vec<_>>().join(" ");
        self.client_addr = client_addr.unwrap_or(self.client_addr);
        self.peer_addr = peer_addr.unwrap_or(self.peer_addr);
        match self.check_addrs().and_then(|()| self.check_exposure()) {
            Ok(()) => Ok(self),
            Err(refusal) => Err(ConfigError::Field { source_name, refusal: Box::new(refusal) }),
        }
    }

    /// All ids of the mesh, this node's included, sorted.
    pub fn members(&self) -> Vec<NodeId> {
        let mut members: Vec<NodeId> = self.peers.iter().map(|peer| peer.id).chain([self.id]).collect();
        members.sort();
        members
    }

    /// The least number of members, this node included, that is more than half of them.
    pub fn majority(&self) -> usize {
        let members = self.peers.len() + 1;
        members / 2 + 1
    }

    /// Refuses an address beyond this machine at which anybody would be believed, unless that is
    /// wanted. A reload asks again, since it takes a part of the fields alone.
    pub fn check_exposure(&self) -> Result<(), ConfigRefusal> {
        exposure::check(self)
    }

    fn from_object(object: Object) -> Result<Config, ConfigRefusal> {
        let mut section = Section::new("", object, &FIELDS.iter().map(|field| field.name).collect::<Vec<_>>())?;
        let (is_placed, is_auth_chosen) = (section.has("data_dir"), section.has("peer_auth"));
        let mut config = Config::read(&mut section)?;
        if !is_auth_chosen && config.peer_secret_file.is_some() {
            config.peer_auth = PeerAuth::Required;
        }
        if !is_placed {
            config.data_dir = format!("data/node{}", config.id).into();
        }
        config.check()?;
        Ok(config)
    }

    /// Checks how the fields fit each other.
    fn check(&self) -> Result<(), ConfigRefusal> {
        let cluster_fits = self.cluster.len() <= CLUSTER_LEN_MAX && !self.cluster.contains(|c: char| c.is_control() || c.is_whitespace());
        if self.cluster.is_empty() || !cluster_fits {
            return Err(ConfigRefusal::new("cluster", quoted(&self.cluster), CLUSTER_EXPECTED));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigRefusal::new("data_dir", "\"\"", "the path of a directory"));
        }
        self.check_peers()?;
        self.check_addrs()?;
        if self.heartbeat > self.peer_timeout / 2 {
            let expected = format!("at most half of peer_timeout_ms, which is {}", self.peer_timeout.as_millis());
            return Err(ConfigRefusal::new("heartbeat_ms", self.heartbeat.as_millis(), expected));
        }
        let one_write = self.key_len_max + self.value_len_max + WRITE_OVERHEAD;
        for (field, bytes) in [("link_queue_max", self.link_queue_max), ("write_room", self.write_room)] {
            if bytes < one_write {
                let expected =
                    format!("at least {one_write}, which is key_len_max + value_len_max + {WRITE_OVERHEAD}: any legal write must fit");
                return Err(ConfigRefusal::new(field, bytes, expected));
            }
        }
        if self.peer_auth != PeerAuth::Off && self.peer_secret_file.is_none() {
            let found = quoted(&self.peer_auth.to_string());
            return Err(ConfigRefusal::new(
                "peer_auth",
                found,
                "a peer_secret_file beside it, or \"off\": nothing can be proven without a secret",
            ));
        }
        self.check_exposure()
    }

    fn check_peers(&self) -> Result<(), ConfigRefusal> {
        if self.peers.len() >= MEMBERS_MAX {
            let expected = format!("at most {}: a mesh has one to {MEMBERS_MAX} members", MEMBERS_MAX - 1);
            return Err(ConfigRefusal::new("peers", format!("{} peers", self.peers.len()), expected));
        }
        let mut seen: HashMap<NodeId, usize> = HashMap::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let field = format!("peers[{index}].id");
            if peer.id == self.id {
                return Err(ConfigRefusal::new(field, peer.id, "the id of another node: a node does not list itself"));
            }
            if let Some(first) = seen.insert(peer.id, index) {
                return Err(ConfigRefusal::new(field, peer.id, format!("an id that differs from peers[{first}].id")));
            }
        }
        Ok(())
    }

    fn check_addrs(&self) -> Result<(), ConfigRefusal> {
        let mut seen: HashMap<(String, u16), String> = HashMap::new();
        let own = [("client_addr".to_owned(), &self.client_addr, Use::Listen), ("peer_addr".to_owned(), &self.peer_addr, Use::Listen)];
        let peers = self.peers.iter().enumerate().map(|(index, peer)| (format!("peers[{index}].addr"), &peer.addr, Use::Dial));
        for (field, addr, purpose) in own.into_iter().chain(peers) {
            let (host, port) = parse_addr(addr, purpose).map_err(|expected| ConfigRefusal::new(&field, quoted(addr), expected))?;
            if port == 0 {
                continue;
            }
            if let Some(first) = seen.insert((host, port), field.clone()) {
                return Err(ConfigRefusal::new(field, quoted(addr), format!("an address that differs from {first}")));
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// Reads a file of secrets. Refuses one that others than its owner can read or write.
fn read_secrets(path: &Path) -> Result<PeerSecrets, ConfigRefusal> {
    let name = quoted(&path.display().to_string());
    let refusal = |found: String, expected: &str| ConfigRefusal::new("peer_secret_file", format!("{name}, {found}"), expected);
    let unreadable =
        |error: io::Error| refusal(format!("which cannot be read: {error}"), "a file that the user who runs this node can read");
    let file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = open_to_others(&file).map_err(unreadable)? {
        return Err(refusal(
            format!("which others can read or write: it has mode {mode:04o}"),
            "a file of its owner alone: chmod 600 makes it one",
        ));
    }
    let mut content = Vec::new();
    file.take(SECRET_FILE_LEN_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > SECRET_FILE_LEN_MAX {
        return Err(refusal(format!("which is longer than {SECRET_FILE_LEN_MAX} bytes"), "a file of one or two secrets"));
    }
    PeerSecrets::parse(&content)
}
