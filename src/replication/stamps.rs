//! How stamps and clocks of peers are accepted (**I8**, **I9**). They are compared with this node's
//! reference clock first, and then observed, so that later writes are stamped above them.

use crate::data::clock::{Clocks, Now, Stamp};
use crate::replication::peers::clocks::is_within;
use crate::replication::peers::recovery;
use crate::replication::replica::Replica;

/// Refuses a stamp that is too far ahead of this node's own reference clock, and of the stamps that
/// its disk held at the start. Stamps of others that came since do not count. **I9**: no clock is
/// dragged ahead by a bad one.
pub(in crate::replication) fn check_stamp(replica: &Replica, stamp: Stamp, now: Now) -> Result<(), String> {
    if stamp >= Stamp::LIMIT {
        return Err(format!("stamp {stamp} is beyond every clock"));
    }
    let (ahead, offset_max) = (replica.clock.ahead(stamp, now.elapsed), replica.config.clock_offset_max);
    if ahead > offset_max && !is_blank(replica) {
        let (ahead, offset_max) = (ahead.as_millis(), offset_max.as_millis());
        return Err(format!(
            "stamp {stamp} is {ahead} ms ahead of this node's clock, and at most {offset_max} are allowed: set the clock right that is wrong (NTP does); \
             if the clocks are right and what was stamped ahead is to stay, let all members run with a clock_offset_max_ms above {ahead} until that time is over"
        ));
    }
    Ok(())
}

/// As [`check_stamp`], for the stamps of a dump that a client restores: no member answers for them.
/// Stamps up to this node's own clock are allowed: they move nothing.
pub(in crate::replication) fn check_restored_stamp(replica: &Replica, stamp: Stamp, now: Now) -> Result<(), String> {
    if stamp <= replica.clock.last() { Ok(()) } else { check_stamp(replica, stamp, now) }
}

/// Refuses a peer whose reference clock is too far from this node's (**I9**). Compared is what the
/// peer's clock showed when it sent the message, or its wall clock, if its build sends no other.
///
/// `is_fresh`: the message has not waited behind anything long. A message that has waited may be as
/// late as its clock seems to be behind. Then it is the peer that finds this node's clock ahead.
pub(in crate::replication) fn check_clock(
    replica: &Replica,
    peer: usize,
    clocks: Option<Clocks>,
    wall_ms: u64,
    is_fresh: bool,
    now: Now,
) -> Result<(), String> {
    let theirs_us = clocks.map_or(wall_ms.saturating_mul(1_000), |clocks| clocks.reference_us);
    let offset_ms = theirs_us.wrapping_sub(replica.clock.reference_us(now.elapsed)) as i64 / 1_000;
    let offset_max = replica.config.clock_offset_max.as_millis();
    let is_apart = !is_within(&replica.config, offset_ms);
    if is_apart && offset_ms < 0 && !is_fresh {
        return Ok(());
    }
    let node = {
        let peer = &mut replica.peers.table().peers[peer];
        peer.clocks.compare(offset_ms, wall_ms.wrapping_sub(now.wall_ms) as i64, now);
        peer.id
    };
    if is_apart && !is_blank(replica) {
        return Err(format!(
            "the clocks of node {node} and node {} are {offset_ms} ms apart, and at most {offset_max} are allowed: set the one right that is wrong (NTP does)",
            replica.config.id
        ));
    }
    Ok(())
}

/// Observes a stamp of a peer. Called before what carries the stamp becomes visible, and after
/// [`check_stamp`].
pub(in crate::replication) fn observe(replica: &Replica, stamp: Stamp, now: Now) {
    // A blank node takes the clock over, however far ahead it is.
    if replica.clock.ahead(stamp, now.elapsed) > replica.config.clock_offset_max / 2 && is_blank(replica) {
        replica.clock.take_over(stamp, now.elapsed);
    } else {
        announce_jump(replica, replica.clock.observe(stamp, now.elapsed));
    }
}

/// Observes what a peer's clocks showed a moment ago.
pub(in crate::replication) fn observe_clocks(replica: &Replica, clocks: Option<Clocks>, now: Now) {
    if let Some(clocks) = clocks {
        announce_jump(replica, replica.clock.hear(clocks.stamp_us, now.elapsed));
    }
}

/// Announces a jump of this node's stamp clock to all peers, by a heartbeat at once: all members
/// stamp at the pace of the fastest.
fn announce_jump(replica: &Replica, has_jumped: bool) {
    if has_jumped {
        replica.links.heartbeat();
    }
}

/// Returns whether this node is blank. A blank node has nothing to lose to a wrong clock, and takes
/// over that of its peers.
fn is_blank(replica: &Replica) -> bool {
    replica.coverage.is_empty() && replica.submit.position() == Stamp::ZERO && replica.store.is_empty()
}

/// Rebases a reference clock that is too far from another member's on this node's wall clock, if
/// enough members agree with that.
pub(in crate::replication) fn rebase_clock(replica: &Replica, now: Now) {
    let ahead_ms = now.wall_ms.wrapping_sub(replica.clock.reference_us(now.elapsed) / 1_000) as i64;
    {
        let mut table = replica.peers.table();
        if !recovery::should_rebase(&replica.config, &table.peers, ahead_ms, now) {
            return;
        }
        replica.clock.rebase(now);
        table.rebased(ahead_ms);
    }
    log::warn!(
        "this node's clock was {ahead_ms} ms off its wall clock, which other members agree with: it goes by that now (was the machine suspended, or its clock wrong at the start?)"
    );
}
