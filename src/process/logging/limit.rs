//! A bound on how often lines of one kind are logged.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

/// After this a kind may be logged anew.
const PERIOD: Duration = Duration::from_secs(60);

/// Lets so many lines of a kind through a minute, and counts the others: the next line that is let through says how many. For every line whose rate somebody else decides: clients, peers,
/// strangers. A kind is told apart by its name, never by its sentence, in which a number or a name may change each time.
pub struct LogLimit {
    lines_max: u32,
    /// As many as the program has names for them.
    kinds: Mutex<HashMap<(&'static str, u16), KindCount>>,
}

struct KindCount {
    since: Duration,
    lines: u32,
    /// Lines that were not let through.
    more: u64,
}

/// Behind a line: how many of its kind were not logged.
pub struct Suppressed {
    count: u64,
    within: Duration,
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => Ok(()),
            count => write!(f, " ({count} more of this kind in the last {} s)", self.within.as_secs()),
        }
    }
}

impl LogLimit {
    /// `lines_max`: lines of a kind a minute.
    pub fn new(lines_max: u32) -> LogLimit {
        LogLimit { lines_max, kinds: Mutex::default() }
    }

    /// Whether a line of this kind may be logged at `now`, and what to write behind it. `node`: lines of different nodes are of different kinds; 0 for those that are of none. It must not
    /// be a number that strangers choose.
    pub fn admit(&self, kind: &'static str, node: u16, now: Duration) -> Option<Suppressed> {
        let mut kinds = self.kinds.lock();
        let said = kinds.entry((kind, node)).or_insert(KindCount { since: now, lines: 0, more: 0 });
        let within = now.saturating_sub(said.since);
        let count = if within >= PERIOD { std::mem::replace(said, KindCount { since: now, lines: 0, more: 0 }).more } else { 0 };
        if said.lines >= self.lines_max {
            said.more += 1;
            return None;
        }
        said.lines += 1;
        Some(Suppressed { count, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_its_lines_a_minute_and_says_then_how_many_there_were() {
        let limit = LogLimit::new(2);
        let at = |s| Duration::from_secs(s);
        let said = |kind, node, now| limit.admit(kind, node, now).map(|more| more.to_string());
        assert_eq!(said("a", 0, at(100)).as_deref(), Some(""));
        assert_eq!(said("a", 0, at(101)).as_deref(), Some(""));
        for s in 101..160 {
            assert_eq!(said("a", 0, at(s)), None);
        }
        // Others are not concerned.
        assert_eq!(said("b", 0, at(102)).as_deref(), Some(""));
        assert_eq!(said("a", 1, at(102)).as_deref(), Some(""));
        assert_eq!(said("a", 0, at(165)).as_deref(), Some(" (59 more of this kind in the last 65 s)"));
        assert_eq!(said("a", 0, at(166)).as_deref(), Some(""));
        assert_eq!(said("a", 0, at(167)), None);
        // Nothing was kept back of this one.
        assert_eq!(said("b", 0, at(900)).as_deref(), Some(""));
    }
}
