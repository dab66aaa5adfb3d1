//! Stamps: the hybrid logical clock that orders every write in the mesh.
//!
//! Owns the one number that may never go back. Never reads the time itself: wall time is an argument, so that a test or
//! a simulator can choose it.
//!
//! Source: Kulkarni et al., "Logical Physical Clocks" (2014), with the logical part kept in the low bits.

use std::cell::OnceCell;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sabotage::Sabotage;

/// A point of the hybrid logical clock: 48 bits of wall milliseconds since 1970, 16 bits of counter.
///
/// A full counter carries into the milliseconds, so "the next stamp" is always "plus one".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// Before every write: what a vector holds for an origin that it has never heard of.
    pub const ZERO: Stamp = Stamp(0);
    /// No honest clock gets here (the year 6429): a stamp at or beyond it is refused wherever it comes from, so that nobody can
    /// drive the clock into its end.
    pub const LIMIT: Stamp = Stamp(1 << 63);

    const COUNTER_BITS: u32 = 16;

    /// The first stamp of a wall millisecond.
    pub const fn from_wall_ms(wall_ms: u64) -> Stamp {
        Stamp(wall_ms << Self::COUNTER_BITS)
    }

    /// The wall milliseconds in it.
    pub const fn wall_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The bits, for the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// From the wire.
    pub const fn from_bits(bits: u64) -> Stamp {
        Stamp(bits)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Stamp {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Stamp, ParseIntError> {
        text.parse().map(Stamp)
    }
}

/// The clock of one node.
///
/// Invariant: it only grows, and it is above every stamp that it has issued or observed. So a new stamp is greater than anything
/// that this node has shown anyone, whatever the wall clock does.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicU64,
}

impl Clock {
    /// A stamp greater than every one issued or observed before, and no earlier than `wall_ms`.
    pub fn issue(&self, wall_ms: u64) -> Stamp {
        let wall = Stamp::from_wall_ms(wall_ms).0;
        let next = |last: u64| wall.max(last + 1);
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        match last {
            Ok(last) | Err(last) => Stamp(next(last)),
        }
    }

    /// Moves the clock to at least `stamp`. To be called *before* what carries the stamp becomes visible.
    pub fn observe(&self, stamp: Stamp) {
        if Sabotage::WallClock.is_on() {
            return;
        }
        self.last.fetch_max(stamp.0, Ordering::AcqRel);
    }

    /// The greatest stamp issued or observed.
    pub fn last(&self) -> Stamp {
        Stamp(self.last.load(Ordering::Acquire))
    }
}

/// The two times that decisions take as an argument: wall time, which may jump, for stamps; and monotonic time, for time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970 by this machine's wall clock.
    pub wall_ms: u64,
    /// Time since an arbitrary fixed moment of this process.
    pub elapsed: Duration,
}

impl Now {
    /// Reads both clocks of the machine.
    pub fn read() -> Now {
        Now { wall_ms: wall_ms(), elapsed: elapsed() }
    }
}

/// When a time-out is over that begins when it is first asked for. Who need not wait never asks, and reads no clock.
#[derive(Debug)]
pub struct Deadline {
    timeout: Duration,
    at: OnceCell<Instant>,
}

impl Deadline {
    pub fn within(timeout: Duration) -> Deadline {
        Deadline { timeout, at: OnceCell::new() }
    }

    /// The end of the time-out.
    pub fn at(&self) -> Instant {
        *self.at.get_or_init(|| Instant::now() + self.timeout)
    }

    /// What is left of it, which is all at first; nothing once it is over.
    pub fn left(&self) -> Duration {
        match self.at.get() {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => {
                self.at();
                self.timeout
            }
        }
    }
}

/// Milliseconds since 1970 by this machine's wall clock; 0 for a clock set before that.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Monotonic time since the first call in this process.
pub fn elapsed() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_only_grow_when_the_wall_clock_steps_back() {
        let clock = Clock::default();
        let first = clock.issue(1_000);
        assert_eq!(first.wall_ms(), 1_000);
        let second = clock.issue(10);
        assert!(second > first);
        assert_eq!(second.wall_ms(), 1_000);
        assert_eq!(clock.last(), second);
    }

    #[test]
    fn an_observed_stamp_is_beaten_by_the_next_one() {
        let clock = Clock::default();
        let seen = Stamp::from_wall_ms(5_000);
        clock.observe(seen);
        clock.observe(Stamp::ZERO);
        assert!(clock.issue(1) > seen);
    }

    #[test]
    fn a_deadline_begins_when_it_is_first_asked_for_and_not_again() {
        let timeout = Duration::from_secs(60);
        let deadline = Deadline::within(timeout);
        let before = Instant::now();
        assert_eq!(deadline.left(), timeout);
        let at = deadline.at();
        assert!(at >= before + timeout && at <= Instant::now() + timeout);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(deadline.at(), at);
        assert!(deadline.left() < timeout);
        assert_eq!(Deadline::within(Duration::ZERO).left(), Duration::ZERO);
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let clock = Clock::default();
        clock.observe(Stamp::from_bits(Stamp::from_wall_ms(8).to_bits() - 1));
        assert_eq!(clock.issue(1), Stamp::from_wall_ms(8));
    }
}
