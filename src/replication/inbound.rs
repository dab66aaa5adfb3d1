//! What a node does with what a peer sends.
//!
//! Owns the state of one incoming connection: the run of frames that is not joined to the vector yet, and the dump being taken. **I5** lives here: `seen` is
//! advanced only by a contiguous frame or by a dump's end line; on receipt the order is clock, merge, then the advance. Never sends: what there is to say goes into
//! the peer's outbox. Never submits to the replicator, so nothing echoes and no ring of nodes waits on itself.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{Now, Stamp};
use crate::dump::{self, Header, Kind, Line, Tally};
use crate::entry::{Entry, Key, Origin, SeenVector};
use crate::protocol::peer::{Ack, Beat, Frame, Hello, Message};
use crate::replication::control::{Control, offset_ms};
use crate::replication::mesh::Mesh;
use crate::replication::outbox::Losses;
use crate::store::{Digest, ENTRIES_BELIEVED, Merged};

/// Keys that are named in the log when two nodes are found to differ; beyond this they are only counted.
const NAMED_MAX: u64 = 20;

/// One incoming connection.
pub struct Inbound {
    peer: usize,
    epoch: u64,
    origin: Origin,
    /// Frames that were merged but do not join what was seen before: they hold all writes of the origin in (after, upto].
    run: Option<(Stamp, Stamp)>,
    dump: Option<Incoming>,
}

/// The dump that the peer is sending.
struct Incoming {
    header: Header,
    tally: Tally,
    /// A full dump's keys, to find those that it lacks.
    held: Option<HashSet<Key>>,
    /// Entries that healing changed.
    healed: u64,
}

/// What merging some entries did to writes that somebody waits for.
#[derive(Default)]
struct Lost {
    /// Writes of the sending peer that lost here.
    theirs: Losses,
    /// Writes of this node that lost to what came.
    ours: Vec<Stamp>,
}

impl Mesh {
    /// Begins an incoming connection whose HELLO was found good. A newer one replaces an older one of the same peer.
    pub fn accept(&self, peer: usize, hello: &Hello, now: Now) -> Inbound {
        self.clock.observe(hello.vector.greatest());
        self.heard(peer, now.elapsed);
        let mut inbound = Inbound { peer, epoch: 0, origin: hello.origin, run: None, dump: None };
        // What the peer wrote before this connection is a gap like any other.
        let position = hello.vector.get(hello.origin);
        let gap = {
            let mut seen = self.seen.write();
            self.outboxes[peer].know_origin(hello.origin, seen.get(hello.origin));
            inbound.join(&mut seen, position, position)
        };
        let event = self.decide(now, |control| {
            let (epoch, event) = control.accept(peer, hello, now);
            inbound.epoch = epoch;
            control.peers[peer].gap = gap;
            // Its acks, which come on this connection, begin anew.
            self.acks.reset(peer);
            event
        });
        if let Some(event) = event {
            log::error!("{event}");
        }
        self.outboxes[peer].redial();
        inbound
    }

    /// The connection has ended.
    pub fn closed(&self, inbound: &Inbound, now: Now) {
        self.decide(now, |control| {
            let peer = &mut control.peers[inbound.peer];
            if peer.epoch == inbound.epoch {
                peer.linked_in = false;
                peer.gap = false;
            }
        });
    }

    /// One message. An error closes the connection and says why.
    pub fn receive(&self, inbound: &mut Inbound, message: Message, now: Now) -> Result<(), String> {
        match message {
            Message::Frame(frame) => self.receive_frame(inbound, frame, now),
            Message::Ack(ack) => self.receive_ack(inbound, &ack, now),
            Message::Beat(beat) => self.receive_beat(inbound, &beat, now),
            Message::Echo { sent } => {
                self.with_present(inbound, now, |control| control.echoed(inbound.peer, Duration::from_micros(sent), now))
            }
            Message::Request(request) => {
                self.check_stamp(request.vector.greatest(), now)?;
                self.clock.observe(request.vector.greatest());
                self.with_present(inbound, now, |control| {
                    control.peers[inbound.peer].vector.join(&request.vector);
                    self.outboxes[inbound.peer].serve(request);
                })
            }
            Message::Lines(lines) => self.receive_lines(inbound, &lines, now),
            Message::Hello(_) | Message::Refused(_) => Err("a second HELLO".to_owned()),
        }
    }

    fn receive_frame(&self, inbound: &mut Inbound, frame: Frame, now: Now) -> Result<(), String> {
        if frame.origin != inbound.origin {
            return Err(format!("a frame of {}, on a connection of {}", frame.origin, inbound.origin));
        }
        self.check_stamp(frame.upto, now)?;
        self.clock.observe(frame.upto);
        let mut lost = Lost::default();
        for write in frame.writes {
            self.merge(inbound.origin, write, &mut lost);
        }
        self.pass(inbound, frame.after, frame.upto, &lost, now);
        Ok(())
    }

    /// The sender has passed `upto`, and nothing of it lies between `after` and `upto` but what was merged just now.
    fn pass(&self, inbound: &mut Inbound, after: Stamp, upto: Stamp, lost: &Lost, now: Now) {
        let had_gap = inbound.run.is_some();
        let outbox = &self.outboxes[inbound.peer];
        let gap = {
            // The ack is put into the outbox under the same lock: between the two, another thread's end line could move the vector, and this ack would
            // vouch for writes that came through a third node.
            let mut seen = self.seen.write();
            let gap = inbound.join(&mut seen, after, upto);
            let position = seen.get(inbound.origin);
            if !self.is_open() {
                // A node that is catching up may lack the winners that a write has to be held against.
                outbox.disclaim(inbound.origin, position);
            }
            outbox.acknowledge(inbound.origin, position, &lost.theirs);
            gap
        };
        // After the ack, so that a peer hears that its write won before it hears the one that this node now stamps above it.
        self.acks.note_beaten(&lost.ours);
        if gap != had_gap {
            let _ = self.with_present(inbound, now, |control| control.peers[inbound.peer].gap = gap);
        }
    }

    fn receive_ack(&self, inbound: &Inbound, ack: &Ack, now: Now) -> Result<(), String> {
        self.check_stamp(ack.winner.max(ack.from), now)?;
        // Above the winners, so that the session's next stamp beats them; above `from`, below which this peer vouches for nothing.
        self.clock.observe(ack.winner.max(ack.from));
        if ack.origin != self.origin {
            return Ok(());
        }
        // Under the control lock: a connection that was replaced may not overwrite what the newer one says.
        let control = self.control.lock();
        if control.peers[inbound.peer].epoch == inbound.epoch {
            self.acks.acknowledge(inbound.peer, ack.from, ack.upto, &ack.beaten);
        }
        Ok(())
    }

    fn receive_beat(&self, inbound: &mut Inbound, beat: &Beat, now: Now) -> Result<(), String> {
        self.check_stamp(beat.vector.greatest().max(beat.upto), now)?;
        self.clock.observe(beat.vector.greatest().max(beat.upto));
        let ahead_ms = offset_ms(beat.wall_ms, now);
        if ahead_ms > self.config.clock_offset_max.as_millis() as i64 {
            return Err(format!("its clock has gone {ahead_ms} ms ahead of this node's"));
        }
        self.outboxes[inbound.peer].echo(beat.sent);
        self.pass(inbound, beat.upto, beat.upto, &Lost::default(), now);
        let vector = self.vector();
        let pause = 10 * self.config.heartbeat;
        let diverged = self.with_present(inbound, now, |control| {
            let peer = &mut control.peers[inbound.peer];
            peer.vector.join(&beat.vector);
            peer.open = beat.open;
            peer.clock_offset_ms = offset_ms(beat.wall_ms, now);
            let theirs = beat.settled.map(|settled| Digest { sum: settled.sum, keys: settled.keys })?;
            let (settled, ours) = control.settled.as_ref()?;
            let comparable =
                *settled == vector && control.peers[inbound.peer].vector == vector && control.taking.is_none() && control.serving == 0;
            let (ours, id) = (*ours, control.peers[inbound.peer].id);
            (comparable && ours != theirs && control.diverged(inbound.peer, pause, now)).then_some((id, ours, theirs))
        })?;
        if let Some((id, ours, theirs)) = diverged {
            log::error!(
                "DIVERGED from node {id}: equal vectors, but {} keys with digest {:016x} here and {} with {:016x} there; healing by merging both ways",
                ours.keys,
                ours.sum,
                theirs.keys,
                theirs.sum
            );
        }
        Ok(())
    }

    fn receive_lines(&self, inbound: &mut Inbound, lines: &[u8], now: Now) -> Result<(), String> {
        let mut lost = Lost::default();
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            return Err("a dump line that is cut off".to_owned());
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            let line = &lines[std::mem::replace(&mut start, end + 1)..end];
            match dump::parse_line(line)? {
                Line::Header(header) => self.begin_dump(inbound, header, now)?,
                Line::Entry(entry) => self.take_entry(inbound, entry, &mut lost, now)?,
                Line::End(end) => {
                    self.note_losses(inbound, &std::mem::take(&mut lost));
                    self.end_dump(inbound, &end, now)?;
                }
            }
        }
        self.note_losses(inbound, &lost);
        let entries = inbound.dump.as_ref().map_or(0, |dump| dump.tally.count());
        self.with_present(inbound, now, |control| {
            if control.taking.as_ref().is_some_and(|taking| taking.peer == inbound.peer) {
                control.dump_progressed(entries, now);
            }
        })
    }

    fn begin_dump(&self, inbound: &mut Inbound, header: Header, now: Now) -> Result<(), String> {
        if inbound.dump.is_some() {
            return Err("a dump within a dump".to_owned());
        }
        if header.origin != inbound.origin {
            return Err(format!("a dump of {}, on a connection of {}", header.origin, inbound.origin));
        }
        self.check_stamp(header.vector.greatest(), now)?;
        self.clock.observe(header.vector.greatest());
        if self.store.is_empty() {
            self.store.reserve(header.entries);
        }
        let held = (header.kind == Kind::Full).then(|| HashSet::with_capacity(header.entries.min(ENTRIES_BELIEVED) as usize));
        inbound.dump = Some(Incoming { header, tally: Tally::default(), held, healed: 0 });
        Ok(())
    }

    fn take_entry(&self, inbound: &mut Inbound, entry: Entry, lost: &mut Lost, now: Now) -> Result<(), String> {
        let origin = inbound.origin;
        let dump = inbound.dump.as_mut().ok_or("a dump line outside of a dump")?;
        dump.tally.add(&entry);
        if let Some(held) = &mut dump.held {
            held.insert(Key::clone(&entry.key));
        }
        self.check_stamp(entry.version.stamp, now)?;
        self.clock.observe(entry.version.stamp);
        if dump.header.kind != Kind::Heal {
            self.merge(origin, entry, lost);
            return Ok(());
        }
        let key = Key::clone(&entry.key);
        if self.store.heal(entry) {
            dump.healed += 1;
            if dump.healed <= NAMED_MAX {
                log::error!("healed key \"{}\": it was older here, or missing", key.escape_ascii());
            }
        }
        Ok(())
    }

    /// The end line: the drops, the horizon, and only then the vector.
    fn end_dump(&self, inbound: &mut Inbound, end: &dump::End, now: Now) -> Result<(), String> {
        let dump = inbound.dump.take().ok_or("the end of a dump that never began")?;
        dump.tally.check(end)?;
        let (peer, epoch, request) = (inbound.peer, inbound.epoch, dump.header.request);
        let is_wanted = |control: &Control| {
            control.taking.as_ref().is_some_and(|taking| taking.peer == peer && taking.epoch == epoch && Some(taking.id) == request)
        };
        if !is_wanted(&self.control.lock()) {
            // Given up for its slowness, and come after all. Its entries are merged, which is always right; it proves nothing more.
            return Ok(());
        }
        let dropped = dump.held.as_ref().map_or(0, |held| self.drop_absent(held, &dump.header.vector));
        if dump.header.kind == Kind::Full {
            self.control.lock().horizon.join(&end.horizon);
        }
        let vector = &dump.header.vector;
        let proven = if dump.header.kind == Kind::Full { vector.clone() } else { self.without_live(inbound, vector) };
        let gap = self.take_over(inbound, proven);
        let count = dump.tally.count();
        let (took, id) = self.decide(now, |control| {
            control.peers[inbound.peer].gap = gap;
            let took = if is_wanted(control) { control.dump_ended(now) } else { None };
            (took.unwrap_or_default(), control.peers[inbound.peer].id)
        });
        log::info!("took a dump from node {id}: {count} entries in {:.3} s, {dropped} dropped, {} healed", took.as_secs_f64(), dump.healed);
        Ok(())
    }

    /// Drops what the donor has proved deleted: what its full dump lacks although its vector covers it.
    fn drop_absent(&self, held: &HashSet<Key>, donor: &SeenVector) -> usize {
        let absent = |entry: &Entry| !held.contains(&entry.key) && donor.covers(entry.version);
        (0..self.store.shards_len()).map(|shard| self.store.remove(shard, absent).len()).sum()
    }

    /// What a dump that drops nothing proves, without the origins whose own frames are coming in without a gap: they say the same in a moment, and name the
    /// writes that lost, which a third node cannot. (After drops all must be taken: a frame of a write whose tombstone is gone may still be under way.)
    fn without_live(&self, inbound: &Inbound, proven: &SeenVector) -> SeenVector {
        let control = self.control.lock();
        let live = |origin| control.peers.iter().any(|peer| peer.linked_in && !peer.gap && peer.origin == Some(origin));
        proven.iter().filter(|(origin, _)| *origin == inbound.origin || !live(*origin)).collect()
    }

    /// A dump's end line: its vector is seen, and the run of live frames that it joins. Returns whether a gap is left.
    ///
    /// A dump hides writes that were superseded, by a winner or by their own origin, before it was made. So what it brings is not vouched for: only the
    /// donor's writes that came in live frames are, and none of a third node.
    fn take_over(&self, inbound: &mut Inbound, proven: SeenVector) -> bool {
        let mut seen = self.seen.write();
        let position = proven.get(inbound.origin);
        let run = inbound.run.filter(|(_, end)| *end >= position);
        seen.join(&proven);
        for (peer, outbox) in self.outboxes.iter().enumerate() {
            match (outbox.known_origin(), run) {
                (Some(origin), Some((start, _))) if peer == inbound.peer => outbox.disclaim(origin, start),
                (Some(origin), _) => outbox.disclaim(origin, seen.get(origin)),
                (None, _) => {}
            }
        }
        let gap = inbound.join(&mut seen, Stamp::ZERO, Stamp::ZERO);
        let position = seen.get(inbound.origin);
        let outbox = &self.outboxes[inbound.peer];
        if !self.is_open() {
            outbox.disclaim(inbound.origin, position);
        }
        outbox.acknowledge(inbound.origin, position, &Losses::default());
        gap
    }

    fn merge(&self, sender: Origin, entry: Entry, lost: &mut Lost) {
        let version = entry.version;
        match self.store.merge(entry, |version| self.covers(version)) {
            // A write that its own origin has superseded did not lose.
            Merged::Lost { winner } if winner.origin != version.origin => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                if version.origin == sender {
                    lost.theirs.add(version.stamp, winner.stamp);
                }
            }
            Merged::Won { replaced: Some(replaced) } if replaced.origin == self.origin => lost.ours.push(replaced.stamp),
            _ => {}
        }
    }

    fn note_losses(&self, inbound: &Inbound, lost: &Lost) {
        if !lost.theirs.stamps.is_empty() {
            self.outboxes[inbound.peer].acknowledge(inbound.origin, Stamp::ZERO, &lost.theirs);
        }
        self.acks.note_beaten(&lost.ours);
    }

    /// Changes the control state on behalf of a connection that has not been replaced.
    fn with_present<T>(&self, inbound: &Inbound, now: Now, change: impl FnOnce(&mut Control) -> T) -> Result<T, String> {
        let present = self.decide(now, |control| (control.peers[inbound.peer].epoch == inbound.epoch).then(|| change(control)));
        present.ok_or_else(|| "a newer connection of the same node has replaced this one".to_owned())
    }
}

impl Inbound {
    /// Everything of the origin in (after, upto] has been merged. Advances `seen` as far as that is contiguous, and remembers the rest; whether there is
    /// a gap.
    fn join(&mut self, seen: &mut SeenVector, after: Stamp, upto: Stamp) -> bool {
        if seen.get(self.origin) >= after {
            seen.advance(self.origin, upto);
        } else {
            self.run = match self.run {
                Some((start, end)) if end >= after => Some((start, end.max(upto))),
                _ => Some((after, upto)),
            };
        }
        if let Some((start, end)) = self.run
            && seen.get(self.origin) >= start
        {
            seen.advance(self.origin, end);
            self.run = None;
        }
        self.run.is_some()
    }
}
