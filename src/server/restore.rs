//! `RESTORE`: the lines behind it are a dump and not commands, up to its end line.
//!
//! Owns the position in that stream. Takes the lines from the session's buffer one by one, so that
//! a dump of any size passes through a bounded amount of memory, and checks them against this
//! node's limits; what they mean for the data is replication's. After an error it is unknown where
//! the next command would begin: the client hears why, and the connection closes.

use std::io;
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::data::clock::{Now, elapsed};
use crate::data::entry::Entry;
use crate::replication::sync::restore::{self, NotRestored, Restore, Restored};
use crate::server::client_socket::ClientSocket;
use crate::server::memory_limit::{is_full, why_full};
use crate::server::read_buffer::ReadBuffer;
use crate::server::shared::Shared;
use crate::wire::bytes::Limits;
use crate::wire::dump::{self, DumpReader, Line};
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::text::encode_reply;

/// The lowest average rate of a client, in bytes a second of the time for which the node waits for
/// it. A client that drips would keep tombstones from being collected for as long as it likes.
const RATE_MIN: u64 = 1 << 10;

/// The longest restore, however steadily it comes.
const TIME_MAX: Duration = Duration::from_secs(6 * 3_600);

/// Bytes of the longest line that a restore can need.
pub(crate) fn line_len_max(limits: &Limits) -> usize {
    dump::line_len_max(limits.key_len_max, limits.value_len_max)
}

/// The reason why a restore ended early.
enum Failed {
    /// An error for the client.
    Refused(ErrorCode, String),
    /// The client is gone.
    Io(io::Error),
}

/// Takes a dump from the client, and appends the report to `replies`. Returns true if a command can
/// follow.
#[inline(never)]
pub(crate) fn run(shared: &Shared, socket: &mut ClientSocket<'_>, buffer: &mut ReadBuffer<'_>, replies: &mut Vec<u8>) -> io::Result<bool> {
    // A client that stalls would hold the tombstone GC for as long.
    socket.raw().set_read_timeout(Some(shared.services.live.current().write_timeout))?;
    let taken = restore::begin_restore(&shared.services.replica, Now::read()).map_err(|why| refusal(why, 0, 0)).and_then(|restore| {
        let taking =
            Taking { shared, reader: DumpReader::default(), restore, lines: 0, began: Instant::now(), waited: Duration::ZERO, came: 0 };
        taking.run(socket, buffer)
    });
    let (code, sentence) = match taken {
        Ok(restored) => {
            socket.raw().set_read_timeout(None)?;
            report(restored, replies);
            return Ok(true);
        }
        Err(Failed::Refused(code, sentence)) => (code, sentence + "; this connection is closed"),
        Err(Failed::Io(error)) => return Err(error),
    };
    if let Some(more) = shared.log_limit.admit("restore", 0, elapsed()) {
        log::warn!("a restore has failed: {code} {sentence}{more}");
    }
    encode_reply(&Reply::Error { code, sentence: sentence.into() }, replies);
    Ok(false)
}

fn report(restored: Restored, replies: &mut Vec<u8>) {
    let Restored { entries, merged, dropped } = restored;
    let covered = entries - merged;
    for (name, count) in [("entries", entries), ("merged", merged), ("covered", covered), ("dropped", dropped as u64)] {
        encode_reply(&Reply::Line(&format!("{name} {count}")), replies);
    }
    encode_reply(&Reply::End, replies);
}

/// A restore, and the position in its stream.
struct Taking<'a> {
    shared: &'a Shared,
    reader: DumpReader,
    restore: Restore<'a>,
    /// The number of lines that were taken.
    lines: u64,
    began: Instant,
    /// The time for which the client was waited for since its rate was checked last, and the bytes
    /// that came.
    waited: Duration,
    came: u64,
}

impl Taking<'_> {
    fn run(mut self, socket: &mut ClientSocket<'_>, buffer: &mut ReadBuffer<'_>) -> Result<Restored, Failed> {
        let len_max = line_len_max(&self.shared.limits);
        // So many of the unread bytes are known to hold no line end.
        let mut scanned = 0;
        loop {
            self.check_node()?;
            let now = Now::read();
            while let Some(at) = memchr(b'\n', &buffer.unread()[scanned..]) {
                let end = scanned + at;
                let line = self.reader.line(&buffer.unread()[..end]).map_err(|wrong| self.bad(&wrong))?;
                buffer.consume(end + 1);
                scanned = 0;
                match line {
                    Line::Header(header) => self.restore.begin(header, now),
                    Line::Entry(entry) => {
                        self.check_entry(&entry)?;
                        self.restore.take(entry, now)
                    }
                    Line::End(end) => {
                        let (lines, count) = (self.lines, self.restore.count());
                        return self.restore.end(&end, now).map_err(|why| refusal(why, lines, count));
                    }
                }
                .map_err(|why| refusal(why, self.lines, self.restore.count()))?;
                self.lines += 1;
            }
            self.restore.log_merged().map_err(|why| refusal(why, self.lines, self.restore.count()))?;
            scanned = buffer.unread().len();
            if scanned > len_max {
                return Err(self.too_big(&format!("it is longer than the {len_max} bytes that a line can need with this node's limits")));
            }
            if buffer.make_room().is_err() {
                let sentence = "the large commands that are arriving take all the memory that this node has for them; try again later";
                return Err(Failed::Refused(ErrorCode::Busy, self.given_up(sentence)));
            }
            let since = Instant::now();
            let filled = buffer.fill(socket);
            self.waited += since.elapsed();
            match filled {
                Ok(0) => return Err(self.bad(dump::BROKEN_OFF)),
                Ok(len) => self.check_pace(len)?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let wait = self.shared.services.live.current().write_timeout;
                    return Err(Failed::Refused(ErrorCode::Timeout, self.given_up(&format!("nothing came for {wait:?}"))));
                }
                Err(error) => return Err(Failed::Io(error)),
            }
        }
    }

    /// Checks that the client sends fast enough, and has not done so for too long.
    fn check_pace(&mut self, len: usize) -> Result<(), Failed> {
        let span = self.shared.services.live.current().write_timeout;
        self.came += len as u64;
        if self.waited >= span {
            let least = (RATE_MIN as f64 * self.waited.as_secs_f64()) as u64;
            if self.came < least {
                let words = format!("{} bytes came in {:.1} s, and {least} are the least", self.came, self.waited.as_secs_f64());
                return Err(Failed::Refused(ErrorCode::Timeout, self.given_up(&words)));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        if self.began.elapsed() > TIME_MAX {
            return Err(Failed::Refused(ErrorCode::Timeout, self.given_up("it has not ended in six hours")));
        }
        Ok(())
    }

    /// Checks that this node can take more at all.
    fn check_node(&self) -> Result<(), Failed> {
        let services = &self.shared.services;
        if self.shared.is_stopping() {
            return Err(Failed::Refused(ErrorCode::Busy, self.given_up("this node is stopping; use another node")));
        }
        if is_full(services) {
            return Err(Failed::Refused(ErrorCode::Full, self.given_up(&why_full(services))));
        }
        Ok(())
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), Failed> {
        let Limits { key_len_max, value_len_max } = self.shared.limits;
        let value_len = entry.value().map_or(0, |value| value.len());
        for (what, len, name, max) in
            [("key", entry.key().len(), "key_len_max", key_len_max), ("value", value_len, "value_len_max", value_len_max)]
        {
            if len > max {
                return Err(self.too_big(&format!("its {what} has {len} bytes, and {name} of this node is {max}")));
            }
        }
        Ok(())
    }

    fn too_big(&self, wrong: &str) -> Failed {
        Failed::Refused(ErrorCode::TooBig, wrong_line(wrong, self.lines, self.restore.count()))
    }

    fn bad(&self, wrong: &str) -> Failed {
        Failed::Refused(ErrorCode::BadDump, wrong_line(wrong, self.lines, self.restore.count()))
    }

    fn given_up(&self, why: &str) -> String {
        format!("{why}; the restore is given up after line {}: {}", self.lines, so_far(self.restore.count()))
    }
}

/// The error for the client, after so many good lines with so many entries.
fn refusal(why: NotRestored, lines: u64, entries: u64) -> Failed {
    let nothing = |sentence: String| format!("{sentence}; nothing was restored");
    match why {
        NotRestored::Loading(why) => Failed::Refused(ErrorCode::Loading, nothing(why)),
        NotRestored::ReadOnly(why) => Failed::Refused(ErrorCode::ReadOnly, format!("{why}; {}", so_far(entries))),
        NotRestored::Busy(why) => Failed::Refused(ErrorCode::Busy, nothing(why) + "; try again later"),
        NotRestored::Stale(why) => Failed::Refused(
            ErrorCode::Stale,
            format!("{why}; {}", so_far(entries)) + "; kvctl restore --as-new-writes writes its keys anew",
        ),
        NotRestored::Unproven(why) => {
            Failed::Refused(ErrorCode::Stale, format!("{why}; {}; kvctl restore --as-new-writes writes its keys anew", so_far(entries)))
        }
        NotRestored::Bad(wrong) => Failed::Refused(ErrorCode::BadDump, wrong_line(&wrong, lines, entries)),
    }
}

fn wrong_line(wrong: &str, lines: u64, entries: u64) -> String {
    format!("line {} of the dump: {wrong}; {}", lines + 1, so_far(entries))
}

fn so_far(entries: u64) -> String {
    match entries {
        0 => "nothing was restored".to_owned(),
        entries => format!("the {entries} entries before it stay merged, and nothing else has changed"),
    }
}

#[cfg(test)]
mod tests;
