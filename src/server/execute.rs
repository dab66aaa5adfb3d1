//! From a command to its reply.
//!
//! The one place where every command ends up, by whichever protocol it came. Owns what a connection has chosen and what it has written; never touches its socket. What EXEC
//! does with what was queued is in exec.rs.

mod exec;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data::clock::Now;
use crate::data::entry::Entry;
use crate::server::Shared;
use crate::server::client::Client;
use crate::server::introspect;
use crate::server::judge::{self, Live, Moment};
use crate::server::long::Long;
use crate::server::lookups::Lookups;
use crate::server::plan::{self, Plan, scanned};
use crate::server::transaction::Transaction;
use crate::server::wire::Wire;
use crate::server::writes::{Place, Refusal, Writes};
use crate::store::{Cursor, Keyspace, Span};
use crate::wire::ack_level::AckLevel;
use crate::wire::command::{Action, Command, Several};
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::catalogue;
use crate::wire::resp::glob;
use crate::wire::resp::request::request_len_max;

/// What a command comes to.
pub(crate) enum Done<'c> {
    Reply(Reply<'c>),
    /// To be written when all replies before it are.
    Before(Long),
    /// A dump comes next, not commands.
    Restore,
    /// The last reply.
    Close(Reply<'c>),
}

pub(crate) struct Executor<'a> {
    pub shared: &'a Shared,
    pub client: &'a Arc<Client>,
    pub writes: Writes<'a>,
    pub level: AckLevel,
    /// What the last command was called; `None` if it was a line of text.
    pub name: Option<&'static str>,
    /// The name that others see.
    noted: Option<&'static str>,
    version: RespVersion,
    transaction: Transaction<'a>,
    /// The client has killed itself: it still hears what came of the command.
    closes: bool,
    /// Of the round.
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    commands: u64,
    writes: u64,
    refused: u64,
    lookups: Lookups,
    no_quorum: bool,
}

impl<'a> Executor<'a> {
    pub fn new(shared: &'a Shared, client: &'a Arc<Client>) -> Executor<'a> {
        Executor {
            shared,
            client,
            writes: Writes::new(&shared.services, shared.limits),
            level: shared.services.config.ack,
            name: None,
            noted: None,
            version: RespVersion::default(),
            transaction: Transaction::new(&shared.read_room),
            closes: false,
            tally: Tally::default(),
        }
    }

    /// How the client speaks here.
    pub fn wire_of(&self, request: &[u8]) -> Wire {
        Wire::of(request.first(), self.version)
    }

    /// Whether requests are kept until EXEC.
    pub fn queues(&self) -> bool {
        self.transaction.is_open()
    }

    /// What was wrong with a request is its reply.
    pub fn refuse(&mut self, wrong: Wrong, wire: Wire) -> Reply<'static> {
        match wire {
            Wire::Resp(_) if wrong.code == ErrorCode::ExecAbort => drop(self.transaction.discard()),
            Wire::Resp(_) => self.transaction.spoil(),
            Wire::Text => {}
        }
        wrong.into_reply()
    }

    pub fn queue(&mut self, request: &[u8]) -> Reply<'static> {
        self.tally.commands += 1;
        if !self.shared.services.replica.is_open() {
            self.transaction.spoil();
            return self.loading();
        }
        self.transaction.queue(request, request_len_max(&self.shared.limits))
    }

    /// To be called behind every command; whether it waits for acks.
    pub fn place(&mut self, place: Place) -> bool {
        self.writes.place(place)
    }

    /// Waits until the writes of the round are acknowledged. Whether the reply to the last of them stands.
    pub fn settle(&mut self, replies: &mut Vec<u8>) -> bool {
        let failed = self.writes.settle(replies);
        self.settled(failed)
    }

    /// The same without waiting; `None` as long as there is something to wait for. `is_late`: nothing is waited for any more.
    #[cfg(feature = "testing")]
    pub fn try_settle(&mut self, is_late: bool, replies: &mut Vec<u8>) -> Option<bool> {
        let failed = self.writes.try_settle(is_late, replies)?;
        Some(self.settled(failed))
    }

    fn settled(&self, failed: usize) -> bool {
        self.shared.count_unknown(failed);
        self.writes.last_stands()
    }

    /// What is left unread, so many bytes, belongs to the next one. Whether something was refused for want of a quorum.
    pub fn end_round(&mut self, unread_len: usize) -> bool {
        let tally = std::mem::take(&mut self.tally);
        let no_quorum = tally.no_quorum;
        self.client.note_round(unread_len, self.transaction.queued());
        self.note_name();
        self.shared.count(tally);
        no_quorum
    }

    /// Clients say the same again and again: only what is new is noted.
    fn note_name(&mut self) {
        if self.noted != self.name {
            self.noted = self.name;
            self.client.note_command(self.name);
        }
    }

    pub fn execute<'c>(&mut self, command: &'c Command<'_>, wire: Wire, moment: &Moment) -> Done<'c> {
        self.tally.commands += 1;
        let services = &self.shared.services;
        if !services.replica.is_open() && !catalogue::answers_while_loading(command) {
            return Done::Reply(self.loading());
        }
        if wire == Wire::Text && self.queues() && !matches!(command, Command::Ack { .. }) {
            let sentence = "MULTI was said on this connection: say EXEC or DISCARD, as a Redis client does, before lines of text";
            return Done::Reply(Reply::error(ErrorCode::Err, sentence));
        }
        let reply = match command {
            Command::One { key, action } if action.may_write() => self.write_one(key, action, moment),
            Command::One { key, action } => self.read_one(key, action, moment),
            Command::Several(several) => self.several(command, several, moment),
            Command::Count => Reply::Integer(services.store.counts(moment.wall_ms()).keys as i64),
            Command::Scan { cursor, pattern, count, strings } => self.scan(*cursor, pattern.as_deref(), *count, *strings, moment),
            Command::RandomKey => services.store.random_key(plan::random_bits(moment), moment.wall_ms()).map_or(Reply::Null, Reply::Value),
            Command::Multi => self.transaction.begin(),
            Command::Exec => self.exec(moment),
            Command::Discard => self.transaction.discard(),
            Command::Watch { keys } => self.transaction.watch(&services.store, keys, moment),
            Command::Unwatch => {
                self.transaction.unwatch();
                Reply::Ok
            }
            Command::Ack { level: None } => Reply::Ack(self.level),
            Command::Ack { level: Some(level) } => {
                self.level = *level;
                Reply::Ok
            }
            Command::Restore => return Done::Restore,
            Command::Quit => return Done::Close(Reply::Ok),
            Command::Reset => {
                self.transaction = Transaction::new(&self.shared.read_room);
                self.version = RespVersion::default();
                self.level = services.config.ack;
                self.client.reset();
                Reply::Status("RESET")
            }
            Command::Keys { .. }
            | Command::Matching { .. }
            | Command::Flush
            | Command::Digest { .. }
            | Command::Wait { .. }
            | Command::WaitDurable { .. }
            | Command::Sleep { .. }
            | Command::Status
            | Command::Peers
            | Command::Dump
            | Command::Compact
            | Command::Resume
            | Command::Info { .. }
            | Command::Help { .. } => return Done::Before(Long::of(command)),
            other => self.about_connection(other),
        };
        if self.closes { Done::Close(reply) } else { Done::Reply(reply) }
    }

    /// What neither reads nor writes data.
    fn about_connection<'c>(&mut self, command: &'c Command<'_>) -> Reply<'c> {
        match command {
            Command::Ping { message: None } => Reply::Status("PONG"),
            Command::Ping { message: Some(message) } | Command::Echo { message } => Reply::Bytes((&**message).into()),
            Command::Nothing => Reply::Ok,
            Command::Unwatch => Reply::Ok,
            Command::Hello { version, name } => {
                self.version = version.unwrap_or(self.version);
                self.client.note_version(self.version);
                if let Some(name) = name {
                    self.client.set_name(name);
                }
                introspect::hello(self.client, self.version)
            }
            Command::Client(command) => {
                self.client.note_queued(self.transaction.queued());
                self.note_name();
                let answered = introspect::client(self.shared, self.client, command);
                self.closes |= answered.closes;
                answered.reply
            }
            Command::Catalogue(query) => catalogue::answer(query),
            Command::Config { patterns } => introspect::config(self.shared, patterns),
            Command::Role => introspect::role(self.shared),
            Command::Time => introspect::time(),
            Command::Lolwut => introspect::lolwut(),
            other => panic!("{other:?} is executed elsewhere"),
        }
    }

    fn loading(&self) -> Reply<'static> {
        Reply::error(ErrorCode::Loading, self.shared.services.replica.loading(Now::read()))
    }

    pub fn refused(&mut self, refusal: Refusal) -> Reply<'static> {
        self.tally.refused += 1;
        self.tally.no_quorum |= matches!(refusal, Refusal::NoQuorum(_));
        refusal.into_reply(&self.shared.services, self.level)
    }

    fn read_one<'c>(&mut self, key: &'c [u8], action: &Action<'_>, moment: &Moment) -> Reply<'c> {
        let Shared { services, limits, .. } = self.shared;
        let lookups = &mut self.tally.lookups;
        services.store.read(key, |entry| {
            let current = Live::of(entry, moment);
            lookups.note_action(action, current.is_some());
            judge::judge(key, action, &mut None, current, limits, moment).reply
        })
    }

    fn write_one<'c>(&mut self, key: &'c [u8], action: &Action<'_>, moment: &Moment) -> Reply<'c> {
        match self.writes.one(self.level, key, action, moment) {
            Ok(reply) => {
                let is_refused = matches!(reply, Reply::Error { .. } | Reply::Absent(_));
                // Those that write and look, too, say in this way alone that nothing is there.
                self.tally.lookups.note_action(action, !matches!(reply, Reply::Absent(_)));
                *(if is_refused { &mut self.tally.refused } else { &mut self.tally.writes }) += 1;
                reply
            }
            Err(refusal) => self.refused(refusal),
        }
    }

    #[inline(never)]
    fn several<'c>(&mut self, command: &'c Command<'_>, several: &'c Several<'_>, moment: &Moment) -> Reply<'c> {
        let (keys, limits) = (several.keys(), &self.shared.limits);
        if keys.len() > plan::KEYS_MAX {
            return Refusal::TooManyKeys(keys.len()).into_reply(&self.shared.services, self.level);
        }
        let answered = "a command on several keys is answered";
        if !several.may_write() {
            let lookups = &mut self.tally.lookups;
            return self.shared.services.store.look(Span::Keys(&keys), |view| {
                let mut plan = Plan::new(view, limits, moment, usize::MAX);
                let reply = plan.run(command, &mut []).expect(answered);
                lookups.add(plan.lookups);
                reply
            });
        }
        let mut brought = plan::brought(command);
        let written = self.writes.several(self.level, Span::Keys(&keys), plan::size(command), moment, |view| {
            let mut plan = Plan::new(view, limits, moment, usize::MAX);
            let reply = plan.run(command, &mut brought).expect(answered);
            Ok((plan.into_effects(), reply))
        });
        match written {
            Ok(reply) => {
                self.tally.writes += 1;
                reply
            }
            Err(refusal) => self.refused(refusal),
        }
    }

    #[inline(never)]
    fn scan(&self, cursor: u64, pattern: Option<&[u8]>, count: usize, strings: bool, moment: &Moment) -> Reply<'static> {
        let mut keys = Vec::new();
        let met = |entry: &Entry| keys.push(entry.shared_key());
        // However many are asked for: a step must not take much.
        let count = count.min(plan::KEYS_MAX);
        let next = self.shared.services.store.scan(Cursor::from_bits(cursor), count, moment.wall_ms(), met);
        // Outside of the locks: matching a pattern takes time.
        keys.retain(|key| strings && pattern.is_none_or(|pattern| glob::matches(pattern, key)));
        let keys = keys.into_iter().map(Reply::Value).collect();
        scanned(next, keys)
    }
}

impl Shared {
    fn count(&self, tally: Tally) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.counters.commands, tally.commands);
        add(&self.counters.writes, tally.writes);
        add(&self.counters.writes_refused, tally.refused);
        add(&self.counters.hits, tally.lookups.hits);
        add(&self.counters.misses, tally.lookups.misses);
    }

    /// Writes that were applied, and then not acknowledged in time.
    pub(crate) fn count_unknown(&self, writes: usize) {
        if writes > 0 {
            self.counters.writes_unknown.fetch_add(writes as u64, Ordering::Relaxed);
        }
    }
}
