//! kvmesh: a small replicated key-value store. Equal nodes in a full mesh; every node takes reads
//! and writes; a node that was down catches up by itself before it serves clients. Plain TCP, one
//! thread per connection, nothing between the program and `std::net`.
//!
//! This page is the map of the program. The documents say more: `docs/concepts.md` (the ideas, and
//! a glossary), `docs/tour.md` (a SET, a delete and a returning node, step by step),
//! `docs/architecture.md`, `docs/invariants.md`, `docs/protocol.md`.
//!
//! # The idea
//!
//! One register type, one merge, one vector, one dump. A write becomes an [`data::entry::Entry`]
//! with a version: a [`data::clock::Stamp`] of a hybrid logical clock, made once, and the
//! [`data::version::Origin`] that took the write, which is one incarnation of one node. Everywhere
//! and always the entry with the greater version stays ([`store::Store::merge`]): last writer wins.
//!
//! A [`data::version::VersionVector`] says how far a node has come with every origin. It answers
//! every question that the mesh has: what a returning peer lacks, whether a write has arrived,
//! whether a tombstone may go, whether two nodes must be equal. What a vector does not cover
//! travels as a dump ([`wire::dump`]). On disk ([`wal`]) are a snapshot, which is a dump, and the
//! log since: the bytes as they were sent and received. A start merges both.
//!
//! Clients speak text or RESP, as Redis clients do, told apart by the first byte of each request
//! ([`wire`]). Both make the same typed commands; each is held against the rights of its user in
//! one place (`server::authorization`), and executed in one place (`server::commands`). A value may
//! expire at a time that is part of its entry: readers look at the clock, and no node writes a
//! delete because of it.
//!
//! # A write's way
//!
//! ```text
//!  client ── TCP ──▶ client-N                    a session executes all commands that
//!                       │                        have come as one round: budget, shard lock,
//!                       │                        evaluate, sequencer lock (stamp, send), insert
//!                       ▼
//!               crossbeam channel                bounded by the byte budget, in stamp order (I2)
//!                       ▼
//!                   replicator                   all that waits becomes ONE write batch; a session
//!                  ╱    │     ╲                  that writes alone makes it in its place
//!                 │     │      │                 the same bytes, shared
//!                 │    log     │                 one write, one sync; then this node counts
//!                 │            │                 itself (I7)
//!            outbox:2      outbox:3              bounded; an overflow is dropped, and the peer
//!                ▼             ▼                 notices the gap
//!          peer-out:2     peer-out:3             one socket, one direction; the replicator sends
//!                │             │                 itself if nothing is in the way (I4)
//!                │ TCP         │ TCP
//!                ▼             ▼
//!     (node 2) peer-in:1  (node 3) peer-in:1     clock, merge, hand over to the log and advance
//!                │             │                 the version vector (I5)
//!               log           log                durable: the ack may leave (I7)
//!                │             │
//!          peer-out:1     peer-out:1             the ack rides on the peer's own connection
//!                ▼             ▼
//!     (node 1) peer-in:2  (node 1) peer-in:3     moves the ack table, wakes the sessions whose
//!                       │                        ack level is reached
//!                    client-N ── TCP ──▶ client  all replies of the round in one write
//! ```
//!
//! # The threads
//!
//! A panic of any of them ends the process. A dead node is a case that the mesh handles, a
//! half-dead one is not.
//!
//! - `main`, [`node::run`]: the order of start and stop. At the start it reads and decodes the
//!   disk.
//! - `accept`, [`net::Acceptor`]: the client port.
//! - `client-N`, `server::session`: one client's socket and buffers, and its state of TLS
//!   ([`net::tls_stream`]).
//! - `replicator`, [`replication::replicator`]: the channel's end, where the last batch ended.
//! - `log`, [`wal::writer`]: the log file.
//! - `snapshot`, [`replication::persistence::snapshots`]: a snapshot that is being written.
//! - `replay-N`, [`wal::snapshot`], and `replay`, [`replication::persistence::replay`]: at the
//!   start only; they merge the lines of the snapshot and the records of a log.
//! - `peer-out:N`, [`replication::links::outgoing`]: the connection on which this node speaks to
//!   peer N.
//! - `peer-accept`, [`net::Acceptor`]: the peer port.
//! - `peer-hello`, `peer-in:N`, [`replication::links::incoming`]: a connection before its HELLO,
//!   and before it has proven whose it is ([`replication::links::authentication`]); and the one on
//!   which peer N speaks to this node.
//! - `heartbeat`, [`replication::heartbeat`]: where the tombstone GC, the anti-entropy check and
//!   the folding of incarnations stand.
//! - `audit`, [`process::audit`]: the file of the audit log.
//! - `signals`, [`process::signals`]; `stderr`, [`process::logging`]; `stdin`, only with
//!   `--stop-with-stdin`.
//!
//! # Shared state and its locks
//!
//! Each lock is private to the file of its owner. [`lock_order`] has the order in which one thread
//! may take them, and debug builds check it: the peer table ([`replication::peers`]), shards of the
//! [`store`] in rising order, the version vector ([`replication::coverage`]), the sequencer of own
//! writes ([`replication::submit`]).
//!
//! Four locks come before all of these. The right to write a snapshot
//! ([`replication::persistence::hand_off`]) guards no data, and is held while one is written. The
//! right to reload ([`config::live`]) guards none either, and is held while files are read. The
//! lock on the present connection of a peer ([`replication::links::incoming`]) is held while a new
//! one takes its place. That of a sender ([`replication::links::sender`]) is held while bytes are
//! given to a socket that does not block; other threads than the link's only try it. Below it is
//! that of a connection with TLS (`replication::links::tls_socket`).
//!
//! All others are leaves, under which nothing is locked: acks and waiting sessions
//! ([`replication::acks`]), what waits for a peer ([`replication::links::outbox`]), the log's queue
//! and condition ([`wal`]), the scan order ([`replication::scan_order`]), connections that have not
//! said HELLO (`replication::links::unidentified`), threads of links
//! ([`replication::links::incoming`]), how far the disk is read
//! ([`replication::persistence::hand_off`]), waiters for bytes ([`budget`]), when the clock was
//! slewed last ([`data::clock`]), the configuration in force ([`config::live`]), the users in force
//! (`server::access`), connected clients (`server::clients`) and those among them that have not
//! logged in (`server::newcomers`), what was refused (`server::denials`), the certificate in force
//! ([`net::tls`]), lines for stderr ([`process::logging`]), paces and the next file of the audit
//! log ([`process::audit`]). Under a lock there is no I/O, no log line, and no wait, but for the
//! four that come first.
//!
//! # The invariants, and where they are kept
//!
//! - **I1** `vector[o] = s`: every write of origin `o` up to `s` is here, or was and is superseded.
//!   [`replication::coverage`], [`replication::inbound`], [`replication::folding`].
//! - **I2** The writes of an origin leave it in strictly rising stamp order.
//!   [`replication::submit`].
//! - **I3** The update travels, never the command. [`replication::submit`].
//! - **I4** The replicator never waits for a socket or a disk; a slow peer delays no client and no
//!   other peer. [`replication::replicator`], [`replication::links::outbox`],
//!   [`replication::links::sender`].
//! - **I5** A version vector moves only by a contiguous batch or a dump's end line.
//!   [`data::progress`], [`replication::coverage`], [`replication::inbound`].
//! - **I6** Absence is a delete only where it is proven. [`replication::tombstone_gc`],
//!   [`replication::peers::proof`], [`replication::sync`].
//! - **I7** An ack never claims more than is true, nor before it is durable.
//!   [`replication::persistence::hand_off`], [`replication::acks`], [`wal::writer`].
//! - **I8** A write is stamped once, the newest stamp wins, and stamps follow one clock.
//!   [`data::clock`], [`replication::stamps`], [`replication::acks`].
//! - **I9** No clock is dragged ahead by a bad one. [`replication::stamps`],
//!   [`replication::peers::recovery`].
//!
//! # The modules, in reading order

#![cfg_attr(
    not(test),
    warn(
        clippy::disallowed_methods,
        clippy::exit,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used,
        reason = "this ships"
    )
)]

pub mod data;
pub mod sync;

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
