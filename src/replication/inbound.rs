//! How a node applies the messages that a peer sends.
//!
//! Owns the state of one incoming connection: the pending range of batches that is not joined to
//! the vector yet, and the dump being taken ([`receiver`]). **I5** is kept here. The version vector
//! advances only by a contiguous batch or by a dump's end line. On receipt the order is clock,
//! merge, then the advance and the hand-over to the log. Never waits for a socket: an answer goes
//! into the peer's outbox, from which an ack that is due leaves at once if the socket takes it.
//! Never submits to the replicator, so nothing echoes and no ring of nodes waits on itself. What
//! takes longer, the more keys there are, is done in pieces, between reads ([`Inbound::work`]).

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Permit;
use crate::config::Config;
use crate::data::clock::{Now, Stamp};
use crate::data::progress::{Gap, PendingRange};
use crate::data::version::{Origin, VersionVector};
use crate::replication::links::DueAck;
use crate::replication::links::handshake::{self, VECTOR_LEN_MAX};
use crate::replication::peers::table::{PeerTable, QuiescentState};
use crate::replication::peers::transfers::Transfer;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::replication::sync::ending::{Ending, Piece};
use crate::replication::sync::receiver::{self, DumpReceiver};
use crate::store::{Digest, PREFETCH_MAX};
use crate::testing::broken_rules::BrokenRule;
use crate::wire::dump::{self, DumpKind, DumpReader, EndLine, Header, Line};
use crate::wire::peer::{Ack, Heartbeat, Hello, Message, Protocol, QuiescentDigest, WriteBatch};
#[cfg(feature = "testing")]
use crate::{
    data::clock::Deadline,
    data::entry::{Entry, Update},
    replication::acks::Written,
    wire::ack_level::AckLevel,
};

/// The state of one incoming connection.
pub struct Inbound {
    peer: usize,
    epoch: u64,
    origin: Origin,
    protocol: Protocol,
    /// Batches that were merged, and that a gap separates from what the vector covers.
    pending: PendingRange,
    /// Reads the lines of the dump that the peer is sending.
    reader: DumpReader,
    /// The dump whose lines are merged. `None` if it was given up: then all lines up to its end
    /// line are ignored.
    dump: Option<DumpReceiver>,
    /// A full dump whose end line has come. What that leaves to be done is done in pieces.
    ending: Option<Ending>,
}

/// A message of a peer, as it was received.
pub struct ReceivedMessage {
    pub message: Message,
    /// The bytes of the message, for the log.
    pub frame: Vec<u8>,
    /// The share of the log's byte budget that the bytes hold.
    pub permit: Option<Permit>,
}

impl From<Message> for ReceivedMessage {
    /// A message as if it had come over a wire. Its bytes are for the log, and what is logged is
    /// equal in all protocols.
    fn from(message: Message) -> ReceivedMessage {
        let mut frame = Vec::new();
        message.encode(&mut frame, Protocol::OLDEST);
        ReceivedMessage { message, frame, permit: None }
    }
}

/// The bytes of a message that are logged; none of most kinds.
#[derive(Default)]
struct LogBytes {
    bytes: Arc<Vec<u8>>,
    permit: Option<Permit>,
}

impl Inbound {
    /// Begins an incoming connection whose HELLO was found good and which speaks `protocol`. A
    /// newer connection replaces an older one of the same peer.
    pub fn accept(replica: &Replica, peer: usize, hello: &Hello, protocol: Protocol, now: Now) -> Inbound {
        handshake::greeted(replica, hello, now);
        replica.links.traffic_with(peer).heard(0, now.elapsed);
        let mut inbound = Inbound {
            peer,
            epoch: 0,
            origin: hello.origin,
            protocol,
            pending: PendingRange::none(hello.origin),
            reader: DumpReader::default(),
            dump: None,
            ending: None,
        };
        // Writes of the peer before this connection that are not here are a gap like any other.
        let position = hello.vector.get(hello.origin);
        {
            let mut coverage = replica.coverage.advance();
            replica.links.outbox(peer).set_origin(hello.origin, coverage.get(hello.origin));
            coverage.batch(&mut inbound.pending, position, position);
        }
        let event = replica.decide(now, |table| {
            let (epoch, event) = table.accept(peer, hello, inbound.pending.has_gap(), now);
            inbound.epoch = epoch;
            // The peer's acks, which come on this connection, begin anew.
            replica.acks.reset(peer, hello.durable);
            replica.acks.covered(peer, hello.vector.get(replica.origin));
            event
        });
        if let Some(event) = event
            && let (kind, Some(node)) = event.kind()
            && let Some(more) = replica.log_limit.admit(kind, node.0, now.elapsed)
        {
            log::error!("{event}{more}");
        }
        replica.links.outbox(peer).redial();
        // The echo of the last one may have been lost with the peer's former connection. Without it
        // the peer does not count as up, and a node that starts would not open before the next.
        replica.links.outbox(peer).heartbeat();
        inbound
    }

    /// Returns whether [`Inbound::work`] has something to do.
    pub fn has_work(&self) -> bool {
        self.ending.is_some()
    }

    /// Does a piece of the work that the end line of a dump has left. To within a shard, it goes
    /// through so many entries. Called between reads of the connection.
    pub fn work(&mut self, replica: &Replica, entries: usize, now: Now) {
        let Some(mut ending) = self.ending.take() else { return };
        match ending.work(replica, entries) {
            Piece::Done => {}
            Piece::Join { proven, removed } => self.take_over(replica, proven, removed),
            Piece::Taken { dropped } => {
                replica.peers.table().proving -= 1;
                self.dump_taken(replica, ending.dump(), dropped, now);
            }
            Piece::Freed => return,
        }
        if !ending.is_taken() {
            // The dump gets on, although no line of it comes any more. That a newer connection has
            // replaced this one, the next message shows.
            let _ = self.note_progress(replica, ending.dump().count(), now);
        }
        self.ending = Some(ending);
    }

    /// Does all of the work at once.
    fn finish_work(&mut self, replica: &Replica, now: Now) {
        while self.has_work() {
            self.work(replica, usize::MAX, now);
        }
    }

    /// Notes that the connection has ended. What the end line of a dump proves is still carried
    /// out.
    pub fn closed(mut self, replica: &Replica, now: Now) {
        self.finish_work(replica, now);
        replica.decide(now, |table| table.closed(self.peer, self.epoch));
    }

    /// Applies one message. An error closes the connection and says why.
    pub fn receive(&mut self, replica: &Replica, received: impl Into<ReceivedMessage>, now: Now) -> Result<(), String> {
        let ReceivedMessage { message, frame, permit } = received.into();
        let log_bytes = LogBytes { bytes: Arc::new(frame), permit };
        match message {
            Message::Writes(batch) => self.receive_batch(replica, batch, log_bytes, now),
            Message::Ack(ack) => {
                self.receive_ack(replica, &ack, now);
                Ok(())
            }
            Message::Heartbeat(heartbeat) => self.receive_heartbeat(replica, &heartbeat, now),
            Message::Echo { sent, clocks } => {
                stamps::observe_clocks(replica, clocks, now);
                self.with_present(replica, now, |table| table.peers[self.peer].liveness.echo(Duration::from_micros(sent), now))
            }
            Message::Request(request) => {
                handshake::check_vector(replica, &request.vector, now)?;
                stamps::observe(replica, request.vector.greatest(), now);
                self.with_present(replica, now, |table| {
                    table.peers[self.peer].vector.join(&request.vector);
                    replica.links.outbox(self.peer).serve(request);
                })
            }
            Message::Lines(lines) => self.receive_lines(replica, &lines, log_bytes, now),
            Message::Hello(_) | Message::Refused(_) | Message::Challenge(_) | Message::AuthenticatedHello(_) => {
                Err("a second HELLO".to_owned())
            }
        }
    }

    fn receive_batch(&mut self, replica: &Replica, batch: WriteBatch, log_bytes: LogBytes, now: Now) -> Result<(), String> {
        if batch.origin != self.origin {
            return Err(format!("a batch of {}, on a connection of {}", batch.origin, self.origin));
        }
        stamps::check_stamp(replica, batch.upto, now)?;
        batch.writes.iter().try_for_each(|write| check_lens(&replica.config, write.key, write.value))?;
        stamps::observe(replica, batch.upto, now);
        #[cfg(feature = "testing")]
        let losing = if BrokenRule::SecondStamp.is_on() { losing(replica, &batch) } else { Vec::new() };
        let mut ahead = batch.writes.iter().map(|write| write.key);
        for (index, write) in batch.writes.iter().enumerate() {
            if index % PREFETCH_MAX == 0 {
                replica.store.prefetch(ahead.by_ref().take(PREFETCH_MAX));
            }
            let merged = replica.store.merge_write(write, |version| replica.coverage.covers(version));
            replica.note_merged(write.version, merged);
        }
        self.record_passed(replica, batch.after, batch.upto, log_bytes, now);
        #[cfg(feature = "testing")]
        write_again(replica, losing, now);
        Ok(())
    }

    /// Records that the sender has passed `upto`: nothing of it lies between `after` and `upto` but
    /// what was merged just now. It is acknowledged when the log has it. The hand-over to the log
    /// and the advance are one step under the vector's lock (**I5**, **I7**).
    fn record_passed(&mut self, replica: &Replica, after: Stamp, upto: Stamp, log_bytes: LogBytes, now: Now) {
        let had_gap = self.pending.has_gap();
        let outbox = replica.links.outbox(self.peer);
        // Sent when the lock is released.
        let _due = {
            // The ack is put into the outbox under the same lock. Otherwise another thread's end
            // line could move the vector in between. This ack would then claim that writes of a
            // third node's dump came one by one.
            let mut coverage = replica.coverage.advance();
            let closed = coverage.batch(&mut self.pending, after, upto) == Gap::Closed;
            let position = coverage.get(self.origin);
            outbox.received(self.origin, position);
            if closed {
                replica.persistence.record(log_bytes.bytes, log_bytes.permit);
                record_joined(replica, self.origin, position)
            } else {
                replica.persistence.record_reaching(log_bytes.bytes, (self.origin, position), log_bytes.permit)
            }
        };
        if self.pending.has_gap() != had_gap {
            self.report_gap(replica, now);
        }
    }

    /// Reports to the peer table whether batches of this connection are missing, wherever that may
    /// have changed. A connection that was replaced reports nothing: the newer one has.
    fn report_gap(&self, replica: &Replica, now: Now) {
        let _ = self.with_present(replica, now, |table| table.peers[self.peer].catch_up.gap = self.pending.has_gap());
    }

    fn receive_ack(&self, replica: &Replica, ack: &Ack, now: Now) {
        stamps::observe_clocks(replica, ack.clocks, now);
        if ack.origin != replica.origin {
            return;
        }
        // Under the peer table's lock: a connection that was replaced may not overwrite what the
        // newer one reports.
        let table = replica.peers.table();
        let is_present = table.peers[self.peer].epoch == self.epoch;
        let woken = is_present.then(|| replica.acks.acknowledge(self.peer, ack, now.elapsed));
        drop(table);
        drop(woken);
    }

    fn receive_heartbeat(&mut self, replica: &Replica, heartbeat: &Heartbeat, now: Now) -> Result<(), String> {
        handshake::check_vector(replica, &heartbeat.vector, now)?;
        stamps::check_stamp(replica, heartbeat.upto, now)?;
        stamps::check_clock(replica, self.peer, heartbeat.clocks, heartbeat.wall_ms, false, now)?;
        stamps::observe(replica, heartbeat.vector.greatest().max(heartbeat.upto), now);
        stamps::observe_clocks(replica, heartbeat.clocks, now);
        replica.learn_scan_order(heartbeat.order);
        replica.links.outbox(self.peer).echo(heartbeat.sent);
        self.record_passed(replica, heartbeat.upto, heartbeat.upto, LogBytes::default(), now);
        if BrokenRule::FoldAtOnce.is_on() {
            replica.coverage.advance().proven(&heartbeat.vector.folded().collect());
        }
        let vector = replica.vector();
        let pause = 10 * replica.config.heartbeat;
        let heard_len = replica.links.traffic_with(self.peer).heard_len();
        let len = replica.peers.table().peers[self.peer].vector.len() + heartbeat.vector.len();
        // The vector of its HELLO may be as long as all changes since.
        let len_max = 2 * VECTOR_LEN_MAX;
        if len > len_max {
            return Err(format!("its version vector has {len} entries, and at most {len_max} are allowed"));
        }
        let diverged = self.with_present(replica, now, |table| {
            table.heartbeat(self.peer, heartbeat, heard_len, now);
            replica.acks.covered(self.peer, heartbeat.vector.get(replica.origin));
            let QuiescentDigest { sum, keys, before_ms } = heartbeat.settled?;
            let theirs = Digest { sum, keys };
            let QuiescentState { vector: settled, digest: ours, .. } =
                table.quiescent.as_ref().filter(|settled| settled.before_ms == before_ms)?;
            let comparable = *settled == vector && table.peers[self.peer].vector == vector && !table.is_taking() && table.serving == 0;
            let (ours, id) = (*ours, table.peers[self.peer].id);
            (comparable && ours != theirs && table.diverged(self.peer, pause, now)).then_some((id, ours, theirs))
        })?;
        if let Some((id, ours, theirs)) = diverged
            && let Some(more) = replica.log_limit.admit("diverged", id.0, now.elapsed)
        {
            log::error!(
                "DIVERGED from node {id}: equal vectors, but {} keys with digest {:016x} here and {} with {:016x} there; healing by merging both ways{more}",
                ours.keys,
                ours.sum,
                theirs.keys,
                theirs.sum
            );
        }
        Ok(())
    }

    fn receive_lines(&mut self, replica: &Replica, lines: &[u8], log_bytes: LogBytes, now: Now) -> Result<(), String> {
        if let Err(why) = self.take_lines(replica, lines, log_bytes, now) {
            // Asked again at once, the peer would send an equal dump.
            let refused = self.with_present(replica, now, |table| table.dump_refused(self.peer, replica.config.peer_timeout, now))?;
            if let Some((id, pause)) = refused {
                log::error!("a dump from node {id} is refused: {why}; it is asked again in {pause:?}, and less and less often after that");
            }
            return Err(why);
        }
        let ending = self.ending.as_ref().filter(|ending| !ending.is_taken());
        let entries = self.dump.as_ref().or(ending.map(Ending::dump)).map_or(0, DumpReceiver::count);
        self.note_progress(replica, entries, now)
    }

    /// The dump that is being taken gets on, if it is this connection's.
    fn note_progress(&self, replica: &Replica, entries: u64, now: Now) -> Result<(), String> {
        let heard_len = replica.links.traffic_with(self.peer).heard_len();
        self.with_present(replica, now, |table| {
            if table.transfer().is_some_and(|transfer| transfer.peer == self.peer) {
                table.dump_progressed(entries, heard_len, now);
            }
        })
    }

    /// Takes the lines of one message. An error says what is wrong with the dump.
    fn take_lines(&mut self, replica: &Replica, lines: &[u8], log_bytes: LogBytes, now: Now) -> Result<(), String> {
        let lines = dump::whole_lines(lines)?;
        let _merging = Merging::begin(replica);
        self.give_up_if_late(replica);
        let mut log_bytes = Some(log_bytes);
        // Only at the beginning of a message: an end line is the last line of its message.
        if self.reader.has_ended() {
            self.reader = DumpReader::default();
        }
        for line in lines {
            match self.reader.line(line)? {
                Line::Header(header) => self.begin_dump(replica, header, now)?,
                Line::Entry(entry) => {
                    let Some(dump) = &mut self.dump else { continue };
                    check_lens(&replica.config, entry.key(), entry.value())?;
                    dump.take(replica, entry, now)?;
                }
                Line::End(end) => {
                    // Merged before this, so that a snapshot that begins in between has the
                    // entries. Logged before what the end line proves.
                    let Some(dump) = self.dump.take() else { continue };
                    let is_heal = dump.heals();
                    if BrokenRule::ProofBeforeLines.is_on() {
                        self.end_dump(replica, dump, end, now)?;
                        self.finish_work(replica, now);
                        record_lines(replica, is_heal, log_bytes.take());
                    } else {
                        record_lines(replica, is_heal, log_bytes.take());
                        self.end_dump(replica, dump, end, now)?;
                    }
                }
            }
        }
        if let Some(dump) = &self.dump {
            record_lines(replica, dump.heals(), log_bytes);
        }
        Ok(())
    }

    fn begin_dump(&mut self, replica: &Replica, header: Header, now: Now) -> Result<(), String> {
        if header.origin != self.origin {
            return Err(format!("a dump of {}, on a connection of {}", header.origin, self.origin));
        }
        if BrokenRule::SeenBeforeEnd.is_on() {
            replica.coverage.advance().proven(&header.vector);
        }
        if !self.is_wanted(&header, &replica.peers.table()) && !BrokenRule::MergeLate.is_on() {
            return Ok(());
        }
        self.dump = Some(DumpReceiver::begin(replica, header, false, now)?);
        Ok(())
    }

    /// Gives up the dump whose lines still arrive after it was given up for its slowness. The
    /// tombstone GC has gone on since. A delete of what the lines hold may be forgotten, and the
    /// deleted entry would come back where no vector covers it.
    fn give_up_if_late(&mut self, replica: &Replica) {
        let is_late = self.dump.as_ref().is_some_and(|dump| !self.is_wanted(dump.header(), &replica.peers.table()));
        if is_late && !BrokenRule::MergeLate.is_on() {
            self.dump = None;
        }
    }

    /// Takes the end line of a dump. The end line of the dump that was requested last proves what
    /// it can, and ends the request; a full dump's does so in pieces.
    fn end_dump(&mut self, replica: &Replica, dump: DumpReceiver, end: EndLine, now: Now) -> Result<(), String> {
        dump.check(&end)?;
        if !self.is_wanted(dump.header(), &replica.peers.table()) {
            // The dump was given up while its last lines were merged. It proves nothing.
            return Ok(());
        }
        match dump.header().kind {
            DumpKind::Full => {
                self.finish_work(replica, now);
                replica.peers.table().proving += 1;
                self.ending = Some(Ending::begin(replica, dump, end));
                return Ok(());
            }
            DumpKind::Delta => {
                let vector = without_live(replica, &dump.header().vector);
                self.take_over(replica, Proven { vector, horizon: VersionVector::default() }, Vec::new());
            }
            // The dump was requested at equal vectors. What the donor's vector has gained since
            // comes in its batches, or in another dump.
            DumpKind::Heal => {}
        }
        self.dump_taken(replica, &dump, 0, now);
        Ok(())
    }

    /// The dump has proven what it can: another one may be asked for.
    fn dump_taken(&self, replica: &Replica, dump: &DumpReceiver, dropped: usize, now: Now) {
        self.report_gap(replica, now);
        let (count, healed) = (dump.count(), dump.healed());
        let (took, id) = replica.decide(now, |table| {
            let took = if self.is_wanted(dump.header(), table) { table.dump_taken(now) } else { None };
            table.peers[self.peer].catch_up.dump_accepted();
            (took.unwrap_or_default(), table.peers[self.peer].id)
        });
        if let Some(more) = replica.log_limit.admit("took a dump", id.0, now.elapsed) {
            let took = took.as_secs_f64();
            log::info!("took a dump from node {id}: {count} entries in {took:.3} s, {dropped} dropped, {healed} healed{more}");
        }
    }

    /// Joins the vector of a complete dump, and the pending range of live batches that it reaches.
    /// Of the writes that it covers, only the donor's that came in live batches are acknowledged as
    /// received one by one. `removed`: the records of what the dump has proven deleted.
    fn take_over(&mut self, replica: &Replica, proven: Proven, removed: Vec<u8>) {
        // Sent when the locks are released.
        let (_due, _due_of_others);
        let mut table = replica.peers.table();
        let mut coverage = replica.coverage.advance();
        let position = proven.vector.get(self.origin);
        let live = self.pending.start_if_reaching(position).map(|start| (self.peer, start));
        _due_of_others = receiver::join_proven(replica, &mut table, &mut coverage, proven, removed, live);
        drop(table);
        let closed = coverage.close(&mut self.pending) == Gap::Closed;
        let position = coverage.get(self.origin);
        replica.links.outbox(self.peer).received(self.origin, position);
        _due = if closed {
            record_joined(replica, self.origin, position)
        } else {
            replica.persistence.record_reaching(Arc::default(), (self.origin, position), None)
        };
    }

    /// Changes the peer table on behalf of this connection. An error says that a newer connection
    /// has replaced it.
    fn with_present<T>(&self, replica: &Replica, now: Now, change: impl FnOnce(&mut PeerTable) -> T) -> Result<T, String> {
        let present = replica.decide(now, |table| (table.peers[self.peer].epoch == self.epoch).then(|| change(table)));
        present.ok_or_else(|| "a newer connection of the same node has replaced this one".to_owned())
    }
}

/// Logs the lines of a message as they came. Entries that healing changed were logged one by one.
fn record_lines(replica: &Replica, is_heal: bool, log_bytes: Option<LogBytes>) {
    if let Some(LogBytes { bytes, permit }) = log_bytes
        && !is_heal
    {
        replica.persistence.record(bytes, permit);
    }
}

/// For [`BrokenRule::SecondStamp`]: own writes that the batch supersedes before enough members have
/// them.
#[cfg(feature = "testing")]
fn losing(replica: &Replica, batch: &WriteBatch) -> Vec<Entry> {
    let superseded = batch.writes.iter().filter_map(|write| {
        let own = replica.store.entry(write.key).filter(|own| own.version().origin == replica.origin && own.version() < write.version)?;
        (!replica.acks.open_round(AckLevel::Majority).is_met(Written::at(own.version().stamp, Duration::ZERO))).then_some(own)
    });
    superseded.collect()
}

#[cfg(feature = "testing")]
fn write_again(replica: &Replica, losing: Vec<Entry>, now: Now) {
    for own in losing {
        let at_once = Deadline::within(Duration::ZERO);
        let again = |_: Option<&Entry>| Ok::<_, ()>(Update::again(&own));
        let _ = replica.submit.write(own.key(), own.size(), now.elapsed, &at_once, again);
    }
}

/// The vector that a dump which drops nothing proves, without the origins whose own batches arrive
/// without a gap, the donor's included. Those batches prove the same in a moment, and also that
/// each write came one by one, which a dump cannot.
///
/// After drops all entries must be taken: a batch of a write whose tombstone is gone may still be
/// under way.
fn without_live(replica: &Replica, proven: &VersionVector) -> VersionVector {
    let table = replica.peers.table();
    let live = |origin| table.peers.iter().any(|peer| peer.linked_in && !peer.catch_up.gap && peer.origin == Some(origin));
    proven.iter().filter(|(origin, _)| !live(*origin)).collect()
}

/// Logs that a pending range was joined. It takes a record of its own. The batches of the range may
/// be in a log before the present one, and a snapshot being written in front of the present one
/// claims none of them.
fn record_joined(replica: &Replica, origin: Origin, position: Stamp) -> DueAck<'_> {
    let vector = [(origin, position)].into_iter().collect();
    let bytes = record::proven(&Proven { vector, horizon: VersionVector::default() });
    replica.persistence.record_reaching(Arc::new(bytes), (origin, position), None)
}

/// Marks that lines of a dump are being merged, until it is dropped. The tombstone GC rests
/// meanwhile, also if the dump is given up.
struct Merging<'a>(&'a Replica);

impl<'a> Merging<'a> {
    fn begin(replica: &'a Replica) -> Merging<'a> {
        replica.peers.table().merging += 1;
        Merging(replica)
    }
}

impl Drop for Merging<'_> {
    fn drop(&mut self) {
        self.0.peers.table().merging -= 1;
    }
}

/// Refuses a key or value that is longer than this node takes from its own clients. All members
/// have equal limits, so that none sends such a one. Where they have not, the reason says so.
fn check_lens(config: &Config, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    let value_len = value.map_or(0, <[u8]>::len);
    for (what, len, field, max) in
        [("key", key.len(), "key_len_max", config.key_len_max), ("value", value_len, "value_len_max", config.value_len_max)]
    {
        if len > max {
            return Err(format!("a {what} of {len} bytes, and {field} is {max} here: it must be equal on all members, and at least that"));
        }
    }
    Ok(())
}

impl Inbound {
    /// The protocol that is spoken on the connection.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns whether a dump that comes on this connection is the one that was requested last.
    fn is_wanted(&self, header: &Header, table: &PeerTable) -> bool {
        let asked = |transfer: &Transfer| transfer.peer == self.peer && transfer.epoch == self.epoch && Some(transfer.id) == header.request;
        table.transfer().is_some_and(asked)
    }
}
