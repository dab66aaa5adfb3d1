//! What links have done, in numbers.

/// What came of it, counted since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Open connections that the proxy broke.
    pub broken: u64,
    /// Dials that were closed at once.
    pub refused: u64,
    pub frames_dropped: u64,
    pub bytes_delayed: u64,
    pub bytes_slowed: u64,
    /// Bytes that waited until the link was read again.
    pub bytes_held: u64,
    pub resets: u64,
    /// Frames of which a bit was flipped.
    pub flipped: u64,
    pub duplicated: u64,
    /// Connections that carried a corrupted frame, or bytes that came twice,
    pub corrupted: u64,
    /// those of them that the dialled node closed,
    pub closed_by_node: u64,
    /// and those that the dialling node ended before it: it stopped, or has dialled anew.
    pub ended_by_dialler: u64,
}

impl Effects {
    /// What has happened since `before`.
    pub fn since(&self, before: &Effects) -> Effects {
        Effects {
            broken: self.broken - before.broken,
            refused: self.refused - before.refused,
            frames_dropped: self.frames_dropped - before.frames_dropped,
            bytes_delayed: self.bytes_delayed - before.bytes_delayed,
            bytes_slowed: self.bytes_slowed - before.bytes_slowed,
            bytes_held: self.bytes_held - before.bytes_held,
            resets: self.resets - before.resets,
            flipped: self.flipped - before.flipped,
            duplicated: self.duplicated - before.duplicated,
            corrupted: self.corrupted - before.corrupted,
            closed_by_node: self.closed_by_node - before.closed_by_node,
            ended_by_dialler: self.ended_by_dialler - before.ended_by_dialler,
        }
    }

    /// Corrupted connections that the dialled node has not closed, though it could have. One that an earlier fault gave up on may close now and is no longer among the corrupted ones: then there are
    /// more closes than connections. That earlier fault has failed the run.
    pub fn corrupted_open(&self) -> u64 {
        self.corrupted.saturating_sub(self.closed_by_node + self.ended_by_dialler)
    }

    pub fn add(&mut self, other: &Effects) {
        self.broken += other.broken;
        self.refused += other.refused;
        self.frames_dropped += other.frames_dropped;
        self.bytes_delayed += other.bytes_delayed;
        self.bytes_slowed += other.bytes_slowed;
        self.bytes_held += other.bytes_held;
        self.resets += other.resets;
        self.flipped += other.flipped;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.closed_by_node += other.closed_by_node;
        self.ended_by_dialler += other.ended_by_dialler;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_closes_after_it_was_given_up_on_leaves_none_open() {
        let before = Effects { corrupted: 1, ..Effects::default() };
        let late = Effects { closed_by_node: 1, ..before };
        assert_eq!((before.corrupted_open(), late.since(&before).corrupted_open()), (1, 0));
    }
}
