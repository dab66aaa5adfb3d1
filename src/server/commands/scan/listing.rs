//! KEYS: the names of many keys, as large as they may be, through a bounded amount of memory.

use std::collections::VecDeque;
use std::io::{self, Write};

use crate::budget::{OutOfBudget, Share};
use crate::data::clock::wall_ms;
use crate::data::entry::Entry;
use crate::server::authorization::Scope;
use crate::server::outgoing::{CHUNK_LEN, Outgoing, buffered};
use crate::server::protocol::ClientProtocol;
use crate::server::shared::{Services, Shared};
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::encoding::write_array_head;
use crate::wire::resp::glob;
use crate::wire::text::write_reply;

/// The bytes around the name of a key in a reply, at most, where it is not in quotes.
const NAME_OVERHEAD: usize = 32;

/// Writes the keys that begin with `prefix` and that the client may see, at most `limit`, shard by
/// shard, while the client takes its time.
pub(crate) fn write_keys(outgoing: Outgoing<'_, '_>, shared: &Shared, prefix: &[u8], limit: usize, scope: &Scope) -> io::Result<()> {
    buffered(outgoing, |out| {
        let (_walk, mut names, now_ms) = (shared.services.store.walk(), Names::new(shared), wall_ms());
        for shard in 0..shared.services.store.shards_len() {
            let left = limit - names.count;
            if left == 0 {
                break;
            }
            let is_wanted = |key: &[u8]| key.starts_with(prefix) && scope.covers(key);
            let taken = names.take(&shared.services, shard, now_ms, left, ClientProtocol::Text, is_wanted);
            taken.map_err(|OutOfBudget| out.get_ref().out_of_budget(names.share.len()))?;
            names.write(out)?;
        }
        write_reply(out, &Reply::End)
    })
}

/// Writes the keys that a pattern matches and that the client may see. All of them are found before
/// the first is written, as an array says first how long it is.
pub(crate) fn write_matching(
    outgoing: Outgoing<'_, '_>,
    shared: &Shared,
    pattern: &[u8],
    scope: &Scope,
    protocol: ClientProtocol,
) -> io::Result<()> {
    match matching_keys(shared, pattern, scope, protocol) {
        Ok(mut names) => buffered(outgoing, |out| {
            write_array_head(out, names.count)?;
            names.write(out)
        }),
        Err(OutOfBudget) => {
            let sentence = "these keys, or the replies that other clients have not taken yet, take all the memory that this node has for them; use SCAN, or try again later";
            buffered(outgoing, |out| protocol.write(out, &Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }))
        }
    }
}

fn matching_keys<'a>(shared: &'a Shared, pattern: &[u8], scope: &Scope, protocol: ClientProtocol) -> Result<Names<'a>, OutOfBudget> {
    let (_walk, mut names, now_ms) = (shared.services.store.walk(), Names::new(shared), wall_ms());
    for shard in 0..shared.services.store.shards_len() {
        names.take(&shared.services, shard, now_ms, usize::MAX, protocol, |key| scope.covers(key) && glob::matches(pattern, key))?;
    }
    Ok(names)
}

/// Names of keys, encoded as the reply has them, in pieces: a piece that is written takes no memory
/// any more. They are copies, which keep no values alive.
struct Names<'a> {
    pieces: VecDeque<Vec<u8>>,
    count: usize,
    /// Invariant: as large as the pieces.
    share: Share<'a>,
}

impl<'a> Names<'a> {
    fn new(shared: &'a Shared) -> Names<'a> {
        Names { pieces: VecDeque::new(), count: 0, share: Share::none(&shared.reply_budget) }
    }

    /// Takes the live keys of one shard that are wanted, at most `max`.
    ///
    /// They are read at one moment: a key that is there all along is met once, whatever moves
    /// meanwhile. What is done with them happens outside of the lock.
    fn take(
        &mut self,
        services: &Services,
        shard: usize,
        now_ms: u64,
        max: usize,
        protocol: ClientProtocol,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(), OutOfBudget> {
        let entries = services.store.scan_shard(shard, |entry| entry.is_live(|| now_ms));
        for key in entries.iter().map(Entry::key).filter(|key| is_wanted(key)).take(max) {
            let len = key.len() + NAME_OVERHEAD;
            if self.pieces.back().is_none_or(|piece| piece.len() + len > piece.capacity()) {
                self.share.set(self.share.len() + CHUNK_LEN)?;
                self.pieces.push_back(Vec::with_capacity(CHUNK_LEN));
            }
            let Some(piece) = self.pieces.back_mut() else { continue };
            let capacity = piece.capacity();
            protocol.encode(&Reply::Key(key), piece);
            // Grown by a very long name, or by many bytes in quotes.
            self.share.set(self.share.len() + piece.capacity() - capacity)?;
            self.count += 1;
        }
        Ok(())
    }

    fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(piece) = self.pieces.pop_front() {
            out.write_all(&piece)?;
            // Less is always granted.
            let _ = self.share.set(self.share.len() - piece.capacity());
        }
        Ok(())
    }
}
