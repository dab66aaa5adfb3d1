//! What a node does with what a peer sends.
//!
//! Owns the state of one incoming connection: the run of batches that is not joined to the vector yet, and the dump being taken (incoming.rs). **I5** lives here: `seen`
//! is advanced only by a contiguous batch or by a dump's end line; on receipt the order is clock, merge, then the advance. Never sends: what there is to say goes into
//! the peer's outbox. Never submits to the replicator, so nothing echoes and no ring of nodes waits on itself.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Permit;
use crate::config::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::progress::{Gap, PendingRange};
use crate::data::version::{Origin, VersionVector};
use crate::replication::links::handshake::{self, PLACES_MAX};
use crate::replication::peers::table::{PeerTable, QuiescentState};
use crate::replication::peers::transfers::Transfer;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::replication::sync::receiver;
use crate::replication::sync::receiver::Incoming;
use crate::store::Digest;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::dump::{self, DumpKind, DumpReader, EndLine, Header, Line};
use crate::wire::peer::{Ack, Heartbeat, Hello, Message, Protocol, QuiescentDigest, WriteBatch};
#[cfg(feature = "testing")]
use crate::{data::clock::Deadline, data::entry::Update, replication::acks::Written, wire::ack_level::AckLevel};

/// One incoming connection.
pub struct Inbound {
    peer: usize,
    epoch: u64,
    origin: Origin,
    protocol: Protocol,
    /// Batches that were merged, and that a gap parts from what the vector covers.
    pending: PendingRange,
    /// Reads the lines of the dump that the peer is sending.
    reader: DumpReader,
    /// What is merged of that dump; `None` where it was given up: up to its end line all is passed over.
    dump: Option<Incoming>,
}

/// A message as it came.
pub struct Arrived {
    pub message: Message,
    /// Its bytes, for the log.
    pub frame: Vec<u8>,
    /// Budget in the log's queue.
    pub room: Option<Permit>,
}

impl From<Message> for Arrived {
    /// As if it had come over a wire. Its bytes are for the log, and what is logged is the same in all protocols.
    fn from(message: Message) -> Arrived {
        let mut frame = Vec::new();
        message.encode(&mut frame, Protocol::OLDEST);
        Arrived { message, frame, room: None }
    }
}

/// What is logged of a message; nothing of most.
#[derive(Default)]
struct Raw {
    bytes: Arc<Vec<u8>>,
    room: Option<Permit>,
}

impl Inbound {
    /// Begins an incoming connection whose HELLO was found good, and to speak this protocol. A newer one replaces an older one of the same peer.
    pub fn accept(replica: &Replica, peer: usize, hello: &Hello, protocol: Protocol, now: Now) -> Inbound {
        stamps::observe(replica, hello.vector.greatest(), now);
        stamps::hear_clocks(replica, hello.clocks, now);
        handshake::hear_of_incarnations(replica, hello);
        replica.learn_scan_order(hello.order);
        replica.links.traffic_with(peer).heard(0, now.elapsed);
        let mut inbound = Inbound {
            peer,
            epoch: 0,
            origin: hello.origin,
            protocol,
            pending: PendingRange::none(hello.origin),
            reader: DumpReader::default(),
            dump: None,
        };
        // What the peer wrote before this connection is a gap like any other.
        let position = hello.vector.get(hello.origin);
        {
            let mut coverage = replica.coverage.advance();
            replica.links.outbox(peer).know_origin(hello.origin, coverage.get(hello.origin));
            coverage.batch(&mut inbound.pending, position, position);
        }
        let event = replica.decide(now, |table| {
            let (epoch, event) = table.accept(peer, hello, inbound.pending.has_gap(), now);
            inbound.epoch = epoch;
            // Its acks, which come on this connection, begin anew.
            replica.acks.reset(peer, hello.durable);
            replica.acks.covered(peer, hello.vector.get(replica.origin));
            event
        });
        if let Some(event) = event
            && let (kind, Some(node)) = event.kind()
            && let Some(more) = replica.said.admit(kind, node.0, now.elapsed)
        {
            log::error!("{event}{more}");
        }
        replica.links.outbox(peer).redial();
        inbound
    }

    /// The connection has ended.
    pub fn closed(&self, replica: &Replica, now: Now) {
        replica.decide(now, |table| table.closed(self.peer, self.epoch));
    }

    /// One message. An error closes the connection and says why.
    pub fn receive(&mut self, replica: &Replica, arrived: impl Into<Arrived>, now: Now) -> Result<(), String> {
        let Arrived { message, frame, room } = arrived.into();
        let raw = Raw { bytes: Arc::new(frame), room };
        match message {
            Message::Writes(batch) => self.receive_batch(replica, batch, raw, now),
            Message::Ack(ack) => {
                self.receive_ack(replica, &ack, now);
                Ok(())
            }
            Message::Heartbeat(beat) => self.receive_beat(replica, &beat, now),
            Message::Echo { sent, clocks } => {
                stamps::hear_clocks(replica, clocks, now);
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
            Message::Lines(lines) => self.receive_lines(replica, &lines, raw, now),
            Message::Hello(_) | Message::Refused(_) => Err("a second HELLO".to_owned()),
        }
    }

    fn receive_batch(&mut self, replica: &Replica, batch: WriteBatch, raw: Raw, now: Now) -> Result<(), String> {
        if batch.origin != self.origin {
            return Err(format!("a batch of {}, on a connection of {}", batch.origin, self.origin));
        }
        stamps::check_stamp(replica, batch.upto, now)?;
        batch.writes.iter().try_for_each(|write| check_lens(write.key, write.value))?;
        stamps::observe(replica, batch.upto, now);
        #[cfg(feature = "testing")]
        let losing = if BrokenRule::SecondStamp.is_on() { losing(replica, &batch) } else { Vec::new() };
        for write in batch.writes.iter() {
            let merged = replica.store.merge_write(write, |version| replica.covers(version));
            replica.note_merged(write.version, merged);
        }
        self.pass(replica, batch.after, batch.upto, raw, now);
        #[cfg(feature = "testing")]
        write_again(replica, losing, now);
        Ok(())
    }

    /// The sender has passed `upto`, and nothing of it lies between `after` and `upto` but what was taken just now. It is acknowledged when the log has it: the
    /// hand-over and the advance are one step under the vector's lock (**I5**, **I7**).
    fn pass(&mut self, replica: &Replica, after: Stamp, upto: Stamp, raw: Raw, now: Now) {
        let had_gap = self.pending.has_gap();
        let outbox = &replica.links.outbox(self.peer);
        {
            // The ack is put into the outbox under the same lock: between the two, another thread's end line could move the vector, and this ack would
            // say of writes that came through a third node that they came one by one.
            let mut coverage = replica.coverage.advance();
            let closed = coverage.batch(&mut self.pending, after, upto) == Gap::Closed;
            let position = coverage.get(self.origin);
            outbox.received(self.origin, position);
            if closed {
                replica.persistence.record(raw.bytes, None, raw.room);
                record_joined(replica, self.origin, position);
            } else {
                replica.persistence.record(raw.bytes, Some((self.origin, position)), raw.room);
            }
        }
        if self.pending.has_gap() != had_gap {
            self.tell_gap(replica, now);
        }
    }

    /// Says whether batches of this connection are missing, wherever that may have changed. A connection that was replaced says nothing: the newer one has.
    fn tell_gap(&self, replica: &Replica, now: Now) {
        let _ = self.with_present(replica, now, |table| table.peers[self.peer].catch_up.gap = self.pending.has_gap());
    }

    fn receive_ack(&self, replica: &Replica, ack: &Ack, now: Now) {
        stamps::hear_clocks(replica, ack.clocks, now);
        if ack.origin != replica.origin {
            return;
        }
        // Under the peer table's lock: a connection that was replaced may not overwrite what the newer one says.
        let table = replica.peers.table();
        let is_present = table.peers[self.peer].epoch == self.epoch;
        let woken = is_present.then(|| replica.acks.acknowledge(self.peer, ack, now.elapsed));
        drop(table);
        drop(woken);
    }

    fn receive_beat(&mut self, replica: &Replica, beat: &Heartbeat, now: Now) -> Result<(), String> {
        handshake::check_vector(replica, &beat.vector, now)?;
        stamps::check_stamp(replica, beat.upto, now)?;
        stamps::check_clock(replica, self.peer, beat.clocks, beat.wall_ms, false, now)?;
        stamps::observe(replica, beat.vector.greatest().max(beat.upto), now);
        stamps::hear_clocks(replica, beat.clocks, now);
        replica.learn_scan_order(beat.order);
        replica.links.outbox(self.peer).echo(beat.sent);
        self.pass(replica, beat.upto, beat.upto, Raw::default(), now);
        if BrokenRule::FoldAtOnce.is_on() {
            replica.coverage.advance().proven(&beat.vector.folded().collect());
        }
        let vector = replica.vector();
        let pause = 10 * replica.config.heartbeat;
        let heard_len = replica.links.traffic_with(self.peer).heard_len();
        let places = replica.peers.table().peers[self.peer].vector.len() + beat.vector.len();
        // What it said first may be as long as what changes.
        let places_max = 2 * PLACES_MAX;
        if places > places_max {
            return Err(format!("{places} places in what it has said of its vector; {places_max} are the most"));
        }
        let diverged = self.with_present(replica, now, |table| {
            table.heartbeat(self.peer, beat, heard_len, now);
            replica.acks.covered(self.peer, beat.vector.get(replica.origin));
            let QuiescentDigest { sum, keys, before_ms } = beat.settled?;
            let theirs = Digest { sum, keys };
            let QuiescentState { vector: settled, digest: ours, .. } =
                table.quiescent.as_ref().filter(|settled| settled.before_ms == before_ms)?;
            let comparable = *settled == vector && table.peers[self.peer].vector == vector && !table.is_taking() && table.serving == 0;
            let (ours, id) = (*ours, table.peers[self.peer].id);
            (comparable && ours != theirs && table.diverged(self.peer, pause, now)).then_some((id, ours, theirs))
        })?;
        if let Some((id, ours, theirs)) = diverged
            && let Some(more) = replica.said.admit("diverged", id.0, now.elapsed)
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

    fn receive_lines(&mut self, replica: &Replica, lines: &[u8], raw: Raw, now: Now) -> Result<(), String> {
        if let Err(why) = self.take_lines(replica, lines, raw, now) {
            // It would be the same dump again.
            let refused = self.with_present(replica, now, |table| table.dump_refused(self.peer, replica.config.peer_timeout, now))?;
            if let Some((id, pause)) = refused {
                log::error!("a dump from node {id} is refused: {why}; it is asked again in {pause:?}, and less and less often after that");
            }
            return Err(why);
        }
        let entries = self.dump.as_ref().map_or(0, |dump| dump.count());
        let heard_len = replica.links.traffic_with(self.peer).heard_len();
        self.with_present(replica, now, |table| {
            if table.transfer().is_some_and(|transfer| transfer.peer == self.peer) {
                table.dump_progressed(entries, heard_len, now);
            }
        })
    }

    /// What is in them. An error says what is wrong with the dump.
    fn take_lines(&mut self, replica: &Replica, lines: &[u8], raw: Raw, now: Now) -> Result<(), String> {
        let lines = dump::whole_lines(lines)?;
        let _merging = Merging::begin(replica);
        self.give_up_if_late(replica);
        let mut raw = Some(raw);
        // Never behind an end line, which is a message's last.
        if self.reader.has_ended() {
            self.reader = DumpReader::default();
        }
        for line in lines {
            match self.reader.line(line)? {
                Line::Header(header) => self.begin_dump(replica, header, now)?,
                Line::Entry(entry) => {
                    let Some(dump) = &mut self.dump else { continue };
                    check_lens(entry.key(), entry.value())?;
                    dump.take(replica, entry, now)?;
                }
                Line::End(end) => {
                    // Merged first, so that a snapshot that begins in between has them; and in the log before what the end line proves.
                    self.record_lines(replica, raw.take());
                    if let Some(dump) = self.dump.take() {
                        self.end_dump(replica, &dump, &end, now)?;
                    }
                }
            }
        }
        self.record_lines(replica, raw);
        Ok(())
    }

    /// Entries are logged as they came; what healing changed was logged by itself.
    fn record_lines(&self, replica: &Replica, raw: Option<Raw>) {
        if let (Some(raw), Some(dump)) = (raw, &self.dump)
            && !dump.heals()
        {
            replica.persistence.record(raw.bytes, None, raw.room);
        }
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
        self.dump = Some(Incoming::begin(replica, header, false, now)?);
        Ok(())
    }

    /// A dump that was given up for its slowness, and comes after all, is worth nothing any more. The collector has not rested since: a delete may be forgotten of what its lines hold, and it would be back where
    /// no vector covers it.
    fn give_up_if_late(&mut self, replica: &Replica) {
        let is_late = self.dump.as_ref().is_some_and(|dump| !self.is_wanted(dump.header(), &replica.peers.table()));
        if is_late && !BrokenRule::MergeLate.is_on() {
            self.dump = None;
        }
    }

    /// The end line. That of the dump that was asked for last proves what it can, and ends the request.
    fn end_dump(&mut self, replica: &Replica, dump: &Incoming, end: &EndLine, now: Now) -> Result<(), String> {
        dump.check(end)?;
        if !self.is_wanted(dump.header(), &replica.peers.table()) {
            // Given up while its last lines were merged. It proves nothing.
            return Ok(());
        }
        let dropped = self.prove(replica, dump, end);
        self.tell_gap(replica, now);
        let (count, healed) = (dump.count(), dump.healed());
        let (took, id) = replica.decide(now, |table| {
            let took = if self.is_wanted(dump.header(), table) { table.dump_taken(now) } else { None };
            table.peers[self.peer].catch_up.dump_accepted();
            (took.unwrap_or_default(), table.peers[self.peer].id)
        });
        if let Some(more) = replica.said.admit("took a dump", id.0, now.elapsed) {
            let took = took.as_secs_f64();
            log::info!("took a dump from node {id}: {count} entries in {took:.3} s, {dropped} dropped, {healed} healed{more}");
        }
        Ok(())
    }

    /// What an end line proves: the drops, the horizon, and only then the vector. Returns how many entries were dropped.
    fn prove(&mut self, replica: &Replica, dump: &Incoming, end: &EndLine) -> usize {
        let vector = &dump.header().vector;
        let (proven, dropped) = match dump.header().kind {
            DumpKind::Full => (Proven { vector: vector.clone(), horizon: end.horizon.clone() }, dump.drop_absent(replica)),
            DumpKind::Delta => (Proven { vector: without_live(replica, vector), horizon: VersionVector::default() }, Vec::new()),
            // It was asked for at equal vectors. What the donor's has gained since, its batches bring, or another dump.
            DumpKind::Heal => return 0,
        };
        self.take_over(replica, proven, &dropped);
        dropped.len() + dump.drop_late(replica)
    }

    /// A dump's end line: its vector is seen, and the run of live batches that it joins. Of what it brings, only the donor's writes that came in live batches
    /// are vouched for.
    fn take_over(&mut self, replica: &Replica, proven: Proven, dropped: &[Entry]) {
        let mut table = replica.peers.table();
        let mut coverage = replica.coverage.advance();
        let position = proven.vector.get(self.origin);
        let live = self.pending.start_if_reaching(position).map(|start| (self.peer, start));
        receiver::join_proven(replica, &mut table, &mut coverage, proven, dropped, live);
        drop(table);
        let closed = coverage.close(&mut self.pending) == Gap::Closed;
        let position = coverage.get(self.origin);
        replica.links.outbox(self.peer).received(self.origin, position);
        if closed {
            record_joined(replica, self.origin, position);
        } else {
            replica.persistence.record(Arc::default(), Some((self.origin, position)), None);
        }
    }

    /// Changes the peer table on behalf of a connection that has not been replaced.
    fn with_present<T>(&self, replica: &Replica, now: Now, change: impl FnOnce(&mut PeerTable) -> T) -> Result<T, String> {
        let present = replica.decide(now, |table| (table.peers[self.peer].epoch == self.epoch).then(|| change(table)));
        present.ok_or_else(|| "a newer connection of the same node has replaced this one".to_owned())
    }
}

/// For [`BrokenRule::SecondStamp`]: the writes of this node that the batch beats before enough members have them.
#[cfg(feature = "testing")]
fn losing(replica: &Replica, batch: &WriteBatch) -> Vec<Entry> {
    let beaten = batch.writes.iter().filter_map(|write| {
        let own = replica.store.entry(write.key).filter(|own| own.version().origin == replica.origin && own.version() < write.version)?;
        (!replica.acks.open_round(AckLevel::Majority).is_met(Written::at(own.version().stamp, Duration::ZERO))).then_some(own)
    });
    beaten.collect()
}

#[cfg(feature = "testing")]
fn write_again(replica: &Replica, losing: Vec<Entry>, now: Now) {
    for own in losing {
        let at_once = Deadline::within(Duration::ZERO);
        let again = |_: Option<&Entry>| Ok::<_, ()>(Update::again(&own));
        let _ = replica.submit.write(own.key(), own.size(), now.elapsed, &at_once, again);
    }
}

/// What a dump that drops nothing proves, without the origins whose own batches are coming in without a gap, the donor's included: they say the same in a moment,
/// and vouch for every single write, which a dump cannot. (After drops all must be taken: a batch of a write whose tombstone is gone may still be under way.)
fn without_live(replica: &Replica, proven: &VersionVector) -> VersionVector {
    let table = replica.peers.table();
    let live = |origin| table.peers.iter().any(|peer| peer.linked_in && !peer.catch_up.gap && peer.origin == Some(origin));
    proven.iter().filter(|(origin, _)| !live(*origin)).collect()
}

/// A run behind a gap was joined. The log says so in words of its own: the batches of the run may be in a log before the present one, of which a snapshot is being written that
/// claims none of them.
fn record_joined(replica: &Replica, origin: Origin, position: Stamp) {
    let vector = [(origin, position)].into_iter().collect();
    let bytes = record::proven(&Proven { vector, horizon: VersionVector::default() });
    replica.persistence.record(Arc::new(bytes), Some((origin, position)), None);
}

/// While it lives lines of a dump are merged, and the collector rests: should the dump be given up meanwhile.
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

/// No node takes longer ones from its clients, whatever it is configured with: what is longer is no peer's, and might not fit into a message when it is passed on.
fn check_lens(key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    let value_len = value.map_or(0, <[u8]>::len) as u64;
    for (what, len, max) in [("key", key.len() as u64, KEY_LEN_MAX), ("value", value_len, VALUE_LEN_MAX)] {
        if len > max {
            return Err(format!("a {what} of {len} bytes, and none has more than {max}"));
        }
    }
    Ok(())
}

impl Inbound {
    /// What is spoken on it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether a dump that comes on this connection is the one that was asked for last.
    fn is_wanted(&self, header: &Header, table: &PeerTable) -> bool {
        let asked = |transfer: &Transfer| transfer.peer == self.peer && transfer.epoch == self.epoch && Some(transfer.id) == header.request;
        table.transfer().is_some_and(asked)
    }
}
