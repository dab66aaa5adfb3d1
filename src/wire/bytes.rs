//! Keys and values inside a request, and how long they may be.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Bytes of a request, borrowed from the read buffer where they can be.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// The longest key and the longest value that a client may name, or a peer may send, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub key_len_max: usize,
    pub value_len_max: usize,
}
