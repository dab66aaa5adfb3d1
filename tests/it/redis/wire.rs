//! RESP as the tests use it: what they ask, and what they look for in a reply.

use std::io::{self, ErrorKind};

use kvmesh::wire::resp::encoding;

use crate::client::Client;
pub use crate::kit::resp::{Answer, Reply};

impl Answer {
    pub fn is_error(&self) -> bool {
        matches!(self.reply, Reply::Error(_))
    }

    pub fn int(&self) -> Option<i64> {
        if let Reply::Int(number) = self.reply { Some(number) } else { None }
    }

    /// The bytes of a bulk, a simple string or a verbatim string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.reply {
            Reply::Bulk(bytes) | Reply::Verbatim(_, bytes) => Some(bytes),
            Reply::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The elements of an array, a set, or a map as RESP2 has it.
    pub fn elements(&self) -> Option<Vec<Answer>> {
        match &self.reply {
            Reply::Array(elements) | Reply::Set(elements) | Reply::Push(elements) => Some(elements.clone()),
            Reply::Map(pairs) => Some(pairs.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect()),
            _ => None,
        }
    }

    /// The value of this name in a map, or in its flat form.
    pub fn field(&self, name: &str) -> Option<Answer> {
        let elements = self.elements()?;
        elements.chunks_exact(2).find(|pair| pair[0].text().as_deref() == Some(name)).map(|pair| pair[1].clone())
    }
}

impl Client {
    pub fn ask_words(&mut self, words: &[impl AsRef<[u8]>]) -> io::Result<Answer> {
        self.send(request(words))?;
        self.answer()
    }

    /// Everything until the server closes, in whatever way; an error if it does not.
    pub fn rest_until_closed(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.read_rest(&mut rest) {
            // It closed while bytes of ours had not been read.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(rest),
            other => other.map(|()| rest),
        }
    }
}

/// Encodes a request: an array of bulk strings.
pub fn request(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoding::request(words, &mut bytes);
    bytes
}
