//! One client: a connection to one node at a time, and a record of everything that is asked on it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use kvmesh::wire::ack_level::AckLevel;

use crate::clients::Shared;
use crate::connection::{Action, Connection, Outcome, Protocol, UnknownCause};
use crate::history::{Op, Recorder};
use crate::keys::Key;
use crate::now;

/// Before a node that did not accept is tried again.
const DIAL_PAUSE: Duration = Duration::from_millis(50);

pub struct Session {
    shared: Arc<Shared>,
    recorder: Recorder,
    client: u16,
    protocol: Protocol,
    level: AckLevel,
    /// Index of the node, from 0.
    at: usize,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    number: u32,
    incarnation: u32,
}

impl Session {
    pub fn new(shared: &Arc<Shared>, client: u16, at: usize, protocol: Protocol, level: AckLevel) -> Session {
        let recorder = shared.history.recorder();
        Session { shared: Arc::clone(shared), recorder, client, protocol, level, at, open: None }
    }

    pub fn node(&self) -> u16 {
        self.shared.nodes[self.at].id
    }

    /// Another session of the same client, at the next node.
    pub fn beside(&self) -> Session {
        let at = (self.at + 1) % self.shared.nodes.len();
        Session::new(&self.shared, self.client, at, self.protocol, self.level)
    }

    pub fn client(&self) -> u16 {
        self.client
    }

    pub fn level(&self) -> AckLevel {
        self.level
    }

    /// Moves to the next node.
    pub fn turn(&mut self) {
        self.open = None;
        self.at = (self.at + 1) % self.shared.nodes.len();
    }

    /// Sends all requests in one write, then receives all replies. `None` if nothing was sent,
    /// because there is no connection or the run is over. Otherwise an outcome for each request;
    /// after a connection broke, the missing ones are unknown.
    pub fn round(&mut self, requests: &[(Key, Action)]) -> Option<Vec<Outcome>> {
        if self.open.is_none() && !self.connect() {
            thread::sleep(DIAL_PAUSE);
            return None;
        }
        // Checked here, and not only between two turns of a client: some ask more than once in a
        // turn, and the end of the run waits for one round of each.
        if self.shared.is_over() {
            return None;
        }
        if !self.shared.history.takes(requests.len()) {
            return None;
        }
        let open = self.open.as_mut()?;
        let indices: Vec<usize> = requests
            .iter()
            .map(|(key, action)| {
                self.recorder.invoke(Op {
                    client: self.client,
                    connection: open.number,
                    node: self.shared.nodes[self.at].id,
                    incarnation: open.incarnation,
                    key: *key,
                    action: *action,
                    level: self.level,
                    invoked: now(),
                    completed: u64::MAX,
                    outcome: Outcome::Unknown(UnknownCause::Pending),
                })
            })
            .collect();
        let mut broken = open.connection.send(requests).err();
        let mut outcomes = Vec::with_capacity(requests.len());
        for (index, (key, action)) in indices.into_iter().zip(requests) {
            let received = match broken.take() {
                None => open.connection.receive(*key, *action),
                Some(error) => Err(error),
            };
            let outcome = received.unwrap_or_else(|error| {
                let is_silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                broken = Some(error);
                Outcome::Unknown(if is_silent { UnknownCause::Silent } else { UnknownCause::Broken })
            });
            self.recorder.complete(index, outcome.clone());
            outcomes.push(outcome);
        }
        if broken.is_some() {
            self.open = None;
        }
        Some(outcomes)
    }

    /// Sends one request.
    pub fn ask(&mut self, key: Key, action: Action) -> Option<Outcome> {
        self.round(&[(key, action)])?.pop()
    }

    fn connect(&mut self) -> bool {
        let node = &self.shared.nodes[self.at];
        let incarnation = node.incarnation.load(Ordering::SeqCst);
        let Ok(connection) = Connection::open(node.addr, self.protocol, self.level) else { return false };
        // A node is down before its next incarnation is counted. So the same number before and
        // after means that this incarnation answers.
        if node.incarnation.load(Ordering::SeqCst) != incarnation {
            return false;
        }
        self.open = Some(Open { connection, number: self.shared.history.next_connection(), incarnation });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Answer;
    use crate::keys::Group;
    use crate::nodes::NodeHandle;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn nothing_more_is_asked_once_the_run_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.read(&mut [0; 256]).is_ok_and(|len| len > 0) {
                stream.write_all(b"OK\n").unwrap();
            }
        });
        let shared =
            Arc::new(Shared::new(vec![Arc::new(NodeHandle { id: 1, addr, incarnation: AtomicU32::new(1), pauses: Default::default() })]));
        let mut session = Session::new(&shared, 0, 0, Protocol::Text, AckLevel::Majority);
        let (key, action) = (Key { group: Group::Gone, owner: 0, number: 1 }, Action::Put(1));
        assert_eq!(session.ask(key, action), Some(Outcome::Done(Answer::Written)));
        shared.ends.store(true, Ordering::Relaxed);
        assert_eq!(session.ask(key, Action::Del), None);
        assert_eq!(shared.history.take().len(), 1);
    }
}
