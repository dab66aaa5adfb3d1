//! Denials: the last requests that were refused for want of rights and the last logins that failed,
//! for ACL LOG.
//!
//! Holds no password and no key. The name of a user stands here only if there is such a user.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// The most entries, as in Redis. Beyond this, the oldest is forgotten.
const LEN_MAX: usize = 128;
/// The time within which the same again is counted, and makes no entry of its own.
const SAME_WITHIN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct DenialLog {
    /// The newest first.
    entries: Mutex<VecDeque<Denial>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// `auth`, `command` or `key`.
    pub reason: &'static str,
    /// `toplevel` or `multi`.
    pub context: &'static str,
    /// The name of the command.
    pub command: &'static str,
    pub user: String,
    /// The connection that did it last.
    pub client: String,
    pub count: u64,
    /// The last time, by [`elapsed`](crate::data::clock::elapsed).
    pub at: Duration,
}

impl DenialLog {
    pub fn note(&self, denial: Denial) {
        let is_same = |entry: &Denial| {
            let what = |denial: &Denial| (denial.reason, denial.context, denial.command);
            what(entry) == what(&denial) && entry.user == denial.user && denial.at.saturating_sub(entry.at) <= SAME_WITHIN
        };
        let mut entries = self.entries.lock();
        let before = entries.iter().position(is_same).and_then(|place| entries.remove(place));
        let count = denial.count + before.map_or(0, |before| before.count);
        entries.push_front(Denial { count, ..denial });
        entries.truncate(LEN_MAX);
    }

    /// The newest, at most so many.
    pub fn newest(&self, count: usize) -> Vec<Denial> {
        self.entries.lock().iter().take(count).cloned().collect()
    }

    pub fn clear(&self) {
        self.entries.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_counted_and_the_oldest_is_forgotten() {
        let log = DenialLog::default();
        let denial = |user: usize, at_s| Denial {
            reason: "command",
            context: "toplevel",
            command: "get",
            user: user.to_string(),
            client: "id=1".to_owned(),
            count: 1,
            at: Duration::from_secs(at_s),
        };
        let users = |log: &DenialLog| log.newest(3).into_iter().map(|denial| (denial.user, denial.count)).collect::<Vec<_>>();
        for (user, at_s) in [(1, 0), (2, 1), (1, 60), (1, 100), (1, 161)] {
            log.note(denial(user, at_s));
        }
        assert_eq!(users(&log), [("1".to_owned(), 1), ("1".to_owned(), 3), ("2".to_owned(), 1)]);
        for user in 0..1000 {
            log.note(denial(user, 1_000));
        }
        assert_eq!((log.newest(5_000).len(), log.newest(1)[0].user.as_str()), (LEN_MAX, "999"));
        log.clear();
        assert!(log.newest(1).is_empty());
    }
}
