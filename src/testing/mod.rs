//! Test seams of the product: switches that break one rule each, a process that dies at a chosen
//! file operation, a disk that forgets, nodes and clients without sockets.
//!
//! Compiled only with the feature `testing`. Without it the little that is left costs nothing. The
//! instruments that use the seams lie under `tests/`.

#![allow(clippy::disallowed_methods, clippy::panic, clippy::print_stderr, reason = "for tests alone")]

pub mod broken_hand_overs;
pub mod broken_rules;
#[cfg(test)]
pub mod entries;
pub mod failpoint;
#[cfg(all(test, feature = "interleavings"))]
pub mod interleavings;

#[cfg(feature = "testing")]
pub mod simulated_clients;
#[cfg(feature = "testing")]
pub mod simulated_disk;
#[cfg(feature = "testing")]
pub mod simulated_node;
#[cfg(feature = "testing")]
pub mod wait;
