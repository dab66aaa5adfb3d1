//! Entries: what the mesh stores. Keys, values, and the versions and expiries that go with them.
//!
//! Pure values. Never touches time, sockets or the map that entries live in.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter;
use std::num::NonZeroU64;
use std::ops::{Deref, Range};

use prefetch_index::prefetch_index;
use triomphe::{HeaderSliceWithLengthProtected, ThinArc};

use crate::data::clock::Stamp;
use crate::data::version::{NodeId, Origin, Version};

/// The time at which an entry expires: milliseconds since 1970, by the wall clock of the node that
/// reads it. A part of the write, so that every node agrees on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry(NonZeroU64);

impl Expiry {
    /// Makes an expiry. The first millisecond of 1970 is the earliest.
    pub fn from_wall_ms(wall_ms: u64) -> Expiry {
        Expiry(NonZeroU64::new(wall_ms).unwrap_or(NonZeroU64::MIN))
    }

    pub const fn wall_ms(self) -> u64 {
        self.0.get()
    }

    /// Returns whether the time has come.
    pub const fn is_over(self, wall_ms: u64) -> bool {
        self.wall_ms() <= wall_ms
    }
}

/// One register: a key and the newest thing known about it.
///
/// One allocation, which the map, the channel, dumps and replies share, and which never changes
/// while it is shared. It holds a head, the key, the value, and the expiry, if there is one. So 16
/// bytes of key and 64 of value take 120, and the tombstone of a delete takes 40 beside its key.
#[derive(Clone)]
pub struct Entry(ThinArc<EntryHead, u8>);

/// The fields in front of the bytes. One by one, since a [`Version`] has padding.
#[derive(Clone, Copy)]
struct EntryHead {
    stamp: Stamp,
    nonce: u64,
    key_len: u32,
    node: NodeId,
    has_value: bool,
    /// An expiry follows key and value. Most entries have none.
    has_expiry: bool,
}

/// Bytes of an expiry, which follow those of key and value: milliseconds since 1970, little-endian.
const EXPIRY_LEN: usize = size_of::<Expiry>();

/// Bytes that the processor loads at a time.
const CACHE_LINE_LEN: usize = 64;
/// So many hold the head, a key and a small value, wherever in its first line the head begins. The
/// last of them is waited for when the value is overwritten: with two, that was two thirds of the
/// time in which a peer merges a batch.
const PREFETCHED_LINES: usize = 3;

impl EntryHead {
    fn set_version(&mut self, version: Version) {
        let Version { stamp, origin: Origin { node, nonce } } = version;
        (self.stamp, self.node, self.nonce) = (stamp, node, nonce);
    }
}

impl Entry {
    /// Bytes of an entry beside those of key, value and expiry: reference count, head, and length.
    pub const OVERHEAD: usize = size_of::<usize>() + size_of::<EntryHead>() + size_of::<usize>();

    /// Makes an entry of copies of key and value. Together they must be shorter than 4 GiB; every
    /// configuration bounds them far below.
    pub fn new(key: &[u8], value: Option<&[u8]>, expires: Option<Expiry>, version: Version) -> Entry {
        let Version { stamp, origin: Origin { node, nonce } } = version;
        let key_len = u32::try_from(key.len()).expect("keys are shorter than 4 GiB");
        let head = EntryHead { stamp, nonce, key_len, node, has_value: value.is_some(), has_expiry: expires.is_some() };
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

    /// Returns the key, sharing the allocation of the entry.
    pub fn shared_key(&self) -> Key {
        SharedBytes { entry: self.clone(), start: 0, end: self.head().key_len }
    }

    /// Returns the value. `None` is a tombstone: the key was deleted at this version, or its value
    /// has expired and was dropped.
    pub fn value(&self) -> Option<&[u8]> {
        self.head().has_value.then(|| &self.0.slice[self.head().key_len as usize..self.size()])
    }

    /// Returns the value, sharing the allocation of the entry.
    pub fn shared_value(&self) -> Option<Value> {
        self.head().has_value.then(|| {
            let end = u32::try_from(self.size()).expect("entries are shorter than 4 GiB");
            SharedBytes { entry: self.clone(), start: self.head().key_len, end }
        })
    }

    /// Returns the time at which the entry expires. From then on readers treat it as a tombstone.
    /// Later it becomes one in place, under the same version: that is no write, so it can supersede
    /// none.
    pub fn expires(&self) -> Option<Expiry> {
        if !self.head().has_expiry {
            return None;
        }
        self.0.slice.last_chunk().map(|bytes| Expiry::from_wall_ms(u64::from_le_bytes(*bytes)))
    }

    pub fn version(&self) -> Version {
        let EntryHead { stamp, nonce, node, .. } = *self.head();
        Version { stamp, origin: Origin { node, nonce } }
    }

    pub fn is_tombstone(&self) -> bool {
        !self.head().has_value
    }

    /// Returns when the value expires; `None` also for a tombstone, which has no value.
    pub fn ends(&self) -> Option<Expiry> {
        self.expires().filter(|_| !self.is_tombstone())
    }

    /// Returns whether readers find a value at this time. The time is asked for only if it matters.
    pub fn is_live(&self, wall_ms: impl FnOnce() -> u64) -> bool {
        !self.is_tombstone() && self.expires().is_none_or(|expires| !expires.is_over(wall_ms()))
    }

    /// Returns a copy without the value, which has expired: a tombstone of the same version.
    pub fn without_value(&self) -> Entry {
        Entry::new(self.key(), None, self.expires(), self.version())
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.0.slice.len() - if self.head().has_expiry { EXPIRY_LEN } else { 0 }
    }

    /// Bytes of the allocation.
    pub fn memory(&self) -> usize {
        Entry::OVERHEAD + self.0.slice.len()
    }

    /// Returns how many handles share the allocation, about: others may come and go meanwhile.
    pub fn holders(&self) -> usize {
        self.0.with_arc(triomphe::Arc::strong_count)
    }

    /// Returns whether the two share one allocation.
    pub fn is(&self, other: &Entry) -> bool {
        std::ptr::eq(self.0.slice.as_ptr(), other.0.slice.as_ptr())
    }

    /// Takes over the value, its expiry and the version of another entry of the same key, in place.
    /// Returns whether it did: only if both are values of equal length, of which both expire or
    /// neither, and this entry is not shared.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        let EntryRef { key, value, expires, version } = by;
        debug_assert_eq!(self.key(), key);
        let EntryHead { has_value, has_expiry, .. } = *self.head();
        let Some(value) = value.filter(|_| has_value && has_expiry == expires.is_some() && self.size() == by.size()) else { return false };
        with_own(&mut self.0, |own| {
            own.header_mut().set_version(version);
            let (value_bytes, rest) = own.slice_mut()[key.len()..].split_at_mut(value.len());
            value_bytes.copy_from_slice(value);
            put_expiry(rest, expires);
        })
    }

    /// Asks the processor for the head of the entry and what lies beside it, and waits for nothing.
    #[inline]
    pub fn prefetch(&self) {
        /// The place that addresses are counted from, as the crate takes an index. Never read.
        static ANYWHERE: [u8; 1] = [0];
        let index = (self.0.heap_ptr() as usize).wrapping_sub(ANYWHERE.as_ptr() as usize);
        for line in 0..PREFETCHED_LINES {
            prefetch_index(ANYWHERE.as_slice(), index.wrapping_add(line * CACHE_LINE_LEN));
        }
    }

    fn head(&self) -> &EntryHead {
        &self.0.header.header
    }

    /// Returns the entry with a changed head. It is copied only if it is shared.
    fn with_head(mut self, change: impl Fn(&mut EntryHead)) -> Entry {
        if with_own(&mut self.0, |own| change(own.header_mut())) {
            return self;
        }
        let mut head = *self.head();
        change(&mut head);
        Entry(ThinArc::from_header_and_slice(head, &self.0.slice))
    }
}

/// Writes the expiry, if there is one, into bytes that are just long enough.
fn put_expiry(bytes: &mut [u8], expires: Option<Expiry>) {
    if let Some(expires) = expires {
        bytes.copy_from_slice(&expires.wall_ms().to_le_bytes());
    }
}

/// Changes an entry that is not shared. Returns whether it did.
fn with_own(entry: &mut ThinArc<EntryHead, u8>, change: impl FnOnce(&mut HeaderSliceWithLengthProtected<EntryHead, u8>)) -> bool {
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

/// The effect of a write (**I3**): a value, which may expire, or a delete. An entry that has no
/// version yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update(Entry);

impl Update {
    /// Makes the update that stores a value. Copies key and value.
    pub fn put(key: &[u8], value: &[u8], expires: Option<Expiry>) -> Update {
        Update(Entry::new(key, Some(value), expires, Version::NONE))
    }

    pub fn delete(key: &[u8]) -> Update {
        Update(Entry::new(key, None, None, Version::NONE))
    }

    /// Makes the update that writes the state of an entry once more.
    pub fn again(entry: &Entry) -> Update {
        Update(Entry::clone(entry)).expiring(entry.ends())
    }

    /// Returns the update with this expiry in the place of its own. Copied if it is shared, or has
    /// no room for it.
    pub fn expiring(self, expires: Option<Expiry>) -> Update {
        let Update(mut entry) = self;
        let is_as_long = entry.head().has_expiry == expires.is_some();
        let put = |own: &mut HeaderSliceWithLengthProtected<EntryHead, u8>| {
            let end = own.slice().len() - if expires.is_some() { EXPIRY_LEN } else { 0 };
            put_expiry(&mut own.slice_mut()[end..], expires);
        };
        if is_as_long && (expires.is_none() || with_own(&mut entry.0, put)) {
            return Update(entry);
        }
        Update(Entry::new(entry.key(), entry.value(), expires, entry.version()))
    }

    /// Returns the update, copied if it is shared: stamping it copies nothing then.
    pub fn unshared(self) -> Update {
        Update(self.0.with_head(|_| ()))
    }

    pub fn is_delete(&self) -> bool {
        self.0.is_tombstone()
    }

    /// Returns the entry, whose version means nothing yet.
    pub fn entry(&self) -> &Entry {
        &self.0
    }

    /// Gives it its version: it is a write from now on.
    pub fn stamped(self, version: Version) -> Entry {
        self.0.with_head(|head| head.set_version(version))
    }
}

/// Bytes of an entry, sharing its allocation: its key, its value, or a part of either.
#[derive(Clone)]
pub struct SharedBytes {
    entry: Entry,
    /// Offset in the bytes of key and value.
    start: u32,
    end: u32,
}

impl SharedBytes {
    /// Returns some of the bytes, sharing the allocation likewise.
    pub fn slice(&self, range: Range<usize>) -> SharedBytes {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        SharedBytes { entry: self.entry.clone(), start: self.start + range.start as u32, end: self.start + range.end as u32 }
    }

    /// Returns the entry that it keeps in memory.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }
}

/// A key: any bytes, the empty key included.
pub type Key = SharedBytes;
/// A value: any bytes, the empty value included.
pub type Value = SharedBytes;

/// Makes a copy with an allocation of its own.
impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> SharedBytes {
        Entry::new(bytes, None, None, Version::NONE).shared_key()
    }
}

impl Deref for SharedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.entry.0.slice[self.start as usize..self.end as usize]
    }
}

impl Borrow<[u8]> for SharedBytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &SharedBytes) -> bool {
        **self == **other
    }
}

impl Eq for SharedBytes {}

impl PartialOrd for SharedBytes {
    fn partial_cmp(&self, other: &SharedBytes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SharedBytes {
    fn cmp(&self, other: &SharedBytes) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// Hashes the bytes alone, so that a map can be asked for them.
impl Hash for SharedBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for SharedBytes {
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
                    assert!(rest.entry().is(&entry) && !rest.entry().is(&entry.without_value()));
                    assert_eq!(entry.holders(), 4);
                }
                assert_eq!(entry.holders(), 1);
                assert_eq!(
                    (entry.without_value().key(), entry.without_value().value(), entry.without_value().expires()),
                    (key, None, entry.expires())
                );
            }
        }
    }

    /// An entry never changes once it is shared: the update is stamped in place only if it is not.
    #[test]
    fn an_update_that_is_shared_is_copied_when_it_is_stamped() {
        let version = Version { stamp: Stamp::from_bits(7), origin: origin(2, 3) };
        for is_shared in [false, true] {
            let update = Update::put(b"key", b"value", Some(Expiry::from_wall_ms(0)));
            let address = update.entry().key().as_ptr();
            let shared = is_shared.then(|| update.clone());
            let entry = update.expiring(Some(Expiry::from_wall_ms(9))).stamped(version);
            assert_eq!(entry, Entry::new(b"key", Some(b"value"), Some(Expiry::from_wall_ms(9)), version));
            assert_eq!(entry.key().as_ptr() == address, !is_shared);
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
        let expired = until(9).stamped(Version::NONE).without_value();
        assert_eq!((expired.size(), expired.memory(), expired.expires().map(Expiry::wall_ms)), (3, Entry::OVERHEAD + 3 + 8, Some(9)));
        assert_eq!(Update::again(&expired).entry().expires(), None);
        // In place only where both are as long, and expire, or neither does.
        let mut entry = endless().stamped(Version::NONE);
        let by = |value, expires| EntryRef { key: b"key", value, expires, version: Version::NONE };
        for not in [by(None, None), by(Some(b"longer"), None), by(Some(b"other"), Some(Expiry::from_wall_ms(7)))] {
            assert!(!entry.overwrite(not));
        }
        let mut expiring = until(9).stamped(Version::NONE);
        assert!(!expiring.overwrite(by(Some(b"other"), None)));
        assert!(expiring.overwrite(by(Some(b"other"), Some(Expiry::from_wall_ms(7)))));
        assert_eq!((expiring.value(), expiring.expires()), (Some(&b"other"[..]), Some(Expiry::from_wall_ms(7))));
        assert!(entry.overwrite(by(Some(b"other"), None)));
        assert_eq!((entry.value(), entry.expires()), (Some(&b"other"[..]), None));
    }
}
