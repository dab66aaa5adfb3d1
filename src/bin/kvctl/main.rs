//! kvctl: reads and writes a kvmesh from a shell, a script or a prompt.
//!
//! Exit codes: 0 done, 1 refused by the server or not answered in its protocol, 2 bad usage, 3 no
//! connection, 4 unknown outcome. `cluster` has its own 3, which is that of `kvnode`. Data goes to
//! stdout, everything else to stderr.

#![cfg_attr(
    not(test),
    warn(
        clippy::disallowed_methods,
        clippy::exit,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used,
        reason = "this ships"
    )
)]

mod atomic_file;
mod backup_file;
mod bench;
mod certs;
mod cluster;
mod command_line;
mod compare;
mod credentials;
mod json;
mod one_shot;
mod progress_line;
mod prompt;
mod restore_backup;
#[cfg(test)]
mod scripted_node;
mod terminal;

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kvmesh::client::{self, Client};
use kvmesh::net::tls::ClientIdentity;
use kvmesh::wire::ack_level::AckLevel;
use kvmesh::wire::text::Verb;

use command_line::{KvctlArgs, NodeAddrs, Seconds, Subcommand};
use credentials::Credentials;

/// The options of all subcommands: which nodes to ask, as whom, and how.
struct Options {
    nodes: Vec<String>,
    credentials: Option<Credentials>,
    /// TLS, if it is to be spoken.
    tls: Option<ClientIdentity>,
    ack: Option<AckLevel>,
    json: bool,
    timeout: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(5);
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: KvctlArgs = kvmesh::process::arguments::from_env("kvctl");
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                terminal::print_error(&failure.text);
            }
            ExitCode::from(failure.code.number())
        }
    }
}

fn run(arguments: KvctlArgs) -> Result<(), Failure> {
    let KvctlArgs { nodes, user, password_file, tls, ca, cert, key, ack, json, timeout, subcommand } = arguments;
    let node_named = nodes.is_some();
    let asked = timeout.map(|Seconds(timeout)| timeout);
    let credentials = match subcommand {
        // It makes a password, and asks no node.
        Some(Subcommand::Genpass(_)) => None,
        _ => Credentials::read(user, password_file.as_deref(), |name| std::env::var(name).ok())?,
    };
    let tls = tls_identity(tls, ca, cert, key).map_err(|why| Failure::new(Code::Usage, why))?;
    let nodes = nodes.unwrap_or_else(NodeAddrs::default).0;
    let options = Options { nodes, credentials, tls, ack, json, timeout: asked.unwrap_or(TIMEOUT) };
    let Some(subcommand) = subcommand else {
        return match io::stdin().is_terminal() {
            true => prompt::run(options, node_named),
            false => prompt::run_script(options),
        };
    };
    match subcommand {
        Subcommand::Get(args) => one_shot::get(&options, &args),
        Subcommand::Set(args) => one_shot::write_value(&options, Verb::Set, &args.key, &args.value),
        Subcommand::Upd(args) => one_shot::write_value(&options, Verb::Upd, &args.key, &args.value),
        Subcommand::Put(args) => one_shot::write_value(&options, Verb::Put, &args.key, &args.value),
        Subcommand::Del(args) => one_shot::del(&options, &args),
        Subcommand::Exists(args) => one_shot::exists(&options, &args),
        Subcommand::Keys(args) => one_shot::keys(&options, &args),
        Subcommand::Count(_) => one_shot::count(&options),
        Subcommand::Status(_) => one_shot::report(&options, Verb::Status),
        Subcommand::Peers(_) => one_shot::peers(&options),
        Subcommand::Digest(_) => one_shot::digest(&options),
        Subcommand::Dump(_) => one_shot::dump(&options),
        Subcommand::Backup(args) => one_shot::backup(&options, &args),
        Subcommand::Restore(args) => restore_backup::run(&options, &args),
        Subcommand::Compact(_) => one_shot::report(&options, Verb::Compact),
        Subcommand::Resume(_) => one_shot::report(&options, Verb::Resume),
        Subcommand::Reload(_) => one_shot::report(&options, Verb::Reload),
        Subcommand::Ping(_) => one_shot::ping(&options),
        Subcommand::Converge(args) => {
            let own = args.timeout.map(|Seconds(timeout)| timeout);
            compare::converge(&options, own.or(asked).unwrap_or(CONVERGE_TIMEOUT))
        }
        Subcommand::Diff(_) => compare::diff(&options),
        Subcommand::Certs(args) => certs::run(&options, &args),
        Subcommand::Bench(args) => bench::run(options, args),
        Subcommand::Cluster(args) => cluster::run(&options, &args),
        Subcommand::Genpass(args) => credentials::generate(options.json, &args),
    }
}

/// Loads the files for TLS, if it is asked for.
fn tls_identity(tls: bool, ca: Option<PathBuf>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<ClientIdentity>, String> {
    if !tls {
        let given = [("--ca", &ca), ("--cert", &cert), ("--key", &key)].into_iter().find(|(_, file)| file.is_some());
        return given.map_or(Ok(None), |(option, _)| Err(format!("{option} is for TLS; expected --tls beside it")));
    }
    let Some(ca) = ca else {
        return Err("--tls needs --ca FILE: the certificate of the CA that has signed those of the nodes".to_owned());
    };
    let own = match (&cert, &key) {
        (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
        (None, None) => None,
        _ => return Err("--cert FILE and --key FILE go together".to_owned()),
    };
    ClientIdentity::load(&ca, own).map(Some)
}

/// Says on a new connection who asks, and sets the ack level, as far as the options name them.
type Greet = fn(&Options, &mut Client) -> Result<(), client::Error>;

impl Options {
    /// Connects to the first of `nodes` that can be reached and accepts the user and the ack level.
    /// If the connection breaks before that is agreed, no command was sent, and the next node is
    /// tried.
    fn connect(&self, nodes: &[String]) -> Result<Client, client::Error> {
        self.connect_with(nodes, |options, client| options.authenticate(client).and_then(|()| options.agree_on_ack(client)))
    }

    /// Connects like [`Options::connect`], where both are said in another way.
    fn connect_with(&self, nodes: &[String], greet: Greet) -> Result<Client, client::Error> {
        let mut left = nodes;
        loop {
            let mut client = Client::connect_with(left, self.timeout, self.tls.as_ref())?;
            left = after(left, client.addr());
            match greet(self, &mut client) {
                Ok(()) => return Ok(client),
                Err(client::Error::NotConnected(_) | client::Error::Unknown(_)) if !left.is_empty() => {}
                Err(client::Error::Unknown(reason) | client::Error::Garbled(reason)) => return Err(client::Error::NotConnected(reason)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects to one node, for what needs no ack level.
    fn connect_to(&self, addr: &str, timeout: Duration) -> Result<Client, client::Error> {
        let mut client = Client::connect_with(&[addr], timeout, self.tls.as_ref())?;
        self.authenticate(&mut client)?;
        Ok(client)
    }

    fn authenticate(&self, client: &mut Client) -> Result<(), client::Error> {
        self.credentials.as_ref().map_or(Ok(()), |credentials| credentials.show(client))
    }

    fn agree_on_ack(&self, client: &mut Client) -> Result<(), client::Error> {
        let Some(level) = self.ack else { return Ok(()) };
        match client.call(format!("ACK {level}").as_bytes())? {
            b"OK" => Ok(()),
            reply => Err(client::unexpected(reply, "OK")),
        }
    }
}

/// Returns the nodes behind the one that was reached.
fn after<'a>(nodes: &'a [String], reached: &str) -> &'a [String] {
    match nodes.iter().position(|addr| addr == reached) {
        Some(index) => &nodes[index + 1..],
        None => &[],
    }
}

/// Why kvctl does not exit with 0, and the exit code.
struct Failure {
    code: Code,
    /// The text for stderr; if it is empty, nothing is printed.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Refused,
    Usage,
    NoConnection,
    /// A node of `kvctl cluster` did not start, because its data need a person.
    NodeData,
    Unknown,
}

impl Code {
    fn number(self) -> u8 {
        match self {
            Code::Refused => 1,
            Code::Usage => 2,
            Code::NoConnection | Code::NodeData => 3,
            Code::Unknown => 4,
        }
    }
}

impl Failure {
    fn new(code: Code, text: impl fmt::Display) -> Failure {
        Failure { code, text: format!("kvctl: {text}") }
    }

    /// Adds to the text what the failure leaves behind.
    fn adding(self, more: impl fmt::Display) -> Failure {
        Failure { text: format!("{}{more}", self.text), ..self }
    }

    /// Turns an error of a request into an exit code.
    ///
    /// `is_write`: only a write can have an unknown outcome. A read that was not answered has no
    /// outcome. If the other end answers a read with something else, there is no point in waiting
    /// for a connection: the code is that of a refusal.
    fn of(error: client::Error, is_write: bool) -> Failure {
        match credentials::explained(error) {
            client::Error::NotConnected(reason) => Failure::new(Code::NoConnection, reason),
            client::Error::Refused { code, sentence } => Failure { code: Code::Refused, text: format!("ERROR {code} {sentence}") },
            client::Error::Unknown(reason) | client::Error::Garbled(reason) if is_write => {
                Failure::new(Code::Unknown, format_args!("unknown outcome, the write may have happened or may still happen: {reason}"))
            }
            client::Error::Unknown(reason) => Failure::new(Code::NoConnection, reason),
            client::Error::Garbled(reason) => Failure::new(Code::Refused, format_args!("the other end is no kvmesh node: {reason}")),
        }
    }
}

/// The failure of a read. For a write: [`Failure::of`].
impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure::of(error, false)
    }
}

/// A failure of stdout or stdin, the only streams that kvctl uses `io` for itself. A reader that
/// has left (`kvctl keys | head`) has all it wants, but not everything was printed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { code: Code::Refused, text: String::new() },
            _ => Failure::new(Code::Refused, format_args!("cannot read the input or write the output: {error}")),
        }
    }
}
