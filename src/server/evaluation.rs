//! Evaluation of a command on one key: the values that go in and come out.
//!
//! The functions of the families (commands/) are pure: the command, what is there, and the time
//! make an [`Evaluation`]. They are called under the key's lock: they never wait and look at
//! nothing else.

use std::cell::Cell;
use std::time::Duration;

use crate::data::clock::Now;
use crate::data::entry::{Entry, Expiry, Update, Value};
use crate::wire::bytes::Limits;
use crate::wire::reply::Reply;

/// The time of a round: read when it is first asked for, and the same from then on.
#[derive(Default)]
pub(crate) struct RoundTime {
    now: Cell<Option<Now>>,
}

impl RoundTime {
    /// A time that was read already.
    #[cfg(any(test, feature = "testing"))]
    pub fn at(now: Now) -> RoundTime {
        RoundTime { now: Cell::new(Some(now)) }
    }

    pub fn wall_ms(&self) -> u64 {
        self.now().wall_ms
    }

    pub fn elapsed(&self) -> Duration {
        self.now().elapsed
    }

    fn now(&self) -> Now {
        let now = self.now.get().unwrap_or_else(Now::read);
        self.now.set(Some(now));
        now
    }
}

/// A key that is there: it has a value, which has not expired.
#[derive(Clone, Copy)]
pub(crate) struct Live<'e>(&'e Entry);

impl<'e> Live<'e> {
    pub fn of(entry: Option<&'e Entry>, time: &RoundTime) -> Option<Live<'e>> {
        entry.filter(|entry| entry.is_live(|| time.wall_ms())).map(Live)
    }

    pub fn value(self) -> &'e [u8] {
        self.0.value().unwrap_or_default()
    }

    pub fn shared_value(self) -> Option<Value> {
        self.0.shared_value()
    }

    /// The value as a reply, without a copy.
    pub fn reply(self) -> Reply<'static> {
        self.0.shared_value().map_or(Reply::Null, Reply::Value)
    }

    pub fn expires(self) -> Option<Expiry> {
        self.0.expires()
    }
}

/// Everything but the key that a write is evaluated with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub limits: &'a Limits,
    pub time: &'a RoundTime,
}

/// The result of a command on one key.
pub(crate) struct Evaluation<'c> {
    /// The entry to write; `None` if nothing is written.
    pub update: Option<Update>,
    pub reply: Reply<'c>,
}

impl<'c> Evaluation<'c> {
    pub fn reply(reply: Reply<'c>) -> Evaluation<'c> {
        Evaluation { update: None, reply }
    }

    pub fn write(update: Update, reply: Reply<'c>) -> Evaluation<'c> {
        Evaluation { update: Some(update), reply }
    }

    pub fn number(number: usize) -> Evaluation<'c> {
        Evaluation::reply(Reply::Integer(number as i64))
    }
}
