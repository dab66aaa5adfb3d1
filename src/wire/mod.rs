//! The wire formats: typed commands and replies, the two protocols of clients (text, and RESP as
//! Redis clients use it), and the messages between peers.
//!
//! Bytes in, values out, and back. No sockets, no threads, no store.

pub mod ack_level;
pub mod bytes;
pub mod challenge;
pub mod command;
pub mod dump;
pub mod frame;
pub mod peer;
pub mod quoting;
pub mod reply;
pub mod resp;
pub mod role;
pub mod text;
