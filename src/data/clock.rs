//! Stamps, and the clocks that make them: what orders every write in the mesh.
//!
//! Owns what may never go back. Decisions never read the time themselves: it is an argument, so
//! that a test or a simulator can choose it.
//!
//! Source of the stamps: Kulkarni et al., "Logical Physical Clocks" (2014), with the logical part
//! kept in the low bits.

use std::cell::OnceCell;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::testing::broken_rules::BrokenRule;

/// A point of the hybrid logical clock: 48 bits of wall milliseconds since 1970, 16 bits of
/// counter.
///
/// A full counter carries into the milliseconds, so "the next stamp" is always "plus one".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// The stamp before every write: what a vector holds for an origin that it has never heard of.
    pub const ZERO: Stamp = Stamp(0);
    /// The end of the clock (the year 6429), which no honest clock reaches. A stamp at or beyond it
    /// is refused wherever it comes from, so that nobody can drive the clock into its end.
    pub const LIMIT: Stamp = Stamp(1 << 63);

    const COUNTER_BITS: u32 = 16;

    /// Returns the first stamp of a wall millisecond.
    pub const fn from_wall_ms(wall_ms: u64) -> Stamp {
        Stamp(wall_ms << Self::COUNTER_BITS)
    }

    /// Returns the wall milliseconds in it.
    pub const fn wall_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// Returns the bits, for the wire.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Makes a stamp of the bits that came over the wire.
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

/// The two clocks of a node, in microseconds since 1970, as peers are told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// The reference clock: the wall clock as it was at the node's start, run on by [`elapsed`] and
    /// slewed towards the wall clock since. No other clock moves it.
    pub reference_us: u64,
    /// The stamp clock: it keeps the pace of the fastest clock that the node has heard of.
    pub stamp_us: u64,
}

/// The lead of a clock over the [`elapsed`] time of this process, in microseconds. A clock that
/// runs at the same pace keeps its lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lead(i64);

impl Lead {
    /// The lead of a clock of which nothing is known: behind all others.
    pub const NONE: Lead = Lead(i64::MIN);

    /// Returns the lead of a clock that shows this now.
    pub fn of(clock_us: u64, elapsed: Duration) -> Lead {
        Lead((clock_us as i64).saturating_sub(elapsed.as_micros() as i64))
    }

    /// Returns the lead of the clock that has made a stamp.
    pub fn of_stamp(stamp: Stamp, elapsed: Duration) -> Lead {
        Lead::of(stamp.wall_ms() * 1_000, elapsed)
    }

    pub fn plus(self, ahead: Duration) -> Lead {
        Lead(self.0.saturating_add(ahead.as_micros() as i64))
    }

    /// Returns how much further ahead it is than another one; zero if it is not.
    pub fn beyond(self, other: Lead) -> Duration {
        Duration::from_micros(self.0.saturating_sub(other.0).max(0) as u64)
    }

    fn shows(self, elapsed: Duration) -> u64 {
        self.0.saturating_add(elapsed.as_micros() as i64).max(0) as u64
    }
}

/// The clocks of one node: a reference clock that follows no step of the wall clock, and a stamp
/// clock that keeps up with the fastest in the mesh.
///
/// Invariant: the stamp clock is at or above the reference clock, and a new stamp is above every
/// one that was issued or observed. So it is greater than anything that this node has shown anyone,
/// whatever the wall clock does.
///
/// A floor under the stamp clock *runs on* from where it was heard. One that stood still would let
/// a node whose clock is behind fall back again. A floor is never raised by an estimate of the time
/// that it was under way: two nodes that did so would drive each other up without end.
#[derive(Debug)]
pub struct Clock {
    /// The greatest stamp that was issued or observed.
    last: AtomicU64,
    reference: AtomicI64,
    stamp: AtomicI64,
    /// The lead of the stamps that this node's own disk held at its start. Peers' stamps are
    /// compared with this and the reference clock, whichever is further.
    anchor: AtomicI64,
    /// The bound on how far peers may raise the stamp clock above reference and anchor. Less than
    /// what is refused, so that good nodes never stand at that edge together.
    floor_max: Duration,
    slewed: Mutex<Duration>,
}

/// A stamp clock that is raised by more is announced to all peers at once.
const JUMP: Duration = Duration::from_millis(10);
/// The slowest and the fastest slewing of the reference clock, in millionths of the time. In
/// between it is a hundredth of the offset a second.
const SLEW_PPM: (i64, i64) = (1_000, 10_000);
/// The slowing of the stamp clock as long as it is ahead, in millionths: more than two good
/// oscillators differ by.
const SLOWER_PPM: i64 = 1_000;

impl Clock {
    /// Makes a clock that begins with the wall clock.
    pub fn new(now: Now, floor_max: Duration) -> Clock {
        let Lead(lead) = Lead::of(now.wall_ms * 1_000, now.elapsed);
        let (reference, stamp, anchor) = (lead.into(), lead.into(), Lead::NONE.0.into());
        Clock { last: AtomicU64::new(0), reference, stamp, anchor, floor_max, slewed: Mutex::new(now.elapsed) }
    }

    /// Issues a stamp: greater than every one issued or observed before, and no earlier than the
    /// stamp clock.
    pub fn issue(&self, elapsed: Duration) -> Stamp {
        let clock = Stamp::from_wall_ms(self.stamp_lead().shows(elapsed) / 1_000).0;
        let next = |last: u64| clock.max(last + 1);
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        match last {
            Ok(last) | Err(last) => Stamp(next(last)),
        }
    }

    /// Moves the clock to at least `stamp`. To be called *before* what carries the stamp becomes
    /// visible. Returns whether the peers are to hear of it at once.
    #[must_use]
    pub fn observe(&self, stamp: Stamp, elapsed: Duration) -> bool {
        if BrokenRule::WallClock.is_on() {
            return false;
        }
        self.last.fetch_max(stamp.0, Ordering::AcqRel);
        self.raise(Lead::of_stamp(stamp, elapsed))
    }

    /// Raises the stamp clock to a peer's, which shows this as far as is known. Returns whether the
    /// other peers are to hear of it at once.
    #[must_use]
    pub fn hear(&self, stamp_us: u64, elapsed: Duration) -> bool {
        let mut heard = Lead::of(stamp_us, elapsed);
        if BrokenRule::FloorEstimated.is_on() {
            heard = heard.plus(2 * JUMP);
        }
        !BrokenRule::WallClock.is_on() && self.raise(heard)
    }

    /// Moves the clock to at least `stamp`, which this node's own disk holds, or which a blank node
    /// takes over. However far ahead, it is this node's own now.
    pub fn take_over(&self, stamp: Stamp, elapsed: Duration) {
        if BrokenRule::WallClock.is_on() {
            return;
        }
        self.last.fetch_max(stamp.0, Ordering::AcqRel);
        let Lead(lead) = Lead::of_stamp(stamp, elapsed);
        self.anchor.fetch_max(lead, Ordering::AcqRel);
        self.stamp.fetch_max(lead, Ordering::AcqRel);
    }

    fn raise(&self, lead: Lead) -> bool {
        if BrokenRule::FloorStands.is_on() {
            return false;
        }
        let floor = lead.min(self.base().plus(self.floor_max));
        let before = Lead(self.stamp.fetch_max(floor.0, Ordering::AcqRel));
        floor.beyond(before) > JUMP
    }

    /// Slews the reference clock towards the wall clock, and lets time catch up with a stamp clock
    /// that is ahead. To be called now and then.
    pub fn slew(&self, now: Now) {
        let mut slewed = self.slewed.lock();
        let passed = now.elapsed.saturating_sub(*slewed).as_micros() as i64;
        *slewed = now.elapsed;
        let reference = self.reference.load(Ordering::Acquire);
        let offset = Lead::of(now.wall_ms * 1_000, now.elapsed).0.saturating_sub(reference);
        let (slow, fast) = SLEW_PPM;
        let pace = (offset.saturating_abs() / 100).clamp(slow, fast);
        let step = offset.clamp(-(passed * pace / 1_000_000), passed * pace / 1_000_000);
        let reference = reference.saturating_add(step);
        self.reference.store(reference, Ordering::Release);
        let slower = passed * SLOWER_PPM / 1_000_000;
        let _ = self.stamp.fetch_update(Ordering::AcqRel, Ordering::Acquire, |stamp| Some(reference.max(stamp.saturating_sub(slower))));
    }

    /// Sets the reference clock to the wall clock, where the reference clock was found to be wrong:
    /// the machine was suspended, or its wall clock was wrong when the node began. The stamp clock
    /// goes back with it as far as no stamp holds it.
    pub fn rebase(&self, now: Now) {
        let reference = Lead::of(now.wall_ms * 1_000, now.elapsed).0;
        let before = self.reference.swap(reference, Ordering::AcqRel);
        if reference < before {
            // Nothing that was stamped or heard holds the stamp clock up there; what peers show
            // comes again with their next message.
            let last = Lead::of_stamp(self.last(), now.elapsed).0;
            self.stamp.store(reference.max(last).max(self.anchor.load(Ordering::Acquire)), Ordering::Release);
        }
    }

    /// Reads both clocks, to be told to peers. A stamp that was issued or observed is never above
    /// them.
    pub fn read(&self, elapsed: Duration) -> Clocks {
        let last_us = self.last().wall_ms() * 1_000;
        Clocks { reference_us: self.reference_us(elapsed), stamp_us: self.stamp_lead().shows(elapsed).max(last_us) }
    }

    /// Reads the reference clock.
    pub fn reference_us(&self, elapsed: Duration) -> u64 {
        Lead(self.reference.load(Ordering::Acquire)).shows(elapsed)
    }

    /// Returns how far a stamp is ahead of what this node goes by: its reference clock, or the
    /// stamps that were its own at its start.
    pub fn ahead(&self, stamp: Stamp, elapsed: Duration) -> Duration {
        Lead::of_stamp(stamp, elapsed).beyond(self.base())
    }

    /// Returns the greatest stamp issued or observed.
    pub fn last(&self) -> Stamp {
        Stamp(self.last.load(Ordering::Acquire))
    }

    fn base(&self) -> Lead {
        Lead(self.reference.load(Ordering::Acquire).max(self.anchor.load(Ordering::Acquire)))
    }

    fn stamp_lead(&self) -> Lead {
        Lead(self.stamp.load(Ordering::Acquire).max(self.reference.load(Ordering::Acquire)))
    }
}

/// The two times that decisions take as an argument: wall time, which may jump, for expiries; and
/// time that passes, for stamps and time-outs.
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

/// The end of a time-out, which begins when it is first asked for. A caller that need not wait
/// never asks, and reads no clock.
#[derive(Debug)]
pub struct Deadline {
    timeout: Duration,
    at: OnceCell<Instant>,
}

impl Deadline {
    pub fn within(timeout: Duration) -> Deadline {
        Deadline { timeout, at: OnceCell::new() }
    }

    /// Returns the end of the time-out.
    pub fn at(&self) -> Instant {
        *self.at.get_or_init(|| Instant::now() + self.timeout)
    }

    /// Returns what is left: all of it at first, nothing once it is over.
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

/// Time since the first call in this process. It never steps, and goes on while the machine is
/// suspended, where the system has such a clock.
pub fn elapsed() -> Duration {
    static START: OnceLock<Duration> = OnceLock::new();
    let now = since_boot();
    now.saturating_sub(*START.get_or_init(|| now))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // There since Linux 2.6.39; where it is refused all the same, a suspended machine's clock
    // stands still.
    clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC)).map_or(Duration::ZERO, Duration::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(wall_ms: u64, elapsed: Duration) -> Now {
        Now { wall_ms, elapsed }
    }

    fn clock(wall_ms: u64) -> Clock {
        Clock::new(at(wall_ms, Duration::ZERO), 5 * SECOND)
    }

    #[test]
    fn stamps_follow_the_time_that_passes_and_only_grow() {
        let clock = clock(1_000);
        assert_eq!(clock.issue(Duration::ZERO), Stamp::from_wall_ms(1_000));
        let second = clock.issue(Duration::ZERO);
        assert_eq!(second.to_bits(), Stamp::from_wall_ms(1_000).to_bits() + 1);
        assert_eq!(clock.last(), second);
        assert_eq!(clock.issue(SECOND), Stamp::from_wall_ms(2_000));
        assert!(clock.issue(Duration::ZERO) > Stamp::from_wall_ms(2_000));
    }

    #[test]
    fn a_stamp_that_was_observed_is_passed_by_the_next_one_and_runs_on() {
        let clock = clock(1_000);
        let seen = Stamp::from_wall_ms(4_000);
        assert!(clock.observe(seen, Duration::ZERO));
        assert!(!clock.observe(Stamp::ZERO, Duration::ZERO));
        assert!(clock.issue(Duration::ZERO) > seen);
        assert_eq!(clock.issue(SECOND), Stamp::from_wall_ms(5_000));
        assert!(!clock.hear(5_005_000, SECOND), "not by more than a few milliseconds");
        assert_eq!(clock.read(SECOND), Clocks { reference_us: 2_000_000, stamp_us: 5_005_000 });
    }

    #[test]
    fn a_floor_is_taken_up_to_its_bound_and_a_stamp_is_passed_all_the_same() {
        let clock = clock(1_000);
        assert!(clock.hear(9_000_000, Duration::ZERO));
        assert_eq!(clock.read(Duration::ZERO).stamp_us, 6_000_000);
        assert!(!clock.observe(Stamp::from_wall_ms(9_000), Duration::ZERO));
        assert_eq!(clock.ahead(Stamp::from_wall_ms(9_000), Duration::ZERO), 8 * SECOND);
        assert!(clock.issue(Duration::ZERO) > Stamp::from_wall_ms(9_000));
        assert_eq!(clock.read(Duration::ZERO).stamp_us, 9_000_000);
        // What a node begins with is its own, and what is further ahead is held against that.
        clock.take_over(Stamp::from_wall_ms(60_000), Duration::ZERO);
        assert_eq!(clock.issue(SECOND), Stamp::from_wall_ms(61_000));
        assert_eq!(clock.ahead(Stamp::from_wall_ms(63_000), SECOND), 2 * SECOND);
    }

    #[test]
    fn the_reference_clock_is_slewed_and_never_steps() {
        let clock = clock(100_000);
        let reference_ms = |seconds: u64| clock.reference_us(seconds as u32 * SECOND) as f64 / 1_000.0;
        let slew = |seconds: u64, offset_ms: i64| {
            clock.slew(at((100_000 + seconds as i64 * 1_000 + offset_ms) as u64, seconds as u32 * SECOND));
        };
        // An hour ahead: a hundredth of the time.
        slew(1, 3_600_000);
        assert_eq!(reference_ms(1), 101_010.0);
        // By 200 ms: a hundredth of that; by 9 ms: a millisecond. And never beyond it.
        slew(2, 210);
        assert_eq!(reference_ms(2), 102_012.0);
        slew(3, 21);
        assert_eq!(reference_ms(3), 103_013.0);
        slew(4, 13);
        assert_eq!(reference_ms(4), 104_013.0);
        slew(5, -50_000);
        assert_eq!(reference_ms(5), 105_003.0);
    }

    #[test]
    fn a_stamp_clock_that_is_ahead_lets_time_catch_up() {
        let clock = clock(1_000);
        assert!(clock.hear(1_100_000, Duration::ZERO));
        clock.slew(at(51_000, 50 * SECOND));
        assert_eq!(clock.read(50 * SECOND), Clocks { reference_us: 51_000_000, stamp_us: 51_050_000 });
        clock.slew(at(201_000, 200 * SECOND));
        assert_eq!(clock.read(200 * SECOND), Clocks { reference_us: 201_000_000, stamp_us: 201_000_000 });
    }

    /// Two that hear each other without end go no faster than the faster of them.
    #[test]
    fn clocks_that_hear_each_other_do_not_drive_each_other_up() {
        let clocks = [clock(1_000), clock(1_300)];
        let delay = Duration::from_millis(30);
        let mut elapsed = Duration::ZERO;
        for _ in 0..1_000 {
            for (from, to) in [(0, 1), (1, 0)] {
                let said = clocks[from].read(elapsed).stamp_us;
                elapsed += delay;
                let _ = clocks[to].hear(said, elapsed);
            }
        }
        assert_eq!(clocks[1].read(elapsed).stamp_us, 1_300_000 + elapsed.as_micros() as u64);
        let behind = clocks[1].read(elapsed).stamp_us - clocks[0].read(elapsed).stamp_us;
        assert_eq!(behind, delay.as_micros() as u64);
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
        let clock = clock(1);
        let _ = clock.observe(Stamp::from_bits(Stamp::from_wall_ms(8).to_bits() - 1), Duration::ZERO);
        assert_eq!(clock.issue(Duration::ZERO), Stamp::from_wall_ms(8));
    }
}
