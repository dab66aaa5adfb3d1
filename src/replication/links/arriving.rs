//! A connection that a peer has made, until its HELLO is good: plain, or with TLS.

use std::io::{self, Read};

use crate::net::tls_stream::{CertifiedNode, TlsStream};
use crate::replication::links::unidentified::{DeadlineReader, UnidentifiedConnection};
use crate::wire::peer::{HELLO_LEN_MAX, Message, Protocol, read_message};

pub struct Arriving<'a> {
    connection: &'a UnidentifiedConnection,
    reader: DeadlineReader<'a>,
    /// Bytes that were read, and not yet taken for a message.
    head: Vec<u8>,
    tls: Option<Box<TlsStream>>,
}

impl<'a> Arriving<'a> {
    pub fn new(connection: &'a UnidentifiedConnection, reader: DeadlineReader<'a>) -> Arriving<'a> {
        Arriving { connection, reader, head: Vec::new(), tls: None }
    }

    /// The first bytes: as many as asked for, or those before an end of the stream or of a line.
    pub fn head(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.head.len() < len && !self.head.contains(&b'\n') {
            let start = self.head.len();
            self.head.resize(len, 0);
            let read = self.reader.read(&mut self.head[start..]);
            self.head.truncate(start + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                break;
            }
        }
        Ok(&self.head)
    }

    /// Does the handshake of TLS, which has begun. Returns the node that the certificate of the
    /// other end names.
    pub fn encrypt(&mut self, mut stream: TlsStream) -> io::Result<Option<CertifiedNode>> {
        let begun = std::mem::take(&mut self.head);
        stream.handshake(&begun, &mut self.reader, self.connection.stream())?;
        let node = stream.certified_node();
        self.tls = Some(Box::new(stream));
        Ok(node)
    }

    /// Reads the next message, which is no longer than a HELLO.
    pub fn next(&mut self) -> io::Result<Message> {
        let message = read_message(self, &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST)?;
        message.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes, Protocol::OLDEST);
        let Some(stream) = &mut self.tls else { return self.connection.send(&bytes) };
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            left = &left[stream.encrypt(left)?..];
            self.connection.send(&stream.take_unsent()?)?;
        }
        Ok(())
    }

    /// Notes that the other end has been asked for a proof.
    pub fn challenged(&self) {
        self.connection.challenged();
    }

    /// Sends bytes that are no message, on a connection without TLS.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.send(bytes)
    }

    /// Takes out the state of TLS, for what reads from here on.
    pub fn into_tls(self) -> Option<Box<TlsStream>> {
        self.tls
    }
}

impl Read for Arriving<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(stream) => stream.read_from(&mut self.reader, self.connection.stream(), into),
            None if self.head.is_empty() => self.reader.read(into),
            None => {
                let len = self.head.len().min(into.len());
                into[..len].copy_from_slice(&self.head[..len]);
                self.head.drain(..len);
                Ok(len)
            }
        }
    }
}
