//! The schedule of an open loop: when each round of each connection is due. A pure function of
//! numbers; it never reads a clock.
//!
//! The rounds of all connections together are evenly spaced: each connection begins a little after
//! the one before it, and then keeps its own pace.

use std::time::Duration;

use crate::command_line::{BenchArgs, Seconds};

#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Operations a second, of all connections.
    pub rate: u64,
    pub clients: u64,
    /// Operations of a round.
    pub depth: u64,
}

impl Schedule {
    /// Returns the schedule, or `None` for a closed loop. The error says why the rate is too low
    /// for the time.
    pub fn of(args: &BenchArgs) -> Result<Option<Schedule>, String> {
        let Some(rate) = args.rate else { return Ok(None) };
        let schedule = Schedule { rate: rate.0 as u64, clients: args.clients.0 as u64, depth: args.depth.0 as u64 };
        let Seconds(measured) = args.seconds;
        let interval = schedule.due(0, 1);
        if interval > measured {
            let least = (schedule.clients * schedule.depth) as f64 / measured.as_secs_f64();
            return Err(format!(
                "--rate {} leaves each of {} connections, {} deep, one round in {interval:?}, and {measured:?} are measured; expected at least --rate {:.0}, fewer --clients, a smaller --depth or more --seconds",
                schedule.rate,
                schedule.clients,
                schedule.depth,
                least.ceil()
            ));
        }
        Ok(Some(schedule))
    }

    /// The time after the start at which a round of a connection is due. Both are counted from 0.
    pub fn due(&self, connection: usize, round: u64) -> Duration {
        // In 128 bits: a day of rounds at the highest rate, in nanoseconds.
        let rounds_before = u128::from(round) * u128::from(self.clients) + connection as u128;
        let nanos = rounds_before * u128::from(self.depth) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The number of rounds of a connection that are due before a time after the start, which is
    /// the index of the first that is not.
    pub fn due_before(&self, connection: usize, time: Duration) -> u64 {
        // The estimate is off by rounding alone.
        let spacing = u128::from(self.depth) * u128::from(self.clients) * 1_000_000_000;
        let mut round = u64::try_from(time.as_nanos() * u128::from(self.rate) / spacing).unwrap_or(u64::MAX - 1) + 1;
        while round > 0 && self.due(connection, round - 1) >= time {
            round -= 1;
        }
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::default_args;
    use crate::command_line::Bounded;

    #[test]
    fn rounds_are_evenly_spaced_over_all_connections() {
        let schedule = Schedule { rate: 1000, clients: 4, depth: 10 };
        let ms = Duration::from_millis;
        assert_eq!([0, 1, 2, 3].map(|connection| schedule.due(connection, 0)), [ms(0), ms(10), ms(20), ms(30)]);
        assert_eq!([1, 2, 250].map(|round| schedule.due(3, round)), [ms(70), ms(110), ms(10_030)]);
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let schedule = Schedule { rate: 7, clients: 3, depth: 1 };
        assert_eq!(schedule.due(0, 7), Duration::from_secs(3));
        assert_eq!(schedule.due(0, 7_000_000), Duration::from_secs(3_000_000));
        assert_eq!(schedule.due(1, 0), Duration::from_nanos(142_857_142));
        // A day at the highest rate, and beyond the range of a duration.
        let fastest = Schedule { rate: 1_000_000_000, clients: 1, depth: 1 };
        assert_eq!(fastest.due(0, 86_400_000_000_000), Duration::from_secs(86_400));
        let slowest = Schedule { rate: 1, clients: 10_000, depth: 10_000 };
        assert_eq!(slowest.due(9_999, u64::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn the_rounds_before_a_time_are_those_that_are_due_before_it() {
        for (rate, clients, depth) in [(1000, 4, 10), (7, 3, 1), (999_983, 50, 16), (3, 1, 7)] {
            let schedule = Schedule { rate, clients, depth };
            for connection in [0, clients as usize - 1] {
                for time in [0, 1, 999, 10_000_000, 1_234_567_891, 30_000_000_000].map(Duration::from_nanos) {
                    let round = schedule.due_before(connection, time);
                    assert!(schedule.due(connection, round) >= time, "{schedule:?} {connection} {time:?}: {round}");
                    assert!(round == 0 || schedule.due(connection, round - 1) < time, "{schedule:?} {connection} {time:?}: {round}");
                }
            }
        }
    }

    #[test]
    fn all_connections_together_keep_the_rate() {
        let schedule = Schedule { rate: 20_000, clients: 50, depth: 16 };
        let second = Duration::from_secs(1);
        let rounds: u64 =
            (0..50).map(|connection| schedule.due_before(connection, 2 * second) - schedule.due_before(connection, second)).sum();
        assert_eq!(rounds * 16, 20_000);
    }

    #[test]
    fn a_rate_that_leaves_a_connection_without_a_round_is_refused() {
        let mut asked = default_args();
        assert!(Schedule::of(&asked).unwrap().is_none());
        asked.rate = Some(Bounded(800));
        (asked.clients, asked.depth) = (Bounded(50), Bounded(16));
        assert!(Schedule::of(&asked).unwrap().is_some());
        asked.rate = Some(Bounded(799));
        let refused = Schedule::of(&asked).unwrap_err();
        assert!(
            refused.starts_with("--rate 799 leaves each of 50 connections, 16 deep,") && refused.contains("at least --rate 800,"),
            "{refused}"
        );
    }
}
