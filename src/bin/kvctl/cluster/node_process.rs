//! A node as a process: starts it, prints its output line by line behind its number, and signals
//! it.

use std::fmt;
use std::io::{self, PipeReader, Read, pipe};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::Sender;
use kvmesh::process::signals::Signal;
use kvmesh::process::threads::join_all;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::choice::ChosenNode;
use crate::Code;

const READ_LEN: usize = 16 << 10;
/// Bytes of a printed line; a longer one is printed as several. A node's own lines are shorter.
const LINE_LEN_MAX: usize = 64 << 10;

pub struct NodeProcess {
    pub chosen: ChosenNode,
    /// True once it has answered a client.
    pub is_ready: bool,
    /// Holds the pipe that is the node's standard input. The node stops when that is closed.
    child: Child,
    printer: JoinHandle<()>,
}

impl NodeProcess {
    /// Starts `program`, and a thread that passes on what it prints on stdout and stderr.
    pub fn start(program: &Path, chosen: &ChosenNode, text_tx: Sender<Vec<u8>>) -> io::Result<NodeProcess> {
        let (output, output_tx) = pipe()?;
        let number = chosen.number;
        let print = move || print_lines(number, output, &text_tx);
        let printer = thread::Builder::new().name(format!("output:{number}")).spawn(print)?;
        let child = Command::new(program)
            .arg("--stop-with-stdin")
            .arg("--config")
            .arg(&chosen.config)
            .stdin(Stdio::piped())
            .stdout(output_tx.try_clone()?)
            .stderr(output_tx)
            .process_group(0)
            .spawn()?;
        Ok(NodeProcess { chosen: chosen.clone(), is_ready: false, child, printer })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns how it ended, if it has.
    pub fn try_ended(&mut self) -> Option<NodeExit> {
        // Fails only for a process that is no child of this one.
        self.child.try_wait().ok().flatten().map(NodeExit)
    }

    /// Sends one SIGTERM, and one SIGCONT: a process that is stopped would not see the first.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It may have ended. Its id is not reused before this program has seen that.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the output of a node that has ended is passed on, or until the deadline.
    pub fn await_last_lines(self, deadline: Instant) {
        join_all(Some(self.printer), deadline, "output");
    }
}

/// How a node's process ended.
pub struct NodeExit(ExitStatus);

impl NodeExit {
    /// True if it does not help to start it again as it is: its configuration is refused, or its
    /// data are.
    pub fn needs_a_person(&self) -> bool {
        matches!(self.0.code(), Some(2 | 3))
    }

    /// The exit code of this program if the node ended before it was ready.
    pub fn code_at_start(&self) -> Code {
        match self.0.code() {
            Some(2) => Code::Usage,
            Some(3) => Code::NodeData,
            _ => Code::Refused,
        }
    }
}

impl fmt::Display for NodeExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(2), _) => f.write_str("exit code 2: its configuration is refused"),
            (Some(3), _) => f.write_str("exit code 3: its data need a person"),
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            (None, None) => self.0.fmt(f),
        }
    }
}

/// The loop of the thread `output:N`. Ends with the output of node N. A reader that is slow does
/// not delay the node, which drops lines of its log that find no room.
fn print_lines(number: u32, mut output: PipeReader, text_tx: &Sender<Vec<u8>>) {
    let mut lines = PrefixedLines::new(number);
    let mut chunk = vec![0; READ_LEN];
    loop {
        let text = match output.read(&mut chunk) {
            Ok(len) if len > 0 => lines.take(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // An error ends the output as well.
            _ => break,
        };
        // Refused once stdout is given up.
        let _ = text_tx.send(text);
    }
    let _ = text_tx.send(lines.rest());
}

/// Puts `[N] ` in front of every line. Holds less than one line.
struct PrefixedLines {
    prefix: String,
    /// A line whose end has not come yet.
    begun: Vec<u8>,
}

impl PrefixedLines {
    fn new(number: u32) -> PrefixedLines {
        PrefixedLines { prefix: format!("[{number}] "), begun: Vec::new() }
    }

    /// Takes the next part of the output, and returns the lines that are complete.
    fn take(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") || self.begun.len() >= LINE_LEN_MAX {
                text.append(&mut self.rest());
            }
        }
        text
    }

    /// Returns the line that has begun, with a line end.
    fn rest(&mut self) -> Vec<u8> {
        if self.begun.is_empty() {
            return Vec::new();
        }
        let mut text = self.prefix.clone().into_bytes();
        text.append(&mut self.begun);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is printed if the output comes in chunks of `chunk_len` bytes.
    fn printed(output: &[u8], chunk_len: usize) -> String {
        let mut lines = PrefixedLines::new(2);
        let mut text: Vec<u8> = output.chunks(chunk_len).flat_map(|chunk| lines.take(chunk)).collect();
        text.extend(lines.rest());
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn every_line_has_its_prefix_however_the_output_comes_in() {
        for chunk_len in 1..12 {
            assert_eq!(printed(b"one\n\ntwo\nno end", chunk_len), "[2] one\n[2] \n[2] two\n[2] no end\n");
            assert_eq!(printed(b"", chunk_len), "");
            assert_eq!(printed(b"\n", chunk_len), "[2] \n");
        }
        assert_eq!(PrefixedLines::new(2).take(b"not yet"), b"");
    }

    #[test]
    fn output_without_a_line_end_is_cut_into_lines() {
        let text = printed(&[b'x'; 3 * LINE_LEN_MAX + 1], 1000);
        assert!(text.lines().count() >= 3);
        assert!(text.lines().all(|line| line.starts_with("[2] x") && line.len() < LINE_LEN_MAX + 1010));
        assert_eq!(text.bytes().filter(|byte| *byte == b'x').count(), 3 * LINE_LEN_MAX + 1);
    }

    #[test]
    fn an_end_is_told_in_words_and_decides_the_exit_code() {
        for (status, words, code, needs_a_person) in [
            (0, "exit code 0", Code::Refused, false),
            (1 << 8, "exit code 1", Code::Refused, false),
            (2 << 8, "exit code 2: its configuration is refused", Code::Usage, true),
            (3 << 8, "exit code 3: its data need a person", Code::NodeData, true),
            (101 << 8, "exit code 101", Code::Refused, false),
            (9, "killed by SIGKILL", Code::Refused, false),
            (3 | 0x80, "killed by SIGQUIT", Code::Refused, false),
        ] {
            let ended = NodeExit(ExitStatus::from_raw(status));
            assert_eq!((ended.to_string().as_str(), ended.code_at_start(), ended.needs_a_person()), (words, code, needs_a_person));
        }
    }
}
