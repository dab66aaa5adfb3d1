//! A connection that this node has made to a peer, until it is handed to the sender: plain, or with
//! TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use crate::net::tls_peers::PeerIdentity;
use crate::net::tls_stream::{CertifiedNode, TlsStream, UntilDeadline};
use crate::replication::links::sender::Socket;
use crate::replication::links::tls_socket::TlsSocket;

pub struct Dialed {
    socket: TcpStream,
    tls: Option<Box<TlsStream>>,
}

impl Dialed {
    pub fn plain(socket: TcpStream) -> Dialed {
        Dialed { socket, tls: None }
    }

    /// Does the handshake of TLS. Returns the node that the certificate of the other end names.
    pub fn with_tls(socket: TcpStream, identity: &PeerIdentity, deadline: Instant) -> io::Result<(Dialed, Option<CertifiedNode>)> {
        let mut stream = identity.dial(socket.peer_addr()?.ip()).map_err(io::Error::other)?;
        let timeout = socket.read_timeout()?;
        stream.handshake(&[], &mut UntilDeadline { socket: &socket, deadline }, &socket)?;
        socket.set_read_timeout(timeout)?;
        let node = stream.certified_node();
        Ok((Dialed { socket, tls: Some(Box::new(stream)) }, node))
    }

    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket below.
    pub fn raw(&self) -> &TcpStream {
        &self.socket
    }

    /// Makes it one that does not block, for the sender.
    pub fn into_socket(self) -> io::Result<Arc<dyn Socket>> {
        match self.tls {
            None => {
                self.socket.set_nonblocking(true)?;
                Ok(Arc::new(self.socket))
            }
            Some(stream) => Ok(Arc::new(TlsSocket::new(self.socket, stream)?)),
        }
    }
}

impl Read for Dialed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(into),
            Some(stream) => stream.read(&self.socket, into),
        }
    }
}

impl Write for Dialed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(stream) => {
                let len = stream.encrypt(bytes)?;
                stream.flush(&self.socket)?;
                Ok(len)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
