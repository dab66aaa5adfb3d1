//! Counts of what links have done to connections.

/// Counts since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Open connections that the proxy broke.
    pub broken: u64,
    /// Dials that were closed at once.
    pub refused: u64,
    /// Connections that lead nowhere, without a word to either side.
    pub forgotten: u64,
    pub frames_dropped: u64,
    pub bytes_delayed: u64,
    pub bytes_slowed: u64,
    /// Bytes that waited for the end of a mode that holds everything back.
    pub bytes_held: u64,
    pub resets: u64,
    /// Frames of which a bit was flipped.
    pub flipped: u64,
    pub duplicated: u64,
    /// Connections that carried a corrupted frame, or part of a frame twice.
    pub corrupted: u64,
    /// Corrupted connections that the dialled node closed.
    pub closed_by_node: u64,
    /// Corrupted connections that the dialling node ended first: it stopped, or has dialled anew.
    pub ended_by_dialler: u64,
}

impl Effects {
    /// Effects since `before`.
    pub fn since(&self, before: &Effects) -> Effects {
        self.with(before, |now, before| now - before)
    }

    pub fn plus(&self, other: &Effects) -> Effects {
        self.with(other, |one, other| one + other)
    }

    fn with(&self, other: &Effects, both: fn(u64, u64) -> u64) -> Effects {
        Effects {
            broken: both(self.broken, other.broken),
            refused: both(self.refused, other.refused),
            forgotten: both(self.forgotten, other.forgotten),
            frames_dropped: both(self.frames_dropped, other.frames_dropped),
            bytes_delayed: both(self.bytes_delayed, other.bytes_delayed),
            bytes_slowed: both(self.bytes_slowed, other.bytes_slowed),
            bytes_held: both(self.bytes_held, other.bytes_held),
            resets: both(self.resets, other.resets),
            flipped: both(self.flipped, other.flipped),
            duplicated: both(self.duplicated, other.duplicated),
            corrupted: both(self.corrupted, other.corrupted),
            closed_by_node: both(self.closed_by_node, other.closed_by_node),
            ended_by_dialler: both(self.ended_by_dialler, other.ended_by_dialler),
        }
    }

    /// Corrupted connections that neither node has ended, though the dialled one could have.
    ///
    /// A connection that an earlier fault gave up on may close now. It is no longer among the
    /// corrupted ones, so closes can outnumber them. That earlier fault has failed the run.
    pub fn corrupted_open(&self) -> u64 {
        self.corrupted.saturating_sub(self.closed_by_node + self.ended_by_dialler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_closes_after_it_was_given_up_on_leaves_none_open() {
        let before = Effects { corrupted: 1, ..Effects::default() };
        let late = before.plus(&Effects { closed_by_node: 1, ..Effects::default() });
        assert_eq!((before.corrupted_open(), late.since(&before).corrupted_open()), (1, 0));
    }
}
