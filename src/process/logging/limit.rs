//! Rate limit for log lines, by kind.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

/// The time in which a kind has its [`LogLimit`] of lines.
const PERIOD: Duration = Duration::from_secs(60);

/// Admits so many lines of each kind a minute and counts the others; the next line that is admitted
/// names their number.
///
/// For every line whose rate is decided elsewhere: by clients, peers or unidentified connections. A
/// kind is told apart by its name, never by its sentence, in which a number or a name may change
/// each time.
pub struct LogLimit {
    lines_max: u32,
    /// Bounded by the names of kinds in the program, and the members.
    kinds: Mutex<HashMap<(&'static str, u16), KindCount>>,
}

struct KindCount {
    since: Duration,
    lines: u32,
    /// Lines that were not admitted in this period.
    more: u64,
}

/// How many lines of a kind were not logged, to be written behind the next one. Empty if none.
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
    /// Admits `lines_max` lines of each kind a minute.
    pub fn new(lines_max: u32) -> LogLimit {
        LogLimit { lines_max, kinds: Mutex::default() }
    }

    /// Returns the end of the line if a line of this kind may be logged at `now`. `node`: lines
    /// about different members are of different kinds; 0 for lines about none. It must not be a
    /// number that an unidentified connection chooses.
    pub fn admit(&self, kind: &'static str, node: u16, now: Duration) -> Option<Suppressed> {
        let mut kinds = self.kinds.lock();
        let kind = kinds.entry((kind, node)).or_insert(KindCount { since: now, lines: 0, more: 0 });
        let within = now.saturating_sub(kind.since);
        let count = if within >= PERIOD { std::mem::replace(kind, KindCount { since: now, lines: 0, more: 0 }).more } else { 0 };
        if kind.lines >= self.lines_max {
            kind.more += 1;
            return None;
        }
        kind.lines += 1;
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
        let admitted = |kind, node, now| limit.admit(kind, node, now).map(|more| more.to_string());
        assert_eq!(admitted("a", 0, at(100)).as_deref(), Some(""));
        assert_eq!(admitted("a", 0, at(101)).as_deref(), Some(""));
        for s in 101..160 {
            assert_eq!(admitted("a", 0, at(s)), None);
        }
        // Other kinds are not affected.
        assert_eq!(admitted("b", 0, at(102)).as_deref(), Some(""));
        assert_eq!(admitted("a", 1, at(102)).as_deref(), Some(""));
        assert_eq!(admitted("a", 0, at(165)).as_deref(), Some(" (59 more of this kind in the last 65 s)"));
        assert_eq!(admitted("a", 0, at(166)).as_deref(), Some(""));
        assert_eq!(admitted("a", 0, at(167)), None);
        // No line of this kind was held back.
        assert_eq!(admitted("b", 0, at(900)).as_deref(), Some(""));
    }
}
