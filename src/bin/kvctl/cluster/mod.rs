//! `kvctl cluster`: runs nodes on this machine, in the foreground, until a signal stops them.
//!
//! Owns the order: refuse what cannot work, start, wait until all answer, watch, stop. A node that
//! ends is reported. It ends neither the other nodes nor this program, and it is not restarted.
//! `run-cluster.sh` builds and then becomes this.
//!
//! Nothing is left behind. Each node is in a process group of its own, so that Ctrl-C reaches this
//! program alone, which then signals each node once: a second signal would end a node before it has
//! handed over what is queued for its peers. Each node's standard input is a pipe from this
//! program, and a node stops when its standard input ends. So even SIGKILL to this program stops
//! the nodes.
//!
//! Everything is stopped within eight seconds of a signal: a signal is heeded after [`ASK_TIMEOUT`]
//! at the latest, and nothing here waits for the reader of stdout.

mod choice;
mod node_process;
mod screen;

use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use kvmesh::client::{self, unexpected};
use kvmesh::process::signals::{self, Signal};

use crate::command_line::ClusterArgs;
use crate::{Code, Failure, Options};
use choice::{Choice, ChosenNode};
use node_process::{NodeExit, NodeProcess};
use screen::Screen;

/// The signals that stop all nodes.
const STOP_SIGNALS: &[Signal] = &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// The time in which nodes have to stop before they are killed: twice the default of their own
/// bound.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);
/// The time for the last lines of nodes that have ended, and then for this program's own.
const FAREWELL: Duration = Duration::from_millis(500);
/// The time-out of one question. A node that is starting answers at once, if only that it is
/// loading.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two looks at the nodes.
const POLL_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two reports on a node that is not ready yet.
const REPORT_PAUSE: Duration = Duration::from_secs(10);

/// Runs the nodes until a signal comes. The error is a choice that is refused, a node that did not
/// start, or one that had to be killed.
pub fn run(options: &Options, args: &ClusterArgs) -> Result<(), Failure> {
    let choice = Choice::read(args)?;
    let signals = watch_signals().map_err(|error| failed("cannot wait for signals", &error))?;
    refuse_taken_addrs(&choice.nodes)?;
    let (screen, printer) = Screen::open().map_err(|error| failed("cannot start a thread", &error))?;
    let mut supervisor = Supervisor { options, choice, nodes: Vec::new(), signals, screen };
    let Err(end) = supervisor.start_and_watch();
    let were_killed = supervisor.stop();
    drop(supervisor);
    printer.leave(Instant::now() + FAREWELL);
    match end {
        StopReason::Signal if !were_killed => Ok(()),
        // It has been printed on stdout that a node had to be killed.
        StopReason::Signal => Err(Failure { code: Code::Refused, text: String::new() }),
        StopReason::Failed(failure) if !were_killed => Err(failure),
        StopReason::Failed(failure) => Err(Failure { code: Code::Refused, ..failure }),
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(Code::Refused, format_args!("{what}: {error}"))
}

/// Returns a channel that gets the first of [`STOP_SIGNALS`]. Further ones change nothing.
fn watch_signals() -> io::Result<Receiver<()>> {
    signals::block(STOP_SIGNALS)?;
    let (signal_tx, signal_rx) = bounded(1);
    signals::watch(STOP_SIGNALS, move |_| {
        // Refused after the first.
        let _ = signal_tx.try_send(());
    })?;
    Ok(signal_rx)
}

/// Refuses to start if something listens on one of the addresses. Two meshes on the same addresses
/// would answer each other's questions, "are you ready?" among them.
fn refuse_taken_addrs(nodes: &[ChosenNode]) -> Result<(), Failure> {
    let is_taken = |addr: &str| {
        let addrs = addr.to_socket_addrs().into_iter().flatten();
        addrs.into_iter().any(|addr| TcpStream::connect_timeout(&addr, ASK_TIMEOUT).is_ok())
    };
    let sentence = |node: &ChosenNode| {
        let (addr, config) = (&node.client_addr, node.config.display());
        format!(
            "kvctl: address in use: something listens on {addr} already; stop it (does node {} run in \
             another terminal?) or change client_addr in {config}",
            node.number
        )
    };
    let taken: Vec<String> = nodes.iter().filter(|node| is_taken(&node.client_addr)).map(sentence).collect();
    match taken.is_empty() {
        true => Ok(()),
        false => Err(Failure { code: Code::Refused, text: taken.join("\n") }),
    }
}

/// Why the nodes are stopped.
enum StopReason {
    Signal,
    Failed(Failure),
}

struct Supervisor<'a> {
    options: &'a Options,
    choice: Choice,
    /// The nodes that are not known to have ended.
    nodes: Vec<NodeProcess>,
    signals: Receiver<()>,
    screen: Screen,
}

impl Supervisor<'_> {
    fn start_and_watch(&mut self) -> Result<Infallible, StopReason> {
        self.start()?;
        self.await_ready()?;
        let greeting = self.greeting();
        self.screen.print(greeting);
        self.watch()
    }

    fn start(&mut self) -> Result<(), StopReason> {
        let program = node_program()?;
        for node in &self.choice.nodes {
            self.pause(Duration::ZERO)?;
            let started = NodeProcess::start(&program, node, self.screen.text_tx());
            let what = format!("cannot start {}", program.display());
            self.nodes.push(started.map_err(|error| StopReason::Failed(failed(&what, &error)))?);
        }
        Ok(())
    }

    /// Waits for so long. A signal ends the wait early, as an error.
    fn pause(&self, pause: Duration) -> Result<(), StopReason> {
        match self.signals.recv_timeout(pause) {
            Ok(()) => Err(StopReason::Signal),
            Err(_) => Ok(()),
        }
    }

    /// Waits until every node answers, for as long as it is working on that: catching up may take
    /// its time. A node that ends before it is ready was refused something, and then none of them
    /// stays.
    fn await_ready(&mut self) -> Result<(), StopReason> {
        let started = Instant::now();
        let mut reported = started;
        loop {
            let reports = reported.elapsed() >= REPORT_PAUSE;
            if reports {
                reported = Instant::now();
            }
            let mut all_ready = true;
            for index in 0..self.nodes.len() {
                self.pause(Duration::ZERO)?;
                let node = &mut self.nodes[index];
                let answer = if node.is_ready { Ok(()) } else { ask(self.options, &node.chosen.client_addr) };
                // Checked after the answer, which may be that of another process.
                if let Some(ended) = node.try_ended() {
                    return Err(StopReason::Failed(self.did_not_start(index, &ended)));
                }
                node.is_ready = answer.is_ok();
                all_ready &= node.is_ready;
                if let Err(answer) = answer
                    && reports
                {
                    let waited = started.elapsed().as_secs();
                    let number = node.chosen.number;
                    self.screen.print(format!("Waiting for node {number} since {waited} s: {answer}\n"));
                }
            }
            if all_ready {
                return Ok(());
            }
            self.pause(POLL_PAUSE)?;
        }
    }

    fn did_not_start(&mut self, index: usize, ended: &NodeExit) -> Failure {
        let node = self.nodes.remove(index);
        let number = node.chosen.number;
        node.await_last_lines(Instant::now() + FAREWELL);
        let sentence = format_args!("node {number} did not start ({ended}); the lines of [{number}] above say why");
        Failure::new(ended.code_at_start(), sentence)
    }

    fn greeting(&self) -> String {
        let mut text = String::from("\n");
        // Writing to memory does not fail.
        for node in &self.nodes {
            let (ChosenNode { number, client_addr, .. }, id) = (&node.chosen, node.id());
            let _ = writeln!(text, "Node {number} is ready: clients on {client_addr}, process {id}");
        }
        let (Some(first), Some(lost)) = (self.nodes.first(), self.nodes.get(1).or(self.nodes.first())) else {
            return text;
        };
        let addr = &first.chosen.client_addr;
        let (host, port) = addr.rsplit_once(':').unwrap_or((addr, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let (lost_number, lost_id) = (lost.chosen.number, lost.id());
        let kvctl = std::env::args().next().unwrap_or_else(|| "kvctl".to_owned());
        let restart = self.choice.restart_command(lost_number);
        let _ = write!(
            text,
            "\n\
             Try:          telnet {host} {port}        then: SET greeting hello world, GET greeting, HELP\n\
             \x20             {kvctl} -n {addr} status\n\
             Lose a node:  kill -9 {lost_id}        (node {lost_number})\n\
             Bring it back, in another terminal:  {restart}\n\
             Stop:         Ctrl-C\n\n"
        );
        text
    }

    /// Reports every node that ends, until a signal comes.
    fn watch(&mut self) -> Result<Infallible, StopReason> {
        loop {
            let mut index = 0;
            while let Some(node) = self.nodes.get_mut(index) {
                match node.try_ended() {
                    Some(ended) => self.report_end(index, &ended),
                    None => index += 1,
                }
            }
            self.pause(POLL_PAUSE)?;
        }
    }

    fn report_end(&mut self, index: usize, ended: &NodeExit) {
        let node = self.nodes.remove(index);
        let number = node.chosen.number;
        node.await_last_lines(Instant::now() + FAREWELL);
        let mut text = format!("Node {number} has ended: {ended}. ");
        text += &match ended.needs_a_person() {
            true => "Its log says what to do before it can start again\n".to_owned(),
            false => format!("To start it again, in another terminal: {}\n", self.choice.restart_command(number)),
        };
        if self.nodes.is_empty() {
            text += "None of these nodes is running any more. Ctrl-C ends this program.\n";
        }
        self.screen.print(text);
    }

    /// Stops every node in order, and kills those that have not ended in time. Returns true if
    /// there were any. Signals are not heeded meanwhile.
    fn stop(&mut self) -> bool {
        if !self.nodes.is_empty() {
            self.screen.print("Stopping …\n".to_owned());
        }
        for node in &self.nodes {
            node.ask_to_stop();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut ended = Vec::new();
        while !self.nodes.is_empty() && Instant::now() < deadline {
            ended.extend(self.nodes.extract_if(.., |node| node.try_ended().is_some()));
            #[expect(clippy::disallowed_methods, reason = "it polls processes, which give no signal, until a deadline")]
            std::thread::sleep(Duration::from_millis(20));
        }
        let were_killed = !self.nodes.is_empty();
        for mut node in self.nodes.drain(..) {
            let (number, limit) = (node.chosen.number, STOP_TIMEOUT.as_secs());
            self.screen.print(format!("Node {number} has not stopped within {limit} s and is killed.\n"));
            node.kill();
            ended.push(node);
        }
        let deadline = Instant::now() + FAREWELL;
        ended.into_iter().for_each(|node| node.await_last_lines(deadline));
        were_killed
    }
}

/// The path of the `kvnode` of the same build.
fn node_program() -> Result<PathBuf, StopReason> {
    match std::env::current_exe() {
        Ok(kvctl) => Ok(kvctl.with_file_name("kvnode")),
        Err(error) => Err(StopReason::Failed(failed("cannot find the directory of this program", &error))),
    }
}

/// Asks a node something that it answers only once it has caught up. The error is its other answer.
///
/// A node that answers its users alone counts as ready if no user was named, and so does one that
/// takes TLS alone: they will not tell more.
fn ask(options: &Options, client_addr: &str) -> Result<(), String> {
    let mut client = options.connect_to(client_addr, ASK_TIMEOUT).map_err(|error| error.to_string())?;
    let count = match client.call(b"COUNT") {
        Ok(count) => count,
        Err(client::Error::Refused { code, .. }) if code == "NOAUTH" && options.credentials.is_none() => return Ok(()),
        Err(client::Error::Refused { sentence, .. }) if sentence.starts_with("this port takes TLS alone") => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match count.iter().all(u8::is_ascii_digit) {
        true => Ok(()),
        false => Err(unexpected(count, "a number of keys").to_string()),
    }
}
