//! One TLS connection over a socket.
//!
//! Owned by the one thread that reads and writes it. The socket stays outside, so that others can
//! close it. Nothing that waits to be sent is ever lost: bytes that the socket did not take stay
//! here until the next call.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use nix::libc::MSG_DONTWAIT;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, Error, IoState, ServerConfig, ServerConnection};
use socket2::SockRef;

use crate::net::certificates::{common_name, node_named};
use crate::net::tls_error::in_words;

/// The node that a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedNode {
    pub cluster: String,
    pub id: u16,
}

/// A connection and what it has received and not yet sent. Large: to be kept in a box.
pub struct TlsStream {
    connection: Connection,
}

impl TlsStream {
    /// Begins at the end of the server.
    pub fn server(config: Arc<ServerConfig>) -> Result<TlsStream, Error> {
        Ok(TlsStream { connection: ServerConnection::new(config)?.into() })
    }

    /// Begins at the end of the client. `name`: what the server's certificate must be for.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<TlsStream, Error> {
        Ok(TlsStream { connection: ClientConnection::new(config, name)?.into() })
    }

    /// Runs the handshake to its end. `begun`: what was read of it already. Reads `from` the
    /// socket, and writes as that waits.
    pub fn handshake(&mut self, mut begun: &[u8], from: &mut dyn Read, socket: &TcpStream) -> io::Result<()> {
        while !begun.is_empty() {
            self.receive(&mut begun, socket)?;
        }
        while self.connection.is_handshaking() || self.connection.wants_write() {
            let stepped = if self.connection.wants_write() { self.flush(socket).map(|()| 1) } else { self.receive(from, socket) };
            match stepped {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end has closed during the handshake")),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake was not done in time"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The common name in the certificate of the other end, after the handshake.
    pub fn common_name(&self) -> Option<String> {
        common_name(self.connection.peer_certificates()?.first()?)
    }

    /// The cluster and the node that the certificate of the other end names, after the handshake.
    pub fn certified_node(&self) -> Option<CertifiedNode> {
        let (cluster, id) = node_named(self.connection.peer_certificates()?.first()?)?;
        Some(CertifiedNode { cluster, id })
    }

    /// Reads `from` the socket until something can be decrypted: 0 at the end of the stream.
    pub fn read_from(&mut self, from: &mut dyn Read, socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(len) = self.take_plaintext(into)? {
                return Ok(len);
            }
            self.receive(from, socket)?;
        }
    }

    /// Returns true if something was received and decrypted that is not read yet.
    pub fn has_plaintext(&mut self) -> bool {
        self.connection.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Takes all that is encrypted and not yet sent.
    pub fn take_unsent(&mut self) -> io::Result<Vec<u8>> {
        let mut unsent = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut unsent)?;
        }
        Ok(unsent)
    }

    /// Reads what was received, or else once from the socket, as that waits: 0 at the end of the
    /// stream, `None` if more has to come before it can be decrypted.
    pub fn read_once(&mut self, socket: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
        if let Some(len) = self.take_plaintext(into)? {
            return Ok(Some(len));
        }
        // An answer to the other end, such as new keys; an error shows at the read.
        let _ = self.flush_at_once(socket);
        self.receive(&mut &*socket, socket)?;
        self.take_plaintext(into)
    }

    /// Reads as [`TlsStream::read_once`], until something can be decrypted.
    pub fn read(&mut self, socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(len) = self.read_once(socket, into)? {
                return Ok(len);
            }
        }
    }

    /// Encrypts the front of `bytes`, as much as may wait to be sent. Returns how much that is.
    pub fn encrypt(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(bytes)
    }

    /// Returns true if something is encrypted and not yet sent.
    pub fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// Sends a part of what is encrypted, without waiting: `WouldBlock` if the socket takes
    /// nothing.
    pub fn send_some(&mut self, socket: &TcpStream) -> io::Result<usize> {
        self.connection.write_tls(&mut NoWait(socket))
    }

    /// Sends all that is encrypted, and waits as the socket does.
    pub fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks for what has arrived at a socket that does not block: 0 if the other end has closed.
    pub fn peek(&mut self, socket: &TcpStream) -> io::Result<usize> {
        loop {
            let state = self.process(socket)?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(state.plaintext_bytes_to_read());
            }
            if state.peer_has_closed() || self.receive(&mut &*socket, socket)? == 0 {
                return Ok(0);
            }
        }
    }

    /// Tells the other end that nothing more comes, if its socket takes that at once.
    pub fn close(&mut self, socket: &TcpStream) {
        self.connection.send_close_notify();
        let _ = self.flush_at_once(socket);
    }

    fn flush_at_once(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            self.send_some(socket)?;
        }
        Ok(())
    }

    /// Takes what was received and decrypted: 0 at the end of the stream, `None` if there is
    /// nothing. An end without its alert is an end, too: requests and replies say where they end.
    fn take_plaintext(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.connection.reader().read(into) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads from the socket once. Returns how many bytes came, 0 at its end.
    fn receive(&mut self, from: &mut dyn Read, socket: &TcpStream) -> io::Result<usize> {
        let len = loop {
            match self.connection.read_tls(from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.process(socket)?;
        Ok(len)
    }

    /// Decrypts what was received. After an error the other end is told, if its socket takes that
    /// at once.
    fn process(&mut self, socket: &TcpStream) -> io::Result<IoState> {
        match self.connection.process_new_packets() {
            Ok(state) => Ok(state),
            Err(error) => {
                let _ = self.flush_at_once(socket);
                Err(io::Error::new(io::ErrorKind::InvalidData, in_words(error)))
            }
        }
    }
}

/// Reads from a socket until a deadline, however the bytes drip. Changes the socket's time-out.
pub struct UntilDeadline<'a> {
    pub socket: &'a TcpStream,
    pub deadline: Instant,
}

impl Read for UntilDeadline<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut socket = self.socket;
        socket.read(into)
    }
}

/// A socket that is written without waiting.
struct NoWait<'a>(&'a TcpStream);

impl Write for NoWait<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(self.0).send_with_flags(bytes, MSG_DONTWAIT)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(self.0).send_vectored_with_flags(parts, MSG_DONTWAIT)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
