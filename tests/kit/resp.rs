//! RESP as a test sees it: replies, in both versions, with every byte kept.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use super::client::Client;

/// No reply that a test asks for is longer.
const LEN_MAX: usize = 64 << 20;
/// Replies are nested this deep at most (COMMAND DOCS is the deepest).
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(String),
    /// The error with its first word.
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    /// Any of `$-1`, `*-1` and `_`.
    Null,
    Array(Vec<Answer>),
    Map(Vec<(Answer, Answer)>),
    Set(Vec<Answer>),
    Double(String),
    Bool(bool),
    BigNumber(String),
    /// Format and text.
    Verbatim(String, Vec<u8>),
    Push(Vec<Answer>),
}

/// A reply, and the bytes that it came in.
#[derive(Clone, PartialEq)]
pub struct Answer {
    pub reply: Reply,
    pub raw: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 2_000;
        let shown = &self.raw[..self.raw.len().min(SHOWN)];
        write!(f, "{}", shown.escape_ascii())?;
        if shown.len() < self.raw.len() { write!(f, "… ({} bytes)", self.raw.len()) } else { Ok(()) }
    }
}

/// RESP beside the text protocol, on the same connection.
impl Client {
    /// The next reply in RESP. One that is none is an error of the kind `InvalidData`.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut raw = Vec::new();
        let reply = self.resp(&mut raw, 0)?;
        Ok(Answer { reply, raw })
    }

    fn resp(&mut self, raw: &mut Vec<u8>, depth: usize) -> io::Result<Reply> {
        if depth > DEPTH_MAX {
            return Err(garbled("nested too deep", raw));
        }
        let start = raw.len();
        self.resp_line(raw)?;
        let kind = raw[start];
        let line = String::from_utf8_lossy(&raw[start + 1..raw.len() - 2]).into_owned();
        Ok(match kind {
            b'+' => Reply::Simple(line),
            b'-' => Reply::Error(line),
            b':' => Reply::Int(number(&line, raw)?),
            b'(' => Reply::BigNumber(line),
            b',' => Reply::Double(line),
            b'#' if line == "t" || line == "f" => Reply::Bool(line == "t"),
            b'_' if line.is_empty() => Reply::Null,
            b'$' | b'*' if line == "-1" => Reply::Null,
            b'$' => Reply::Bulk(self.bulk(&line, raw)?),
            b'=' => {
                let bytes = self.bulk(&line, raw)?;
                match bytes.split_at_checked(4) {
                    Some((format, text)) if format.ends_with(b":") => {
                        Reply::Verbatim(String::from_utf8_lossy(&format[..3]).into_owned(), text.to_vec())
                    }
                    _ => return Err(garbled("a verbatim string without a format", raw)),
                }
            }
            b'*' => Reply::Array(self.many(&line, 1, raw, depth)?),
            b'~' => Reply::Set(self.many(&line, 1, raw, depth)?),
            b'>' => Reply::Push(self.many(&line, 1, raw, depth)?),
            b'%' => {
                let flat = self.many(&line, 2, raw, depth)?;
                Reply::Map(flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
            _ => return Err(garbled("no kind of reply", raw)),
        })
    }

    /// Appends a line with its end.
    fn resp_line(&mut self, raw: &mut Vec<u8>) -> io::Result<()> {
        let start = raw.len();
        self.read_line(raw)?;
        let is_whole = raw.len() - start > 2 && raw.ends_with(b"\r\n");
        if is_whole { Ok(()) } else { Err(garbled("a line that does not end with \\r\\n", raw)) }
    }

    fn bulk(&mut self, len: &str, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        let len = count(len, raw)?;
        let start = raw.len();
        raw.resize(start + len + 2, 0);
        self.read_exact(&mut raw[start..])?;
        if !raw.ends_with(b"\r\n") {
            return Err(garbled("a bulk without \\r\\n behind it", raw));
        }
        Ok(raw[start..start + len].to_vec())
    }

    fn many(&mut self, len: &str, factor: usize, raw: &mut Vec<u8>, depth: usize) -> io::Result<Vec<Answer>> {
        let mut elements = Vec::new();
        for _ in 0..count(len, raw)? * factor {
            let start = raw.len();
            let reply = self.resp(raw, depth + 1)?;
            elements.push(Answer { reply, raw: raw[start..].to_vec() });
        }
        Ok(elements)
    }
}

fn number(text: &str, raw: &[u8]) -> io::Result<i64> {
    text.parse().map_err(|_| garbled("no number", raw))
}

fn count(text: &str, raw: &[u8]) -> io::Result<usize> {
    text.parse().ok().filter(|count| *count <= LEN_MAX).ok_or_else(|| garbled("no length", raw))
}

fn garbled(what: &str, raw: &[u8]) -> io::Error {
    let tail = &raw[raw.len().saturating_sub(200)..];
    io::Error::new(ErrorKind::InvalidData, format!("{what}: …{}", tail.escape_ascii()))
}
