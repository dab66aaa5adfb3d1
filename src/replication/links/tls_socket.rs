//! The socket of an outgoing connection with TLS.
//!
//! Owns its state of TLS. What is encrypted and does not fit into the socket stays here, and the
//! bytes that it was made of count as given only when all of it has left.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::net::tls_stream::TlsStream;
use crate::replication::links::sender::Socket;
use crate::sync::Mutex;

/// Bytes that are encrypted at a time: those of one record.
const RECORD_LEN: usize = 16 << 10;

pub struct TlsSocket {
    /// It does not block.
    socket: TcpStream,
    /// Taken by whoever holds the sender's lock, and so never waited for.
    sending: Mutex<Sending>,
}

struct Sending {
    stream: Box<TlsStream>,
    /// Bytes that are encrypted and of which something has not left.
    encrypted: usize,
}

impl TlsSocket {
    /// A connection whose handshake is done. Makes its socket one that does not block.
    pub fn new(socket: TcpStream, stream: Box<TlsStream>) -> io::Result<TlsSocket> {
        socket.set_nonblocking(true)?;
        Ok(TlsSocket { socket, sending: Mutex::new(Sending { stream, encrypted: 0 }) })
    }
}

impl Socket for TlsSocket {
    /// After `WouldBlock` the next call must give the same bytes again, and may give more.
    fn give(&self, bytes: &[u8]) -> io::Result<usize> {
        let Sending { stream, encrypted } = &mut *self.sending.lock();
        if *encrypted == 0 {
            *encrypted = stream.encrypt(&bytes[..bytes.len().min(RECORD_LEN)])?;
        }
        while stream.has_unsent() {
            stream.send_some(&self.socket)?;
        }
        Ok(std::mem::take(encrypted))
    }

    fn await_room(&self, timeout: Duration) -> bool {
        self.socket.await_room(timeout)
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        self.sending.lock().stream.close(&self.socket);
    }
}
