//! Requests of the text protocol, as a client writes them.

use std::fmt::Display;
use std::io::Write as _;

use super::http::is_http;
use super::verbs::Verb;
use crate::wire::quoting::{write_quoted, write_text, write_word};

/// One request, in the making: a verb, and the words behind it in their order.
///
/// Keys and values are quoted where they must be, so that a server reads the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine(Vec<u8>);

impl RequestLine {
    pub fn new(verb: Verb) -> RequestLine {
        RequestLine(verb.spec().name.as_bytes().to_vec())
    }

    /// Appends a key, or any other word that may hold any bytes.
    pub fn key(mut self, key: &[u8]) -> RequestLine {
        self.0.push(b' ');
        // Writing to memory does not fail.
        let _ = if is_http(key) { write_quoted(&mut self.0, key) } else { write_word(&mut self.0, key) };
        self
    }

    /// Appends the value, behind which nothing can follow.
    pub fn value(mut self, value: &[u8]) -> RequestLine {
        self.0.push(b' ');
        // Writing to memory does not fail.
        let _ = if is_http(value) { write_quoted(&mut self.0, value) } else { write_text(&mut self.0, value) };
        self
    }

    /// Appends a number or a word without spaces, such as an ack level.
    pub fn word(mut self, word: impl Display) -> RequestLine {
        // Writing to memory does not fail.
        let _ = write!(self.0, " {word}");
        self
    }

    /// The line without its end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends the line with its end to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        out.push(b'\n');
    }
}
