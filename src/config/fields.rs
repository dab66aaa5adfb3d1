//! The fields of a configuration file, in one table.
//!
//! A row is a field: its meaning, its member of [`Config`], its name in the file, and the values
//! that it takes. The struct, the parser, the limits in STATUS and docs/configuration.md are all
//! made of these rows, so that none of them can say something else.

use std::path::PathBuf;
use std::time::Duration;

use super::addr::ADDR_EXPECTED;
use super::peer_auth::{PeerAuth, PeerSecrets, SECRET_FILE_EXPECTED};
use super::refusal::ConfigRefusal;
use super::section::{FieldKind, FromField, PeerConfig, Section};
use super::tls::TlsConfig;
use super::users::UserConfig;
use crate::data::fsync::Fsync;
use crate::data::version::NodeId;
use crate::process::descriptors::UNIDENTIFIED_MAX;
use crate::process::logging::LogLevel;
use crate::wire::ack_level::AckLevel;

/// The greatest `key_len_max`: no node takes or sends more.
pub const KEY_LEN_MAX: u64 = 1 << 20;
/// The greatest `value_len_max`: no node takes or sends more.
pub const VALUE_LEN_MAX: u64 = 128 << 20;
/// Low enough that the sum of a few byte counts cannot overflow.
const BYTES_MAX: u64 = usize::MAX as u64 / 16;
/// Low enough that a point in time plus a duration cannot overflow.
const DURATION_MAX_MS: u64 = 24 * 60 * 60 * 1_000;
const TOMBSTONE_AGE_MAX_MS: u64 = 365 * DURATION_MAX_MS;
const ACK_TIMEOUT_MAX_MS: u64 = 60_000;
const DISABLED_EXPECTED: &str = "a list of names of commands such as [\"flushall\"]";
pub(super) const CLUSTER_LEN_MAX: usize = 64;
const TLS_EXPECTED: &str = "{ \"cert_file\": \"certs/node1.pem\", \"key_file\": \"certs/node1.key\" }";
pub(super) const CLUSTER_EXPECTED: &str = "a name of 1 to 64 bytes without spaces";

/// One field of the file.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
    /// Whole sentences, in Markdown.
    pub meaning: &'static str,
}

/// Makes [`Config`], [`FIELDS`], `Config::read` and [`Config::limits`] of the rows. Members behind
/// `in_no_file` begin with the same value in every node.
macro_rules! fields {
    (
        $($(#[doc = $meaning:literal])+ $member:ident: $type:ty = $name:literal, $kind:expr;)+
        in_no_file:
        $($(#[doc = $note:literal])+ $constant:ident: $constant_type:ty = $value:expr;)+
    ) => {
        /// Every choice of one node. Valid as built: sizes fit each other, ids and addresses are
        /// distinct.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[doc = $meaning])+ pub $member: $type,)+
            $($(#[doc = $note])+ pub $constant: $constant_type,)+
        }

        /// All fields of a file.
        pub const FIELDS: &[Field] = &[$(Field { name: $name, kind: $kind, meaning: concat!($($meaning),+).trim_ascii_start() }),+];

        impl Config {
            /// Takes every field out of the file. How they fit each other is checked afterwards.
            pub(super) fn read(section: &mut Section) -> Result<Config, ConfigRefusal> {
                Ok(Config {
                    $($member: <$type>::from_field(section, $name, $kind)?,)+
                    $($constant: $value,)+
                })
            }

            /// The names of the fields whose values differ.
            pub(super) fn changed(&self, other: &Config) -> Vec<&'static str> {
                [$((self.$member != other.$member).then_some($name)),+].into_iter().flatten().collect()
            }

            /// The fields whose values are numbers, and these, for STATUS.
            pub fn limits(&self) -> Vec<(&'static str, u64)> {
                [$(($name, self.$member.limit())),+].into_iter().filter_map(|(name, limit)| Some((name, limit?))).collect()
            }
        }
    };
}

fields! {
    /// This node's number in the mesh. No two members have the same.
    id: NodeId = "id", FieldKind::Number { default: None, min: 1, max: u16::MAX as u64 };
    /// Nodes of different clusters refuse each other, so that a wrong address cannot merge two data
    /// sets.
    cluster: String = "cluster", text("kvmesh", CLUSTER_EXPECTED);
    /// Where this node listens for clients. Port 0 lets the system choose.
    client_addr: String = "client_addr", FieldKind::Text { default: None, expected: ADDR_EXPECTED };
    /// Where this node listens for peers; another address than `client_addr`. Port 0 lets the
    /// system choose.
    peer_addr: String = "peer_addr", FieldKind::Text { default: None, expected: ADDR_EXPECTED };
    /// The *other* members, six at most. Names are resolved at every dial. Without any, the node is
    /// its own majority.
    peers: Vec<PeerConfig> = "peers", FieldKind::Peers;
    /// The [users](#users) of the client port. Without this field nobody is asked who they are, and
    /// everybody may do everything.
    users: Vec<UserConfig> = "users", FieldKind::Users;
    /// Commands that this node takes from nobody, by their names in either protocol: `"flushall"`,
    /// `"client|kill"`.
    disabled_commands: Vec<String> = "disabled_commands", FieldKind::Names { expected: DISABLED_EXPECTED };
    /// A file with the [secret](securing.md#peers) of the cluster, by which peers prove who they
    /// are. Nobody but its owner may read it.
    peer_secret_file: Option<PathBuf> = "peer_secret_file", text("", SECRET_FILE_EXPECTED);
    /// Peers that prove nothing are refused if `required`, and believed otherwise. By default
    /// `required` with a `peer_secret_file`, and `off` without.
    peer_auth: PeerAuth = "peer_auth", text("off", PeerAuth::NAMES);
    /// True allows addresses beyond this machine at which anybody is believed.
    is_insecure: bool = "insecure", FieldKind::Boolean { default: false };
    /// The ack level of connections that do not choose one.
    ack: AckLevel = "ack", text("majority", AckLevel::NAMES);
    /// The directory of this node's files, relative to where the node is started. By default its
    /// name ends with the `id`.
    data_dir: PathBuf = "data_dir", text("data/nodeN", "the path of a directory");
    /// The file of the audit log, relative to where the node is started. It is created with mode
    /// 0600. Empty: there is none.
    audit_file: PathBuf = "audit_file", text("", "the path of a file");
    /// The least severe lines that this node logs, unless `RUST_LOG` is set.
    log_level: LogLevel = "log_level", text("info", LogLevel::NAMES);
    /// When the log is made durable: before a write is acknowledged, once a second, or when the
    /// system likes.
    fsync: Fsync = "fsync", text("always", Fsync::NAMES);
    /// The files for [TLS](#tls), and which connections are TLS. Without it, none is.
    tls: Option<TlsConfig> = "tls", FieldKind::Object { expected: TLS_EXPECTED };

    /// Beyond this, a client hears `BUSY` and is closed. A low limit on open files makes it lower.
    clients_max: usize = "clients_max", number(10_000, 1, 1_000_000);
    /// Bytes of the longest key.
    key_len_max: usize = "key_len_max", number(64 << 10, 1, KEY_LEN_MAX);
    /// Bytes of the longest value.
    value_len_max: usize = "value_len_max", number(16 << 20, 1, VALUE_LEN_MAX);
    /// Bytes of entries. Beyond this, client writes other than deletes are refused with `FULL`. 0
    /// is no limit.
    memory_max: usize = "memory_max", number(0, 0, BYTES_MAX);
    /// Bytes that may wait for one peer. Beyond this they are dropped, and the peer catches up by a
    /// dump.
    link_queue_max: usize = "link_queue_max", number(64 << 20, 1, BYTES_MAX);
    /// The back-pressure budget: bytes on their way to the log and to the queues of the peers.
    /// Beyond this, writers wait.
    write_room: usize = "write_room", number(64 << 20, 1, BYTES_MAX);
    /// A snapshot is written when the log is this many times as long as the last snapshot.
    compact_factor: u64 = "compact_factor", number(2, 1, 1_000);
    /// No snapshot is written before the log has this many bytes.
    compact_log_min: usize = "compact_log_min", number(64 << 20, 1, BYTES_MAX);

    /// The pause between two heartbeats: at most half of `peer_timeout_ms`, so that one late
    /// heartbeat takes no peer down.
    heartbeat: Duration = "heartbeat_ms", milliseconds(500, DURATION_MAX_MS);
    /// A peer without progress for this long is down. Dialling a peer takes no longer, either.
    peer_timeout: Duration = "peer_timeout_ms", milliseconds(2_000, DURATION_MAX_MS);
    /// How long a write waits for its ack. Then the client hears `TIMEOUT`.
    ack_timeout: Duration = "ack_timeout_ms", milliseconds(2_000, ACK_TIMEOUT_MAX_MS);
    /// A node that starts opens without a peer that has not brought it forward for this long.
    recovery_wait: Duration = "recovery_wait_ms", milliseconds(5_000, DURATION_MAX_MS);
    /// A client that takes none of its replies for this long is closed. So is one whose `RESTORE`
    /// stalls.
    write_timeout: Duration = "write_timeout_ms", milliseconds(10_000, DURATION_MAX_MS);
    /// A peer whose clock is off by more is refused, unless this node is blank. The order of writes
    /// is promised within half of it.
    clock_offset_max: Duration = "clock_offset_max_ms", milliseconds(10_000, DURATION_MAX_MS);
    /// No tombstone younger than this is collected.
    tombstone_age_min: Duration = "tombstone_age_min_ms", milliseconds(600_000, TOMBSTONE_AGE_MAX_MS);
    /// The longest pause between two dials of a peer, a quarter more or less.
    reconnect_pause_max: Duration = "reconnect_pause_max_ms", milliseconds(1_000, DURATION_MAX_MS);
    /// At shutdown, sessions and what is queued for peers have this long.
    shutdown_timeout: Duration = "shutdown_timeout_ms", milliseconds(3_000, DURATION_MAX_MS);

    in_no_file:
    /// The secrets of `peer_secret_file`; none without it.
    peer_secrets: PeerSecrets = PeerSecrets::default();
    /// Connections on the peer port that have not said HELLO yet, with those that are being closed.
    /// There are fewer only where few files may be open.
    unidentified_max: usize = UNIDENTIFIED_MAX;
    /// Past incarnations of one node that a version vector names one by one. Of more, the oldest
    /// are folded.
    incarnations_kept: usize = 64;
    /// Incarnations in a version vector. Beyond this, a node that starts does not write. A HELLO
    /// must carry several times as many.
    incarnations_max: usize = 4_096;
}

const fn number(default: u64, min: u64, max: u64) -> FieldKind {
    FieldKind::Number { default: Some(default), min, max }
}

const fn milliseconds(default: u64, max: u64) -> FieldKind {
    FieldKind::Milliseconds { default, max }
}

const fn text(default: &'static str, expected: &'static str) -> FieldKind {
    FieldKind::Text { default: Some(default), expected }
}
