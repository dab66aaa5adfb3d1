//! One client connection, in text or in RESP: requests out, outcomes in, a deadline on every wait.
//!
//! Not the client of the library: what is checked here is what the node sent.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvmesh::wire::ack_level::AckLevel;
use kvmesh::wire::quoting;
use kvmesh::wire::resp::encoding::request;

use crate::keys::{Group, Key};
use crate::kit::client::{Client, Limit};
use crate::kit::resp::{self, Reply};

/// From the first byte of a round of requests to the last byte of its replies. Far longer than
/// `ack_timeout`: a client that waits so long is not answered at all.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// For setting the ack level, which waits for nothing. A stopped node accepts connections too, and
/// is tried again.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Text,
    Resp,
}

/// An operation on a key. Numbers are those of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creates; refused where the key exists.
    Set(u64),
    /// Changes; refused where the key does not exist.
    Upd(u64),
    Put(u64),
    /// Milliseconds until it expires. In RESP only.
    PutExpiring(u64, u32),
    Del,
    Get,
    Incr,
    /// The number of a token. In RESP only.
    Append(u64),
    /// Writes this key and its sibling, in one command or (`true`) in a transaction. In RESP only.
    PutBoth(u64, bool),
    /// Reads this key and its sibling in one command. In RESP only.
    GetBoth,
}

impl Action {
    pub fn is_write(self) -> bool {
        !matches!(self, Action::Get | Action::GetBoth)
    }

    /// The number that it writes, if it writes a whole value.
    pub fn number(self) -> Option<u64> {
        match self {
            Action::Set(number)
            | Action::Upd(number)
            | Action::Put(number)
            | Action::PutExpiring(number, _)
            | Action::PutBoth(number, _) => Some(number),
            Action::Del | Action::Get | Action::Incr | Action::Append(_) | Action::GetBoth => None,
        }
    }
}

/// The outcome of a request, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Answer),
    /// It has not happened.
    Refused(&'static str),
    Unknown(UnknownCause),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Written,
    /// The number of the value; `None` without a key.
    Value(Option<u64>),
    Count(u64),
    /// The tokens that a value is made of.
    Tokens(Box<[u64]>),
    /// The values of a key and its sibling.
    Both(Option<u64>, Option<u64>),
    /// Bytes that no client can have written.
    Foreign(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownCause {
    /// The node answered TIMEOUT.
    TimedOut,
    Broken,
    /// There was no complete reply within [`REPLY_TIMEOUT`].
    Silent,
    /// The run was over first.
    Pending,
}

/// Error codes that a fault, or the state of the key, explains.
const CODES: [&str; 8] = ["EXISTS", "NOTFOUND", "NOQUORUM", "NOREPLICAS", "READONLY", "LOADING", "BUSY", OTHER];
/// Stands for any other error code.
pub const OTHER: &str = "OTHER";

fn refused(code: &str) -> Outcome {
    match code {
        "TIMEOUT" => Outcome::Unknown(UnknownCause::TimedOut),
        code => Outcome::Refused(CODES.into_iter().find(|known| *known == code).unwrap_or(OTHER)),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Set(number) => write!(f, "SET {number}"),
            Action::Upd(number) => write!(f, "UPD {number}"),
            Action::Put(number) => write!(f, "PUT {number}"),
            Action::PutExpiring(number, ms) => write!(f, "PUT {number} PX {ms}"),
            Action::Del => f.write_str("DEL"),
            Action::Get => f.write_str("GET"),
            Action::Incr => f.write_str("INCR"),
            Action::Append(number) => write!(f, "APPEND {number}"),
            Action::PutBoth(number, false) => write!(f, "MSET {number}"),
            Action::PutBoth(number, true) => write!(f, "MULTI {number}"),
            Action::GetBoth => f.write_str("MGET"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(Answer::Written) => f.write_str("done"),
            Outcome::Done(Answer::Value(Some(number)) | Answer::Count(number)) => write!(f, "{number}"),
            Outcome::Done(Answer::Value(None)) => f.write_str("none"),
            Outcome::Done(Answer::Tokens(numbers)) => write!(f, "{numbers:?}"),
            Outcome::Done(Answer::Both(one, other)) => write!(f, "{one:?} and {other:?}"),
            Outcome::Done(Answer::Foreign(text)) => write!(f, "foreign {text:?}"),
            Outcome::Refused(code) => write!(f, "refused {code}"),
            Outcome::Unknown(why) => write!(f, "unknown ({why:?})"),
        }
    }
}

/// A connection that speaks one protocol.
pub struct Connection {
    client: Client,
    protocol: Protocol,
}

impl Connection {
    /// Connects, and sets the ack level.
    pub fn open(addr: SocketAddr, protocol: Protocol, level: AckLevel) -> io::Result<Connection> {
        let mut connection = Connection { client: Client::open(addr, DIAL_TIMEOUT)?, protocol };
        connection.client.set_limit(Limit::Until(Instant::now() + GREETING_TIMEOUT));
        let mut asked = Vec::new();
        match protocol {
            Protocol::Text => asked.extend_from_slice(format!("ACK {level}\n").as_bytes()),
            Protocol::Resp => request(&["ACK", &level.to_string()], &mut asked),
        }
        connection.client.send(&asked)?;
        match connection.line()?.as_slice() {
            b"OK" | b"+OK" => Ok(connection),
            other => Err(io::Error::other(format!("ACK was answered with {:?}", String::from_utf8_lossy(other)))),
        }
    }

    /// Sends a round of requests. Their replies arrive within [`REPLY_TIMEOUT`], or never.
    pub fn send(&mut self, requests: &[(Key, Action)]) -> io::Result<()> {
        let mut out = Vec::new();
        for (key, action) in requests {
            self.encode(*key, *action, &mut out);
        }
        self.client.set_limit(Limit::Until(Instant::now() + REPLY_TIMEOUT));
        self.client.send(&out)
    }

    fn encode(&self, key: Key, action: Action, out: &mut Vec<u8>) {
        let name = key.to_string();
        let value = action.number().map(|number| key.value(number)).unwrap_or_default();
        if self.protocol == Protocol::Text {
            let verb = match action {
                Action::Set(_) => "SET",
                Action::Upd(_) => "UPD",
                Action::Put(_) | Action::PutExpiring(..) => "PUT",
                Action::Del => "DEL",
                Action::Get => "GET",
                Action::Incr => "INCR",
                Action::Append(_) | Action::PutBoth(..) | Action::GetBoth => unreachable!("asked in RESP only"),
            };
            let space = if value.is_empty() { "" } else { " " };
            out.extend_from_slice(format!("{verb} {name}{space}{value}\n").as_bytes());
            return;
        }
        match action {
            Action::Set(_) => request(&["SET", &name, &value, "NX"], out),
            Action::Upd(_) => request(&["SET", &name, &value, "XX"], out),
            Action::Put(_) => request(&["SET", &name, &value], out),
            Action::PutExpiring(_, ms) => request(&["SET", &name, &value, "PX", &ms.to_string()], out),
            Action::Del => request(&["DEL", &name], out),
            Action::Get => request(&["GET", &name], out),
            Action::Incr => request(&["INCR", &name], out),
            Action::Append(number) => request(&["APPEND", &name, &key.token(number)], out),
            Action::PutBoth(number, in_transaction) => {
                let (other, other_value) = (key.sibling().to_string(), key.sibling().value(number));
                if in_transaction {
                    request(&["MULTI"], out);
                    request(&["SET", &name, &value], out);
                    request(&["SET", &other, &other_value], out);
                    request(&["EXEC"], out);
                } else {
                    request(&["MSET", &name, &value, &other, &other_value], out);
                }
            }
            Action::GetBoth => request(&["MGET", &name, &key.sibling().to_string()], out),
        }
    }

    /// Receives the reply to the oldest request that has none yet. After an error, the outcomes of
    /// this request and all later ones are unknown.
    pub fn receive(&mut self, key: Key, action: Action) -> io::Result<Outcome> {
        match self.protocol {
            Protocol::Text => Ok(from_text(key, action, &self.line()?)),
            Protocol::Resp => match self.answer(key, action) {
                Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Outcome::Done(Answer::Foreign(error.to_string().into()))),
                received => received,
            },
        }
    }

    fn answer(&mut self, key: Key, action: Action) -> io::Result<Outcome> {
        let reply = self.client.answer()?;
        match action {
            Action::PutBoth(_, true) => {
                let replies = [reply, self.client.answer()?, self.client.answer()?, self.client.answer()?];
                Ok(from_transaction(&replies))
            }
            _ => Ok(from_resp(key, action, &reply)),
        }
    }

    /// The next line without its end, never empty.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.client.read_line(&mut line)?;
        line.pop();
        line.pop_if(|byte| *byte == b'\r');
        if line.is_empty() { Err(io::Error::other("an empty reply")) } else { Ok(line) }
    }
}

/// The first word of an error.
fn code(error: &[u8]) -> String {
    String::from_utf8_lossy(error.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned()
}

fn from_text(key: Key, action: Action, line: &[u8]) -> Outcome {
    let foreign = || Outcome::Done(Answer::Foreign(String::from_utf8_lossy(line).into()));
    if let Some(error) = line.strip_prefix(b"ERROR ") {
        let code = code(error);
        return if code == "NOTFOUND" && action == Action::Get { Outcome::Done(Answer::Value(None)) } else { refused(&code) };
    }
    match action {
        Action::Get => match line.strip_prefix(b"VALUE ").map(quoting::unquote) {
            Some(Ok(bytes)) => value(key, &bytes),
            _ => foreign(),
        },
        Action::Incr => match std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()) {
            Some(count) => Outcome::Done(Answer::Count(count)),
            None => foreign(),
        },
        _ if line == b"OK" => Outcome::Done(Answer::Written),
        _ => foreign(),
    }
}

fn from_resp(key: Key, action: Action, reply: &resp::Answer) -> Outcome {
    match (&reply.reply, action) {
        (Reply::Error(error), _) => refused(&code(error.as_bytes())),
        (Reply::Array(both), Action::GetBoth) if both.len() == 2 => {
            match [(key, &both[0]), (key.sibling(), &both[1])].map(|(key, reply)| from_resp(key, Action::Get, reply)) {
                [Outcome::Done(Answer::Value(one)), Outcome::Done(Answer::Value(other))] => Outcome::Done(Answer::Both(one, other)),
                [Outcome::Done(Answer::Value(_)), other] | [other, _] => other,
            }
        }
        (Reply::Null, Action::Get) => Outcome::Done(Answer::Value(None)),
        (Reply::Null, Action::Set(_)) => Outcome::Refused("EXISTS"),
        (Reply::Null, Action::Upd(_)) => Outcome::Refused("NOTFOUND"),
        (Reply::Bulk(bytes), Action::Get) => value(key, bytes),
        (Reply::Simple(word), action) if word == "OK" && action.number().is_some() => Outcome::Done(Answer::Written),
        (Reply::Int(1), Action::Del) | (Reply::Int(_), Action::Append(_)) => Outcome::Done(Answer::Written),
        (Reply::Int(0), Action::Del) => Outcome::Refused("NOTFOUND"),
        (Reply::Int(count @ 0..), Action::Incr) => Outcome::Done(Answer::Count(*count as u64)),
        _ => foreign(reply),
    }
}

/// The outcome of an EXEC; for a refusal, the first reason.
fn from_transaction(replies: &[resp::Answer; 4]) -> Outcome {
    let error = replies.iter().find_map(|reply| if let Reply::Error(error) = &reply.reply { Some(error) } else { None });
    match (error, &replies[3].reply) {
        (Some(error), _) => refused(&code(error.as_bytes())),
        (None, Reply::Array(done)) if done.len() == 2 && done.iter().all(|reply| reply.raw == b"+OK\r\n") => Outcome::Done(Answer::Written),
        _ => foreign(&replies[3]),
    }
}

fn foreign(reply: &resp::Answer) -> Outcome {
    Outcome::Done(Answer::Foreign(String::from_utf8_lossy(&reply.raw).into()))
}

fn value(key: Key, bytes: &[u8]) -> Outcome {
    Outcome::Done(answer(key, bytes))
}

/// The answer of a read that finds this value.
pub fn answer(key: Key, bytes: &[u8]) -> Answer {
    let foreign = || Answer::Foreign(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into());
    if key.group == Group::Tokens {
        return key.tokens_in(bytes).map_or_else(foreign, Answer::Tokens);
    }
    match key.number_in(bytes) {
        Some(number) if key.group.is_counted() => Answer::Count(number),
        Some(number) => Answer::Value(Some(number)),
        None => foreign(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    const KEY: Key = Key { group: Group::Register, owner: 1, number: 2 };

    /// A connection to a server that sends these bytes after its reply to ACK.
    fn answered(protocol: Protocol, replies: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 256]).unwrap();
            stream.write_all(if protocol == Protocol::Text { b"OK\n" } else { b"+OK\r\n" }).unwrap();
            stream.write_all(replies).unwrap();
        });
        let mut connection = Connection::open(addr, protocol, AckLevel::Majority).unwrap();
        connection.client.set_limit(Limit::Until(Instant::now() + REPLY_TIMEOUT));
        connection
    }

    #[test]
    fn a_reply_that_drips_is_given_up_as_one_that_does_not_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(b"OK\n").unwrap();
            // Until the client has closed.
            while stream.write_all(b"1").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut connection = Connection::open(addr, Protocol::Text, AckLevel::Majority).unwrap();
        let bound = Duration::from_millis(200);
        let began = Instant::now();
        connection.client.set_limit(Limit::Until(began + bound));
        // The second read has no time left.
        for _ in 0..2 {
            let error = connection.receive(KEY, Action::Incr).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        }
        assert!(began.elapsed() >= bound && began.elapsed() < REPLY_TIMEOUT / 2, "{:?}", began.elapsed());
    }

    #[test]
    fn text_replies_are_one_of_three_outcomes() {
        let replies = b"OK\nERROR EXISTS it does\nERROR NOTFOUND none\nERROR NOTFOUND none\nERROR TIMEOUT x\nVALUE 1 register/1/2:.\nVALUE nonsense\nERROR SYNTAX x\n7\n";
        let mut connection = answered(Protocol::Text, replies);
        let expected = [
            (Action::Put(1), Outcome::Done(Answer::Written)),
            (Action::Set(1), Outcome::Refused("EXISTS")),
            (Action::Upd(1), Outcome::Refused("NOTFOUND")),
            (Action::Get, Outcome::Done(Answer::Value(None))),
            (Action::Del, Outcome::Unknown(UnknownCause::TimedOut)),
            (Action::Get, Outcome::Done(Answer::Value(Some(1)))),
            (Action::Get, Outcome::Done(Answer::Foreign("nonsense".into()))),
            (Action::Get, Outcome::Refused(OTHER)),
            (Action::Incr, Outcome::Done(Answer::Count(7))),
        ];
        for (action, outcome) in expected {
            assert_eq!(connection.receive(KEY, action).unwrap(), outcome, "{action}");
        }
        assert_eq!(connection.receive(KEY, Action::Get).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn resp_replies_are_one_of_three_outcomes() {
        let replies = b"+OK\r\n$-1\r\n$-1\r\n$-1\r\n-TIMEOUT x\r\n$16\r\n1 register/1/2:.\r\n:0\r\n:1\r\n:7\r\n-NOREPLICAS x\r\n";
        let mut connection = answered(Protocol::Resp, replies);
        let expected = [
            (Action::PutExpiring(1, 5), Outcome::Done(Answer::Written)),
            (Action::Set(1), Outcome::Refused("EXISTS")),
            (Action::Upd(1), Outcome::Refused("NOTFOUND")),
            (Action::Get, Outcome::Done(Answer::Value(None))),
            (Action::Del, Outcome::Unknown(UnknownCause::TimedOut)),
            (Action::Get, Outcome::Done(Answer::Value(Some(1)))),
            (Action::Del, Outcome::Refused("NOTFOUND")),
            (Action::Del, Outcome::Done(Answer::Written)),
            (Action::Incr, Outcome::Done(Answer::Count(7))),
            (Action::Put(1), Outcome::Refused("NOREPLICAS")),
        ];
        for (action, outcome) in expected {
            assert_eq!(connection.receive(KEY, action).unwrap(), outcome, "{action}");
        }
    }

    #[test]
    fn replies_of_pairs_and_transactions_are_read_to_their_end() {
        let key = Key { group: Group::Pair, owner: 1, number: 2 };
        let value = key.value(6);
        let replies = format!(
            "*2\r\n${}\r\n{value}\r\n$-1\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n-TIMEOUT x\r\n\
             +OK\r\n-LOADING x\r\n-LOADING x\r\n-EXECABORT x\r\n:3\r\n",
            value.len()
        );
        let mut connection = answered(Protocol::Resp, replies.into_bytes().leak());
        let expected = [
            (Action::GetBoth, Outcome::Done(Answer::Both(Some(6), None))),
            (Action::PutBoth(1, false), Outcome::Done(Answer::Written)),
            (Action::PutBoth(1, true), Outcome::Done(Answer::Written)),
            (Action::PutBoth(1, true), Outcome::Unknown(UnknownCause::TimedOut)),
            (Action::PutBoth(1, true), Outcome::Refused("LOADING")),
            (Action::Append(1), Outcome::Done(Answer::Written)),
        ];
        for (action, outcome) in expected {
            assert_eq!(connection.receive(key, action).unwrap(), outcome, "{action}");
        }
    }
}
