//! What a node does with what a peer sends.
//!
//! Owns the state of one incoming connection: the run of batches that is not joined to the vector yet, and the dump being taken (incoming.rs). **I5** lives here: `seen`
//! is advanced only by a contiguous batch or by a dump's end line; on receipt the order is clock, merge, then the advance. Never sends: what there is to say goes into
//! the peer's outbox. Never submits to the replicator, so nothing echoes and no ring of nodes waits on itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::budget::Permit;
use crate::config::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::progress::{Gap, PendingRange};
use crate::data::version::{Origin, Version, VersionVector};
use crate::replication::peers::table::{PeerTable, QuiescentState};
use crate::replication::peers::transfers::Transfer;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::{PLACES_MAX, Replica};
use crate::replication::sync::receiver::Incoming;
use crate::store::{Digest, Merged};
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

impl Replica {
    /// Begins an incoming connection whose HELLO was found good, and to speak this protocol. A newer one replaces an older one of the same peer.
    pub fn accept(&self, peer: usize, hello: &Hello, protocol: Protocol, now: Now) -> Inbound {
        self.observe(hello.vector.greatest(), now);
        self.hear_clocks(hello.clocks, now);
        self.hear_of_incarnations(hello);
        self.learn_scan_order(hello.order);
        self.links.traffic_with(peer).heard(0, now.elapsed);
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
            let mut coverage = self.coverage.advance();
            self.links.outbox(peer).know_origin(hello.origin, coverage.get(hello.origin));
            coverage.batch(&mut inbound.pending, position, position);
        }
        let event = self.decide(now, |table| {
            let (epoch, event) = table.accept(peer, hello, inbound.pending.has_gap(), now);
            inbound.epoch = epoch;
            // Its acks, which come on this connection, begin anew.
            self.acks.reset(peer, hello.durable);
            self.acks.covered(peer, hello.vector.get(self.origin));
            event
        });
        if let Some(event) = event
            && let (kind, Some(node)) = event.kind()
            && let Some(more) = self.said.admit(kind, node.0, now.elapsed)
        {
            log::error!("{event}{more}");
        }
        self.links.outbox(peer).redial();
        inbound
    }

    /// The connection has ended.
    pub fn closed(&self, inbound: &Inbound, now: Now) {
        self.decide(now, |table| table.closed(inbound.peer, inbound.epoch));
    }

    /// One message. An error closes the connection and says why.
    pub fn receive(&self, inbound: &mut Inbound, arrived: impl Into<Arrived>, now: Now) -> Result<(), String> {
        let Arrived { message, frame, room } = arrived.into();
        let raw = Raw { bytes: Arc::new(frame), room };
        match message {
            Message::Writes(batch) => self.receive_batch(inbound, batch, raw, now),
            Message::Ack(ack) => {
                self.receive_ack(inbound, &ack, now);
                Ok(())
            }
            Message::Heartbeat(beat) => self.receive_beat(inbound, &beat, now),
            Message::Echo { sent, clocks } => {
                self.hear_clocks(clocks, now);
                self.with_present(inbound, now, |table| table.peers[inbound.peer].liveness.echo(Duration::from_micros(sent), now))
            }
            Message::Request(request) => {
                self.check_vector(&request.vector, now)?;
                self.observe(request.vector.greatest(), now);
                self.with_present(inbound, now, |table| {
                    table.peers[inbound.peer].vector.join(&request.vector);
                    self.links.outbox(inbound.peer).serve(request);
                })
            }
            Message::Lines(lines) => self.receive_lines(inbound, &lines, raw, now),
            Message::Hello(_) | Message::Refused(_) => Err("a second HELLO".to_owned()),
        }
    }

    fn receive_batch(&self, inbound: &mut Inbound, batch: WriteBatch, raw: Raw, now: Now) -> Result<(), String> {
        if batch.origin != inbound.origin {
            return Err(format!("a batch of {}, on a connection of {}", batch.origin, inbound.origin));
        }
        self.check_stamp(batch.upto, now)?;
        batch.writes.iter().try_for_each(|write| check_lens(write.key, write.value))?;
        self.observe(batch.upto, now);
        #[cfg(feature = "testing")]
        let losing = if BrokenRule::SecondStamp.is_on() { self.losing(&batch) } else { Vec::new() };
        for write in batch.writes.iter() {
            let merged = self.store.merge_write(write, |version| self.covers(version));
            self.note_merged(write.version, merged);
        }
        self.pass(inbound, batch.after, batch.upto, raw, now);
        #[cfg(feature = "testing")]
        self.write_again(losing, now);
        Ok(())
    }

    /// For [`BrokenRule::SecondStamp`]: the writes of this node that the batch beats before enough members have them.
    #[cfg(feature = "testing")]
    fn losing(&self, batch: &WriteBatch) -> Vec<Entry> {
        let beaten = batch.writes.iter().filter_map(|write| {
            let own = self.store.entry(write.key).filter(|own| own.version().origin == self.origin && own.version() < write.version)?;
            (!self.acks.open_round(AckLevel::Majority).is_met(Written::at(own.version().stamp, Duration::ZERO))).then_some(own)
        });
        beaten.collect()
    }

    #[cfg(feature = "testing")]
    fn write_again(&self, losing: Vec<Entry>, now: Now) {
        for own in losing {
            let at_once = Deadline::within(Duration::ZERO);
            let again = |_: Option<&Entry>| Ok::<_, ()>(Update::again(&own));
            let _ = self.submit.write(own.key(), own.size(), now.elapsed, &at_once, again);
        }
    }

    /// The sender has passed `upto`, and nothing of it lies between `after` and `upto` but what was taken just now. It is acknowledged when the log has it: the
    /// hand-over and the advance are one step under the vector's lock (**I5**, **I7**).
    fn pass(&self, inbound: &mut Inbound, after: Stamp, upto: Stamp, raw: Raw, now: Now) {
        let had_gap = inbound.pending.has_gap();
        let outbox = &self.links.outbox(inbound.peer);
        {
            // The ack is put into the outbox under the same lock: between the two, another thread's end line could move the vector, and this ack would
            // say of writes that came through a third node that they came one by one.
            let mut coverage = self.coverage.advance();
            let closed = coverage.batch(&mut inbound.pending, after, upto) == Gap::Closed;
            let position = coverage.get(inbound.origin);
            outbox.received(inbound.origin, position);
            if closed {
                self.persistence.record(raw.bytes, None, raw.room);
                self.record_joined(inbound.origin, position);
            } else {
                self.persistence.record(raw.bytes, Some((inbound.origin, position)), raw.room);
            }
        }
        if inbound.pending.has_gap() != had_gap {
            self.tell_gap(inbound, now);
        }
    }

    /// Says whether batches of this connection are missing, wherever that may have changed. A connection that was replaced says nothing: the newer one has.
    fn tell_gap(&self, inbound: &Inbound, now: Now) {
        let _ = self.with_present(inbound, now, |table| table.peers[inbound.peer].catch_up.gap = inbound.pending.has_gap());
    }

    fn receive_ack(&self, inbound: &Inbound, ack: &Ack, now: Now) {
        self.hear_clocks(ack.clocks, now);
        if ack.origin != self.origin {
            return;
        }
        // Under the peer table's lock: a connection that was replaced may not overwrite what the newer one says.
        let table = self.peers.table();
        let is_present = table.peers[inbound.peer].epoch == inbound.epoch;
        let woken = is_present.then(|| self.acks.acknowledge(inbound.peer, ack, now.elapsed));
        drop(table);
        drop(woken);
    }

    fn receive_beat(&self, inbound: &mut Inbound, beat: &Heartbeat, now: Now) -> Result<(), String> {
        self.check_vector(&beat.vector, now)?;
        self.check_stamp(beat.upto, now)?;
        self.check_clock(inbound.peer, beat.clocks, beat.wall_ms, false, now)?;
        self.observe(beat.vector.greatest().max(beat.upto), now);
        self.hear_clocks(beat.clocks, now);
        self.learn_scan_order(beat.order);
        self.links.outbox(inbound.peer).echo(beat.sent);
        self.pass(inbound, beat.upto, beat.upto, Raw::default(), now);
        if BrokenRule::FoldAtOnce.is_on() {
            self.coverage.advance().proven(&beat.vector.folded().collect());
        }
        let vector = self.vector();
        let pause = 10 * self.config.heartbeat;
        let heard_len = self.links.traffic_with(inbound.peer).heard_len();
        let places = self.peers.table().peers[inbound.peer].vector.len() + beat.vector.len();
        // What it said first may be as long as what changes.
        let places_max = 2 * PLACES_MAX;
        if places > places_max {
            return Err(format!("{places} places in what it has said of its vector; {places_max} are the most"));
        }
        let diverged = self.with_present(inbound, now, |table| {
            table.heartbeat(inbound.peer, beat, heard_len, now);
            self.acks.covered(inbound.peer, beat.vector.get(self.origin));
            let QuiescentDigest { sum, keys, before_ms } = beat.settled?;
            let theirs = Digest { sum, keys };
            let QuiescentState { vector: settled, digest: ours, .. } =
                table.quiescent.as_ref().filter(|settled| settled.before_ms == before_ms)?;
            let comparable = *settled == vector && table.peers[inbound.peer].vector == vector && !table.is_taking() && table.serving == 0;
            let (ours, id) = (*ours, table.peers[inbound.peer].id);
            (comparable && ours != theirs && table.diverged(inbound.peer, pause, now)).then_some((id, ours, theirs))
        })?;
        if let Some((id, ours, theirs)) = diverged
            && let Some(more) = self.said.admit("diverged", id.0, now.elapsed)
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

    fn receive_lines(&self, inbound: &mut Inbound, lines: &[u8], raw: Raw, now: Now) -> Result<(), String> {
        if let Err(why) = self.take_lines(inbound, lines, raw, now) {
            // It would be the same dump again.
            let refused = self.with_present(inbound, now, |table| table.dump_refused(inbound.peer, self.config.peer_timeout, now))?;
            if let Some((id, pause)) = refused {
                log::error!("a dump from node {id} is refused: {why}; it is asked again in {pause:?}, and less and less often after that");
            }
            return Err(why);
        }
        let entries = inbound.dump.as_ref().map_or(0, |dump| dump.count());
        let heard_len = self.links.traffic_with(inbound.peer).heard_len();
        self.with_present(inbound, now, |table| {
            if table.transfer().is_some_and(|transfer| transfer.peer == inbound.peer) {
                table.dump_progressed(entries, heard_len, now);
            }
        })
    }

    /// What is in them. An error says what is wrong with the dump.
    fn take_lines(&self, inbound: &mut Inbound, lines: &[u8], raw: Raw, now: Now) -> Result<(), String> {
        let lines = dump::whole_lines(lines)?;
        let _merging = Merging::begin(self);
        self.give_up_if_late(inbound);
        let mut raw = Some(raw);
        // Never behind an end line, which is a message's last.
        if inbound.reader.has_ended() {
            inbound.reader = DumpReader::default();
        }
        for line in lines {
            match inbound.reader.line(line)? {
                Line::Header(header) => self.begin_dump(inbound, header, now)?,
                Line::Entry(entry) => {
                    let Some(dump) = &mut inbound.dump else { continue };
                    check_lens(entry.key(), entry.value())?;
                    dump.take(self, entry, now)?;
                }
                Line::End(end) => {
                    // Merged first, so that a snapshot that begins in between has them; and in the log before what the end line proves.
                    self.record_lines(inbound, raw.take());
                    if let Some(dump) = inbound.dump.take() {
                        self.end_dump(inbound, &dump, &end, now)?;
                    }
                }
            }
        }
        self.record_lines(inbound, raw);
        Ok(())
    }

    /// Entries are logged as they came; what healing changed was logged by itself.
    fn record_lines(&self, inbound: &Inbound, raw: Option<Raw>) {
        if let (Some(raw), Some(dump)) = (raw, &inbound.dump)
            && !dump.heals()
        {
            self.persistence.record(raw.bytes, None, raw.room);
        }
    }

    fn begin_dump(&self, inbound: &mut Inbound, header: Header, now: Now) -> Result<(), String> {
        if header.origin != inbound.origin {
            return Err(format!("a dump of {}, on a connection of {}", header.origin, inbound.origin));
        }
        if BrokenRule::SeenBeforeEnd.is_on() {
            self.coverage.advance().proven(&header.vector);
        }
        if !inbound.is_wanted(&header, &self.peers.table()) && !BrokenRule::MergeLate.is_on() {
            return Ok(());
        }
        inbound.dump = Some(Incoming::begin(self, header, false, now)?);
        Ok(())
    }

    /// A dump that was given up for its slowness, and comes after all, is worth nothing any more. The collector has not rested since: a delete may be forgotten of what its lines hold, and it would be back where
    /// no vector covers it.
    fn give_up_if_late(&self, inbound: &mut Inbound) {
        let is_late = inbound.dump.as_ref().is_some_and(|dump| !inbound.is_wanted(dump.header(), &self.peers.table()));
        if is_late && !BrokenRule::MergeLate.is_on() {
            inbound.dump = None;
        }
    }

    /// The end line. That of the dump that was asked for last proves what it can, and ends the request.
    fn end_dump(&self, inbound: &mut Inbound, dump: &Incoming, end: &EndLine, now: Now) -> Result<(), String> {
        dump.check(end)?;
        if !inbound.is_wanted(dump.header(), &self.peers.table()) {
            // Given up while its last lines were merged. It proves nothing.
            return Ok(());
        }
        let dropped = self.prove(inbound, dump, end);
        self.tell_gap(inbound, now);
        let (count, healed) = (dump.count(), dump.healed());
        let (took, id) = self.decide(now, |table| {
            let took = if inbound.is_wanted(dump.header(), table) { table.dump_taken(now) } else { None };
            table.peers[inbound.peer].catch_up.dump_accepted();
            (took.unwrap_or_default(), table.peers[inbound.peer].id)
        });
        if let Some(more) = self.said.admit("took a dump", id.0, now.elapsed) {
            let took = took.as_secs_f64();
            log::info!("took a dump from node {id}: {count} entries in {took:.3} s, {dropped} dropped, {healed} healed{more}");
        }
        Ok(())
    }

    /// What an end line proves: the drops, the horizon, and only then the vector. Returns how many entries were dropped.
    fn prove(&self, inbound: &mut Inbound, dump: &Incoming, end: &EndLine) -> usize {
        let vector = &dump.header().vector;
        let (proven, dropped) = match dump.header().kind {
            DumpKind::Full => (Proven { vector: vector.clone(), horizon: end.horizon.clone() }, dump.drop_absent(self)),
            DumpKind::Delta => (Proven { vector: self.without_live(vector), horizon: VersionVector::default() }, Vec::new()),
            // It was asked for at equal vectors. What the donor's has gained since, its batches bring, or another dump.
            DumpKind::Heal => return 0,
        };
        self.take_over(inbound, proven, &dropped);
        dropped.len() + dump.drop_late(self)
    }

    /// What a dump that drops nothing proves, without the origins whose own batches are coming in without a gap, the donor's included: they say the same in a moment,
    /// and vouch for every single write, which a dump cannot. (After drops all must be taken: a batch of a write whose tombstone is gone may still be under way.)
    fn without_live(&self, proven: &VersionVector) -> VersionVector {
        let table = self.peers.table();
        let live = |origin| table.peers.iter().any(|peer| peer.linked_in && !peer.catch_up.gap && peer.origin == Some(origin));
        proven.iter().filter(|(origin, _)| !live(*origin)).collect()
    }

    /// A dump's end line: its vector is seen, and the run of live batches that it joins. Of what it brings, only the donor's writes that came in live batches
    /// are vouched for.
    fn take_over(&self, inbound: &mut Inbound, proven: Proven, dropped: &[Entry]) {
        let mut table = self.peers.table();
        let mut coverage = self.coverage.advance();
        let position = proven.vector.get(inbound.origin);
        let live = inbound.pending.start_if_reaching(position).map(|start| (inbound.peer, start));
        self.join_proven(&mut table, &mut coverage, proven, dropped, live);
        drop(table);
        let closed = coverage.close(&mut inbound.pending) == Gap::Closed;
        let position = coverage.get(inbound.origin);
        self.links.outbox(inbound.peer).received(inbound.origin, position);
        if closed {
            self.record_joined(inbound.origin, position);
        } else {
            self.persistence.record(Arc::default(), Some((inbound.origin, position)), None);
        }
    }

    /// A run behind a gap was joined. The log says so in words of its own: the batches of the run may be in a log before the present one, of which a snapshot is being written that
    /// claims none of them.
    fn record_joined(&self, origin: Origin, position: Stamp) {
        let vector = [(origin, position)].into_iter().collect();
        let bytes = record::proven(&Proven { vector, horizon: VersionVector::default() });
        self.persistence.record(Arc::new(bytes), Some((origin, position)), None);
    }

    /// Whether the entry is the newest of its key here now.
    pub(super) fn merge(&self, entry: Entry) -> bool {
        let version = entry.version();
        let merged = self.store.merge(entry, |version| self.covers(version));
        self.note_merged(version, merged);
        merged == Merged::Won
    }

    /// What lost to a third node's write may just have come late.
    fn note_merged(&self, version: Version, merged: Merged) {
        if matches!(merged, Merged::Lost { winner } if winner.origin == self.origin && version.origin != self.origin) {
            self.conflicts_won.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes the peer table on behalf of a connection that has not been replaced.
    fn with_present<T>(&self, inbound: &Inbound, now: Now, change: impl FnOnce(&mut PeerTable) -> T) -> Result<T, String> {
        let present = self.decide(now, |table| (table.peers[inbound.peer].epoch == inbound.epoch).then(|| change(table)));
        present.ok_or_else(|| "a newer connection of the same node has replaced this one".to_owned())
    }
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
