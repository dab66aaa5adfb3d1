//! Replication: how writes reach the peers, and how a node that lacks some gets them.
//!
//! # What peers say, and why
//!
//! Between any two nodes there are two connections, each made by the node that speaks on it. After the HELLOs only its maker sends. What it sends, it takes from
//! the peer's [`links::outbox`]; what arrives, [`inbound`] applies; what follows from it, [`peers`] decides.
//!
//! **HELLO** both ways: who, in which cluster and which incarnation (origin), with which members, at what wall time, and how far (vector). Refused in words if any of it
//! does not fit ([`links::handshake::check_hello`]). The vector of a HELLO replaces whatever was known of the peer. A HELLO names all protocols that its sender speaks, and both sides
//! speak the greatest that they have in common: so nodes of different builds meet.
//!
//! What is of one connection (acks, beats, requests) follows that protocol. Batches, dumps and files are not of one connection: a batch's bytes go to all peers and to the log, and a
//! file is to be read by the build that was there before, if that is put back. So a later format of those has a number or kind of its own, and is written only when all
//! members speak the protocol that brings it ([`replica::Replica::spoken_by_all`]; a member that was never heard speaks the oldest). Then the replicator encodes a batch once, as
//! before, in the format that all read; a log that is to hold such batches begins anew with the number of their format (wal/log.rs). A build reads the formats that it writes, and
//! those of the one before.
//!
//! **Batches** carry the sender's own writes in (after, upto]. The receiver merges them in any case. If it has seen the origin up to `after` they are contiguous, and it
//! has now seen it up to `upto`; otherwise there is a gap: it remembers the run of batches behind it and asks for a dump. Peers never forward each other's
//! writes.
//!
//! **Acks** say up to which stamp the receiver holds the sender's writes, or what superseded them: in memory, and on its disk. They also say which of them it has taken *one by one*, in batches, and
//! not in a dump or through a third node; so far nothing depends on that. A node that is catching up acknowledges nothing. Acks ride on the connection of the opposite direction: one socket, one owner,
//! one direction.
//!
//! **Beats** carry what changed in the sender's vector, how far its batches have passed on this connection (so a dropped batch is noticed although no other
//! follows), and, when its data is at rest, its digest. The thread that applies answers each with an **echo**. A beat also says how much of the receiver's connection has been
//! read. A peer is up when its bytes arrive, and its echoes or its beats show that this node's do.
//!
//! **Requests** ask for a dump: because of a gap, because the peer has writes of a third node that does not send them itself, or because equal vectors turned
//! out to hold unequal data. One at a time; **lines** answer it, live batches go on between them. At the end line, and not before, the donor's vector (noted before its
//! scan) is joined into the receiver's, and the run behind the gap with it. A dump that heals only adds entries, and joins nothing. One that was given up for its slowness and comes after all is passed over: what it
//! holds may have been deleted, and the delete forgotten, since.
//!
//! # Recovery
//!
//! A node starts blank and RECOVERING: it dials every peer, is dialled by every peer, asks each for what its vector lacks, and serves dumps meanwhile. It opens to
//! clients when it has what every peer had at its HELLO, or when the others have not brought it forward for `recovery_wait`.
//!
//! # Clocks
//!
//! All members stamp at the pace of the fastest ([`crate::data::clock`]): HELLO, beat, echo and ack carry the clocks of their sender, and what a peer's stamp clock shows is a floor that runs on from there. A node
//! whose stamp clock jumps says so to all at once. An ack counts only if its sender's stamp clock is at most 50 ms further ahead of the write than the time that has passed here since
//! ([`acks`]): else this node's clock has stood still. Reference clocks that are too far apart do not meet ([`replica`]), and a node that too few agree with does not open ([`peers`]).
//!
//! # Deletes
//!
//! A tombstone may be collected when all members are proven to have it ([`tombstone_gc`]). A node that was away for longer than that is *below the horizon*: it gets a full
//! dump, and drops what the donor has proven deleted. So nothing deleted comes back, and a blank node blanks nobody.
//!
//! A value that has expired is a tombstone to every reader, and nobody writes one: a clock is never a reason to overwrite. What is left to do is to free memory, which the
//! [`tombstone_gc`] does.
//!
//! # Incarnations that are over
//!
//! Every start that writes adds an incarnation to all vectors. Beyond 64 of its own a node folds the oldest into one place, "all writes of this node up to here", and the others take that over by a dump
//! ([`folding`]). So vectors stay short. Not before all members speak the protocol that has it; and afterwards who does not speak it is met no more.

pub mod replicator;
pub mod submit;

pub mod peers;
pub mod replica;

pub mod inbound;
pub mod sync;

pub mod acks;
pub mod coverage;

pub mod persistence;

pub mod anti_entropy;
pub mod folding;
pub mod heartbeat;
pub mod scan_order;
pub mod stamps;
pub mod tombstone_gc;

pub mod links;

pub mod status;

#[cfg(test)]
mod regressions;
#[cfg(test)]
mod tests;
