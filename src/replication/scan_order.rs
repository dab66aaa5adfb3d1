//! Which order a cluster scans in, and how its members come to one.
//!
//! A store begins with an order of its own. A node that opens to clients without having heard of one, or read of one on its disk, declares that order the cluster's. HELLOs and beats say it; of two the older counts,
//! everywhere, and whoever learns of an older one than its own moves its keys. So members that were blank together agree within a beat of their opening, and those that return have it on
//! their disks: in the header of the snapshot, and in the log at every beginning of an incarnation and at every change.

use std::time::Instant;

use crate::data::clock::Now;
use crate::data::key_order::Order;
use crate::replication::replica::Replica;

impl Replica {
    /// This node opens: from now on there is an order that clients may have begun to scan in. Takes no shard's lock.
    pub(super) fn mint_order(&self, now: Now) {
        {
            let mut order = self.order.lock();
            if order.is_some() {
                return;
            }
            *order = Some(Order { since_ms: now.wall_ms, key: self.store.order() });
        }
        self.record_incarnation();
    }

    /// What a peer says of it; nothing, if it has none yet or is older than this.
    pub(super) fn hear_order(&self, theirs: Option<Order>) {
        let Some(theirs) = theirs else { return };
        {
            let mut order = self.order.lock();
            if order.is_some_and(|ours| ours <= theirs) {
                return;
            }
            *order = Some(theirs);
        }
        self.record_incarnation();
        self.keep_order();
    }

    /// Sees to it that the store has the cluster's order. At every beat, since it can be put off by whoever goes through the store.
    pub(super) fn keep_order(&self) {
        let Some(Order { key, .. }) = *self.order.lock() else { return };
        let began = Instant::now();
        if self.store.order() != key && self.store.reorder(key) {
            let entries = self.store.len();
            log::info!("took over the order that the cluster scans in: moved {entries} entries in {:.3} s", began.elapsed().as_secs_f64());
        }
    }

    /// What tells orders apart: members that show the same one scan alike.
    pub(super) fn shown_order(&self) -> String {
        format!("{:04x}", self.store.order().fingerprint())
    }
}
