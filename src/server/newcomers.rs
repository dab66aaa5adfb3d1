//! Newcomers: clients that have not said who they are, where the node has users.
//!
//! Owns how many there may be. A client is one only until its first request, so the oldest is
//! closed when there is one more: however many connections say nothing, they keep nobody out. The
//! session bounds what one of them may send, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::server::client_handle::ClientHandle;

/// The most newcomers; half of `clients_max` if that is less. Beyond this, the oldest is closed.
const LEN_MAX: usize = 1_000;

#[derive(Default)]
pub(crate) struct Newcomers {
    /// By client id: in the order in which they came.
    table: Mutex<BTreeMap<u64, Arc<ClientHandle>>>,
}

impl Newcomers {
    /// Adds a client, and closes the oldest newcomer if they are too many. Returns true if it has.
    pub fn enter(&self, client: &Arc<ClientHandle>, clients_max: usize) -> bool {
        let mut table = self.table.lock();
        table.insert(client.id(), Arc::clone(client));
        let is_full = table.len() > LEN_MAX.min(clients_max.div_ceil(2));
        let oldest = if is_full { table.pop_first() } else { None };
        drop(table);
        oldest.is_some_and(|(_, oldest)| oldest.kill())
    }

    /// Takes a client out: it has said who it is, or is gone.
    pub fn leave(&self, id: u64) {
        self.table.lock().remove(&id);
    }

    pub fn len(&self) -> usize {
        self.table.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_oldest_is_closed_for_one_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = |id| ClientHandle::of(Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()), id);
        let (newcomers, clients) = (Newcomers::default(), [1, 2, 3, 4].map(client));
        let closed = || clients.iter().filter(|client| client.is_killed()).map(|client| client.id()).collect::<Vec<_>>();
        assert!(!newcomers.enter(&clients[0], 4) && !newcomers.enter(&clients[1], 4));
        assert!(newcomers.enter(&clients[2], 4));
        assert_eq!((closed(), newcomers.len()), (vec![1], 2));
        newcomers.leave(2);
        newcomers.leave(1);
        assert!(!newcomers.enter(&clients[3], 4));
        assert_eq!((closed(), newcomers.len()), (vec![1], 2));
    }
}
