//! A connection to a node's client port, with a limit on every wait.
//!
//! Not the client of the library: what is tested here is what a node sends.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kvmesh::wire::text::VerbSpec;

/// A node that stands still does not refuse connections.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// No reply that is asked for here has a longer line.
const LINE_LEN_MAX: u64 = 64 << 20;

/// How long reads and writes may take.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Each of them.
    Each(Duration),
    /// All of them together. A node that drips bytes meets this limit, too.
    Until(Instant),
}

/// A client. Reads of its stream and the reading methods here may be mixed.
pub struct Client {
    reader: BufReader<LimitedStream>,
}

struct LimitedStream {
    stream: TcpStream,
    limit: Limit,
}

impl Client {
    /// Connects to a node. Dialling, and every later read and write, may take as long as this.
    pub fn open(addr: SocketAddr, timeout: Duration) -> io::Result<Client> {
        Client::over(TcpStream::connect_timeout(&addr, timeout.min(DIAL_TIMEOUT))?, timeout)
    }

    pub fn over(stream: TcpStream, timeout: Duration) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        // For what is done with the stream itself.
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client { reader: BufReader::new(LimitedStream { stream, limit: Limit::Each(timeout) }) })
    }

    pub fn set_limit(&mut self, limit: Limit) {
        self.reader.get_mut().limit = limit;
    }

    /// Sends the bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Appends the next line with its end. A close is an error of the kind `UnexpectedEof`.
    pub fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        (&mut self.reader).take(LINE_LEN_MAX).read_until(b'\n', line)?;
        if line.ends_with(b"\n") { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.read_line(&mut line)?;
        line.pop();
        line.pop_if(|byte| *byte == b'\r');
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// One command and all the lines of its reply.
    pub fn reply(&mut self, command: &str) -> io::Result<Vec<String>> {
        self.send(format!("{command}\n"))?;
        if has_end(command) { self.long_reply() } else { Ok(vec![self.line()?]) }
    }

    /// The lines of a reply that ends with `END`, or with an error in its first line.
    pub fn long_reply(&mut self) -> io::Result<Vec<String>> {
        let mut lines = vec![self.line()?];
        while !lines[0].starts_with("ERROR") && lines.last().is_some_and(|line| line != "END") {
            lines.push(self.line()?);
        }
        Ok(lines)
    }

    /// The lines of a reply, without the `END` of a long one.
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

    pub fn status(&mut self) -> io::Result<Status> {
        let lines = self.ask("STATUS")?;
        let pair = |line: &String| line.split_once(' ').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Ok(Status { fields: lines.iter().filter_map(pair).collect(), lines })
    }
}

impl AsRef<TcpStream> for Client {
    fn as_ref(&self) -> &TcpStream {
        &self.reader.get_ref().stream
    }
}

impl Read for Client {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.reader.read(bytes)
    }
}

impl LimitedStream {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.limit {
            Limit::Each(timeout) => Ok(Some(timeout)),
            Limit::Until(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                // A socket takes that for no timeout at all.
                Duration::ZERO => Err(ErrorKind::TimedOut.into()),
                left => Ok(Some(left)),
            },
        }
    }
}

impl Read for LimitedStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

impl Write for LimitedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Returns whether the reply to this command ends with `END`.
fn has_end(command: &str) -> bool {
    let verb = command.split(' ').next().unwrap_or_default();
    VerbSpec::find(verb.as_bytes()).is_some_and(|spec| spec.answers_lines)
}

/// `STATUS` by the names of its fields. A name that a node does not report is a mistake in a test.
#[derive(Debug)]
pub struct Status {
    pub lines: Vec<String>,
    fields: HashMap<String, String>,
}

impl Status {
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("STATUS has no line \"{name} …\": {:?}", self.lines))
    }

    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| panic!("STATUS: expected \"{name} <number>\", found \"{name} {text}\""))
    }
}

/// The word behind this name in a line of `PEERS`.
pub fn word_after<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').skip_while(|word| *word != name).nth(1)
}
