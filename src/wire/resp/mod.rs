//! RESP, the protocol of Redis clients, in its versions 2 and 3.

pub mod arguments;
pub mod decimal;
pub mod encoding;
pub mod glob;
pub mod request;

use std::ops::Range;

/// The two versions of RESP, the protocol of Redis clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RespVersion {
    #[default]
    Two,
    Three,
}

/// The words of one request, the first of which names the command. They lie in the read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a, 's> {
    buffer: &'a [u8],
    /// Invariant: each is within `buffer`.
    spans: &'s [Range<usize>],
}

impl<'a, 's> Words<'a, 's> {
    pub fn new(buffer: &'a [u8], spans: &'s [Range<usize>]) -> Words<'a, 's> {
        Words { buffer, spans }
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn get(&self, place: usize) -> Option<&'a [u8]> {
        self.spans.get(place).map(|span| &self.buffer[span.clone()])
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a, 's> {
        let buffer = self.buffer;
        self.spans.iter().map(move |span| &buffer[span.clone()])
    }
}
