//! What was seen while it was measured.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// What one connection, or all together, saw while it was measured.
pub struct Tally {
    pub done: u64,
    /// Replies by their code; `LOST` for commands that were not answered, `UNEXPECTED` for a reply that the command cannot have.
    pub errors: BTreeMap<String, u64>,
    /// Nanoseconds of a round.
    pub latency: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Tally {
        const MINUTE: u64 = 60_000_000_000;
        // Bounds that the library takes: 1 ≤ low, 2·low ≤ high, at most five digits.
        let latency = Histogram::new_with_bounds(1_000, MINUTE, 3).unwrap_or_else(|_| unreachable!("constant bounds are valid"));
        Tally { done: 0, errors: BTreeMap::new(), latency }
    }

    pub fn join(&mut self, other: Tally) {
        self.done += other.done;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        if self.latency.add(&other.latency).is_err() {
            unreachable!("histograms of the same bounds can be added");
        }
    }

    pub fn count_error(&mut self, code: &str, count: u64) {
        // Looked up first: an error reply costs an allocation only the first time.
        match self.errors.get_mut(code) {
            Some(counted) => *counted += count,
            None => {
                self.errors.insert(code.to_string(), count);
            }
        }
    }
}
