//! Replication: how writes reach the peers, and how a node that lacks some gets them.
//!
//! # What peers send each other, and why
//!
//! Between any two nodes there are two connections. Each is made by the node that speaks on it:
//! after the HELLOs only its maker sends. What a node sends, it takes from the peer's
//! [`links::outbox`]. What arrives, [`inbound`] applies. What follows from it, [`peers`] decides.
//!
//! **HELLO** goes both ways. It names the cluster, the sender, its incarnation (origin), its
//! members, its wall time, and its version vector. If any of that does not fit, the HELLO is
//! refused with a reason ([`links::handshake::check_hello`]). The vector of a HELLO replaces
//! whatever was known of the peer's. A HELLO names all protocols that its sender speaks, and both
//! sides speak the greatest that they have in common: so nodes of different builds meet. Nodes that
//! share a secret prove to each other who they are before a HELLO is believed
//! ([`links::authentication`]).
//!
//! What belongs to one connection (acks, heartbeats, requests) follows that protocol. Write
//! batches, dumps and files do not. The bytes of a batch go to all peers and to the log. A file
//! must be readable by the former build, in case that is put back. So a later format of those has a
//! number or kind of its own. It is written only when all members speak the protocol that brings it
//! ([`replica::Replica::spoken_by_all`]; a member that has never said HELLO counts as speaking the
//! oldest). Then the replicator encodes a batch once, as before, in the format that all members
//! read. A log that is to hold such batches begins anew with the number of their format
//! ([`crate::wal::log`]). A build reads the formats that it writes, and those of the build before
//! it.
//!
//! **Write batches** carry the sender's own writes in (after, upto]. The receiver merges them in
//! any case. If its vector covers the origin up to `after`, the batch is contiguous, and the vector
//! advances to `upto`. Otherwise there is a gap: the receiver remembers the pending range behind it
//! and asks for a dump. Peers never forward each other's writes.
//!
//! **Acks** say up to which stamp the receiver holds the sender's writes, or what superseded them:
//! in memory, and on its disk. They also say which of them came *one by one*: in batches, and not
//! in a dump or through a third node. So far nothing depends on that. A node that is catching up
//! acknowledges nothing. Acks ride on the connection of the opposite direction: one socket, one
//! owner, one direction.
//!
//! **Heartbeats** carry what changed in the sender's vector, and how far its batches have passed on
//! this connection. So a dropped batch is noticed although no other follows. When the sender's data
//! is quiescent, they carry its digest. A heartbeat also says how much of the receiver's connection
//! its sender has read. The thread that applies messages answers each heartbeat with an **echo**. A
//! peer is up when its bytes arrive here, and its echoes or heartbeats show that this node's bytes
//! arrive there.
//!
//! **Requests** ask for a dump, for one of these reasons:
//!
//! - there is a gap;
//! - the peer has writes of a third node that does not send them itself;
//! - the two have equal vectors and unequal data;
//! - past incarnations are to be folded.
//!
//! One dump is taken at a time. **Lines** answer the request, and live batches go on between them.
//! At the end line, and not before, the donor's vector is joined into the receiver's, and the
//! pending range behind the gap with it. (The donor has noted its vector before its scan.) A heal
//! dump only adds entries, and joins nothing. A dump that was given up for its slowness, and
//! arrives after all, is ignored: what it holds may have been deleted since, and the delete
//! forgotten.
//!
//! # Recovery
//!
//! A node starts blank and RECOVERING. It dials every peer, is dialled by every peer, asks each for
//! what its vector lacks, and serves dumps meanwhile. It opens to clients when it has what every
//! peer had at its HELLO, or when the remaining peers have made no progress towards that for
//! `recovery_wait`.
//!
//! # Clocks
//!
//! All members stamp at the pace of the fastest ([`crate::data::clock`]). HELLO, heartbeat, echo
//! and ack carry the clocks of their sender. What a peer's stamp clock shows is a floor for this
//! node's, and it runs on from there. A node whose stamp clock jumps announces that to all peers at
//! once.
//!
//! An ack counts only if its sender's stamp clock is at most 50 ms further ahead of the write than
//! the time that has passed here since ([`acks`]). If it is further ahead, this node's clock has
//! stood still. Nodes whose reference clocks are too far apart refuse each other ([`stamps`]). A
//! node with whose clock too few members agree does not open ([`peers`]).
//!
//! # Deletes
//!
//! A tombstone may be collected when all members are proven to cover it ([`tombstone_gc`]). A node
//! that was away for longer than that is *below the GC horizon*: it gets a full dump, and drops
//! what the donor has proven deleted. So nothing deleted comes back, and a blank node blanks no
//! other.
//!
//! A value that has expired is a tombstone to every reader, and no node writes one: a clock is
//! never a reason to overwrite. What is left to do is to free memory, which [`tombstone_gc`] does.
//!
//! # Past incarnations
//!
//! Every start that writes adds an incarnation to all vectors. A node that has more than
//! `incarnations_kept` of its own folds the oldest into one entry: "all writes of this node up to
//! here". The others take that entry over by a dump ([`folding`]). So vectors stay short. No node
//! folds before all members speak the protocol that has folding. From then on, nodes that do not
//! speak it are refused.

pub mod replicator;
pub mod submit;

pub mod peers;
pub mod replica;

pub mod inbound;
pub mod sync;

pub mod acks;
mod agreed_limits;
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
