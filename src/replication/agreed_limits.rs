//! The longest key and value that every member takes, as far as this node has heard.
//!
//! Owns these two numbers, which are read before every write of a client. A member takes nothing of
//! a peer that is longer than its own limits allow. So a node whose limits are higher than a peer's
//! takes no more from its clients than that peer does; else its link would break at that write,
//! again and again.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Config;
use crate::wire::bytes::Limits;

/// The limits that all members have agreed on. A member that was never heard of, or whose build
/// says nothing of its limits, is taken to have this node's.
pub struct AgreedLimits {
    key_len_max: AtomicUsize,
    value_len_max: AtomicUsize,
}

impl AgreedLimits {
    pub fn new(own: Limits) -> AgreedLimits {
        AgreedLimits { key_len_max: own.key_len_max.into(), value_len_max: own.value_len_max.into() }
    }

    #[inline]
    pub fn get(&self) -> Limits {
        let [key_len_max, value_len_max] = [&self.key_len_max, &self.value_len_max].map(|max| max.load(Ordering::Relaxed));
        Limits { key_len_max, value_len_max }
    }

    /// Takes the least of this node's limits and those of its peers.
    pub fn agree(&self, own: Limits, peers: impl Iterator<Item = Limits>) {
        let Limits { key_len_max, value_len_max } = peers.fold(own, |least, theirs| Limits {
            key_len_max: least.key_len_max.min(theirs.key_len_max),
            value_len_max: least.value_len_max.min(theirs.value_len_max),
        });
        self.key_len_max.store(key_len_max, Ordering::Relaxed);
        self.value_len_max.store(value_len_max, Ordering::Relaxed);
    }
}

/// The limits of this node's own configuration.
pub fn limits_of(config: &Config) -> Limits {
    Limits { key_len_max: config.key_len_max, value_len_max: config.value_len_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_members_counts() {
        let limits = |key_len_max, value_len_max| Limits { key_len_max, value_len_max };
        let agreed = AgreedLimits::new(limits(10, 100));
        agreed.agree(limits(10, 100), [limits(20, 50), limits(9, 1_000)].into_iter());
        assert_eq!(agreed.get(), limits(9, 50));
        // One of them has come back with higher ones.
        agreed.agree(limits(10, 100), [limits(20, 50), limits(20, 1_000)].into_iter());
        assert_eq!(agreed.get(), limits(10, 50));
        agreed.agree(limits(10, 100), [].into_iter());
        assert_eq!(agreed.get(), limits(10, 100));
    }
}
