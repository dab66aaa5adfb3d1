//! kvctl: reads and writes a kvmesh from a shell, a script or a prompt.
//!
//! Exit codes: 0 done, 1 refused by the server or not answered in its protocol, 2 bad usage, 3 no
//! connection, 4 unknown outcome. `cluster` has its own 3, which is that of `kvnode`. Data goes to
//! stdout, everything else to stderr.

mod atomic_file;
mod backup_file;
mod bench;
mod cluster;
mod command_line;
mod compare;
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
use std::process::ExitCode;
use std::time::Duration;

use kvmesh::client::{self, Client};
use kvmesh::wire::ack_level::AckLevel;

use command_line::{Arguments, Nodes, Seconds, Verb};

/// What the options say: whom to ask, and how.
struct Options {
    nodes: Vec<String>,
    ack: Option<AckLevel>,
    json: bool,
    timeout: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(5);
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Arguments = kvmesh::process::arguments::from_env("kvctl");
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                terminal::say(&failure.text);
            }
            ExitCode::from(failure.code.number())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { nodes, ack, json, timeout, verb } = arguments;
    let node_named = nodes.is_some();
    let asked = timeout.map(|Seconds(timeout)| timeout);
    let options = Options { nodes: nodes.unwrap_or_else(Nodes::default).0, ack, json, timeout: asked.unwrap_or(TIMEOUT) };
    match verb {
        None if io::stdin().is_terminal() => prompt::run(options, node_named),
        None => prompt::run_script(options),
        Some(Verb::Converge(own)) => {
            let own = own.timeout.map(|Seconds(timeout)| timeout);
            compare::converge(&options, own.or(asked).unwrap_or(CONVERGE_TIMEOUT))
        }
        Some(Verb::Diff(_)) => compare::diff(&options),
        Some(Verb::Cluster(args)) => cluster::run(&args),
        Some(Verb::Bench(bench)) => bench::run(options, bench),
        Some(Verb::Restore(wanted)) => restore_backup::run(&options, &wanted),
        Some(verb) => one_shot::run(&options, verb),
    }
}

/// Asks for the ack level of the options, if they name one.
type AgreeOnAck = fn(&Options, &mut Client) -> Result<(), client::Error>;

impl Options {
    /// A connection to the first of `nodes` that can be reached and takes the ack level asked for. If it breaks before that is agreed, no command has
    /// left, and the next one is tried.
    fn connect(&self, nodes: &[String]) -> Result<Client, client::Error> {
        self.connect_with(nodes, Options::agree_on_ack)
    }

    /// The same, where the ack level is agreed on in another way.
    fn connect_with(&self, nodes: &[String], agree: AgreeOnAck) -> Result<Client, client::Error> {
        let mut left = nodes;
        loop {
            let mut client = Client::connect(left, self.timeout)?;
            left = after(left, client.addr());
            match agree(self, &mut client) {
                Ok(()) => return Ok(client),
                Err(client::Error::NotConnected(_) | client::Error::Unknown(_)) if !left.is_empty() => {}
                Err(client::Error::Unknown(reason) | client::Error::Garbled(reason)) => return Err(client::Error::NotConnected(reason)),
                Err(error) => return Err(error),
            }
        }
    }

    fn agree_on_ack(&self, client: &mut Client) -> Result<(), client::Error> {
        let Some(level) = self.ack else { return Ok(()) };
        match client.call(format!("ACK {level}").as_bytes())? {
            b"OK" => Ok(()),
            said => Err(client::unexpected(said, "OK")),
        }
    }
}

/// The nodes that come after the one that was reached.
fn after<'a>(nodes: &'a [String], reached: &str) -> &'a [String] {
    match nodes.iter().position(|addr| addr == reached) {
        Some(index) => &nodes[index + 1..],
        None => &[],
    }
}

/// Why kvctl does not exit with 0, and with which code it does.
struct Failure {
    code: Code,
    /// For stderr; nothing is printed if it is empty.
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

    /// `is_write`: only a write can have an unknown outcome; a read that was not answered has simply not been answered. What answers a read with
    /// something else is there, and is no connection that can be waited for: the code is that of an answer which is not what was asked for.
    fn of(error: client::Error, is_write: bool) -> Failure {
        match error {
            client::Error::NotConnected(reason) => Failure::new(Code::NoConnection, reason),
            client::Error::Refused { code, sentence } => Failure { code: Code::Refused, text: format!("ERROR {code} {sentence}") },
            client::Error::Unknown(reason) | client::Error::Garbled(reason) if is_write => {
                Failure::new(Code::Unknown, format_args!("unknown outcome, the write may have happened or may still happen: {reason}"))
            }
            client::Error::Unknown(reason) => Failure::new(Code::NoConnection, reason),
            client::Error::Garbled(reason) => Failure::new(Code::Refused, format_args!("this is no answer of a kvmesh node: {reason}")),
        }
    }
}

/// Of a read. A write says so: [`Failure::of`].
impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure::of(error, false)
    }
}

/// Of stdout or stdin: the only things that kvctl uses `io` for itself. A reader who has left (`kvctl keys | head`) has got what he wanted, but
/// what was not printed was not printed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { code: Code::Refused, text: String::new() },
            _ => Failure::new(Code::Refused, format_args!("cannot read the input or write the output: {error}")),
        }
    }
}
