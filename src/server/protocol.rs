//! The two protocols of clients, told apart by the first byte of each request.

use std::io;

use crate::wire::reply::Reply;
use crate::wire::resp::{RespVersion, encoding};
use crate::wire::text;

/// The protocol of a request, and so of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Resp(RespVersion),
}

impl Protocol {
    /// No text command begins with an asterisk, and every request of a Redis client does.
    pub fn of(first: Option<&u8>, version: RespVersion) -> Protocol {
        if first == Some(&b'*') { Protocol::Resp(version) } else { Protocol::Text }
    }

    /// Appends a reply.
    pub fn encode(self, reply: &Reply<'_>, out: &mut Vec<u8>) {
        match self {
            Protocol::Text => text::encode_reply(reply, out),
            Protocol::Resp(version) => encoding::encode_reply(reply, version, out),
        }
    }

    pub fn write(self, out: &mut impl io::Write, reply: &Reply<'_>) -> io::Result<()> {
        match self {
            Protocol::Text => text::write_reply(out, reply),
            Protocol::Resp(version) => encoding::write_reply(out, reply, version),
        }
    }
}
