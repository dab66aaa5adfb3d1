//! Times in which no fault explains a refusal: nothing is amiss with any node, by what all of them say.
//!
//! That no fault is running is not enough: a machine that is slow makes nodes call each other down. So the nodes themselves are asked, before and after, and a
//! time counts as quiet only if what they say leaves no room for such a refusal between the two. Where they do not say so it is not judged, which costs nothing
//! but a look.

use std::sync::Arc;
use std::time::Duration;

use crate::nodes::{ACK_TIMEOUT, Place};
use crate::now;
use crate::survey::{self, Linked};

/// Nodes tell times in tenths of a second, rounded.
const ROUNDING: Duration = Duration::from_millis(100);
/// From when the mesh is found whole. What a client hears just then may have been decided before, by a node that is slow to say so.
const MARGIN: Duration = Duration::from_millis(100);

/// Every node was open and logged, and counted every peer, from the beginning to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub from: u64,
    pub until: u64,
}

/// A time that may turn out to have been quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hush {
    from: u64,
    /// No peer can be called lagging before this: it takes `ack_timeout` of being behind.
    until_max: u64,
}

impl Hush {
    /// To be called once nothing is being done to anybody. `None` where the nodes are not at their best.
    pub fn begin(places: &[Arc<Place>]) -> Option<Hush> {
        let asked = now();
        let linked = all_linked(places)?;
        Some(begun(asked, now(), &linked))
    }

    /// To be called before anything is done to anybody again. `None` if the time was not quiet, or cannot be told to have been.
    pub fn end(self, places: &[Arc<Place>]) -> Option<Quiet> {
        let ends = now();
        let linked = all_linked(places)?;
        self.ended(ends, now(), &linked)
    }

    /// A node is open for all of its incarnation, and a log that has stopped is resumed by nobody meanwhile: both are known from having been asked twice. Peers come and go
    /// by themselves, so they have to have been up all the time.
    fn ended(self, ends: u64, answered: u64, linked: &[Linked]) -> Option<Quiet> {
        let since = |linked: &Linked| answered.saturating_sub(micros(linked.up_for.saturating_sub(ROUNDING)));
        let was_up = linked.iter().all(|linked| since(linked) <= self.from);
        let until = ends.min(self.until_max);
        (was_up && self.from < until).then_some(Quiet { from: self.from, until })
    }
}

fn begun(asked: u64, answered: u64, linked: &[Linked]) -> Hush {
    let behind = linked.iter().map(|linked| linked.behind).max().unwrap_or_default() + ROUNDING;
    Hush { from: answered + micros(MARGIN), until_max: asked + micros(ACK_TIMEOUT.saturating_sub(behind)) }
}

fn all_linked(places: &[Arc<Place>]) -> Option<Vec<Linked>> {
    places.iter().map(|place| survey::is_whole(place).ok()).collect()
}

fn micros(length: Duration) -> u64 {
    length.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn linked(up_ms: u64, behind_ms: u64) -> Linked {
        Linked { up_for: Duration::from_millis(up_ms), behind: Duration::from_millis(behind_ms) }
    }

    #[test]
    fn a_time_is_quiet_while_all_peers_stay_up_and_none_can_lag() {
        let hush = begun(10_000 * MS, 10_020 * MS, &[linked(5_000, 0), linked(900, 300)]);
        let (ends, answered) = (10_600 * MS, 10_650 * MS);
        let quiet = Quiet { from: 10_120 * MS, until: ends };
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 1_900), linked(700, 0)]), Some(quiet));
        // One was down for a moment, or may have been.
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 0), linked(200, 0)]), None);
        assert_eq!(hush.ended(ends, answered, &[linked(5_600, 0), linked(600, 0)]), None);
        // It was behind by 300 ms already, and so may be called lagging 1.7 s later, less what was rounded.
        let long = hush.ended(20_000 * MS, 20_050 * MS, &[linked(15_000, 0)]);
        assert_eq!(long, Some(Quiet { until: 11_600 * MS, ..quiet }));
        assert_eq!(begun(10_000 * MS, 10_020 * MS, &[linked(900, 1_900)]).ended(ends, answered, &[linked(5_000, 0)]), None);
    }
}
