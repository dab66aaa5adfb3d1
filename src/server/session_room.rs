//! Memory that all sessions have together for one purpose.

use std::sync::atomic::{AtomicUsize, Ordering};

/// For large commands while they arrive, what is queued for EXEC, and what is read ahead of it while a client takes no replies: what read buffers take above a burst each.
/// Any legal command fits, or dozens that are usual; beyond this, who sends a large command hears `ERROR BUSY` and is closed, nothing is read ahead, and small ones are served as ever.
pub(crate) const READ_ROOM: usize = 1 << 30;

/// For long replies that their clients do not take at once, as far as the store does not hold them anyway. More where values may be so long that two lines of a dump would not fit. Beyond
/// this, who does not take such a reply at once is closed, and `KEYS` of too many hears `BUSY`.
pub(crate) const REPLY_ROOM: usize = 256 << 20;

/// A bound in bytes. Nobody ever waits for some of them.
pub(crate) struct SessionRoom {
    len: usize,
    left: AtomicUsize,
}

/// It is used up by others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl SessionRoom {
    pub fn new(len: usize) -> SessionRoom {
        SessionRoom { len, left: AtomicUsize::new(len) }
    }

    pub fn take(&self, len: usize) -> Result<(), NoRoom> {
        let take = |left: usize| left.checked_sub(len);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(|_| ()).map_err(|_| NoRoom)
    }

    pub fn give_back(&self, len: usize) {
        self.left.fetch_add(len, Ordering::Relaxed);
    }

    /// All that there is.
    pub fn size(&self) -> usize {
        self.len
    }

    pub fn taken(&self) -> usize {
        self.len - self.left.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// Some of a room, for as long as it is kept.
pub(crate) struct Share<'a> {
    room: &'a SessionRoom,
    len: usize,
}

impl<'a> Share<'a> {
    pub fn none(room: &'a SessionRoom) -> Share<'a> {
        Share { room, len: 0 }
    }

    /// Makes it so large. It stays as it was where there is no room.
    pub fn set(&mut self, len: usize) -> Result<(), NoRoom> {
        self.room.take(len.saturating_sub(self.len))?;
        self.room.give_back(self.len.saturating_sub(len));
        self.len = len;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.room.give_back(self.len);
    }
}
