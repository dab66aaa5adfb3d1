//! What the mesh stores: keys, values, and the entries that hold them.
//!
//! Pure values. Never touches time, sockets or the map that entries live in.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter;
use std::num::NonZeroU64;
use std::ops::{Deref, Range};

use triomphe::{HeaderSliceWithLengthProtected, ThinArc};

use crate::data::clock::Stamp;
use crate::data::version::{NodeId, Origin, Version};

/// When an entry expires: milliseconds since 1970, by the wall clock of whoever looks. Part of the write, so that every node agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry(NonZeroU64);

impl Expiry {
    /// The first millisecond of 1970 is the earliest.
    pub fn from_wall_ms(wall_ms: u64) -> Expiry {
        Expiry(NonZeroU64::new(wall_ms).unwrap_or(NonZeroU64::MIN))
    }

    pub const fn wall_ms(self) -> u64 {
        self.0.get()
    }

    /// Whether it is over at this time.
    pub const fn is_over(self, wall_ms: u64) -> bool {
        self.wall_ms() <= wall_ms
    }
}

/// One register: a key and the newest thing known about it.
///
/// One allocation, which the map, the channel, dumps and replies share, and which never changes while anybody else holds it: the head, the key, the value, and when it expires, if it does. So 16 bytes of
/// key and 64 of value take 120, and the tombstone of a delete takes 40 beside its key.
#[derive(Clone)]
pub struct Entry(ThinArc<Head, u8>);

/// What is in front of the bytes. Field by field, since a [`Version`] has gaps.
#[derive(Clone, Copy)]
struct Head {
    stamp: Stamp,
    nonce: u64,
    key_len: u32,
    node: NodeId,
    has_value: bool,
    /// Whether an expiry is behind key and value. Most entries have none.
    has_expiry: bool,
}

/// Bytes of an expiry, behind those of key and value: milliseconds since 1970, the least significant byte first.
const EXPIRY_LEN: usize = size_of::<Expiry>();

impl Head {
    fn set_version(&mut self, version: Version) {
        let Version { stamp, origin: Origin { node, nonce } } = version;
        (self.stamp, self.node, self.nonce) = (stamp, node, nonce);
    }
}

impl Entry {
    /// What an entry takes beside key and value: the count of those who share it, the head, and how many bytes follow.
    pub const OVERHEAD: usize = size_of::<usize>() + size_of::<Head>() + size_of::<usize>();

    /// Copies key and value. Together they must be shorter than 4 GiB, which the bound on every configuration sees to.
    pub fn new(key: &[u8], value: Option<&[u8]>, expires: Option<Expiry>, version: Version) -> Entry {
        let Version { stamp, origin: Origin { node, nonce } } = version;
        let key_len = u32::try_from(key.len()).expect("keys are shorter than 4 GiB");
        let head = Head { stamp, nonce, key_len, node, has_value: value.is_some(), has_expiry: expires.is_some() };
        let value = value.unwrap_or_default();
        let expiry_len = if expires.is_some() { EXPIRY_LEN } else { 0 };
        let mut entry = ThinArc::from_header_and_iter(head, iter::repeat_n(0, key.len() + value.len() + expiry_len));
        // Filled behind that, as several pieces cannot be given.
        with_own(&mut entry, |own| {
            let (key_bytes, rest) = own.slice_mut().split_at_mut(key.len());
            key_bytes.copy_from_slice(key);
            let (value_bytes, rest) = rest.split_at_mut(value.len());
            value_bytes.copy_from_slice(value);
            put_expiry(rest, expires);
        });
        Entry(entry)
    }

    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.head().key_len as usize]
    }

    /// The key, sharing the entry.
    pub fn shared_key(&self) -> Key {
        Part { entry: self.clone(), start: 0, end: self.head().key_len }
    }

    /// `None` is a tombstone: the key was deleted at this version, or has expired and its value was let go.
    pub fn value(&self) -> Option<&[u8]> {
        self.head().has_value.then(|| &self.0.slice[self.head().key_len as usize..self.size()])
    }

    /// The value, sharing the entry.
    pub fn shared_value(&self) -> Option<Value> {
        self.head().has_value.then(|| {
            let end = u32::try_from(self.size()).expect("entries are shorter than 4 GiB");
            Part { entry: self.clone(), start: self.head().key_len, end }
        })
    }

    /// From then on it is like a tombstone to everybody who reads, and later becomes one in place, under the same version: that is no write, so it can beat none.
    pub fn expires(&self) -> Option<Expiry> {
        if !self.head().has_expiry {
            return None;
        }
        self.0.slice.last_chunk().map(|bytes| Expiry::from_wall_ms(u64::from_le_bytes(*bytes)))
    }

    pub fn version(&self) -> Version {
        let Head { stamp, nonce, node, .. } = *self.head();
        Version { stamp, origin: Origin { node, nonce } }
    }

    pub fn is_tombstone(&self) -> bool {
        !self.head().has_value
    }

    /// When a value that is there expires.
    pub fn ends(&self) -> Option<Expiry> {
        self.expires().filter(|_| !self.is_tombstone())
    }

    /// Whether there is something for readers at this time, which is asked for only where it matters.
    pub fn is_live(&self, wall_ms: impl FnOnce() -> u64) -> bool {
        !self.is_tombstone() && self.expires().is_none_or(|expires| !expires.is_over(wall_ms()))
    }

    /// The same without its value, which has expired.
    pub fn spent(&self) -> Entry {
        Entry::new(self.key(), None, self.expires(), self.version())
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.0.slice.len() - if self.head().has_expiry { EXPIRY_LEN } else { 0 }
    }

    /// Bytes that the allocation takes.
    pub fn memory(&self) -> usize {
        Entry::OVERHEAD + self.0.slice.len()
    }

    /// How many share the allocation, about: others may come and go meanwhile.
    pub fn holders(&self) -> usize {
        self.0.with_arc(triomphe::Arc::strong_count)
    }

    /// Whether the two are one allocation.
    pub fn is(&self, other: &Entry) -> bool {
        std::ptr::eq(self.0.slice.as_ptr(), other.0.slice.as_ptr())
    }

    /// Takes the value and the version of another entry of its key without moving, if both are values that do not expire and are equally long, and nobody shares this one; whether it has.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        let EntryRef { key, value, expires, version } = by;
        debug_assert_eq!(self.key(), key);
        let Head { has_value, has_expiry, .. } = *self.head();
        let (Some(value), None, true, false) = (value, expires, has_value, has_expiry) else { return false };
        self.size() == by.size()
            && with_own(&mut self.0, |own| {
                own.header_mut().set_version(version);
                own.slice_mut()[key.len()..].copy_from_slice(value);
            })
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    /// With another head. Copied only where somebody shares it.
    fn with_head(mut self, change: impl Fn(&mut Head)) -> Entry {
        if with_own(&mut self.0, |own| change(own.header_mut())) {
            return self;
        }
        let mut head = *self.head();
        change(&mut head);
        Entry(ThinArc::from_header_and_slice(head, &self.0.slice))
    }
}

/// Where there is one, there is room for it.
fn put_expiry(bytes: &mut [u8], expires: Option<Expiry>) {
    if let Some(expires) = expires {
        bytes.copy_from_slice(&expires.wall_ms().to_le_bytes());
    }
}

/// Changes what nobody else holds; whether it is so.
fn with_own(entry: &mut ThinArc<Head, u8>, change: impl FnOnce(&mut HeaderSliceWithLengthProtected<Head, u8>)) -> bool {
    entry.with_arc_mut(|entry| triomphe::Arc::get_mut(entry).map(change).is_some())
}

/// An entry whose key and value lie elsewhere, in a message or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
    pub expires: Option<Expiry>,
    pub version: Version,
}

impl EntryRef<'_> {
    pub fn to_entry(self) -> Entry {
        Entry::new(self.key, self.value, self.expires, self.version)
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.map_or(0, <[u8]>::len)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        let fields = |entry: &Entry| (entry.version(), entry.expires());
        fields(self) == fields(other) && self.key() == other.key() && self.value() == other.value()
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        f.debug_struct("Entry")
            .field("key", &shown(self.key()))
            .field("value", &self.value().map(shown))
            .field("expires", &self.expires())
            .field("version", &self.version())
            .finish()
    }
}

/// What a write leaves under its key (**I3**): a value that may expire, or nothing. An entry that has no version yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update(Entry);

impl Update {
    /// Copies key and value.
    pub fn put(key: &[u8], value: &[u8], expires: Option<Expiry>) -> Update {
        Update(Entry::new(key, Some(value), expires, Version::NONE))
    }

    pub fn delete(key: &[u8]) -> Update {
        Update(Entry::new(key, None, None, Version::NONE))
    }

    /// What a write has left, to be written once more.
    pub fn again(entry: &Entry) -> Update {
        Update(Entry::clone(entry)).expiring(entry.ends())
    }

    /// The same value with this lifetime. Copied where it is shared, or has no room for it.
    pub fn expiring(self, expires: Option<Expiry>) -> Update {
        let Update(mut entry) = self;
        let is_as_long = entry.head().has_expiry == expires.is_some();
        let put = |own: &mut HeaderSliceWithLengthProtected<Head, u8>| {
            let end = own.slice().len() - if expires.is_some() { EXPIRY_LEN } else { 0 };
            put_expiry(&mut own.slice_mut()[end..], expires);
        };
        if is_as_long && (expires.is_none() || with_own(&mut entry.0, put)) {
            return Update(entry);
        }
        Update(Entry::new(entry.key(), entry.value(), expires, entry.version()))
    }

    /// The same, shared with nobody: stamping it copies nothing.
    pub fn unshared(self) -> Update {
        Update(self.0.with_head(|_| ()))
    }

    pub fn is_delete(&self) -> bool {
        self.0.is_tombstone()
    }

    /// Without a version that means anything.
    pub fn entry(&self) -> &Entry {
        &self.0
    }

    /// The write.
    pub fn stamped(self, version: Version) -> Entry {
        self.0.with_head(|head| head.set_version(version))
    }
}

/// Bytes of an entry, shared with it: of its key or of its value, and mostly all of them.
#[derive(Clone)]
pub struct Part {
    entry: Entry,
    /// Among the bytes of key and value.
    start: u32,
    end: u32,
}

impl Part {
    /// Some of the bytes, shared likewise.
    pub fn slice(&self, range: Range<usize>) -> Part {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        Part { entry: self.entry.clone(), start: self.start + range.start as u32, end: self.start + range.end as u32 }
    }

    /// What it keeps in memory.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }
}

/// Any bytes, the empty key included.
pub type Key = Part;
/// Any bytes, the empty value included.
pub type Value = Part;

/// A copy, for itself.
impl From<&[u8]> for Part {
    fn from(bytes: &[u8]) -> Part {
        Entry::new(bytes, None, None, Version::NONE).shared_key()
    }
}

impl Deref for Part {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.entry.0.slice[self.start as usize..self.end as usize]
    }
}

impl Borrow<[u8]> for Part {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        **self == **other
    }
}

impl Eq for Part {}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Part) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Part) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// As its bytes, which a map may be asked for.
impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: u16, nonce: u64) -> Origin {
        Origin { node: NodeId(node), nonce }
    }

    #[test]
    fn an_entry_is_one_pointer_to_one_piece() {
        assert_eq!(size_of::<Option<Entry>>(), size_of::<usize>());
        assert_eq!((Entry::OVERHEAD, Entry::OVERHEAD + 16 + 64), (40, 120));
        for value in [None, Some(&b""[..]), Some(b"value")] {
            for key in [&b""[..], b"key"] {
                let version = Version { stamp: Stamp::from_bits(7), origin: origin(2, u64::MAX) };
                let entry = Entry::new(key, value, Some(Expiry::from_wall_ms(9)), version);
                assert_eq!((entry.key(), entry.value(), entry.version()), (key, value, version));
                assert_eq!(entry.ends().is_some(), value.is_some());
                assert_eq!((&*entry.shared_key(), entry.shared_value().as_deref()), (key, value));
                if let Some(shared) = entry.shared_value() {
                    let half = shared.len() / 2;
                    let (first, rest) = (shared.slice(0..half), shared.slice(half..shared.len()));
                    assert_eq!((&*first, &*rest), shared.split_at(half));
                    assert_eq!(&*rest.slice(0..half), &shared[half..half + half]);
                    assert!(rest.entry().is(&entry) && !rest.entry().is(&entry.spent()));
                    assert_eq!(entry.holders(), 4);
                }
                assert_eq!(entry.holders(), 1);
                assert_eq!((entry.spent().key(), entry.spent().value(), entry.spent().expires()), (key, None, entry.expires()));
            }
        }
    }

    /// What somebody has been shown never changes: the effect is stamped where it lies only if nobody else holds it.
    #[test]
    fn an_effect_that_is_shared_is_copied_when_it_is_stamped() {
        let version = Version { stamp: Stamp::from_bits(7), origin: origin(2, 3) };
        for is_shared in [false, true] {
            let effect = Update::put(b"key", b"value", Some(Expiry::from_wall_ms(0)));
            let place = effect.entry().key().as_ptr();
            let shared = is_shared.then(|| effect.clone());
            let entry = effect.expiring(Some(Expiry::from_wall_ms(9))).stamped(version);
            assert_eq!(entry, Entry::new(b"key", Some(b"value"), Some(Expiry::from_wall_ms(9)), version));
            assert_eq!(entry.key().as_ptr() == place, !is_shared);
            assert!(shared.is_none_or(|shared| shared == Update::put(b"key", b"value", Some(Expiry::from_wall_ms(0)))));
        }
    }

    #[test]
    fn a_lifetime_is_given_and_taken() {
        let endless = || Update::put(b"key", b"value", None);
        let until = |wall_ms| Update::put(b"key", b"value", Some(Expiry::from_wall_ms(wall_ms)));
        for before in [endless(), until(9)] {
            for after in [endless(), until(8)] {
                let expires = after.entry().expires();
                assert_eq!(before.clone().expiring(expires), after);
                assert_eq!(before.clone().unshared().expiring(expires).unshared(), after);
            }
        }
        let spent = until(9).stamped(Version::NONE).spent();
        assert_eq!((spent.size(), spent.memory(), spent.expires().map(Expiry::wall_ms)), (3, Entry::OVERHEAD + 3 + 8, Some(9)));
        assert_eq!(Update::again(&spent).entry().expires(), None);
        // In place only where neither expires, and both are as long.
        let mut entry = endless().stamped(Version::NONE);
        let by = |value, expires| EntryRef { key: b"key", value, expires, version: Version::NONE };
        for not in [by(None, None), by(Some(b"longer"), None), by(Some(b"other"), Some(Expiry::from_wall_ms(7)))] {
            assert!(!entry.overwrite(not));
        }
        assert!(!until(9).stamped(Version::NONE).overwrite(by(Some(b"other"), None)));
        assert!(entry.overwrite(by(Some(b"other"), None)));
        assert_eq!((entry.value(), entry.expires()), (Some(&b"other"[..]), None));
    }
}
