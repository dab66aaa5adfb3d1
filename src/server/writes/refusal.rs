//! Refusals: why a node does not write what a client asks for, before anything is applied.

use crate::replication::acks::NoQuorum;
use crate::server::atomic_step::KEYS_MAX;
use crate::server::memory_limit::why_full;
use crate::server::shared::Services;
use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Limits;
use crate::wire::reply::{ErrorCode, Reply};

/// The reason why nothing was written, whatever the command says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteRefusal {
    /// `memory_max` is reached.
    Full,
    /// Nothing can be logged: why, and what helps.
    ReadOnly(String),
    NoQuorum(NoQuorum),
    /// One step takes more than `write_room`; `len` if it is known.
    TooLarge {
        len: Option<usize>,
        room: usize,
    },
    /// A peer takes no keys and values that long.
    TooLong(Limits),
    TooManyKeys(usize),
    NoRoom,
    Stopping,
}

impl WriteRefusal {
    /// The error that the client hears: what was wrong and what would be right.
    pub fn into_reply(self, services: &Services, level: AckLevel) -> Reply<'static> {
        let (code, sentence) = match self {
            WriteRefusal::Full => (ErrorCode::Full, format!("{}; nothing was written; DEL still works", why_full(services))),
            WriteRefusal::ReadOnly(why) => (ErrorCode::ReadOnly, format!("{why}; nothing was written; reads are served")),
            WriteRefusal::NoQuorum(NoQuorum { counted, needed, members }) => {
                let verb = if counted == 1 { "counts" } else { "count" };
                let sentence = format!(
                    "{counted} of {members} members {verb} and {needed} are needed for ack {level}; nothing was written; ACK local writes to this node alone"
                );
                (ErrorCode::NoQuorum, sentence)
            }
            WriteRefusal::TooLarge { len, room } => {
                let takes = len.map_or_else(|| "more than that".to_owned(), |len| format!("{len} bytes"));
                let sentence =
                    format!("write_room, which bounds one step, is {room} bytes, and this takes {takes}; nothing was written; split it");
                (ErrorCode::TooBig, sentence)
            }
            WriteRefusal::TooLong(Limits { key_len_max, value_len_max }) => {
                let sentence = format!(
                    "a peer takes keys of up to {key_len_max} bytes and values of up to {value_len_max}: key_len_max and value_len_max must be equal on all members; nothing was written"
                );
                (ErrorCode::TooBig, sentence)
            }
            WriteRefusal::TooManyKeys(keys) => {
                (ErrorCode::TooBig, format!("{keys} keys in one step; at most {KEYS_MAX} are taken; nothing was written; split it"))
            }
            WriteRefusal::NoRoom => {
                (ErrorCode::Busy, "more is written than this node can hand on; nothing was written; try again later".to_owned())
            }
            WriteRefusal::Stopping => (ErrorCode::Busy, "this node is stopping; nothing was written; use another node".to_owned()),
        };
        Reply::Error { code, sentence: sentence.into() }
    }
}
