//! The messages between peers, and their bytes.
//!
//! Write batches and acks, of which there are many, are binary. Everything else is JSON, so that a
//! capture of the wire can be read. Each message travels in a frame ([`crate::wire::frame`]).
//!
//! # Protocols
//!
//! A connection uses the greatest protocol that both nodes speak. A build speaks a range of
//! protocols, which its HELLO names. So nodes of different builds meet, and a mesh is upgraded one
//! node at a time.
//!
//! | protocol | new in it |
//! |---|---|
//! | 3 | the oldest that is spoken; the only one of builds that name no range |
//! | 4 | acks and echoes carry the sender's clocks; an ack names no superseded writes, no winner |
//! | 5 | a vector may have an entry for all incarnations of a node |
//!
//! HELLO, what proves it ([`crate::wire::challenge`]) and refusal are the same in all protocols:
//! they come before the agreement. So are write
//! batches and dump lines, since their bytes are shared by all links and the log. A later format of
//! these is named by the kind of a batch, or by the header of a dump, not by the connection. No
//! node writes one before all members speak the protocol that brings it (`replication`): until then
//! the old build can still be put back.
//!
//! The meaning of the messages is explained in `replication`.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::data::clock::{Clocks, Stamp};
use crate::data::entry::{Entry, EntryRef, Expiry};
use crate::data::key_order::Order;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::wire::bytes::Limits;
use crate::wire::challenge::{AuthenticatedHello, Challenge, MAC_LEN, Mac, Nonce};
use crate::wire::frame::{self, HEAD_LEN, seal};
use crate::wire::quoting::told;

/// The number of a peer protocol. Raised when a node that knows only earlier ones could
/// misunderstand a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Protocol(u16);

impl Protocol {
    /// The oldest protocol, and the only one of builds whose HELLO names no range. A member that
    /// was never heard of is taken to speak this.
    pub const OLDEST: Protocol = Protocol(3);
    /// Since this one acks and echoes carry the clocks of their sender, and an ack names no
    /// superseded writes and no winner.
    pub const CLOCKS: Protocol = Protocol(4);
    /// Since this one a vector may have an entry for all incarnations of a node.
    pub const FOLDED: Protocol = Protocol(5);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The peer protocols that a build speaks: all from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    pub min: Protocol,
    pub max: Protocol,
}

impl Protocols {
    /// The protocols that this build speaks.
    pub const OURS: Protocols = Protocols { min: Protocol::OLDEST, max: Protocol::FOLDED };

    /// Returns the greatest protocol that both speak.
    pub fn common(self, other: Protocols) -> Option<Protocol> {
        let greatest = self.max.min(other.max);
        (greatest >= self.min.max(other.min)).then_some(greatest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { self.min.fmt(f) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// Bytes of a message, at most, whatever the limits of its receiver are: the largest legal value
/// fits twice, as JSON may escape every byte. Beyond this, the link is closed.
pub const MESSAGE_LEN_MAX: usize = 320 << 20;

/// Bytes of a message of a peer that has not sent a valid HELLO yet, at most.
pub const HELLO_LEN_MAX: usize = 1 << 20;

/// One message between peers.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first message both ways, unless the two prove who they are.
    Hello(Hello),
    /// A refusal in the place of a HELLO, with the reason. The connection closes after it.
    Refused(String),
    /// The first message both ways, where the two prove who they are.
    Challenge(Challenge),
    /// The answer to a challenge, and the answer to that.
    AuthenticatedHello(AuthenticatedHello),
    Writes(WriteBatch),
    Ack(Ack),
    Heartbeat(Heartbeat),
    /// The answer to a heartbeat, by the thread that applies. `sent` is that of the heartbeat.
    Echo {
        sent: u64,
        clocks: Option<Clocks>,
    },
    /// A request for a dump.
    Request(DumpRequest),
    /// Whole lines of the dump that was asked for last; see [`crate::wire::dump`]. May be empty:
    /// "still scanning".
    Lines(Vec<u8>),
}

/// The first message: which node this is, and how far it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub cluster: String,
    /// The oldest protocol that the sender speaks. Builds that know of no range speak one, and take
    /// no other number here.
    pub protocol: Protocol,
    /// All protocols that the sender speaks. `None` from a build that knows of no range; see
    /// [`Hello::spoken`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Protocols>,
    pub node: NodeId,
    pub origin: Origin,
    /// The members that the sender is configured with, itself included.
    pub members: Vec<NodeId>,
    pub wall_ms: u64,
    /// The clocks of the sender; `None` from a build that sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<Clocks>,
    /// The sender's acks wait for its disk.
    pub durable: bool,
    pub vector: VersionVector,
    /// The order that the sender scans in, if it knows of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The longest key and value that the sender takes; `None` from a build that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The challenge of a dialler that proves who it is to whoever can check that, and begins with
    /// a HELLO for the sake of those that cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Nonce>,
}

impl Hello {
    /// The bytes of the HELLO behind its kind, to be proven.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        put_json(&mut json, self);
        json
    }

    /// Reads what [`Hello::to_json`] has written. An error says what is malformed.
    pub fn from_json(json: &[u8]) -> Result<Hello, String> {
        from_json(json)
    }

    /// Returns the protocols that the sender speaks.
    pub fn spoken(&self) -> Protocols {
        self.protocols.unwrap_or(Protocols { min: self.protocol, max: self.protocol })
    }
}

/// A write batch: some writes of one origin, in stamp order.
///
/// Invariant: `after` < stamps, strictly rising, <= `upto`; and these are *all* writes of the
/// origin in (after, upto].
#[derive(Clone, Debug, PartialEq)]
pub struct WriteBatch {
    pub origin: Origin,
    pub after: Stamp,
    pub upto: Stamp,
    pub writes: BatchWrites,
}

/// The writes of a batch, in their encoding. They are copied when they are merged, and not before.
#[derive(Clone, PartialEq)]
pub struct BatchWrites {
    origin: Origin,
    /// Invariant: bytes that [`put_write`] has appended, or others that decode as well.
    bytes: Vec<u8>,
}

impl BatchWrites {
    /// Encodes writes of one origin.
    pub fn of(origin: Origin, writes: &[Entry]) -> BatchWrites {
        let mut bytes = Vec::new();
        writes.iter().for_each(|write| put_write(&mut bytes, write));
        BatchWrites { origin, bytes }
    }

    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        let mut fields = Fields(&self.bytes);
        // All of them were decoded once, without an error.
        std::iter::from_fn(move || if fields.0.is_empty() { None } else { fields.write(self.origin).ok() })
    }
}

impl fmt::Debug for BatchWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(EntryRef::to_entry)).finish()
    }
}

/// An acknowledgement. The sender has every write of `origin` up to `upto`, or what superseded it:
/// on its disk if it is configured so, and as a node that serves clients. It has received those up
/// to `received`, and those above `from` one by one, in batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    pub origin: Origin,
    pub from: Stamp,
    pub upto: Stamp,
    pub received: Stamp,
    /// The clocks of the sender when it was sent; `None` from a build that sends none.
    pub clocks: Option<Clocks>,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When it was sent, in microseconds of the sender's elapsed time. Comes back in the echo.
    pub sent: u64,
    pub wall_ms: u64,
    /// The clocks of the sender, as in its HELLO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<Clocks>,
    /// The sender serves clients. While it catches up its acks claim nothing.
    pub open: bool,
    /// Every batch of the sender up to here has been sent on this connection before this heartbeat,
    /// or was dropped by an overflow.
    pub upto: Stamp,
    /// The entries of the sender's vector that have changed since the last heartbeat of this
    /// connection, or since its HELLO.
    pub vector: VersionVector,
    /// The digest of the sender's data, if its vector has not changed for two heartbeats.
    pub settled: Option<QuiescentDigest>,
    /// Bytes that the sender has read of the receiver's present connection to it, behind the HELLO;
    /// 0 from a build that does not send it.
    #[serde(default)]
    pub taken: u64,
    /// All of the vector that was sent on this connection so far is on the sender's disk once
    /// `durable_mark` is at least this. Both are 0 where nothing waits for the disk, or nothing is
    /// known.
    #[serde(default)]
    pub mark: u64,
    #[serde(default)]
    pub durable_mark: u64,
    /// The order that the sender scans in, which may have changed since its HELLO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// A digest of quiescent data, to compare between nodes whose vectors are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuiescentDigest {
    /// The sum, as 16 hexadecimal digits: JSON numbers lose bits above 2^53.
    #[serde(with = "hexadecimal")]
    pub sum: u64,
    pub keys: u64,
    /// Values that expire before this are not in it; milliseconds since 1970.
    pub before_ms: u64,
}

/// A request for what `vector` does not cover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DumpRequest {
    /// The number of the request, which comes back in the dump's header.
    pub id: u64,
    pub vector: VersionVector,
    /// Asks for everything, to be merged without dropping or skipping: the two nodes have diverged.
    pub heal: bool,
}

const HELLO: u8 = 1;
const REFUSED: u8 = 2;
pub const WRITE_BATCH: u8 = 3;
const ACK: u8 = 4;
const BEAT: u8 = 5;
const ECHO: u8 = 6;
const REQUEST: u8 = 7;
pub const LINES: u8 = 8;
const CHALLENGE: u8 = 9;
const AUTHENTICATED_HELLO: u8 = 10;

const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;
/// A value with its expiry in front, in milliseconds since 1970.
const EXPIRING: u8 = 2;

impl Message {
    /// Appends the message in its frame, as the protocol of its connection encodes it.
    pub fn encode(&self, out: &mut Vec<u8>, protocol: Protocol) {
        match self {
            Message::Hello(hello) => json(out, HELLO, hello),
            Message::Refused(reason) => json(out, REFUSED, reason),
            Message::Challenge(challenge) => json(out, CHALLENGE, challenge),
            Message::AuthenticatedHello(AuthenticatedHello { mac, json }) => seal(out, AUTHENTICATED_HELLO, |out| {
                out.extend_from_slice(mac.bytes());
                out.extend_from_slice(json);
            }),
            Message::Writes(WriteBatch { origin, after, upto, writes }) => seal(out, WRITE_BATCH, |out| {
                put_batch(out, *origin, *after, *upto, writes.iter().count());
                out.extend_from_slice(&writes.bytes);
            }),
            Message::Ack(ack) => seal(out, ACK, |out| {
                put_origin(out, ack.origin);
                for stamp in [ack.from, ack.upto, ack.received] {
                    put_stamp(out, stamp);
                }
                if protocol < Protocol::CLOCKS {
                    // An old build expects a winner and the writes that lost here: none.
                    put_stamp(out, Stamp::ZERO);
                    put_len(out, 0);
                } else {
                    put_clocks(out, ack.clocks);
                }
            }),
            Message::Heartbeat(beat) => json(out, BEAT, beat),
            Message::Echo { sent, clocks } => seal(out, ECHO, |out| {
                out.extend_from_slice(&sent.to_le_bytes());
                if protocol >= Protocol::CLOCKS {
                    put_clocks(out, *clocks);
                }
            }),
            Message::Request(request) => json(out, REQUEST, request),
            Message::Lines(lines) => seal(out, LINES, |out| out.extend_from_slice(lines)),
        }
    }

    /// Decodes a body whose checksum was right, as the protocol of its connection encodes it. An
    /// error says what is malformed.
    pub fn decode(body: &[u8], protocol: Protocol) -> Result<Message, String> {
        let (kind, payload) = body.split_first().ok_or("an empty message")?;
        match *kind {
            HELLO => from_json(payload).map(Message::Hello),
            REFUSED => from_json(payload).map(Message::Refused),
            WRITE_BATCH => decode_batch(payload).map(Message::Writes),
            ACK => decode_ack(payload, protocol).map(Message::Ack),
            BEAT => from_json(payload).map(Message::Heartbeat),
            ECHO => {
                let mut fields = Fields(payload);
                let sent = fields.number()?;
                let clocks = if protocol >= Protocol::CLOCKS { fields.clocks()? } else { None };
                fields.end()?;
                Ok(Message::Echo { sent, clocks })
            }
            REQUEST => from_json(payload).map(Message::Request),
            LINES => Ok(Message::Lines(payload.to_vec())),
            CHALLENGE => from_json(payload).map(Message::Challenge),
            AUTHENTICATED_HELLO => {
                let (mac, json) = payload.split_first_chunk::<MAC_LEN>().ok_or("a message that ends too early")?;
                Ok(Message::AuthenticatedHello(AuthenticatedHello { mac: Mac::of(*mac), json: json.to_vec() }))
            }
            other => Err(format!("a message of unknown kind {other}")),
        }
    }
}

/// Appends a batch in its frame. Beside [`Message::encode`], because the replicator encodes writes
/// that it does not own. The bytes go to every peer as they are.
pub fn encode_batch(out: &mut Vec<u8>, origin: Origin, after: Stamp, upto: Stamp, writes: &[Entry]) {
    seal(out, WRITE_BATCH, |out| {
        put_batch(out, origin, after, upto, writes.len());
        writes.iter().for_each(|write| put_write(out, write));
    });
}

/// Appends the fields in front of a batch's writes.
fn put_batch(out: &mut Vec<u8>, origin: Origin, after: Stamp, upto: Stamp, count: usize) {
    put_origin(out, origin);
    put_stamp(out, after);
    put_stamp(out, upto);
    put_len(out, count);
}

fn put_write(out: &mut Vec<u8>, write: &Entry) {
    put_stamp(out, write.version().stamp);
    out.push(match (write.value(), write.expires()) {
        (None, _) => TOMBSTONE,
        (Some(_), None) => VALUE,
        (Some(_), Some(_)) => EXPIRING,
    });
    put_len(out, write.key().len());
    out.extend_from_slice(write.key());
    if let Some(value) = write.value() {
        if let Some(expires) = write.expires() {
            out.extend_from_slice(&expires.wall_ms().to_le_bytes());
        }
        put_len(out, value.len());
        out.extend_from_slice(value);
    }
}

/// Reads one message of at most `len_max` bytes. `Ok(None)` is a clean close between messages; a
/// malformed one is `InvalidData` with what is wrong. `frame` is scratch space, kept by the caller
/// from message to message. It holds the message as it came.
pub fn read_message(reader: &mut impl Read, frame: &mut Vec<u8>, len_max: usize, protocol: Protocol) -> io::Result<Option<Message>> {
    if !frame::read(reader, frame, len_max)? {
        return Ok(None);
    }
    Message::decode(&frame[HEAD_LEN..], protocol).map(Some).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}

fn json(out: &mut Vec<u8>, kind: u8, value: &impl Serialize) {
    seal(out, kind, |out| put_json(out, value));
}

fn put_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Cannot fail: these types have string keys and no failing serializer, and a Vec takes every
    // write.
    serde_json::to_writer(out, value).expect("peer messages are plain JSON");
}

fn from_json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("a message that is not the JSON expected: {}", told(&error.to_string())))
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    out.extend_from_slice(&stamp.to_bits().to_le_bytes());
}

/// Appends clocks; zeros if there are none.
fn put_clocks(out: &mut Vec<u8>, clocks: Option<Clocks>) {
    let Clocks { reference_us, stamp_us } = clocks.unwrap_or_default();
    out.extend_from_slice(&reference_us.to_le_bytes());
    out.extend_from_slice(&stamp_us.to_le_bytes());
}

fn put_origin(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(&origin.node.0.to_le_bytes());
    out.extend_from_slice(&origin.nonce.to_le_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Decodes what follows the kind of a batch, on the wire or in the log.
pub fn decode_batch(payload: &[u8]) -> Result<WriteBatch, String> {
    let mut fields = Fields(payload);
    let origin = fields.origin()?;
    let (after, upto) = (fields.stamp()?, fields.stamp()?);
    let count = fields.len()?;
    let bytes = fields.0;
    let mut last = after;
    for _ in 0..count {
        let EntryRef { version: Version { stamp, .. }, .. } = fields.write(origin)?;
        if stamp <= last || stamp > upto {
            return Err(format!("a batch from {after} to {upto} with stamp {stamp} after {last}"));
        }
        last = stamp;
    }
    fields.end()?;
    Ok(WriteBatch { origin, after, upto, writes: BatchWrites { origin, bytes: bytes.to_vec() } })
}

fn decode_ack(payload: &[u8], protocol: Protocol) -> Result<Ack, String> {
    let mut fields = Fields(payload);
    let origin = fields.origin()?;
    let (from, upto, received) = (fields.stamp()?, fields.stamp()?, fields.stamp()?);
    let clocks = if protocol < Protocol::CLOCKS {
        let _winner = fields.stamp()?;
        let superseded = fields.len()?;
        fields.bytes(superseded.saturating_mul(8))?;
        None
    } else {
        fields.clocks()?
    };
    fields.end()?;
    Ok(Ack { origin, from, upto, received, clocks })
}

/// The rest of a payload, which is decoded field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or("a message that ends too early")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or("a message that ends too early")?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn number(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn stamp(&mut self) -> Result<Stamp, String> {
        self.number().map(Stamp::from_bits)
    }

    fn clocks(&mut self) -> Result<Option<Clocks>, String> {
        let clocks = Clocks { reference_us: self.number()?, stamp_us: self.number()? };
        Ok((clocks != Clocks::default()).then_some(clocks))
    }

    fn expiry(&mut self) -> Result<Expiry, String> {
        match self.number()? {
            0 => Err("an expiry of 0".to_owned()),
            wall_ms => Ok(Expiry::from_wall_ms(wall_ms)),
        }
    }

    fn len(&mut self) -> Result<usize, String> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn origin(&mut self) -> Result<Origin, String> {
        let node = NodeId(u16::from_le_bytes(self.array()?));
        Ok(Origin { node, nonce: self.number()? })
    }

    fn write(&mut self, origin: Origin) -> Result<EntryRef<'a>, String> {
        let stamp = self.stamp()?;
        let kind = self.bytes(1)?[0];
        let len = self.len()?;
        let key = self.bytes(len)?;
        let expires = if kind == EXPIRING { Some(self.expiry()?) } else { None };
        let value = match kind {
            TOMBSTONE => None,
            VALUE | EXPIRING => {
                let len = self.len()?;
                Some(self.bytes(len)?)
            }
            other => return Err(format!("a write of unknown kind {other}")),
        };
        Ok(EntryRef { key, value, expires, version: Version { stamp, origin } })
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("a message with {} bytes too many", self.0.len())) }
    }
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::key_order::OrderKey;
    use proptest::prelude::*;

    fn any_origin() -> impl Strategy<Value = Origin> {
        (1..8u16, any::<u64>()).prop_map(|(node, nonce)| Origin { node: NodeId(node), nonce })
    }

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        any::<u64>().prop_map(Stamp::from_bits)
    }

    fn any_vector() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((any_origin(), any_stamp()), 0..4).prop_map(|pairs| pairs.into_iter().collect())
    }

    fn any_clocks() -> impl Strategy<Value = Option<Clocks>> {
        prop::option::of((1..u64::MAX, any::<u64>()).prop_map(|(reference_us, stamp_us)| Clocks { reference_us, stamp_us }))
    }

    fn any_protocols() -> impl Strategy<Value = Protocols> {
        (any::<u16>(), any::<u16>()).prop_map(|(min, max)| Protocols { min: Protocol(min), max: Protocol(max) })
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..20)
    }

    fn any_batch() -> impl Strategy<Value = WriteBatch> {
        (
            any_origin(),
            0..1u64 << 40,
            prop::collection::vec((1..1000u64, any_bytes(), prop::option::of(any_bytes()), prop::option::of(1..u64::MAX)), 0..5),
        )
            .prop_map(|(origin, after, writes)| {
                let mut stamp = after;
                let entries: Vec<Entry> = writes
                    .into_iter()
                    .map(|(step, key, value, expires)| {
                        stamp += step;
                        let expires = expires.filter(|_| value.is_some()).map(Expiry::from_wall_ms);
                        Entry::new(&key, value.as_deref(), expires, Version { stamp: Stamp::from_bits(stamp), origin })
                    })
                    .collect();
                let writes = BatchWrites::of(origin, &entries);
                assert!(writes.iter().map(EntryRef::to_entry).eq(entries));
                WriteBatch { origin, after: Stamp::from_bits(after), upto: Stamp::from_bits(stamp + 3), writes }
            })
    }

    fn any_order() -> impl Strategy<Value = Option<Order>> {
        let order = |(since_ms, first, second)| Order { since_ms, key: OrderKey::from_halves([first, second]) };
        prop::option::of((any::<u64>(), any::<u64>(), any::<u64>()).prop_map(order))
    }

    fn any_challenge() -> impl Strategy<Value = Challenge> {
        (any::<u16>(), any::<[u8; MAC_LEN]>(), prop::collection::vec(any::<[u8; MAC_LEN]>(), 0..3)).prop_map(|(node, nonce, macs)| {
            Challenge { node: NodeId(node), nonce: Nonce::of(nonce), macs: macs.into_iter().map(Mac::of).collect() }
        })
    }

    fn any_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            any_challenge().prop_map(Message::Challenge),
            (any::<[u8; MAC_LEN]>(), any_bytes())
                .prop_map(|(mac, json)| Message::AuthenticatedHello(AuthenticatedHello { mac: Mac::of(mac), json })),
            (
                any::<String>(),
                any::<u16>(),
                prop::option::of(any_protocols()),
                any_origin(),
                any::<u64>(),
                any_clocks(),
                any_vector(),
                any_order(),
                prop::option::of(any::<[u8; MAC_LEN]>())
            )
                .prop_map(|(cluster, protocol, protocols, origin, wall_ms, clocks, vector, order, challenge)| {
                    Message::Hello(Hello {
                        cluster,
                        protocol: Protocol(protocol),
                        protocols,
                        node: origin.node,
                        origin,
                        members: vec![origin.node],
                        wall_ms,
                        clocks,
                        durable: protocol % 2 == 0,
                        vector,
                        order,
                        limits: challenge.map(|_| Limits { key_len_max: 1, value_len_max: wall_ms as usize }),
                        challenge: challenge.map(Nonce::of),
                    })
                }),
            any::<String>().prop_map(Message::Refused),
            any_batch().prop_map(Message::Writes),
            (any_origin(), any_stamp(), any_stamp(), any_stamp(), any_clocks())
                .prop_map(|(origin, from, upto, received, clocks)| Message::Ack(Ack { origin, from, upto, received, clocks })),
            (any::<u64>(), any_clocks(), any_stamp(), any_vector(), prop::option::of((any::<u64>(), any::<u64>())), any_order()).prop_map(
                |(sent, clocks, upto, vector, settled, order)| {
                    let settled = settled.map(|(sum, keys)| QuiescentDigest { sum, keys, before_ms: keys });
                    Message::Heartbeat(Heartbeat {
                        sent,
                        wall_ms: sent,
                        clocks,
                        open: sent % 2 == 0,
                        upto,
                        vector,
                        settled,
                        taken: sent,
                        mark: sent,
                        durable_mark: sent / 2,
                        order,
                    })
                }
            ),
            (any::<u64>(), any_clocks()).prop_map(|(sent, clocks)| Message::Echo { sent, clocks }),
            (any::<u64>(), any_vector(), any::<bool>()).prop_map(|(id, vector, heal)| Message::Request(DumpRequest { id, vector, heal })),
            prop::collection::vec(any::<u8>(), 0..50).prop_map(Message::Lines),
        ]
    }

    const PROTOCOLS: [Protocol; 2] = [Protocol::OLDEST, Protocol::CLOCKS];

    fn encoded(message: &Message, protocol: Protocol) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes, protocol);
        bytes
    }

    fn read(mut bytes: &[u8], protocol: Protocol) -> io::Result<Option<Message>> {
        read_message(&mut bytes, &mut Vec::new(), MESSAGE_LEN_MAX, protocol)
    }

    /// A message as it comes out at the other end.
    fn carried(message: Message, protocol: Protocol) -> Message {
        match message {
            Message::Ack(ack) if protocol < Protocol::CLOCKS => Message::Ack(Ack { clocks: None, ..ack }),
            Message::Echo { sent, .. } if protocol < Protocol::CLOCKS => Message::Echo { sent, clocks: None },
            other => other,
        }
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(messages in prop::collection::vec(any_message(), 1..4), protocol in prop::sample::select(&PROTOCOLS[..])) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| encoded(message, protocol)).collect();
            let (mut reader, mut body) = (&bytes[..], Vec::new());
            for message in messages {
                let read = read_message(&mut reader, &mut body, MESSAGE_LEN_MAX, protocol).unwrap();
                prop_assert_eq!(read, Some(carried(message, protocol)));
            }
            prop_assert_eq!(read_message(&mut reader, &mut body, MESSAGE_LEN_MAX, protocol).unwrap(), None);
        }

        #[test]
        fn only_acks_and_echoes_depend_on_the_protocol(message in any_message()) {
            let [older, newer] = PROTOCOLS.map(|protocol| encoded(&message, protocol));
            prop_assert_eq!(older == newer, !matches!(message, Message::Ack(_) | Message::Echo { .. }));
        }

        #[test]
        fn every_truncation_is_an_error_and_no_cut_body_decodes_to_something_longer(message in any_message(), protocol in prop::sample::select(&PROTOCOLS[..])) {
            let bytes = encoded(&message, protocol);
            for len in 1..bytes.len() {
                prop_assert!(read(&bytes[..len], protocol).is_err());
            }
            for len in 0..bytes.len() - HEAD_LEN {
                // Whatever it says, it does not panic; only a body of raw lines, or of JSON that is
                // not read yet, may be cut and still be one.
                let cut = Message::decode(&bytes[HEAD_LEN..HEAD_LEN + len], protocol);
                prop_assert!(cut.is_err() || matches!(cut, Ok(Message::Lines(_) | Message::AuthenticatedHello(_))));
            }
        }

        #[test]
        fn one_flipped_bit_is_noticed(message in any_message(), place in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encoded(&message, Protocol::OLDEST);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(read(&bytes, Protocol::OLDEST).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for protocol in PROTOCOLS {
                let _ = read(&bytes, protocol);
                let _ = Message::decode(&bytes, protocol);
            }
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_its_body_is_read() {
        let bytes = encoded(&Message::Lines(vec![b'x'; 100]), Protocol::OLDEST);
        let error = read_message(&mut &bytes[..], &mut Vec::new(), 50, Protocol::OLDEST).unwrap_err();
        assert_eq!(error.to_string(), "a message of 101 bytes; at most 50 are taken");
    }

    #[test]
    fn a_batch_out_of_stamp_order_is_refused() {
        let origin = Origin { node: NodeId(1), nonce: 1 };
        let write = |stamp| Entry::new(b"k", None, None, Version { stamp: Stamp::from_bits(stamp), origin });
        for stamps in [[2, 2], [3, 2], [1, 9], [0, 1]] {
            let mut bytes = Vec::new();
            encode_batch(&mut bytes, origin, Stamp::from_bits(0), Stamp::from_bits(5), &stamps.map(write));
            assert!(read(&bytes, Protocol::OLDEST).is_err(), "{stamps:?}");
        }
    }

    fn protocols(min: u16, max: u16) -> Protocols {
        Protocols { min: Protocol(min), max: Protocol(max) }
    }

    #[test]
    fn the_greatest_common_protocol_is_spoken() {
        for (one, other, common) in [((3, 3), (3, 4), 3), ((3, 4), (3, 4), 4), ((3, 5), (4, 9), 5), ((4, 4), (3, 9), 4)] {
            let (one, other) = (protocols(one.0, one.1), protocols(other.0, other.1));
            assert_eq!((one.common(other), other.common(one)), (Some(Protocol(common)), Some(Protocol(common))), "{one}, {other}");
        }
        // The last one is no range at all.
        for (one, other) in [((3, 3), (4, 5)), ((6, 7), (3, 5)), ((3, 9), (5, 4))] {
            let (one, other) = (protocols(one.0, one.1), protocols(other.0, other.1));
            assert_eq!((one.common(other), other.common(one)), (None, None), "{one}, {other}");
        }
    }

    /// A HELLO as builds before the range wrote it, and demanded it: exactly protocol 3, with
    /// fields that they do not know ignored.
    #[test]
    fn builds_without_a_range_understand_and_are_understood() {
        let json =
            r#"{"cluster":"c","protocol":3,"node":2,"origin":"2-0000000000000005","members":[1,2],"wall_ms":7,"durable":true,"vector":{}}"#;
        let hello: Hello = serde_json::from_str(json).unwrap();
        assert_eq!((hello.protocols, hello.spoken()), (None, protocols(3, 3)));
        assert_eq!(serde_json::to_string(&hello).unwrap(), json);
        let ours = Hello { protocols: Some(protocols(3, 4)), ..hello };
        assert_eq!(ours.spoken(), protocols(3, 4));
        let said = serde_json::to_value(&ours).unwrap();
        assert_eq!((&said["protocol"], &said["protocols"]), (&3.into(), &serde_json::json!({ "min": 3, "max": 4 })));
    }

    /// Builds of protocol 3 name the writes that lost, which no longer matter; they are told of
    /// none.
    #[test]
    fn an_ack_of_protocol_3_has_its_bytes() {
        let stamp = Stamp::from_bits;
        let origin = Origin { node: NodeId(2), nonce: 5 };
        let clocks = Some(Clocks { reference_us: 7, stamp_us: 8 });
        let ack = Ack { origin, from: stamp(1), upto: stamp(3), received: stamp(4), clocks };
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let head = [&[ACK, 2, 0][..], &numbers(&[5, 1, 3, 4])].concat();
        let new = [&head[..], &numbers(&[7, 8])].concat();
        assert_eq!(encoded(&Message::Ack(ack.clone()), Protocol::CLOCKS)[HEAD_LEN..], new);
        assert_eq!(Message::decode(&new, Protocol::CLOCKS), Ok(Message::Ack(ack.clone())));
        let old = [&head[..], &numbers(&[0]), &[0, 0, 0, 0]].concat();
        assert_eq!(encoded(&Message::Ack(ack.clone()), Protocol::OLDEST)[HEAD_LEN..], old);
        let naming = [&head[..], &numbers(&[9]), &[2, 0, 0, 0], &numbers(&[2, 3])].concat();
        for bytes in [old, naming] {
            assert_eq!(Message::decode(&bytes, Protocol::OLDEST), Ok(Message::Ack(Ack { clocks: None, ..ack.clone() })));
        }
        assert!(Message::decode(&head, Protocol::OLDEST).is_err());
    }
}
