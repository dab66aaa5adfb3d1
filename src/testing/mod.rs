//! Test seams of the product, compiled only with the feature `testing`: switches that break one rule each, a process that dies at a chosen file operation, a disk that
//! forgets, clients without sockets. Without the feature what is left of it costs nothing. The instruments that use it lie under `tests/`.

#![allow(clippy::disallowed_methods, clippy::panic, clippy::print_stderr, reason = "for tests alone")]

pub mod broken_rules;
pub mod failpoint;

#[cfg(feature = "testing")]
pub mod simulated_clients;
#[cfg(feature = "testing")]
pub mod simulated_disk;
