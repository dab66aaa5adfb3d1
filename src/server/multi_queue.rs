//! MULTI to EXEC: the requests that one connection has queued, and the keys that it watches.
//!
//! The words of a request are kept with the parser of its command, and parsed at EXEC: an expiry
//! that is given from now on counts from EXEC on.

use std::collections::HashMap;

use crate::budget::{ByteBudget, OutOfBudget, Share};
use crate::data::entry::{Entry, Key};
use crate::data::version::Version;
use crate::server::authorization::Needed;
use crate::server::client_handle::QueueSize;
use crate::server::commands::spec::{CommandParser, Spec};
use crate::server::evaluation::RoundTime;
use crate::store::{Store, View};
use crate::wire::bytes::Limits;
use crate::wire::command::Command;
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::Words;
use crate::wire::resp::arguments::Arguments;

/// Bytes that a watched key takes beside its own, about.
const WATCHED_OVERHEAD: usize = 128;

pub(crate) struct Transaction<'a> {
    queue: Option<Queue>,
    watched: HashMap<Key, Seen>,
    /// The share of queue and watched keys in the memory for large commands.
    share: Share<'a>,
}

#[derive(Default)]
struct Queue {
    requests: Requests,
    /// The bytes of the requests as they came.
    len: usize,
    /// True if one of them was wrong: EXEC will refuse them all.
    is_spoiled: bool,
}

/// A request that is to be kept until EXEC.
pub(crate) struct QueuedRequest<'a, 's> {
    /// The row of its command.
    pub spec: &'static Spec,
    pub parser: CommandParser,
    pub words: Words<'a, 's>,
}

impl<'a> QueuedRequest<'a, '_> {
    /// The command that it would be if EXEC came now.
    pub fn parse(&self, limits: &Limits, time: &RoundTime) -> Result<Command<'a>, Wrong> {
        let now_ms = || time.wall_ms() as i64;
        (self.parser)(&Arguments { name: self.spec.name, words: self.words, limits, now_ms: &now_ms })
    }
}

/// The requests that were queued, in their order.
#[derive(Default)]
pub(crate) struct Requests {
    requests: Vec<Queued>,
    /// The words of all requests, one behind the other.
    bytes: Vec<u8>,
    /// The end of each word in `bytes`.
    word_ends: Vec<usize>,
}

struct Queued {
    spec: &'static Spec,
    parser: CommandParser,
    /// The number of words.
    words: usize,
}

/// The state of a key when it began to be watched.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The version of the entry, or of its tombstone: a key that was made and deleted again has
    /// changed.
    version: Option<Version>,
    is_live: bool,
}

impl Seen {
    fn of(entry: Option<&Entry>, time: &RoundTime) -> Seen {
        Seen { version: entry.map(|entry| entry.version()), is_live: entry.is_some_and(|entry| entry.is_live(|| time.wall_ms())) }
    }

    /// Returns true if the key has changed. A tombstone that has been collected is no change.
    fn has_become(self, now: Seen) -> bool {
        self.is_live != now.is_live || now.version.is_some() && now.version != self.version
    }
}

impl<'a> Transaction<'a> {
    pub fn new(budget: &'a ByteBudget) -> Transaction<'a> {
        Transaction { queue: None, watched: HashMap::new(), share: Share::none(budget) }
    }

    /// Returns true between MULTI and EXEC.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// The size of the queue, for CLIENT LIST.
    pub fn size(&self) -> QueueSize {
        let (requests, size) = self.queue.as_ref().map_or((None, 0), |queue| (Some(queue.requests.requests.len()), queue.len));
        QueueSize { requests, size, watched: self.watched.len() }
    }

    pub fn begin(&mut self) -> Reply<'static> {
        if self.is_open() {
            return Reply::error(ErrorCode::Err, "MULTI calls can not be nested");
        }
        self.queue = Some(Queue::default());
        Reply::Ok
    }

    /// Keeps a request of `len` bytes; all of them together may be as long as one may be.
    pub fn queue(&mut self, request: &QueuedRequest<'_, '_>, len: usize, len_max: usize) -> Reply<'static> {
        let Some(queue) = &mut self.queue else { return Reply::error(ErrorCode::Err, "MULTI was not said") };
        if queue.len + len > len_max {
            queue.is_spoiled = true;
            return Reply::error(ErrorCode::TooBig, format!("the transaction is longer than {len_max} bytes; split it into several"));
        }
        if self.share.set(self.share.len() + len.max(Requests::size(request))).is_err() {
            queue.is_spoiled = true;
            return out_of_budget();
        }
        queue.requests.push(request);
        queue.len += len;
        Reply::Status("QUEUED")
    }

    /// Makes EXEC refuse all, since a command could not be queued.
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
        self.give_back(self.share.len());
        (self.queue.take(), std::mem::take(&mut self.watched))
    }

    pub fn watch(&mut self, store: &Store, keys: &[impl AsRef<[u8]>], time: &RoundTime) -> Reply<'static> {
        if self.is_open() {
            return Reply::error(ErrorCode::Err, "WATCH inside MULTI is not allowed");
        }
        for key in keys {
            let key = key.as_ref();
            if self.watched.contains_key(key) {
                continue;
            }
            let len = key.len() + WATCHED_OVERHEAD;
            if self.share.set(self.share.len() + len).is_err() {
                return out_of_budget();
            }
            self.watched.insert(key.into(), store.read(key, |entry| Seen::of(entry, time)));
        }
        Reply::Ok
    }

    pub fn unwatch(&mut self) {
        let len = self.watched.keys().map(|key| key.len() + WATCHED_OVERHEAD).sum();
        self.watched.clear();
        self.give_back(len);
    }

    fn give_back(&mut self, len: usize) {
        // Less is always granted.
        let _: Result<(), OutOfBudget> = self.share.set(self.share.len() - len);
    }

    /// Ends the transaction. Returns what was queued and what is watched, or why nothing is
    /// executed.
    pub fn take(&mut self) -> Result<(Requests, Watch), Reply<'static>> {
        if !self.is_open() {
            return Err(Reply::error(ErrorCode::Err, "EXEC without MULTI"));
        }
        let (queue, watched) = self.end();
        match queue.unwrap_or_default() {
            queue if queue.is_spoiled => Err(Reply::error(ErrorCode::ExecAbort, "Transaction discarded because of previous errors.")),
            queue => Ok((queue.requests, Watch(watched))),
        }
    }
}

fn out_of_budget() -> Reply<'static> {
    let sentence = "the large commands and the transactions that are under way take all the memory that this node has for them; nothing was written; try again later";
    Reply::error(ErrorCode::Busy, sentence)
}

impl Requests {
    /// Bytes that a request takes here.
    fn size(request: &QueuedRequest<'_, '_>) -> usize {
        size_of::<Queued>() + request.words.iter().map(|word| size_of::<usize>() + word.len()).sum::<usize>()
    }

    fn push(&mut self, request: &QueuedRequest<'_, '_>) {
        for word in request.words.iter() {
            self.bytes.extend_from_slice(word);
            self.word_ends.push(self.bytes.len());
        }
        self.requests.push(Queued { spec: request.spec, parser: request.parser, words: request.words.len() });
    }

    /// The commands and their roles.
    pub fn needed(&self) -> impl Iterator<Item = Needed> {
        self.requests.iter().map(|request| request.spec.needed())
    }

    /// The commands that EXEC executes; what was wrong with one is its reply.
    pub fn commands(&self, limits: &Limits, time: &RoundTime) -> Vec<Result<Command<'_>, Wrong>> {
        let now_ms = || time.wall_ms() as i64;
        let (mut start, mut ends) = (0, self.word_ends.iter().copied());
        let parse = |Queued { spec, parser, words }: &Queued| {
            let spans: Vec<_> = ends.by_ref().take(*words).map(|end| std::mem::replace(&mut start, end)..end).collect();
            parser(&Arguments { name: spec.name, words: Words::new(&self.bytes, &spans), limits, now_ms: &now_ms })
        };
        self.requests.iter().map(parse).collect()
    }
}

/// The watched keys.
pub(crate) struct Watch(HashMap<Key, Seen>);

impl Watch {
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(|key| &**key)
    }

    pub fn has_changed(&self, view: &View<'_>, time: &RoundTime) -> bool {
        self.0.iter().any(|(key, was)| was.has_become(Seen::of(view.entry(key), time)))
    }
}
