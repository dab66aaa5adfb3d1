//! kvmesh: a small replicated key-value store. Equal nodes in a full mesh; every node takes reads and writes; a node that was down catches up by
//! itself before it serves clients. Plain TCP, one thread per connection, nothing between the program and `std::net`.
//!
//! # The idea
//!
//! One register type, one merge, one vector, one dump. A write becomes an [`data::entry::Entry`] with a version: a [`data::clock::Stamp`] of a hybrid logical clock, which is made once, and
//! the [`data::version::Origin`] that took it. Everywhere and always the entry with the greater version stays ([`store::Store::merge`]). An entry is one allocation, which
//! the map, the channel, dumps and replies share. A [`data::version::VersionVector`] says how far a
//! node has come with every origin, and answers every question that the mesh has: what a returning peer lacks, whether a write has arrived, whether a
//! tombstone may go, whether two nodes must be equal. What a vector does not cover travels as a [`wire::dump`]. The disk ([`wal`]) holds a dump, the snapshot, and since then
//! the very bytes that came and went; reading it at the start is one more merge.
//!
//! Clients speak text or RESP, as Redis clients do, told apart by the first byte of each request ([`wire`]). Both make the same typed commands, and each is executed in one
//! place: on one key by its family in `server::commands`, a pure function of the command, what is there and the time; on several keys, and from MULTI to EXEC, by `server::atomic_step`, whose updates are
//! applied in one step. A value may expire at a time that is part of its entry: readers look at the clock, and nobody writes a delete because of it.
//!
//! # A write's way
//!
//! ```text
//!  client ── TCP ──▶ client-N                                    a session executes all commands that have come as one round
//!                       │  submit: room, shard lock, evaluate, sequencer lock: stamp + send, insert (several keys: all their shards, one plan)
//!                       ▼
//!                 crossbeam channel                              bounded by bytes of room; in stamp order (I2)
//!                       ▼
//!                   replicator                                   everything that waits becomes ONE encoded batch
//!                  ╱    │     ╲  the same bytes, shared
//!                 │    log     │                                 one write, one sync, for everything that waits; then this node counts itself (I7)
//!            outbox:2        outbox:3                            bounded; an overflow is dropped, the peer notices the gap
//!                ▼               ▼
//!          peer-out:2      peer-out:3                            one thread, one socket, one direction
//!                │ TCP           │ TCP
//!                ▼               ▼
//!       (node 2) peer-in:1   (node 3) peer-in:1                  clock, merge, hand over to the log and advance `seen` (I5)
//!                │               │
//!               log             log                              durable: the ack may leave (I7)
//!                │               │
//!          peer-out:1        peer-out:1                          the ack rides on the peer's own connection
//!                ▼               ▼
//!       (node 1) peer-in:2   (node 1) peer-in:3                  moves the ack table, wakes the sessions whose level is met
//!                       │
//!                    client-N ── all replies of the round, one write ──▶ client
//! ```
//!
//! # The threads
//!
//! | thread | loop | owns |
//! |---|---|---|
//! | `main` | [`node::run`] | start order, stop order |
//! | `accept` | [`net::Acceptor`], `server::listener` | the client port |
//! | `client-N` | `server::session::run_client` | one client's socket and buffers |
//! | `replicator` | [`replication::replicator::run_replicator`] | the channel's end, where the last batch ended |
//! | `log` | [`wal::writer::Writer::run`] | the log file |
//! | `snapshot` | [`replication::persistence::snapshots::run_snapshots`] | a snapshot that is being written |
//! | `replay` | [`replication::persistence::replay`] | at the start only: merges what another thread reads of the disk |
//! | `peer-out:N` | [`replication::links::outgoing::run_peer_out`] | the connection on which this node speaks to peer N |
//! | `peer-accept` | [`net::Acceptor`], [`replication::links::incoming`] | the peer port |
//! | `peer-hello` | `replication::links::incoming` | a connection that has not said who it is |
//! | `peer-in:N` | `replication::links::incoming` | the connection on which peer N speaks to this node |
//! | `heartbeat` | [`replication::heartbeat::run_heartbeat`] | the collector's place, the digest of resting data, whether many incarnations were told of |
//! | `signals` | [`process::signals::watch`] | SIGINT, SIGTERM, SIGHUP; it ends with the process |
//! | `stderr` | [`process::logging`] | stderr: writes what the others log |
//! | `stdin` | `kvnode` | only with `--stop-with-stdin`: waits for the end of standard input |
//!
//! A panic of any of them ends the process: a dead node is a case that the mesh handles, a half-dead one is not.
//!
//! # State that is shared, and its locks
//!
//! | state | owner | lock |
//! |---|---|---|
//! | entries | [`store`] | one per shard |
//! | the order of own writes | [`replication::submit`] | the sequencer, taken under a shard's lock |
//! | places of other origins | [`replication::replica`] | `seen`, read under a shard's lock |
//! | the order that the cluster scans in | [`replication::scan_order`] | `order` |
//! | links, dumps, restores, recovery, horizon | [`replication::peers`] | `control` (the collector's lock) |
//! | acks, waiting sessions | [`replication::acks`] | the table |
//! | what waits for a peer | [`replication::links::outbox`] | one per peer |
//! | who is on the peer port and has not said who it is | `replication::links::unidentified` | the table |
//! | what waits for the log, how the disk does | [`wal`] | the queue; the condition |
//! | lines that wait for stderr; how often a kind was logged | [`process::logging`] | the queue; one per [`process::logging::LogLimit`] |
//! | connected clients; what each has said of itself | `server::clients`, `server::client_handle` | the table; one per client |
//!
//! Order: control, then a shard (of several, the lower number first), then `seen` or the sequencer; `order`, the ack table, the outboxes' and the write-ahead log's come last. Under a lock there is no I/O, no log line,
//! and no wait.
//!
//! # The invariants, and where they are kept
//!
//! | | in words | kept in |
//! |---|---|---|
//! | I1 | `seen[o] = s`: every write of `o` up to `s` is here, or was and is superseded | [`data::version::VersionVector`], [`replication::inbound`], [`replication::folding`] |
//! | I2 | the writes of an origin leave it in strictly rising stamp order | [`replication::submit`] |
//! | I3 | what travels is the effect, never the command | [`replication::submit`] |
//! | I4 | the replicator never touches a socket or a disk; a slow peer delays nobody | [`replication::replicator`], [`replication::links::outbox`] |
//! | I5 | `seen` moves only by a contiguous batch or a dump's end line | [`replication::inbound`], [`replication::sync::receiver`] |
//! | I6 | absence is a delete only where it is proven | [`replication::tombstone_gc`], [`replication::peers`], [`replication::replica`], [`replication::sync::receiver`] |
//! | I7 | an ack never claims more than is true, nor before it is durable | [`replication::persistence::durability`], [`replication::acks`], [`wal::writer`] |
//! | I8 | a write is stamped once, the newest stamp wins, and stamps follow one clock | [`data::clock`], [`replication::replica`], [`replication::acks`], `server::writes` |
//! | I9 | no clock is dragged ahead by a bad one | [`replication::replica`] |
//!
//! # The modules, in reading order

pub mod data;
pub mod lock_order;
pub mod store;
pub mod wire;

pub mod budget;
pub mod wal;

pub mod replication;
pub mod server;

pub mod config;
pub mod net;
pub mod node;
pub mod process;

pub mod client;

pub mod testing;
