//! MULTI to EXEC: what one connection has queued, and the keys that it watches.
//!
//! The requests are kept as they came and parsed once more at EXEC; then they become one [`Plan`](crate::server::plan::Plan).

use std::collections::HashMap;

use crate::data::entry::{Entry, Key};
use crate::data::version::Version;
use crate::server::client;
use crate::server::judge::Moment;
use crate::server::session_room::SessionRoom;
use crate::server::wire::parse_again;
use crate::store::{Store, View};
use crate::wire::bytes::Limits;
use crate::wire::command::Command;
use crate::wire::reply::{ErrorCode, Reply, Wrong};

/// What a watched key takes beside its bytes, about.
const WATCHED_OVERHEAD: usize = 128;

pub(crate) struct Transaction<'a> {
    queue: Option<Queue>,
    watched: HashMap<Key, Seen>,
    /// What is queued and watched shares the memory for large commands, for as long as it takes.
    room: &'a SessionRoom,
    /// Invariant: so much of it is taken.
    taken: usize,
}

#[derive(Default)]
struct Queue {
    /// As they came, one behind the other.
    requests: Vec<u8>,
    len: usize,
    /// One of them was wrong: EXEC will refuse them all.
    is_spoiled: bool,
}

/// What was known of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// A tombstone's, too: a key that was made and deleted again has changed.
    version: Option<Version>,
    is_live: bool,
}

impl Seen {
    fn of(entry: Option<&Entry>, moment: &Moment) -> Seen {
        Seen { version: entry.map(|entry| entry.version()), is_live: entry.is_some_and(|entry| entry.is_live(|| moment.wall_ms())) }
    }

    /// That a tombstone has been collected is no change.
    fn has_become(self, now: Seen) -> bool {
        self.is_live != now.is_live || now.version.is_some() && now.version != self.version
    }
}

/// One of the commands that EXEC executes; what was wrong with it is its reply.
pub(crate) type Queued<'a> = Result<Command<'a>, Wrong>;

impl<'a> Transaction<'a> {
    pub fn new(room: &'a SessionRoom) -> Transaction<'a> {
        Transaction { queue: None, watched: HashMap::new(), room, taken: 0 }
    }

    /// Whether MULTI was said.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// What waits, for who looks at the connection.
    pub fn queued(&self) -> client::Queued {
        let (requests, size) = self.queue.as_ref().map_or((None, 0), |queue| (Some(queue.len), queue.requests.len()));
        client::Queued { requests, size, watched: self.watched.len() }
    }

    pub fn begin(&mut self) -> Reply<'static> {
        if self.is_open() {
            return Reply::error(ErrorCode::Err, "MULTI calls can not be nested");
        }
        self.queue = Some(Queue::default());
        Reply::Ok
    }

    /// Keeps a request; all of them together may be as long as one may be.
    pub fn queue(&mut self, request: &[u8], len_max: usize) -> Reply<'static> {
        let Some(queue) = &mut self.queue else { return Reply::error(ErrorCode::Err, "MULTI was not said") };
        if queue.requests.len() + request.len() > len_max {
            queue.is_spoiled = true;
            return Reply::error(ErrorCode::TooBig, format!("the transaction is longer than {len_max} bytes; split it into several"));
        }
        if self.room.take(request.len()).is_err() {
            queue.is_spoiled = true;
            return no_room();
        }
        self.taken += request.len();
        queue.requests.extend_from_slice(request);
        queue.len += 1;
        Reply::Status("QUEUED")
    }

    /// A command could not be queued.
    pub fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.is_spoiled = true;
        }
    }

    pub fn discard(&mut self) -> Reply<'static> {
        if !self.is_open() {
            return Reply::error(ErrorCode::Err, "DISCARD without MULTI");
        }
        self.end();
        Reply::Ok
    }

    fn end(&mut self) -> (Option<Queue>, HashMap<Key, Seen>) {
        self.room.give_back(std::mem::take(&mut self.taken));
        (self.queue.take(), std::mem::take(&mut self.watched))
    }

    pub fn watch(&mut self, store: &Store, keys: &[impl AsRef<[u8]>], moment: &Moment) -> Reply<'static> {
        if self.is_open() {
            return Reply::error(ErrorCode::Err, "WATCH inside MULTI is not allowed");
        }
        for key in keys {
            let key = key.as_ref();
            if self.watched.contains_key(key) {
                continue;
            }
            let len = key.len() + WATCHED_OVERHEAD;
            if self.room.take(len).is_err() {
                return no_room();
            }
            self.taken += len;
            self.watched.insert(key.into(), store.read(key, |entry| Seen::of(entry, moment)));
        }
        Reply::Ok
    }

    pub fn unwatch(&mut self) {
        let len = self.watched.keys().map(|key| key.len() + WATCHED_OVERHEAD).sum();
        self.watched.clear();
        self.taken -= len;
        self.room.give_back(len);
    }

    /// Ends it: what was queued and what is watched, or why nothing is executed.
    pub fn take(&mut self) -> Result<(Requests, Watch), Reply<'static>> {
        if !self.is_open() {
            return Err(Reply::error(ErrorCode::Err, "EXEC without MULTI"));
        }
        let (queue, watched) = self.end();
        match queue.unwrap_or_default() {
            queue if queue.is_spoiled => Err(Reply::error(ErrorCode::ExecAbort, "Transaction discarded because of previous errors.")),
            queue => Ok((Requests(queue.requests), Watch(watched))),
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn no_room() -> Reply<'static> {
    let sentence = "the large commands and the transactions that are under way take all the memory that this node has for them; nothing was written; try again later";
    Reply::error(ErrorCode::Busy, sentence)
}

/// What was queued.
pub(crate) struct Requests(Vec<u8>);

impl Requests {
    pub fn commands(&self, limits: &Limits, moment: &Moment) -> Vec<Queued<'_>> {
        let mut rest = &self.0[..];
        let mut commands = Vec::new();
        while !rest.is_empty() {
            let (command, consumed) = parse_again(rest, limits, moment);
            commands.push(command);
            rest = &rest[consumed..];
        }
        commands
    }
}

/// What is watched.
pub(crate) struct Watch(HashMap<Key, Seen>);

impl Watch {
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(|key| &**key)
    }

    pub fn has_changed(&self, view: &View<'_>, moment: &Moment) -> bool {
        self.0.iter().any(|(key, was)| was.has_become(Seen::of(view.entry(key), moment)))
    }
}
