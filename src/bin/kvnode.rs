//! `kvnode`: one node of the mesh, as its configuration file describes it.
//!
//! Owns what surrounds a node: the command line, the question which node to run, logging, the limit
//! on open files, and the exit code. The node itself is `kvmesh::node`.

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

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use kvmesh::config::{CONFIG_DIR, Config, ConfigError, config_files};
use kvmesh::node::NodeFailure;
use kvmesh::process::descriptors;
use kvmesh::process::logging;

/// Run one node of a kvmesh: a small replicated key-value store.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    note = "Without --config, on a terminal, it lists config/*.json and asks which to run.\nRUST_LOG chooses the log level (error, warn, info, debug); without it, log_level of the configuration does.",
    example = "kvnode --config config/node1.json",
    error_code(0, "stopped as asked"),
    error_code(1, "the node failed, or could not start: a port is taken, the disk is full"),
    error_code(2, "bad usage, or a configuration that is refused"),
    error_code(3, "the data need a person: damaged, incomplete, or of another version")
)]
struct KvnodeArgs {
    /// the node's configuration, such as config/node1.json
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
    /// listen here for clients instead of where the file says (host:port; port 0 lets the system
    /// choose)
    #[argh(option, arg_name = "addr")]
    client_addr: Option<String>,
    /// listen here for peers instead of where the file says
    #[argh(option, arg_name = "addr")]
    peer_addr: Option<String>,
    /// put aside what data_dir holds and come back blank: everything is taken from the peers, and
    /// what only this node had is lost
    #[argh(switch)]
    discard_local_data: bool,
    /// stop once standard input ends, so that the node does not outlive its supervisor
    #[argh(switch)]
    stop_with_stdin: bool,
}

/// Exit codes. Only after the first one does it help to try again without intervention.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DATA: u8 = 3;
/// The most configurations that are offered. In a folder with more, the user names a file.
const CHOICES_MAX: usize = 99;

fn main() -> ExitCode {
    let arguments: KvnodeArgs = kvmesh::process::arguments::from_env("kvnode");
    let logging = match logging::start() {
        Ok(logging) => logging,
        Err(error) => return leave(FAILED, format!("cannot start the log: {error}")),
    };
    let code = run(arguments);
    logging.end();
    code
}

fn run(arguments: KvnodeArgs) -> ExitCode {
    let KvnodeArgs { config, client_addr, peer_addr, discard_local_data, stop_with_stdin } = arguments;
    let path = match config {
        Some(path) => path,
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => match ask_which() {
            Ok(path) => path,
            Err(reason) => return leave(USAGE, reason),
        },
        None => return leave(USAGE, NO_CONFIG),
    };
    // The options hold at every reload, too.
    let read = move || {
        let config = Config::load(&path).and_then(|config| config.with_addrs(client_addr.clone(), peer_addr.clone()));
        config.map_err(|error| error.to_string()).and_then(with_open_files_shared)
    };
    let config = match read() {
        Ok(config) => config,
        Err(reason) => return leave(USAGE, reason),
    };
    match kvmesh::node::run(config, Box::new(read), discard_local_data, stop_with_stdin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ NodeFailure::System(_)) => leave(FAILED, failure),
        Err(failure @ NodeFailure::Configuration(_)) => leave(USAGE, failure),
        Err(failure @ NodeFailure::Data(_)) => leave(DATA, failure),
    }
}

const NO_CONFIG: &str = "no configuration is named\n\nUsage: kvnode --config FILE [--client-addr ADDR] [--peer-addr ADDR] [--discard-local-data] [--stop-with-stdin]\n\n\
                         Such as: kvnode --config config/node1.json\nMore: kvnode --help";

/// Prints why this program ends, on stderr.
fn leave(code: u8, reason: impl fmt::Display) -> ExitCode {
    logging::print_sentence(format_args!("kvnode: {reason}"));
    ExitCode::from(code)
}

/// Lists the configurations and asks until one is chosen. An error is the sentence to leave with.
fn ask_which() -> Result<PathBuf, String> {
    let mut paths = config_files(Path::new(CONFIG_DIR))
        .map_err(|error| format!("the folder {CONFIG_DIR} cannot be read here: {error}; name a file: kvnode --config FILE"))?;
    if paths.is_empty() {
        return Err(format!("the folder {CONFIG_DIR} holds no *.json; name a file: kvnode --config FILE"));
    }
    paths.truncate(CHOICES_MAX);
    let configs: Vec<Result<Config, ConfigError>> = paths.iter().map(|path| Config::load(path)).collect();
    let mut screen = io::stdout().lock();
    let closed = |error: io::Error| format!("the terminal is closed: {error}");
    list(&mut screen, &paths, &configs).map_err(closed)?;
    loop {
        write!(screen, "Which one? [1-{}, q to leave] ", paths.len()).and_then(|()| screen.flush()).map_err(closed)?;
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer).map_err(closed)?;
        let answer = answer.trim();
        if read == 0 || answer.eq_ignore_ascii_case("q") {
            return Err("no node was chosen".to_owned());
        }
        let index = answer.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let sentence = match index.and_then(|index| Some((paths.get(index)?, configs.get(index)?))) {
            Some((path, Ok(_))) => return Ok(path.clone()),
            Some((_, Err(error))) => format!("That one is refused: {error}."),
            None => format!("{answer:?} is not one of them."),
        };
        writeln!(screen, "{sentence}").map_err(closed)?;
    }
}

/// Prints a line for each file: what it would run, or why it is refused.
fn list(screen: &mut impl Write, paths: &[PathBuf], configs: &[Result<Config, ConfigError>]) -> io::Result<()> {
    for (index, (path, config)) in paths.iter().zip(configs).enumerate() {
        let number = index + 1;
        match config {
            Ok(config) => {
                let (path, id) = (path.display(), config.id);
                writeln!(screen, "{number:>3}  {path}: node {id}, clients on {}, peers on {}", config.client_addr, config.peer_addr)?;
            }
            Err(error) => writeln!(screen, "{number:>3}  refused: {error}")?,
        }
    }
    Ok(())
}

/// Raises the limit on open files and shares them out.
///
/// Each client is an open file, and the usual soft limit of 1024 is below the default of
/// `clients_max`. If the hard limit is too low as well, fewer clients are served, and everything
/// else keeps its descriptors. An error says that not even a few clients could be served.
fn with_open_files_shared(mut config: Config) -> Result<Config, String> {
    let Some(limit) = descriptors::raise_limit() else { return Ok(config) };
    let shares = descriptors::share(limit, config.peers.len(), config.clients_max)?;
    if shares.clients_max < config.clients_max {
        log::warn!(
            "clients_max is {} instead of {}: the system allows {limit} open files, and peers, log and snapshots need some; raise `ulimit -Hn` (systemd: LimitNOFILE)",
            shares.clients_max,
            config.clients_max
        );
    }
    (config.clients_max, config.unidentified_max) = (shares.clients_max, shares.unidentified_max);
    Ok(config)
}
