//! FLUSHALL: the one command that writes in many steps.

use crate::data::entry::Update;
use crate::replication::submit::WRITE_OVERHEAD;
use crate::server::connection::Connection;
use crate::server::evaluation::{Live, RoundTime};
use crate::server::protocol::ClientProtocol;
use crate::server::writes::ReplySpan;
use crate::store::{Cursor, Keyspace, Span, View};
use crate::wire::reply::{ErrorCode, Reply};

/// Keys that are deleted in one step.
const STEP_KEYS: usize = 512;

/// Deletes all keys, in steps: each is atomic on this node, and acknowledged before the next one. A
/// key that is made meanwhile may stay.
pub(crate) fn flush(connection: &mut Connection<'_>) -> Reply<'static> {
    let shared = connection.shared;
    let config = &shared.services.config;
    let (step_len, key_len_max) = (config.write_room / 2, config.key_len_max);
    let (mut next, mut has_begun) = (Some(Cursor::default()), false);
    let so_far = "the deletes so far are applied on this node and will still spread, and keys are left";
    while let Some(cursor) = next {
        let time = RoundTime::default();
        let (mut keys, mut len) = (Vec::with_capacity(STEP_KEYS), 0);
        next = shared.services.store.scan_while(cursor, time.wall_ms(), |entry| {
            len += entry.key().len() + WRITE_OVERHEAD;
            keys.push(entry.shared_key());
            keys.len() < STEP_KEYS && len + key_len_max + WRITE_OVERHEAD <= step_len
        });
        let span: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        let plan = |view: &View<'_>| {
            let live = keys.iter().filter(|key| Live::of(view.entry(key), &time).is_some());
            Ok((live.map(|key| Update::delete(key)).collect(), ()))
        };
        if let Err(refusal) = connection.writes.several(connection.level, Span::Keys(&span), len, &time, plan) {
            let refused = connection.refused(refusal);
            let Reply::Error { code, sentence } = refused else { return refused };
            let sentence = if has_begun { sentence.replace("nothing was written", so_far).into() } else { sentence };
            return Reply::Error { code, sentence };
        }
        has_begun = true;
        connection.record_reply(ReplySpan { range: 0..0, protocol: ClientProtocol::Text });
        if !connection.settle(&mut Vec::new()) {
            return Reply::error(ErrorCode::Timeout, format!("{so_far}; they were not acknowledged in time"));
        }
        if shared.is_stopping() && next.is_some() {
            return Reply::error(ErrorCode::Busy, format!("this node is stopping; {so_far}"));
        }
    }
    Reply::Ok
}
