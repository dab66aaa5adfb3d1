//! The dump: a store, or what a vector lacks of it, as newline-delimited JSON.
//!
//! Used to catch a peer up, printed by `DUMP`, and taken back by `RESTORE`. One object a line: a header, an entry a line, an end line.
//!
//! ```text
//! {"dump":"kvmesh","format":1,"kind":"full","node":1,"origin":"1-9f86d081884c7d65","vector":{"1-9f86d081884c7d65":"116..."},"entries":2}
//! {"k":"colour","v":"green","s":"116069418624417792","o":"1-9f86d081884c7d65"}
//! {"k":"gone","s":"116069418624417793","o":"1-9f86d081884c7d65"}
//! {"k":"session","v":"7","x":"1771078165000","s":"116069418624417794","o":"1-9f86d081884c7d65"}
//! {"end":"kvmesh","count":2,"digest":"4c1d...","horizon":{}}
//! ```
//!
//! Keys and values that are not clean UTF-8 are carried as base64, under `k64` and `v64`; an entry without a value is a tombstone; one with an
//! `x` expires then, in milliseconds since 1970. Stamps and expiries are strings: JSON numbers lose bits above 2^53. Lines in, values out, and back; no sockets, no files, no merging.

use std::borrow::Cow;
use std::io::Write;
use std::ops::RangeInclusive;
use std::vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use crate::data::clock::Stamp;
use crate::data::entry::{Entry, Expiry};
use crate::data::formats::OtherVersion;
use crate::data::key_order::Order;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::store::{Store, Walk};
use crate::wire::quoting::{shown, told};

/// What is written. Raised when a build that reads only the ones before could misunderstand a dump; the one before is still read. The first line of every format is one of JSON that begins with
/// `dump` and holds `format`. Format 2 says something of all incarnations of a node in its vector, and 1 does not: what has nothing of the kind is written for builds that read no other.
pub const FORMAT: u32 = 2;

const READ: RangeInclusive<u32> = 1..=FORMAT;

const NAME: &str = "kvmesh";

/// What a dump holds, and so what its absence of a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Everything: a key that it lacks and whose version the header's vector covers is proven deleted.
    Full,
    /// What the asker's vector did not cover: absence means nothing.
    Delta,
    /// Everything, after a divergence: merged without dropping and without skipping.
    Heal,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    dump: String,
    pub format: u32,
    pub kind: Kind,
    /// The donor, and its vector as noted before the scan.
    pub node: NodeId,
    pub origin: Origin,
    pub vector: VersionVector,
    /// How many entries the donor holds, so that a blank reader can make room for them at once; at most so many follow, about.
    #[serde(default)]
    pub entries: u64,
    /// The request that it answers, if it answers one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// Of a snapshot only: the order that the cluster scans in. Not for clients to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

impl Header {
    pub fn new(kind: Kind, origin: Origin, vector: VersionVector, entries: u64, request: Option<u64>) -> Header {
        let format = if vector.folded().next().is_some() { FORMAT } else { 1 };
        Header { dump: NAME.to_owned(), format, kind, node: origin.node, origin, vector, entries, request, order: None }
    }

    /// Whether something may be said of all incarnations of a node.
    pub fn is_folded(&self) -> bool {
        self.format > 1
    }
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    end: String,
    pub count: u64,
    /// Of the lines between; see [`Tally`]. As 16 hexadecimal digits.
    pub digest: String,
    /// The greatest collected stamp of each origin at the donor.
    pub horizon: VersionVector,
}

/// Any line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Header(Header),
    Entry(Entry),
    End(End),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine<'a> {
    #[serde(borrow, default)]
    k: Option<Text<'a>>,
    #[serde(borrow, default)]
    k64: Option<Text<'a>>,
    #[serde(borrow, default)]
    v: Option<Text<'a>>,
    #[serde(borrow, default)]
    v64: Option<Text<'a>>,
    #[serde(borrow, default)]
    x: Option<Text<'a>>,
    s: Stamp,
    o: Origin,
}

/// A string that borrows from the line unless it had escapes. (Serde borrows for a `Cow`, but not for one inside an `Option`.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A header's or an end line's vector takes some 50 bytes for every incarnation of every node: this is enough for twenty thousand.
const VECTOR_LINE_LEN_MAX: usize = 1 << 20;

/// The longest line of a dump whose keys and values are at most so long: text is written with at most two bytes for one, anything else as base64.
pub fn line_len_max(key_len_max: usize, value_len_max: usize) -> usize {
    let entry = key_len_max.saturating_add(value_len_max).saturating_mul(2).saturating_add(ENTRY_WORDS_LEN_MAX);
    entry.max(VECTOR_LINE_LEN_MAX)
}

/// Of an entry's line, what is neither key nor value.
const ENTRY_WORDS_LEN_MAX: usize = 128;

/// Parses one line, without its line feed. An error says what is wrong with it.
pub fn parse_line(line: &[u8]) -> Result<Line, String> {
    match read_entry(line) {
        Some(entry) => Ok(Line::Entry(entry)),
        None => parse_json_line(line),
    }
}

/// The one definition of what is legal.
fn parse_json_line(line: &[u8]) -> Result<Line, String> {
    if line.starts_with(HEADER_START) {
        if let Some(other) = other_version(line) {
            return Err(format!("it {other}"));
        }
        let header: Header = from_json(line)?;
        if !READ.contains(&header.format) {
            return Err(format!("a dump of format {}, which none has", header.format));
        }
        if header.dump != NAME {
            return Err(format!("a dump of {}, expected \"{NAME}\"", shown(header.dump.as_bytes())));
        }
        return Ok(Line::Header(header));
    }
    if line.starts_with(b"{\"end\"") {
        let end: End = from_json(line)?;
        if end.end != NAME {
            return Err(format!("the end of a dump of {}, expected \"{NAME}\"", shown(end.end.as_bytes())));
        }
        return Ok(Line::End(end));
    }
    let EntryLine { k, k64, v, v64, x, s, o } = from_json(line)?;
    let key = bytes(k, k64)?.ok_or("an entry without a key")?;
    let expires = x.map(|Text(x)| expiry(&x)).transpose()?;
    Ok(Line::Entry(Entry::new(&key, bytes(v, v64)?.as_deref(), expires, Version { stamp: s, origin: o })))
}

const HEADER_START: &[u8] = b"{\"dump\"";

/// Whether a line is the header of a dump in a format that this build does not read, whatever else it holds.
pub fn other_version(line: &[u8]) -> Option<OtherVersion> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Option<Head> = line.starts_with(HEADER_START).then(|| from_json(line).ok()).flatten();
    head.and_then(|head| OtherVersion::found(head.format, READ))
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    // Validated once as a whole, rather than string by string.
    let line = std::str::from_utf8(line).map_err(|error| format!("a dump line that is not UTF-8: {error}"))?;
    // This one line is all that serde_json sees. Words of the line may be in the error.
    let in_words = |error: serde_json::Error| told(&error.to_string().replace(" at line 1 column ", " at column "));
    serde_json::from_str(line).map_err(|error| format!("a dump line that is not as expected: {}", in_words(error)))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    let wall_ms = text.parse().map_err(|_| format!("{} is no expiry; expected milliseconds since 1970", shown(text.as_bytes())))?;
    // As it is written, so that what is read is what was written.
    if wall_ms == 0 { Err("an expiry of 0".to_owned()) } else { Ok(Expiry::from_wall_ms(wall_ms)) }
}

fn bytes<'a>(text: Option<Text<'a>>, base64: Option<Text<'a>>) -> Result<Option<Cow<'a, [u8]>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("an entry that carries the same thing as text and as base64".to_owned()),
        (Some(Text(text)), None) => Ok(Some(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })),
        (None, Some(Text(base64))) => {
            BASE64.decode(base64.as_bytes()).map(|bytes| Some(bytes.into())).map_err(|error| format!("bad base64: {error}"))
        }
        (None, None) => Ok(None),
    }
}

/// By hand, as [`write_entry`] writes and only what it writes for plain text and base64: of a million lines nearly every one. An entry is the same that
/// [`parse_json_line`] makes of the line; `None` says nothing about it.
fn read_entry(line: &[u8]) -> Option<Entry> {
    let (key, rest) = read_bytes(line, b"{\"k\":\"", b"{\"k64\":\"")?;
    let (value, rest) = match rest.starts_with(b",\"v") {
        true => read_bytes(rest, b",\"v\":\"", b",\"v64\":\"").map(|(value, rest)| (Some(value), rest))?,
        false => (None, rest),
    };
    let (expires, rest) = match rest.strip_prefix(b",\"x\":\"") {
        Some(rest) => split_at_quote(rest).and_then(|(digits, rest)| Some((Some(Expiry::from_wall_ms(read_decimal(digits)?)), rest)))?,
        None => (None, rest),
    };
    let (stamp, rest) = split_at_quote(rest.strip_prefix(b",\"s\":\"")?)?;
    let (node, nonce) = rest.strip_prefix(b",\"o\":\"")?.strip_suffix(b"\"}")?.split_last_chunk::<16>()?;
    let stamp = Stamp::from_bits(read_decimal(stamp)?);
    let node = NodeId(read_decimal(node.strip_suffix(b"-")?)?.try_into().ok()?);
    let origin = Origin { node, nonce: read_digits::<16>(nonce)? };
    Some(Entry::new(&key, value.as_deref(), expires, Version { stamp, origin }))
}

fn read_bytes<'a>(line: &'a [u8], as_text: &[u8], as_base64: &[u8]) -> Option<(Cow<'a, [u8]>, &'a [u8])> {
    if let Some(rest) = line.strip_prefix(as_text) {
        let (text, rest) = split_at_quote(rest)?;
        return is_plain(text).then_some((Cow::Borrowed(text), rest));
    }
    let (base64, rest) = split_at_quote(line.strip_prefix(as_base64)?)?;
    Some((Cow::Owned(BASE64.decode(base64).ok()?), rest))
}

fn split_at_quote(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let quote = memchr::memchr(b'"', line)?;
    Some((&line[..quote], &line[quote + 1..]))
}

/// Without a leading zero, and of at most 19 digits: so many always fit, and no honest stamp has more.
fn read_decimal(digits: &[u8]) -> Option<u64> {
    let is_short = digits.len() <= 19 && *digits.first()? != b'0';
    if is_short { read_digits::<10>(digits) } else { None }
}

/// The number that the digits make, if each is one. Without a branch a digit: those of a nonce are random. Wraps only where a digit is none.
fn read_digits<const BASE: u64>(digits: &[u8]) -> Option<u64> {
    let (number, are_digits) = digits.iter().fold((0_u64, true), |(number, are_digits), digit| {
        let digit = u64::from(DIGITS[usize::from(*digit)]);
        (number.wrapping_mul(BASE).wrapping_add(digit), are_digits & (digit < BASE))
    });
    are_digits.then_some(number)
}

/// What each byte is worth as a digit; 255 if it is none.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut digit = 0;
    while digit < HEXADECIMAL.len() {
        digits[HEXADECIMAL[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

/// What most keys and values are: ASCII that JSON takes as it is. Looked through without a branch a byte.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & (b' '..=b'~').contains(byte) & (*byte != b'"') & (*byte != b'\\'))
}

/// Text where it is clean: valid UTF-8 without control characters that JSON would blow up to six bytes.
fn text(bytes: &[u8]) -> Option<&str> {
    let clean = bytes.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r'));
    if clean { std::str::from_utf8(bytes).ok() } else { None }
}

fn write_line(out: &mut Vec<u8>, line: &impl Serialize) {
    // Cannot fail: the types are plain, and a Vec takes every write.
    serde_json::to_writer(&mut *out, line).expect("dump lines are plain JSON");
    out.push(b'\n');
}

/// Appends the line of one entry. By hand, field by field: a million of these are a node's recovery.
pub fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(b'{');
    write_bytes(out, b"\"k\":", b"\"k64\":", entry.key());
    if let Some(value) = entry.value() {
        out.push(b',');
        write_bytes(out, b"\"v\":", b"\"v64\":", value);
    }
    if let Some(expires) = entry.expires() {
        out.extend_from_slice(b",\"x\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(expires.wall_ms()).as_bytes());
        out.push(b'"');
    }
    let Version { stamp, origin } = entry.version();
    out.extend_from_slice(b",\"s\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(stamp.to_bits()).as_bytes());
    out.extend_from_slice(b"\",\"o\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(origin.node.0).as_bytes());
    out.push(b'-');
    out.extend((0..16).rev().map(|place| HEXADECIMAL[(origin.nonce >> (4 * place)) as usize & 0xf]));
    out.extend_from_slice(b"\"}\n");
}

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

fn write_bytes(out: &mut Vec<u8>, as_text: &[u8], as_base64: &[u8], bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(as_text);
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else if let Some(text) = text(bytes) {
        out.extend_from_slice(as_text);
        // Cannot fail: a Vec takes every write.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.extend_from_slice(as_base64);
        // Cannot fail: as above.
        let _ = write!(out, "\"{}\"", BASE64.encode(bytes));
    }
}

/// Count and digest of what a dump says: the writer's goes into the end line and the reader's must equal it.
///
/// The digest is the wrapping sum of `rapidhash_v3` of the header, as it is written, and of each entry: of key hash, stamp, nonce, node,
/// value hash (none for a tombstone) and expiry (none for most), as little-endian bytes; and of the end line's horizon, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    count: u64,
    digest: u64,
}

impl Tally {
    /// A dump that begins with this header.
    pub fn of(header: &Header) -> Tally {
        // Without what earlier builds do not read, so that they come to the same.
        Tally { count: 0, digest: digest_of(&Header { order: None, ..header.clone() }) }
    }

    pub fn add(&mut self, entry: &Entry) {
        let Version { stamp, origin } = entry.version();
        let mut fields = [0; 44];
        let mut len = 28;
        fields[..8].copy_from_slice(&rapidhash_v3(entry.key()).to_le_bytes());
        fields[8..16].copy_from_slice(&stamp.to_bits().to_le_bytes());
        fields[16..24].copy_from_slice(&origin.nonce.to_le_bytes());
        fields[24..26].copy_from_slice(&origin.node.0.to_le_bytes());
        if let Some(value) = entry.value() {
            fields[len..len + 8].copy_from_slice(&rapidhash_v3(value).to_le_bytes());
            len += 8;
        }
        if let Some(expires) = entry.expires() {
            fields[len..len + 8].copy_from_slice(&expires.wall_ms().to_le_bytes());
            len += 8;
        }
        self.count += 1;
        self.digest = self.digest.wrapping_add(rapidhash_v3(&fields[..len]));
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Of two parts of a dump together.
    pub fn join(&mut self, other: &Tally) {
        self.count += other.count;
        self.digest = self.digest.wrapping_add(other.digest);
    }

    /// Whether an end line is the right one; an error says how it differs.
    pub fn check(&self, end: &End) -> Result<(), String> {
        let digest = self.digest(&end.horizon);
        if (end.count, &end.digest) == (self.count, &digest) {
            return Ok(());
        }
        Err(format!("a dump of {} entries with digest {digest} whose end line says {} and {}", self.count, end.count, end.digest))
    }

    fn digest(&self, horizon: &VersionVector) -> String {
        format!("{:016x}", self.digest.wrapping_add(digest_of(horizon)))
    }
}

fn digest_of(value: &impl Serialize) -> u64 {
    let mut line = Vec::new();
    write_line(&mut line, value);
    rapidhash_v3(&line)
}

/// A dump being written: a store, scanned shard by shard while writes go on.
///
/// The header's vector must have been noted before this is made, with the collector stopped until it is dropped, unless it is a full one.
pub struct Scan {
    header: Option<Header>,
    /// Entries that it covers are left out.
    asker: VersionVector,
    horizon: VersionVector,
    /// From the first shard to the last.
    walk: Option<Walk>,
    shard: usize,
    entries: vec::IntoIter<Entry>,
    tally: Tally,
}

impl Scan {
    pub fn new(header: Header, asker: VersionVector, horizon: VersionVector) -> Scan {
        let tally = Tally::of(&header);
        Scan { header: Some(header), asker, horizon, walk: None, shard: 0, entries: Vec::new().into_iter(), tally }
    }

    /// What was collected until now, for the end line.
    pub fn set_horizon(&mut self, horizon: VersionVector) {
        self.horizon = horizon;
    }

    /// Appends whole lines, about `len` bytes of them or what a shard gives. Returns whether there is more; the end line has been written when not.
    pub fn write(&mut self, store: &Store, len: usize, out: &mut Vec<u8>) -> bool {
        if let Some(header) = self.header.take() {
            write_line(out, &header);
        }
        self.walk.get_or_insert_with(|| store.walk());
        let full = out.len() + len;
        // A step ends after some shards even if they gave nothing: a scan must show progress.
        let last_shard = self.shard + SHARDS_PER_STEP;
        while out.len() < full {
            if let Some(entry) = self.entries.next() {
                self.tally.add(&entry);
                write_entry(out, &entry);
            } else if self.shard == store.shards_len() {
                let end = End {
                    end: NAME.to_owned(),
                    count: self.tally.count,
                    digest: self.tally.digest(&self.horizon),
                    horizon: std::mem::take(&mut self.horizon),
                };
                write_line(out, &end);
                return false;
            } else if self.shard == last_shard {
                break;
            } else {
                self.entries = store.scan_shard(self.shard, |entry| !self.asker.covers(entry.version())).into_iter();
                self.shard += 1;
            }
        }
        true
    }

    /// Entries written so far.
    pub fn count(&self) -> u64 {
        self.tally.count
    }
}

const SHARDS_PER_STEP: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::key_order::OrderKey;
    use crate::store::Keyspace;
    use proptest::prelude::*;

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![prop::collection::vec(any::<u8>(), 0..20), any::<String>().prop_map(String::into_bytes)]
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let fields = (any_bytes(), prop::option::of(any_bytes()), prop::option::of(1..u64::MAX), any::<u64>(), 1..5u16, any::<u64>());
        fields.prop_map(|(key, value, expires, stamp, node, nonce)| {
            let origin = Origin { node: NodeId(node), nonce };
            let version = Version { stamp: Stamp::from_bits(stamp), origin };
            Entry::new(&key, value.as_deref(), expires.map(Expiry::from_wall_ms), version)
        })
    }

    /// As from a client that stores text, or what is not text at all.
    fn plain_entry() -> impl Strategy<Value = Entry> {
        let value =
            prop_oneof!["[ !#-\\[\\]-~]{0,80}".prop_map(|text| Some(text.into_bytes())), Just(Some(b"\xff\0".to_vec())), Just(None)];
        let expires = prop::option::of(1..i64::MAX as u64);
        ("[ !#-\\[\\]-~]{0,20}", value, expires, 1..Stamp::LIMIT.to_bits(), 1..=u16::MAX, any::<u64>()).prop_map(
            |(key, value, expires, stamp, node, nonce)| {
                let version = Version { stamp: Stamp::from_bits(stamp), origin: Origin { node: NodeId(node), nonce } };
                Entry::new(key.as_bytes(), value.as_deref(), expires.map(Expiry::from_wall_ms), version)
            },
        )
    }

    fn check_by_hand(line: &[u8]) -> Result<(), TestCaseError> {
        if let Some(entry) = read_entry(line) {
            prop_assert_eq!(parse_json_line(line), Ok(Line::Entry(entry)));
        }
        prop_assert_eq!(parse_line(line), parse_json_line(line));
        Ok(())
    }

    fn origin() -> Origin {
        Origin { node: NodeId(1), nonce: 0x9f86 }
    }

    fn dump(store: &Store, asker: VersionVector) -> Vec<u8> {
        let mut scan = Scan::new(Header::new(Kind::Full, origin(), VersionVector::default(), 0, Some(3)), asker, VersionVector::default());
        let mut out = Vec::new();
        while scan.write(store, 100, &mut out) {}
        out
    }

    /// A build from before the field reads past it, and the digest must still be right.
    #[test]
    fn a_header_with_an_order_counts_as_one_without() {
        let mut header = Header::new(Kind::Full, origin(), VersionVector::default(), 0, None);
        let without = Tally::of(&header).digest;
        header.order = Some(Order { since_ms: 5, key: OrderKey::from_halves([1, 2]) });
        let mut line = Vec::new();
        write_line(&mut line, &header);
        line.pop();
        assert!(String::from_utf8_lossy(&line).contains(r#""order":{"since_ms":5,"key":"00000000000000010000000000000002"}"#));
        assert_eq!(parse_line(&line), Ok(Line::Header(header.clone())));
        assert_eq!(Tally::of(&header).digest, without);
    }

    proptest! {
        #[test]
        fn entries_survive_a_line_and_every_truncation_is_an_error(entry in any_entry()) {
            let mut line = Vec::new();
            write_entry(&mut line, &entry);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert!(line.len() <= 2 * entry.size() + ENTRY_WORDS_LEN_MAX);
            for len in 0..line.len() {
                prop_assert!(parse_line(&line[..len]).is_err());
            }
            prop_assert_eq!(parse_line(&line), Ok(Line::Entry(entry)));
        }

        #[test]
        fn a_store_survives_its_dump(entries in prop::collection::vec(any_entry(), 0..50)) {
            let (store, copy) = (Store::new(), Store::new());
            for entry in entries {
                store.merge(entry, |_| false);
            }
            let dump = dump(&store, VersionVector::default());
            let mut tally = Tally::default();
            let mut ended = false;
            for line in dump.split_inclusive(|byte| *byte == b'\n') {
                prop_assert!(!ended);
                match parse_line(&line[..line.len() - 1]).unwrap() {
                    Line::Header(header) => {
                        prop_assert_eq!(header.request, Some(3));
                        tally = Tally::of(&header);
                    }
                    Line::Entry(entry) => {
                        tally.add(&entry);
                        copy.merge(entry, |_| false);
                    }
                    Line::End(end) => {
                        prop_assert_eq!(tally.check(&end), Ok(()));
                        tally.digest ^= 1;
                        prop_assert!(tally.check(&end).is_err());
                        ended = true;
                    }
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(copy.digest(0), store.digest(0));
            prop_assert_eq!(copy.counts(0), store.counts(0));
        }

        #[test]
        fn what_is_read_by_hand_is_what_json_says(
            entry in prop_oneof![any_entry(), plain_entry()],
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..5, prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{},:+-0aFkvso64\x7f "[..])]), 1..4),
        ) {
            let mut line = Vec::new();
            write_entry(&mut line, &entry);
            line.pop();
            prop_assert_eq!(parse_json_line(&line), Ok(Line::Entry(entry)));
            check_by_hand(&line)?;
            for (at, edit, byte) in edits {
                let at = at.index(line.len() + 1);
                match edit {
                    0 => line.insert(at, byte),
                    1 => line.truncate(at.max(line.len() / 2)),
                    2 => {
                        // Other order, the fields whole: turned at a comma.
                        let mut fields: Vec<&[u8]> = line.strip_prefix(b"{").unwrap_or(&line).split(|byte| *byte == b',').collect();
                        let turn = at % fields.len();
                        fields.rotate_left(turn);
                        line = [b"{", &fields.join(&b","[..])[..]].concat();
                    }
                    _ if at == line.len() => line.push(byte),
                    3 => line[at] = byte,
                    _ => {
                        line.remove(at);
                    }
                }
                check_by_hand(&line)?;
            }
        }

        #[test]
        fn ordinary_lines_are_read_by_hand(entry in plain_entry()) {
            let mut line = Vec::new();
            write_entry(&mut line, &entry);
            line.pop();
            prop_assert_eq!(read_entry(&line), Some(entry));
        }

        #[test]
        fn garbage_never_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_line(&line);
        }
    }

    #[test]
    fn lines_look_as_documented() {
        let mut out = Vec::new();
        let version = Version { stamp: Stamp::from_bits(7), origin: origin() };
        write_entry(&mut out, &Entry::new(b"a", Some(b"\xff"), None, version));
        write_entry(&mut out, &Entry::new(b"", None, None, version));
        let expected = "{\"k\":\"a\",\"v64\":\"/w==\",\"s\":\"7\",\"o\":\"1-0000000000009f86\"}\n{\"k\":\"\",\"s\":\"7\",\"o\":\"1-0000000000009f86\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_delta_leaves_out_what_the_asker_covers() {
        let store = Store::new();
        for stamp in 1..=10 {
            let version = Version { stamp: Stamp::from_bits(stamp), origin: origin() };
            store.merge(Entry::new(stamp.to_string().as_bytes(), None, None, version), |_| false);
        }
        let asker = [(origin(), Stamp::from_bits(8))].into_iter().collect();
        assert_eq!(dump(&store, asker).iter().filter(|byte| **byte == b'\n').count(), 1 + 2 + 1);
    }

    #[test]
    fn odd_lines_are_left_to_json() {
        let line = |key: &str, stamp: &str, origin: &str| format!(r#"{{"k":{key},"s":"{stamp}","o":"{origin}"}}"#).into_bytes();
        assert!(read_entry(&line(r#""a""#, "9999999999999999999", "65535-0123456789abcdef")).is_some());
        for (key, stamp, origin) in [
            (r#""a\n""#, "1", "1-0123456789abcdef"),
            ("\"a\u{1}\"", "1", "1-0123456789abcdef"),
            (r#""ä""#, "1", "1-0123456789abcdef"),
            (r#" "a""#, "1", "1-0123456789abcdef"),
            (r#""a""#, "", "1-0123456789abcdef"),
            (r#""a""#, "01", "1-0123456789abcdef"),
            (r#""a""#, "+1", "1-0123456789abcdef"),
            (r#""a""#, "1f", "1-0123456789abcdef"),
            (r#""a""#, "18446744073709551615", "1-0123456789abcdef"),
            (r#""a""#, "18446744073709551616", "1-0123456789abcdef"),
            (r#""a""#, "1", "65536-0123456789abcdef"),
            (r#""a""#, "1", "-0123456789abcdef"),
            (r#""a""#, "1", "1-0123456789abcdeF"),
            (r#""a""#, "1", "1-+123456789abcdef"),
            (r#""a""#, "1", "1-00123456789abcdef"),
        ] {
            let line = line(key, stamp, origin);
            assert_eq!(read_entry(&line), None);
            check_by_hand(&line).unwrap();
        }
    }

    #[test]
    fn a_newer_format_is_refused_in_words() {
        let header = r#"{"dump":"kvmesh","format":3,"kind":"full","node":1,"origin":"1-0","vector":{}}"#;
        let said = parse_line(header.as_bytes()).unwrap_err();
        assert!(
            said.starts_with("it was written by another version of kvmesh: it is of format 3, and this build reads format 1 to 2."),
            "{said}"
        );
        // Whatever a header holds by then.
        assert_eq!(parse_line(br#"{"dump":"kvmesh","format":3,"rest":7}"#), Err(said));
        assert_eq!(parse_line(header.replace(":3", ":0").as_bytes()).unwrap_err(), "a dump of format 0, which none has");
    }
}
