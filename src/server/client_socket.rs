//! The socket of a client as its session reads and writes it: plain, or with TLS.
//!
//! Owns the state of TLS, which no other thread touches. The socket below is its client's, so that
//! others can close it.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use nix::libc::MSG_DONTWAIT;
use socket2::SockRef;

use crate::net::tls_stream::TlsStream;

pub(crate) enum ClientSocket<'a> {
    Plain(&'a TcpStream),
    /// In a box, so that a plain client takes no memory for it.
    Tls(Box<TlsClient<'a>>),
}

pub(crate) struct TlsClient<'a> {
    socket: &'a TcpStream,
    stream: TlsStream,
    /// Bytes of the reply that is being sent which are encrypted. They are done with once all of
    /// what is encrypted has left.
    encrypted: usize,
}

impl<'a> ClientSocket<'a> {
    /// A client whose handshake is done.
    pub fn tls(socket: &'a TcpStream, stream: TlsStream) -> ClientSocket<'a> {
        ClientSocket::Tls(Box::new(TlsClient { socket, stream, encrypted: 0 }))
    }

    /// The socket below.
    pub fn raw(&self) -> &'a TcpStream {
        match self {
            ClientSocket::Plain(socket) => socket,
            ClientSocket::Tls(client) => client.socket,
        }
    }

    /// Sends without waiting. Returns how many bytes are done with. Zero is progress: more of what
    /// is encrypted has left, and the call is to be repeated with the same bytes.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Plain(socket) => SockRef::from(*socket).send_with_flags(bytes, MSG_DONTWAIT),
            ClientSocket::Tls(client) => client.send(bytes),
        }
    }

    /// Reads from a socket that has something, once at most: `WouldBlock` if that is not enough to
    /// be decrypted.
    pub fn read_once(&mut self) -> impl Read {
        ReadOnce(self)
    }

    /// Ends the stream towards the client.
    pub fn end(&mut self) {
        if let ClientSocket::Tls(client) = self {
            client.stream.close(client.socket);
        }
        let _ = self.raw().shutdown(Shutdown::Write);
    }
}

impl Read for ClientSocket<'_> {
    /// Waits for bytes. Returns 0 at the end of the stream.
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Plain(socket) => (&mut &**socket).read(into),
            ClientSocket::Tls(client) => client.read(into),
        }
    }
}

impl TlsClient<'_> {
    #[inline(never)]
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.encrypted == 0 {
            self.encrypted = self.stream.encrypt(bytes)?;
        }
        if self.stream.has_unsent() {
            self.stream.send_some(self.socket)?;
        }
        if self.stream.has_unsent() { Ok(0) } else { Ok(std::mem::take(&mut self.encrypted)) }
    }

    /// Waits for bytes. Where reads of the socket have a time-out, a record that has begun must be
    /// whole within it, however its bytes drip.
    #[inline(never)]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut began = None;
        loop {
            if let Some(len) = self.stream.read_once(self.socket, into)? {
                return Ok(len);
            }
            let began = *began.get_or_insert_with(Instant::now);
            if self.socket.read_timeout()?.is_some_and(|timeout| began.elapsed() > timeout) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

struct ReadOnce<'s, 'a>(&'s mut ClientSocket<'a>);

impl Read for ReadOnce<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut *self.0 {
            ClientSocket::Tls(client) => client.stream.read_once(client.socket, into)?.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
            plain => plain.read(into),
        }
    }
}
