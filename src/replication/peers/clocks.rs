//! How far a peer's clocks are from this node's (**I9**).

use std::time::Duration;

use crate::config::Config;
use crate::data::clock::Now;

/// The last comparison of clocks with one peer.
#[derive(Default)]
pub struct PeerClocks {
    /// The peer's reference clock minus this node's, in milliseconds.
    reference_offset_ms: i64,
    /// The peer's wall clock minus this node's, in milliseconds.
    wall_offset_ms: i64,
    compared: Option<Duration>,
}

impl PeerClocks {
    pub fn compare(&mut self, reference_offset_ms: i64, wall_offset_ms: i64, now: Now) {
        *self = PeerClocks { reference_offset_ms, wall_offset_ms, compared: Some(now.elapsed) };
    }

    /// The peer's reference clock minus this node's, in milliseconds, by the last comparison.
    pub fn reference_offset_ms(&self) -> i64 {
        self.reference_offset_ms
    }

    /// The clocks were compared not long ago: a peer that is gone has no say.
    pub fn is_recent(&self, config: &Config, now: Now) -> bool {
        let patience = config.recovery_wait + 2 * config.reconnect_pause_max;
        self.compared.is_some_and(|at| now.elapsed.saturating_sub(at) < patience)
    }

    /// The reference clocks are close enough to meet.
    pub fn agrees(&self, config: &Config) -> bool {
        is_within(config, self.reference_offset_ms)
    }

    /// The wall clocks are close enough to meet.
    pub fn walls_agree(&self, config: &Config) -> bool {
        is_within(config, self.wall_offset_ms)
    }

    /// The reference clocks are more than half of what is allowed apart. Beyond that no floor is
    /// taken, and acks do not count.
    pub fn is_far(&self, config: &Config) -> bool {
        is_far(config, self.reference_offset_ms)
    }

    /// This node's reference clock was set forward by `ahead_ms`; back, if that is negative.
    pub fn rebased(&mut self, ahead_ms: i64) {
        self.reference_offset_ms = self.reference_offset_ms.saturating_sub(ahead_ms);
    }
}

/// Clocks that are this far apart may meet.
pub fn is_within(config: &Config, offset_ms: i64) -> bool {
    u128::from(offset_ms.unsigned_abs()) <= config.clock_offset_max.as_millis()
}

/// More than half of `clock_offset_max`.
pub fn is_far(config: &Config, offset_ms: i64) -> bool {
    !is_within(config, offset_ms.saturating_mul(2))
}
