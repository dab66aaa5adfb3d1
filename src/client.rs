//! A blocking client of the text protocol: one connection, used by kvctl, by its load generator
//! (which reads RESP through it, too) and by the tests.
//!
//! Owns the socket, the read buffer, and the answer to the one question that matters after a
//! failure: was anything sent? Never sends a request twice and never reconnects. The caller may,
//! when [`Error`] says that nothing was sent.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::config::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::net::tls::ClientIdentity;
use crate::net::tls_stream::{TlsStream, UntilDeadline};
use crate::wire::dump;
use crate::wire::quoting;

/// Bytes of the longest line: the largest value and the largest key of any configuration, each byte
/// written as `\xHH`, and some words.
pub const LINE_LEN_MAX: usize = 4 * (VALUE_LEN_MAX + KEY_LEN_MAX) as usize + 1024;
/// Bytes of a reply line that brings no key, no value and no part of a dump. A longer one is
/// garbage. The longest real one shows a version vector.
const WORDS_LEN_MAX: usize = 2 << 20;
/// Lines of a report; one with more is garbage.
const REPORT_LINES_MAX: usize = 10_000;
/// Bytes of a report; one with more is garbage.
const REPORT_LEN_MAX: usize = 2 * WORDS_LEN_MAX;
/// Bytes a second. A server that sends or takes fewer for a whole time-out, without coming to an
/// end, is given up.
const RATE_MIN: f64 = 4096.0;

const READ_LEN: usize = 16 << 10;
/// The longest wait of one write before the client checks whether the server has answered.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of an empty buffer that are kept. More, which one large reply has taken, are given back.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// Why there is no reply. The first three variants tell what is known about a write.
#[derive(Debug)]
pub enum Error {
    /// Not a byte was sent. The write has not happened and may be tried elsewhere.
    NotConnected(String),
    /// Something may have been sent, and no complete reply came; or the reply itself says that the
    /// outcome is unknown (`TIMEOUT`). The write may have happened, or may still happen.
    Unknown(String),
    /// The server refused, in these words. The write has not happened.
    Refused { code: String, sentence: String },
    /// The other end does not speak this protocol.
    Garbled(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotConnected(reason) | Error::Unknown(reason) | Error::Garbled(reason) => f.write_str(reason),
            Error::Refused { code, sentence } => write!(f, "{code} {sentence}"),
        }
    }
}

impl std::error::Error for Error {}

/// One connection to a node.
pub struct Client {
    stream: ClientStream,
    addr: String,
    timeout: Duration,
    /// Invariant: `buffer[start..end]` has been read and not yet returned.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The pace of the reply that is being read.
    pace: Pace,
}

impl Client {
    /// Connects to the first of `addrs` (`host:port`) that can be reached. `timeout` bounds the
    /// whole search, and then each wait for the server to take or to send some bytes. A server that
    /// goes on at less than 4 KiB a second is given up after twice that time at the latest.
    pub fn connect<A: AsRef<str>>(addrs: &[A], timeout: Duration) -> Result<Client, Error> {
        Client::connect_with(addrs, timeout, None)
    }

    /// Connects like [`Client::connect`], with TLS if `tls` is given. The certificate of a node
    /// must be for the host of its address.
    pub fn connect_with<A: AsRef<str>>(addrs: &[A], timeout: Duration, tls: Option<&ClientIdentity>) -> Result<Client, Error> {
        let deadline = Instant::now() + timeout;
        let mut failures = Vec::new();
        for (index, addr) in addrs.iter().enumerate() {
            let addr = addr.as_ref();
            // The time that is left is shared, so that an address that drops packets leaves some
            // for the others.
            let share = deadline.saturating_duration_since(Instant::now()) / (addrs.len() - index) as u32;
            let dialled = dial(addr, share).and_then(|stream| ClientStream::over(stream, addr, tls, Instant::now() + share));
            match dialled {
                Ok(stream) => return Client::over(stream, addr, timeout),
                Err(error) => failures.push(format!("cannot connect to {addr}: {}", in_words(&error))),
            }
        }
        Err(Error::NotConnected(if failures.is_empty() { "no address to connect to".to_string() } else { failures.join("; ") }))
    }

    fn over(stream: ClientStream, addr: &str, timeout: Duration) -> Result<Client, Error> {
        let timeout = timeout.max(Duration::from_millis(1));
        let socket = stream.socket();
        socket
            .set_nodelay(true)
            .and_then(|()| socket.set_read_timeout(Some(timeout)))
            .and_then(|()| socket.set_write_timeout(Some(timeout)))
            .map_err(|error| Error::NotConnected(format!("cannot set up the connection to {addr}: {error}")))?;
        Ok(Client { stream, addr: addr.to_string(), timeout, buffer: Vec::new(), start: 0, end: 0, pace: Pace::default() })
    }

    /// The address that is connected, as it was given.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends whole command lines, any number of them. The error is [`Error::NotConnected`] if not
    /// one byte could be handed over, else [`Error::Unknown`].
    pub fn send(&mut self, lines: &[u8]) -> Result<(), Error> {
        let mut sent = 0;
        let mut pace = Pace::default();
        while sent < lines.len() {
            if pace.is_too_slow(self.timeout) {
                return Err(Error::Unknown(self.too_slow("took", &pace)));
            }
            let error = match pace.step(|| self.stream.write(&lines[sent..])) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(len) => {
                    sent += len;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let reason = self.lost("while a command was being sent", &error);
            return Err(if sent == 0 { Error::NotConnected(reason) } else { Error::Unknown(reason) });
        }
        let flushed = pace.step(|| self.stream.flush().map(|()| 0));
        flushed.map(drop).map_err(|error| Error::Unknown(self.lost("while a command was being sent", &error)))
    }

    /// Reads the next line of a reply, without its line end. Whatever it says is no error;
    /// [`Error::Unknown`] if it does not come.
    pub fn line(&mut self) -> Result<&[u8], Error> {
        self.pace = Pace::default();
        self.following_line()
    }

    /// Reads the next line of a reply that has begun. Lines read one by one with this are held to
    /// the pace of one reply, as [`Client::lines`] holds them.
    pub fn following_line(&mut self) -> Result<&[u8], Error> {
        let line = self.next_line()?;
        Ok(&self.buffer[line])
    }

    /// Reads the next `len` bytes of a reply, whatever they are, as a reply in RESP announces them.
    /// [`Error::Unknown`] if they do not come.
    pub fn bytes(&mut self, len: usize) -> Result<&[u8], Error> {
        if len > LINE_LEN_MAX {
            return Err(Error::Garbled(format!("{} announced {len} bytes; at most {LINE_LEN_MAX} are read", self.addr)));
        }
        self.pace = Pace::default();
        while self.end - self.start < len {
            self.fill(len)?;
        }
        let start = self.start;
        self.start += len;
        Ok(&self.buffer[start..self.start])
    }

    /// Reads the next reply of one line. `ERROR …` becomes the error that it means.
    pub fn reply(&mut self) -> Result<&[u8], Error> {
        let line = self.line()?;
        as_error(line).map_or(Ok(line), Err)
    }

    /// Reads the next reply of several lines and calls `each` for every line before `END`. If
    /// `each` fails, reading ends early, and the connection is of no further use.
    pub fn lines<E: From<Error>>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.pace = Pace::default();
        loop {
            let line = self.following_line()?;
            if line == b"END" {
                return Ok(());
            }
            match as_error(line) {
                Some(error) => return Err(error.into()),
                None => each(line)?,
            }
        }
    }

    /// Sends one command and returns its reply of one line.
    pub fn call(&mut self, line: &[u8]) -> Result<&[u8], Error> {
        self.send_command(line)?;
        self.reply()
    }

    /// Sends one command and calls `each` for every line of its reply.
    pub fn call_lines<E: From<Error>>(&mut self, line: &[u8], each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.send_command(line)?;
        self.lines(each)
    }

    /// Reads the next reply of several lines, of which there are never many: that of STATUS, PEERS,
    /// COMPACT, RESUME or RESTORE.
    pub fn report(&mut self) -> Result<Vec<String>, Error> {
        let addr = self.addr.clone();
        let (mut report, mut len) = (Vec::new(), 0);
        self.lines(|line| {
            len += line.len();
            if report.len() == REPORT_LINES_MAX || len > REPORT_LEN_MAX {
                let wrong = format!("{addr} sent a report of more than {REPORT_LINES_MAX} lines, or than {REPORT_LEN_MAX} bytes");
                return Err(Error::Garbled(wrong));
            }
            report.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })?;
        Ok(report)
    }

    /// Sends one command and returns its [`Client::report`].
    pub fn call_report(&mut self, line: &[u8]) -> Result<Vec<String>, Error> {
        self.send_command(line)?;
        self.report()
    }

    /// True if the server is known to have closed the connection. To be checked before a command is
    /// sent after a while. A reply that nothing asked for is no close: it says why one is coming,
    /// and is read as the next reply.
    pub fn is_closed(&mut self) -> bool {
        if self.start < self.end {
            return false;
        }
        matches!(self.peek(), Peeked::Closed(_))
    }

    fn peek(&mut self) -> Peeked {
        let peeked = self.stream.socket().set_nonblocking(true).and_then(|()| self.stream.peek());
        // A socket that does not go back to blocking is of no use.
        if self.stream.socket().set_nonblocking(false).is_err() {
            return Peeked::Closed(String::new());
        }
        match peeked {
            Ok(1..) => Peeked::Words,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Peeked::Nothing,
            // TLS says why.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Peeked::Closed(format!(": {error}")),
            _ => Peeked::Closed(String::new()),
        }
    }

    /// Sends a part of a long request whose reply comes at its end, unless the server replies or
    /// closes before. A server that refuses the request does so. The rest is not sent then, since
    /// it would not be read, and the next line says why. Returns true if all was sent.
    pub fn send_unless_answered(&mut self, part: &[u8]) -> Result<bool, Error> {
        let look_pause = Some(LOOK_PAUSE.min(self.timeout));
        let set =
            |stream: &ClientStream, timeout| stream.socket().set_write_timeout(timeout).map_err(|error| Error::Unknown(error.to_string()));
        set(&self.stream, look_pause)?;
        let sent = self.send_while_silent(part);
        set(&self.stream, Some(self.timeout))?;
        sent
    }

    fn send_while_silent(&mut self, mut part: &[u8]) -> Result<bool, Error> {
        let mut pace = Pace::default();
        while !part.is_empty() {
            if self.start < self.end || !matches!(self.peek(), Peeked::Nothing) {
                return Ok(false);
            }
            if pace.is_too_slow(self.timeout) {
                return Err(Error::Unknown(self.too_slow("took", &pace)));
            }
            match pace.step(|| self.stream.write(part)) {
                Ok(len) => part = &part[len..],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
                // The server has closed meanwhile; its reply may have come.
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Sends one command when nothing else is under way, and nothing on a connection that is known
    /// to be closed.
    ///
    /// A server that refuses the connection (`BUSY`) or the command (`TOOBIG`) may close before it
    /// has read everything. Its reply is on the way then, and says more than the broken pipe.
    pub fn send_command(&mut self, line: &[u8]) -> Result<(), Error> {
        if self.start == self.end
            && let Peeked::Closed(why) = self.peek()
        {
            return Err(Error::NotConnected(format!("the connection to {} was closed by the server{why}; nothing was sent", self.addr)));
        }
        let mut request = Vec::with_capacity(line.len() + 1);
        request.extend_from_slice(line);
        request.push(b'\n');
        self.send(&request).map_err(|broken| match self.line().ok().and_then(as_error) {
            Some(refusal) => refusal,
            None => broken,
        })
    }

    /// Returns the range of the next line in the buffer.
    fn next_line(&mut self) -> Result<Range<usize>, Error> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr(b'\n', &self.buffer[self.start + searched..self.end]) {
                let start = self.start;
                let end = start + searched + at;
                self.start = end + 1;
                let returned = end > start && self.buffer[end - 1] == b'\r';
                return Ok(start..end - usize::from(returned));
            }
            searched = self.end - self.start;
            let len_max = line_len_max(&self.buffer[self.start..self.end]);
            if searched > len_max {
                return Err(Error::Garbled(format!("{} sent a line of more than {len_max} bytes", self.addr)));
            }
            self.fill(len_max)?;
        }
    }

    /// Reads more into the buffer. No more than `len_max` bytes will be needed at a time.
    fn fill(&mut self, len_max: usize) -> Result<(), Error> {
        if self.pace.is_too_slow(self.timeout) {
            return Err(Error::Unknown(self.too_slow("sent", &self.pace)));
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_KEPT_MAX {
                self.buffer = Vec::new();
            }
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < READ_LEN {
            let doubled = (self.buffer.len() * 2).min(len_max.saturating_add(READ_LEN));
            self.buffer.resize(doubled.max(self.end + READ_LEN), 0);
        }
        loop {
            match self.pace.step(|| self.stream.read(&mut self.buffer[self.end..])) {
                Ok(0) => {
                    let closed = io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::Unknown(self.lost("before the reply was complete", &closed)));
                }
                Ok(len) => {
                    self.end += len;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Unknown(self.lost("before the reply was complete", &error))),
            }
        }
    }

    fn too_slow(&self, verb: &str, pace: &Pace) -> String {
        match pace.moved {
            0 => format!("{} made no progress for {:?}", self.addr, self.timeout),
            moved => format!("{} {verb} {moved} bytes in {:.1?}, and that was not all of it", self.addr, pace.waited),
        }
    }

    fn lost(&self, when: &str, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("{} made no progress for {:?}, {when}", self.addr, self.timeout),
            _ => format!("the connection to {} broke {when}: {}", self.addr, in_words(error)),
        }
    }
}

/// The pace at which bytes are sent or received. If any byte were a sign of life, a server that
/// drips could hold its client for ever.
#[derive(Default)]
struct Pace {
    /// The time in which this side only waited.
    waited: Duration,
    /// Bytes sent or received in that time.
    moved: usize,
}

impl Pace {
    /// Waits for one step that moves bytes, and counts it.
    fn step(&mut self, step: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        let begun = Instant::now();
        let done = step();
        self.waited += begun.elapsed();
        self.moved += *done.as_ref().unwrap_or(&0);
        done
    }

    /// True if a whole `timeout` was waited in which less than [`RATE_MIN`] moved. Bytes that moved
    /// early are no credit for later.
    fn is_too_slow(&mut self, timeout: Duration) -> bool {
        if self.moved as f64 >= RATE_MIN * timeout.as_secs_f64() {
            *self = Pace::default();
        }
        self.waited > timeout
    }
}

/// The longest line that may begin like this. Only a line that brings keys or values makes a client
/// hold memory for them, and only a quote makes room for escapes.
fn line_len_max(line: &[u8]) -> usize {
    const WORD_LEN: usize = b"VALUE \"\"\r".len();
    let (key_len_max, value_len_max) = (KEY_LEN_MAX as usize, VALUE_LEN_MAX as usize);
    let written = |text: &[u8], len_max: usize| WORD_LEN + if text.first() == Some(&b'"') { 4 * len_max } else { len_max };
    match line {
        [b'V', b'A', b'L', b'U', b'E', b' ', text @ ..] => written(text, value_len_max),
        [b'K', b'E', b'Y', b' ', text @ ..] => written(text, key_len_max).max(WORDS_LEN_MAX),
        [b'{', ..] => dump::line_len_max(key_len_max, value_len_max),
        _ => WORDS_LEN_MAX,
    }
}

/// The way to the server.
enum ClientStream {
    Plain(TcpStream),
    Tls(TcpStream, Box<TlsStream>),
}

impl ClientStream {
    /// Does the handshake of TLS on a new connection, if `tls` is given.
    fn over(socket: TcpStream, addr: &str, tls: Option<&ClientIdentity>, deadline: Instant) -> io::Result<ClientStream> {
        let Some(tls) = tls else { return Ok(ClientStream::Plain(socket)) };
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let mut stream = tls.connect(host).map_err(io::Error::other)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))?;
        let from = &mut UntilDeadline { socket: &socket, deadline };
        stream.handshake(&[], from, &socket).map_err(|error| io::Error::other(format!("TLS: {error}")))?;
        Ok(ClientStream::Tls(socket, Box::new(stream)))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            ClientStream::Plain(socket) | ClientStream::Tls(socket, _) => socket,
        }
    }

    /// Returns how many bytes it has, without taking them; 0 at the end.
    fn peek(&mut self) -> io::Result<usize> {
        match self {
            ClientStream::Plain(socket) => socket.peek(&mut [0]),
            ClientStream::Tls(socket, stream) => stream.peek(socket),
        }
    }
}

impl Read for ClientStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientStream::Plain(socket) => socket.read(into),
            ClientStream::Tls(socket, stream) => {
                // A server that takes no more may have said why.
                let _ = stream.flush(socket);
                stream.read(socket, into)
            }
        }
    }
}

impl Write for ClientStream {
    /// With TLS, bytes count as handed over once they are encrypted: nobody can tell how many of
    /// them have left. What has not is sent by the next call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientStream::Plain(socket) => socket.write(bytes),
            ClientStream::Tls(socket, stream) => {
                stream.flush(socket)?;
                let len = stream.encrypt(bytes)?;
                let _ = stream.flush(socket);
                Ok(len)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ClientStream::Plain(socket) => socket.flush(),
            ClientStream::Tls(socket, stream) => stream.flush(socket),
        }
    }
}

/// The front of what the server has sent.
enum Peeked {
    Nothing,
    Words,
    /// With the reason, if one is known.
    Closed(String),
}

fn dial(addr: &str, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for resolved in addr.to_socket_addrs()? {
        // A time-out of zero would be an error of another kind, so a moment is always left.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&resolved, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed by the server".to_string(),
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_string(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_string(),
        _ => error.to_string(),
    }
}

/// The error that an `ERROR` line means, or `None` for any other line.
pub fn as_error(line: &[u8]) -> Option<Error> {
    // A request in RESP is answered in RESP. A number may be negative, but no code begins with a
    // digit.
    let resp = || line.strip_prefix(b"-").filter(|rest| rest.first().is_some_and(u8::is_ascii_uppercase));
    let line = String::from_utf8_lossy(line.strip_prefix(b"ERROR ").or_else(resp)?);
    let (code, sentence) = line.split_once(' ').unwrap_or((&line, ""));
    Some(match code {
        "TIMEOUT" => Error::Unknown(format!("TIMEOUT {sentence}")),
        _ => Error::Refused { code: code.to_string(), sentence: sentence.to_string() },
    })
}

/// The bytes that a `VALUE …` line carries, unquoted.
pub fn as_value(line: &[u8]) -> Result<Vec<u8>, Error> {
    as_bytes(line, b"VALUE ")
}

/// The bytes that a `KEY …` line carries, unquoted.
pub fn as_key(line: &[u8]) -> Result<Vec<u8>, Error> {
    as_bytes(line, b"KEY ")
}

fn as_bytes(line: &[u8], word: &[u8]) -> Result<Vec<u8>, Error> {
    let garbled = || unexpected(line, &String::from_utf8_lossy(word));
    let data = line.strip_prefix(word).ok_or_else(garbled)?;
    quoting::unquote(data).map(|data| data.into_owned()).map_err(|_| garbled())
}

/// The digest, in hex, and the number of keys that a `DIGEST …` line carries.
pub fn as_digest(line: &[u8]) -> Result<(String, u64), Error> {
    let garbled = || unexpected(line, "DIGEST <hex> <keys>");
    let text = String::from_utf8_lossy(line.strip_prefix(b"DIGEST ").ok_or_else(garbled)?);
    let (sum, keys) = text.split_once(' ').ok_or_else(garbled)?;
    Ok((sum.to_owned(), keys.parse().map_err(|_| garbled())?))
}

/// The error for a reply that the command cannot have.
pub fn unexpected(line: &[u8], expected: &str) -> Error {
    const SHOWN: usize = 80;
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    Error::Garbled(format!("expected \"{}\", got {shown:?}", expected.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wait::until;
    use crate::wire::reply::{ErrorCode, Reply};
    use crate::wire::text::encode_reply;
    use proptest::prelude::*;
    use std::net::{Shutdown, TcpListener};
    use std::thread::JoinHandle;

    const SOON: Duration = Duration::from_secs(10);

    /// One step of a scripted server.
    enum ServerStep {
        Expect(&'static [u8]),
        Say(&'static [u8]),
        /// Reads until the client has closed.
        Wait,
        /// Reads until the client has sent something, or closed.
        Rest,
    }
    use ServerStep::{Expect, Rest, Say, Wait};

    /// Plays the steps to the first client and closes. Panics, which the join shows, if it receives
    /// anything else.
    fn scripted(steps: Vec<ServerStep>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            for step in steps {
                match step {
                    Expect(bytes) => {
                        let mut received = vec![0; bytes.len()];
                        stream.read_exact(&mut received).unwrap();
                        assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(bytes));
                    }
                    Say(bytes) => stream.write_all(bytes).unwrap(),
                    Wait => assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0),
                    Rest => drop(stream.read(&mut [0; 4]).unwrap()),
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        (addr, server)
    }

    fn client(steps: Vec<ServerStep>) -> (Client, JoinHandle<()>) {
        let (addr, server) = scripted(steps);
        (Client::connect(&[addr], SOON).unwrap(), server)
    }

    /// An address at which nothing listens.
    fn deserted() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    #[test]
    fn an_address_that_cannot_be_reached_is_passed_over_and_all_of_them_are_named() {
        let (addr, server) = scripted(vec![Expect(b"PING\n"), Say(b"PONG\r\n")]);
        let mut client = Client::connect(&[deserted(), addr.clone()], SOON).unwrap();
        assert_eq!(client.addr(), addr);
        assert_eq!(client.call(b"PING").unwrap(), b"PONG");
        server.join().unwrap();

        let (one, two) = (deserted(), "no-port".to_string());
        match Client::connect(&[one.clone(), two.clone()], SOON) {
            Err(Error::NotConnected(reason)) => assert!(reason.contains(&one) && reason.contains(&two), "{reason}"),
            other => panic!("{:?}", other.map(|client| client.addr)),
        }
        assert!(matches!(Client::connect::<String>(&[], SOON), Err(Error::NotConnected(_))));
    }

    #[test]
    fn a_connection_that_breaks_before_the_reply_is_complete_leaves_the_outcome_unknown() {
        for half in [&b""[..], b"O", b"OK", b"VALUE abc"] {
            let (mut client, server) = client(vec![Expect(b"SET a 1\n"), Say(half)]);
            let broken = client.call(b"SET a 1").unwrap_err();
            assert!(matches!(broken, Error::Unknown(_)), "{half:?}: {broken:?}");
            server.join().unwrap();
        }
    }

    #[test]
    fn a_server_that_goes_silent_leaves_the_outcome_unknown_after_the_time_out() {
        let (addr, server) = scripted(vec![Expect(b"SET a 1\n"), Say(b"O"), Wait]);
        let mut client = Client::connect(&[addr], Duration::from_millis(50)).unwrap();
        match client.call(b"SET a 1") {
            Err(Error::Unknown(reason)) => assert!(reason.contains("50ms"), "{reason}"),
            other => panic!("{other:?}"),
        }
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn a_connection_that_breaks_inside_a_long_reply_is_no_end_of_it() {
        let (mut client, server) = client(vec![Expect(b"KEYS\n"), Say(b"KEY a\nKEY b\nEN")]);
        let mut seen = 0;
        let broken = client.call_lines::<Error>(b"KEYS", |_| {
            seen += 1;
            Ok(())
        });
        assert!(matches!(broken, Err(Error::Unknown(_))));
        assert_eq!(seen, 2);
        server.join().unwrap();
    }

    #[test]
    fn a_refusal_is_told_from_an_outcome_that_the_server_does_not_know() {
        let (mut client, server) = client(vec![
            Expect(b"SET a 1\n"),
            Say(b"ERROR EXISTS key \"a\" exists\n"),
            Expect(b"SET a 1\n"),
            Say(b"ERROR TIMEOUT applied here\n"),
        ]);
        match client.call(b"SET a 1") {
            Err(Error::Refused { code, sentence }) => assert_eq!((&*code, &*sentence), ("EXISTS", "key \"a\" exists")),
            other => panic!("{other:?}"),
        }
        match client.call(b"SET a 1") {
            Err(Error::Unknown(reason)) => assert_eq!(reason, "TIMEOUT applied here"),
            other => panic!("{other:?}"),
        }
        server.join().unwrap();
    }

    #[test]
    fn many_commands_are_sent_at_once_and_their_replies_read_one_by_one() {
        let (mut client, server) = client(vec![
            Expect(b"SET a 1\nGET a\nKEYS\nGET b\nPING\n"),
            Say(b"OK\nVALUE 1\nKEY a\nKEY \"\"\nEND\nERROR NOTFOUND no \"b\"\nPON"),
            Say(b"G\n"),
        ]);
        client.send(b"SET a 1\nGET a\nKEYS\nGET b\nPING\n").unwrap();
        assert_eq!(client.reply().unwrap(), b"OK");
        assert_eq!(as_value(client.reply().unwrap()).unwrap(), b"1");
        let mut keys = Vec::new();
        client
            .lines::<Error>(|line| {
                keys.push(as_key(line)?);
                Ok(())
            })
            .unwrap();
        assert_eq!(keys, [&b"a"[..], b""]);
        assert!(matches!(client.reply(), Err(Error::Refused { code, .. }) if code == "NOTFOUND"));
        assert_eq!(client.line().unwrap(), b"PONG");
        server.join().unwrap();
    }

    #[test]
    fn bytes_of_a_length_that_was_said_are_read_whatever_they_are() {
        let long: &'static [u8] = Box::leak(vec![b'\n'; 100_000].into_boxed_slice());
        let (mut client, server) = client(vec![Say(b"$4\r\na\nb\r\r\n$100000\r\n"), Say(long), Say(b"\r\n+OK\r\nab")]);
        assert_eq!(client.line().unwrap(), b"$4");
        assert_eq!(client.bytes(6).unwrap(), b"a\nb\r\r\n");
        assert_eq!(client.line().unwrap(), b"$100000");
        assert_eq!(client.bytes(100_002).unwrap().len(), 100_002);
        assert_eq!(client.line().unwrap(), b"+OK");
        assert!(matches!(client.bytes(3), Err(Error::Unknown(_))));
        assert!(matches!(client.bytes(usize::MAX), Err(Error::Garbled(_))));
        server.join().unwrap();
    }

    #[test]
    fn the_reply_of_a_server_that_closes_at_once_is_read() {
        let (addr, server) = scripted(vec![Say(b"ERROR BUSY 10000 clients are connected\n")]);
        let mut client = Client::connect(&[addr], SOON).unwrap();
        server.join().unwrap();
        // The first write may still be taken by the kernel of this side. Whichever write fails, the
        // reply comes first.
        match client.call(&vec![b'x'; 8 << 20]) {
            Err(Error::Refused { code, .. }) => assert_eq!(code, "BUSY"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_of_something_long_is_read_before_all_of_it_is_sent() {
        let part = vec![b'x'; 16 << 20];
        // The server reads next to nothing. Only its reply can end this, before the first byte or
        // after some.
        let (mut refused, server) = client(vec![Expect(b"RESTORE\n"), Say(b"ERROR STALE too old\n"), Rest]);
        refused.send_command(b"RESTORE").unwrap();
        assert!(!refused.send_unless_answered(&part).unwrap());
        assert!(matches!(refused.reply(), Err(Error::Refused { code, .. }) if code == "STALE"));
        drop(refused);
        server.join().unwrap();

        let (addr, server) = scripted(vec![Expect(b"RESTORE\n"), Say(b"PONG\n"), Expect(b"x\n"), Wait]);
        let mut silent = Client::connect(&[addr], Duration::from_millis(200)).unwrap();
        assert_eq!(silent.call(b"RESTORE").unwrap(), b"PONG");
        assert!(silent.send_unless_answered(b"x\n").unwrap());
        drop(silent);
        server.join().unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stalled = Client::connect(&[listener.local_addr().unwrap().to_string()], Duration::from_millis(200)).unwrap();
        let begun = Instant::now();
        assert!(
            matches!(stalled.send_unless_answered(&part), Err(Error::Unknown(reason)) if reason.contains("made no progress for 200ms"))
        );
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }

    #[test]
    fn what_moves_too_slowly_for_a_whole_time_out_is_given_up_and_nothing_early_is_a_credit() {
        let timeout = Duration::from_millis(500);
        let too_slow = |waited_ms, moved| Pace { waited: Duration::from_millis(waited_ms), moved }.is_too_slow(timeout);
        assert!(!too_slow(500, 1) && too_slow(501, 1) && too_slow(501, 2047));
        assert!(!too_slow(501, 2048));
        let mut burst = Pace { waited: Duration::from_millis(1), moved: 1 << 30 };
        assert!(!burst.is_too_slow(timeout));
        burst.waited += Duration::from_millis(501);
        assert!(burst.is_too_slow(timeout));
        // The time that this side spends between two steps does not count.
        let mut pace = Pace::default();
        assert_eq!(pace.step(|| Ok(7)).unwrap(), 7);
        assert!(pace.moved == 7 && pace.waited < SOON, "{:?}", pace.waited);
    }

    #[test]
    fn only_what_brings_keys_or_values_may_be_long() {
        let (key, value) = (KEY_LEN_MAX as usize, VALUE_LEN_MAX as usize);
        for (begin, least, most) in [
            ("", 1 << 20, WORDS_LEN_MAX),
            ("ERROR X", 1 << 10, WORDS_LEN_MAX),
            ("vector {", 1 << 20, WORDS_LEN_MAX),
            ("VALUE ", value + 6, value + 100),
            ("VALUE \"", 4 * value + 8, LINE_LEN_MAX),
            ("KEY a", key + 4, WORDS_LEN_MAX),
            ("KEY \"", 4 * key + 6, LINE_LEN_MAX),
            ("{\"k\"", dump::line_len_max(key, value), LINE_LEN_MAX),
        ] {
            let max = line_len_max(begin.as_bytes());
            assert!((least..=most).contains(&max), "{begin:?}: {max}");
        }
    }

    #[test]
    fn nothing_sent_is_told_from_something_sent() {
        let (mut client, server) = client(vec![]);
        server.join().unwrap();
        client.stream.socket().shutdown(Shutdown::Write).unwrap();
        assert!(matches!(client.send(b"SET a 1\n"), Err(Error::NotConnected(_))));
    }

    #[test]
    fn on_a_connection_that_the_server_has_closed_nothing_is_sent() {
        let (mut closed, server) = client(vec![Expect(b"PING\n"), Say(b"PONG\n")]);
        assert!(!closed.is_closed());
        assert_eq!(closed.call(b"PING").unwrap(), b"PONG");
        server.join().unwrap();
        until("the close arrives", || closed.is_closed());
        assert!(matches!(closed.call(b"SET a 1"), Err(Error::NotConnected(_))));
    }

    #[test]
    fn values_are_bare_or_quoted_and_anything_else_is_garbled() {
        assert_eq!(as_value(b"VALUE two words").unwrap(), b"two words");
        assert_eq!(as_value(br#"VALUE "\x00\xff\n\"""#).unwrap(), b"\x00\xff\n\"");
        assert_eq!(as_value(br#"VALUE """#).unwrap(), b"");
        for line in [&b"VALUE"[..], b"OK", b"", b"VALUE \"open"] {
            assert!(matches!(as_value(line), Err(Error::Garbled(_))), "{line:?}");
        }
    }

    #[test]
    fn a_long_line_arrives_whole_and_its_buffer_is_given_back() {
        let long: &'static [u8] = Box::leak([&b"VALUE "[..], &vec![b'v'; 3 << 20], b"\nPONG\n"].concat().into_boxed_slice());
        let (mut client, server) = client(vec![Expect(b"GET a\n"), Say(long), Expect(b"PING\n"), Say(b"PONG\n")]);
        assert_eq!(as_value(client.call(b"GET a").unwrap()).unwrap().len(), 3 << 20);
        assert_eq!(client.reply().unwrap(), b"PONG");
        assert_eq!(client.call(b"PING").unwrap(), b"PONG");
        assert!(client.buffer.len() <= BUFFER_KEPT_MAX);
        server.join().unwrap();
    }

    proptest! {
        #[test]
        fn what_a_server_writes_is_one_line_and_is_read_as_it_was_meant(bytes in any_bytes()) {
            let encoded = |reply: Reply<'_>| {
                let mut line = Vec::new();
                encode_reply(&reply, &mut line);
                assert_eq!(line.pop(), Some(b'\n'));
                assert!(!line.iter().any(|byte| *byte < b' '), "{line:?}");
                line
            };
            prop_assert_eq!(as_value(&encoded(Reply::Value(bytes.as_slice().into()))).unwrap(), &bytes[..]);
            prop_assert_eq!(as_key(&encoded(Reply::Key(&bytes))).unwrap(), &bytes[..]);
            let sentence = quoting::shown(&bytes);
            match as_error(&encoded(Reply::Error { code: ErrorCode::NoQuorum, sentence: sentence.as_str().into() })) {
                Some(Error::Refused { code, sentence: read }) => prop_assert_eq!((&*code, read), ("NOQUORUM", sentence)),
                other => panic!("{other:?}"),
            }
        }

        #[test]
        fn nothing_that_a_server_says_panics(bytes in any_bytes()) {
            let _ = (as_error(&bytes), as_value(&bytes), as_key(&[b"KEY ", &bytes[..]].concat()));
        }
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let telling = prop::sample::select(b" \"\\\n\r\tax\x00\xc3\xbc".to_vec());
        prop_oneof![prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(telling, 0..300)]
    }
}
