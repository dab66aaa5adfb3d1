//! The kit for tests on real processes, shared by the integration tests and by kvtorture.
//!
//! Both include this folder as a module. Functions that only one of them needs stand there, and may
//! extend the types of the kit. Nothing here uses a dev-dependency, which a program cannot have.

pub mod backup;
pub mod client;
pub mod cluster;
pub mod process;
pub mod proxy;
pub mod resp;
pub mod wait;
