//! The failure detector of one peer.
//!
//! A peer is up when both directions made progress within the time-out: its bytes arrive, and it
//! shows that this node's bytes arrive there. It shows that by an echo of a heartbeat, or by a
//! heartbeat that says how many bytes it has read. So a peer that merely accepts connections does
//! not look alive, and one on a slow link does not look dead.

use std::time::Duration;

use crate::config::Config;
use crate::data::clock::Now;
use crate::replication::links::traffic::Traffic;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::peer::MESSAGE_LEN_MAX;

/// Peer time-outs without progress after which a connection is given up. More than one, so that a
/// peer that is merely slow keeps its position in the stream.
const HANG_UP_AFTER: u32 = 3;

/// Peer time-outs for which bytes that leave count as progress, where the peer does not say what it
/// has read. Beyond this the connection is given up.
const LEAVING_PATIENCE: u32 = 100;

/// Bytes of a peer within a time-out that are more than its heartbeats and acks: something long
/// arrives, and what the peer has said since waits behind it. A link that carries less than this is
/// too slow for anything long.
const BULK_LEN: u64 = 4 << 10;

/// More bytes than can lie between two heartbeats, or two parts of a dump: the longest message, and
/// what else the peer had in hand. Beyond this, bytes are no progress.
pub const APART_MAX: u64 = MESSAGE_LEN_MAX as u64 + (4 << 20);

/// The links with one peer, as far as known. Times are those of [`Now::elapsed`].
pub struct Liveness {
    up: bool,
    /// Since when the peer is up or down.
    since: Duration,
    /// When this node sent the heartbeat that the peer echoed last, on the present connections.
    echoed: Option<Duration>,
    round_trip: Duration,
    /// Bytes of the outgoing connection that the peer says it has read; 0 of a build that does not
    /// say.
    taken: u64,
    /// The end, in the outgoing connection, of the first heartbeat that is not answered yet.
    awaited: Option<u64>,
    /// When the peer last showed, by an echo or a heartbeat, that it reads what this node sends; or
    /// when the outgoing connection began or ended.
    took: Duration,
    /// Since when the peer's heartbeats show that it reads nothing, and when the last of them came.
    idle_since: Option<Duration>,
    beat_at: Duration,
    /// When something long of the peer last arrived.
    arriving: Duration,
    /// Since when the peer's bytes are counted for that, and how many had arrived by then.
    counted_since: Duration,
    counted_from: u64,
    /// Bytes of the peer that had arrived at its last heartbeat.
    heard_len_at_beat: u64,
}

/// The findings of a look at a peer's links.
pub struct Look {
    /// Why the peer is down; `None` if it is up.
    pub trouble: Option<&'static str>,
    /// The outgoing connection leads nowhere.
    pub is_hung: bool,
}

impl Liveness {
    pub fn new(now: Now) -> Liveness {
        Liveness {
            up: false,
            since: now.elapsed,
            echoed: None,
            round_trip: Duration::ZERO,
            taken: 0,
            awaited: None,
            took: now.elapsed,
            idle_since: None,
            beat_at: now.elapsed,
            arriving: Duration::ZERO,
            counted_since: now.elapsed,
            counted_from: 0,
            heard_len_at_beat: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Since when the peer is up or down.
    pub fn since(&self) -> Duration {
        self.since
    }

    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// When this node sent the heartbeat that the peer echoed last.
    pub fn echoed(&self) -> Option<Duration> {
        self.echoed
    }

    /// When something long of the peer last arrived.
    pub fn arriving(&self) -> Duration {
        self.arriving
    }

    /// The disk has been read: silence counts from now on.
    pub fn begin(&mut self, now: Now) {
        self.since = now.elapsed;
    }

    /// An incoming connection begins.
    pub fn accepted(&mut self) {
        self.echoed = None;
        self.heard_len_at_beat = 0;
    }

    /// The outgoing connection begins or ends: echoes of an earlier one count no longer.
    pub fn linked_out(&mut self, now: Now) {
        self.echoed = None;
        self.awaited = None;
        self.show_progress(now);
    }

    /// A heartbeat of this node ends at this position of the outgoing connection.
    pub fn await_echo(&mut self, len: u64) {
        self.awaited.get_or_insert(len);
    }

    /// The peer has answered a heartbeat that was sent at `sent`.
    pub fn echo(&mut self, sent: Duration, now: Now) {
        if sent > now.elapsed {
            // Sent by a former incarnation of this node.
            return;
        }
        if Some(sent) > self.echoed {
            self.echoed = Some(sent);
            self.awaited = None;
            self.show_progress(now);
        }
        self.round_trip = now.elapsed.saturating_sub(sent);
    }

    /// The peer says in a heartbeat how many bytes of this node it has read, when `heard_len` of
    /// its own have arrived here. More of them are progress as long as no heartbeat is among them
    /// that it does not answer: a peer that takes the rest of the stream for a part of one message
    /// reads for ever.
    pub fn heartbeat(&mut self, taken: u64, heard_len: u64, now: Now) {
        (self.beat_at, self.heard_len_at_beat) = (now.elapsed, heard_len);
        let taken = if BrokenRule::CountWhatLeaves.is_on() { 0 } else { taken };
        let takes_more = std::mem::replace(&mut self.taken, taken) != taken;
        if takes_more && self.awaited.is_none_or(|awaited| taken < awaited) {
            self.show_progress(now);
        } else {
            self.idle_since.get_or_insert(now.elapsed);
        }
    }

    /// Looks whether the peer is up. `is_excused`: this process itself has paused, and what the
    /// peers sent meanwhile is still to be read.
    pub fn look(&mut self, config: &Config, (linked_in, linked_out): (bool, bool), traffic: &Traffic, is_excused: bool, now: Now) -> Look {
        let timeout = config.peer_timeout;
        self.note_bulk(traffic, timeout, now);
        let moved = self.moved(timeout);
        let ago = |at: Duration| now.elapsed.saturating_sub(at);
        let recent = |at: Duration| ago(at) < timeout || (is_excused && self.up);
        let trouble = match (linked_in, linked_out, self.echoed) {
            (false, _, _) => Some("its connection to this node ended"),
            (_, false, _) => Some("the connection to it ended"),
            _ if !recent(traffic.heard) => Some("nothing heard from it"),
            (_, _, None) => Some("no heartbeat answered yet"),
            _ if !recent(moved) => Some("it does not answer"),
            _ => None,
        };
        // A network that swallows what is sent is silent for as long as the kernel has patience: it
        // is better to dial anew.
        let leaves = self.taken == 0 && ago(self.took) <= LEAVING_PATIENCE * timeout;
        let moved = if leaves { moved.max(traffic.leaving) } else { moved };
        Look { trouble, is_hung: linked_out && ago(moved) > HANG_UP_AFTER * timeout }
    }

    /// Takes note that the peer is up or down. Returns true if that is news.
    pub fn set_up(&mut self, up: bool, now: Now) -> bool {
        let is_news = self.up != up;
        if is_news {
            (self.up, self.since) = (up, now.elapsed);
        }
        is_news
    }

    fn show_progress(&mut self, now: Now) {
        self.took = now.elapsed;
        self.idle_since = None;
    }

    /// When the outgoing connection last moved, as far as is known. While something long arrives
    /// nothing is known, since the peer's heartbeats wait behind it; unless those that do come have
    /// shown for a whole time-out that the peer reads nothing.
    fn moved(&self, timeout: Duration) -> Duration {
        let is_idle = self.idle_since.is_some_and(|since| self.beat_at.saturating_sub(since) >= timeout);
        if is_idle { self.took } else { self.took.max(self.arriving) }
    }

    /// Takes note whether something long arrives.
    fn note_bulk(&mut self, traffic: &Traffic, timeout: Duration, now: Now) {
        let is_bulk = traffic.heard_len.saturating_sub(self.counted_from) >= BULK_LEN;
        if is_bulk && traffic.heard_len.saturating_sub(self.heard_len_at_beat) <= APART_MAX {
            self.arriving = now.elapsed;
        }
        let is_new = traffic.heard_len < self.counted_from;
        if is_new || is_bulk || now.elapsed.saturating_sub(self.counted_since) > timeout {
            (self.counted_since, self.counted_from) = (now.elapsed, traffic.heard_len);
        }
    }
}
