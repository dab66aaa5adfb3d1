//! Large stores. With millions of keys the work of a heartbeat takes time, and the next heartbeat
//! waits for it: peers that receive none for long take the node for dead.

use std::sync::atomic::Ordering;

use super::*;
use crate::data::entry::Expiry;
use crate::replication::anti_entropy::AntiEntropy;
use crate::replication::tombstone_gc::TombstoneGc;

const LEN: usize = 600_000;
/// More keys than one step takes of a shard.
const SHARD_LEN: usize = LEN / 256 * 5 / 4;

/// A single node that has so many values.
fn filled(expires: Option<Expiry>) -> Net {
    let net = Net::new(&[0]);
    let replica = net.replica(0);
    let origin = Origin { node: NodeId(9), nonce: 1 };
    let version = Version { stamp: Stamp::from_wall_ms(BASE), origin };
    for key in 0..LEN {
        replica.store().merge(Entry::new(format!("key{key}").as_bytes(), Some(b"v"), expires, version), |_| false);
    }
    replica.coverage.advance().proven(&[(origin, version.stamp)].into_iter().collect());
    net
}

/// A quarter of the digest was made at one heartbeat. With ten million keys that took a second or
/// two beside a busy load, and nodes that were up were taken for down every few seconds.
#[test]
fn a_digest_is_made_at_several_heartbeats() {
    let net = filled(None);
    let mut rest = AntiEntropy::default();
    let mut heartbeats = 0;
    let is_settled = || net.replica(0).peers.table().quiescent.is_some();
    while !is_settled() {
        rest.step(net.replica(0), net.now(0));
        heartbeats += 1;
        assert!(heartbeats <= 20);
    }
    // The data is unchanged for two of them first.
    assert!(heartbeats >= 2 + LEN.div_ceil(100_000 + SHARD_LEN), "{heartbeats}");
    assert_eq!(net.replica(0).peers.table().quiescent.as_ref().unwrap().digest.keys, LEN as u64);
}

/// All expired values were freed at one heartbeat, and sixteen shards were searched for tombstones
/// under the lock that acks wait for, however large they were.
#[test]
fn expired_values_are_freed_at_several_heartbeats() {
    let mut net = filled(Some(Expiry::from_wall_ms(BASE + 1)));
    net.elapsed += Duration::from_secs(3_600);
    let mut gc = TombstoneGc::default();
    let (mut freed, mut collected, mut heartbeats) = (0, 0, 0);
    while collected < LEN {
        let step = gc.step(net.replica(0), net.now(0));
        assert!(step <= 20_000 + SHARD_LEN, "{step}");
        collected += step;
        let expired = net.replica(0).expired.load(Ordering::Relaxed) as usize;
        assert!(expired - freed <= (1 << 18) + SHARD_LEN, "{}", expired - freed);
        freed = expired;
        heartbeats += 1;
        assert!(heartbeats <= 100);
    }
    assert_eq!(freed, LEN);
    assert!(net.replica(0).store().is_empty());
}
