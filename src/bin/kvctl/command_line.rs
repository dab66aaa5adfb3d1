//! kvctl's command line: what may be written there, and types that are valid once parsed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use kvmesh::wire::ack_level::AckLevel;

/// Read and write a kvmesh. Without a command: a prompt on a terminal, else each line of stdin is
/// sent as a command.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Data is taken as it is once the key has begun: kvctl set k -5 writes -5. A key that begins with a dash must follow --.\nWithout --user and --password-file, KVMESH_USER and KVMESH_PASSWORD say who asks, if they are set.",
    example = "kvctl set greeting 'hello world'\nkvctl -n 127.0.0.1:7002 get greeting\nkvctl put photo - < photo.jpg\nkvctl backup backup.jsonl\nkvctl restore backup.jsonl",
    error_code(0, "done"),
    error_code(1, "refused by the server, the nodes differ, or the other end is no kvmesh node"),
    error_code(2, "bad usage"),
    error_code(3, "no connection: nothing was written"),
    error_code(4, "unknown outcome: the write may have happened or may still happen")
)]
pub struct KvctlArgs {
    /// client addresses of nodes; the first that can be reached is asked. Default: 127.0.0.1:7001
    #[argh(option, short = 'n', long = "node", arg_name = "addr[,addr...]")]
    pub nodes: Option<NodeAddrs>,
    /// the user that asks, at nodes that have users
    #[argh(option, arg_name = "name")]
    pub user: Option<String>,
    /// the file that holds the user's password and that nobody else can read; kvctl genpass makes
    /// one
    #[argh(option, arg_name = "file")]
    pub password_file: Option<PathBuf>,
    /// how many members must hold a write: local, majority or all. Default: as the node is
    /// configured
    #[argh(option, arg_name = "level")]
    pub ack: Option<AckLevel>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// how long to wait for a connection, and then for each sign of progress: a reply, or, while a
    /// long one comes, 4 KiB a second. Default: 5
    #[argh(option, arg_name = "seconds")]
    pub timeout: Option<Seconds>,
    /// speak TLS; needs --ca
    #[argh(switch)]
    pub tls: bool,
    /// with --tls: the certificate of the CA that has signed those of the nodes
    #[argh(option, arg_name = "file")]
    pub ca: Option<PathBuf>,
    /// with --tls: a certificate of your own, where nodes ask for one; needs --key
    #[argh(option, arg_name = "file")]
    pub cert: Option<PathBuf>,
    /// with --tls: the private key of --cert
    #[argh(option, arg_name = "file")]
    pub key: Option<PathBuf>,
    #[argh(subcommand)]
    pub subcommand: Option<Subcommand>,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Subcommand {
    Get(GetArgs),
    Set(SetArgs),
    Upd(UpdArgs),
    Put(PutArgs),
    Del(DelArgs),
    Exists(ExistsArgs),
    Keys(KeysArgs),
    Count(CountArgs),
    Status(StatusArgs),
    Peers(PeersArgs),
    Digest(DigestArgs),
    Dump(DumpArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Compact(CompactArgs),
    Resume(ResumeArgs),
    Reload(ReloadArgs),
    Ping(PingArgs),
    Converge(ConvergeArgs),
    Diff(DiffArgs),
    Certs(CertsArgs),
    Bench(BenchArgs),
    Cluster(ClusterArgs),
    Genpass(GenpassArgs),
}

/// Print a key's value and a newline. On a terminal, in quotes where it would be ambiguous
/// otherwise.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "get", help_triggers("-h", "--help"))]
pub struct GetArgs {
    /// print the value's bytes and nothing else: no newline, and no quotes on a terminal
    #[argh(switch)]
    pub raw: bool,
    #[argh(positional)]
    pub key: String,
}

/// Create a key; refused if it exists.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "set", help_triggers("-h", "--help"))]
pub struct SetArgs {
    #[argh(positional)]
    pub key: String,
    /// the value, or - to read it from stdin, to the last byte
    #[argh(positional)]
    pub value: String,
}

/// Update a key; refused if it does not exist.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "upd", help_triggers("-h", "--help"))]
pub struct UpdArgs {
    #[argh(positional)]
    pub key: String,
    /// the value, or - to read it from stdin, to the last byte
    #[argh(positional)]
    pub value: String,
}

/// Set a key, whether it exists or not.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "put", help_triggers("-h", "--help"))]
pub struct PutArgs {
    #[argh(positional)]
    pub key: String,
    /// the value, or - to read it from stdin, to the last byte
    #[argh(positional)]
    pub value: String,
}

/// Delete a key; refused if it does not exist.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "del", help_triggers("-h", "--help"))]
pub struct DelArgs {
    #[argh(positional)]
    pub key: String,
}

/// Print 1 if a key exists and 0 if not.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "exists", help_triggers("-h", "--help"))]
pub struct ExistsArgs {
    #[argh(positional)]
    pub key: String,
}

/// Print the keys, all or those that begin with a prefix, one a line. In quotes where a key would
/// be ambiguous otherwise.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "keys", help_triggers("-h", "--help"))]
pub struct KeysArgs {
    /// print no more than this many
    #[argh(option)]
    pub limit: Option<u64>,
    #[argh(positional)]
    pub prefix: Option<String>,
}

/// Print how many keys there are.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "count", help_triggers("-h", "--help"))]
pub struct CountArgs {}

/// Print a node's own state.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"))]
pub struct StatusArgs {}

/// Print what a node knows about its peers.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "peers", help_triggers("-h", "--help"))]
pub struct PeersArgs {}

/// Print the digest of a node's data and its number of keys: equal on nodes that hold the same
/// data.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "digest", help_triggers("-h", "--help"))]
pub struct DigestArgs {}

/// Print a node's whole state as JSON lines: a backup, if the exit code is 0. kvctl backup writes a
/// file more safely.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "dump", help_triggers("-h", "--help"))]
pub struct DumpArgs {}

/// Write a node's whole state to a file, for kvctl restore. An existing file is replaced once the
/// new one is complete and on disk, and not before. Prints the number of entries and of bytes.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "backup", help_triggers("-h", "--help"))]
pub struct BackupArgs {
    /// the file to write: a new name, or that of the last backup
    #[argh(positional)]
    pub file: String,
}

/// Restore a backup that kvctl backup has written. What the node has already, or has newer or
/// deleted, stays as it is; the other nodes get what is new from this one. Only a complete backup
/// is accepted.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "restore", help_triggers("-h", "--help"))]
pub struct RestoreArgs {
    /// write the backup's keys as new writes instead, which win over what is there: for a backup
    /// that is refused as too old
    #[argh(switch)]
    pub as_new_writes: bool,
    /// the backup, or - for stdin
    #[argh(positional)]
    pub file: String,
}

/// Write a snapshot on one node now, and begin a new log; nodes do so by themselves when the log
/// has grown.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "compact", help_triggers("-h", "--help"))]
pub struct CompactArgs {}

/// Take writes again on a node whose disk was full, once there is space.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "resume", help_triggers("-h", "--help"))]
pub struct ResumeArgs {}

/// Have a node read its configuration file again, apply what can change while it runs, and name
/// what needs a restart.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "reload", help_triggers("-h", "--help"))]
pub struct ReloadArgs {}

/// Ask whether a node answers.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "ping", help_triggers("-h", "--help"))]
pub struct PingArgs {}

/// Wait until all the nodes named with -n have received the same writes and hold the same data.
/// Exit code 1 if they have not in time.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "converge", help_triggers("-h", "--help"))]
pub struct ConvergeArgs {
    /// how long to wait. Default: 30
    #[argh(option, arg_name = "seconds")]
    pub timeout: Option<Seconds>,
}

/// Print the keys on which the nodes named with -n differ; exit code 1 if there are any. While
/// clients write, writes under way show as well.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "diff", help_triggers("-h", "--help"))]
pub struct DiffArgs {}

/// Make certificates for TLS: a CA of your own, and what it signs. They are files in a folder; none
/// is ever overwritten.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "certs",
    help_triggers("-h", "--help"),
    note = "Keep ca.key where no node and no client can read it: it makes certificates that all of them believe.",
    example = "kvctl certs init certs --nodes one.example,two.example,three.example\nkvctl certs client certs --name alice"
)]
pub struct CertsArgs {
    #[argh(subcommand)]
    pub subcommand: CertsSubcommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum CertsSubcommand {
    Init(CertsInitArgs),
    Client(CertsClientArgs),
}

/// Make a CA (ca.pem, ca.key), and a certificate and key for each node (node1.pem, node1.key and so
/// on), in a folder.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "init", help_triggers("-h", "--help"))]
pub struct CertsInitArgs {
    /// the hosts of nodes 1, 2 and so on, as clients and peers dial them: names or addresses,
    /// without a port
    #[argh(option, arg_name = "host[,host...]")]
    pub nodes: HostList,
    /// the cluster that is named in the certificates of nodes. Default: kvmesh
    #[argh(option, arg_name = "name", default = "\"kvmesh\".to_owned()")]
    pub cluster: String,
    #[argh(positional)]
    pub dir: PathBuf,
}

/// Make a certificate and key for a client (NAME.pem, NAME.key), signed by the CA of the folder.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "client", help_triggers("-h", "--help"))]
pub struct CertsClientArgs {
    /// who the client is: letters, digits, dots, dashes and underscores
    #[argh(option)]
    pub name: String,
    #[argh(positional)]
    pub dir: PathBuf,
}

/// Measure: each of many connections sends rounds of pipelined commands, spread over the nodes
/// named with -n, and the replies are checked and timed. With --protocol resp the nodes may be
/// redis-servers. Ctrl-C ends it early, with a report. Exit code 1 if there was any error, or if it
/// was ended early.
#[derive(FromArgs, ArgsInfo, Clone, Debug)]
#[argh(subcommand, name = "bench", help_triggers("-h", "--help"))]
pub struct BenchArgs {
    /// text (PUT and GET), or resp (SET and GET), the protocol of Redis. Default: text
    #[argh(option, arg_name = "name", default = "BenchProtocol::Text")]
    pub protocol: BenchProtocol,
    /// connections, each with a thread of its own. Default: 50
    #[argh(option, default = "Bounded(50)")]
    pub clients: Bounded<1, 10_000>,
    /// commands in one round. Default: 16
    #[argh(option, default = "Bounded(16)")]
    pub depth: Bounded<1, 10_000>,
    /// how long to measure, after half a second of warm-up. Default: 5
    #[argh(option, default = "Seconds(Duration::from_secs(5))")]
    pub seconds: Seconds,
    /// how many different keys. Default: 100000
    #[argh(option, default = "Bounded(100_000)")]
    pub keys: Bounded<1, 1_000_000_000>,
    /// bytes of each value. Default: 64
    #[argh(option, arg_name = "bytes", default = "Bounded(64)")]
    pub value_size: Bounded<1, { 16 << 20 }>,
    /// how many of a hundred commands are GET, the others writing; with any, all keys are written
    /// first. Default: 0
    #[argh(option, arg_name = "percent", default = "Bounded(0)")]
    pub reads: Bounded<0, 100>,
    /// open loop: so many operations a second, of all connections together, on a schedule, whether
    /// the replies keep up or not; a round's time counts from when it was due. Default: closed
    /// loop, each connection sends when its last round is answered
    #[argh(option, arg_name = "operations")]
    pub rate: Option<Bounded<1, 1_000_000_000>>,
    /// with resp: every SET is followed by WAIT with this number and 1000 ms, and both are one
    /// operation; fewer replicas are an error, SHORT
    #[argh(option, arg_name = "replicas")]
    pub wait: Option<Bounded<1, 1_000>>,
}

/// Run the nodes of a folder on this machine, in the foreground, until Ctrl-C: all of them, or one.
/// A node's log lines are printed behind its number.
#[derive(FromArgs, ArgsInfo, Clone, Debug)]
#[argh(
    subcommand,
    name = "cluster",
    help_triggers("-h", "--help"),
    note = "A node that ends is reported. It ends neither the other nodes nor this program, and it is not restarted.\nA signal stops all of them within eight seconds. If this program is killed, they stop as well.",
    example = "kvctl cluster\nkvctl cluster 2",
    error_code(0, "stopped by SIGINT, SIGTERM, SIGHUP or SIGQUIT"),
    error_code(1, "a node did not start, an address is in use, or a node had to be killed"),
    error_code(2, "bad usage, or a configuration that is refused"),
    error_code(3, "a node did not start: its data need a person")
)]
pub struct ClusterArgs {
    /// the folder that holds node1.json, node2.json and so on. Default: config
    #[argh(option, arg_name = "dir")]
    pub config_dir: Option<PathBuf>,
    /// what is printed as the command that starts node N again, followed by N. Default: kvctl
    /// cluster
    #[argh(option, arg_name = "words")]
    pub restart_command: Option<String>,
    /// only this node: the N of a nodeN.json
    #[argh(positional)]
    pub node: Option<String>,
}

/// Make a secret of 256 random bits, for a user or for the peers, and print it with its SHA-256,
/// which goes into the configuration.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "genpass",
    help_triggers("-h", "--help"),
    note = "It asks no node.",
    example = "kvctl genpass ann.password\nkvctl --user ann --password-file ann.password count"
)]
pub struct GenpassArgs {
    /// write the secret to this new file, for its owner alone, and print only the SHA-256
    #[argh(positional)]
    pub file: Option<PathBuf>,
}

/// The protocol that the load generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchProtocol {
    Text,
    Resp,
}

impl FromStr for BenchProtocol {
    type Err = String;
    fn from_str(text: &str) -> Result<BenchProtocol, String> {
        match text {
            "text" => Ok(BenchProtocol::Text),
            "resp" => Ok(BenchProtocol::Resp),
            _ => Err(format!("{text:?} is no protocol; expected text or resp")),
        }
    }
}

impl fmt::Display for BenchProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BenchProtocol::Text => "text",
            BenchProtocol::Resp => "resp",
        })
    }
}

/// One or more addresses, `host:port`, separated by commas.
#[derive(Clone, Debug)]
pub struct NodeAddrs(pub Vec<String>);

impl Default for NodeAddrs {
    fn default() -> NodeAddrs {
        NodeAddrs(vec!["127.0.0.1:7001".to_string()])
    }
}

impl FromStr for NodeAddrs {
    type Err = String;
    fn from_str(text: &str) -> Result<NodeAddrs, String> {
        let one = |addr: &str| match addr.trim().rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(addr.trim().to_string()),
            _ => Err(format!("{addr:?} is no address; expected host:port, as in 127.0.0.1:7001")),
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(NodeAddrs)
    }
}

/// One or more hosts, without a port, separated by commas.
#[derive(Clone, Debug)]
pub struct HostList(pub Vec<String>);

impl FromStr for HostList {
    type Err = String;
    fn from_str(text: &str) -> Result<HostList, String> {
        let one = |host: &str| {
            let host = host.trim();
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            match is_name || bare.parse::<IpAddr>().is_ok() {
                true => Ok(bare.to_owned()),
                false => Err(format!("{host:?} is no host; expected a name or an address without a port, as in one.example")),
            }
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(HostList)
    }
}

/// A time-out in seconds, written `2` or `0.5`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Seconds, String> {
        const DAY: f64 = 86_400.0;
        match text.parse::<f64>() {
            Ok(seconds) if (0.001..=DAY).contains(&seconds) => Ok(Seconds(Duration::from_secs_f64(seconds))),
            _ => Err("expected seconds, from 0.001 to 86400".to_string()),
        }
    }
}

/// A number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<const MIN: usize, const MAX: usize>(pub usize);

impl<const MIN: usize, const MAX: usize> FromStr for Bounded<MIN, MAX> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Bounded(number)),
            _ => Err(format!("expected a number from {MIN} to {MAX}")),
        }
    }
}
