//! Status: what a node reports of itself and of its peers. The lines of STATUS and PEERS, and how
//! far recovery is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::PeerAuth;
use crate::data::clock::{Clocks, Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::NodeId;
use crate::replication::folding;
use crate::replication::peers::events::names;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::recovery::{self, Stage};
use crate::replication::peers::table::PeerTable;
use crate::replication::replica::Replica;
use crate::store::Keyspace;
use crate::wal::Condition;
use crate::wire::quoting::quoted;

/// The state of all members, seen from this node.
pub struct Figures {
    pub state: &'static str,
    /// Members that are up, this node included.
    pub members_up: usize,
    pub divergences: u64,
    /// The peers that are up.
    pub peers: Vec<PeerFigures>,
}

pub struct PeerFigures {
    /// The peer's address as it is dialled: `host:port`.
    pub addr: String,
    /// The greatest stamp of this node that the peer has received.
    pub received: Stamp,
    pub heard_ago: Duration,
}

/// The state of the disk.
pub struct DiskFigures {
    pub condition: Condition,
    /// Writes can be logged.
    pub is_writable: bool,
    pub is_snapshotting: bool,
    /// Bytes read, and of how many, while the disk is read at the start.
    pub replaying: Option<(u64, u64)>,
}

/// The reason why the node does not serve clients yet, as a sentence for the LOADING error.
pub fn loading(replica: &Replica, now: Now) -> String {
    if let Some((read, total)) = replica.persistence.replaying() {
        return format!("this node is reading its disk: {} of {} MiB so far", read >> 20, total >> 20);
    }
    let vector = replica.vector();
    let table = replica.peers.table();
    let disputed = recovery::disputed(&replica.config, &table.peers, now);
    if !disputed.is_empty() {
        let offset_max = replica.config.clock_offset_max.as_millis();
        return format!(
            "the clock of this node is more than {offset_max} ms from that of {}, and too few members agree with it: set the one right that is wrong (NTP does)",
            names(&disputed)
        );
    }
    if let Some(transfer) = table.transfer() {
        let node = table.peers[transfer.peer].id;
        return format!("this node is catching up: {} entries taken from node {node} so far", transfer.entries);
    }
    let missing = missing(&table, |peer| !table.peers[peer].is_caught_up_with(&vector));
    format!("this node is catching up and waits for {}; it will open without peers that stay silent", names(&missing))
}

/// Names and values for STATUS.
pub fn status(replica: &Replica, now: Now) -> Vec<(&'static str, String)> {
    let vector = replica.vector();
    let (counts, memory) = (replica.store.counts(now.wall_ms), replica.store.memory());
    let pinning = if counts.tombstones == 0 { Vec::new() } else { pinning(replica, now) };
    let spoken_by_all = replica.spoken_by_all();
    let table = replica.peers.table();
    let (state, up) = (state(&table), members_up(&table));
    let members: Vec<String> = replica.config.members().iter().map(NodeId::to_string).collect();
    let Clocks { reference_us, stamp_us } = replica.clock.read(now.elapsed);
    let clock_ahead = stamp_us.saturating_sub(reference_us) / 1_000;
    let wall_offset = now.wall_ms.wrapping_sub(reference_us / 1_000) as i64;
    let vector_json = serde_json::to_string(&vector).unwrap_or_default();
    vec![
        ("node", replica.config.id.to_string()),
        ("cluster", replica.config.cluster.clone()),
        ("state", state.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("protocol_of_all", spoken_by_all.to_string()),
        ("peer_auth", peer_auth(replica.config.peer_auth)),
        ("peer_auth_refused", replica.unproven_refused.load(Ordering::Relaxed).to_string()),
        ("uptime_s", now.elapsed.as_secs().to_string()),
        ("members", members.join(" ")),
        ("members_up", up.to_string()),
        ("majority", replica.config.majority().to_string()),
        ("keys", counts.keys.to_string()),
        ("tombstones", counts.tombstones.to_string()),
        ("tombstones_wait_for", waited_for(&pinning, table.serving)),
        ("tombstones_collected", table.collected.to_string()),
        ("tombstones_kept_s", tombstones_kept_s(replica, now).to_string()),
        ("memory_bytes", memory.total().to_string()),
        ("memory_tombstones_bytes", memory.tombstones.to_string()),
        ("resident_bytes", resident_len().map_or_else(|| "unknown".to_owned(), |len| len.to_string())),
        ("origin", replica.origin.to_string()),
        ("vector", vector_json),
        ("vector_len", vector.len().to_string()),
        ("horizon_len", table.horizon.len().to_string()),
        ("scan_order", replica.scan_order.fingerprint()),
        ("clock_ahead_ms", clock_ahead.to_string()),
        ("wall_clock_offset_ms", wall_offset.to_string()),
        ("conflicts_won", replica.conflicts_won.load(Ordering::Relaxed).to_string()),
        ("divergences", table.divergences.to_string()),
        ("dumps_serving", table.serving.to_string()),
        ("dump_from", dump_from(&table)),
        ("sessions_waiting", replica.acks.waiting_len().to_string()),
    ]
    .into_iter()
    .chain(disk_status(replica))
    .collect()
}

/// The figures on members for INFO and ROLE.
pub fn figures(replica: &Replica, now: Now) -> Figures {
    let traffic = replica.links.traffic();
    let table = replica.peers.table();
    let up = table.peers.iter().enumerate().filter(|(_, peer)| peer.is_up());
    let peers = up.map(|(peer_index, _)| {
        let progress = replica.acks.progress(peer_index, replica.submit.position(), replica.submit.written(), now.elapsed);
        let heard_ago = now.elapsed.saturating_sub(traffic[peer_index].heard);
        PeerFigures { addr: replica.config.peers[peer_index].addr.clone(), received: progress.received, heard_ago }
    });
    Figures { state: state(&table), members_up: members_up(&table), divergences: table.divergences, peers: peers.collect() }
}

/// The figures on the disk for INFO; `None` if nothing is kept on one.
pub fn disk_figures(replica: &Replica) -> Option<DiskFigures> {
    let wal = replica.persistence.wal()?;
    Some(DiskFigures {
        condition: wal.condition(),
        is_writable: wal.is_writable(),
        is_snapshotting: replica.persistence.is_snapshotting(),
        replaying: replica.persistence.replaying(),
    })
}

/// Number of expired values whose memory was freed, since this node started.
pub fn expired(replica: &Replica) -> u64 {
    replica.expired.load(Ordering::Relaxed)
}

/// The lines on the disk for STATUS.
fn disk_status(replica: &Replica) -> Vec<(&'static str, String)> {
    let Some(wal) = replica.persistence.wal() else { return vec![("log", "none: nothing is kept on disk".to_owned())] };
    let condition = wal.condition();
    let log = match &condition.stopped {
        Some(stopped) => format!("stopped: {}", stopped.sentence),
        None if condition.is_resuming => "resuming: nothing is acknowledged until a snapshot is written".to_owned(),
        None => "ok".to_owned(),
    };
    let position = replica.submit.position();
    vec![
        ("log", log),
        ("fsync", replica.config.fsync.to_string()),
        ("own_received", stamp(position)),
        ("own_durable", replica.acks.durable_upto().map_or_else(|| "not waited for".to_owned(), |upto| stamp(upto.min(position)))),
        ("log_bytes", condition.log_len.to_string()),
        ("log_appended_bytes", condition.appended.to_string()),
        ("log_syncs", condition.syncs.to_string()),
        ("snapshot_bytes", condition.snapshot_len.to_string()),
        ("snapshots_written", condition.snapshots.to_string()),
        ("snapshot_took_ms", condition.snapshot_took.as_millis().to_string()),
    ]
}

/// The lines of PEERS, one a peer.
pub fn peers(replica: &Replica, now: Now) -> Vec<String> {
    let traffic = replica.links.traffic();
    let waiting = tombstones_waiting(replica, now);
    let table = replica.peers.table();
    table
        .peers
        .iter()
        .enumerate()
        .map(|(peer_index, peer)| peer_line(replica, peer_index, peer, traffic[peer_index].heard, waiting[peer_index], now))
        .collect()
}

fn peer_line(replica: &Replica, peer_index: usize, peer: &Peer, heard: Duration, tombstones: usize, now: Now) -> String {
    let link = |linked| if linked { "connected" } else { "none" };
    let proof = |is_proven| if is_proven { "proved" } else { "none" };
    let ago = |then: Duration| format!("{:.1}", now.elapsed.saturating_sub(then).as_secs_f64());
    let progress = replica.acks.progress(peer_index, replica.submit.position(), replica.submit.written(), now.elapsed);
    let (queued, overflows) = replica.links.outbox(peer_index).queued();
    let never = "never".to_owned();
    [
        format!("peer {} {}", peer.id, if peer.is_up() { "up" } else { "down" }),
        format!("for_s {}", ago(peer.liveness.since())),
        format!("addr {}", replica.config.peers[peer_index].addr),
        format!("link_out {} link_in {}", link(peer.linked_out), link(peer.linked_in)),
        format!("auth_out {} auth_in {}", proof(peer.linked_out && peer.is_proven_out), proof(peer.linked_in && peer.is_proven_in)),
        format!("heard_s_ago {}", if peer.epoch == 0 { never } else { ago(heard) }),
        format!("round_trip_ms {:.2}", peer.liveness.round_trip().as_secs_f64() * 1e3),
        format!("clock_offset_ms {}", peer.clocks.reference_offset_ms()),
        format!("counted {}", if progress.counted { "yes" } else { "no" }),
        format!("lag_writes {} lag_s {:.1}", progress.behind_writes, progress.behind.as_secs_f64()),
        format!("received {} durable {}", stamp(progress.received), stamp(progress.upto)),
        format!("queued_bytes {queued} overflows {overflows}"),
        format!("tombstones_waiting {tombstones}"),
        format!("protocol {}", if peer.origin.is_none() { "unknown".to_owned() } else { peer.spoken.to_string() }),
        match &peer.last_error {
            Some((at, sentence)) => format!("last_error_s_ago {} last_error {}", ago(*at), quoted(sentence.as_bytes())),
            None => "last_error_s_ago never last_error none".to_owned(),
        },
    ]
    .join(" ")
}

/// Counts, for each peer, the tombstones that it is not proven to cover.
fn tombstones_waiting(replica: &Replica, now: Now) -> Vec<usize> {
    let age_min = replica.config.tombstone_age_min.as_millis() as u64;
    let known: Vec<_> = replica.peers.table().peers.iter().map(|peer| (peer.proof().cloned().unwrap_or_default(), peer.wall_ms)).collect();
    let mut waiting = vec![0; known.len()];
    for shard in 0..replica.store.shards_len() {
        for (count, (proven, wall_ms)) in waiting.iter_mut().zip(&known) {
            // A value that has long expired here must have expired by the peer's clock, too.
            let is_over =
                |entry: &Entry, wall_ms: u64| entry.expires().is_none_or(|expires| expires.is_over(wall_ms.saturating_sub(age_min)));
            *count += replica.store.count_tombstones(shard, |entry| {
                !proven.covers(entry.version()) || is_over(entry, now.wall_ms) && !is_over(entry, *wall_ms)
            });
        }
    }
    waiting
}

/// Seconds until the oldest tombstone is old enough to be collected; 0 if it is, or there is none.
fn tombstones_kept_s(replica: &Replica, now: Now) -> u64 {
    let mut oldest = None;
    for shard in 0..replica.store.shards_len() {
        replica.store.count_tombstones(shard, |entry| {
            let wall_ms = entry.version().stamp.wall_ms();
            oldest = Some(oldest.map_or(wall_ms, |oldest: u64| oldest.min(wall_ms)));
            false
        });
    }
    let age_min = replica.config.tombstone_age_min.as_millis() as u64;
    oldest
        .map_or(0, |oldest| oldest.saturating_add(age_min).saturating_sub(replica.clock.read(now.elapsed).stamp_us / 1_000).div_ceil(1000))
}

/// The members that tombstones wait for because they are away, or do not log.
fn pinning(replica: &Replica, now: Now) -> Vec<NodeId> {
    let waiting = tombstones_waiting(replica, now);
    let table = replica.peers.table();
    missing(&table, |peer| waiting[peer] > 0 && !(table.peers[peer].is_up() && table.peers[peer].open))
}

fn peer_auth(auth: PeerAuth) -> String {
    match auth {
        PeerAuth::Off | PeerAuth::Required => auth.to_string(),
        PeerAuth::Accept => format!("{auth}: peers that prove nothing are believed"),
    }
}

fn state(table: &PeerTable) -> &'static str {
    match table.stage {
        Stage::Recovering => "recovering",
        Stage::Open { degraded: false } => "open",
        Stage::Open { degraded: true } => "degraded",
    }
}

/// Number of members that are up, this node included.
fn members_up(table: &PeerTable) -> usize {
    1 + table.peers.iter().filter(|peer| peer.is_up()).count()
}

fn missing(table: &PeerTable, which: impl Fn(usize) -> bool) -> Vec<NodeId> {
    (0..table.peers.len()).filter(|peer| which(*peer)).map(|peer| table.peers[peer].id).collect()
}

fn dump_from(table: &PeerTable) -> String {
    match table.transfer() {
        Some(transfer) => names(&[table.peers[transfer.peer].id]),
        None if table.restoring => "a restore".to_owned(),
        None => names(&[]),
    }
}

fn waited_for(pinning: &[NodeId], serving: usize) -> String {
    match (pinning, serving) {
        ([], 0) => "nobody".to_owned(),
        ([], dumps) => format!("{dumps} dumps that are being served"),
        (pinning, _) => names(pinning),
    }
}

fn stamp(stamp: Stamp) -> String {
    if stamp == Stamp::ZERO { "none".to_owned() } else { stamp.to_string() }
}

/// The resident set of this process, in bytes. Only Linux reports it.
#[cfg(target_os = "linux")]
pub fn resident_len() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

#[cfg(not(target_os = "linux"))]
pub fn resident_len() -> Option<usize> {
    None
}

/// Checks that this node takes writes: they can be logged, and its incarnation may begin. An error
/// says why not, and what helps.
pub fn writable(replica: &Replica) -> Result<(), String> {
    replica.persistence.writable()?;
    folding::may_begin(replica)
}
