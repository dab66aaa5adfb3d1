//! The order in which the cluster scans keys, and how its members agree on one.
//!
//! A store begins with an order of its own. A node that opens to clients, and knows of no order of
//! the cluster's, declares its own to be that. HELLOs and heartbeats carry it. Of two orders the
//! older one counts, everywhere, and a node that learns of an older one moves its keys. So members
//! that were blank together agree within a heartbeat of their opening. Members that return have the
//! order on their disks: in the head of the snapshot, and in the log at the beginning of every
//! incarnation and at every change.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::data::clock::Now;
use crate::data::key_order::Order;
use crate::store::Store;

/// One node's knowledge of the cluster's order. `None` as long as there is none.
pub struct ScanOrder {
    order: Mutex<Option<Order>>,
    store: Arc<Store>,
}

impl ScanOrder {
    pub fn new(store: Arc<Store>) -> ScanOrder {
        ScanOrder { order: Mutex::default(), store }
    }

    /// The cluster's order, if there is one.
    pub fn get(&self) -> Option<Order> {
        *self.order.lock()
    }

    /// The order that the disk names, before anything else is known of one.
    pub fn restore(&self, order: Option<Order>) {
        *self.order.lock() = order;
    }

    /// This node opens to clients, which may begin to scan: there is an order from now on. Returns
    /// true if this made it. Takes no lock of the store.
    pub fn declare(&self, now: Now) -> bool {
        let mut order = self.order.lock();
        let is_new = order.is_none();
        order.get_or_insert_with(|| Order { since_ms: now.wall_ms, key: self.store.order() });
        is_new
    }

    /// A peer knows of this order. Returns true if it takes the place of the one known here. A peer
    /// that knows of none, or is of a build that does not tell, changes nothing.
    pub fn learn(&self, theirs: Option<Order>) -> bool {
        let Some(theirs) = theirs else { return false };
        let mut order = self.order.lock();
        let is_older = order.is_none_or(|ours| theirs < ours);
        if is_older {
            *order = Some(theirs);
        }
        is_older
    }

    /// Gives the store the cluster's order. Called at every heartbeat, since a thread that walks
    /// through the store can put it off.
    pub fn apply(&self) {
        let Some(Order { key, .. }) = self.get() else { return };
        let began = Instant::now();
        if self.store.order() != key && self.store.reorder(key) {
            let entries = self.store.len();
            log::info!("took over the order that the cluster scans in: moved {entries} entries in {:.3} s", began.elapsed().as_secs_f64());
        }
    }

    /// A fingerprint of the order that this node's scans follow. Members with the same one scan
    /// alike.
    pub fn fingerprint(&self) -> String {
        format!("{:04x}", self.store.order().fingerprint())
    }
}
