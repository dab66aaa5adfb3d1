//! Measurements of one connection, or of all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// The time that a round may take beyond the run: the last one is waited for after the end.
const ROUND_SPARE: Duration = Duration::from_secs(60);
/// Rounds that were never sent enter the histogram in so many steps at most.
const UNSENT_STEPS: u64 = 10_000;

pub struct Measurements {
    pub done: u64,
    pub errors: ErrorCounts,
    /// Nanoseconds that each round took; in an open loop, from when it was due.
    latency: Histogram<u64>,
    /// Rounds of an open loop that were due and not sent before the end. They are in `latency`,
    /// with the time that they had waited.
    pub rounds_unsent: u64,
}

impl Measurements {
    /// `longest`: the time of the whole run. A round that takes longer, by more than a minute,
    /// counts as that.
    pub fn new(longest: Duration) -> Measurements {
        let high = (longest + ROUND_SPARE).as_nanos() as u64;
        // The bounds satisfy the library: 1 ≤ low, 2·low ≤ high, at most five digits.
        let latency = Histogram::new_with_bounds(1_000, high, 3).expect("low and high are a minute apart");
        Measurements { done: 0, errors: ErrorCounts::default(), latency, rounds_unsent: 0 }
    }

    // Called for each round, from another codegen unit.
    #[inline]
    pub fn record(&mut self, round: Duration) {
        self.latency.saturating_record(round.as_nanos() as u64);
    }

    /// Adds rounds that were never sent. `waited`: how long each of them has waited, from the
    /// longest to the shortest.
    pub fn record_unsent(&mut self, rounds: u64, waited: impl Fn(u64) -> Duration) {
        let step = rounds.div_ceil(UNSENT_STEPS).max(1);
        for first in (0..rounds).step_by(step as usize) {
            self.latency.saturating_record_n(waited(first).as_nanos() as u64, step.min(rounds - first));
        }
        self.rounds_unsent += rounds;
    }

    pub fn rounds(&self) -> u64 {
        self.latency.len()
    }

    /// Adds the measurements of another connection of the same run.
    pub fn join(&mut self, other: &Measurements) {
        self.done += other.done;
        self.rounds_unsent += other.rounds_unsent;
        self.errors.join(&other.errors);
        self.latency.add(&other.latency).expect("histograms of the same bounds can be added");
    }

    pub fn percentiles(&self) -> Percentiles {
        Percentiles::of(&self.latency)
    }
}

/// Percentiles of the time that a round took.
pub struct Percentiles(Vec<(&'static str, f64)>);

impl Percentiles {
    fn of(latency: &Histogram<u64>) -> Percentiles {
        const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let mut named: Vec<_> = QUANTILES.iter().map(|(name, quantile)| (*name, micros(latency.value_at_quantile(*quantile)))).collect();
        named.push(("max", micros(latency.max())));
        Percentiles(named)
    }

    /// In microseconds.
    pub fn as_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, micros)| (name.to_string(), (*micros).into())).collect::<Map<_, _>>())
    }

    pub fn in_words(&self) -> String {
        self.0.iter().map(|(name, micros)| format!("{name} {micros:.0} us")).collect::<Vec<_>>().join(", ")
    }
}

/// Operations by the code of their error: `LOST` for those that were not answered, `UNEXPECTED` for
/// a reply that the command cannot have.
#[derive(Clone, Debug, Default)]
pub struct ErrorCounts(BTreeMap<String, u64>);

impl ErrorCounts {
    pub fn count(&mut self, code: &str, count: u64) {
        // Looked up first, so that an error allocates only the first time.
        match self.0.get_mut(code) {
            Some(counted) => *counted += count,
            None => {
                self.0.insert(code.to_string(), count);
            }
        }
    }

    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// The codes that were counted, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().filter(|(_, count)| **count > 0).map(|(code, count)| (code.as_str(), *count))
    }

    pub fn join(&mut self, other: &ErrorCounts) {
        for (code, count) in other.iter() {
            self.count(code, count);
        }
    }

    /// Sets all counts to 0 and keeps the codes.
    pub fn forget(&mut self) {
        self.0.values_mut().for_each(|count| *count = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measurements {
        Measurements::new(Duration::from_secs(10))
    }

    /// Compares within the precision of three digits.
    fn near(percentiles: &Percentiles, name: &str, expected_us: f64) {
        let json = percentiles.as_json();
        let found = json[name].as_f64().unwrap();
        assert!((found - expected_us).abs() <= expected_us / 500.0 + 1.0, "{name} {found}, expected {expected_us}");
    }

    #[test]
    fn percentiles_are_those_of_all_connections() {
        let (mut fast, mut slow) = (measured(), measured());
        (1..=5_000).for_each(|micros| fast.record(Duration::from_micros(micros)));
        (5_001..=10_000).for_each(|micros| slow.record(Duration::from_micros(micros)));
        fast.join(&slow);
        assert_eq!(fast.rounds(), 10_000);
        let percentiles = fast.percentiles();
        for (name, expected) in
            [("p50", 5_000.0), ("p90", 9_000.0), ("p99", 9_900.0), ("p99.9", 9_990.0), ("p99.99", 9_999.0), ("max", 10_000.0)]
        {
            near(&percentiles, name, expected);
        }
        let words = percentiles.in_words();
        let names: Vec<&str> = words.split(", ").filter_map(|word| word.split(' ').next()).collect();
        assert_eq!(names, ["p50", "p90", "p99", "p99.9", "p99.99", "max"], "{words}");
        assert!(words.ends_with(" us"), "{words}");
    }

    #[test]
    fn nothing_measured_is_all_zeros_and_too_much_is_the_most_that_fits() {
        assert_eq!(measured().percentiles().in_words(), "p50 0 us, p90 0 us, p99 0 us, p99.9 0 us, p99.99 0 us, max 0 us");
        let mut measured = measured();
        measured.record(Duration::from_secs(69));
        near(&measured.percentiles(), "max", 69e6);
        measured.record(Duration::from_secs(100_000));
        assert!(measured.percentiles().as_json()["max"].as_f64().unwrap() >= 70e6);
    }

    #[test]
    fn rounds_that_were_never_sent_count_with_the_time_that_they_waited() {
        for rounds in [0, 1, 9, UNSENT_STEPS, 10 * UNSENT_STEPS + 3] {
            let mut measured = measured();
            measured.record_unsent(rounds, |round| Duration::from_secs(8) * (rounds - round) as u32 / rounds as u32);
            assert_eq!((measured.rounds(), measured.rounds_unsent), (rounds, rounds));
            if rounds >= UNSENT_STEPS {
                near(&measured.percentiles(), "p50", 4e6);
                near(&measured.percentiles(), "max", 8e6);
            }
        }
    }

    #[test]
    fn errors_are_counted_by_their_code_and_forgotten_ones_are_not_told() {
        let mut errors = ErrorCounts::default();
        errors.count("LOST", 3);
        errors.forget();
        errors.count("SHORT", 1);
        let mut all = ErrorCounts::default();
        (0..2).for_each(|_| all.join(&errors));
        assert_eq!(all.iter().collect::<Vec<_>>(), [("SHORT", 2)]);
        assert_eq!((errors.sum(), all.sum()), (1, 2));
    }
}
