//! The two protocols of clients, told apart by the first byte of each request.

use std::io;

use crate::wire::reply::Reply;
use crate::wire::resp::{RespVersion, encoding};
use crate::wire::text;

/// The protocol of a request, and so of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientProtocol {
    Text,
    Resp(RespVersion),
}

impl ClientProtocol {
    /// No text command begins with an asterisk, and every request of a Redis client does.
    pub fn of(first: Option<&u8>, version: RespVersion) -> ClientProtocol {
        if first == Some(&b'*') { ClientProtocol::Resp(version) } else { ClientProtocol::Text }
    }

    /// Appends a reply.
    pub fn encode(self, reply: &Reply<'_>, out: &mut Vec<u8>) {
        match self {
            ClientProtocol::Text => text::encode_reply(reply, out),
            ClientProtocol::Resp(version) => encoding::encode_reply(reply, version, out),
        }
    }

    pub fn write(self, out: &mut impl io::Write, reply: &Reply<'_>) -> io::Result<()> {
        match self {
            ClientProtocol::Text => text::write_reply(out, reply),
            ClientProtocol::Resp(version) => encoding::write_reply(out, reply, version),
        }
    }
}
