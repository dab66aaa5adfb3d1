//! One raw connection to a node's client port: lines out, lines in, and a deadline on every wait.
//!
//! Not the client of the library: a test of the wire must see the wire.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any time-out that a node is configured with, so that a reply of the node's own comes first.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// A longer line is no reply that a test has asked for.
const LINE_LEN_MAX: u64 = 32 << 20;

pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> io::Result<Client> {
        Client::over(TcpStream::connect_timeout(&addr, Duration::from_secs(2))?)
    }

    pub fn over(stream: TcpStream) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Client { reader: BufReader::new(stream) })
    }

    pub fn set_reply_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream().set_read_timeout(Some(timeout))
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Writes the bytes as they are.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream().write_all(bytes.as_ref())
    }

    /// The next line, without its end. A close is an error of the kind `UnexpectedEof`.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.reader).take(LINE_LEN_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Everything until the node closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        (&mut self.reader).take(LINE_LEN_MAX).read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// One command and all the lines of its reply.
    pub fn reply(&mut self, command: &str) -> io::Result<Vec<String>> {
        self.send(format!("{command}\n"))?;
        let mut lines = vec![self.line()?];
        if is_long(command) && !lines[0].starts_with("ERROR") {
            while lines.last().is_some_and(|line| line != "END") {
                lines.push(self.line()?);
            }
        }
        Ok(lines)
    }

    /// The same, without the `END` of a long reply.
    pub fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        let mut lines = self.reply(command)?;
        lines.pop_if(|line| line == "END");
        Ok(lines)
    }

    /// One command whose reply is one line.
    pub fn ask_line(&mut self, command: &str) -> io::Result<String> {
        let lines = self.ask(command)?;
        match <[String; 1]>::try_from(lines) {
            Ok([line]) => Ok(line),
            Err(lines) => Err(io::Error::other(format!("{command}: expected one line, found {lines:?}"))),
        }
    }

    /// `STATUS` by its names.
    pub fn status(&mut self) -> io::Result<Status> {
        let lines = self.ask("STATUS")?;
        let pair = |line: &String| line.split_once(' ').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Ok(Status { fields: lines.iter().filter_map(pair).collect(), lines })
    }
}

/// Whether the reply to this command ends with `END`.
fn is_long(command: &str) -> bool {
    let verb = command.split(' ').next().unwrap_or_default();
    ["STATUS", "PEERS", "KEYS", "DUMP", "HELP", "COMPACT", "RESUME", "MGET"].iter().any(|long| long.eq_ignore_ascii_case(verb))
}

#[derive(Debug)]
pub struct Status {
    pub lines: Vec<String>,
    fields: HashMap<String, String>,
}

impl Status {
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        match self.fields.get(name) {
            Some(value) => value,
            None => panic!("STATUS has no line \"{name} …\": {:?}", self.lines),
        }
    }

    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        match text.parse() {
            Ok(number) => number,
            Err(_) => panic!("STATUS: expected \"{name} <number>\", found \"{name} {text}\""),
        }
    }
}
