//! What an operator may choose: `config/nodeN.json` -> [`Config`].
//!
//! Owns every default and every limit on a limit: a `Config` that came out of here is valid, and nobody asks again. Reads one file; never
//! resolves a host name (that is done at every dial), never touches the data directory.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::data::entry::NodeId;
use crate::process::descriptors::UNIDENTIFIED_MAX;
use crate::wal::Fsync;
use crate::wire::command::AckLevel;

/// A mesh is full: every member holds everything and talks to every other one. Beyond this many that costs more than it gives.
pub const MEMBERS_MAX: usize = 7;

const INCARNATIONS_KEPT: usize = 64;
const INCARNATIONS_MAX: usize = 4_096;

/// What a batch holds beside one key and one value of the greatest size, generously.
const WRITE_OVERHEAD: usize = 1024;
/// A longer file is no configuration of ours: refused rather than read to its end.
const FILE_LEN_MAX: u64 = 1 << 20;
/// The greatest `key_len_max` and `value_len_max`: no node takes or sends more.
pub const KEY_LEN_MAX: u64 = 1 << 20;
pub const VALUE_LEN_MAX: u64 = 128 << 20;
/// Low enough that the sum of a few byte counts cannot overflow.
const BYTES_MAX: u64 = usize::MAX as u64 / 16;
/// Low enough that a point in time plus a duration cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const TOMBSTONE_AGE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const ACK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const CLUSTER_LEN_MAX: usize = 64;

/// Every choice of one node. Valid as built: sizes fit each other, ids and addresses are distinct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub id: NodeId,
    /// Nodes of different clusters refuse each other, so that a wrong address cannot merge two data sets.
    pub cluster: String,
    /// `host:port` to listen on for clients; port 0 lets the system choose.
    pub client_addr: String,
    /// `host:port` to listen on for peers; port 0 lets the system choose.
    pub peer_addr: String,
    /// The other members. Never this node, no id and no address twice, at most [`MEMBERS_MAX`] - 1.
    pub peers: Vec<PeerConfig>,
    /// Of connections that have not chosen another one.
    pub ack: AckLevel,
    /// Relative to where the node is started.
    pub data_dir: PathBuf,
    /// When what is written to the log is made durable.
    pub fsync: Fsync,

    /// The pause between heartbeats; at most half of `peer_timeout`, so that one late beat takes nobody down.
    pub heartbeat: Duration,
    /// A peer without progress for this long is down.
    pub peer_timeout: Duration,
    /// How long a write waits for its ack; then the client hears `TIMEOUT`.
    pub ack_timeout: Duration,
    /// A node that starts stops waiting for a peer that has made no progress towards it for this long.
    pub recovery_wait: Duration,
    /// A client that takes none of its replies for this long is closed.
    pub write_timeout: Duration,
    /// A peer whose wall clock is off by more is refused.
    pub clock_offset_max: Duration,
    /// No tombstone younger than this is collected.
    pub tombstone_age_min: Duration,
    /// The longest pause between two dials of a peer that cannot be reached.
    pub reconnect_pause_max: Duration,
    /// At shutdown, what is queued for peers has this long to leave.
    pub shutdown_timeout: Duration,

    /// Beyond this, a client hears `ERROR BUSY` and is closed.
    pub clients_max: usize,
    /// Connections on the peer port that have not said yet who they are, with those that are being closed. In no file: only where few files may be open there are fewer.
    pub unidentified_max: usize,
    /// Incarnations of one node that are over and that a vector names one by one; of more, the oldest are folded. In no file.
    pub incarnations_kept: usize,
    /// Lives in a vector, beyond which a node that starts does not write. In no file: a HELLO must carry several times as many.
    pub incarnations_max: usize,
    pub key_len_max: usize,
    pub value_len_max: usize,
    /// Bytes of entries; beyond this, client writes other than deletes are refused. 0 is no limit.
    pub memory_max: usize,
    /// Bytes; beyond this the queue to a peer is dropped, and the peer catches up by a dump. Any legal write fits.
    pub link_queue_max: usize,
    /// Bytes on their way to the replicator and the log; beyond this, sessions wait. Any legal write fits.
    pub write_room: usize,
    /// A snapshot is written when the log is so many times as long as the last one,
    pub compact_factor: u64,
    /// and at least so many bytes.
    pub compact_log_min: usize,
}

/// One of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub id: NodeId,
    /// `host:port` to dial; the host is resolved at every dial.
    pub addr: String,
}

impl Config {
    /// Reads and checks one file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let source_name = path.display().to_string();
        match read(path) {
            Ok(text) => Config::from_json(&text, &source_name),
            Err(error) => Err(ConfigError::Unreadable { source_name, error }),
        }
    }

    /// `source_name` is what errors call the text: the file's name.
    pub fn from_json(text: &str, source_name: &str) -> Result<Config, ConfigError> {
        let source_name = source_name.to_owned();
        match serde_json::from_str(text) {
            Ok(Json::Object(fields)) => {
                Config::from_fields(fields).map_err(|refusal| ConfigError::Field { source_name, refusal: Box::new(refusal) })
            }
            Ok(other) => Err(ConfigError::NotAnObject { source_name, found: other.to_string() }),
            Err(error) => Err(ConfigError::NotJson { source_name, error }),
        }
    }

    /// The same node at other addresses, as the command line gives them; `None` keeps what the file says. Checked like the file's own.
    pub fn with_addrs(mut self, client_addr: Option<String>, peer_addr: Option<String>) -> Result<Config, ConfigError> {
        let options = [("--client-addr", &client_addr), ("--peer-addr", &peer_addr)];
        let given = options.into_iter().filter_map(|(option, addr)| Some(format!("{option} {}", shortened(addr.as_ref()?))));
        let source_name = given.collect::<Vec<_>>().join(" ");
        self.client_addr = client_addr.unwrap_or(self.client_addr);
        self.peer_addr = peer_addr.unwrap_or(self.peer_addr);
        match self.check_addrs() {
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

    fn from_fields(fields: Fields) -> Result<Config, Refusal> {
        let mut fields = Section::new("", fields, FIELDS)?;
        let id = NodeId(fields.number("id", None, 1, u16::MAX.into())? as u16);
        let config = Config {
            id,
            cluster: fields.text("cluster", Some("kvmesh"), "a name for the mesh")?,
            client_addr: fields.text("client_addr", None, ADDR_EXPECTED)?,
            peer_addr: fields.text("peer_addr", None, ADDR_EXPECTED)?,
            peers: fields.peers("peers")?,
            ack: fields.ack("ack")?,
            data_dir: fields.text("data_dir", Some(&format!("data/node{id}")), "the path of a directory")?.into(),
            fsync: fields.fsync("fsync")?,
            heartbeat: fields.duration("heartbeat_ms", 500, DURATION_MAX)?,
            peer_timeout: fields.duration("peer_timeout_ms", 2_000, DURATION_MAX)?,
            ack_timeout: fields.duration("ack_timeout_ms", 2_000, ACK_TIMEOUT_MAX)?,
            recovery_wait: fields.duration("recovery_wait_ms", 5_000, DURATION_MAX)?,
            write_timeout: fields.duration("write_timeout_ms", 10_000, DURATION_MAX)?,
            clock_offset_max: fields.duration("clock_offset_max_ms", 10_000, DURATION_MAX)?,
            tombstone_age_min: fields.duration("tombstone_age_min_ms", 600_000, TOMBSTONE_AGE_MAX)?,
            reconnect_pause_max: fields.duration("reconnect_pause_max_ms", 1_000, DURATION_MAX)?,
            shutdown_timeout: fields.duration("shutdown_timeout_ms", 3_000, DURATION_MAX)?,
            clients_max: fields.number("clients_max", Some(10_000), 1, 1_000_000)? as usize,
            unidentified_max: UNIDENTIFIED_MAX,
            incarnations_kept: INCARNATIONS_KEPT,
            incarnations_max: INCARNATIONS_MAX,
            key_len_max: fields.number("key_len_max", Some(64 << 10), 1, KEY_LEN_MAX)? as usize,
            value_len_max: fields.number("value_len_max", Some(16 << 20), 1, VALUE_LEN_MAX)? as usize,
            memory_max: fields.number("memory_max", Some(0), 0, BYTES_MAX)? as usize,
            link_queue_max: fields.number("link_queue_max", Some(64 << 20), 1, BYTES_MAX)? as usize,
            write_room: fields.number("write_room", Some(64 << 20), 1, BYTES_MAX)? as usize,
            compact_factor: fields.number("compact_factor", Some(2), 1, 1_000)?,
            compact_log_min: fields.number("compact_log_min", Some(64 << 20), 1, BYTES_MAX)? as usize,
        };
        config.check()?;
        Ok(config)
    }

    /// What no field can say alone.
    fn check(&self) -> Result<(), Refusal> {
        let cluster_fits = self.cluster.len() <= CLUSTER_LEN_MAX && !self.cluster.contains(|c: char| c.is_control() || c.is_whitespace());
        if self.cluster.is_empty() || !cluster_fits {
            let expected = format!("a name of 1 to {CLUSTER_LEN_MAX} bytes without spaces");
            return Err(Refusal::new("cluster", quoted(&self.cluster), expected));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(Refusal::new("data_dir", "\"\"", "the path of a directory"));
        }
        self.check_peers()?;
        self.check_addrs()?;
        if self.heartbeat > self.peer_timeout / 2 {
            let expected = format!("at most half of peer_timeout_ms, which is {}", self.peer_timeout.as_millis());
            return Err(Refusal::new("heartbeat_ms", self.heartbeat.as_millis(), expected));
        }
        let one_write = self.key_len_max + self.value_len_max + WRITE_OVERHEAD;
        for (field, bytes) in [("link_queue_max", self.link_queue_max), ("write_room", self.write_room)] {
            if bytes < one_write {
                let expected =
                    format!("at least {one_write}, which is key_len_max + value_len_max + {WRITE_OVERHEAD}: any legal write must fit");
                return Err(Refusal::new(field, bytes, expected));
            }
        }
        Ok(())
    }

    fn check_peers(&self) -> Result<(), Refusal> {
        if self.peers.len() >= MEMBERS_MAX {
            let expected = format!("at most {}: a mesh has one to {MEMBERS_MAX} members", MEMBERS_MAX - 1);
            return Err(Refusal::new("peers", format!("{} peers", self.peers.len()), expected));
        }
        let mut seen: HashMap<NodeId, usize> = HashMap::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let field = format!("peers[{index}].id");
            if peer.id == self.id {
                return Err(Refusal::new(field, peer.id, "the id of another node: a node does not list itself"));
            }
            if let Some(first) = seen.insert(peer.id, index) {
                return Err(Refusal::new(field, peer.id, format!("an id that differs from peers[{first}].id")));
            }
        }
        Ok(())
    }

    fn check_addrs(&self) -> Result<(), Refusal> {
        let mut seen: HashMap<(String, u16), String> = HashMap::new();
        let own = [("client_addr".to_owned(), &self.client_addr, Use::Listen), ("peer_addr".to_owned(), &self.peer_addr, Use::Listen)];
        let peers = self.peers.iter().enumerate().map(|(index, peer)| (format!("peers[{index}].addr"), &peer.addr, Use::Dial));
        for (field, addr, purpose) in own.into_iter().chain(peers) {
            let (host, port) = parse_addr(addr, purpose).map_err(|expected| Refusal::new(&field, quoted(addr), expected))?;
            if port == 0 {
                continue;
            }
            if let Some(first) = seen.insert((host, port), field.clone()) {
                return Err(Refusal::new(field, quoted(addr), format!("an address that differs from {first}")));
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

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Listen,
    Dial,
}

const ADDR_EXPECTED: &str = "an address \"host:port\" such as \"127.0.0.1:7001\", \"[::1]:7001\" or \"node1.example:7001\"";

/// Host and port, in a form that can be compared; or what was expected.
fn parse_addr(addr: &str, purpose: Use) -> Result<(String, u16), &'static str> {
    let (host, port) = addr.rsplit_once(':').ok_or(ADDR_EXPECTED)?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ADDR_EXPECTED);
    }
    let port: u16 = port.parse().map_err(|_| "a port from 0 to 65535")?;
    let ip = if host.starts_with('[') {
        let ip = addr.parse::<SocketAddr>().map_err(|_| "an IPv6 address in brackets such as \"[::1]:7001\"")?.ip();
        Some(ip)
    } else if !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        Some(host.parse::<IpAddr>().map_err(|_| "an IPv4 address of four numbers from 0 to 255, and a port, such as \"127.0.0.1:7001\"")?)
    } else {
        None
    };
    let is_name = host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if ip.is_none() && (host.is_empty() || !is_name) {
        return Err(ADDR_EXPECTED);
    }
    if purpose == Use::Dial && port == 0 {
        return Err("a port from 1 to 65535: nobody can be dialled at port 0");
    }
    if purpose == Use::Dial && ip.is_some_and(|ip| ip.is_unspecified()) {
        return Err("the address at which that peer is reached: this one means \"every interface\" and can only be listened on");
    }
    Ok((ip.map_or_else(|| host.to_ascii_lowercase(), |ip| ip.to_string()), port))
}

pub(crate) const FIELDS: &[&str] = &[
    "id",
    "cluster",
    "client_addr",
    "peer_addr",
    "peers",
    "ack",
    "data_dir",
    "fsync",
    "heartbeat_ms",
    "peer_timeout_ms",
    "ack_timeout_ms",
    "recovery_wait_ms",
    "write_timeout_ms",
    "clock_offset_max_ms",
    "tombstone_age_min_ms",
    "reconnect_pause_max_ms",
    "shutdown_timeout_ms",
    "clients_max",
    "key_len_max",
    "value_len_max",
    "memory_max",
    "link_queue_max",
    "write_room",
    "compact_factor",
    "compact_log_min",
];
const PEER_EXPECTED: &str = "{ \"id\": 2, \"addr\": \"127.0.0.1:7102\" }";
const PEER_FIELDS: &[&str] = &["id", "addr"];

/// JSON as far as a configuration goes. Objects keep a field that is given twice, which `serde_json::Value` would swallow.
#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    Object(Fields),
    Objects(Vec<Fields>),
    Other(Value),
}

impl fmt::Display for Json {
    /// As an error shows it: short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Object(_) => f.write_str("an object"),
            Json::Objects(_) | Json::Other(Value::Array(_)) => f.write_str("a list"),
            Json::Other(Value::String(text)) => f.write_str(&quoted(text)),
            Json::Other(value) => value.fmt(f),
        }
    }
}

struct Fields(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Fields(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// One object of the file, from which fields are taken by name.
struct Section {
    /// What stands before a field's name in an error: `peers[0].`
    prefix: String,
    fields: HashMap<String, Json>,
}

impl Section {
    /// Refuses unknown fields, and those given twice.
    fn new(prefix: impl Into<String>, fields: Fields, known: &[&str]) -> Result<Section, Refusal> {
        let mut section = Section { prefix: prefix.into(), fields: HashMap::new() };
        for (name, value) in fields.0 {
            let field = section.name(&shortened(&name));
            if !known.contains(&name.as_str()) {
                return Err(Refusal::new(field, "an unknown field", format!("one of {}", known.join(", "))));
            }
            if section.fields.insert(name, value).is_some() {
                return Err(Refusal::new(field, "it twice", "each field once"));
            }
        }
        Ok(section)
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    fn refusal(&self, field: &str, found: Option<&Json>, expected: impl fmt::Display) -> Refusal {
        Refusal::new(self.name(field), found.map_or("nothing".to_owned(), Json::to_string), expected)
    }

    /// A whole number between two bounds, both included. Without a default the field must be there.
    fn number(&mut self, field: &str, default: Option<u64>, min: u64, max: u64) -> Result<u64, Refusal> {
        let found = self.fields.remove(field);
        let number = match (&found, default) {
            (Some(Json::Other(value)), _) => value.as_u64(),
            (Some(_), _) => None,
            (None, default) => default,
        };
        let expected = || format!("a whole number from {min} to {max}");
        number.filter(|number| (min..=max).contains(number)).ok_or_else(|| self.refusal(field, found.as_ref(), expected()))
    }

    /// Whole milliseconds, at least one.
    fn duration(&mut self, field: &str, default_ms: u64, max: Duration) -> Result<Duration, Refusal> {
        let ms = self.number(field, Some(default_ms), 1, max.as_millis() as u64);
        ms.map(Duration::from_millis).map_err(|refusal| Refusal { expected: format!("{} (milliseconds)", refusal.expected), ..refusal })
    }

    fn text(&mut self, field: &str, default: Option<&str>, expected: &str) -> Result<String, Refusal> {
        match (self.fields.remove(field), default) {
            (Some(Json::Other(Value::String(text))), _) => Ok(text),
            (None, Some(default)) => Ok(default.to_owned()),
            (found, _) => Err(self.refusal(field, found.as_ref(), expected)),
        }
    }

    fn ack(&mut self, field: &str) -> Result<AckLevel, Refusal> {
        let expected = "\"local\", \"majority\" or \"all\"";
        let text = self.text(field, Some("majority"), expected)?;
        text.parse().map_err(|_| Refusal::new(self.name(field), quoted(&text), expected))
    }

    fn fsync(&mut self, field: &str) -> Result<Fsync, Refusal> {
        let text = self.text(field, Some("always"), Fsync::NAMES)?;
        text.parse().map_err(|_| Refusal::new(self.name(field), quoted(&text), Fsync::NAMES))
    }

    /// Without the field: none, a mesh of one.
    fn peers(&mut self, field: &str) -> Result<Vec<PeerConfig>, Refusal> {
        let objects = match self.fields.remove(field) {
            None => Vec::new(),
            Some(Json::Objects(objects)) => objects,
            Some(Json::Other(Value::Array(mut elements))) => {
                // It is there: a list of objects alone is read as such.
                let index = elements.iter().position(|element| !element.is_object()).unwrap_or_default();
                let element = Json::Other(elements.swap_remove(index));
                return Err(self.refusal(&format!("{field}[{index}]"), Some(&element), format_args!("an object such as {PEER_EXPECTED}")));
            }
            found => return Err(self.refusal(field, found.as_ref(), format_args!("a list of objects such as [{PEER_EXPECTED}]"))),
        };
        let peer = |(index, fields)| {
            let mut peer = Section::new(format!("{field}[{index}]."), fields, PEER_FIELDS)?;
            let id = NodeId(peer.number("id", None, 1, u16::MAX.into())? as u16);
            Ok(PeerConfig { id, addr: peer.text("addr", None, ADDR_EXPECTED)? })
        };
        objects.into_iter().enumerate().map(peer).collect()
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// Errors are lines to be read, whatever the file holds.
fn shortened(text: &str) -> String {
    const LEN_MAX: usize = 80;
    match text.char_indices().nth(LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Why a configuration is refused: the file, and what in it was found instead of what.
#[derive(Debug)]
pub enum ConfigError {
    Unreadable { source_name: String, error: io::Error },
    NotJson { source_name: String, error: serde_json::Error },
    NotAnObject { source_name: String, found: String },
    Field { source_name: String, refusal: Box<Refusal> },
}

/// One field, what it held, and what would be right.
#[derive(Debug)]
pub struct Refusal {
    pub field: String,
    pub found: String,
    pub expected: String,
}

impl Refusal {
    fn new(field: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> Refusal {
        Refusal { field: field.to_string(), found: found.to_string(), expected: expected.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { source_name, error } => {
                write!(f, "{source_name}: cannot be read: {error}; expected a file such as config/node1.json")
            }
            ConfigError::NotJson { source_name, error } => {
                write!(f, "{source_name}: is not JSON: {error}; expected one JSON object; see config/node1.json")
            }
            ConfigError::NotAnObject { source_name, found } => {
                write!(f, "{source_name}: found {found}, expected one object such as config/node1.json holds")
            }
            ConfigError::Field { source_name, refusal } => {
                write!(f, "{source_name}: field {:?}: found {}, expected {}", refusal.field, refusal.found, refusal.expected)
            }
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A node that is accepted, with some fields set or, by `null`, left out.
    fn node(changes: Value) -> Result<Config, String> {
        let mut node = json!({
            "id": 1,
            "client_addr": "127.0.0.1:7001",
            "peer_addr": "127.0.0.1:7101",
            "peers": [{ "id": 3, "addr": "c.example:7101" }, { "id": 2, "addr": "[::1]:7102" }],
        });
        let fields = node.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        Config::from_json(&node.to_string(), "n.json").map_err(|error| error.to_string())
    }

    fn assert_refused(changes: Value, sentence: &str) {
        assert_eq!(node(changes).unwrap_err(), sentence);
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let config = node(json!({})).unwrap();
        assert_eq!((config.id, config.cluster.as_str(), config.ack), (NodeId(1), "kvmesh", AckLevel::Majority));
        assert_eq!(config.data_dir, PathBuf::from("data/node1"));
        assert_eq!(config.peers[0], PeerConfig { id: NodeId(3), addr: "c.example:7101".into() });
        let durations = [config.heartbeat, config.peer_timeout, config.ack_timeout, config.recovery_wait, config.write_timeout];
        assert_eq!(durations.map(|duration| duration.as_millis()), [500, 2_000, 2_000, 5_000, 10_000]);
        let durations = [config.clock_offset_max, config.tombstone_age_min, config.reconnect_pause_max, config.shutdown_timeout];
        assert_eq!(durations.map(|duration| duration.as_millis()), [10_000, 600_000, 1_000, 3_000]);
        assert_eq!((config.clients_max, config.key_len_max, config.value_len_max), (10_000, 65_536, 16_777_216));
        assert_eq!((config.memory_max, config.link_queue_max, config.write_room), (0, 67_108_864, 67_108_864));
    }

    #[test]
    fn every_field_is_taken_from_the_file() {
        let names = [
            "heartbeat_ms",
            "peer_timeout_ms",
            "ack_timeout_ms",
            "recovery_wait_ms",
            "write_timeout_ms",
            "clock_offset_max_ms",
            "tombstone_age_min_ms",
            "reconnect_pause_max_ms",
            "shutdown_timeout_ms",
        ];
        let mut changes = json!({ "cluster": "other", "ack": "local", "data_dir": "/d", "clients_max": 1, "key_len_max": 2,
            "value_len_max": 3, "memory_max": 4, "link_queue_max": 5_000, "write_room": 6_000 });
        for (name, ms) in names.iter().zip([10, 1_000, 1_001, 1_002, 1_003, 1_004, 1_005, 1_006, 1_007]) {
            changes[name] = ms.into();
        }
        let config = node(changes).unwrap();
        assert_eq!((config.cluster.as_str(), config.ack, config.data_dir), ("other", AckLevel::Local, PathBuf::from("/d")));
        let durations = [config.heartbeat, config.peer_timeout, config.ack_timeout, config.recovery_wait, config.write_timeout];
        assert_eq!(durations.map(|duration| duration.as_millis()), [10, 1_000, 1_001, 1_002, 1_003]);
        let durations = [config.clock_offset_max, config.tombstone_age_min, config.reconnect_pause_max, config.shutdown_timeout];
        assert_eq!(durations.map(|duration| duration.as_millis()), [1_004, 1_005, 1_006, 1_007]);
        assert_eq!((config.clients_max, config.key_len_max, config.value_len_max), (1, 2, 3));
        assert_eq!((config.memory_max, config.link_queue_max, config.write_room), (4, 5_000, 6_000));
    }

    #[test]
    fn members_are_sorted_and_a_majority_is_more_than_half() {
        assert_eq!(node(json!({})).unwrap().members(), [NodeId(1), NodeId(2), NodeId(3)]);
        let majority = |peers: u16| {
            let peers: Vec<Value> = (0..peers).map(|peer| json!({ "id": peer + 2, "addr": format!("h{peer}:1") })).collect();
            node(json!({ "peers": peers })).unwrap().majority()
        };
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(majority), [1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(node(json!({ "peers": null })).unwrap().members(), [NodeId(1)]);
    }

    #[test]
    fn the_files_in_config_are_accepted_and_list_each_other() {
        let load = |id| Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/node{id}.json"))).unwrap();
        let nodes = [load(1), load(2), load(3)];
        for node in &nodes {
            assert_eq!(node.members(), [NodeId(1), NodeId(2), NodeId(3)]);
            for peer in &node.peers {
                assert_eq!(peer.addr, nodes[usize::from(peer.id.0) - 1].peer_addr);
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.json");
        let sentence = Config::load(&missing).unwrap_err().to_string();
        assert_eq!(
            sentence,
            format!(
                "{}: cannot be read: No such file or directory (os error 2); expected a file such as config/node1.json",
                missing.display()
            )
        );
        let long = dir.path().join("long.json");
        std::fs::write(&long, " ".repeat(FILE_LEN_MAX as usize + 1)).unwrap();
        assert!(Config::load(&long).unwrap_err().to_string().contains("longer than 1048576 bytes"));
    }

    #[test]
    fn bad_json_is_located() {
        let refused = |text| Config::from_json(text, "n.json").unwrap_err().to_string();
        assert_eq!(
            refused("{\n  \"id\": 1,\n}"),
            "n.json: is not JSON: trailing comma at line 3 column 1; expected one JSON object; see config/node1.json"
        );
        assert!(refused("").starts_with("n.json: is not JSON: EOF while parsing a value at line 1 column 0; expected"));
        assert!(refused("{} x").starts_with("n.json: is not JSON: trailing characters at line 1 column 4; expected"));
        assert!(refused("{\"peers\": [{\"id\" 2}]}").contains("at line 1 column 18; expected"));
        assert_eq!(refused("[1]"), "n.json: found a list, expected one object such as config/node1.json holds");
        assert_eq!(refused("null"), "n.json: found null, expected one object such as config/node1.json holds");
    }

    #[test]
    fn unknown_and_repeated_fields_are_refused() {
        let known = FIELDS.join(", ");
        assert_refused(json!({ "heartbeat": 5 }), &format!("n.json: field \"heartbeat\": found an unknown field, expected one of {known}"));
        assert_refused(
            json!({ "peers": [{ "id": 2, "addr": "b:1", "port": 3 }] }),
            "n.json: field \"peers[0].port\": found an unknown field, expected one of id, addr",
        );
        let refused = |text| Config::from_json(text, "n.json").unwrap_err().to_string();
        assert_eq!(refused(r#"{"id": 1, "id": 2}"#), "n.json: field \"id\": found it twice, expected each field once");
        let peers = r#"{"id": 1, "client_addr": "a:1", "peer_addr": "a:2", "peers": [{"id": 2, "id": 3, "addr": "b:1"}]}"#;
        assert_eq!(refused(peers), "n.json: field \"peers[0].id\": found it twice, expected each field once");
    }

    #[test]
    fn fields_without_a_default_must_be_there() {
        assert_refused(json!({ "id": null }), "n.json: field \"id\": found nothing, expected a whole number from 1 to 65535");
        for field in ["client_addr", "peer_addr"] {
            assert_refused(json!({ field: null }), &format!("n.json: field \"{field}\": found nothing, expected {ADDR_EXPECTED}"));
        }
        assert_refused(
            json!({ "peers": [{ "addr": "b:1" }] }),
            "n.json: field \"peers[0].id\": found nothing, expected a whole number from 1 to 65535",
        );
        assert!(node(json!({ "peers": [{ "id": 2 }] })).unwrap_err().starts_with("n.json: field \"peers[0].addr\": found nothing"));
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        for id in [json!(0), json!(65_536), json!(-1), json!(1.5), json!("1"), json!([1]), json!({})] {
            let sentence = node(json!({ "id": id })).unwrap_err();
            assert!(sentence.starts_with("n.json: field \"id\": found "), "{sentence}");
            assert!(sentence.ends_with(", expected a whole number from 1 to 65535"), "{sentence}");
        }
        assert_refused(json!({ "ack": "most" }), "n.json: field \"ack\": found \"most\", expected \"local\", \"majority\" or \"all\"");
        assert_refused(json!({ "ack": 2 }), "n.json: field \"ack\": found 2, expected \"local\", \"majority\" or \"all\"");
        assert_refused(json!({ "data_dir": "" }), "n.json: field \"data_dir\": found \"\", expected the path of a directory");
        for cluster in ["", "two words", "bell\u{7}", &"x".repeat(65)] {
            assert!(node(json!({ "cluster": cluster })).unwrap_err().ends_with("expected a name of 1 to 64 bytes without spaces"));
        }
        for peers in [json!({}), json!("2")] {
            assert!(node(json!({ "peers": peers })).unwrap_err().contains("expected a list of objects such as"));
        }
        assert_refused(
            json!({ "peers": [5] }),
            "n.json: field \"peers[0]\": found 5, expected an object such as { \"id\": 2, \"addr\": \"127.0.0.1:7102\" }",
        );
        let sentence = node(json!({ "peers": [{ "id": 2, "addr": "b:1" }, [{}]] })).unwrap_err();
        assert!(sentence.starts_with("n.json: field \"peers[1]\": found a list, expected an object"), "{sentence}");
        let sentence = node(json!({ "ack": "m".repeat(5_000) })).unwrap_err();
        assert!(sentence.len() < 200, "{sentence}");
    }

    #[test]
    fn members_must_be_distinct_and_few() {
        let peers = |ids: &[u16]| -> Value { ids.iter().map(|id| json!({ "id": id, "addr": format!("h:{id}") })).collect() };
        assert_refused(
            json!({ "peers": peers(&[2, 1]) }),
            "n.json: field \"peers[1].id\": found 1, expected the id of another node: a node does not list itself",
        );
        assert_refused(
            json!({ "peers": [{ "id": 2, "addr": "b:1" }, { "id": 2, "addr": "c:1" }] }),
            "n.json: field \"peers[1].id\": found 2, expected an id that differs from peers[0].id",
        );
        assert_refused(json!({ "peers": peers(&[0]) }), "n.json: field \"peers[0].id\": found 0, expected a whole number from 1 to 65535");
        assert_refused(
            json!({ "peers": peers(&[2, 3, 4, 5, 6, 7, 8]) }),
            "n.json: field \"peers\": found 7 peers, expected at most 6: a mesh has one to 7 members",
        );
    }

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for addr in ["127.0.0.1:0", "localhost:7001", "0.0.0.0:7001", "[::]:0", "my_node-1.internal:65535", "10.0.0.1:00009"] {
            assert_eq!(node(json!({ "client_addr": addr })).unwrap().client_addr, addr);
        }
        for addr in ["", "7001", ":7001", "localhost", "localhost:", "localhost:http", "::1:7001", "a b:1", "http://a:1", "a:+1", "ä:1"] {
            assert_refused(
                json!({ "client_addr": addr }),
                &format!("n.json: field \"client_addr\": found {addr:?}, expected {ADDR_EXPECTED}"),
            );
        }
        let refused = |addr: &str| node(json!({ "peer_addr": addr })).unwrap_err();
        assert!(refused("a:65536").ends_with("expected a port from 0 to 65535"));
        assert!(refused("127.0.0.256:1").contains("expected an IPv4 address of four numbers from 0 to 255"));
        assert!(refused("127.1:1").contains("expected an IPv4 address"));
        assert!(refused("[::g]:1").contains("expected an IPv6 address in brackets"));
        assert!(refused("[::1:7").contains("expected an IPv6 address in brackets"));
    }

    #[test]
    fn a_peer_must_have_an_address_of_its_own_that_can_be_dialled() {
        let peer = |addr: &str| node(json!({ "peers": [{ "id": 2, "addr": "B:7102" }, { "id": 3, "addr": addr }] }));
        assert_eq!(
            peer("c:0").unwrap_err(),
            "n.json: field \"peers[1].addr\": found \"c:0\", expected a port from 1 to 65535: nobody can be dialled at port 0"
        );
        assert!(peer("0.0.0.0:7103").unwrap_err().contains("can only be listened on"));
        assert!(peer("[::]:7103").unwrap_err().contains("can only be listened on"));
        assert_eq!(
            peer("b:07102").unwrap_err(),
            "n.json: field \"peers[1].addr\": found \"b:07102\", expected an address that differs from peers[0].addr"
        );
        assert!(peer("127.0.0.1:7101").unwrap_err().ends_with("expected an address that differs from peer_addr"));
        assert_refused(
            json!({ "client_addr": "127.0.0.1:7101" }),
            "n.json: field \"peer_addr\": found \"127.0.0.1:7101\", expected an address that differs from client_addr",
        );
        assert!(node(json!({ "client_addr": "h:0", "peer_addr": "h:0" })).is_ok());
    }

    #[test]
    fn durations_have_bounds() {
        for field in FIELDS.iter().filter(|field| field.ends_with("_ms")) {
            for ms in [json!(0), json!(-5), json!("1s"), json!(u64::MAX)] {
                let sentence = node(json!({ *field: ms })).unwrap_err();
                assert!(
                    sentence.starts_with(&format!("n.json: field \"{field}\": found {ms}, expected a whole number from 1 to ")),
                    "{sentence}"
                );
            }
        }
        assert_refused(
            json!({ "ack_timeout_ms": 60_001 }),
            "n.json: field \"ack_timeout_ms\": found 60001, expected a whole number from 1 to 60000 (milliseconds)",
        );
        assert_refused(
            json!({ "heartbeat_ms": 1_001 }),
            "n.json: field \"heartbeat_ms\": found 1001, expected at most half of peer_timeout_ms, which is 2000",
        );
        assert!(node(json!({ "heartbeat_ms": 1_000, "ack_timeout_ms": 60_000 })).is_ok());
    }

    #[test]
    fn sizes_have_bounds_and_fit_each_other() {
        assert_refused(json!({ "clients_max": 0 }), "n.json: field \"clients_max\": found 0, expected a whole number from 1 to 1000000");
        assert_refused(
            json!({ "key_len_max": (1 << 20) + 1 }),
            "n.json: field \"key_len_max\": found 1048577, expected a whole number from 1 to 1048576",
        );
        assert_refused(
            json!({ "value_len_max": (128 << 20) + 1 }),
            "n.json: field \"value_len_max\": found 134217729, expected a whole number from 1 to 134217728",
        );
        for field in ["link_queue_max", "write_room"] {
            let one_write = (16 << 20) + (64 << 10) + 1024;
            assert!(node(json!({ field: one_write })).is_ok());
            assert_refused(
                json!({ field: one_write - 1 }),
                &format!(
                    "n.json: field \"{field}\": found {}, expected at least {one_write}, which is key_len_max + value_len_max + 1024: any legal write must fit",
                    one_write - 1
                ),
            );
        }
        assert!(node(json!({ "memory_max": u64::MAX })).is_err());
    }

    #[test]
    fn addresses_given_on_the_command_line_are_checked_too() {
        let with_addrs = |client: Option<&str>, peer: Option<&str>| {
            let config = node(json!({})).unwrap();
            config.with_addrs(client.map(str::to_owned), peer.map(str::to_owned)).map_err(|error| error.to_string())
        };
        let config = with_addrs(Some("localhost:0"), Some("localhost:9")).unwrap();
        assert_eq!((config.client_addr.as_str(), config.peer_addr.as_str()), ("localhost:0", "localhost:9"));
        assert_eq!(with_addrs(None, None).unwrap(), node(json!({})).unwrap());
        assert_eq!(
            with_addrs(Some("7001"), None).unwrap_err(),
            format!("--client-addr 7001: field \"client_addr\": found \"7001\", expected {ADDR_EXPECTED}")
        );
        assert_eq!(
            with_addrs(Some("h:1"), Some("[::1]:7102")).unwrap_err(),
            "--client-addr h:1 --peer-addr [::1]:7102: field \"peers[1].addr\": found \"[::1]:7102\", expected an address that differs from peer_addr"
        );
        assert!(with_addrs(Some("127.0.0.1:7101"), Some("127.0.0.1:7001")).is_ok());
    }
}
