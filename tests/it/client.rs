//! The client of the kit, as the tests use it.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

pub use crate::kit::client::{Client, Limit, Status};

/// Longer than any timeout that a node is configured with, so that a reply of the node comes first.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// More is no reply that a test has asked for.
const REST_LEN_MAX: u64 = 64 << 20;

impl Client {
    pub fn connect(addr: SocketAddr) -> io::Result<Client> {
        Client::open(addr, REPLY_TIMEOUT)
    }

    pub fn stream(&self) -> &TcpStream {
        self.as_ref()
    }

    /// Sends these commands in large rounds. Each must be answered with OK.
    #[track_caller]
    pub fn pipeline(&mut self, commands: impl IntoIterator<Item = String>) {
        const ROUND: usize = 500;
        let commands: Vec<String> = commands.into_iter().collect();
        for round in commands.chunks(ROUND) {
            self.send(round.join("\n") + "\n").expect("a node that takes commands");
            for command in round {
                assert_eq!(self.line().expect("a reply"), "OK", "{}", &command[..command.len().min(100)]);
            }
        }
    }

    /// Ends the requests.
    pub fn finish(&self) -> io::Result<()> {
        self.stream().shutdown(Shutdown::Write)
    }

    /// Everything until the node closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.read_rest(&mut rest)?;
        Ok(rest)
    }

    /// Appends everything until the node closes.
    pub fn read_rest(&mut self, rest: &mut Vec<u8>) -> io::Result<()> {
        self.take(REST_LEN_MAX).read_to_end(rest).map(drop)
    }
}
