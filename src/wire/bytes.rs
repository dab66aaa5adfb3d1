//! Keys and values inside a request, and how long they may be.

use std::borrow::Cow;

/// Bytes of a request, borrowed from the read buffer where they can be.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// The longest key and the longest value that a client may name, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub key_len_max: usize,
    pub value_len_max: usize,
}
