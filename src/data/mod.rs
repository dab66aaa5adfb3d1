//! Pure values that everything else is built on: clocks and stamps, keys, entries and their
//! versions, version vectors, the order of keys.
//!
//! No I/O, no lock that a caller could see, no clock of its own: time is an argument.

pub mod clock;
pub mod entry;
pub mod formats;
pub mod fsync;
pub mod key_order;
pub mod progress;
pub mod version;
