//! The peer table: what a node knows of its peers, and what it decides from that. Which are up,
//! which to ask for a dump, when to open to clients, what may be collected.
//!
//! [`Peers`] is the lock, which several invariants need held. What it guards is pure: plain values
//! in, decisions out, no locks, no sockets, time as an argument. [`table`] composes it from the
//! failure detector ([`liveness`]), catching up ([`catch_up`], [`transfers`]), recovery
//! ([`recovery`]), the proofs that the tombstone GC believes ([`proof`]) and the comparison of
//! clocks ([`clocks`]).

pub mod catch_up;
pub mod clocks;
pub mod events;
pub mod folding;
pub mod liveness;
pub mod peer;
pub mod proof;
pub mod recovery;
pub mod table;
pub mod transfers;

use crate::lock_order::{Locked, Mutex, Rank};
use crate::replication::peers::table::PeerTable;

/// The peer table of one node, behind its lock.
pub struct Peers(Mutex<PeerTable>);

/// The peer table, locked. A function that needs it locked takes this.
pub type LockedTable<'a> = Locked<'a, PeerTable>;

impl Peers {
    pub fn new(table: PeerTable) -> Peers {
        Peers(Mutex::new(Rank::PeerTable, table))
    }

    /// Locks the table. Acks of peers wait meanwhile, so nothing long is done under the lock.
    pub fn table(&self) -> LockedTable<'_> {
        self.0.lock()
    }
}
